"""N5 as Java's writers and z5 leave it: members of a compression that describe the writer, LZ4, and time points.

z5py (3.0.2) wrote what these documents and chunks look like; it is no dependency, so they are made here in its way.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import xxhash

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box
from pipeline.volume.opening import open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey

VOXELS = grey((12, 17, 23))


def document(compression: dict[str, Any], dtype: str = "uint16") -> dict[str, Any]:
    return {"dimensions": [23, 17, 12], "blockSize": [8, 8, 5], "dataType": dtype, "compression": compression}


@pytest.mark.parametrize(
    ("needed", "extra"),
    [
        ({"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, {"nthreads": 1}),
        ({"type": "blosc", "cname": "zstd", "clevel": 9, "shuffle": 2, "blocksize": 0}, {"nthreads": 12}),
        ({"type": "zstd", "level": 3}, {"nbWorkers": 0}),
        ({"type": "gzip", "level": 5}, {"strategy": 0}),
        ({"type": "raw"}, {"note": "none"}),
    ],
)
def test_what_a_compression_says_of_its_writer_does_not_count(
    tmp_path: Path, needed: dict[str, Any], extra: dict[str, Any]
) -> None:
    write_n5_array(tmp_path / "a.n5", VOXELS, document(needed))
    plain = open_volume(str(tmp_path / "a.n5"))
    (tmp_path / "a.n5" / "attributes.json").write_text(json.dumps(document(needed | extra)))
    volume = open_volume(str(tmp_path / "a.n5"))
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    assert volume.identity() == plain.identity()


def lz4_stream(voxels: bytes, block: int, *, packed: bool = True) -> bytes:
    """As LZ4BlockOutputStream of lz4-java writes it."""
    parts = []
    for start in range(0, len(voxels), block):
        part = voxels[start : start + block]
        squeezed = numcodecs.lz4.compress(part)[4:]
        is_small = packed and len(squeezed) < len(part)
        body = squeezed if is_small else part
        check = xxhash.xxh32_intdigest(part, 0x9747B28C) & 0x0FFFFFFF
        token = (0x20 if is_small else 0x10) | 6
        parts.append(b"LZ4Block" + struct.pack("<BIII", token, len(body), len(part), check) + body)
    return b"".join(parts) + b"LZ4Block" + struct.pack("<BIII", 0x16, 0, 0, 0)


def write_lz4(folder: Path, dtype: str, squeeze: Any) -> np.ndarray:
    voxels = (VOXELS // 100).astype(dtype)
    write_n5_array(folder, voxels, document({"type": "raw"}, dtype))
    (folder / "attributes.json").write_text(json.dumps(document({"type": "lz4", "blockSize": 65536}, dtype)))
    for chunk in (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"):
        content = chunk.read_bytes()
        chunk.write_bytes(content[:16] + squeeze(content[16:]))
    return voxels


@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float64", "int32"])
@pytest.mark.parametrize(
    "squeeze",
    [
        lambda voxels: lz4_stream(voxels, 65536),
        lambda voxels: lz4_stream(voxels, 100),
        lambda voxels: lz4_stream(voxels, 100, packed=False),
        lambda voxels: numcodecs.lz4.compress(voxels)[4:],  # z5
    ],
    ids=["java", "java in many blocks", "java stored", "z5"],
)
def test_lz4_of_java_and_of_z5(tmp_path: Path, dtype: str, squeeze: Any) -> None:
    voxels = write_lz4(tmp_path / "a.n5", dtype, squeeze)
    volume = open_volume(str(tmp_path / "a.n5"))
    np.testing.assert_array_equal(volume.read(volume.box), voxels)
    box = Box((3, 7, 7), (11, 9, 20))
    np.testing.assert_array_equal(volume.read(box), voxels[box.slices])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda chunk: chunk[:-60], "was cut off after"),
        (lambda chunk: chunk[:20], "cut off"),
        (lambda chunk: chunk[:40] + bytes([chunk[40] ^ 1]) + chunk[41:], "damaged"),
        (lambda chunk: chunk[:37] + bytes([chunk[37] ^ 64]) + chunk[38:], "damaged"),
        (lambda chunk: chunk[:29] + b"\xff\xff\xff\x0f" + chunk[33:], "damaged"),
    ],
)
def test_lz4_that_is_damaged_is_told(tmp_path: Path, damage: Any, words: str) -> None:
    write_lz4(tmp_path / "a.n5", "uint16", lambda voxels: lz4_stream(voxels, 100, packed=False))
    chunk = tmp_path / "a.n5" / "1" / "1" / "1"
    chunk.write_bytes(damage(chunk.read_bytes()))
    volume = open_volume(str(tmp_path / "a.n5"))
    with pytest.raises(StorageError, match=words) as caught:
        volume.read(volume.box)
    assert "1/1/1" in str(caught.value)


def test_bigdataviewer_names_its_first_time_point(tmp_path: Path) -> None:
    setup = tmp_path / "dataset.n5" / "setup0"
    write_n5_array(setup / "timepoint0" / "s0", VOXELS, document({"type": "raw"}))
    (tmp_path / "dataset.n5" / "attributes.json").write_text('{"n5": "2.5.1"}')
    (setup / "attributes.json").write_text('{"dataType": "uint16", "downsamplingFactors": [[1, 1, 1]]}')
    (setup / "timepoint0" / "attributes.json").write_text('{"multiScale": true, "resolution": [1, 1, 1]}')
    for where in (setup, tmp_path / "dataset.n5"):
        with pytest.raises(InputError, match=r"BigDataViewer; give one .*setup0/timepoint0\.$"):
            open_volume(str(where))
    setup.rename(setup.with_name("setup2"))
    with pytest.raises(InputError, match=r"for example .*setup2/timepoint0\.$"):
        open_volume(str(tmp_path / "dataset.n5"))
    assert open_volume(str(setup.with_name("setup2") / "timepoint0")).shape == VOXELS.shape
    (setup.with_name("setup2") / "timepoint0" / "s0" / "attributes.json").unlink()
    with pytest.raises(InputError, match=r"holds no N5 array"):
        open_volume(str(setup.with_name("setup2")))
