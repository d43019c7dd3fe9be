"""What attributes of N5 say of space: voxel size and place of an array, in the words of several programs.

documents : attributes of the array, then of the groups around it, the nearest first. Values stand in stored order,
    unless they come with axes of their own (COSEM).

The voxel size of a level is the resolution of its group times its downsampling factors, or the scale of its
`transform`, which already counts for the level. Its place is stated as `offset` (Paintera, n5-ij), in the units of the
resolution, or as `transform.translate` (COSEM). Where a level has no translation of its own but downsampling factors,
the centre of its first voxel lies (factor − 1) / 2 fine voxels behind that of level 0, as BigDataViewer and Paintera
place it: a coarse voxel covers `factor` fine ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from pipeline.errors import InputError
from pipeline.geometry import VoxelSize
from pipeline.placement import Placement, Position
from pipeline.volume.axes import in_order
from pipeline.volume.metadata import exact_decimal, plain_decimal, unit_um

Lengths = tuple[Decimal, ...]
"""Of the axes z, y, x, in µm."""


def factors_of(documents: list[dict[str, Any]]) -> list[Any] | None:
    """Downsampling factors of all levels, where a group states them."""
    for document in documents:
        factors = document.get("downsamplingFactors", document.get("scales"))
        if isinstance(factors, list) and factors and isinstance(factors[0], list):
            return factors
    return None


def in_space(
    where: str, axes: str, documents: list[dict[str, Any]], level: int, *, is_given: bool
) -> tuple[VoxelSize | None, Placement | None]:
    """Voxel size and placement of an array as stated; None for what is not stated, or without a unit.

    axes : see `pipeline.volume.axes.stored_axes`. is_given : a voxel size that goes before was given.
    Raises InputError for what is stated and is none, and for units that are no lengths, unless a size was given.
    """
    try:
        transform = _transform(documents, level)
        if transform is not None:
            size, origin = _transformed(axes, transform)
        else:
            size, origin = _downsampled(axes, documents, level)
        stated = VoxelSize(cast(Position, tuple(map(float, size)))) if size else None
    except _UnknownUnitError as unknown:
        if is_given:
            return None, None
        raise InputError(
            f"{where} gives its resolution in {unknown.unit!r}, which is no unit of length known here; give the voxel"
            " size with --voxel-size-um."
        ) from unknown
    except (TypeError, ValueError, LookupError, AttributeError, InvalidOperation) as error:
        if is_given:
            return None, None
        raise InputError(
            f"{where} states a resolution or offset that is none ({_shown(documents, level)}); give the voxel size with"
            " --voxel-size-um."
        ) from error
    placement = Placement(cast(Position, tuple(map(float, origin)))) if origin else None
    return stated, placement


class _UnknownUnitError(Exception):
    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self.unit = unit


def _transform(documents: list[dict[str, Any]], level: int) -> dict[str, Any] | None:
    """COSEM's transform of a level: of the array itself, or out of the multiscales of its group."""
    if isinstance(own := documents[0].get("transform"), dict):
        return own
    for document in documents[1:]:
        multiscales = document.get("multiscales")
        if isinstance(multiscales, list) and multiscales and isinstance(multiscales[0], dict):
            for dataset in multiscales[0].get("datasets") or ():
                if dataset.get("path") == f"s{level}" and isinstance(dataset.get("transform"), dict):
                    return cast("dict[str, Any]", dataset["transform"])
    return None


def _zyx(axes: str, values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Sizes or units of the axes z, y, x; along z, those of y where there is no such axis."""
    return in_order(axes, values, None if "z" in axes else values[axes.index("y")])


def _transformed(axes: str, transform: dict[str, Any]) -> tuple[Lengths | None, Lengths | None]:
    scale, units = transform.get("scale"), _known(transform.get("units"), len(axes))
    if scale is None or units is None:
        return None, None
    translate = transform.get("translate", [0] * len(scale))
    names = [str(name).lower() for name in transform.get("axes") or ()]
    own = "".join(name if name in ("z", "y", "x") else "." for name in names) or axes
    _check_lengths(own, scale, translate, units)
    um = [_um(unit) for unit in _zyx(own, units)]
    size = tuple(plain_decimal(float(side)) * u for side, u in zip(_zyx(own, scale), um, strict=True))
    return size, tuple(exact_decimal(at) * u for at, u in zip(in_order(own, translate, 0), um, strict=True))


def _downsampled(
    axes: str, documents: list[dict[str, Any]], level: int
) -> tuple[Lengths | None, Lengths | None]:  # fmt: skip
    resolution, units = _resolution(documents, len(axes))
    steps = _steps(documents, level, len(axes))
    if resolution is None or units is None:
        return None, None
    _check_lengths(axes, resolution, units)
    um = [_um(unit) for unit in _zyx(axes, units)]
    fine = [plain_decimal(float(side)) * u for side, u in zip(_zyx(axes, resolution), um, strict=True)]
    at = next((index for index, document in enumerate(documents) if "offset" in document), None)
    origin = None
    if at is not None:
        stated = documents[at]["offset"]
        _check_lengths(axes, stated)
        origin = [exact_decimal(value) * u for value, u in zip(in_order(axes, stated, 0), um, strict=True)]
    if steps is None:
        return None, tuple(origin) if origin and (at == 0 or level == 0) else None
    _check_lengths(axes, steps)
    each = [Decimal(str(step)) for step in in_order(axes, steps, 1)]
    if at != 0 and (origin is not None or any(step != 1 for step in each)):
        starts = origin or [Decimal(0)] * 3
        origin = [start + (step - 1) / 2 * side for start, step, side in zip(starts, each, fine, strict=True)]
    return tuple(side * step for side, step in zip(fine, each, strict=True)), tuple(origin) if origin else None


def _steps(documents: list[dict[str, Any]], level: int, ndim: int) -> Any:
    """Downsampling factors of an array; None where they are not stated."""
    if (factors := factors_of(documents)) is not None:
        return factors[level]
    return documents[0].get("downsamplingFactors", [1] * ndim if level == 0 else None)


def _resolution(documents: list[dict[str, Any]], ndim: int) -> tuple[Sequence[Any] | None, Sequence[Any] | None]:
    """Resolution and units, one of each an axis, of the array or the nearest group that states one."""
    for document in documents:
        stated: Any = document.get("pixelResolution", document.get("resolution"))
        unit = document.get("unit")
        if isinstance(stated, dict):
            stated, unit = stated.get("dimensions"), stated.get("unit", unit)
        if isinstance(stated, list):
            return stated, _known(document.get("units", unit), ndim)
    return None, None


def _known(units: Any, ndim: int) -> list[str] | None:
    """Units, one an axis; None where there are none, or blank ones."""
    if units is None:
        return None
    each = [str(unit) for unit in ([units] * ndim if isinstance(units, str) else units)]
    return each if all(unit.strip() for unit in each) else None


def _um(unit: str) -> Decimal:
    if (um := unit_um(unit)) is None:
        raise _UnknownUnitError(unit)
    return um


def _check_lengths(axes: str, *values: Sequence[Any]) -> None:
    # Of an axis behind the spatial ones, nothing need be stated.
    if any(not len(axes.rstrip(".")) <= len(one) <= len(axes) for one in values):
        raise ValueError("not one value for each axis")


def _shown(documents: list[dict[str, Any]], level: int) -> str:
    if (transform := _transform(documents, level)) is not None:
        return f"transform {transform}"
    keys = ("pixelResolution", "resolution", "downsamplingFactors", "scales", "offset")
    return ", ".join(f"{key} {document[key]}" for document in documents for key in keys if key in document)
