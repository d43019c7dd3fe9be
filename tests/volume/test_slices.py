"""Folders of slices: order and gaps of names, slices that differ or are damaged, planes that are decoded once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box
from pipeline.volume import slice_names, slices
from pipeline.volume.opening import open_volume
from pipeline.volume.slice_names import check_names, natural
from pipeline.volume.web_index import page_at
from tests.volume.formats import jpeg2000, jpeg2000_slices, tiff_slices
from tests.volume.servers import Server, s3_bucket, web_server
from tests.volume.stores import grey, refused

VOXELS = grey((12, 20, 30), "uint16")
LAST = Box((11, 0, 0), (12, 20, 30))


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    return jpeg2000_slices(tmp_path / "stack", VOXELS)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_types_of_jpeg_2000(tmp_path: Path, dtype: str, suffix: str) -> None:
    voxels = grey((3, 20, 30), dtype)
    volume = open_volume(str(jpeg2000_slices(tmp_path / "s", voxels, suffix=suffix)))
    assert (volume.dtype, volume.shape, volume.chunk_shape) == (dtype, (3, 20, 30), (1, 20, 30))
    np.testing.assert_array_equal(volume.read(volume.box), voxels)


def test_twelve_bits_are_read_as_sixteen(tmp_path: Path) -> None:
    plane = grey((20, 30), "uint16")
    (tmp_path / "a1.jp2").write_bytes(imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, bitspersample=12))
    volume = open_volume(str(tmp_path))
    assert volume.dtype == "uint16"
    np.testing.assert_array_equal(volume.read(volume.box)[0], plane)


@pytest.mark.parametrize("bits", [17, 20, 24])
def test_more_than_sixteen_bits_are_refused(tmp_path: Path, bits: int) -> None:
    plane = grey((20, 30), "uint32") * 70
    content = imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, bitspersample=bits)
    (tmp_path / "a1.jp2").write_bytes(content)
    assert f"a1.jp2 is not a readable JPEG 2000 slice (its values have {bits} bits, and no more than 16" in refused(
        tmp_path
    )


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_zeros_behind_the_end(tmp_path: Path, suffix: str) -> None:
    content = jpeg2000(VOXELS[0], suffix)
    (tmp_path / f"a1.{suffix}").write_bytes(content + bytes(300))
    volume = open_volume(str(tmp_path))
    np.testing.assert_array_equal(volume.read(volume.box)[0], VOXELS[0])


def test_a_stack_is_listed_once(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, listing = list[str](), os.scandir

    def counted(path: str) -> Any:
        calls.append(os.path.join(path, ""))
        return listing(path)

    monkeypatch.setattr(os, "scandir", counted)
    volume = open_volume(str(stack))
    volume.read(LAST)
    assert calls == [f"{stack}/"]


def test_slices_that_lose_something_are_still_near(tmp_path: Path) -> None:
    """As the Human Organ Atlas publishes them, a tenth of the bytes; what the codec gives is what counts."""
    plane = (np.add.outer(np.arange(200), np.arange(300)) * 40).astype(np.uint16)
    content = imagecodecs.jpeg2k_encode(plane, level=40)
    (tmp_path / "a1.jp2").write_bytes(content)
    volume = open_volume(str(tmp_path))
    np.testing.assert_array_equal(volume.read(volume.box)[0], imagecodecs.jpeg2k_decode(content))


def test_a_stack_is_opened_without_decoding(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", decode)
    assert open_volume(str(stack)).shape == VOXELS.shape


def test_natural_order_and_other_files(tmp_path: Path) -> None:
    folder = tiff_slices(tmp_path / "s", VOXELS)  # slice0 … slice11
    (folder / "readme.txt").write_text("of the scanner")
    (folder / ".hidden.tif").write_bytes(b"")
    (folder / "thumbs").mkdir()
    volume = open_volume(str(folder))
    assert [volume.object_key((z, 0, 0)) for z in (0, 2, 10)] == ["slice0.tif", "slice2.tif", "slice10.tif"]
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)


@pytest.mark.parametrize(
    "names",
    [
        ["a1.tif", "a2.tif", "a3.tif"],
        ["a0010.tif", "a0020.tif", "a0030.tif"],  # every tenth
        ["a1.tif"],
        ["a1.tif", "a7.tif"],  # two slices have one step
        ["first.tif", "second.tif", "third.tif", "2.tif"],  # no pattern
        ["a²1.tif", "²2.tif"],  # a digit that is no number
        ["a1.tif", "a2.TIF", "A3.tiff"],
        ["a0.tif", "a13.tif", "a25.tif", "a38.tif"],  # rounded positions
        [f"scan_{20260 + z}_z{z:03}.tif" for z in range(6)],  # a counter beside z
        [f"s_{time}_z{z}.tif" for z, time in enumerate((103045, 103046, 103048, 103100))],  # a clock beside z
        [f"day{1 + z // 3}_z{z}.tif" for z in range(7)],
        [f"slice_{z * 195 / 1000:.3f}mm.tif" for z in range(12)],  # a position with a decimal point
        [f"s{z:02}_{z * 0.5:.1f}.tif" for z in range(4)],
        ["x-3155_D_4_bc_0001.tif", "x-3155_D_4_bc_0002.tif", "x-3155_D_4_bc_0003.tif"],
    ],
)
def test_numbers_without_a_gap(names: list[str]) -> None:
    check_names("folder", sorted(names, key=natural))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a1.tif", "a2.tif", "a4.tif"], "lacks the slice a3.tif, which would come after a2.tif"),
        (["a008.tif", "a009.tif", "a012.tif"], r"lacks the slice a010.tif \(and 1 more\), which would come after a009"),
        (["a10.tif", "a20.tif", "a40.tif", "a50.tif"], "lacks the slice a30.tif"),
        (["3_1_s.tif", "3_2_s.tif", "3_4_s.tif"], "lacks the slice 3_3_s.tif"),
        (["a1.tif", "a01.tif", "a2.tif"], "holds both a1.tif and a01.tif, which have one number"),
        (["a1.tif", "a01.tif"], "holds both a1.tif and a01.tif, which have one number"),
        (["a1.tif", "a1.TIF"], "holds both a1.tif and a1.TIF, which have one number"),
        (["a.tif", "A.tif"], "holds both a.tif and A.tif, which have one number"),
        (["S_1.tif", "s_2.TIF", "S_4.tif"], "lacks the slice s_3.TIF, which would come after s_2.TIF"),
        ([f"scan_{20260 + z}_z{z:03}.tif" for z in range(12) if z != 5], "lacks the slice scan_20265_z005.tif, which"),
        (
            [f"s_{10 * z + z % 2}_z{z}.tif" for z in range(9) if z != 4],
            r"lacks the slice s_\*_z4.tif, .* after s_31_z3",
        ),
        ([f"day{1 + z // 3}_z{z}.tif" for z in range(7) if z != 4], r"lacks the slice day\*_z4.tif"),
        (
            [f"{z * 195 / 1000:.3f}mm.tif" for z in range(12) if z not in (6, 9)],
            r"lacks the slice 1.170mm.tif \(and 1 m",
        ),
        (
            [f"img_channel{c:03}_position000_time000000000_z{z:03}.tif" for c in range(2) for z in range(6)],
            r"holds slices from .* whose names count by 2 numbers \(channel000 …, z000 …\), a grid of 2 × 6: channels",
        ),
        (
            [f"tile_{t}_z{z:03}.tif" for t in range(2) for z in range(6)],
            r"holds .* \(tile0 …, z000 …\), a grid of 2 × 6",
        ),
        (
            [f"t{t}_z{z}_c{c}.tif" for t in range(2) for z in range(3) for c in range(2)],
            r"holds .* a grid of 2 × 3 × 2:",
        ),
        ([f"c{n // 6}_z{n % 6}.tif" for n in range(11)], r"holds .* a grid of 2 × 6, of which 11 are there: channels"),
        ([f"img_{n:03}_c{n // 6}_z{n % 6}.tif" for n in range(12)], r"holds .* \(c0 …, z0 …\), a grid of 2 × 6: "),
        ([f"img.{c}.{z:03}.tif" for c in range(2) for z in range(6)], "holds .* a grid of 2 × 6"),
        ([f"z{z}_c{c}.tif" for c in range(2) for z in range(6)], r"holds .* \(z0 …, c0 …\), a grid of 6 × 2"),
        (["a1.tif", "a2.tif", "a3.tif", "average.tif"], "holds average.tif, whose name is not like those of the 3 sl"),
        (["a1.tif", "a2.tif", "mean.tif", "spare.tif", "x.tif"], r"holds mean.tif \(and 2 more\), whose name is not"),
        (
            ["a1.tif", "a2.tif", "b1.tif", "b2.tif"],
            r"holds b1.tif \(and 1 more\), whose .* from a1.tif to a2.tif; take",
        ),
    ],
)
def test_gaps_and_doubles(names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=f"^folder {words}"):
        check_names("folder", sorted(names, key=natural))


def test_a_stray_slice_is_no_plane(tmp_path: Path) -> None:
    for z in (0, 1, 2, 4, 5):
        tifffile.imwrite(tmp_path / f"s_{z:04}.tif", VOXELS[z])
    gap = f"{tmp_path} lacks the slice s_0003.tif, which would come after s_0002.tif"
    assert gap in refused(tmp_path)
    (tmp_path / "s_0004.tif").rename(tmp_path / "s_0004.TIF")
    assert gap in refused(tmp_path)
    tifffile.imwrite(tmp_path / "average.tif", VOXELS[0])
    assert f"{tmp_path} holds average.tif, whose name is not like those of the 5 slices" in refused(tmp_path)


def test_too_many_files(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_names, "MOST_FILES", 11)
    assert f"{stack} holds more than 11 files" in refused(stack)
    with web_server(stack, index=True) as server, pytest.raises(InputError, match="holds more than 11 files"):
        open_volume(server.url)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_unknown_url_is_not_fetched(tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "unknown").write_bytes(b"\x93" * 40 * 2**20)
    with web_server(tmp_path, ranges=ranges) as server:
        with pytest.raises(InputError, match=rf"{server.url}/unknown holds no volume"):
            open_volume(f"{server.url}/unknown")
        assert server.sent < 2**16


def test_of_what_is_no_page_only_the_beginning_is_read() -> None:
    server = Server(lambda *_: (200, {}, b"\x93" * 40 * 2**20))
    try:
        assert len(page_at(f"{server.url}/unknown/", 10)[1]) <= 2**16
    finally:
        server.stop()


def test_a_stack_in_a_bucket_is_listed_by_itself(stack: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in folders below it is not looked through."""
    (tmp_path / "home").mkdir()
    with s3_bucket(monkeypatch, tmp_path / "home") as bucket:
        url = bucket.upload(stack, "scans/stack")
        for number in range(20):
            bucket.upload(stack / "organ_000003.jp2", f"scans/stack/below/{number}.jp2")
        monkeypatch.setattr(slice_names, "MOST_FILES", 12)
        monkeypatch.setattr(slices, "MOST_FILES", 12)
        volume = open_volume(url)
        assert volume.stored_objects() == (12, sum(file.stat().st_size for file in stack.iterdir()))
        np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
        bucket.upload(stack / "organ_000003.jp2", "scans/stack/one-more.txt")
        with pytest.raises(InputError, match=r"scans/stack holds more than 12 files"):
            open_volume(url)


def test_a_slice_that_is_missing(stack: Path) -> None:
    volume = open_volume(str(stack))
    (stack / "organ_000007.jp2").unlink()
    assert f"{stack} lacks the slice organ_000007.jp2, which would come after organ_000006.jp2" in refused(stack)
    assert volume.missing_chunks(volume.box) == 1
    with pytest.raises(StorageError, match=r"organ_000007\.jp2 is missing; restore this slice"):
        volume.read(volume.box)
    np.testing.assert_array_equal(volume.read(LAST), VOXELS[LAST.slices])


def test_slices_that_were_added(stack: Path) -> None:
    volume = open_volume(str(stack))
    (stack / "organ_000012.jp2").write_bytes(jpeg2000(VOXELS[0]))
    code = (
        "import pickle, sys; volume = pickle.loads(sys.stdin.buffer.read())\n"
        "try: volume.read(volume.box)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )

    worker = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(volume), capture_output=True, check=True, cwd=Path.cwd()
    )
    assert worker.stdout.decode().startswith(f"StorageError {stack} holds other slices than when it was opened (13")


@pytest.mark.parametrize("where", ["local", "http"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "other"])
def test_a_slice_that_is_damaged_later(stack: Path, where: str, damage: str) -> None:
    """The header may stay readable; then only reading tells."""
    victim = stack / "organ_000007.jp2"
    with web_server(stack, index=True) as server:
        volume = open_volume(str(stack) if where == "local" else server.url)
        content = victim.read_bytes()
        if damage == "cut":
            victim.write_bytes(content[: len(content) // 2])
        elif damage == "zeros":
            victim.write_bytes(content[:400] + bytes(len(content) - 400))
        else:
            victim.write_bytes(b"" if damage == "empty" else jpeg2000(VOXELS[0, :, :29]))
        with pytest.raises(
            StorageError, match=r"organ_000007\.jp2 (cannot be read \(it|is \(20, 29\) uint16, but the other)"
        ):
            volume.read(volume.box)
        np.testing.assert_array_equal(volume.read(LAST), VOXELS[LAST.slices])


def test_slices_that_do_not_agree(stack: Path, tmp_path: Path) -> None:
    victim = stack / "organ_000007.jp2"
    victim.write_bytes(jpeg2000(VOXELS[0, :, :29]))
    first = "but the first slice organ_000000.jp2 is (20, 30) uint16; all slices must agree"
    assert f"{victim} is (20, 29) uint16, {first}" in refused(stack)
    victim.write_bytes(jpeg2000(VOXELS[0].astype(np.uint8)))
    assert f"{victim} is (20, 30) uint8, {first}" in refused(stack)
    colour = np.stack([VOXELS[0]] * 3, axis=-1)
    victim.write_bytes(jpeg2000(colour))
    assert f"{victim} is not a readable JPEG 2000 slice (it has 3 colours, and a slice is grey)" in refused(stack)
    victim.write_bytes(b"no image at all")
    assert "(it is no JPEG 2000 file)" in refused(stack)
    victim.write_bytes(jpeg2000(VOXELS[0])[:50])
    assert f"{victim} is not a readable JPEG 2000 slice (it ends" in refused(stack)
    other = tiff_slices(tmp_path / "s", VOXELS)
    tifffile.imwrite(other / "slice3.tif", colour, photometric="rgb")
    assert "slice3.tif is not a readable TIFF slice (it has the shape (20, 30, 3), and a slice has two" in refused(
        other
    )
    tifffile.imwrite(stack / "slice3.tif", VOXELS[0])
    assert f"{stack} holds both slice3.tif and organ_000000.jp2; give each stack a folder" in refused(stack)


def test_a_web_server_without_an_index(stack: Path) -> None:
    with web_server(stack) as server, pytest.raises(InputError, match="holds no volume"):
        open_volume(server.url)


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decode, lengths = imagecodecs.jpeg2k_decode, list[int]()

    def counted(content: bytes, **options: Any) -> npt.NDArray[Any]:
        lengths.append(len(content))
        return np.asarray(decode(content, **options))

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", counted)
    return lengths


def test_blocks_of_a_row_decode_a_plane_once(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = open_volume(str(stack))
    decoded = count_decoding(monkeypatch)
    quarters = [Box((0, y, x), (12, y + 10, x + 15)) for y in (0, 10) for x in (0, 15)]
    threads = [threading.Thread(target=volume.read, args=(box,)) for box in quarters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 12
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    assert len(decoded) == 12
    (stack / "organ_000003.jp2").write_bytes(jpeg2000(VOXELS[4]))
    np.testing.assert_array_equal(volume.read(volume.box)[3], VOXELS[4])
    assert len(decoded) == 13


def test_planes_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the planes of a thin block do not fit, none is kept."""
    assert slices._planes.n == slices.PLANES_BYTES
    stack = jpeg2000_slices(tmp_path / "s", VOXELS)
    monkeypatch.setattr(slices, "PLANES_BYTES", VOXELS.nbytes - 1)
    volume = open_volume(str(stack))
    assert volume.kept_bytes == 0
    decoded = count_decoding(monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    assert len(decoded) == 24


MEASURE = """
import re, sys
from pathlib import Path
from pipeline.volume.opening import open_volume
from pipeline.geometry import Box
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
volume = open_volume(sys.argv[1])
volume.read(Box((0, 0, 0), (1, 8, 8)))  # what is loaded once is not part of the sum
large = open_volume(sys.argv[2])
box = Box((0, 100, 100), (large.shape[0], 400, 400))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is taken now
before = peak()
large.read(box)
print(peak() - before, large.read_bytes(box.shape) + large.kept_bytes)
"""


@pytest.mark.parametrize(("dtype", "kind"), [("uint8", "jp2"), ("uint16", "jp2"), ("uint16", "tif")])
def test_memory_of_decoding(tmp_path: Path, dtype: str, kind: str) -> None:
    """OpenJPEG takes its memory from the system, so the process is measured; voxels are noise, the worst there is."""
    limits = np.iinfo(dtype)
    noise = np.random.default_rng(0).integers(limits.min, limits.max, (2, 1500, 1500), dtype=dtype)
    if kind == "jp2":
        warm = jpeg2000_slices(tmp_path / "warm", VOXELS)
        large = jpeg2000_slices(tmp_path / "large", noise)
    else:
        warm = tiff_slices(tmp_path / "warm", VOXELS, compression="zlib")
        large = tiff_slices(tmp_path / "large", noise, compression="zlib")
    command = [sys.executable, "-c", MEASURE, str(warm), str(large)]
    measured = subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    taken, formula = map(int, measured.stdout.split())
    assert noise[0].nbytes < taken <= formula + 2 * 2**20


def test_large_slices_come_in_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "PIECE_BYTES", 1000)
    voxels = grey((2, 400, 500), "uint16")
    stack = jpeg2000_slices(tmp_path / "s", voxels)
    with web_server(stack, index=True) as server:
        volume = open_volume(server.url)
        server.clear()
        np.testing.assert_array_equal(volume.read(volume.box), voxels)
        fetched = [request.sent for request in server.requests if request.method == "GET"]
        assert len(fetched) == 4  # the header and the rest of each
        assert sum(fetched) <= sum(file.stat().st_size for file in stack.iterdir()) + 2 * 2**16


def test_slices_of_an_ome_tiff_in_many_files(tmp_path: Path) -> None:
    """Each of them describes the whole stack."""
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="slice{z}.tif">urn:uuid:{z:032x}</UUID></TiffData>'
        for z in range(len(VOXELS))
    )
    for z, plane in enumerate(VOXELS):
        text = (
            f'<?xml version="1.0"?><OME UUID="urn:uuid:{z:032x}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16"'
            f' SizeX="30" SizeY="20" SizeZ="12" SizeC="1" SizeT="1">{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"slice{z}.tif", plane, photometric="minisblack", description=text, metadata=None)
    with tifffile.TiffFile(tmp_path / "slice3.tif") as tiff:
        assert tiff.series[0].shape == VOXELS.shape
    volume = open_volume(str(tmp_path))
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
