"""Decoding that ends where more comes out than a chunk has room for, instead of filling the memory with it.

Where the compressed bytes say how much they hold (Blosc, LZ4, most zstd), that is compared before anything is decoded;
where they do not, or may lie (gzip, zlib, bzip2, LZMA), decoding stops at the limit.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import imagecodecs
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from pipeline.volume.limits import room

GZIP, ZLIB, ANY, BARE = 31, 15, 47, -15
"""zlib's numbers of its formats."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
RUNS_CODE = frozenset({"pickle", "json2", "msgpack2", "msgpack", "categorize", "vlen-utf8", "vlen-bytes", "vlen-array"})
"""Filters of Python objects, which no voxel needs."""


def inflated(content: bytes, most: int, window_bits: int = ANY) -> bytes:
    """Deflated bytes inflated, all members of gzip. Raises ValueError where they are damaged, cut, or hold more."""
    parts, size, rest = [], 0, content
    try:
        while True:
            stream = zlib.decompressobj(window_bits)
            part = stream.decompress(rest, most - size + 1)
            if (size := size + len(part)) > most:
                raise _too_much(most)
            parts.append(part)
            if not stream.eof:
                raise ValueError("its compressed data are cut off")
            rest = stream.unused_data
            if window_bits not in (GZIP, ANY) or not rest.startswith(b"\x1f\x8b"):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    except zlib.error as error:
        raise ValueError(f"its compressed data are damaged ({error})") from error


def zstd_size(content: bytes) -> int | None:
    """What the first frame says that it holds; None where it does not. Raises ValueError where it is none."""
    if len(content) < 6 or content[:4] != ZSTD_MAGIC:
        raise ValueError("its zstd frame is damaged or cut off")
    descriptor = content[4]
    flag, single = descriptor >> 6, descriptor >> 5 & 1
    if not flag and not single:
        return None
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    width = (1, 2, 4, 8)[flag]
    return int.from_bytes(content[at : at + width], "little") + (256 if width == 2 else 0)


def _zstd(content: bytes, most: int, decode: Callable[[Any], Any]) -> Any:
    size = zstd_size(content)
    if size is not None:
        _check(size, most)
        return decode(content)
    try:
        return imagecodecs.zstd_decode(content, out=most)
    except imagecodecs.ZstdError as error:
        raise ValueError(f"its zstd data are damaged, cut off or hold more than the {most:,} bytes they may") from error


def check_blosc(content: bytes, most: int) -> None:
    """Raise ValueError where a stream of Blosc says that it holds more than so many bytes."""
    if len(content) < 16:
        raise ValueError(f"it was cut off after {len(content):,} bytes, within its header")
    _check(int.from_bytes(content[4:8], "little"), most)


def _blosc(content: bytes, most: int, decode: Callable[[Any], Any]) -> Any:
    check_blosc(content, most)
    return decode(content)


def _lz4(content: bytes, most: int, decode: Callable[[Any], Any]) -> Any:
    _check(int.from_bytes(content[:4], "little"), most)
    return decode(content)


def _streamed(kind: Callable[[], Any]) -> Callable[[bytes, int, Callable[[Any], Any]], bytes]:
    def decode(content: bytes, most: int, _: Callable[[Any], Any]) -> bytes:
        stream = kind()
        try:
            part = bytes(stream.decompress(content, most + 1))
        except (OSError, lzma.LZMAError) as error:
            raise ValueError(f"its compressed data are damaged ({error})") from error
        if len(part) > most:
            raise _too_much(most)
        if not stream.eof:
            raise ValueError("its compressed data are cut off")
        return part

    return decode


BOUNDED: dict[str, Callable[[bytes, int, Callable[[Any], Any]], Any]] = {
    "gzip": lambda content, most, _: inflated(content, most, GZIP),
    "zlib": lambda content, most, _: inflated(content, most, ZLIB),
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
    "bz2": _streamed(bz2.BZ2Decompressor),
}
"""By the name that numcodecs gives to a compression."""


def decoded(codec: Any, content: Any, most: int, decode: Callable[[Any], Any]) -> Any:
    """What a compression of numcodecs makes of a chunk, no more than so many bytes.

    decode : its own way. Raises ValueError where the content is damaged or holds more.
    """
    kind = kind_of(codec)
    if kind == "lzma":
        stated = getattr(codec, "codec_config", None) or codec.get_config()
        form, filters = stated.get("format", lzma.FORMAT_XZ), stated.get("filters")
        # Only raw streams do not say themselves through which filters they went.
        raw = {"filters": filters} if form == lzma.FORMAT_RAW else {}
        stream = _streamed(lambda: lzma.LZMADecompressor(form, **raw))
        return stream(bytes(memoryview(content)), most, decode)
    if kind in BOUNDED:
        return BOUNDED[kind](bytes(memoryview(content)), most, decode)
    found = decode(content)
    _check(memoryview(found).nbytes, most)
    return found


def _check(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"its compressed data hold {size:,} bytes, and its voxels take no more than {most:,}")


def _too_much(most: int) -> ValueError:
    return ValueError(f"its compressed data hold more than the {most:,} bytes that its voxels may take")


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):
    """A compression of Zarr v3 that decodes no more than a chunk has room for."""

    inner: Any

    is_fixed_size = False

    def to_dict(self) -> Any:
        return self.inner.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return int(self.inner.compute_encoded_size(input_byte_length, chunk_spec))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        size = chunk_spec.dtype.to_native_dtype().itemsize
        for side in chunk_spec.shape:
            size *= side
        kind = kind_of(self.inner)
        if kind in ("gzip", "zlib", "bz2", "lzma"):
            body = await asyncio.to_thread(decoded, self.inner, chunk_data.to_bytes(), room(size), bytes)
            return chunk_spec.prototype.buffer.from_bytes(body)
        if kind == "zstd" and zstd_size(chunk_data.to_bytes()) is None:
            body = await asyncio.to_thread(_zstd, chunk_data.to_bytes(), room(size), bytes)
            return chunk_spec.prototype.buffer.from_bytes(bytes(body))
        if kind in BOUNDED:
            decoded(self.inner, chunk_data.as_numpy_array(), room(size), lambda _: b"")
        found = cast(Buffer, await self.inner._decode_single(chunk_data, chunk_spec))  # noqa: SLF001  as pipelines do
        _check(len(found), room(size))
        return found


@dataclass(frozen=True)
class BoundedCompressor:
    """A compression of Zarr v2 that decodes no more than so many bytes."""

    inner: Any
    most: int

    def decode(self, content: Any) -> Any:
        """As of any codec of numcodecs."""
        return decoded(self.inner, content, self.most, self.inner.decode)


def kind_of(codec: Any) -> str:
    """The name of a compression in numcodecs' words."""
    stated = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
    return str(stated).removeprefix("numcodecs.").lower().removesuffix("codec")


def bounded(pipeline: Any, chunk_bytes: int) -> Any:
    """A pipeline of Zarr's codecs, or a part of it, in which no compression decodes more than its chunk has room for.

    chunk_bytes : of the smallest readable unit. Raises ValueError for filters that would run code out of the store.
    """
    (inner,) = _all((pipeline.array_bytes_codec,), chunk_bytes)
    return replace(pipeline, array_bytes_codec=inner, bytes_bytes_codecs=_all(pipeline.bytes_bytes_codecs, chunk_bytes))


def _all(codecs: Iterable[Codec], chunk_bytes: int) -> tuple[Any, ...]:
    return tuple(_one(codec, chunk_bytes) for codec in codecs)


def _one(codec: Any, chunk_bytes: int) -> Any:
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=_all(codec.codecs, chunk_bytes))
    if isinstance(codec, V2Codec):
        for part in (*(codec.filters or ()), codec.compressor):
            if kind_of(part) in RUNS_CODE:
                raise ValueError(f"it goes through the filter {kind_of(part)}, which is for objects and not read")
        packed = frozenset({*BOUNDED, "lzma"})
        filters = tuple(
            BoundedCompressor(part, room(chunk_bytes)) if kind_of(part) in packed else part
            for part in codec.filters or ()
        )
        compressor = BoundedCompressor(codec.compressor, room(chunk_bytes)) if codec.compressor else None
        return replace(codec, filters=cast(Any, filters) or None, compressor=cast(Any, compressor))
    if isinstance(codec, BytesBytesCodec) and (kind_of(codec) in BOUNDED or "numcodecs" in type(codec).__module__):
        return BoundedCodec(codec)
    return codec
