"""The names of slices in a folder: which there are, in what order, and whether one is missing or does not belong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from pipeline.errors import InputError
from pipeline.volume.stores import Store

MOST_FILES = 200_000
"""Files that are looked through for slices; a folder with more is refused."""
_NUMBER = re.compile(r"(\d+)")


def names_in(store: Store) -> list[str]:
    """The files of a folder itself, hidden ones left out; none where it is no folder.

    Raises InputError where there are more than MOST_FILES.
    """
    return [name for name in store.names(limit=MOST_FILES) if not name.startswith(".")]


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts slice2 before slice10."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in _NUMBER.split(name)]


def check_names(location: str, names: Sequence[str]) -> None:
    """Raise InputError where a slice does not belong to the others, where a number is missing or there twice.

    Slices belong together when their names, without suffix and in small letters, differ by numbers alone; where no two
    do, their order stands. Numbers may go up in any equal steps; steps that have no measure tell nothing, nor do names
    with several numbers that vary.
    """
    alike = defaultdict[tuple[str, ...], list[str]](list)
    for name in names:
        alike[tuple(_parts(name)[::2])].append(name)
    largest, *others = sorted(alike.values(), key=len, reverse=True)
    if len(largest) < 2:
        return
    if others:
        strangers = [name for group in others for name in group]
        more = f" (and {len(strangers) - 1:,} more)" if len(strangers) > 1 else ""
        raise InputError(
            f"{location} holds {strangers[0]}{more}, whose name is not like those of the {len(largest):,} slices from"
            f" {largest[0]} to {largest[-1]}; take out what does not belong to the stack."
        )
    _check_numbers(location, largest)


def _parts(name: str) -> list[str]:
    """Text and numbers in turn, without the suffix."""
    return _NUMBER.split(name.rpartition(".")[0].lower())


def _check_numbers(location: str, names: Sequence[str]) -> None:
    parts = [_parts(name) for name in names]
    varying = [i for i in range(1, len(parts[0]), 2) if len({int(part[i]) for part in parts}) > 1]
    if len(varying) > 1:
        return
    at = varying[0] if varying else 0
    numbers = [int(part[at]) if varying else 0 for part in parts]
    steps = [second - first for first, second in pairwise(numbers)]
    smallest = min(steps)
    if smallest == 0:
        twice = steps.index(0)
        raise InputError(
            f"{location} holds both {names[twice]} and {names[twice + 1]}, which have one number; remove one of them."
        )
    if any(step % smallest for step in steps) or max(steps) == smallest:
        return
    before = next(i for i, step in enumerate(steps) if step > smallest)
    missing = _NUMBER.split(names[before])  # as it is written
    missing[at] = str(numbers[before] + smallest).zfill(len(missing[at]))
    count = sum(step // smallest - 1 for step in steps)
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    raise InputError(
        f"{location} lacks the slice {''.join(missing)}{more}, which would come after {names[before]}; restore it, or"
        " number the slices without a gap if nothing is missing."
    )
