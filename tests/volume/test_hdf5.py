"""HDF5: data sets by path, as beamlines, ilastik and Fiji write them, in chunks, in further files, and damaged."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from tests.volume.formats import Voxels
from tests.volume.servers import web_server
from tests.volume.stores import grey, refused
from tests.volume.test_memory import SLACK, peak_bytes
from tests.volume.test_placed_files import check

VOXELS = grey((12, 17, 23), "uint16")
UM = (3.0, 0.7, 0.5)


def write(path: Path, inside: str = "exchange/data", voxels: Voxels = VOXELS, **options: Any) -> Any:
    """A data set in a file that stays open."""
    file = h5py.File(path, "a")
    return file.create_dataset(inside, data=voxels, **options)


def test_a_path_behind_the_name_of_the_file(tmp_path: Path) -> None:
    dataset = write(tmp_path / "scan.h5", chunks=(5, 8, 8))
    dataset.attrs["element_size_um"] = np.array(UM, "f4")
    dataset.file.create_dataset("exchange/theta", data=np.arange(180.0))
    dataset.file.close()
    volume = check(tmp_path / "scan.h5" / "exchange" / "data")
    assert (volume.name, volume.location) == (f"{tmp_path}/scan.h5/exchange/data", f"{tmp_path}/scan.h5")
    assert (volume.array_path, volume.format, volume.chunk_shape) == ("exchange/data", "HDF5", (5, 8, 8))
    assert volume.voxel_size == VoxelSize(UM)
    for shorter in ("scan.h5", "scan.h5/exchange", "scan.h5/exchange/"):
        assert open_volume(f"{tmp_path}/{shorter}") == volume
    assert open_volume(f"{tmp_path}/scan.h5", voxel_size_um=(1, 2, 3)).voxel_size == VoxelSize((1, 2, 3))


def test_several_data_sets_are_listed(tmp_path: Path) -> None:
    with write(tmp_path / "two.h5").file as file:
        file["exchange/data_white"] = VOXELS[:2]
        file["alias"] = h5py.SoftLink("/exchange/data")
        file["gone"] = h5py.SoftLink("/nothing")
    said = refused(tmp_path / "two.h5")
    assert said == (
        f"{tmp_path}/two.h5 holds the data sets alias 12 × 17 × 23, exchange/data_white 2 × 17 × 23: say which one,"
        f" for example {tmp_path}/two.h5/alias."
    )
    assert "holds nothing that can be opened at exchange/dat; it holds the data sets" in refused(
        tmp_path / "two.h5" / "exchange" / "dat"
    )
    check(tmp_path / "two.h5" / "alias")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["image"] = VOXELS[0]
    assert "holds no data set with three axes" in refused(tmp_path / "none.h5")
    with pytest.raises(InputError, match="so it has no level 1"):
        open_volume(f"{tmp_path}/two.h5/alias", level=1)


def test_the_default_of_nexus_and_links_to_another_file(tmp_path: Path) -> None:
    """As nabu leaves a reconstruction: a chain of defaults, and a master file with links."""
    with write(tmp_path / "rec.hdf5", "entry/reconstruction/results/data").file as file:
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = "reconstruction"
        file["entry/reconstruction"].attrs.update({"default": "results", "NX_class": "NXprocess"})
        file["entry/reconstruction/results"].attrs.update({"signal": "data", "NX_class": "NXdata"})
        file["raw"] = VOXELS[:3]
    volume = check(tmp_path / "rec.hdf5")
    assert volume.array_path == "entry/reconstruction/results/data"
    with h5py.File(tmp_path / "master.nxs", "w") as file:
        file["entry/data"] = h5py.ExternalLink("rec.hdf5", "/entry/reconstruction/results/data")
    linked = check(tmp_path / "master.nxs")
    assert linked.stored_objects() == (2, sum(f.stat().st_size for f in tmp_path.iterdir()))
    before = fingerprint(linked)
    with h5py.File(tmp_path / "rec.hdf5", "a") as file:
        file["raw"][0, 0, 0] = 7
    assert fingerprint(open_volume(str(tmp_path / "master.nxs"))) != before
    with pytest.raises(StorageError, match="or a file with voxels of it, changed while it was read"):
        linked.read(linked.box)


@pytest.mark.parametrize("axes", ["zyx", "zyxc", "czyx", "xyz", "tzyxc", "yxz"])
def test_axistags_of_ilastik(tmp_path: Path, axes: str) -> None:
    stored = VOXELS.transpose(["zyx".index(axis) for axis in axes if axis in "zyx"])
    for n, axis in enumerate(axes):
        if axis not in "zyx":
            stored = np.expand_dims(stored, n)
    dataset = write(tmp_path / "p.h5", "exported_data", stored, chunks=True)
    tags = [{"key": axis, "typeFlags": 1 if axis == "c" else 2, "resolution": 0} for axis in axes]
    dataset.attrs["axistags"] = json.dumps({"axes": tags})
    dataset.file.close()
    volume = check(tmp_path / "p.h5" / "exported_data")
    box = Box((2, 3, 4), (9, 10, 20))
    np.testing.assert_array_equal(volume.read(box), VOXELS[box.slices])
    assert volume.voxel_size is None


def test_axes_of_length_1_and_several_channels(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", "last", VOXELS[..., None])
    write(tmp_path / "v.h5", "first", VOXELS[None])
    write(tmp_path / "v.h5", "two", np.stack([VOXELS, VOXELS + 1]))
    labelled = write(tmp_path / "v.h5", "labelled", VOXELS.T)
    for dimension, name in zip(labelled.dims, "xyz", strict=True):
        dimension.label = name
    labelled.file.close()
    for name in ("last", "first", "labelled"):
        check(tmp_path / "v.h5" / name)
    assert "has 2 channels (0, 1); choose one with --channel" in refused(tmp_path / "v.h5" / "two")
    volume = open_volume(str(tmp_path / "v.h5" / "two"), channel="1")
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS + 1)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int16", "float16", ">f4", "float64", "uint64"])
def test_types(tmp_path: Path, dtype: str) -> None:
    voxels = grey((4, 5, 6), dtype)
    write(tmp_path / "v.h5", voxels=voxels).file.close()
    check(tmp_path / "v.h5", voxels)


def test_values_that_are_no_voxels(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", "c", VOXELS.astype("c8")).file.close()
    assert "values of type complex64; bool, integer or float is needed" in refused(tmp_path / "v.h5" / "c")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"scaleoffset": 0},
        dict(hdf5plugin.Bitshuffle()),
        dict(hdf5plugin.Zstd()),
        dict(hdf5plugin.Blosc()),
    ],
)
def test_filters(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "v.h5", chunks=(1, 17, 23), **options).file.close()
    check(tmp_path / "v.h5")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "v.h5", chunks=(1, 17, 23), **hdf5plugin.Bitshuffle()).file.close()
    monkeypatch.setattr("pipeline.volume.hdf5._plugins", lambda: False)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    assert "by bitshuffle (filter 32008), which needs hdf5plugin: pip install 'voxcaliper[hdf5]'." in refused(
        tmp_path / "v.h5"
    )
    monkeypatch.setitem(sys.modules, "h5py", None)
    shutil.copy(tmp_path / "v.h5", tmp_path / "w.h5")
    assert refused(tmp_path / "w.h5") == (f"{tmp_path}/w.h5 is HDF5, which needs h5py: pip install 'voxcaliper[hdf5]'.")


def virtual(folder: Path, whole: bool = True) -> Path:
    """Two files of six planes, and one that puts them together."""
    layout = h5py.VirtualLayout(VOXELS.shape, VOXELS.dtype)
    for n in range(2):
        write(folder / f"part{n}.h5", "data", VOXELS[6 * n : 6 * n + 6], chunks=(2, 17, 23)).file.close()
        if n == 0 or whole:
            layout[6 * n : 6 * n + 6] = h5py.VirtualSource(f"part{n}.h5", "data", (6, 17, 23))
    with h5py.File(folder / "all.h5", "w") as file:
        file.create_virtual_dataset("data", layout, fillvalue=9)
    return folder / "all.h5"


def test_virtual_data_sets(tmp_path: Path) -> None:
    file = virtual(tmp_path)
    volume: Volume = pickle.loads(pickle.dumps(check(file)))
    assert (volume.chunk_shape, volume.warnings) == ((2, 17, 23), ())
    assert volume.array_path == "data"
    assert volume.stored_objects() == (3, sum(f.stat().st_size for f in tmp_path.iterdir()))
    (tmp_path / "part1.h5").rename(tmp_path / "away.h5")
    assert refused(file) == f"{file}/data has voxels in {tmp_path}/part1.h5, which is missing; put it there."
    with pytest.raises(StorageError, match="changed while it was read"):
        volume.read(volume.box)
    with h5py.File(tmp_path / "part1.h5", "w") as other:
        other["something"] = VOXELS
    assert "which holds no data; fetch it again" in refused(file)
    with web_server(tmp_path) as server:
        assert "lies in further files, which are not read from a URL" in refused(f"{server.url}/all.h5/data")


def test_a_virtual_data_set_with_a_gap_says_so(tmp_path: Path) -> None:
    volume = open_volume(str(virtual(tmp_path, whole=False)))
    assert volume.warnings == (
        f"{tmp_path}/all.h5/data is put together of files that hold 2,346 of its 4,692 voxels; the others read as 9.",
    )
    assert (volume.read(volume.box)[6:] == 9).all()


def test_voxels_in_a_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    VOXELS.tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("data", VOXELS.shape, "<u2", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
    monkeypatch.chdir("/")
    assert check(tmp_path / "v.h5").stored_objects() == (2, sum(f.stat().st_size for f in tmp_path.iterdir()))
    VOXELS[:11].tofile(tmp_path / "raw.bin")
    assert "has 8,602 bytes where 9,384 are needed; fetch it again" in refused(tmp_path / "v.h5")
    (tmp_path / "raw.bin").unlink()
    assert "raw.bin, which is missing; put it there" in refused(tmp_path / "v.h5")


def test_chunks_that_were_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("data", VOXELS.shape, "u2", chunks=(4, 17, 23))[:4] = VOXELS[:4]
    volume = open_volume(str(tmp_path / "v.h5"))
    assert volume.warnings == (
        f"{tmp_path}/v.h5/data has 1 of its 3 chunks; the others were never written and read as 0.",
    )
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data", VOXELS.shape, "u2")
    assert open_volume(str(tmp_path / "w.h5")).warnings == (
        f"{tmp_path}/w.h5/data was never written; all of it reads as 0.",
    )


def pixel_sizes(group: Any) -> None:
    for axis, um in zip("zyx", UM, strict=True):
        group[f"{axis}_pixel_size"] = um / 1000
        group[f"{axis}_pixel_size"].attrs["units"] = "mm"


def coordinates(group: Any) -> None:
    group.attrs["axes"] = ["z", "y", "x"]
    for axis, um, n in zip("zyx", UM, VOXELS.shape, strict=True):
        group[axis] = np.arange(n) * um - 3
        group[axis].attrs["units"] = b"um"


@pytest.mark.parametrize("state", [pixel_sizes, coordinates])
def test_voxel_sizes_of_nexus(tmp_path: Path, state: Callable[[Any], None]) -> None:
    dataset = write(tmp_path / "v.nxs", "entry/data/data")
    state(dataset.parent)
    dataset.file.close()
    assert open_volume(str(tmp_path / "v.nxs")).voxel_size == VoxelSize(UM)
    with h5py.File(tmp_path / "v.nxs", "a") as file:
        del file["entry/data/" + ("z_pixel_size" if state is pixel_sizes else "z")].attrs["units"]
    assert open_volume(str(tmp_path / "v.nxs")).voxel_size is None


def test_coordinates_of_nexus_place_a_volume(tmp_path: Path) -> None:
    """Those that fall run against their axis."""
    dataset = write(tmp_path / "v.nxs", "entry/data/data")
    coordinates(dataset.parent)
    del dataset.parent["x"]
    dataset.parent["x"] = 7.25 - 0.0005 * np.arange(23)
    dataset.parent["x"].attrs["units"] = "mm"
    dataset.file.close()
    volume = open_volume(str(tmp_path / "v.nxs"))
    assert volume.voxel_size == VoxelSize(UM)
    assert volume.placement
    assert (volume.origin_um, volume.placement.signs) == ((-3.0, -3.0, 7250.0), (1, 1, -1))


def test_a_voxel_size_that_is_none(tmp_path: Path) -> None:
    dataset = write(tmp_path / "v.h5")
    dataset.attrs["element_size_um"] = [3, 0, 1.0]
    dataset.file.close()
    volume = open_volume(str(tmp_path / "v.h5"))
    assert volume.voxel_size is None
    assert "element_size_um that is no voxel size (3.0, 0.0, 1.0)" in volume.warnings[0]


def test_what_is_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "old.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(100))
    assert "is HDF4, which is not read; convert it with h4toh5" in refused(tmp_path / "old.hdf")
    (tmp_path / "text.h5").write_bytes(b"nothing")
    assert "text.h5 is not a readable HDF5 file (" in refused(tmp_path / "text.h5")
    write(tmp_path / "cut.h5").file.close()
    content = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[:5000])
    assert "cut.h5 is not a readable HDF5 file (" in refused(tmp_path / "cut.h5")
    (tmp_path / "folder.h5").mkdir()
    assert "is a folder without a volume" in refused(tmp_path / "folder.h5")
    assert "gone.h5 does not exist" in refused(tmp_path / "gone.h5")


def test_a_damaged_chunk(tmp_path: Path) -> None:
    dataset = write(tmp_path / "v.h5", chunks=(4, 17, 23), compression="gzip", fletcher32=True)
    start = dataset.id.get_chunk_info(1).byte_offset
    dataset.file.close()
    content = bytearray((tmp_path / "v.h5").read_bytes())
    content[start + 100] ^= 4
    (tmp_path / "v.h5").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.h5"))
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 17, 23))), VOXELS[:4])
    with pytest.raises(StorageError, match=r"v\.h5/exchange/data: the voxels \(4, 0, 0\) to .* cannot be read \(.*"):
        volume.read(Box((4, 0, 0), (5, 17, 23)))


def test_only_the_chunks_of_a_box_are_fetched(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 60000, (40, 100, 100)).astype("u2")
    write(tmp_path / "v.h5", voxels=voxels, chunks=(10, 50, 50), compression="gzip").file.close()
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/v.h5/exchange/data")
        opened = server.sent
        box = Box((12, 60, 60), (15, 70, 80))
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        assert server.sent - opened < 4 * 10 * 50 * 50 * 2


def _sum(volume: Volume) -> int:
    return int(volume.read(volume.box).sum())


def test_threads_and_child_processes(tmp_path: Path) -> None:
    write(tmp_path / "v.h5", chunks=(2, 8, 8), compression="gzip").file.close()
    volume = check(tmp_path / "v.h5")
    boxes = [Box((z, y, 0), (z + 3, y + 9, 23)) for z in range(9) for y in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for box, read in zip(boxes, threads.map(volume.read, boxes), strict=True):
            np.testing.assert_array_equal(read, VOXELS[box.slices])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum, (volume,)) == VOXELS.sum()


@pytest.mark.parametrize("chunks", [None, (1, 400, 450), (16, 64, 64)])
def test_memory_of_a_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int, int] | None) -> None:
    monkeypatch.setattr("pipeline.volume.volumes.PIECE_BYTES", 2**19)
    voxels = np.random.default_rng(0).integers(0, 60000, (20, 400, 450)).astype("u2")
    write(tmp_path / "v.h5", voxels=voxels, chunks=chunks).file.close()
    volume = open_volume(str(tmp_path / "v.h5"))
    box = Box((3, 50, 70), (19, 350, 420))
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + SLACK


def test_memory_that_the_library_takes(tmp_path: Path) -> None:
    """Of the process, as HDF5's own memory is not Python's: chunks of 8 MiB through three filters."""
    noise = np.random.default_rng(0).integers(0, 60000, (64, 256, 512)).astype("u2")
    filters: dict[str, Any] = {"chunks": (32, 256, 512), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    write(tmp_path / "v.h5", voxels=noise, fletcher32=True, **filters).file.close()
    script = (
        "import resource, sys; from pipeline.volume.opening import open_volume; from pipeline.geometry import Box;"
        "volume = open_volume(sys.argv[1]);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; box = Box((3, 5, 7), (63, 250, 500));"
        "volume.read(box);"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) - volume.read_bytes(box.shape))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "v.h5")], capture_output=True, check=True)
    assert int(done.stdout) <= 0


GARBAGE = """
import gc, sys
import h5py
from pipeline.geometry import Box
from pipeline.volume.opening import open_volume
path, address = sys.argv[1:]
for _ in range(10):
    for _ in range(20):
        file = h5py.File(path, "r")
        ring = [file, file["exchange/data"]]
        ring.append(ring)
    gc.set_threshold(100, 1, 1)
    volume = open_volume(address + "/exchange/data")
    volume.read(Box((0, 0, 0), volume.shape))
    gc.set_threshold(700, 10, 10)
"""


def test_garbage_that_any_thread_collects_stops_no_read_from_afar(tmp_path: Path) -> None:
    """The thread that brings the bytes waits for HDF5 where it collects what belongs to it."""
    write(tmp_path / "v.h5", chunks=(5, 8, 8), compression="gzip").file.close()
    with web_server(tmp_path) as server:
        command = [sys.executable, "-c", GARBAGE, str(tmp_path / "v.h5"), f"{server.url}/v.h5"]
        subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("chunks", [None, (5, 8, 8), (1, 17, 23), (12, 17, 1)])
def test_any_box_from_afar(tmp_path: Path, chunks: tuple[int, int, int] | None) -> None:
    """In one piece: a request for each layer, not for each line."""
    write(tmp_path / "v.h5", chunks=chunks).file.close()
    write(tmp_path / "v.h5", "four", np.stack([VOXELS, VOXELS + 1]), chunks=chunks and (1, *chunks)).file.close()
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/v.h5/exchange/data")
        second = open_volume(f"{server.url}/v.h5/four", channel="1")
        for box in (volume.box, Box((2, 3, 5), (9, 16, 22)), Box((11, 16, 22), (12, 17, 23))):
            np.testing.assert_array_equal(volume.read(box), VOXELS[box.slices])
            np.testing.assert_array_equal(second.read(box), VOXELS[box.slices] + 1)
