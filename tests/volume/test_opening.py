"""Every kind of store gives the same voxels, sizes and identities, and what is no volume is refused in plain words."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume import volumes
from pipeline.volume.opening import Volume, open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey, refused, shared, write_ome_zarr


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "int64", "float32", ">u2"])
@pytest.mark.parametrize(("zarr_format", "sharded"), [(2, False), (3, False), (3, True)])
def test_bare_arrays(tmp_path: Path, dtype: str, zarr_format: Any, sharded: bool) -> None:
    voxels = grey(dtype=dtype)
    path = str(tmp_path / "bare.zarr")
    zarr.create_array(
        path, data=voxels, chunks=(2, 3, 4), shards=(4, 6, 8) if sharded else None, zarr_format=zarr_format
    )
    volume = open_volume(path)
    assert (volume.location, volume.array_path, volume.shape) == (path, "", voxels.shape)
    assert (volume.chunk_shape, volume.shard_shape) == ((2, 3, 4), (4, 6, 8) if sharded else None)
    assert (volume.voxel_size, volume.level, volume.level_count) == (None, 0, 1)
    assert volume.format == f"Zarr v{zarr_format} array"
    box = Box((1, 2, 0), (6, 9, 13))
    read = volume.read(box)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(read, voxels[box.slices])
    assert read.flags.c_contiguous


@pytest.mark.parametrize(("version", "sharded"), [("0.4", False), ("0.5", False), ("0.5", True)])
@pytest.mark.parametrize("level", [0, 1])
def test_ome_zarr(tmp_path: Path, version: str, sharded: bool, level: int) -> None:
    voxels = grey()
    path = str(tmp_path / "image.ome.zarr")
    write_ome_zarr(path, voxels, version=version, sharded=sharded)
    volume = open_volume(path, level=level)
    assert volume.format == f"OME-Zarr {version}"
    assert (volume.level, volume.level_count, volume.array_path) == (level, 2, str(level))
    assert volume.voxel_size == VoxelSize((3.0 * 2**level, 0.7 * 2**level, 0.7 * 2**level))
    np.testing.assert_array_equal(volume.read(volume.box), voxels[:: 2**level, :: 2**level, :: 2**level])
    assert open_volume(f"{path}/{level}/") == volume


@pytest.mark.parametrize("axes", ["xyz", "yzx", "tczyx", "cxyz"])
def test_axes_in_any_stored_order(tmp_path: Path, axes: str) -> None:
    voxels = grey()
    spatial = [axis for axis in axes if axis in "zyx"]
    stored = voxels.transpose(["zyx".index(axis) for axis in spatial])
    stored = stored.reshape((1,) * (len(axes) - 3) + stored.shape)
    spacing = {"z": 3.0, "y": 2.0, "x": 1.5}
    scale = tuple(spacing.get(axis, 1.0) for axis in axes)
    write_ome_zarr(tmp_path / "i.zarr", stored, axes=axes, scale=scale, version="0.4")
    volume = open_volume(str(tmp_path / "i.zarr"))
    assert volume.shape == voxels.shape
    assert volume.voxel_size == VoxelSize((3.0, 2.0, 1.5))
    box = Box((2, 0, 5), (7, 9, 11))
    np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
    assert volume.missing_chunks(volume.box) == 0
    with_zeros = Box((0, 0, 0), (4, 4, 4))
    (tmp_path / "i.zarr" / volume.object_key((0, 0, 0))).unlink()
    assert volume.missing_chunks(with_zeros) == 1
    assert not volume.read(with_zeros).any()


def test_metadata_of_the_human_organ_atlas(tmp_path: Path) -> None:
    """Axes x, y, z; the translation before the scale and in the wrong unit: only the scale counts."""
    recorded = shared("hoa_layout/A186/lung-right/24.132um_complete-organ_bm18.ome.zarr")
    store = tmp_path / "lung.ome.zarr"
    shutil.copytree(recorded, store, copy_function=shutil.copyfile)
    metadata = json.loads((store / "2" / ".zarray").read_text())
    assert metadata["shape"] == [2077, 2077, 2391]
    volume = open_volume(str(store), level=2)
    assert volume.shape == (2391, 2077, 2077)
    assert volume.voxel_size == VoxelSize((96.528, 96.528, 96.528))
    assert (volume.origin_um, volume.level_count) == ((0.0, 0.0, 0.0), 8)
    assert volume.warnings == (
        f"{store} has invalid OME-Zarr 0.4 metadata (a translation before the scale); only the scale counts.",
        f"{store}/2 has no stored chunk: every voxel reads as the fill value.",  # documents alone are recorded
    )
    assert volume.missing_chunks(Box((0, 0, 0), (128, 128, 256))) == 2


@pytest.mark.parametrize(
    ("unit", "um"), [("millimeter", 19.5), ("nanometer", 1.95e-5), ("meter", 19500), ("µm", 0.0195), ("mm", 19.5)]
)
def test_units(tmp_path: Path, unit: str, um: float) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey(), scale=(0.0195,) * 3, unit=unit)
    assert open_volume(str(tmp_path / "i.zarr")).voxel_size == VoxelSize((um, um, um))


def test_without_unit_there_is_no_voxel_size(tmp_path: Path) -> None:
    path = str(tmp_path / "i.zarr")
    write_ome_zarr(path, grey(), unit=None)
    assert open_volume(path).voxel_size is None
    assert open_volume(path, voxel_size_um=(3, 2, 2)).voxel_size == VoxelSize((3, 2, 2))


def test_unknown_unit(tmp_path: Path) -> None:
    path = str(tmp_path / "i.zarr")
    write_ome_zarr(path, grey(), unit="furlong")
    with pytest.raises(InputError, match=r"axis z in 'furlong', which is no unit of length.*--voxel-size-um"):
        open_volume(path)
    assert open_volume(path, voxel_size_um=(1, 1, 1)).voxel_size == VoxelSize((1, 1, 1))


def test_binary_noise_in_a_scale_is_no_voxel_size(tmp_path: Path) -> None:
    scale = (float(np.float32(0.7)), 0.1 + 0.2, 7.5)
    write_ome_zarr(tmp_path / "i.zarr", grey(), scale=scale)
    assert open_volume(str(tmp_path / "i.zarr")).voxel_size == VoxelSize((0.7, 0.3, 7.5))


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_urls(tmp_path: Path, scheme: str) -> None:
    voxels = grey()
    address = f"memory://{tmp_path.name}/i.ome.zarr" if scheme == "memory" else str(tmp_path / "i.ome.zarr")
    write_ome_zarr(address, voxels)
    url = address if scheme == "memory" else f"file://{address}"
    volume = open_volume(url, level=1)
    np.testing.assert_array_equal(volume.read(volume.box), voxels[::2, ::2, ::2])
    assert open_volume(f"{url}/1") == volume
    assert volume.missing_chunks(volume.box) == 0
    with pytest.raises(InputError):
        open_volume(f"{url}.nothing")


def test_pickled_volumes_read(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey())
    volume: Volume = pickle.loads(pickle.dumps(open_volume(str(tmp_path / "i.zarr"))))
    np.testing.assert_array_equal(volume.read(volume.box), grey())


def test_a_replaced_store_is_opened_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "i.zarr")
    for shape in ((7, 10, 13), (5, 6, 7)):
        write_ome_zarr(path, grey(shape))
        volume = open_volume(path)
        np.testing.assert_array_equal(volume.read(volume.box), grey(shape))


def test_boxes_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey((23, 10, 13)), sharded=True)
    volume = open_volume(str(tmp_path / "i.zarr"))
    monkeypatch.setattr(volumes, "PIECE_BYTES", 5 * 10 * 13 * 2)
    box = Box((3, 1, 0), (22, 10, 12))
    pieces = list(volume.pieces(box))
    assert [(piece.start[0], piece.stop[0]) for piece in pieces] == [
        (3, 4),
        (4, 8),
        (8, 12),
        (12, 16),
        (16, 20),
        (20, 22),
    ]
    np.testing.assert_array_equal(volume.read(box), grey((23, 10, 13))[box.slices])


def test_identity_ignores_attributes(tmp_path: Path) -> None:
    path = str(tmp_path / "i.zarr")
    write_ome_zarr(path, grey())
    before = open_volume(path).identity()
    zarr.open_array(path, path="0", mode="r+").attrs["note"] = "edited"
    assert open_volume(path).identity() == before
    json.dumps(before)
    write_ome_zarr(path, grey(), sharded=True)
    assert open_volume(path).identity() != before


@pytest.mark.parametrize("kind", ["ome-zarr", "n5"])
def test_identity_has_the_order_of_the_axes(tmp_path: Path, kind: str) -> None:
    """A cube is as large in any order, and its voxels are others."""
    path, voxels = tmp_path / kind, grey((8, 8, 8))
    if kind == "n5":
        document = {"dimensions": [8, 8, 8], "blockSize": [4, 4, 4], "dataType": "uint16", "axes": ["x", "y", "z"]}
        write_n5_array(path, voxels, {**document, "compression": {"type": "raw"}})
        attributes = path / "attributes.json"
    else:
        write_ome_zarr(path, voxels, version="0.4", scale=(3, 3, 3))
        attributes = path / ".zattrs"
    before = open_volume(str(path))
    document = json.loads(attributes.read_text())
    (document if kind == "n5" else document["multiscales"][0])["axes"].reverse()
    attributes.write_text(json.dumps(document))
    after = open_volume(str(path))
    np.testing.assert_array_equal(after.read(after.box), before.read(before.box).T)
    assert after.identity() != before.identity()


def test_refusals_say_what_is_there(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "i.zarr", grey())
    (tmp_path / "scan.dat").write_bytes(b"II*")
    zarr.create_group(tmp_path / "group.zarr").create_array("a", shape=(2, 2, 2), dtype="u1")
    assert f"{tmp_path} holds group.zarr, i.zarr, scan.dat" in refused(tmp_path / "image.zarr")
    assert "is a folder without a volume (it holds group.zarr" in refused(tmp_path)
    assert "is a file of no known kind; a volume is" in refused(tmp_path / "scan.dat")
    assert "no level 2; its levels are 0 to 1 (0, 1)" in refused(tmp_path / "i.zarr", level=2)
    assert "one array, so it has no level 1" in refused(tmp_path / "i.zarr" / "0", level=1)
    assert "it holds a: give one" in refused(tmp_path / "group.zarr")
    assert "Protocol not known" in refused("nonsense://x/y.zarr")


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((4,), "u1", "has 1 axes"),
        ((2, 4, 5, 6), "u1", "has 2 channels (0, 1); choose one with --channel."),
        ((0, 4, 5), "u1", "is empty"),
        ((3, 4, 5), "complex64", "bool, integer or float is needed"),
    ],
)
def test_arrays_that_are_no_volumes(tmp_path: Path, shape: tuple[int, ...], dtype: str, words: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype=dtype)
    assert words in refused(tmp_path / "a.zarr")


def test_images_that_are_no_volumes(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "side.zarr", grey((7, 8)), axes="zx", scale=(1, 1))
    assert "three spatial axes z, y, x are needed, or y, x" in refused(tmp_path / "side.zarr")
    write_ome_zarr(tmp_path / "film.zarr", grey((2, 4, 5, 6)), axes="tzyx", scale=(1, 1, 1, 1))
    assert "has 2 time points (0 to 1); choose one with --time." in refused(tmp_path / "film.zarr")
    group = zarr.create_group(tmp_path / "new.zarr")
    group.attrs["ome"] = {"version": "0.7", "multiscales": [{}]}
    assert "OME-Zarr 0.7; the versions 0.4 and 0.5 can be read" in refused(tmp_path / "new.zarr")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": []}]}
    assert "invalid OME-Zarr 0.5 metadata" in refused(tmp_path / "new.zarr")


def test_an_array_in_an_image_with_broken_metadata(tmp_path: Path) -> None:
    """Naming the array and its voxel size is the way around metadata that nobody can mend."""
    path = tmp_path / "i.zarr"
    write_ome_zarr(path, grey())
    zarr.open_group(path, mode="r+").attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": []}]}
    refused(path)
    volume = open_volume(str(path / "0"), voxel_size_um=(2, 2, 2))
    assert (volume.array_path, volume.voxel_size) == ("", VoxelSize((2, 2, 2)))
    np.testing.assert_array_equal(volume.read(volume.box), grey())
