"""NumPy's .npz with one array, stored as it is or deflated: the member of a ZIP archive that is an .npy file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np

from pipeline.volume.file_header import FileHeader
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.inflated import BARE, Deflated
from pipeline.volume.ranged import HEADER_BYTES, RangedFile


def read_npz(file: RangedFile) -> FileHeader:
    """The header of the array. Raises ValueError for what is no archive, NotAVolumeError where it holds no volume."""
    with zipfile.ZipFile(file.buffered()) as archive:
        members = archive.infolist()
    if len(members) != 1:
        held = ", ".join(member.filename.removesuffix(".npy") for member in members[:8])
        raise NotAVolumeError(f"holds {len(members)} arrays ({held}); save the volume alone, with numpy.save")
    member = members[0]
    file = RangedFile(file.store)  # the archive closed the other one
    name, extra = struct.unpack("<2H", file.read_at(member.header_offset + 26, 4))
    start = member.header_offset + 30 + name + extra
    content = file.read_at(start, min(HEADER_BYTES, member.compress_size))
    deflated = None
    if member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(BARE).decompress(content, HEADER_BYTES)
        deflated = Deflated(start, start + member.compress_size, BARE, member.CRC)
    elif member.compress_type != zipfile.ZIP_STORED:
        raise NotAVolumeError("is compressed in a way that is not read; save it with numpy.savez_compressed")
    opened = io.BytesIO(content)
    version = np.lib.format.read_magic(opened)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(opened)
    if dtype.hasobject:
        raise NotAVolumeError("holds Python objects; save numbers")
    offset = opened.tell() + (0 if deflated else start)
    flat = Flat(offset, volume_shape(shape), dtype, "xyz" if fortran else "zyx")
    return FileHeader("NumPy .npz", flat, deflated=deflated)
