"""The names of slices in a folder: which there are, in what order, and whether one is missing or does not belong."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

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
    do, their order stands. Numbers may go up in any equal steps; steps that have no measure tell nothing. Of several
    numbers that vary, one must grow from slice to slice; where none does, or where two others take all their pairs, the
    names count channels, tiles or time points beside slices. One of those that grow must be without a gap.
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
    varying = [at for at in range(1, len(parts[0]), 2) if len({int(part[at]) for part in parts}) > 1]
    columns = [_Column((at,), tuple(int(part[at]) for part in parts)) for at in varying]
    every = list(zip(*(column.numbers for column in columns), strict=True)) if columns else [()] * len(names)
    for first, second, number, following in zip(names, names[1:], every, every[1:], strict=False):
        if number == following:
            raise InputError(f"{location} holds both {first} and {second}, which have one number; remove one of them.")
    counting = [column for column in columns if column.counts]
    if not counting:
        columns = _with_decimals(parts, columns)
        counting = [column for column in columns if column.counts]
    repeating = [column for column in columns if not column.counts]
    if not counting or any(_is_whole_grid(parts, pair) for pair in combinations(repeating, 2)):
        _refuse_grid(location, names, parts, repeating)
    gaps = [column.missing for column in counting]
    if 0 in gaps:  # a number without a gap says that nothing is missing, whatever steps a clock beside it makes
        return
    stated = [(missing, -index) for index, missing in enumerate(gaps) if missing is not None]
    if not stated:
        return
    count, place = min(stated)
    before = counting[-place].gap_after
    missing_name = _NUMBER.split(names[before])  # as it is written
    for column in columns:
        column.write(missing_name, before)
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    raise InputError(
        f"{location} lacks the slice {''.join(missing_name)}{more}, which would come after {names[before]}; restore it,"
        " or number the slices without a gap if nothing is missing."
    )


@dataclass(frozen=True)
class _Column:
    """A number of the names that varies. at : its places among the parts of a name, two for a decimal."""

    at: tuple[int, ...]
    numbers: tuple[int, ...]

    @property
    def counts(self) -> bool:
        """Whether it grows from each slice to the next, so that it tells by itself where a slice stands."""
        return all(first < second for first, second in pairwise(self.numbers))

    @property
    def missing(self) -> int | None:
        """How many of its numbers are missing; None where its steps have no measure, so that it does not tell."""
        steps = [second - first for first, second in pairwise(self.numbers)]
        smallest = min(steps)
        return None if any(step % smallest for step in steps) else sum(step // smallest - 1 for step in steps)

    @property
    def gap_after(self) -> int:
        """The index of the slice before its first gap."""
        steps = [second - first for first, second in pairwise(self.numbers)]
        return next(index for index, step in enumerate(steps) if step > min(steps))

    def write(self, name: list[str], index: int) -> None:
        """Into the parts of the name behind which there is a gap, the number that is missing there, or * for any."""
        width = [len(name[at]) for at in self.at]
        number = "*"
        if self.counts and self.missing:
            step = min(second - first for first, second in pairwise(self.numbers))
            if self.numbers[index + 1] - self.numbers[index] > step:
                number = str(self.numbers[index] + step).zfill(sum(width))
        name[self.at[-1]] = number[-width[-1] :] if len(self.at) > 1 else number
        if len(self.at) > 1:
            name[self.at[0]] = number[: -width[-1]] or "*"


def _with_decimals(parts: list[list[str]], columns: list[_Column]) -> list[_Column]:
    """Two numbers with a point between them, and so many digits behind it in every name, as one."""
    found: list[_Column] = []
    for column in columns:
        at = column.at[0]
        before = found[-1] if found else None
        if before and before.at == (at - 2,) and all(part[at - 1] == "." for part in parts):
            joined = _Column((at - 2, at), tuple(int(part[at - 2] + part[at]) for part in parts))
            same_digits = len({len(part[at]) for part in parts}) == 1
            if same_digits and joined.counts and (joined.missing == 0 or not _takes_all_pairs((before, column))):
                found[-1] = joined
                continue
        found.append(column)
    return found


def _is_whole_grid(parts: list[list[str]], pair: tuple[_Column, _Column]) -> bool:
    """Whether two numbers take all pairs of their values, so that they are axes; those of one decimal do not count."""
    first, second = pair
    is_decimal = second.at[0] - first.at[-1] == 2 and all(part[second.at[0] - 1] == "." for part in parts)
    return not is_decimal and _takes_all_pairs(pair)


def _takes_all_pairs(pair: tuple[_Column, _Column]) -> bool:
    first, second = (column.numbers for column in pair)
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(first) == len(set(first)) * len(set(second))


def _refuse_grid(location: str, names: Sequence[str], parts: list[list[str]], repeating: list[_Column]) -> None:
    counts = [len(set(column.numbers)) for column in repeating]
    named = [f"{_before(parts[0], column)}{_NUMBER.split(names[0])[column.at[0]]} …" for column in repeating]
    grid = " × ".join(f"{count:,}" for count in counts)
    there = f", of which {len(names):,} are there" if math.prod(counts) != len(names) else ""
    raise InputError(
        f"{location} holds slices from {names[0]} to {names[-1]} whose names count by {len(named)} numbers"
        f" ({', '.join(named)}), a grid of {grid}{there}: channels, tiles or time points, which are not one stack; give"
        " each of them a folder."
    )


def _before(name: list[str], column: _Column) -> str:
    """The letters before a number, by which people know it."""
    return name[column.at[0] - 1].strip("_-. ").rpartition("_")[2]
