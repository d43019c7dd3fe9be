"""TIFF: what a file says of its images, and voxels out of them, of volumes in one file and of slices.

A file whose voxels lie one after the other is read as such; of others only the strips or tiles are decoded that a box
touches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import product
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.errors import VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.volume.choice import Choice, Kind, positions
from pipeline.volume.flat import Flat, NotAVolumeError, volume_shape
from pipeline.volume.metadata import unit_um, voxel_size_of


@contextmanager
def _damage_said() -> Iterator[None]:
    """The library and its codecs raise whatever they like where a file is damaged; here, all of it is a ValueError."""
    try:
        yield
    except (MemoryError, OSError, ValueError, VoxcaliperError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


class TiffVolume:
    """An open file with one grey volume. Raises ValueError, saying what is there instead, for any other content.

    shape, chunk_shape : voxels (z, y, x). flat : where the voxels lie, if one after the other.
    selection : channel and time point that were chosen (pipeline.volume.choice).
    """

    def __init__(self, file: BinaryIO, name: str, choice: Choice) -> None:
        self._file = file
        with _damage_said():
            self._tiff = tifffile.TiffFile(file)
            found = list(self._tiff.series)
            series, self._pages = found[0], _one_after_the_other(found)
            if self._pages is None and len(found) != 1:
                kinds = ", ".join(f"{_times(series.shape)} {series.dtype}" for series in found[:4])
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
                _check_one_file(self._tiff, series)
                self._pages, self._planes = series.pages, self._chosen_planes(series, name, choice)
                self.shape = volume_shape((len(self._planes), *series.shape[-2:]))
                self.flat = _flat(self._tiff, self.shape, self._planes)
                pages, count = len(series.pages), math.prod(series.shape[:-2])
                self._in_volumes = pages == 1 < count == series.keyframe.imagedepth == self.shape[0]
                if self.flat is None and pages != count and not self._in_volumes:
                    raise NotAVolumeError(f"holds {count} planes in {pages} pages; store one in each")
            self.dtype = np.dtype(series.dtype).newbyteorder("=")
            self.voxel_size = _voxel_size(self._tiff)
            chunks = [one.keyframe.chunks for one in found]
            depth = int(series.keyframe.chunks[0]) if self._in_volumes and len(series.keyframe.chunks) == 3 else 1
            self.chunk_shape: Index = (depth, max(int(c[-2]) for c in chunks), max(int(c[-1]) for c in chunks))

    def _chosen_planes(self, series: Any, name: str, choice: Choice) -> range:
        """The planes of the volume among those of the file."""
        names, shape = series.axes[:-2].lower(), series.shape[:-2]
        if "z" not in names and len(names) == 1 and names in "iqt":
            names = "z"  # pages without a word, or of a film
        if series.axes[-2:] != "YX" or names.count("z") != 1:
            raise NotAVolumeError(
                f"has the axes {series.axes} and the shape {series.shape}; a grey volume Z, Y, X is needed"
            )
        cut = positions(name, shape, list(names), choice, _channel_names(self._tiff))
        other = next((axis for axis, n in zip(names, cut.shape, strict=True) if axis != "z" and n > 1), None)
        if other is not None:
            raise NotAVolumeError(
                f"has the axes {series.axes} and the shape {series.shape}; only Z, Y, X, channels and time points are"
                " known"
            )
        self.selection = cut.selection
        z = names.index("z")
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        first = sum(at * step for at, step in zip(cut.at, steps, strict=True))
        return range(first, first + shape[z] * steps[z], steps[z])

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x), plane by plane, of a file that is not flat."""
        voxels = np.empty(box.shape, self.dtype)
        with _damage_said():
            if self._in_volumes:
                return _read_volume(self._tiff, self._pages[0], box)
            for z in range(box.start[0], box.stop[0]):
                page = self._pages[self._planes[z]]
                voxels[z - box.start[0]] = _read_page(self._tiff, page, box.slices[1:])
        return voxels


class TiffSlice:
    """A slice in an open file. Raises ValueError for what is none, is cut off or damaged.

    shape : (y, x). dtype : numpy's name of it.
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

    def _read_at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    @staticmethod
    def decode_bytes(pixels: int, itemsize: int) -> int:
        """Most memory that reading a plane takes: its strips as stored and decoded, and the part that is wanted."""
        return 4 * pixels * itemsize


def _flat(tiff: tifffile.TiffFile, shape: Index, planes: range) -> Flat | None:
    series = tiff.series[0]
    if series.dataoffset is None:
        return None
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    plane = shape[1] * shape[2] * dtype.itemsize
    step = planes.step * plane if planes.step > 1 else None
    return Flat(int(series.dataoffset) + planes.start * plane, shape, dtype, step=step)


def _one_after_the_other(found: list[Any]) -> Any:
    """The pages of a stack whose planes differ in how they are stored alone; None where images are more than that.

    tifffile takes pages of different compression, or rows in a strip, for different images.
    """
    if len(found) == 1 or len({(series.shape[-2:], str(series.dtype)) for series in found}) > 1:
        return None
    for series in found:
        # Series of tifffile's own (shaped) are images that were written one by one: planes where each is one page.
        is_plain = series.kind in ("generic", "uniform") or (series.kind == "shaped" and len(series.shape) == 2)
        is_planes = series.axes[-2:] == "YX" and series.axes[:-2] in ("", "I") and len(series.levels) == 1
        if not is_plain or not is_planes or len(series.pages) != math.prod(series.shape[:-2]):
            return None
    pages = sorted((page for series in found for page in series.pages), key=lambda page: page.index)
    return None if any(page.subfiletype for page in pages) else pages


def _check_one_file(tiff: tifffile.TiffFile, series: Any) -> None:
    """Raise NotAVolumeError where planes of an OME-TIFF lie in other files."""
    if not tiff.is_ome or all(page is not None for page in series.pages):
        return
    names = sorted({e.get("FileName", "") for e in _elements(tiff) if e.tag.endswith("UUID")} - {""})
    missing = sum(page is None for page in series.pages)
    raise NotAVolumeError(
        f"is one of {len(names)} files of an OME-TIFF ({', '.join(names[:4])}{' …' if len(names) > 4 else ''}), and"
        f" {missing} of its {len(series.pages)} planes lie in the others; write the volume into one file, or convert it"
        " with bioformats2raw"
    )


def _read_volume(tiff: tifffile.TiffFile, page: Any, box: Box) -> npt.NDArray[Any]:
    """A box (z, y, x) out of a page whose strips or tiles have depth; what the file leaves out is zero."""
    keyframe = page.keyframe
    sides = [int(side) for side in (1, *keyframe.chunks)[-3:]]
    counts = [-(-n // side) for n, side in zip(keyframe.shaped[1:4], sides, strict=True)]
    touched = [range(low // side, -(-high // side)) for low, high, side in zip(box.start, box.stop, sides, strict=True)]
    segments = [(z * counts[1] + y) * counts[2] + x for z, y, x in product(*touched)]
    offsets, sizes = ([table[index] for index in segments] for table in (page.dataoffsets, page.databytecounts))
    voxels = np.zeros(box.shape, np.dtype(keyframe.dtype).newbyteorder("="))
    for content, index in tiff.filehandle.read_segments(offsets, sizes, indices=segments):
        decoded, (_, *first, _), _ = keyframe.decode(content, index)
        if decoded is None:
            continue
        segment = decoded[..., 0]
        low = [max(a, b) for a, b in zip(box.start, first, strict=True)]
        high = [min(a, b + n) for a, b, n in zip(box.stop, first, segment.shape, strict=True)]
        there, here = (
            tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))
            for origin in (box.start, first)
        )
        voxels[there] = segment[here]
    return voxels


def _times(shape: Any) -> str:
    return " × ".join(map(str, shape))


def _elements(tiff: tifffile.TiffFile) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(tiff.ome_metadata or "<OME/>").iter()


def _pixels(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    """The description of the image in OME-XML."""
    return next((e for e in _elements(tiff) if e.tag.endswith("Pixels")), None)


def _channel_names(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    """Out of OME-XML; none where one has none."""
    pixels = _pixels(tiff)
    names = [e.get("Name") for e in pixels if e.tag.endswith("Channel")] if pixels is not None else []
    return tuple(map(str, names)) if all(names) else ()


def _read_page(tiff: tifffile.TiffFile, page: Any, part: tuple[slice, slice]) -> npt.NDArray[Any]:
    """Part of a plane (y, x) out of the strips or tiles that it touches; what the file leaves out is zero."""
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
    return plane


def _voxel_size(tiff: tifffile.TiffFile) -> VoxelSize | None:
    """From OME-XML or ImageJ's description, where all three axes and the unit are stated."""
    if tiff.ome_metadata:
        pixels = _pixels(tiff)
        sizes = [] if pixels is None else [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
        units = [] if pixels is None else [unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"]
        return voxel_size_of([Decimal(size) if size else None for size in sizes], units)
    imagej = tiff.imagej_metadata or {}
    unit = unit_um(str(imagej.get("unit", "")).replace("\\u00B5", "µ"))
    tags = tiff.pages.first.tags
    if not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return None
    # ImageJ counts pixels per unit as a ratio of two integers; six digits are what survives that.
    (y, y_per), (x, x_per) = tags["YResolution"].value, tags["XResolution"].value
    sides = [imagej.get("spacing"), y_per / y if y else None, x_per / x if x else None]
    return voxel_size_of([Decimal(f"{side:.6g}") if side else None for side in sides], [unit] * 3)
