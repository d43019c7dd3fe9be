"""Image metadata of OME-Zarr: axes, levels, and voxel sizes in µm without the noise of binary numbers.

Versions 0.4 and 0.5, and 0.1 to 0.3, which have no voxel size.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from ome_zarr_models.common.coordinate_transformations import VectorScale, VectorTranslation
from ome_zarr_models.v04.multiscales import Multiscale as Multiscale04
from ome_zarr_models.v05.multiscales import Dataset, Multiscale
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.geometry import VoxelSize
from pipeline.placement import UPRIGHT, Directions

OLD_AXES = ("t", "c", "z", "y", "x")
"""Of OME-Zarr 0.1 and 0.2, which does not name them."""
OWN = "voxcaliper"
"""The attribute of groups and arrays that holds what voxcaliper says of what it wrote."""
UM_PER_UNIT = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um", "\u00b5m", "\u03bcm"), Decimal(1)),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), Decimal("1e-3")),
    **dict.fromkeys(("angstrom", "\u00c5", "\u212b"), Decimal("1e-4")),
    **dict.fromkeys(("picometer", "picometre", "pm"), Decimal("1e-6")),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), Decimal("1e3")),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), Decimal("1e4")),
    **dict.fromkeys(("decimeter", "decimetre", "dm"), Decimal("1e5")),
    **dict.fromkeys(("meter", "metre", "m"), Decimal("1e6")),
    **dict.fromkeys(("inch", "in"), Decimal(25400)),
}
"""The names of OME-NGFF 0.5 (section "axes" metadata) and the short ones seen in files."""


@dataclass(frozen=True)
class ImageMetadata:
    """What the metadata of an image say of its axes and levels, of both versions in the words of 0.5.

    format : "OME-Zarr 0.4" or "OME-Zarr 0.5".
    warnings : one sentence each on what is invalid and was read all the same.
    unscaled : it is of a version before 0.4, whose metadata hold no voxel size. has_axes : whether it names the axes;
        otherwise those of an array are the last ones of OLD_AXES.
    channels : their names, of as many as have one.
    places : whether the translations can be believed. directions : of the axes z, y, x, which OME-Zarr cannot say;
        voxcaliper keeps them in an attribute of its own. exact : whether numbers are to be taken digit by digit.
    """

    format: str
    multiscale: Multiscale
    warnings: tuple[str, ...] = ()
    places: bool = True
    directions: Directions = UPRIGHT
    exact: bool = False
    unscaled: bool = False
    has_axes: bool = True
    channels: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The levels, finest first."""
        return self.multiscale.datasets

    def axis_names(self, location: str, ndim: int) -> list[str]:
        """Names in stored order, lower case; InputError unless the spatial axes are z, y, x, or y, x."""
        if not self.has_axes:
            return list(OLD_AXES[-ndim:])
        names = [str(axis.name).lower() for axis in self.multiscale.axes]
        spatial = [n for n, axis in zip(names, self.multiscale.axes, strict=True) if axis.type in ("space", None)]
        if sorted(n for n in spatial if n in ("z", "y", "x")) not in (["x", "y"], ["x", "y", "z"]):
            raise InputError(
                f"{location} has the axes {', '.join(names)}; three spatial axes z, y, x are needed, or y, x."
            )
        return names

    def units_um(self, location: str, known: bool = False) -> list[Decimal] | None:
        """µm per unit of each axis (1 for axes that are not spatial), None where a spatial axis has no unit.

        known : the voxel size is known from elsewhere, so a unit that is no length is none.
        """
        factors = []
        for axis in self.multiscale.axes:
            if str(axis.name).lower() not in ("z", "y", "x"):
                factors.append(Decimal(1))
            elif axis.unit is None or not str(axis.unit).strip():  # MoBIE writes a blank
                return None
            elif (factor := unit_um(str(axis.unit))) is None:
                if known:
                    return None
                raise InputError(
                    f"{location} gives axis {axis.name} in {axis.unit!r}, which is no unit of length known here;"
                    " give the voxel size with --voxel-size-um."
                )
            else:
                factors.append(factor)
        return factors

    def placing(self, level: int) -> tuple[list[Decimal], list[Decimal]] | None:
        """Scale and translation of a level in the axes' units; None where the scale is not in the metadata."""
        if self.unscaled:
            return None
        transforms = [
            *self.datasets[level].coordinateTransformations,
            *(self.multiscale.coordinateTransformations or ()),
        ]
        ndim = len(self.multiscale.axes)
        scale, translation = [Decimal(1)] * ndim, [Decimal(0)] * ndim
        spacing = exact_decimal if self.exact else plain_decimal
        for transform in transforms:
            if isinstance(transform, VectorScale):
                factors = [spacing(v) for v in transform.scale]
                scale = [a * b for a, b in zip(scale, factors, strict=True)]
                translation = [a * b for a, b in zip(translation, factors, strict=True)]
            elif isinstance(transform, VectorTranslation):
                translation = [a + exact_decimal(v) for a, v in zip(translation, transform.translation, strict=True)]
            else:  # a path to an array of scales
                return None
        return scale, translation


def image_metadata(location: str, attributes: dict[str, Any]) -> ImageMetadata | None:
    """The image metadata of a group, None where it has none."""
    ome = attributes.get("ome")
    warnings = []
    if isinstance(ome, dict) and "multiscales" in ome:
        if ome.get("version") != "0.5":
            raise InputError(f"{location} is OME-Zarr {ome.get('version')}; the versions 0.4 and 0.5 can be read.")
        documents, version = ome["multiscales"], "0.5"
        if "multiscales" in attributes:
            warnings.append(
                f"{location} has multiscales both in its attributes and under ome, where OME-Zarr 0.5 has them;"
                " only those under ome count."
            )
    elif "multiscales" in attributes:
        documents, version = attributes["multiscales"], "0.4"
    else:
        return None
    try:
        stated = documents[0]
        document = _without_identities(stated)
        if document != stated:
            warnings.append(
                f"{location} has invalid OME-Zarr {version} metadata (an identity transformation), which changes"
                " nothing."
            )
        stated, unscaled = document, version == "0.4" and _is_before_04(document)
        if unscaled:
            document = _in_words_of_04(document)
        document = _repaired(document)
        places = unscaled or document == stated
        if not places:
            warnings.append(
                f"{location} has invalid OME-Zarr {version} metadata (a translation before the scale); only the scale"
                " counts."
            )
        if version == "0.5":
            multiscale = Multiscale.model_validate(document)
        else:
            multiscale = Multiscale04.model_validate(document).to_version("0.5")
    except (ValidationError, LookupError, TypeError, AttributeError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no list of datasets"
        raise InputError(f"{location} has invalid OME-Zarr {version} metadata: {detail}.") from error
    own = attributes.get(OWN)
    return ImageMetadata(
        f"OME-Zarr {(stated.get('version') or '0.1') if unscaled else version}",
        multiscale,
        tuple(warnings),
        places=places,
        directions=_own_directions(location, own.get("directions")) if isinstance(own, dict) else UPRIGHT,
        exact=isinstance(own, dict),
        unscaled=unscaled,
        has_axes="axes" in stated,
        channels=_channels((ome if isinstance(ome, dict) and version == "0.5" else attributes).get("omero")),
    )


def _own_directions(location: str, stated: Any) -> Directions:
    if stated is None:
        return UPRIGHT
    try:
        z, y, x = ((float(row[0]), float(row[1]), float(row[2])) for row in stated)
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"{location} has an attribute {OWN}.directions that is no 3 × 3 matrix; remove it.") from error
    return z, y, x


def _repaired(document: dict[str, Any]) -> dict[str, Any]:
    """Image metadata without the translations that stand before their scale.

    Such metadata are invalid, but published (the Human Organ Atlas); what the translation means is anyone's guess.
    """
    datasets = []
    for dataset in document["datasets"]:
        transforms = dataset.get("coordinateTransformations")
        kinds = [transform.get("type") for transform in transforms or ()]
        datasets.append(
            {**dataset, "coordinateTransformations": transforms[1:]} if kinds[:1] == ["translation"] else dataset
        )
    return {**document, "datasets": datasets}


def _channels(omero: Any) -> tuple[str, ...]:
    """The labels of channels in the part of the metadata that says how to show an image; none where one has none."""
    channels = omero.get("channels") if isinstance(omero, dict) else None
    labels = [one.get("label") for one in channels or () if isinstance(one, dict)]
    return tuple(map(str, labels)) if all(label is not None for label in labels) else ()


def _without_identities(document: dict[str, Any]) -> dict[str, Any]:
    """Image metadata without transformations that say nothing (iohub writes them), which are not allowed there."""
    key, identity = "coordinateTransformations", {"type": "identity"}
    ones = {"type": "scale", "scale": [1.0] * len(document.get("axes", ()))}

    def rest(owner: dict[str, Any]) -> list[Any]:
        return [transform for transform in owner[key] if transform != identity]

    datasets = [
        {**dataset, key: rest(dataset) or [ones]} if identity in (dataset.get(key) or ()) else dataset
        for dataset in document["datasets"]
    ]
    found = {**document, "datasets": datasets}
    return {**found, key: rest(document) or None} if identity in (document.get(key) or ()) else found


def _is_before_04(document: dict[str, Any]) -> bool:
    """Whether image metadata are of OME-Zarr 0.1 to 0.3, by their version and by what their axes are."""
    axes = document.get("axes")
    named = isinstance(axes, list) and all(isinstance(axis, str) for axis in axes)
    return named or (axes is None and document.get("version") in (None, "0.1", "0.2", "0.3"))


def _in_words_of_04(document: dict[str, Any]) -> dict[str, Any]:
    """Image metadata of OME-Zarr 0.1 to 0.3 with the axes of 0.4, and with scales that mean nothing."""
    names = document.get("axes", OLD_AXES)
    kinds = {"t": "time", "c": "channel"}
    ones = [{"type": "scale", "scale": [1.0] * len(names)}]
    return {
        "axes": [{"name": name, "type": kinds.get(name.lower(), "space")} for name in names],
        "datasets": [{"path": dataset["path"], "coordinateTransformations": ones} for dataset in document["datasets"]],
        "version": "0.4",
    }


def unit_um(unit: str) -> Decimal | None:
    """µm per unit of length, None for an unknown unit."""
    return UM_PER_UNIT.get(unit.strip(), UM_PER_UNIT.get(unit.strip().lower()))


def voxel_size_of(sizes: list[Decimal | None], units: list[Decimal | None]) -> VoxelSize | None:
    """From lengths (z, y, x) and µm per unit of each; None where one of them is not known."""
    um = [float(size * unit) for size, unit in zip(sizes, units, strict=True) if size and unit]
    return VoxelSize((um[0], um[1], um[2])) if len(um) == 3 else None


THICKNESS_TAKEN = (
    "is one plane and does not say how thick it is; the voxel size along y is taken, so volumes and surfaces are those"
    " of a plane as thick as its pixels are high, unless --voxel-size-um says otherwise"
)
"""A warning: the rest of a sentence that begins with the file's name."""


def plane_size_of(sizes: list[Decimal | None], units: list[Decimal | None], warnings: list[str]) -> VoxelSize | None:
    """As `voxel_size_of`, of one plane: where its thickness is not known, it is the size along y, with a warning."""
    if not (sizes[0] and units[0]):
        sizes, units = [sizes[1], *sizes[1:]], [units[1], *units[1:]]
        if (found := voxel_size_of(sizes, units)) is not None:
            warnings.append(THICKNESS_TAKEN)
        return found
    return voxel_size_of(sizes, units)


def exact_decimal(value: float) -> Decimal:
    """The shortest decimal that is this number: what is written and read again stays what it was."""
    return Decimal(repr(float(value)))


def plain_decimal(value: float) -> Decimal:
    """The decimal an author most likely meant: 0.7 for 0.7 stored as float32 or for 0.7 after rounding errors.

    Voxel sizes become exact integer weights, so that the noise of binary arithmetic must not enter.
    """
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return Decimal(str(single) if float(single) == value else f"{value:.12g}")
