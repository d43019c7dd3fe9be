"""Which pages of a TIFF file are the planes of a volume, and pages that hold a volume by themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import unescape
from itertools import product
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.geometry import Box
from pipeline.volume.choice import Choice, Kind, positions
from pipeline.volume.flat import NotAVolumeError

PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*(["'])(.*?)\2""", re.DOTALL)


def chosen_planes(
    tiff: tifffile.TiffFile, series: Any, name: str, choice: Choice
) -> tuple[range, tuple[tuple[Kind, int], ...]]:
    """The planes of the volume among those of the file, and what was chosen. Raises NotAVolumeError."""
    names, shape = series.axes[:-2].lower(), series.shape[:-2]
    if "z" not in names and len(names) == 1 and names in "iqt":
        names = "z"  # pages without a word, or of a film
    if series.axes[-2:] != "YX":
        raise NotAVolumeError(
            f"has the axes {series.axes} and the shape {series.shape}; a grey volume Z, Y, X is needed, or a plane Y, X"
        )
    cut = positions(name, shape, list(names), choice, _channel_names(tiff))
    other = next((axis for axis, n in zip(names, cut.shape, strict=True) if axis != "z" and n > 1), None)
    if other is not None:
        raise NotAVolumeError(
            f"has the axes {series.axes} and the shape {series.shape}; only Z, Y, X, channels and time points are known"
        )
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = sum(at * step for at, step in zip(cut.at, steps, strict=True))
    z = names.find("z")
    return range(first, first + shape[z] * steps[z], steps[z]) if z >= 0 else range(first, first + 1), cut.selection


def one_after_the_other(found: list[Any]) -> Any:
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


def check_one_file(tiff: tifffile.TiffFile, series: Any) -> None:
    """Raise NotAVolumeError where planes of an OME-TIFF lie in other files."""
    if not tiff.is_ome or all(page is not None for page in series.pages):
        return
    names = other_files(tiff)
    missing = sum(page is None for page in series.pages)
    raise NotAVolumeError(
        f"is one of {len(names) + 1} files of an OME-TIFF, and {missing} of {len(series.pages)} planes lie in others"
        f" ({', '.join(names[:4])}{' …' if len(names) > 4 else ''}); all files must lie in one folder of this machine,"
        " under the names that they state"
    )


def other_files(tiff: tifffile.TiffFile) -> list[str]:
    """The names of the other files of an OME-TIFF that lies in several."""
    text = tiff.ome_metadata or ""
    if "FileName" not in text:
        return []
    root = ElementTree.fromstring(text)
    found = {e.get("FileName", "") for e in root.iter() if e.tag.endswith("UUID") and e.text != root.get("UUID")}
    return sorted(found - {""})


def read_volume(tiff: tifffile.TiffFile, page: Any, box: Box) -> npt.NDArray[Any]:
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


def _elements(tiff: tifffile.TiffFile) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(tiff.ome_metadata or "<OME/>").iter()


def _channel_names(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    """Out of OME-XML; none where one has none."""
    pixels = next((e for e in _elements(tiff) if e.tag.endswith("Pixels")), None)
    names = [e.get("Name") for e in pixels if e.tag.endswith("Channel")] if pixels is not None else []
    return tuple(map(str, names)) if all(names) else ()


def pixels_tag(tiff: tifffile.TiffFile) -> dict[str, str]:
    """The attributes of OME-XML's Pixels, without reading all that it describes."""
    tag = PIXELS.search(tiff.ome_metadata or "")
    return {} if tag is None else {name: unescape(value) for name, _, value in ATTRIBUTE.findall(tag[0])}
