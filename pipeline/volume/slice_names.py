"""The names of slices in a folder: which there are, in what order, and whether one is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice, pairwise

from pipeline.errors import InputError, StorageError
from pipeline.volume.patience import reason
from pipeline.volume.stores import Store
from pipeline.volume.web_index import children

MOST_LISTED = 200_000
"""Objects that are looked through for slices; a folder of them holds nothing else, or little."""
_NUMBER = re.compile(r"(\d+)")


def names_in(store: Store) -> list[str]:
    """What lies in a folder itself, hidden files left out; nothing where it is no folder or cannot be listed."""
    if "://" not in store.location:
        try:
            names = os.listdir(store.location)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(f"{store.location} cannot be listed: {reason(error)}; check the folder.") from error
    elif store.can_list:
        names = [key for key, _ in islice(store.list(), MOST_LISTED) if "/" not in key]
    else:
        page = store.get("")
        names = (children(store.location, page) if page is not None else None) or []
    return [name for name in names if name and not name.startswith(".")]


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts slice2 before slice10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in _NUMBER.split(name)]


def check_numbers(location: str, names: Sequence[str]) -> None:
    """Raise InputError where a number is missing or there twice in names that are alike but for one number.

    Numbers may go up in any equal steps. Names of another pattern, and steps that have no measure, tell nothing.
    """
    parts = [_NUMBER.split(name) for name in names]
    if len(names) < 3 or len({tuple(part[::2]) for part in parts}) > 1:
        return
    varying = [i for i in range(1, len(parts[0]), 2) if len({int(part[i]) for part in parts}) > 1]
    if len(varying) > 1:
        return
    at = varying[0] if varying else len(parts[0]) - 2
    numbers = [int(part[at]) for part in parts]
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
    missing = list(parts[before])
    missing[at] = str(numbers[before] + smallest).zfill(len(parts[before][at]))
    count = sum(step // smallest - 1 for step in steps)
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    raise InputError(
        f"{location} lacks the slice {''.join(missing)}{more}, which would come after {names[before]}; restore it, or"
        " number the slices without a gap if nothing is missing."
    )
