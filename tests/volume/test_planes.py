"""An image of two axes is a volume of one plane, in every format that holds one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey, write_ome_zarr

Plane = npt.NDArray[Any]
PLANE = grey((40, 37))
library: Any = nib
THICKNESS = "is one plane and does not say how thick it is; the voxel size along y is taken"


def npy(path: Path, plane: Plane) -> None:
    np.save(path, plane)


def nifti(path: Path, plane: Plane) -> None:
    library.save(library.Nifti1Image(plane.T, np.eye(4)), path)


def tiff(path: Path, plane: Plane, **options: Any) -> None:
    tifffile.imwrite(path, plane, photometric=None if options.get("imagej") else "minisblack", **options)


def n5(path: Path, plane: Plane, **more: Any) -> None:
    """N5 has the axis that runs fastest first; the tensor is written transposed."""
    document = {
        "dimensions": list(plane.shape[::-1]), "blockSize": [16, 16], "dataType": plane.dtype.name,
        "compression": {"type": "gzip"}, **more,
    }  # fmt: skip
    write_n5_array(path, plane, document)


def pyramid(path: Path, plane: Plane, version: str = "0.5") -> None:
    write_ome_zarr(path, plane, axes="yx", scale=(0.7, 0.5), version=version)


WRITERS: dict[str, tuple[str, Callable[[Path, Plane], None]]] = {
    "npy": ("p.npy", npy),
    "fortran npy": ("p.npy", lambda path, plane: npy(path, np.asfortranarray(plane))),
    "tiff": ("p.tif", tiff),
    "tiled tiff": ("p.tif", lambda path, plane: tiff(path, plane, tile=(16, 16), compression="zlib")),
    "OME-TIFF": ("p.ome.tif", lambda path, plane: tiff(path, plane, ome=True, metadata={"axes": "YX"})),
    "ImageJ tiff": ("p.tif", lambda path, plane: tiff(path, plane, imagej=True)),
    "nifti": ("p.nii", nifti),
    "nifti gz": ("p.nii.gz", nifti),
    "png": ("p.png", lambda path, plane: Image.fromarray(plane).save(path)),
    "zarr 2": ("p.zarr", lambda path, plane: _zarr(path, plane, zarr_format=2)),
    "zarr 3": ("p.zarr", lambda path, plane: _zarr(path, plane, zarr_format=3)),
    "sharded zarr": ("p.zarr", lambda path, plane: _zarr(path, plane, shards=(32, 32))),
    "n5": ("p.n5", n5),
    "OME-Zarr 0.4": ("p.ome.zarr", lambda path, plane: pyramid(path, plane, "0.4")),
    "OME-Zarr 0.5": ("p.ome.zarr", pyramid),
}


def _zarr(path: Path, plane: Plane, **options: Any) -> None:
    zarr.create_array(path, data=plane, chunks=(16, 16), **options)


@pytest.mark.parametrize("name", WRITERS)
def test_an_image_is_a_volume_of_one_plane(tmp_path: Path, name: str) -> None:
    file, write = WRITERS[name]
    write(tmp_path / file, PLANE)
    volume = open_volume(str(tmp_path / file), voxel_size_um=(0.7, 0.5))
    assert (volume.shape, volume.dtype) == ((1, 40, 37), "uint16")
    assert volume.chunk_shape[0] == 1
    assert volume.voxel_size == VoxelSize((0.7, 0.7, 0.5))
    read = volume.read(volume.box)
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, PLANE[None])
    box = Box((0, 13, 5), (1, 35, 36))
    np.testing.assert_array_equal(volume.read(box), PLANE[None][box.slices])
    stored = volume.stored_objects()
    assert stored is not None
    assert stored[0] == len(volume.objects)
    assert volume.missing_chunks(volume.box) == 0
    assert fingerprint(volume) == fingerprint(open_volume(str(tmp_path / file)))


def test_axes_of_an_array_of_two_may_be_named_in_any_order(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "p.zarr", data=PLANE.T, chunks=(16, 16), dimension_names=("x", "y"))
    volume = open_volume(str(tmp_path / "p.zarr"))
    np.testing.assert_array_equal(volume.read(volume.box), PLANE[None])
    n5(tmp_path / "p.n5", PLANE.T, axes=["y", "x"])
    volume = open_volume(str(tmp_path / "p.n5"))
    np.testing.assert_array_equal(volume.read(volume.box), PLANE[None])


@pytest.mark.parametrize(
    ("metadata", "um", "told"),
    [
        ({"PhysicalSizeZ": 3.0, "PhysicalSizeY": 0.7, "PhysicalSizeX": 0.5}, (3.0, 0.7, 0.5), False),
        ({"PhysicalSizeY": 0.7, "PhysicalSizeX": 0.5}, (0.7, 0.7, 0.5), True),
        ({"PhysicalSizeY": 7, "PhysicalSizeYUnit": "nm", "PhysicalSizeX": 0.5}, (0.007, 0.007, 0.5), True),
        ({"PhysicalSizeX": 0.5}, None, False),
    ],
)
@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_the_size_of_an_ome_tiff_plane(
    tmp_path: Path, metadata: dict[str, Any], um: tuple[float, float, float] | None, axes: str, *, told: bool
) -> None:
    plane = PLANE if axes == "YX" else PLANE[None]
    tifffile.imwrite(tmp_path / "p.ome.tif", plane, ome=True, metadata={"axes": axes, **metadata})
    volume = open_volume(str(tmp_path / "p.ome.tif"))
    assert volume.shape == (1, 40, 37)
    assert volume.voxel_size == (VoxelSize(um) if um else None)
    assert any(THICKNESS in text for text in volume.warnings) == told


def test_the_size_of_an_imagej_plane(tmp_path: Path) -> None:
    tiff(tmp_path / "p.tif", PLANE, imagej=True, resolution=(2, 1 / 0.7), metadata={"unit": "um"})
    volume = open_volume(str(tmp_path / "p.tif"))
    assert volume.voxel_size == VoxelSize((0.7, 0.7, 0.5))
    assert THICKNESS in volume.warnings[0]


def test_the_size_and_place_of_an_ome_zarr_plane(tmp_path: Path) -> None:
    for version in ("0.4", "0.5"):
        pyramid(tmp_path / f"{version}.zarr", PLANE, version)
        volume = open_volume(str(tmp_path / f"{version}.zarr"))
        assert volume.voxel_size == VoxelSize((0.7, 0.7, 0.5))
        assert THICKNESS in volume.warnings[0]
        assert volume.origin_um[0] == 0
    for axes in ("tcyx", "cyx"):
        plane = PLANE.reshape([1] * (len(axes) - 2) + [40, 37])
        write_ome_zarr(tmp_path / f"{axes}.zarr", plane, axes=axes, scale=(1,) * (len(axes) - 2) + (0.7, 0.5))
        volume = open_volume(str(tmp_path / f"{axes}.zarr"))
        assert volume.voxel_size == VoxelSize((0.7, 0.7, 0.5))
        np.testing.assert_array_equal(volume.read(volume.box), PLANE[None])


def test_the_size_of_an_n5_plane(tmp_path: Path) -> None:
    n5(tmp_path / "p.n5", PLANE, resolution=[0.5, 0.7], units=["um", "um"])
    volume = open_volume(str(tmp_path / "p.n5"))
    assert volume.voxel_size == VoxelSize((0.7, 0.7, 0.5))
    assert THICKNESS in volume.warnings[0]
    document = json.loads((tmp_path / "p.n5" / "attributes.json").read_text())
    (tmp_path / "p.n5" / "attributes.json").write_text(json.dumps(document | {"units": ["nm", "um"]}))
    assert open_volume(str(tmp_path / "p.n5")).voxel_size == VoxelSize((0.7, 0.7, 0.0005))


@pytest.mark.parametrize("shape", [(7, 10, 13), (2, 40, 37)])
def test_two_lengths_are_for_one_plane(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "v.npy", grey(shape))
    with pytest.raises(InputError, match=rf"has {shape[0]} planes, so its voxel size has one value or three"):
        open_volume(str(tmp_path / "v.npy"), voxel_size_um=(0.7, 0.5))


INDEX = grey((40, 37), "uint8") % 7


def palette(path: Path) -> Plane:
    """Labels under colours of which no two are the same grey."""
    image = Image.fromarray(INDEX).convert("P")
    image.putdata(INDEX.ravel().tolist())
    image.putpalette([channel for n in range(7) for channel in (255 - 30 * n, 20 * n, 7 * n)])
    image.save(path)
    return INDEX


def pixels(path: Path, values: Plane) -> Plane:
    Image.fromarray(values).save(path)
    return values


@pytest.mark.parametrize(
    ("suffix", "write", "dtype"),
    [
        (".png", palette, "uint8"),
        (".bmp", palette, "uint8"),
        (".PNG", lambda path: pixels(path, grey((40, 37), "uint8")), "uint8"),
        (".bmp", lambda path: pixels(path, grey((40, 37), "uint8")), "uint8"),
        (".png", lambda path: pixels(path, grey((40, 37)) * 61), "uint16"),
        (".png", lambda path: pixels(path, grey((40, 37), "bool")), "bool"),
        (".bmp", lambda path: pixels(path, grey((40, 37), "bool")), "bool"),
    ],
)
def test_pictures(tmp_path: Path, suffix: str, write: Callable[[Path], Plane], dtype: str) -> None:
    expected = write(tmp_path / f"p{suffix}")
    volume = open_volume(str(tmp_path / f"p{suffix}"))
    assert (volume.shape, volume.dtype, volume.voxel_size) == ((1, 40, 37), dtype, None)
    for _ in range(2):  # the file stays open
        np.testing.assert_array_equal(volume.read(volume.box), expected[None])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_pictures_in_colour_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 5)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match=rf"c\.png holds {mode} pixels, several values each; one grey value or label"):
        open_volume(str(tmp_path / "c.png"))


def test_pictures_that_are_none_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"p\.png is not a readable PNG picture"):
        open_volume(str(tmp_path / "p.png"))
    pixels(tmp_path / "q.png", np.random.default_rng(0).integers(0, 255, (300, 300), "uint8"))
    content = bytearray((tmp_path / "q.png").read_bytes())
    (tmp_path / "q.png").write_bytes(content[:40_000])
    with pytest.raises(StorageError, match=r"q\.png: the voxels .* cannot be read"):
        open_volume(str(tmp_path / "q.png")).read(Box((0, 0, 0), (1, 300, 300)))
    content[50_000] ^= 255
    (tmp_path / "r.png").write_bytes(content)
    with pytest.raises(StorageError, match=r"r\.png: the voxels .* cannot be read"):
        open_volume(str(tmp_path / "r.png")).read(Box((0, 0, 0), (1, 300, 300)))
