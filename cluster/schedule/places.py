"""The places where an entry can stand, and which one it is to be."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cluster.schedule.chain import Chain
from cluster.schedule.tables import CRONTAB, SCRONTAB
from cluster.schedule.task import Task
from cluster.schedule.timing import Timing
from cluster.schedule.units import Units
from pipeline.errors import InputError, RunError


class Place(Protocol):
    """Where entries stand."""

    def missing(self) -> str | None:
        """Why entries cannot be kept here, None where they can."""

    def refuses(self, timing: Timing) -> None:
        """Raises InputError where it cannot start something at these times."""

    def text(self, task: Task) -> str:
        """The entry of a task."""

    def where(self, task: Task) -> str:
        """Where the entry goes, as a person says it."""

    def install(self, task: Task) -> None:
        """Put the entry of a task in place of the one of the same file. Raises RunError, StorageError."""

    def remove(self, subject: Path) -> bool:
        """Take the entry of a file out; whether there was one. Raises RunError."""

    def installed(self, subject: Path) -> str | None:
        """The entry of a file, or what is known of it; None where it has none. Raises RunError."""


PLACES: dict[str, Place] = {"scrontab": SCRONTAB, "sbatch": Chain(), "cron": CRONTAB, "systemd": Units()}
"""By the name that --on knows, the best first."""


def place_for(timing: Timing, on: str | None = None, *, to_install: bool = True) -> str:
    """The name of the first place that is there and can start something at these times, or the one that is asked for.

    to_install : whether the one that is asked for must be here; an entry can be read, or carried elsewhere, without.
    Raises InputError where there is none, with what each said, RunError where the one that is asked for is not here.
    """
    if on is not None and on not in PLACES:
        raise InputError(f"--on must be one of {', '.join(PLACES)}, but {on!r} was given.")
    reasons = []
    for name in [on] if on else PLACES:
        try:
            PLACES[name].refuses(timing)
        except InputError as error:
            if on:
                raise
            reasons.append(str(error))
            continue
        reason = PLACES[name].missing()
        if reason is None or (on and not to_install):
            return name
        if on:
            raise RunError(reason)
        reasons.append(reason)
    raise InputError(f"Nothing here starts commands by the clock: {' '.join(dict.fromkeys(reasons))}")


def remove_everywhere(subject: Path, but: str | None = None) -> list[str]:
    """Take the entries of a file out of every place that is there, but one; the names of those that had one."""
    return [name for name, place in PLACES.items() if name != but and place.missing() is None and place.remove(subject)]


def installed_anywhere(subject: Path) -> dict[str, str]:
    """The entries of a file, by the name of their place."""
    found = {name: place.installed(subject) for name, place in PLACES.items() if place.missing() is None}
    return {name: entry for name, entry in found.items() if entry is not None}
