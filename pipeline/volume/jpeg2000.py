"""JPEG 2000 slices (.jp2 with its boxes, .j2k as a bare codestream): what the header says, and the plane itself.

imagecodecs decodes whole images and tells nothing before that; the few bytes that give a slice's shape and type are
read here, so that a stack is planned without decoding it.

The format has no checksum. What is cut off is told by its end, and most damage by the decoder; flipped bits that still
decode give other voxels without a word.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, ClassVar

import imagecodecs
import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_SIZ = struct.Struct(">4x 2x H 8I H 3B")


class Jpeg2000Slice:
    """A slice in an open file. Raises ValueError for what is no grey JPEG 2000 image, is cut off or damaged.

    shape : (y, x). dtype : numpy's name of it.
    """

    decodes_parts = False
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start, self._stop = _codestream(file)
        file.seek(start)
        siz = file.read(_SIZ.size)
        if len(siz) < _SIZ.size:
            raise ValueError("it ends in its header")
        _, right, bottom, left, top, *_, components, precision, step_x, step_y = _SIZ.unpack(siz)
        if components != 1:
            raise ValueError(f"it has {components} colours, and a slice is grey")
        if (step_x, step_y) != (1, 1):
            raise ValueError("it is subsampled")
        bits = (precision & 0x7F) + 1
        if bits > 16:  # the decoder gives other values than were stored beyond some depth
            raise ValueError(f"its values have {bits} bits, and no more than 16 are read; convert it to TIFF")
        self.shape: tuple[int, ...] = (bottom - top, right - left)
        self.dtype = f"{'int' if precision & 0x80 else 'uint'}{8 if bits <= 8 else 16}"

    def read(self, part: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Part of the slice (y, x)."""
        self._file.seek(0)
        content = self._file.read()
        # OpenJPEG fills up with zeros what follows a gap, without a word. Files may be padded with zeros.
        if not content[: self._stop].rstrip(b"\0").endswith(_END) or len(content) < (self._stop or 0):
            raise ValueError("its JPEG 2000 image has no end, so it is damaged or cut off")
        try:
            return np.asarray(imagecodecs.jpeg2k_decode(content, numthreads=1))[part]
        except imagecodecs.Jpeg2kError as error:
            raise ValueError("its JPEG 2000 image is damaged or cut off") from error

    @staticmethod
    def decode_bytes(pixels: int, itemsize: int) -> int:
        """Most memory of decoding: OpenJPEG's 32-bit samples, the plane, the content in two copies."""
        return pixels * (4 + 4 * itemsize)


def _codestream(file: BinaryIO) -> tuple[int, int | None]:
    """Where the codestream begins, at once or in the box jp2c, and ends; None for the end of the file."""
    first = file.read(12)
    if first[:4] == _CODESTREAM:
        return 0, None
    if first != _SIGNATURE:
        raise ValueError("it is no JPEG 2000 file")
    position = len(_SIGNATURE)
    while True:
        file.seek(position)
        box = file.read(16)
        if len(box) < 12:
            raise ValueError("it ends before its image")
        length, kind, head = int.from_bytes(box[:4]), box[4:8], 8
        if length == 1:
            length, head = int.from_bytes(box[8:16]), 16
        if kind == b"jp2c":
            return position + head, position + length if length else None
        if length < head:
            raise ValueError("it ends before its image")
        position += length
