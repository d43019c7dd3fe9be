"""Whether the volumes of a run are still those that it began with: their fingerprints, in its plan.

They are taken when a run begins, when it goes on, and before its results are written. A store with more objects than
are listed at every run (`Volume.is_countable`), or one that says neither ETag nor time, is watched by its metadata
alone, and the run says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from pipeline.volume.fingerprint import UnmarkedError, fingerprint
from pipeline.volume.opening import Volume

Sources = dict[str, dict[str, Any]]
"""Part of a volume in the run -> its fingerprint, or why there is none, under "untold"."""
UNTOLD = "untold"


class ChangedError(RunError):
    """A volume whose voxels are not those that a run began with."""


def sources_of(volumes: Mapping[str, Volume]) -> Sources:
    """The fingerprints of all volumes of a run as they are now. Raises StorageError where one cannot be read."""
    return {role: _source(volume) for role, volume in volumes.items()}


def _source(volume: Volume) -> dict[str, Any]:
    if not volume.is_countable():
        return {UNTOLD: f"it has up to {len(volume.objects):,} stored objects, too many to ask for at every run"}
    try:
        return fingerprint(volume).as_json()
    except UnmarkedError:
        return {UNTOLD: "its store says neither the ETag nor the time of some of its objects"}


def untold(sources: Sources) -> list[str]:
    """A sentence for each volume of which nobody would hear that its voxels changed."""
    return [
        f"Whether the {role} changes during the run is told by its metadata alone: {told[UNTOLD]}."
        for role, told in sources.items()
        if UNTOLD in told
    ]


def check_sources(run: Path, volumes: Mapping[str, Volume], then: Sources) -> None:
    """Raise ChangedError where the voxels of a volume are not those that a run began with."""
    for role, volume in volumes.items():
        before = then.get(role, {UNTOLD: ""})
        if UNTOLD in before or (now := _source(volume)) == before:
            continue
        raise ChangedError(
            f"The {role} of the run {run} changed since it began (content: {_told(before)} then, {_told(now)} now);"
            f" measure it anew with `voxcaliper resume {run} --restart`, or start a new run with another --run folder."
        )


def _told(source: Mapping[str, Any]) -> str:
    if UNTOLD in source:
        return str(source[UNTOLD])
    return f"{source['objects']:,} objects of {source['bytes']:,} bytes, {source['method']} {source['digest'][:12]}"
