"""TIFF: what a file says of its images, and voxels out of them, of volumes in one file and of slices.

A file whose voxels lie one after the other is read as such; of others only the strips or tiles are decoded that a box
touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.errors import VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.volume.choice import Choice, Kind
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.metadata import plane_size_of, unit_um, voxel_size_of
from pipeline.volume.tiff_metadata import ome_pixels, ome_placement, white_as_zero, white_bits
from pipeline.volume.tiff_pages import check_one_file, chosen_planes, one_after_the_other, pixels_tag, read_volume

Stated = Callable[[list[Decimal | None], list[Decimal | None]], VoxelSize | None]
"""Makes a voxel size of what is stated along z, y, x, and of µm per unit."""
STACK: Index = (2, 1, 1)
"""The shape of anything that needs a size along z, too."""


@contextmanager
def _damage_said() -> Iterator[None]:
    """The library and its codecs raise whatever they like where a file is damaged; here, all of it is a ValueError."""
    try:
        yield
    except (MemoryError, OSError, ValueError, VoxcaliperError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


@contextmanager
def _opened(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffFile]:
    """A file that may be closed as long as it is not read: those of an OME-TIFF in several."""
    if not tiff.filehandle.closed:
        yield tiff
        return
    tiff.filehandle.open()
    try:
        yield tiff
    finally:
        tiff.filehandle.close()


class TiffVolume:
    """An open file with one grey volume. Raises ValueError, saying what is there instead, for any other content.

    shape, chunk_shape : voxels (z, y, x). flat : where the voxels lie, if one after the other.
    selection : channel and time point that were chosen (pipeline.volume.choice).
    warnings : the rest of sentences that begin with the file's name.
    """

    def __init__(self, file: BinaryIO | tifffile.TiffFile, name: str, choice: Choice) -> None:
        self._file = file
        with _damage_said():
            self._tiff = file if isinstance(file, tifffile.TiffFile) else tifffile.TiffFile(file)
            found = list(self._tiff.series)
            series, self._pages = found[0], one_after_the_other(found)
            if self._pages is None and len(found) != 1:
                kinds = ", ".join(f"{' × '.join(map(str, series.shape))} {series.dtype}" for series in found[:4])
                raise NotAVolumeError(
                    f"holds {len(found)} images ({kinds}{' …' if len(found) > 4 else ''});"
                    " store the volume in a file of its own"
                )
            self.selection: tuple[tuple[Kind, int], ...] = ()
            self.flat, self._in_volumes = None, False
            if self._pages is not None:
                self._planes = range(len(self._pages))
                self.shape = volume_shape((len(self._pages), *series.shape[-2:]))
            else:
                check_one_file(self._tiff, series)
                self._pages = series.pages
                self._planes, self.selection = chosen_planes(self._tiff, series, name, choice)
                self.shape = volume_shape((len(self._planes), *series.shape[-2:]))
                self.flat = _flat(self._tiff, self.shape, self._planes)
                pages, count = len(series.pages), math.prod(series.shape[:-2])
                self._in_volumes = pages == 1 < count == series.keyframe.imagedepth == self.shape[0]
                if self.flat is None and pages != count and not self._in_volumes:
                    raise NotAVolumeError(f"holds {count} planes in {pages} pages; store one in each")
            self.dtype = np.dtype(series.dtype).newbyteorder("=")
            self.white_bits, self.warnings = white_bits(series.keyframe), white_as_zero(series.keyframe)
            self.voxel_size = _voxel_size(self._tiff, self.shape, self.warnings)
            self.placement = ome_placement(self._tiff)
            chunks = [one.keyframe.chunks for one in found]
            depth = int(series.keyframe.chunks[0]) if self._in_volumes and len(series.keyframe.chunks) == 3 else 1
            self.chunk_shape: Index = (depth, max(int(c[-2]) for c in chunks), max(int(c[-1]) for c in chunks))

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x), plane by plane, of a file that is not flat."""
        voxels = np.empty(box.shape, self.dtype)
        with _damage_said():
            if self._in_volumes:
                found = read_volume(self._tiff, self._pages[0], box)
                return ~found if self.white_bits else found
            for z in range(box.start[0], box.stop[0]):
                page = self._pages[self._planes[z]]
                with _opened(page.parent) as tiff:
                    voxels[z - box.start[0]] = _read_page(tiff, page, box.slices[1:])
        return voxels

    @property
    def places(self) -> Iterator[tuple[str, int]]:
        """Of the planes: the name of their file and the index of their page in it."""
        return ((page.parent.filename, page.index) for page in (self._pages[plane] for plane in self._planes))


class TiffSlice:
    """A slice in an open file. Raises ValueError for what is none, is cut off or damaged.

    shape : (y, x). dtype : numpy's name of it. warnings : as of a `TiffVolume`.
    """

    decodes_parts = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        with _damage_said():
            self._tiff = tifffile.TiffFile(file)
            # An OME-TIFF slice may describe the whole stack, and its series would be made of all files.
            self._alone = bool(self._tiff.is_ome) and len(self._tiff.pages) == 1
            self._page: Any = self._tiff.pages.first
            found = self._page if self._alone else self._tiff.series[0]
            self.shape = tuple(map(int, found.shape))
            self.dtype = np.dtype(found.dtype).newbyteorder("=").name
            self.warnings = white_as_zero(self._page.keyframe)
        if len(self.shape) != 2:
            raise ValueError(f"it has the shape {self.shape}, and a slice has two axes")

    def read(self, part: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Part of the slice (y, x)."""
        with _damage_said():
            flat = None if self._alone else _flat(self._tiff, (1, self.shape[0], self.shape[1]), range(1))
            if flat is not None:
                box = Box((0, part[0].start, part[1].start), (1, part[0].stop, part[1].stop))
                plane: npt.NDArray[Any] = flat.read(self._read_at, box)[0]
                return plane
            return _read_page(self._tiff, self._page, part)

    @property
    def voxel_size(self) -> VoxelSize | None:
        """What the slice says of the voxels of its stack (ImageJ with a spacing, OME-XML); None where it does not."""
        # Of OME-XML the one tag alone: every slice may describe all of them.
        with _damage_said():
            return _size_of(pixels_tag(self._tiff)) if self._tiff.ome_metadata else _voxel_size(self._tiff, STACK, [])

    def _read_at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    @staticmethod
    def decode_bytes(pixels: int, itemsize: int) -> int:
        """Most memory that reading a plane takes: its strips as stored and decoded, and the part that is wanted."""
        return 4 * pixels * itemsize


def _flat(tiff: tifffile.TiffFile, shape: Index, planes: range) -> Flat | None:
    series = tiff.series[0]
    if series.dataoffset is None or white_bits(series.keyframe):
        return None
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    plane = shape[1] * shape[2] * dtype.itemsize
    step = planes.step * plane if planes.step > 1 else None
    return Flat(int(series.dataoffset) + planes.start * plane, shape, dtype, step=step)


def _read_page(tiff: tifffile.TiffFile, page: Any, part: tuple[slice, slice]) -> npt.NDArray[Any]:
    """Part of a plane (y, x) out of the strips or tiles that it touches; what the file leaves out is stored as zero."""
    keyframe = page.keyframe
    lines, columns = map(int, keyframe.chunks[-2:])
    across = -(-keyframe.imagewidth // columns)
    rows = range(part[0].start // lines, -(-part[0].stop // lines))
    segments = [
        row * across + column for row in rows for column in range(part[1].start // columns, -(-part[1].stop // columns))
    ]
    offsets, counts = ([table[index] for index in segments] for table in (page.dataoffsets, page.databytecounts))
    plane = np.zeros([side.stop - side.start for side in part], np.dtype(keyframe.dtype).newbyteorder("="))
    for content, index in tiff.filehandle.read_segments(offsets, counts, indices=segments):
        decoded, (_, _, top, left, _), _ = keyframe.decode(content, index)
        if decoded is None:
            continue
        segment = decoded[0, :, :, 0]
        y0, x0 = max(part[0].start, top), max(part[1].start, left)
        y1, x1 = min(part[0].stop, top + segment.shape[0]), min(part[1].stop, left + segment.shape[1])
        plane[y0 - part[0].start : y1 - part[0].start, x0 - part[1].start : x1 - part[1].start] = segment[
            y0 - top : y1 - top, x0 - left : x1 - left
        ]
    return ~plane if white_bits(keyframe) else plane


def _size_of(pixels: Mapping[str, str], stated: Stated = voxel_size_of) -> VoxelSize | None:
    """Out of the attributes of OME-XML's Pixels."""
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    units = [unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"]
    return stated([Decimal(size) if size else None for size in sizes], units) if any(sizes) else None


def _voxel_size(tiff: tifffile.TiffFile, shape: Index, warnings: list[str]) -> VoxelSize | None:
    """From OME-XML or ImageJ's description, where all axes and units are stated; one plane need not say z."""

    def stated(sizes: list[Decimal | None], units: list[Decimal | None]) -> VoxelSize | None:
        return plane_size_of(sizes, units, warnings) if shape[0] == 1 else voxel_size_of(sizes, units)

    if tiff.ome_metadata:
        pixels = ome_pixels(tiff)
        return _size_of({} if pixels is None else pixels.attrib, stated)
    imagej = tiff.imagej_metadata or {}
    # Units along y and z are written only where they differ.
    names = [imagej.get(f"{axis}unit", imagej.get("unit", "")) for axis in ("z", "y", "")]
    imagej_units = [unit_um(str(name).replace("\\u00B5", "µ")) for name in names]
    tags = tiff.pages.first.tags
    if not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return None
    # ImageJ counts pixels per unit as a ratio of two integers; six digits are what survives that.
    (y, y_per), (x, x_per) = tags["YResolution"].value, tags["XResolution"].value
    sides = [imagej.get("spacing"), y_per / y if y else None, x_per / x if x else None]
    return stated([Decimal(f"{side:.6g}") if side else None for side in sides], imagej_units)
