"""Slices as PNG (SkyScan's, masks of annotators) and BMP: grey, one bit, or indices of a palette, which are labels.

PNG's checksums are checked; BMP has none, so that flipped bits in it are other voxels without a word.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

DTYPES = {"1": "bool", "L": "uint8", "P": "uint8", "I;16": "uint16", "I;16B": "uint16"}
"""By Pillow's names of what has one value in each pixel."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PictureSlice:
    """A slice in an open file. Raises ValueError for what is no grey PNG or BMP, is cut off or damaged.

    shape : (y, x). dtype : numpy's name of it. Grey of 2 or 4 bits is spread over 8, as every viewer shows it.
    warnings : none.
    """

    decodes_parts = False
    warnings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        with _opened(file) as image:
            if image.mode not in DTYPES:
                raise ValueError(f"it has several values in each pixel ({image.mode}), and a slice is grey")
            if image.mode == "P" and not _is_index(image):
                raise ValueError("it has a palette of greys that do not go up; convert it to grey")
            self.shape: tuple[int, ...] = (image.height, image.width)
            self.dtype = DTYPES[image.mode]

    def read(self, part: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Part of the slice (y, x)."""
        self._file.seek(0)
        content = self._file.read()
        if content.startswith(SIGNATURE):
            _check(content)
        try:
            with _opened(io.BytesIO(content)) as image:
                return np.asarray(image, self.dtype)[part]
        except (OSError, SyntaxError) as error:
            raise ValueError(str(error)) from error

    @staticmethod
    def decode_bytes(pixels: int, itemsize: int) -> int:
        """Most memory of decoding: the content, Pillow's pixels, their copies as bytes and as an array."""
        return 5 * pixels * itemsize


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=("PNG", "BMP"))
    except (UnidentifiedImageError, SyntaxError, IndexError) as error:
        raise ValueError("it is no PNG or BMP picture") from error
    except Image.DecompressionBombError as error:
        raise ValueError("it has more pixels than Pillow takes; convert it to TIFF") from error


def _is_index(image: Image.Image) -> bool:
    """Whether a palette has colours, or greys that go up; else indices are not in the order of the greys."""
    palette = np.asarray(image.getpalette("RGB") or (), np.uint8).reshape(-1, 3)
    greys = bool((palette == palette[:, :1]).all())
    return not greys or bool((np.diff(palette[:, 0].astype(int)) >= 0).all())


def _check(content: bytes) -> None:
    """Raise ValueError where a chunk of a PNG is cut off or does not match its checksum; Pillow looks at some alone."""
    position = len(SIGNATURE)
    while True:
        length, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        end = position + 8 + length
        if len(content) < end + 4:
            raise ValueError("its PNG picture is cut off")
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError("its PNG picture is damaged, a checksum does not match")
        if kind == b"IEND":
            return
        position = end + 4
