"""Volumes that belong together are laid on each other where they lie: one function for every workflow.

A volume of which place or voxel size is not stated is taken to lie on the reference voxel by voxel; then the shapes
must be the same, and the voxel sizes where both are known. Where the voxel size was given, places are compared in the
voxels of each source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from pipeline.errors import InputError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import ALIKE, THE_OTHER, Misfit, Turn, align, other_voxel_size
from pipeline.volume.laying import lay
from pipeline.volume.opening import Volume
from workflows.config import BoxChoice

CONTINUED = ("prediction", "regions")
"""Volumes that are background beside their box. What a grey volume holds there is not known."""
RESAMPLE = (
    "resample it onto the grid of the {called} first, labels by nearest neighbours (in Python"
    " SimpleITK.Resample({what}, {called}, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)), or give"
    " --ignore-place to lay them on each other voxel by voxel"
)


@dataclass(frozen=True)
class _Found:
    """Where a turned volume lies: its voxels (z, y, x) among those of the reference."""

    turn: Turn
    box: Box


def lay_volumes(
    reference: Volume, others: Mapping[str, Volume], *, called: str, box: BoxChoice | None, ignore_place: bool,
) -> tuple[Volume, dict[str, Volume]]:  # fmt: skip
    """The reference and the other volumes on one lattice and in one box; each other one is turned as the reference.

    called : what messages call the reference. others : by what messages call them, "prediction", "image" or "regions".
    box : None refuses volumes of the same lattice that have another box than the reference. ignore_place : lay them
        voxel by voxel, however they are placed and however large their voxels are.
    What a person should know of it is among the `warnings` of the volumes that are returned.

    Raises InputError, naming both volumes and what to do, where voxels do not lie on voxels.
    """
    if ignore_place and box is not None:
        raise InputError("--box and --ignore-place exclude each other; give one of them.")
    found: dict[str, _Found] = {}
    warned: dict[str, Volume] = {}
    for what, volume in others.items():
        names = f"The {what} {volume.name}", f"the {called} {reference.name}"
        found[what], said = _find(reference, volume, names, what, called, ignore_place=ignore_place)
        warned[what] = replace(volume, warnings=(*volume.warnings, *said))
        if found[what].box != reference.box:
            _check_box(found[what].box, reference, names, what, called, box)
    region = reference.box
    if box == "common":
        for one in found.values():
            region = _common(region, one.box)
    if not _has_voxels(region):
        raise InputError(
            f"The volumes {', '.join(volume.name for volume in (reference, *others.values()))} have no voxel in common,"
            " so nothing is left of --box common; give volumes that overlap."
        )
    laid = {
        what: lay(volume, found[what].turn, _away(region.start, found[what].box.start), region.shape)
        for what, volume in warned.items()
    }
    return lay(reference, Turn(), region.start, region.shape), laid


def _find(
    reference: Volume, volume: Volume, names: tuple[str, str], what: str, called: str, *, ignore_place: bool
) -> tuple[_Found, tuple[str, ...]]:
    """Where a volume lies on the reference, and what is to be said of it."""
    ours, theirs = reference.lattice, volume.lattice
    if ours and theirs and (reference.is_resized or volume.is_resized):
        ours, theirs = ours.in_voxels(), theirs.in_voxels()
    why, found = "", _Found(Turn(), volume.box)
    if ours and theirs:
        try:
            turn, start = align(ours, theirs)
            found = _Found(turn, _box_at(start, turn.shape(volume.shape)))
        except Misfit as error:
            why = str(error)
    elif not _alike(volume.voxel_size, reference.voxel_size):
        assert volume.voxel_size
        assert reference.voxel_size
        why = other_voxel_size(volume.voxel_size.um, reference.voxel_size.um)
    why = why.replace(THE_OTHER, names[1])
    as_stored = (names[0], volume.shape, names[1], reference.shape)
    if ignore_place:
        if volume.shape != reference.shape:
            raise InputError(_other_grid(*as_stored) + ".")
        if not why and found != _Found(Turn(), reference.box):
            why = f"lies on its voxels {_span(found.box)}, with the axes ({found.turn.describe()})"
        although = f" although it {why}" if why else ""
        return _Found(Turn(), reference.box), (f"{names[0]} is laid on {names[1]} voxel by voxel{although}.",)
    if why:
        size = "give the size of both with --voxel-size-um where it is one, " if why.startswith("has voxels") else ""
        raise InputError(f"{names[0]} {why}; {size}{RESAMPLE.format(what=what, called=called)}.")
    if not (ours and theirs) and volume.shape != reference.shape:
        raise InputError(_other_grid(*as_stored) + ".")
    if found.turn == Turn():
        return found, ()
    axes = found.turn.describe()
    return found, (f"{names[0]} is turned while it is read: its axes ({axes}) run as z, y, x of {names[1]}.",)


def _check_box(
    found: Box, reference: Volume, names: tuple[str, str], what: str, called: str, box: BoxChoice | None
) -> None:  # fmt: skip
    """Raise InputError where a volume has another box and that does not do."""
    inside = all(a <= 0 and b >= n for a, b, n in zip(found.start, found.stop, reference.shape, strict=True))
    if box == "common" or (box == "reference" and (inside or what in CONTINUED)):
        if _has_voxels(_common(found, reference.box)):
            return
        raise InputError(
            f"{names[0]} lies beside {names[1]}: on its voxels {_span(found)}, of which it has"
            f" {_times(reference.shape)}; give volumes that overlap."
        )
    sentence = (
        f"{_other_grid(names[0], found.shape, names[1], reference.shape)}, and its first voxel lies on voxel"
        f" {found.start} (z, y, x) of the {called}"
    )
    if box is None:
        outside = f"beside the {what} is background" if what in CONTINUED else f"the {what} must cover it"
        raise InputError(f"{sentence}; give --box reference ({outside}) or --box common (what all volumes hold).")
    raise InputError(f"{sentence}; what the {what} holds beside it is not known, so give --box common.")


def _other_grid(name: str, shape: Index, reference: str, wanted: Index) -> str:
    sizes = f"{name} has {_times(shape)} voxels and {reference} has {_times(wanted)} (z, y, x)"
    return f"{sizes}; both must have the same grid"


def _alike(one: VoxelSize | None, other: VoxelSize | None) -> bool:
    """Whether two voxel sizes are the same, or one of them is not known."""
    return not (one and other) or all(math.isclose(a, b, rel_tol=ALIKE) for a, b in zip(one.um, other.um, strict=True))


def _box_at(start: Index, shape: Index) -> Box:
    z, y, x = (a + n for a, n in zip(start, shape, strict=True))
    return Box(start, (z, y, x))


def _away(voxel: Index, start: Index) -> Index:
    z, y, x = (v - a for v, a in zip(voxel, start, strict=True))
    return z, y, x


def _common(one: Box, other: Box) -> Box:
    start = tuple(map(max, one.start, other.start))
    return Box(cast(Index, start), cast(Index, tuple(map(min, one.stop, other.stop))))


def _has_voxels(box: Box) -> bool:
    return all(side > 0 for side in box.shape)


def _span(box: Box) -> str:
    return f"{box.start} to {box.stop}"


def _times(shape: Index) -> str:
    return " × ".join(f"{n:,}" for n in shape)
