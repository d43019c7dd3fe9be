"""TIFF in layouts that tifffile takes for several images, with depth in its tiles, and in several files."""

from __future__ import annotations

import gc
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import open_volume
from tests.volume.servers import web_server
from tests.volume.stores import grey

VOXELS = grey((12, 17, 23))
BOX = Box((1, 2, 3), (11, 16, 20))


def write_pages(path: Path, pages: list[tuple[npt.NDArray[Any], dict[str, Any]]]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for page, options in pages:
            file.write(page, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        lambda z: {"compression": "zlib" if z % 2 else None, "metadata": None},
        lambda z: {"compression": "zlib" if z % 2 else None},
        lambda z: {"rowsperstrip": 17 if z else 4, "metadata": None},
        lambda z: {"tile": (16, 16) if z > 5 else None, "metadata": None},
        lambda z: {"compression": ("lzw", "zstd", None)[z % 3], "predictor": z % 3 == 0, "metadata": None},
    ],
    ids=["compression in turn", "compression in turn, described", "rows in a strip", "tiles at the end", "three"],
)
def test_pages_that_are_stored_differently_are_one_volume(tmp_path: Path, options: Any) -> None:
    volume = open_volume(str(write_pages(tmp_path / "m.tif", [(VOXELS[z], options(z)) for z in range(12)])))
    assert (volume.shape, volume.dtype) == (VOXELS.shape, "uint16")
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    np.testing.assert_array_equal(volume.read(BOX), VOXELS[BOX.slices])


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([(VOXELS[:6], {}), (VOXELS[6:], {})], r"holds 2 images \(6 × 17 × 23 uint16, 6 × 17 × 23 uint16\)"),
        ([(VOXELS[:6], {}), (VOXELS[6:].astype("f4"), {})], r"holds 2 images \(.*uint16, .*float32\)"),
        ([(VOXELS, {}), (VOXELS[0, ::2, ::2], {"subfiletype": 1})], r"holds 2 images \(12 × 17 × 23 uint16, 9 × 12 "),
        (
            [(VOXELS, {"metadata": None}), (VOXELS[0], {"metadata": None, "compression": "zlib", "subfiletype": 1})],
            "2 im",
        ),
    ],
)
def test_other_images_in_one_file_are_told(
    tmp_path: Path, pages: list[tuple[npt.NDArray[Any], dict[str, Any]]], words: str
) -> None:
    with pytest.raises(InputError, match=rf"{words}.*store the volume in a file of its own"):
        open_volume(str(write_pages(tmp_path / "m.tif", pages)))


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (4, 16, 16), "compression": "zlib"},
        {"tile": (16, 16, 16)},
        {"tile": (1, 16, 16), "compression": "lzw", "predictor": True},
        {"tile": (5, 32, 16), "compression": "zstd", "byteorder": ">"},
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_tiles_with_depth(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    if options.get("predictor") and dtype == "float32":
        options = options | {"predictor": 3}
    if options["tile"][0] == 5:
        options = options | {"tile": (16, 32, 16)}
    voxels = VOXELS.astype(dtype)
    tifffile.imwrite(tmp_path / "v.tif", voxels, volumetric=True, photometric="minisblack", **options)
    volume = open_volume(str(tmp_path / "v.tif"))
    assert (volume.shape, volume.dtype) == (VOXELS.shape, dtype)
    np.testing.assert_array_equal(volume.read(volume.box), voxels)
    for box in (BOX, Box((3, 0, 15), (5, 17, 18)), Box((11, 16, 22), (12, 17, 23))):
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])


def write_ome_files(folder: Path, planes: list[int], *, size: bool = True) -> list[Path]:
    """An OME-TIFF in files of so many planes each, as Micro-Manager (4 GB parts) and Bio-Formats write it."""
    names = [f"part{index}.ome.tif" for index in range(len(planes))]
    marks = [uuid.uuid4().urn for _ in names]
    data, z = "", 0
    for name, mark, count in zip(names, marks, planes, strict=True):
        for ifd in range(count):
            data += (
                f'<TiffData FirstZ="{z}" IFD="{ifd}" PlaneCount="1"><UUID FileName="{name}">{mark}</UUID></TiffData>'
            )
            z += 1
    stated = 'PhysicalSizeX="0.5" PhysicalSizeY="0.7" PhysicalSizeZ="3"' if size else ""
    z = 0
    for name, mark, count in zip(names, marks, planes, strict=True):
        text = (
            f'<OME UUID="{mark}"><Image ID="Image:0"><Pixels'
            f' ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="23" SizeY="17" SizeZ="{sum(planes)}" SizeC="1"'
            f' SizeT="1" {stated}><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / name, VOXELS[z : z + count], description=text, metadata=None)
        z += count
    assert (tifffile.imread(folder / names[0]) == VOXELS).all()  # which finds the others beside it
    return [folder / name for name in names]


@pytest.mark.parametrize("planes", [[6, 6], [5, 5, 2], [1] * 12])
def test_an_ome_tiff_in_several_files_is_read_by_any_of_them(tmp_path: Path, planes: list[int]) -> None:
    for part in write_ome_files(tmp_path, planes):
        volume = pickle.loads(pickle.dumps(open_volume(str(part))))
        assert (volume.shape, volume.voxel_size, volume.warnings) == (VOXELS.shape, VoxelSize((3, 0.7, 0.5)), ())
        assert volume.format == f"OME-TIFF in {len(planes)} files"
        np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
        np.testing.assert_array_equal(volume.read(BOX), VOXELS[BOX.slices])
        assert volume.stored_objects() == (1, sum(path.stat().st_size for path in tmp_path.iterdir()))


def test_an_ome_tiff_whose_files_are_not_all_there_says_so_at_opening(tmp_path: Path) -> None:
    first, second = write_ome_files(tmp_path, [7, 5])
    volume = open_volume(str(first))
    second.rename(tmp_path / "elsewhere.tif")
    said = r"part0.ome.tif is one of 2 files of an OME-TIFF, and 5 of 12 planes lie in others \(part1.ome.tif\); all"
    with pytest.raises(InputError, match=said):
        open_volume(str(first))
    with pytest.raises(StorageError, match="one of the files of this OME-TIFF is missing or changed"):
        volume.read(volume.box)
    with (
        web_server(tmp_path) as server,
        pytest.raises(InputError, match="must lie in one folder of this machine"),
    ):
        open_volume(f"{server.url}/part0.ome.tif")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tifffile leaves damaged files open
def test_a_file_of_an_ome_tiff_that_changes_is_told(tmp_path: Path) -> None:
    first, second = write_ome_files(tmp_path, [6, 6])
    volume, marks = open_volume(str(first)), []
    marks.append(fingerprint(volume).as_json())
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(StorageError, match="is missing or changed since it was opened"):
        volume.read(volume.box)
    with pytest.raises(
        InputError, match=r"OME-TIFF that cannot be read .*; one of its files may be cut off or damaged"
    ):
        open_volume(str(first))
    write_ome_files(tmp_path, [6, 6])
    again = open_volume(str(first))
    assert fingerprint(again).as_json() not in marks
    damage = second.read_bytes().replace(VOXELS[8].tobytes(), b"")
    second.write_bytes(damage)
    with pytest.raises((InputError, StorageError), match="OME-TIFF"):
        again.read(again.box)
    gc.collect()  # what was left open is closed now, and not in another test


def slices_by(folder: Path, kind: str) -> Path:
    folder.mkdir()
    for z in range(12):
        name = folder / f"s_{z:03}.tif"
        if kind == "imagej":
            tifffile.imwrite(
                name, VOXELS[z], imagej=True, resolution=(2, 1 / 0.7), metadata={"unit": "um", "spacing": 3.0}
            )
        else:
            size = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.7, "PhysicalSizeYUnit": "µm"}
            metadata = {"axes": "YX", **size, "PhysicalSizeZ": 0.003, "PhysicalSizeZUnit": "mm"}
            tifffile.imwrite(name.with_suffix(".ome.tif"), VOXELS[z], metadata=metadata)
    return folder


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_slices_that_state_their_voxel_size(tmp_path: Path, kind: str) -> None:
    folder = slices_by(tmp_path / "s", kind)
    volume = open_volume(str(folder))
    assert (volume.voxel_size, volume.warnings) == (VoxelSize((3, 0.7, 0.5)), ())
    assert open_volume(str(folder), voxel_size_um=(1, 2, 3)).voxel_size == VoxelSize((1, 2, 3))
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    third = sorted(folder.iterdir())[2]
    tifffile.imwrite(third, VOXELS[2])  # says nothing, which is no contradiction
    assert (open_volume(str(folder)).voxel_size, open_volume(str(folder)).warnings) == (VoxelSize((3, 0.7, 0.5)), ())
    tifffile.imwrite(third, VOXELS[2], imagej=True, resolution=(1, 1), metadata={"unit": "um", "spacing": 3.0})
    (warning,) = open_volume(str(folder)).warnings
    first = min(folder.iterdir())
    said = f"{third.name} states another voxel size than the first slice, {first.name}: 3 × 0.7 × 0.5 µm count."
    assert warning.endswith(said)
    tifffile.imwrite(first, VOXELS[0])
    assert open_volume(str(folder)).voxel_size is None


def test_a_folder_of_an_ome_tiff_in_a_file_for_each_plane_keeps_its_voxel_size(tmp_path: Path) -> None:
    write_ome_files(tmp_path, [1] * 12)
    volume = open_volume(str(tmp_path))
    assert (volume.voxel_size, volume.warnings) == (VoxelSize((3, 0.7, 0.5)), ())
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    for part in tmp_path.iterdir():
        part.unlink()
    write_ome_files(tmp_path, [1] * 12, size=False)
    assert open_volume(str(tmp_path)).voxel_size is None
