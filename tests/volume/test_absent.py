"""What is not there although it should be: links that point nowhere, and chunks under other names than the document's.

DataLad and git-annex leave links for files whose content was not fetched.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.errors import InputError, StorageError
from pipeline.volume.opening import open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.servers import s3_bucket
from tests.volume.stores import grey, write_ome_zarr
from tests.workflows.conftest import Command

VOXELS = grey((12, 17, 23))


def stack_of_links(folder: Path, absent: tuple[int, ...]) -> Path:
    content = folder / "annex"
    content.mkdir(parents=True)
    stack = folder / "stack"
    stack.mkdir()
    for z in range(1, 13):
        if z not in absent:
            tifffile.imwrite(content / f"MD5-{z}", VOXELS[z - 1])
        (stack / f"{z}.tif").symlink_to(content / f"MD5-{z}")
    return stack


@pytest.mark.parametrize("absent", [(1, 12), (6,), (12,), tuple(range(1, 13))])
def test_a_slice_that_is_a_link_that_points_nowhere(tmp_path: Path, absent: tuple[int, ...]) -> None:
    stack = stack_of_links(tmp_path, absent)
    with pytest.raises(
        StorageError, match=rf"stack/{absent[0]}\.tif is a link that points nowhere .*MD5-{absent[0]}\)"
    ):
        open_volume(str(stack))
    for z in absent:
        tifffile.imwrite(tmp_path / "annex" / f"MD5-{z}", VOXELS[z - 1])
    volume = open_volume(str(stack))
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)


def test_other_links_that_point_nowhere_do_not_matter(tmp_path: Path) -> None:
    """Emacs marks a file that is being edited with one."""
    stack = stack_of_links(tmp_path, ())
    (stack / ".#log.txt").symlink_to("somebody@somewhere.1")
    (stack / "notes.txt").symlink_to("nowhere")
    assert open_volume(str(stack)).shape == VOXELS.shape


@pytest.mark.parametrize("name", ["broken.ome.zarr", "broken", "broken.tif", "broken.nii.gz"])
def test_a_volume_that_is_a_link_that_points_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises((InputError, StorageError), match=rf"{name} is a link that points nowhere"):
        open_volume(str(tmp_path / name))


@pytest.mark.parametrize("version", ["0.4", "0.5", "n5"])
def test_a_chunk_that_is_a_link_that_points_nowhere_is_no_fill_value(tmp_path: Path, version: str) -> None:
    if version == "n5":
        document = {"dimensions": [23, 17, 12], "blockSize": [4, 4, 4], "dataType": "uint16"}
        write_n5_array(tmp_path / "a", VOXELS, document | {"compression": {"type": "raw"}})
    else:
        write_ome_zarr(tmp_path / "a", VOXELS, version=version, levels=1)
    volume = open_volume(str(tmp_path / "a"))
    chunk = tmp_path / "a" / volume.object_key((1, 2, 3))
    chunk.unlink()
    chunk.symlink_to("not/fetched")
    with pytest.raises(StorageError, match=r"is a link that points nowhere \(not/fetched\)"):
        volume.read(volume.box)
    chunk.unlink()
    assert not volume.read(volume.box)[4:8, 8:12, 12:16].any()


def misnamed(folder: Path, kind: str) -> Path:
    """An array whose chunks have other names than its document asks for."""
    array: Any
    if kind == "nested":
        array = zarr.create_array(folder, shape=VOXELS.shape, dtype="u2", chunks=(4, 6, 8), zarr_format=2,
                                  chunk_key_encoding={"name": "v2", "separator": "/"})  # fmt: skip
        array[...] = VOXELS
        document = json.loads((folder / ".zarray").read_text())
        document.pop("dimension_separator")
        (folder / ".zarray").write_text(json.dumps(document))
    elif kind == "flat":
        array = zarr.create_array(folder, shape=VOXELS.shape, dtype="u2", chunks=(4, 6, 8), zarr_format=2)
        array[...] = VOXELS
        document = json.loads((folder / ".zarray").read_text())
        (folder / ".zarray").write_text(json.dumps(document | {"dimension_separator": "/"}))
    else:
        array = zarr.create_array(folder, shape=VOXELS.shape, dtype="u2", chunks=(4, 6, 8), zarr_format=3)
        array[...] = VOXELS
        if kind == "v3 without c":
            for chunk in (folder / "c").iterdir():
                chunk.rename(folder / chunk.name)
            (folder / "c").rmdir()
        else:  # "v3 as v2"
            document = json.loads((folder / "zarr.json").read_text())
            document["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "."}}
            (folder / "zarr.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("kind", ["nested", "flat", "v3 without c", "v3 as v2"])
def test_chunks_under_other_names_are_no_fill_value(tmp_path: Path, here: Command, kind: str) -> None:
    where = misnamed(tmp_path / "a.zarr", kind)
    with pytest.raises(
        InputError, match=r"a\.zarr holds chunks with names like .*, but its document asks for names like"
    ):
        open_volume(str(where))
    for command in (
        ["convert", where, tmp_path / "b.ome.zarr", "--voxel-size-um", "1"],
        ["thickness", where, "--run", tmp_path / "run", "--voxel-size-um", "1"],
        ["plan", "thickness", where, "--voxel-size-um", "1"],
    ):
        assert "but its document asks for names like" in here(*command).failure()
    assert not (tmp_path / "b.ome.zarr").exists()


def test_chunks_under_other_names_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = misnamed(tmp_path / "a.zarr", "nested")
    with s3_bucket(monkeypatch, tmp_path) as bucket:
        location = bucket.upload(where, "a.zarr")
        with pytest.raises(InputError, match=r"but its document asks for names like 0\.0\.0"):
            open_volume(location)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_array_without_any_chunk_is_read_with_a_warning(tmp_path: Path, version: str) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", VOXELS, version=version, levels=1)
    assert open_volume(str(tmp_path / "a.ome.zarr")).warnings == ()
    for found in (tmp_path / "a.ome.zarr" / "0").iterdir():
        if found.is_dir():
            shutil.rmtree(found)
    volume = open_volume(str(tmp_path / "a.ome.zarr"))
    assert volume.warnings == (f"{tmp_path}/a.ome.zarr/0 has no stored chunk: every voxel reads as the fill value.",)
    assert not volume.read(volume.box).any()


def test_one_stored_chunk_is_enough(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.ome.zarr", VOXELS, version="0.4", levels=1)
    shutil.rmtree(tmp_path / "a.ome.zarr" / "0" / "0")
    shutil.rmtree(tmp_path / "a.ome.zarr" / "0" / "1")
    (tmp_path / "a.ome.zarr" / "0" / "0.0.0").write_bytes(b"")  # what another program left
    volume = open_volume(str(tmp_path / "a.ome.zarr"))
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.read(volume.box)[8:], VOXELS[8:])
