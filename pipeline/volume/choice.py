"""Which channel and which time point of an image are the volume: positions along axes beside z, y and x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from pipeline.errors import InputError

Kind = Literal["channel", "time"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("c", "ch", "channel", "channels"), "channel"),
    **dict.fromkeys(("t", "time"), "time"),
}
"""By the names of axes."""
NOUNS: dict[Kind, str] = {"channel": "channels", "time": "time points"}
MOST_SHOWN = 8


class Choice(TypedDict, total=False):
    """channel : its number from 0, or its name where the metadata have one. time : the number of a time point."""

    channel: str | None
    time: int | None


NOTHING_CHOSEN = Choice()


class Chosen(Protocol):
    """A volume, as far as it was chosen out of an image."""

    @property
    def location(self) -> str: ...

    @property
    def selection(self) -> tuple[tuple[Kind, int], ...]: ...


@dataclass(frozen=True)
class Positions:
    """Where an array is cut. at : position along each stored axis, 0 for those that are not chosen.

    selection : what was chosen, kind and position; axes of length 1 leave no choice. shape : with 1 where it was.
    """

    at: tuple[int, ...]
    selection: tuple[tuple[Kind, int], ...]
    shape: tuple[int, ...]


def positions(
    where: str, shape: Sequence[int], names: Sequence[str], choice: Choice, labels: Sequence[str] = ()
) -> Positions:
    """Where an array is cut, given its axes (names in lower case) and the names of its channels.

    Axes without a name are channels and time points, from z, y, x outwards. What is chosen of an image that has but one
    does not count: of several images with one choice, some may be masks. An axis that is neither stays as it is.
    Raises InputError where there are several to choose from and none is chosen, and for one that is not there.
    """
    at, selection, rest = [0] * len(shape), [], list(shape)
    for axis, kind in _kinds(names).items():
        count = shape[axis] if axis < len(shape) else 1
        if count > 1:
            at[axis] = _position(where, kind, count, choice, labels if len(labels) == count else ())
            selection.append((kind, at[axis]))
            rest[axis] = 1
    return Positions(tuple(at), tuple(sorted(selection)), tuple(rest))


def check_chosen(volumes: Iterable[Chosen], choice: Choice) -> None:
    """Raise InputError where something was chosen of which no volume has several."""
    found = list(volumes)
    for kind, value in choice.items():
        if value is not None and not any(kind == one for volume in found for one, _ in volume.selection):
            names = " nor ".join(volume.location for volume in found)
            raise InputError(
                f"--{kind} {value} was given, but {names} has not several {NOUNS[KINDS[kind]]} in axes of an image;"
                " leave it out."
            )


def _kinds(names: Sequence[str]) -> dict[int, Kind]:
    """Stored axis -> what it is."""
    kinds = {axis: KINDS[name] for axis, name in enumerate(names) if name in KINDS}
    spatial = [axis for axis, name in enumerate(names) if name in ("z", "y", "x")]
    unnamed = [axis for axis, name in enumerate(names) if name.isdecimal()]
    unnamed.sort(key=lambda axis: min((abs(axis - place) for place in spatial), default=0))
    free: list[Kind] = [kind for kind in ("channel", "time") if kind not in kinds.values()]
    return kinds | dict(zip(unnamed, free, strict=False))


def _position(where: str, kind: Kind, count: int, choice: Choice, labels: Sequence[str]) -> int:
    value = choice.get(kind)
    if kind == "time":
        there = f"0 to {count - 1}"
    else:
        shown = [f"{number} {label}".strip() for number, label in enumerate(labels or [""] * count)]
        there = ", ".join(shown[:MOST_SHOWN]) + (f" … {shown[-1]}" if count > MOST_SHOWN else "")
        names = list(labels)
        if value is not None and not _is_number(str(value), count) and names.count(str(value)) == 1:
            return names.index(str(value))
    if value is None:
        raise InputError(f"{where} has {count} {NOUNS[kind]} ({there}); choose one with --{kind}.")
    if not _is_number(str(value), count):
        raise InputError(f"{where} has no {kind} {value}; its {NOUNS[kind]} are {there}.")
    return int(value)


def _is_number(text: str, count: int) -> bool:
    return text.isdecimal() and int(text) < count
