"""Hostile files: each is refused in one sentence, in bounded time and memory, and none makes anything run or wait."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
import zarr.codecs

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.volume.bounded import inflated, zstd_size
from pipeline.volume.cache import Cache
from pipeline.volume.limits import check_shape
from pipeline.volume.opening import open_volume
from pipeline.volume.own_folder import make_own
from pipeline.volume.stores import absolute_location
from pipeline.volume.web_index import check_redirect, page_at
from tests.volume.hostile_files import CASES, deflated, zeros
from tests.workflows.runs import ROOT, environment

MOST_BYTES, MOST_SECONDS = 500e6, 10.0
OPEN_ALL = """
import json, sys, time
from pipeline.errors import VoxcaliperError
from pipeline.volume.opening import open_volume

for name in sys.argv[1:]:
    began = time.monotonic()
    try:
        volume = open_volume(name, voxel_size_um=(1.0, 1.0, 1.0))
        kind, said = "read", str(volume.read(volume.box).shape)
    except VoxcaliperError as error:
        kind, said = "told", str(error)
    except Exception as error:
        kind, said = "raw", repr(error)
    with open("/proc/self/status") as status:  # getrusage counts what the parent had, too
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps([name, kind, said, time.monotonic() - began, peak]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process says of all of them, in their order; its peak grows from one to the next."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (_, make) in CASES.items():
        make(folder / name)
    zeros.cache_clear()
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, *(str(folder / name) for name in CASES)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(CASES), done.stderr
    return {Path(name).name: rest for name, *rest in lines}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_a_sentence_soon_and_in_little_memory(answers: dict[str, Any], name: str) -> None:
    kind, said, seconds, peak = answers[name]
    assert kind == "told", said
    assert re.search(CASES[name][0], said), said
    assert name in said
    assert "\n" not in said
    assert said.endswith(".")
    assert seconds < MOST_SECONDS
    assert peak < MOST_BYTES


@pytest.mark.parametrize("suffix", [".npy", ".nii", ".mha", ".nrrd", ".mrc", ".vtk", ".bmp", ".mgh"])
def test_whatever_a_header_says_there_are_voxels_or_one_sentence(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(7)
    heads = {
        ".npy": b"\x93NUMPY\1\0v\0{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4, 5), }".ljust(127) + b"\n",
        ".nii": _nifti_head(),
        ".mha": b"ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_USHORT\nElementDataFile = LOCAL\n",
        ".nrrd": b"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n\n",
        ".mrc": struct.pack("<10i", 5, 4, 3, 6, 0, 0, 0, 5, 4, 3).ljust(208, b"\0") + b"MAP DA\0\0" + bytes(808),
        ".vtk": b"# vtk DataFile Version 3.0\nt\nBINARY\nDATASET STRUCTURED_POINTS\nDIMENSIONS 5 4 3\nORIGIN 0 0 0\n"
        b"SPACING 1 1 1\nPOINT_DATA 60\nSCALARS v unsigned_short 1\nLOOKUP_TABLE default\n",
        ".bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1078 + 20, 0, 0, 1078, 40, 4, 5, 1, 8, 0, 20, 1, 1, 256, 0),
        ".mgh": struct.pack(">7i", 1, 5, 4, 3, 1, 4, 0).ljust(284, b"\0"),
    }
    told = 0
    for n in range(150):
        content = bytearray(heads[suffix] + bytes(2000))
        for _ in range(int(rng.integers(1, 5))):
            at, width = int(rng.integers(0, len(heads[suffix]))), int(rng.choice([1, 2, 4, 8]))
            value = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
            content[at : at + width] = bytes([int(value)]) * width
        path = tmp_path / f"{n}{suffix}"
        path.write_bytes(bytes(content))
        try:
            volume = open_volume(str(path))
            if volume.read_bytes(volume.shape) < 10**7:
                volume.read(volume.box)
        except VoxcaliperError:
            told += 1
    assert told > 5, "damage that nobody notices tests nothing"


def _nifti_head() -> bytes:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 5, 4, 3, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 512, 16)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return bytes(head)


def test_decoding_stops_at_the_limit_and_takes_what_fits() -> None:
    import gzip
    import zlib

    assert inflated(gzip.compress(b"abc") + gzip.compress(b"def"), 6) == b"abcdef"
    assert inflated(zlib.compress(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(ValueError, match="more than the 999 bytes"):
        inflated(zlib.compress(bytes(1000)), 999)
    with pytest.raises(ValueError, match="cut off"):
        inflated(deflated()[:1000], 2**20)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65791, 65792, 2**20])
def test_a_zstd_frame_says_how_much_it_holds(size: int) -> None:
    import numcodecs

    assert zstd_size(bytes(numcodecs.Zstd().encode(bytes(size)))) == size if size else True


@pytest.mark.parametrize("shape", [(1, -1, 1), (2**41, 1, 1), (2**21, 2**21, 2**21)])
def test_shapes_of_no_volume(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="its metadata are damaged"):
        check_shape("x", shape, (1, 1, 1))
    with pytest.raises(InputError, match="x is empty"):
        check_shape("x", (0, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    "address",
    [
        "https://h/v.zarr#sig=SECRET", "https://h/v.zarr;token=SECRET", "https://h/v.zarr%3Fsig=SECRET",
        "https://h/v.zarr%253Fsig=SECRET", "s3://b/v.zarr;token=SECRET", "https://h/a%23sig%3DSECRET/v.zarr",
        "https://h/v.zarr?sig=SECRET", "gs://b/v.zarr%26sig=SECRET",
    ],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(InputError, match="an address with a password or a signature") as caught:
        absolute_location(address)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("address", ["https://h/a%20b/v;1.zarr", "https://h/x=3/v.zarr", "s3://b/a#1/v.zarr"])
def test_an_address_without_a_secret_stays(address: str) -> None:
    assert absolute_location(absolute_location(address)) == absolute_location(address)


@pytest.fixture
def redirecting() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815  the server's names

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:22/", "http://169.254.169.254/", "http://[::1]/", "http://0.0.0.0/"]
)
def test_a_server_elsewhere_leads_to_nothing_inside(target: str) -> None:
    with pytest.raises(InputError, match="leads to an address inside of this machine"):
        check_redirect("http://192.0.2.7/data/", target)
    check_redirect("http://127.0.0.1:1/", target)
    check_redirect("http://192.0.2.7/data/", "http://192.0.2.8/")


def test_pages_are_read_through_that_check(redirecting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.web_index.is_inside", lambda url: "169.254" in url)
    with pytest.raises(InputError, match="leads to an address inside of this machine"):
        page_at(redirecting, 5.0)


def test_a_store_is_asked_where_it_leads(redirecting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.web_index.is_inside", lambda url: "169.254" in url)
    with pytest.raises(InputError, match="leads to an address inside of this machine"):
        open_volume(f"{redirecting}v.zarr")


def test_a_cache_in_a_folder_that_everybody_may_rename_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(StorageError, match="where everybody may rename it"):
        Cache(shared / "deeper" / "cache", 2**20)
    shared.chmod(0o1777)
    assert make_own(shared / "deeper" / "cache") == ""
    assert stat.S_IMODE((shared / "deeper" / "cache").stat().st_mode) == 0o700


def test_a_cache_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert "not a folder of this user alone" in make_own(tmp_path / "link")
    os.chmod(tmp_path / "own", 0o750)  # noqa: S103  what is refused
    assert "not a folder of this user alone" in make_own(tmp_path / "own")


def test_every_format_says_which_checksum_it_has(tmp_path: Path) -> None:
    from pipeline.volume.checksums import describe_checksums

    voxels = np.arange(512, dtype=np.uint16).reshape(8, 8, 8)
    found = {}
    written: dict[str, dict[str, Any]] = {
        "raw": {"compressors": None},
        "zstd": {"compressors": zarr.codecs.ZstdCodec(checksum=False)},
        "zstd with checksum": {"compressors": zarr.codecs.ZstdCodec(checksum=True)},
        "blosc": {"compressors": zarr.codecs.BloscCodec()},
        "gzip": {"compressors": zarr.codecs.GzipCodec()},
        "crc32c": {"compressors": (zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec())},
        "shards": {"compressors": zarr.codecs.Crc32cCodec(), "shards": (8, 8, 8)},
        "v2 zlib": {"compressors": numcodecs.Zlib(), "zarr_format": 2},
        "v2 blosc": {"compressors": numcodecs.Blosc(), "zarr_format": 2},
    }
    for name, options in written.items():
        chunks = (4, 4, 4)
        made = zarr.create_array(
            tmp_path / f"{name}.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=chunks, **options
        )
        made[:] = voxels
        found[name] = describe_checksums(open_volume(str(tmp_path / f"{name}.zarr")))
    np.save(tmp_path / "a.npy", voxels)
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    np.savez_compressed(tmp_path / "a.npz", voxels)
    found |= {name: describe_checksums(open_volume(str(tmp_path / f"a.{name}"))) for name in ("npy", "tif", "npz")}
    without = {name for name, said in found.items() if said.startswith("none")}
    assert without == {"raw", "zstd", "blosc", "v2 blosc", "npy"}
    assert found["tif"].startswith("Adler-32 where it is compressed by deflate; else none")
    assert found["shards"] == found["crc32c"] == "CRC-32C in every chunk"
    assert found["zstd with checksum"] == "XXH64 of zstd in every chunk"
