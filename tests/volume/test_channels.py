"""A channel and a time point out of images that have several, in every format that has them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

from pipeline.errors import InputError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Choice, at_level, check_chosen, open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey, write_ome_zarr

Voxels = npt.NDArray[Any]
VOXELS = grey((2, 3, 6, 11, 13))
"""t, c, z, y, x."""
NAMES = ["DAPI", "GFP", "488"]
SIZE = (3.0, 0.7, 0.5)


def add_names(folder: Path, version: str) -> None:
    group: Any = zarr.open_group(folder, mode="r+")
    omero: Any = {"channels": [{"label": name, "color": "FFFFFF"} for name in NAMES]}
    if version == "0.4":
        group.attrs["omero"] = omero
    else:
        group.attrs["ome"] = {**dict(group.attrs)["ome"], "omero": omero}


def ome_zarr(folder: Path, voxels: Voxels, version: str, *, sharded: bool = False) -> Path:
    write_ome_zarr(folder, voxels, version=version, axes="tczyx", scale=(1, 1, *SIZE), sharded=sharded)
    add_names(folder, version)
    return folder


def bare_zarr(folder: Path, voxels: Voxels) -> Path:
    array: Any = zarr.create_array(folder, shape=voxels.shape, dtype=voxels.dtype, chunks=(1, 2, 4, 5, 6))
    array[...] = voxels
    return folder


def n5(folder: Path, voxels: Voxels) -> Path:
    document = {"dimensions": [*voxels.shape[::-1]], "blockSize": [6, 5, 4, 2, 1], "dataType": "uint16"}
    write_n5_array(folder, voxels, document | {"compression": {"type": "gzip"}})
    return folder


def ome_tiff(path: Path, voxels: Voxels, **options: Any) -> Path:
    metadata = {"axes": "TCZYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": 0.7, "PhysicalSizeZ": 3.0}  # fmt: skip
    tifffile.imwrite(path, voxels, ome=True, metadata=metadata, **options)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "OME-Zarr 0.4": lambda folder: ome_zarr(folder / "i.ome.zarr", VOXELS, "0.4"),
    "OME-Zarr 0.5": lambda folder: ome_zarr(folder / "i.ome.zarr", VOXELS, "0.5"),
    "OME-Zarr 0.5 in shards": lambda folder: ome_zarr(folder / "i.ome.zarr", VOXELS, "0.5", sharded=True),
    "Zarr": lambda folder: bare_zarr(folder / "a.zarr", VOXELS),
    "N5": lambda folder: n5(folder / "a.n5", VOXELS),
    "OME-TIFF": lambda folder: ome_tiff(folder / "i.ome.tif", VOXELS),
    "OME-TIFF in strips": lambda folder: ome_tiff(folder / "i.ome.tif", VOXELS, compression="zlib", rowsperstrip=4),
    "OME-TIFF in tiles": lambda folder: ome_tiff(folder / "i.ome.tif", VOXELS, tile=(16, 16), compression="zlib"),
}
NAMED = [name for name in WRITERS if name.startswith("OME")]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_channel_and_a_time_point(tmp_path: Path, kind: str) -> None:
    where = str(WRITERS[kind](tmp_path))
    seen = set()
    for time in range(2):
        for channel in range(3):
            volume = open_volume(where, channel=str(channel), time=time)
            volume = pickle.loads(pickle.dumps(volume))
            assert volume.shape == VOXELS.shape[2:]
            assert volume.selection == (("channel", channel), ("time", time))
            np.testing.assert_array_equal(volume.read(volume.box), VOXELS[time, channel])
            box = Box((1, 2, 3), (5, 9, 12))
            np.testing.assert_array_equal(volume.read(box), VOXELS[time, channel][box.slices])
            stored = volume.stored_objects()
            assert stored is not None
            assert stored[0] == len(volume.objects)
            assert volume.missing_chunks(volume.box) == 0
            assert volume.warnings == ()
            seen.add(json.dumps(volume.identity(), sort_keys=True))
    assert len(seen) == 6


@pytest.mark.parametrize("kind", NAMED)
def test_a_channel_by_its_name(tmp_path: Path, kind: str) -> None:
    where = str(WRITERS[kind](tmp_path))
    for channel, name in enumerate(NAMES):
        volume = open_volume(where, channel=name, time=1)
        assert (dict(volume.selection), volume.voxel_size) == ({"time": 1, "channel": channel}, VoxelSize(SIZE))
        np.testing.assert_array_equal(volume.read(volume.box), VOXELS[1, channel])
        assert volume == open_volume(where, channel=str(channel), time=1) or "TIFF" in kind
    with pytest.raises(InputError, match=r"has 3 channels \(0 DAPI, 1 GFP, 2 488\); choose one with --channel\.$"):
        open_volume(where, time=0)
    with pytest.raises(InputError, match=r"has no channel dapi; its channels are 0 DAPI, 1 GFP, 2 488\.$"):
        open_volume(where, time=0, channel="dapi")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_error_names_the_option_and_what_there_is(tmp_path: Path, kind: str) -> None:
    where = str(WRITERS[kind](tmp_path))
    with pytest.raises(InputError, match=r"has 2 time points \(0 to 1\); choose one with --time\.$"):
        open_volume(where, channel="0")
    with pytest.raises(InputError, match=r"has 3 channels \(0.*, 1.*, 2.*\); choose one with --channel\.$"):
        open_volume(where, time=0)
    with pytest.raises(InputError, match=r"has no time 2; its time points are 0 to 1\.$"):
        open_volume(where, time=2, channel="0")
    for channel in ("3", "-1", "", "1.0"):
        with pytest.raises(InputError, match=rf"has no channel {channel}; its channels are 0"):
            open_volume(where, time=0, channel=channel)


def test_fingerprints_are_of_one_channel(tmp_path: Path) -> None:
    where = bare_zarr(tmp_path / "a.zarr", VOXELS)  # two channels a chunk
    marks = [fingerprint(open_volume(str(where), channel=str(c), time=0)).as_json() for c in range(3)]
    assert marks[0] == marks[1] != marks[2]


def test_chunks_of_several_channels_take_more_memory(tmp_path: Path) -> None:
    array: Any = zarr.create_array(tmp_path / "a.zarr", shape=(4, 8, 8, 8), dtype="u2", chunks=(4, 8, 8, 8))
    array[...] = grey((4, 8, 8, 8))
    volume = open_volume(str(tmp_path / "a.zarr"), channel="2")
    assert volume.positions_per_chunk == 4
    assert volume.piece_bytes((8, 8, 8)) == 2 * (8**3 + 4 * 8**3) * 2
    array = zarr.create_array(tmp_path / "b.zarr", shape=(4, 8, 8, 8), dtype="u2", chunks=(1, 8, 8, 8))
    array[...] = grey((4, 8, 8, 8))
    assert open_volume(str(tmp_path / "b.zarr"), channel="2").piece_bytes((8, 8, 8)) == 2 * (8**3 + 8**3) * 2


@pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "CZYX", "TZYX"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_imagej_hyperstacks(tmp_path: Path, axes: str, options: dict[str, Any]) -> None:
    kept = {"TZCYX": VOXELS, "ZCYX": VOXELS[0], "CZYX": VOXELS[0], "TZYX": VOXELS[:, 0]}[axes]
    present = [axis for axis in "TCZYX" if axis in axes]
    voxels = kept.transpose([present.index(axis) for axis in axes])
    path = tmp_path / "i.tif"
    if axes in ("TZCYX", "ZCYX", "TZYX"):
        tifffile.imwrite(path, voxels, imagej=True, metadata={"axes": axes}, **options)
    else:
        tifffile.imwrite(path, voxels, metadata={"axes": axes}, **options)
    volume = open_volume(str(path), channel="1", time=1)
    expected = VOXELS[1, 1] if len(axes) == 5 else VOXELS[0, 1] if "C" in axes else VOXELS[1, 0]
    np.testing.assert_array_equal(volume.read(volume.box), expected)
    assert set(dict(volume.selection)) == {{"T": "time", "C": "channel"}[axis] for axis in axes if axis in "TC"}


def test_a_film_of_one_plane_stays_a_volume(tmp_path: Path) -> None:
    """ImageJ calls the slices of a stack frames, if nobody tells it."""
    tifffile.imwrite(tmp_path / "t.tif", VOXELS[0, 0], imagej=True, metadata={"axes": "TYX"})
    assert open_volume(str(tmp_path / "t.tif")).shape == VOXELS.shape[2:]


def test_levels_keep_the_channel(tmp_path: Path) -> None:
    where = ome_zarr(tmp_path / "i.ome.zarr", VOXELS, "0.5")
    volume = open_volume(str(where), channel="GFP", time=1)
    coarse = at_level(volume, 1)
    np.testing.assert_array_equal(coarse.read(coarse.box), VOXELS[1, 1, ::2, ::2, ::2])
    assert coarse.selection == volume.selection
    assert open_volume(f"{where}/1", channel="GFP", time=1).selection == volume.selection


def test_a_choice_does_not_count_where_there_is_none(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "m.ome.zarr", grey(), version="0.5")
    write_ome_zarr(tmp_path / "s.ome.zarr", grey()[None, None], axes="tczyx", scale=(1, 1, *SIZE))
    masks = [open_volume(str(tmp_path / name), channel="1", time=7) for name in ("m.ome.zarr", "s.ome.zarr")]
    for mask in masks:
        np.testing.assert_array_equal(mask.read(mask.box), grey())
        assert mask.selection == ()
        assert "selection" not in mask.identity()
    image = open_volume(str(ome_zarr(tmp_path / "i.ome.zarr", VOXELS, "0.5")), channel="1", time=1)
    check_chosen([*masks, image], Choice(channel="1", time=1))
    check_chosen(masks, Choice(channel=None, time=None))
    with pytest.raises(InputError, match=r"^--channel 1 was given, but .*m.ome.zarr nor .* has not several channels"):
        check_chosen(masks, Choice(channel="1"))


def test_axes_that_are_neither_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(2, 4, 5, 6), dtype="u2", dimension_names=["angle", "z", "y", "x"])
    with pytest.raises(InputError, match="2 positions along axis angle"):
        open_volume(str(tmp_path / "a.zarr"), channel="0")


@pytest.mark.parametrize("kind", ["OME-Zarr", "TIFF", "OME-TIFF", "N5"])
def test_a_channel_of_a_plane(tmp_path: Path, kind: str) -> None:
    planes = VOXELS[0, :, 0]
    where = tmp_path / ("p.ome.tif" if kind == "OME-TIFF" else "p.tif" if kind == "TIFF" else "p.store")
    if kind == "OME-Zarr":
        write_ome_zarr(where, planes, axes="cyx", scale=(1, 0.7, 0.5))
    elif kind == "N5":
        document = {"dimensions": [13, 11, 3], "blockSize": [6, 5, 2], "dataType": "uint16", "axes": ["x", "y", "c"]}
        write_n5_array(where, planes, document | {"compression": {"type": "raw"}})
    else:
        tifffile.imwrite(where, planes, metadata={"axes": "CYX"}, photometric="minisblack", compression="zlib")
    with pytest.raises(InputError, match=r"has 3 channels .*choose one with --channel"):
        open_volume(str(where))
    volume = open_volume(str(where), channel="2")
    assert volume.shape == (1, 11, 13)
    np.testing.assert_array_equal(volume.read(volume.box)[0], planes[2])
