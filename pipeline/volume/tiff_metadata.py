"""What TIFF files say of their images beside the voxels: OME-XML's place of a stack, and what stands for white."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import tifffile

from pipeline.placement import Placement
from pipeline.volume.metadata import unit_um


def ome_pixels(tiff: tifffile.TiffFile) -> ElementTree.Element | None:
    """The element that describes the first image in OME-XML, None where there is none."""
    if not tiff.ome_metadata:
        return None
    return next((e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.endswith("Pixels")), None)


def ome_placement(tiff: tifffile.TiffFile) -> Placement | None:
    """Where the stage was at the first plane, which is then where the volume begins; the axes are those of the stage.

    None where one of the three positions has no unit of length: OME's own unit, its "reference frame", is none.
    """
    pixels = ome_pixels(tiff)
    planes = () if pixels is None else (e for e in pixels if e.tag.endswith("}Plane") or e.tag == "Plane")
    first = next((plane for plane in planes if plane.get("TheZ") == "0"), None)
    if first is None:
        return None
    origin = []
    for axis in "ZYX":
        position, um = first.get(f"Position{axis}"), unit_um(first.get(f"Position{axis}Unit", "reference frame"))
        if position is None or um is None:
            return None
        origin.append(float(Decimal(position) * um))
    z, y, x = origin
    return Placement((z, y, x))


def white_bits(page: Any) -> bool:
    """Whether a page has one bit a pixel, of which 0 is white: such bits are inverted, to be what is seen.

    tifffile calls every array of bool so and stores True as 1 all the same; what it wrote is read as it was given.
    """
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or page.bitspersample != 1:
        return False
    first = page.parent.pages.first
    return not (first.is_shaped or first.software.startswith("tifffile"))


def white_as_zero(page: Any) -> list[str]:
    """What is to be said of a page in which 0 is white: the rest of a sentence that begins with the file's name.

    Grey values are measurements, and stay as they are stored, as ImageJ and tifffile have them: masks that ImageJ
    writes with an inverted look-up table hold 255 where their foreground is.
    """
    if white_bits(page):
        return ["has bits of which 0 is white (MinIsWhite); it is read as it is shown, white as 1"]
    if page.photometric != tifffile.PHOTOMETRIC.MINISWHITE or page.bitspersample == 1:
        return []
    return ["has values of which 0 is white (MinIsWhite); they are taken as they are stored, the low ones being bright"]
