"""What a release leaves on disk about itself: the outcome of every entry, as files of JSON in the output root.

An entry is one workflow of one data set, so one run. Its results are published as versions that are never changed; a
release is a list that says which version each entry had, and why.

ROOT/lock                                held while a process works on the root
ROOT/entries/DATASET/WORKFLOW/
    versions/VERSION/                    a complete run folder with entry.json (EntryRecord), never changed
    current -> versions/VERSION          replaced by renaming, so that a reader sees the old result or the new one
    work/                                the run that is being made; a killed release goes on with it
ROOT/releases/RELEASE/                   release.json (ReleaseRecord), the catalogue and its pages
ROOT/latest -> releases/RELEASE
ROOT/logs/                               what unattended runs leave (run_logs.py)

VERSION is the identifier of the release that made it. A reader resolves `current` once and reads below what it found:
that never changes, and goes only when `keep` newer ones are there; where readers take long, keep two or more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Workflow = Literal["thickness", "compare", "statistics"]
Outcome = Literal["made", "kept", "failed", "waiting"]
"""made : in this release. kept : nothing it depends on changed. failed : tried, and message says why.
waiting : not tried, for want of disk or because the release was stopped; it comes next time."""


class _Record(BaseModel):
    # A newer voxcaliper may have noted more, which changes nothing of what is understood here. The type checker sees
    # to it that nothing is written that is not a field.
    model_config = ConfigDict(frozen=True, extra="ignore")


class EntryRecord(_Record):
    """One entry in one release.

    version : the published version that readers see after this release, None where there never was one; a failed
        entry keeps the one it had. run : the folder of that version relative to the root.
    reasons : why it was made or is to be made: "new", "mask: content", "mask: array metadata", "parameter threshold",
        "algorithm version" …; empty where it is kept.
    key : everything the result depends on, by name; two equal keys have equal results.
    about : descriptive metadata (donor, organ, …), which the result does not depend on.
    message : of a failed or waiting entry, one sentence.
    seconds, bytes : what making it took, and the size of its folder; 0 where it was not made.
    """

    dataset: str
    workflow: Workflow
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    message: str = ""
    version: str | None = None
    run: str | None = None
    key: dict[str, Any] = {}
    about: dict[str, str | float | None] = {}
    seconds: float = 0.0
    bytes: int = 0


class ReleaseRecord(_Record):
    """One release. identifier : its folder in ROOT/releases; sorts by time. ended : None while it is being made."""

    identifier: str
    name: str
    manifest: str
    began: datetime
    ended: datetime | None = None
    entries: tuple[EntryRecord, ...] = ()
