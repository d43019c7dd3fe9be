"""Every format gives the same voxels, for any box, from a folder, a web server and S3, with faults in between."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume import compressed, patience, slices
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from tests.volume.formats import FORMATS, nifti
from tests.volume.servers import Bucket, Server, first_tries, s3_bucket, web_server
from tests.volume.stores import grey

VOXELS = grey((11, 40, 37), "uint16")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits long."""
    monkeypatch.setattr("pipeline.volume.patience.sleep", lambda _: None)
    monkeypatch.setattr("pipeline.volume.remote.QUICK_PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each format."""
    folder = tmp_path_factory.mktemp("formats")
    for name, write in FORMATS.items():
        (folder / name).mkdir()
        write(folder / name, VOXELS)
    return folder


def location(root: Path, kind: str) -> Path:
    return next(iter((root / kind).iterdir()))


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with web_server(root, index=True) as started:
        yield started


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    with s3_bucket(monkeypatch, tmp_path) as made:
        yield made


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Any box of VOXELS."""
    sides = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))) for n in VOXELS.shape]
    (z0, z1), (y0, y1), (x0, x1) = sides
    return Box((z0, y0, x0), (z1 + 1, y1 + 1, x1 + 1))


def check(volume: Volume, box: Box) -> None:
    read = volume.read(box)
    assert read.dtype == np.uint16
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, VOXELS[box.slices])


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None)
@given(box=boxes())
def test_any_box(root: Path, kind: str, box: Box) -> None:
    volume = open_volume(str(location(root, kind)))
    assert (volume.shape, volume.dtype, volume.level_count) == (VOXELS.shape, "uint16", 1)
    check(volume, box)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_volume_travels_and_tells_its_objects(root: Path, kind: str) -> None:
    opened = open_volume(str(location(root, kind)), voxel_size_um=(3, 2, 1))
    volume: Volume = pickle.loads(pickle.dumps(opened))
    assert volume == opened
    assert len(pickle.dumps(volume)) < 2000
    assert volume.voxel_size == VoxelSize((3, 2, 1))
    check(volume, volume.box)
    files = sorted(location(root, kind).iterdir()) if "slices" in kind else [location(root, kind)]
    assert volume.stored_objects() == (len(files), sum(file.stat().st_size for file in files))
    assert volume.missing_chunks(volume.box) == 0


@pytest.mark.parametrize("kind", ["striped tiff slices", "tiled tiff slices", "tiff slices"])
def test_parts_of_slices(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stack that does not fit the memory for planes, only what a box touches is decoded."""
    monkeypatch.setattr(slices, "PLANES_BYTES", VOXELS.nbytes - 1)
    volume = open_volume(str(location(root, kind)))
    assert volume.kept_bytes == 0
    for box in (volume.box, Box((2, 3, 5), (9, 20, 31)), Box((10, 39, 36), (11, 40, 37))):
        check(volume, box)


@pytest.mark.parametrize("kind", FORMATS)
def test_over_the_web_with_faults(root: Path, kind: str, server: Server) -> None:
    server.clear()
    server.faults = first_tries("drop", 500, "truncate", 503)
    inside = location(root, kind).relative_to(root).as_posix()
    volume = open_volume(f"{server.url}/{inside}")
    check(volume, Box((1, 4, 3), (9, 33, 30)))
    check(volume, volume.box)
    assert any(request.status in (0, 500, 503) for request in server.requests)


@pytest.mark.parametrize("kind", ["npy", "nii.gz", "tiled tiff", "tiff slices", "jp2 slices", "chunked HDF5", "nrrd"])
def test_over_s3_with_faults(root: Path, kind: str, bucket: Bucket) -> None:
    url = bucket.upload(location(root, kind), f"some/where/{location(root, kind).name}")
    bucket.server.faults = first_tries("drop", 500, "truncate", 503)
    volume = open_volume(url)
    check(volume, Box((1, 4, 3), (9, 33, 30)))
    check(volume, volume.box)
    assert volume.stored_objects() == open_volume(str(location(root, kind))).stored_objects()


@pytest.mark.parametrize("kind", ["plain tiff", "npy", "nii"])
def test_only_what_a_box_needs_is_fetched(tmp_path: Path, kind: str) -> None:
    voxels = grey((64, 100, 100), "uint16")
    file = FORMATS[kind](tmp_path, voxels)
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/{file.name}")
        opened = server.sent
        assert opened <= 3 * 2**16
        box = Box((30, 10, 20), (34, 40, 30))
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        assert server.sent - opened == 4 * 30 * 100 * 2


def test_blocks_of_a_compressed_file_do_not_begin_at_its_beginning(tmp_path: Path) -> None:
    voxels = grey((64, 256, 256), "uint16")
    file = FORMATS["nii.gz"](tmp_path, voxels)
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/{file.name}")
        for box in (Box((50, 10, 20), (52, 40, 30)), Box((40, 0, 0), (41, 40, 30)), Box((60, 9, 0), (61, 40, 30))):
            np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        first_pass = server.sent
        box = Box((55, 10, 20), (56, 40, 30))
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        assert server.sent - first_pass < 0.6 * file.stat().st_size


@pytest.mark.parametrize("kind", ["npy", "nii.gz", "tiled tiff", "jp2 slices", "HDF5"])
def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, kind: str) -> None:
    where = FORMATS[kind](tmp_path, VOXELS)
    before = open_volume(str(where))
    check(before, before.box)
    changed = VOXELS.copy()
    changed[5, 20, 20] ^= 1
    (tmp_path / "new").mkdir()
    new = FORMATS[kind](tmp_path / "new", changed)
    for file in [new] if new.is_file() else sorted(new.iterdir()):
        file.replace((where / file.name) if where.is_dir() else where)
    after = open_volume(str(where))
    assert after.identity() == before.identity()
    np.testing.assert_array_equal(after.read(after.box), changed)


def test_another_file_under_the_name_of_a_volume(tmp_path: Path) -> None:
    file = FORMATS["npy"](tmp_path, VOXELS)
    volume = open_volume(str(file))
    np.save(file, VOXELS[:, :, :30])
    with pytest.raises(StorageError, match=r"v\.npy changed while it was read"):
        volume.read(Box((0, 0, 0), (1, 1, 1)))
    file.unlink()
    with pytest.raises(StorageError, match=r"v\.npy is missing; restore it from a copy"):
        volume.read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("kind", ["npy", "nii.gz", "tiled tiff", "chunked HDF5"])
@pytest.mark.parametrize("where", ["local", "http"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, kind: str, where: str) -> None:
    """No half is of another volume, in this process or in another one."""
    file = FORMATS[kind](tmp_path, VOXELS)
    with web_server(tmp_path) as server:
        volume = open_volume(str(file) if where == "local" else f"{server.url}/{file.name}")
        check(volume, Box((0, 0, 0), (5, 40, 37)))
        (tmp_path / "new").mkdir()
        FORMATS[kind](tmp_path / "new", VOXELS[::-1]).replace(file)
        for reader in (volume, pickle.loads(pickle.dumps(volume))):
            with pytest.raises(StorageError, match=rf"{file.name} changed while it was read, so its voxels may be"):
                reader.read(Box((5, 0, 0), (11, 40, 37)))


@pytest.mark.parametrize("kind", ["npy", "nii", "plain tiff", "tiff slices", "jp2 slices"])
def test_a_file_system_that_hangs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = FORMATS[kind](tmp_path, VOXELS)
    volume = open_volume(str(where))
    monkeypatch.setattr(patience, "READ_SECONDS", 0.2)
    go_on = Event()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *_: go_on.wait(60))
        try:
            with pytest.raises(StorageError, match=rf"{where}.* did not answer within 0\.2 s"):
                volume.read(volume.box)
            os.utime(where if where.is_file() else next(where.iterdir()))  # else its header is known
            with pytest.raises(StorageError, match=rf"{where}.* did not answer within 0\.2 s"):
                open_volume(str(where))
        finally:
            go_on.set()
    again = open_volume(str(where))
    check(again, again.box)


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["npy", "nii", "nii.gz", "plain tiff", "striped tiff", "HDF5"])
def test_a_file_that_is_cut_off(tmp_path: Path, kind: str) -> None:
    file = FORMATS[kind](tmp_path, VOXELS)
    volume = open_volume(str(file))
    cut(file, 0.6)
    with pytest.raises((StorageError, InputError)) as caught:
        volume.read(volume.box)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_flipped_bit_in_a_compressed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """In order as convert reads, the checksum at the end tells; elsewhere, making the index does."""
    monkeypatch.setattr(compressed, "SKIPPED_BYTES", 1000)
    file = FORMATS["nii.gz"](tmp_path, VOXELS)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    volume = open_volume(str(file))
    with pytest.raises(StorageError, match=r"v\.nii\.gz: the voxels .* its checksum does not match"):
        volume.read(volume.box if whole else Box((2, 5, 5), (3, 6, 6)))


@pytest.mark.parametrize("kind", ["nii", "nii.gz"])
def test_scaled_values(tmp_path: Path, kind: str) -> None:
    image = nifti(VOXELS.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    nib.save(image, tmp_path / f"v.{kind}")
    volume = open_volume(str(tmp_path / f"v.{kind}"))
    box = Box((2, 3, 5), (9, 20, 31))
    read: npt.NDArray[Any] = volume.read(box)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, 0.5 * VOXELS[box.slices] - 3)


@pytest.mark.parametrize("kind", ["npy", "nii.gz", "jp2 slices", "tiff slices"])
def test_fingerprints(tmp_path: Path, kind: str) -> None:
    where = FORMATS[kind](tmp_path, VOXELS)
    with web_server(tmp_path, index=True) as server:
        for location in (str(where), f"{server.url}/{where.name}"):
            before = fingerprint(open_volume(location))
            assert fingerprint(open_volume(location)) == before
            assert before.objects == (len(VOXELS) if where.is_dir() else 1)
            changed = sorted(where.iterdir())[3] if where.is_dir() else where
            changed.write_bytes(changed.read_bytes() + b"\0")
            assert fingerprint(open_volume(location)).digest != before.digest


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_said_in_a_sentence(root: Path, tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Whatever bytes are flipped, zeroed or cut off: the voxels are read, or one sentence names the file."""
    where = tmp_path / location(root, kind).name
    if location(root, kind).is_dir():
        shutil.copytree(location(root, kind), where, dirs_exist_ok=True)
    else:
        shutil.copy(location(root, kind), where)
    victim = sorted(where.iterdir())[5] if where.is_dir() else where
    content = bytearray(victim.read_bytes())
    position = data.draw(st.integers(0, 600) | st.integers(0, len(content) - 1)) % len(content)
    count = data.draw(st.integers(1, 40))
    damage = data.draw(st.sampled_from(["flip", "zero", "cut", "remove"]))
    if damage == "cut":
        content = content[:position]
    elif damage == "remove":
        content[position : position + count] = b""
    else:
        last = min(len(content), position + count)
        content[position:last] = (
            bytes(last - position) if damage == "zero" else bytes(b ^ 0x41 for b in content[position:last])
        )
    victim.write_bytes(content)
    said = ""
    try:
        volume = open_volume(str(where))
        if volume.box.voxels <= 10 * VOXELS.size:
            volume.read(volume.box)
    except VoxcaliperError as error:
        said = str(error)
    assert not said or (str(where) in said and "\n" not in said and said.endswith("."))
