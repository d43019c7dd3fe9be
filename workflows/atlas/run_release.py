"""A release from its beginning, or from where it was stopped, to its end: entry by entry, each failing alone."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cluster.profile import Profile
from pipeline.errors import VoxcaliperError
from workflows.atlas.make_entry import make_entry
from workflows.atlas.manifest import Entry, Manifest, read_manifest
from workflows.atlas.plan_release import Planned, Planner, failed, no_room
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.root import Root
from workflows.atlas.root_lock import root_locked
from workflows.options import profile_of, say
from workflows.progress import duration

STOPPED = "The release was stopped before this entry was made; run it again."
TO_COME = "It is made in this release, in its turn."


def run_release(
    path: Path, *, profile: Profile | None = None, keep: int | None = None, wait: bool = False, quiet: bool = False,
    say: Callable[[str], None] = say,
) -> ReleaseRecord:  # fmt: skip
    """Make what is stale in a release and publish it; returns the record of the release.

    path : the manifest. profile, keep : instead of the manifest's. wait : for another process that works on the root.
    quiet : nothing is said while it goes well. say : told what a person should know.
    An entry that cannot be made is in the record as failed, with a sentence. Raises LockedError where another process
    works on the root, InputError for a wrong manifest, and KeyboardInterrupt where it is stopped, in order.
    """
    manifest, entries = read_manifest(path)
    if profile is None:
        profile = profile_of(manifest.profile, None, None, unencrypted=False)
    root = Root(manifest.output)
    root.make()
    with root_locked(root.path, wait=wait, say=say):
        aloud: Callable[[str], None] = (lambda _: None) if quiet else say
        release = _Release(root, manifest, profile, keep or manifest.keep, quiet=quiet, say=aloud)
        return release.run(entries)


class _Release:
    """A release that is being made. Its record on disk is rewritten after each entry."""

    def __init__(
        self, root: Root, manifest: Manifest, profile: Profile, keep: int, *, quiet: bool, say: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._root, self._manifest, self._profile, self._keep = root, manifest, profile, keep
        self._quiet, self._say = quiet, say
        self._records: dict[str, EntryRecord] = {}
        self._identifier, self._began = "", datetime.now(UTC)

    def run(self, entries: tuple[Entry, ...]) -> ReleaseRecord:
        self._root.mend(self._root.entry(entry.dataset, entry.workflow) for entry in entries)
        planner = Planner(self._root, self._profile)
        plans = planner.plan_all(entries)
        self._begin(plans)
        self._records = {plan.entry.name: self._before(plan) for plan in plans}
        try:
            stale = [plan for plan in plans if plan.is_stale]
            self._tell_plan(plans, stale)
            self._write()
            for number, plan in enumerate(stale, start=1):
                self._tell_entry(plan, number, stale)
                self._note(self._made(planner, plan))
        except KeyboardInterrupt:
            for name, record in self._records.items():
                if record.outcome == "waiting" and record.message == TO_COME:
                    self._records[name] = record.model_copy(update={"message": STOPPED})
            self._write()
            raise
        for entry in entries:
            self._root.entry(entry.dataset, entry.workflow).prune(self._keep)
        return self._finish()

    def _begin(self, plans: Sequence[Planned]) -> None:
        """A new release, or the last one where it was stopped: what was made in its first part belongs to it.

        Where some of that is stale already, the last one has ended: a version has one release.
        """
        newest = self._root.newest()
        if newest is None or newest.ended is not None or newest.manifest != str(self._manifest.path):
            self._identifier = self._root.new_identifier()
        elif any(plan.is_stale and plan.record.version == newest.identifier for plan in plans):
            self._root.write_release(newest.model_copy(update={"ended": datetime.now(UTC)}))
            self._identifier = self._root.new_identifier()
        else:
            self._identifier, self._began = newest.identifier, newest.began

    def _before(self, plan: Planned) -> EntryRecord:
        """The record of an entry before its turn comes."""
        if plan.is_stale:
            return plan.record.model_copy(update={"message": TO_COME})
        folder = self._root.entry(plan.entry.dataset, plan.entry.workflow)
        if plan.record.outcome == "kept":
            if folder.work.path.exists():  # of what was wanted once, and is no more
                folder.clear_work()
            shown = folder.current()
            if shown is not None and shown.version == self._identifier:  # made before this release was stopped
                return shown.model_copy(update={"about": plan.entry.about})
        return plan.record

    def _made(self, planner: Planner, plan: Planned) -> EntryRecord:
        """The record of an entry after its turn."""
        entry = plan.entry
        folder = self._root.entry(entry.dataset, entry.workflow)
        try:
            plan = planner.plan(entry)  # its sources may have changed since the release began
            if not plan.is_stale:
                return plan.record
            if sentence := no_room(self._root, plan, self._manifest.disk_budget, self._root.used_bytes()):
                return plan.record.model_copy(update={"message": sentence})
            wanted = plan.record.model_copy(update={"version": self._identifier})
            made = make_entry(entry, wanted, folder, self._profile, quiet=self._quiet)
            folder.prune(self._keep)
        except Exception as error:  # noqa: BLE001  whatever it fails with, it fails alone
            if not isinstance(error, VoxcaliperError | OSError):  # nobody foresaw it
                self._say(traceback.format_exc())
            return failed(plan.record, error)
        return made

    def _note(self, record: EntryRecord) -> None:
        name = f"{record.dataset}/{record.workflow}"
        self._records[name] = record
        self._write()
        told = {"made": f"made in {duration(record.seconds)}", "kept": "kept: its sources are as they were"}
        self._say(f"{name}: {told.get(record.outcome) or f'{record.outcome}: {record.message}'}")

    def _record(self, ended: datetime | None = None) -> ReleaseRecord:
        return ReleaseRecord(
            identifier=self._identifier, name=self._manifest.name, manifest=str(self._manifest.path),
            began=self._began, ended=ended, entries=tuple(self._records.values()),
        )  # fmt: skip

    def _write(self) -> None:
        self._root.write_release(self._record())

    def _finish(self) -> ReleaseRecord:
        release = self._record(ended=datetime.now(UTC))
        self._root.write_release(release)
        _write_catalogue(self._root.path, self._identifier)
        self._root.show_latest(self._identifier)
        self._root.forget_idle_releases()
        return release

    def _tell_plan(self, plans: list[Planned], stale: list[Planned]) -> None:
        failures = [plan.record for plan in plans if plan.record.outcome == "failed"]
        kept = len(plans) - len(stale) - len(failures)
        self._say(f"release {self._identifier}: {len(stale)} to make, {kept} kept, {len(failures)} cannot be made")
        for record in failures:
            self._say(f"{record.dataset}/{record.workflow}: failed: {record.message}")

    def _tell_entry(self, plan: Planned, number: int, stale: list[Planned]) -> None:
        left = duration(sum(other.seconds for other in stale[number - 1 :]))
        why = ", ".join(plan.record.reasons)
        self._say(f"entry {number} of {len(stale)}: {plan.entry.name} ({why}); about {left} left of the release")


def _write_catalogue(root: Path, identifier: str) -> Path:
    """The catalogue over a release, and its pages; returns the index page."""
    from workflows.atlas.release_page import write_release_page

    return write_release_page(root, identifier)
