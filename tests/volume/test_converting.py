"""Every source becomes the same OME-Zarr; progress, refusals and cleaning up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05.image import Image

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Index, VoxelSize
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.writing import reduce_by_two
from tests.volume.servers import web_server
from tests.volume.stores import grey, shared, write_ome_zarr
from workflows.convert_volume import convert, convert_bytes, default_block_shape, describe_volume, regions_of

nifti: Any = nib.Nifti1Image
SIZE = VoxelSize((3.0, 0.7, 0.7))


def converted(source: Path | str, target: Path, **options: Any) -> npt.NDArray[Any]:
    """The voxels after conversion, with the checks that hold for every source."""
    steps: list[tuple[str, int, int]] = []
    options.setdefault("block_shape", (8, 16, 16))
    multiscale = convert(str(source), target, report_progress=lambda *step: steps.append(step), **options)
    assert multiscale.path == target
    assert next(stage for stage, done, total in steps if done == total) == "volume"
    assert all(done == total for _, done, total in steps[-1:])
    assert not target.with_name(target.name + ".partial").exists()
    assert isinstance(open_ome_zarr(zarr.open_group(target, mode="r")), Image)
    volume = open_volume(str(target))
    voxels = volume.read(volume.box)
    level = voxels
    for n in range(1, len(multiscale.level_shapes)):
        level = reduce_by_two(level, multiscale.reducer)
        np.testing.assert_array_equal(multiscale.volume(n).read(multiscale.volume(n).box), level)
    return voxels


def slices(folder: Path, voxels: npt.NDArray[Any]) -> Path:
    folder.mkdir()
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"slice{z}.tif", plane)
    return folder


KINDS = ["npy", "fortran npy", "tiff", "compressed tiff", "slices", "zarr v2", "ome", "nii", "nii.gz"]
DTYPES = ["bool", "uint8", "int16", "float32", ">u2"]


@pytest.mark.parametrize(
    ("kind", "dtype"), [(k, d) for k in KINDS for d in DTYPES if not (k.startswith("nii") and d == "bool")]
)
def test_every_source(tmp_path: Path, kind: str, dtype: str) -> None:
    voxels = grey((19, 21, 33), dtype)
    source = tmp_path / f"v.{kind.rsplit(maxsplit=1)[-1]}"
    if kind.endswith("npy"):
        np.save(source, np.asfortranarray(voxels) if "fortran" in kind else voxels)
    elif kind.endswith("tiff"):
        tifffile.imwrite(source, voxels, compression="zlib" if "compressed" in kind else None, photometric="minisblack")
    elif kind == "slices":
        slices(source, voxels)
    elif kind == "zarr v2":
        zarr.create_array(source, data=voxels, chunks=(5, 9, 9), zarr_format=2)
    elif kind == "ome":
        write_ome_zarr(source, voxels)
    else:
        nib.save(nifti(voxels.T, np.diag([0.7, 0.7, 3.0, 1.0])), source)
    expected_dtype = np.dtype(dtype).newbyteorder("=")
    opened = open_volume(str(source))
    assert (opened.shape, opened.dtype) == (voxels.shape, expected_dtype.name)
    result = converted(source, tmp_path / "t.ome.zarr", voxel_size=SIZE)
    assert result.dtype == expected_dtype
    np.testing.assert_array_equal(result, voxels)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1000.0), ("micron", 1.0), ("meter", 1e6), (None, 1000.0)])
def test_nifti_spacing(tmp_path: Path, unit: str | None, factor: float) -> None:
    image = nifti(np.zeros((3, 4, 5, 1), np.uint8), np.diag([0.7, 0.8, -3.0, 1.0]))
    if unit:
        image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "v.nii.gz")
    source = open_volume(str(tmp_path / "v.nii.gz"))
    assert source.shape == (5, 4, 3)
    assert source.voxel_size is not None
    np.testing.assert_allclose(source.voxel_size.um, (3.0 * factor, 0.8 * factor, 0.7 * factor), rtol=1e-15)


def test_nifti_scaling(tmp_path: Path) -> None:
    voxels = grey((6, 5, 4), "int16")
    image = nifti(voxels.T, np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    nib.save(image, tmp_path / "v.nii")
    result = converted(tmp_path / "v.nii", tmp_path / "t.ome.zarr")
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, 0.5 * voxels - 3)


def test_tiff_voxel_sizes(tmp_path: Path) -> None:
    voxels = grey((5, 6, 7), "uint8")
    ome, imagej, bare = (tmp_path / name for name in ("a.ome.tif", "b.tif", "c.tif"))
    sizes = {"PhysicalSizeX": 0.7, "PhysicalSizeY": 0.8, "PhysicalSizeZ": 0.003, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(ome, voxels, ome=True, metadata={"axes": "ZYX", **sizes})
    tifffile.imwrite(
        imagej,
        voxels,
        imagej=True,
        resolution=(1 / 0.7, 1 / 0.8),
        metadata={"axes": "ZYX", "spacing": 3.0, "unit": "um"},
    )
    tifffile.imwrite(bare, voxels, photometric="minisblack", resolution=(300, 300))
    assert open_volume(str(ome)).voxel_size == VoxelSize((3.0, 0.8, 0.7))
    assert open_volume(str(imagej)).voxel_size == VoxelSize((3.0, 0.8, 0.7))
    assert open_volume(str(bare)).voxel_size is None


def test_labels_and_masks(tmp_path: Path) -> None:
    labels = grey((70, 20, 20), "uint8") % 3
    np.save(tmp_path / "labels.npy", labels)
    converted(tmp_path / "labels.npy", tmp_path / "a.ome.zarr", voxel_size=SIZE, kind="labels")
    np.save(tmp_path / "mask.npy", labels > 1)
    converted(tmp_path / "mask.npy", tmp_path / "b.ome.zarr", voxel_size=SIZE, kind="labels")
    reducers = [
        json.loads((tmp_path / name / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["type"]
        for name in ("a.ome.zarr", "b.ome.zarr")
    ]
    assert reducers == ["mode", "any"]


def refused(source: Path, target: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        convert(str(source), target, **options)
    assert not target.exists()
    return str(caught.value)


def test_refusals(tmp_path: Path) -> None:
    target = tmp_path / "t.ome.zarr"
    np.save(tmp_path / "line.npy", grey((4,)))
    np.save(tmp_path / "v.npy", grey(dtype="float32"))
    (tmp_path / "v.dat").write_bytes(b"123")
    (tmp_path / "broken.tif").write_bytes(b"123")
    tifffile.imwrite(tmp_path / "colour.tif", grey((4, 5, 6, 3), "uint8"), photometric="rgb")
    (tmp_path / "empty").mkdir()
    assert "states no voxel size; give it with --voxel-size-um" in refused(tmp_path / "v.npy", target)
    assert "has the shape (4,); a volume has three axes" in refused(tmp_path / "line.npy", target)
    assert "a grey volume Z, Y, X is needed" in refused(tmp_path / "colour.tif", target)
    assert "is a file of no known kind" in refused(tmp_path / "v.dat", target)
    assert "not a readable TIFF" in refused(tmp_path / "broken.tif", target)
    assert "does not exist" in refused(tmp_path / "nothing.tif", target)
    assert "is a folder without a volume (it holds nothing)" in refused(tmp_path / "empty", target)
    np.save(tmp_path / "v.npy", grey(dtype="float32") + 0.5)
    assert "which is no label" in refused(tmp_path / "v.npy", target, voxel_size=SIZE, kind="labels")


def test_existing_targets_and_drafts(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", grey())
    for name, words in (("t.ome.zarr", "exists already"), ("u.ome.zarr.partial", "another conversion is writing it")):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=words):
            convert(str(tmp_path / "v.npy"), tmp_path / name.removesuffix(".partial"), voxel_size=SIZE)
        assert (tmp_path / name).is_dir()


def test_slices_must_agree(tmp_path: Path) -> None:
    folder = slices(tmp_path / "s", grey((12, 5, 6)))
    tifffile.imwrite(folder / "slice10.tif", grey((5, 7)))
    assert f"{folder}/slice10.tif is (5, 7) uint16, but the first slice slice0.tif is (5, 6)" in refused(
        folder, tmp_path / "t.ome.zarr"
    )
    tifffile.imwrite(folder / "slice10.tif", grey((5, 6), "uint8"))
    assert "slice10.tif is (5, 6) uint8" in refused(folder, tmp_path / "t.ome.zarr")


@pytest.mark.parametrize("kind", ["nii.gz", "slices"])
def test_a_source_that_breaks_off(tmp_path: Path, kind: str) -> None:
    source = tmp_path / f"v.{kind}"
    voxels = grey((40, 50, 60))
    if kind == "slices":
        slices(source, voxels)
        broken = source / "slice30.tif"
        # The header stays readable; the compressed voxels do not.
        tifffile.imwrite(broken, voxels[30], compression="zlib")
        content = bytearray(broken.read_bytes())
        content[-1000:] = bytes(1000)
        broken.write_bytes(content)
    else:
        nib.save(nifti(voxels.T, np.eye(4)), source)
        source.write_bytes(source.read_bytes()[:-20000])
    target = tmp_path / "t.ome.zarr"
    with pytest.raises(StorageError, match=r"slice30\.tif cannot be read|v\.nii\.gz: .* \(it is cut off after"):
        convert(str(source), target, voxel_size=SIZE, block_shape=(16, 16, 16))
    assert not list(tmp_path.glob("t.ome.zarr*"))


def test_compressed_nifti_is_read_once(tmp_path: Path) -> None:
    """Every plane by a new pass through the file would take the square of the time."""
    voxels = grey((200, 150, 160))
    nib.save(nifti(voxels.T, np.eye(4)), tmp_path / "v.nii.gz")
    size = (tmp_path / "v.nii.gz").stat().st_size
    assert size > 4 * 2**20  # several reads
    with web_server(tmp_path) as server:
        result = converted(f"{server.url}/v.nii.gz", tmp_path / "t.ome.zarr", block_shape=(40, 64, 64))
        np.testing.assert_array_equal(result, voxels)
        assert server.sent < 1.1 * size


def large(tmp_path: Path, shape: Index, chunks: Index) -> Volume:
    """An array without any chunk."""
    zarr.create_array(tmp_path / f"{chunks}.zarr", shape=shape, chunks=chunks, dtype="u2")
    return open_volume(str(tmp_path / f"{chunks}.zarr"))


@pytest.mark.parametrize(
    ("chunks", "block", "region"),
    [
        ((128, 128, 128), (256, 256, 256), (256, 256, 256)),
        ((100, 100, 100), (200, 200, 200), (200, 200, 200)),
        ((300, 40, 7), (256, 240, 256), (512, 240, 256)),
        ((1, 3835, 3835), (32, 256, 256), (32, 3835, 3835)),  # planes
        ((1, 4, 3835), (256, 256, 256), (256, 256, 3835)),  # lines
        ((8890, 1, 1), (256, 256, 256), (8890, 256, 256)),  # as Fortran writes, and the one that is no smaller
    ],
)
def test_blocks_and_what_is_read_at_a_time(tmp_path: Path, chunks: Index, block: Index, region: Index) -> None:
    volume = large(tmp_path, (8890, 3835, 3835), chunks)
    assert default_block_shape(volume) == block
    assert regions_of(volume, block).box((0, 0, 0)).shape == region
    if chunks[0] < 8890:
        assert math.prod(region) * 2 <= 2**30


def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    """Of chunks in three directions, a few blocks are held, however large the planes are."""
    volumes = [large(tmp_path / str(side), (side, side, side), (128, 128, 128)) for side in (4000, 40_000)]
    small, huge = (convert_bytes(volume, default_block_shape(volume)) for volume in volumes)
    assert small == huge < 512 * 2**20


def test_bone_slices(tmp_path: Path) -> None:
    folder = shared("lhdl_trabecular_bone/slices")
    voxels = converted(folder, tmp_path / "bone.ome.zarr", voxel_size=VoxelSize((19.5,) * 3), block_shape=(128,) * 3)
    assert voxels.shape == (200, 200, 200)
    assert np.mean(voxels > 63) == pytest.approx(0.228, abs=0.0005)
    np.testing.assert_array_equal(voxels[150], tifffile.imread(folder / "3155_D_4_bc_0150.tif"))
    text = describe_volume(open_volume(str(tmp_path / "bone.ome.zarr")))
    assert "voxel size  19.5 × 19.5 × 19.5 µm (z, y, x)" in text
    assert "extent      3.9 × 3.9 × 3.9 mm (z, y, x)" in text
    assert "shards      8 of 8 stored" in text


@pytest.mark.parametrize("file", ["qim3d_microct/fly_150x256x256.tif", "cotton/random_test_volume.tif"])
def test_multi_page_tiff(tmp_path: Path, file: str) -> None:
    source = shared(file)
    voxels = converted(source, tmp_path / "t.ome.zarr", voxel_size=VoxelSize((1.0,) * 3), block_shape=(64, 128, 128))
    np.testing.assert_array_equal(voxels, tifffile.imread(source))


@pytest.mark.parametrize(
    ("file", "shape"), [("example_ct.nii.gz", (112, 101, 122)), ("example_seg.nii.gz", (30, 101, 122))]
)
def test_ct_in_nifti(tmp_path: Path, file: str, shape: Index) -> None:
    source = shared(f"totalsegmentator_ct/{file}")
    kind = "labels" if "seg" in file else "grey"
    voxels = converted(source, tmp_path / "t.ome.zarr", block_shape=(64, 64, 64), kind=kind)
    assert voxels.shape == shape
    image: Any = nib.load(source)
    np.testing.assert_array_equal(voxels, np.asarray(image.dataobj).T)
    volume = open_volume(str(tmp_path / "t.ome.zarr"))
    assert volume.voxel_size == VoxelSize((3000.0, 3000.0, 3000.0))
