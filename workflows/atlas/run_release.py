"""A release from its beginning, or from where it was stopped, to its end: entry by entry, each failing alone."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cluster.profile import Profile
from pipeline.errors import StorageError, VoxcaliperError
from workflows.atlas.make_entry import make_entry
from workflows.atlas.manifest import Entry, Manifest
from workflows.atlas.plan_release import Planned, Planner, failed, no_room
from workflows.atlas.records import EntryRecord, ReleaseRecord
from workflows.atlas.root import EntryFolder, Root
from workflows.atlas.root_lock import root_locked
from workflows.options import say
from workflows.progress import duration

STOPPED = "The release was stopped before this entry was made; run it again."
TO_COME = "It is made in this release, in its turn."


def run_release(
    manifest: Manifest, entries: Sequence[Entry], profile: Profile, *, keep: int | None = None, wait: bool = False,
    quiet: bool = False, say: Callable[[str], None] = say,
) -> ReleaseRecord:  # fmt: skip
    """Make what is stale in a release and publish it; returns the record of the release.

    profile : where workers run. keep : instead of the manifest's. wait : for another process that works on the root.
    quiet : nothing is said while it goes well. say : told what a person should know.
    An entry that cannot be made is in the record as failed, with a sentence. Raises LockedError where another process
    works on the root, RunError where the root belongs to another manifest or another process took it over, and
    KeyboardInterrupt where it is stopped, in order.
    """
    root = Root(manifest.output)
    root.make()
    with root_locked(root.path, wait=wait, say=say) as check:
        root = replace(root, check=check)
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

    def run(self, entries: Sequence[Entry]) -> ReleaseRecord:
        self._root.check_owner(self._manifest.name, self._manifest.path)
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
            self._root.write_release(stopped(self._record()))
            raise
        return self._finish()

    def _begin(self, plans: Sequence[Planned]) -> None:
        """A new release, or the last one where it was stopped: what was made in its first part belongs to it.

        Where some of that is stale already, or damaged, the last one stays stopped: a version has one release.
        """
        newest = self._root.newest()
        if newest is None or self._root.is_finished(newest):
            self._identifier = self._root.new_identifier()
        elif any(plan.is_stale and self._folder(plan.entry).has(newest.identifier) for plan in plans):
            self._root.write_release(stopped(newest))
            self._identifier = self._root.new_identifier()
        else:
            self._identifier, self._began = newest.identifier, newest.began

    def _before(self, plan: Planned) -> EntryRecord:
        """The record of an entry before its turn comes."""
        if plan.is_stale:
            return plan.record.model_copy(update={"message": TO_COME})
        if plan.record.outcome == "kept":
            folder = self._folder(plan.entry)
            with contextlib.suppress(StorageError):
                folder.clear_work()  # of what was wanted once, and is no more
                folder.prune(self._keep)
            shown = folder.current()
            if shown is not None and shown.version == self._identifier:  # made before this release was stopped
                return shown.model_copy(update={"about": plan.entry.about})
        return plan.record

    def _made(self, planner: Planner, plan: Planned) -> EntryRecord:
        """The record of an entry after its turn."""
        entry, folder, budget = plan.entry, self._folder(plan.entry), self._manifest.disk_budget
        try:
            plan = planner.plan(entry)  # its sources may have changed since the release began
            if not plan.is_stale:
                return plan.record
            if sentence := no_room(self._root, plan, budget, self._root.used_bytes() if budget is not None else 0):
                return plan.record.model_copy(update={"message": sentence})
            wanted = plan.record.model_copy(update={"version": self._identifier})
            made = make_entry(entry, wanted, folder, self._profile, quiet=self._quiet)
        except Exception as error:  # noqa: BLE001  whatever it fails with, it fails alone
            if not isinstance(error, VoxcaliperError | OSError):  # nobody foresaw it
                self._say(traceback.format_exc())
            return failed(plan.record, error)
        with contextlib.suppress(StorageError):  # it is published, whatever becomes of older ones
            folder.prune(self._keep)
        return made

    def _folder(self, entry: Entry) -> EntryFolder:
        return self._root.entry(entry.dataset, entry.workflow)

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
        """Its page is written last: until it is there, the release has not come to its end (Root.is_finished)."""
        from workflows.atlas.release_page import write_release_page

        release = self._record(ended=datetime.now(UTC))
        self._root.write_release(release)
        write_release_page(self._root.path, self._identifier)
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


def stopped(release: ReleaseRecord) -> ReleaseRecord:
    """A release that did not come to its end, whose entries say so."""
    entries = (
        entry.model_copy(update={"message": STOPPED}) if entry.message == TO_COME else entry
        for entry in release.entries
    )
    return release.model_copy(update={"ended": None, "entries": tuple(entries)})
