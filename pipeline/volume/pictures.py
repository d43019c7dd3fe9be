"""Pictures: a PNG or BMP file as a volume of one plane."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pipeline.geometry import Index
from pipeline.volume.flat import NotAVolumeError

DTYPES = {"1": "bool", "L": "uint8", "P": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32"}
"""Type of the pixels of Pillow's modes with one value each. P, a palette: its index, which is what labels are."""

Image.MAX_IMAGE_PIXELS = None  # how much memory a picture takes is part of a plan, which refuses what does not fit


class Picture:
    """A picture in an open file. Raises NotAVolumeError for colours, ValueError for what is damaged.

    shape : (1, y, x). dtype : of its pixels. Grey of 2 or 4 bits is spread over 8, as every viewer shows it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        with _opened(file) as image:
            if image.mode not in DTYPES:
                raise NotAVolumeError(
                    f"holds {image.mode} pixels, several values each; one grey value or label is needed, so convert it"
                    " to grey"
                )
            self.shape: Index = (1, image.height, image.width)
            self.dtype = np.dtype(DTYPES[image.mode])

    def read(self) -> npt.NDArray[Any]:
        """All pixels (1, y, x)."""
        self._file.seek(0)
        content = io.BytesIO(self._file.read())  # first, so that what Pillow raises is about the content
        try:
            with _opened(content) as image:
                return np.asarray(image, self.dtype)[None]
        except (OSError, SyntaxError) as error:
            raise ValueError(str(error)) from error

    @property
    def decode_bytes(self) -> int:
        """Most memory that `read` takes: the file, Pillow's pixels, and their copies as bytes and as an array."""
        return 5 * self.shape[1] * self.shape[2] * self.dtype.itemsize


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=("PNG", "BMP"))
    except UnidentifiedImageError as error:
        raise ValueError("it is no such picture") from error
