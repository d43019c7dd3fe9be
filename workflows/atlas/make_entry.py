"""One entry of a release: its run, made as the commands make it, and published when nothing changed meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cluster.local import Workers
from cluster.profile import Profile
from pipeline.errors import InputError, PlanError, RunError
from workflows.atlas.manifest import Entry
from workflows.atlas.records import EntryRecord
from workflows.atlas.root import EntryFolder
from workflows.atlas.staleness import key_of, open_entry, reasons
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.on_workers import carry_out
from workflows.options import say
from workflows.run_comparison import execute_comparison, reopen_comparison, start_comparison
from workflows.run_folder import RunFolder, open_run_folder
from workflows.run_state import sweep
from workflows.run_thickness import execute, reopen, start
from workflows.sources import ChangedError

Begun = tuple[RunFolder, Any]


def make_entry(
    entry: Entry, record: EntryRecord, folder: EntryFolder, profile: Profile, *, quiet: bool
) -> EntryRecord:  # fmt: skip
    """Make an entry and publish it; returns its record.

    record : of the entry to be made, with the key of its sources as they are and the version that it shall become. A
    run of the same key and configuration that was left unfinished goes on.
    Raises InputError where a source changed meanwhile, and whatever ends a run; the version before stays current.
    """
    began = time.perf_counter()
    noticed: ChangedError | None = None
    if not (folder.work.is_complete and is_left(entry, record, folder)):  # or only not published yet
        try:
            _carry_out(entry, record, folder, profile, quiet=quiet)
        except ChangedError as error:  # told below, in the words of the release
            noticed = error
    changed = reasons(record.key, key_of(entry, open_entry(entry, folder.work.path)))
    if changed:
        raise InputError(
            f"The sources of {entry.name} changed while it was made ({', '.join(changed)}), so its result is not"
            " published; run the release again when they are whole."
        )
    if noticed is not None:
        raise noticed
    sweep(folder.work)
    # Earlier processes may have done some of its stages.
    seconds = max(time.perf_counter() - began, stage_seconds(folder.work))
    made = {"outcome": "made", "seconds": round(seconds, 3)}
    return folder.publish(record.model_copy(update=made))


def stage_seconds(run: RunFolder) -> float:
    """What the stages of a complete run took together, each in the process that finished it."""
    stages = json.loads(run.provenance.read_text(encoding="utf-8"))["stages"]
    return float(sum(stage["wall_seconds"] for stage in stages.values()))


def _carry_out(entry: Entry, record: EntryRecord, folder: EntryFolder, profile: Profile, *, quiet: bool) -> None:
    starting: Callable[[Workers], Begun]
    reopening: Callable[[RunFolder, Workers], Any]
    if isinstance(entry.config, ThicknessConfig):
        starting, reopening = partial(start, entry.config, folder.work.path), reopen
        executing: Any = execute
    else:
        starting, reopening = partial(start_comparison, entry.config, folder.work.path), reopen_comparison
        executing = execute_comparison

    def begin(workers: Workers) -> Begun:
        if is_left(entry, record, folder):
            try:
                return folder.work, reopening(folder.work, workers)
            except (RunError, PlanError):
                pass  # planned for other workers, or damaged: made from its beginning
        folder.clear_work()
        begun = starting(workers)
        folder.note_work(record)
        return begun

    carry_out(
        profile, run=folder.work.path, device=entry.config.device, begin=begin, again=reopening,
        execute=partial(executing, say=say), quiet=quiet,
    )  # fmt: skip


def is_left(entry: Entry, record: EntryRecord, folder: EntryFolder) -> bool:
    """Whether an unfinished run is the one that an entry needs."""
    noted = folder.work_record()
    if noted is None or reasons(noted.key, record.key):
        return False
    try:
        return _config(folder.work.path) == entry.config
    except RunError:
        return False


def _config(run: Path) -> ThicknessConfig | ComparisonConfig:
    folder = open_run_folder(run)
    return folder.config() if folder.workflow == "thickness" else folder.comparison_config()
