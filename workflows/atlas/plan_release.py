"""What a release would do: which entries are stale and why, and what making them takes. No voxel is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from cluster.environment import settle_environment
from cluster.local import DeviceChoice, Workers
from cluster.profile import Profile
from pipeline.errors import RunError, StorageError, VoxcaliperError
from pipeline.job import ThicknessJob
from workflows.atlas.costs import cpu_hours, written_bytes
from workflows.atlas.manifest import Entry, Manifest
from workflows.atlas.records import EntryRecord
from workflows.atlas.root import EntryFolder, Root
from workflows.atlas.staleness import Job, Key, key_of, open_entry, reasons
from workflows.estimate import usual
from workflows.options import offer_of, say
from workflows.plan_comparison import check_comparison_memory, choose_comparison_blocks, make_comparison_plan
from workflows.plan_thickness import check_memory, choose_blocks, gib, make_plan
from workflows.progress import duration
from workflows.run_comparison import task_counts

AT_ONCE = 16
"""Entries that are planned at a time."""
STARTING_SECONDS = 5.0
"""What a run takes beside its voxels: workers that start, results that are written."""
TELLING_SECONDS = 60.0
"""Shorter runs tell how long workers take to start, and nothing of the pace."""
THICKNESS_STAGES = ("mask", "distance-y", "distance-z", "centres", "thickness")
"""What the cost of a voxel was measured on."""


@dataclass(frozen=True)
class Planned:
    """An entry of a release before it is made.

    record : kept; waiting, where it is stale; failed, where its sources cannot be opened or it fits no worker.
    voxels, blocks, bytes : of the run, where it is stale; bytes are what its maps and scratch may take.
    seconds : that making it takes, by the pace so far. warnings : what is wrong in its sources and read all the same.
    """

    entry: Entry
    record: EntryRecord
    voxels: int = 0
    blocks: int = 0
    bytes: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def is_stale(self) -> bool:
        return self.record.outcome == "waiting"


class Planner:
    """Plans entries for the workers of a profile; a running cluster is asked once."""

    def __init__(self, root: Root, profile: Profile) -> None:
        for sentence in settle_environment(profile):  # sources are opened here, too
            say(f"voxcaliper: warning: {sentence}")
        self._root, self._profile = root, profile
        self._offers: dict[DeviceChoice, Workers] = {}
        self._asking = Lock()
        self._paces = paces(root)

    def offer(self, device: DeviceChoice) -> Workers:
        """What the workers offer. Raises RunError where they cannot be asked, InputError where a GPU is missing."""
        with self._asking:
            if device not in self._offers:
                self._offers[device] = offer_of(self._profile, device)
            return self._offers[device]

    def plan_all(self, entries: Iterable[Entry]) -> list[Planned]:
        """Every entry, some at a time: stores far away take their time to answer."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="plan") as pool:
            try:
                return list(pool.map(self.plan, entries))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def plan(self, entry: Entry) -> Planned:
        """Whether an entry is to be made, why, and what that takes.

        Raises RunError where nobody answers at the address of the workers: that is no fault of the entry.
        """
        folder = self._root.entry(entry.dataset, entry.workflow)
        record = EntryRecord(dataset=entry.dataset, workflow=entry.workflow, outcome="kept", about=entry.about)
        try:
            shown = folder.current()
            if shown is not None:
                record = record.model_copy(update={"version": shown.version, "run": shown.run})
            job = open_entry(entry, folder.work.path)
            key = key_of(entry, job)
            why = why_made(shown, folder, key)
            if not why:
                return Planned(entry, record.model_copy(update={"key": key}))
            record = record.model_copy(update={"outcome": "waiting", "reasons": why, "key": key})
            return self._extent(entry, job, record)
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  whatever its sources hold, it fails alone
            return Planned(entry, failed(record, error))

    def _extent(self, entry: Entry, job: Job, record: EntryRecord) -> Planned:
        """A stale entry with what making it takes. Raises PlanError where it fits no worker."""
        workers, nowhere, voxels = self.offer(entry.config.device), self._root.path / "run", math.prod(job.grid.shape)
        job = replace(job, device=workers.device)
        if isinstance(job, ThicknessJob):
            job = choose_blocks(job, nowhere, workers) if entry.config.block_shape is None else job
            check_memory(job, workers)
            plan = make_plan(job)
            stages, maps, fields = plan.stages, int(job.map is not None), 1
        else:
            job = choose_comparison_blocks(job, nowhere, workers) if entry.config.block_shape is None else job
            check_comparison_memory(job, workers)
            made = make_comparison_plan(job, task_counts(job))
            fields = len(job.sides) if {"surface", "thickness"} & set(job.parts) else 0
            stages, maps = made.stages, len(job.maps)
        blocks = math.prod(job.grid.counts)
        seconds = self._seconds(entry, voxels, blocks, [stage.name for stage in stages], workers)
        warnings = sorted({text for volume in job.volumes.values() for text in volume.warnings})
        written = written_bytes(voxels, maps=maps, fields=fields)
        return Planned(entry, record, voxels, blocks, written, seconds, tuple(warnings))

    def _seconds(self, entry: Entry, voxels: int, blocks: int, stages: Sequence[str], workers: Workers) -> float:
        """By the pace of the versions in the root; until there are some, by that of the benchmarks on CPUs."""
        if entry.workflow in self._paces:
            return STARTING_SECONDS + voxels * self._paces[entry.workflow]
        share = sum(map(usual, stages)) / sum(map(usual, THICKNESS_STAGES))
        return STARTING_SECONDS + cpu_hours(voxels, blocks) * 3600 * share / workers.threads


def why_made(shown: EntryRecord | None, folder: EntryFolder, key: Key) -> tuple[str, ...]:
    """Why an entry is to be made for a key, none where the version that readers see may be kept."""
    if shown is None and folder.versions():
        return ("no whole version",)
    return reasons(shown.key if shown else None, key)


def failed(record: EntryRecord, error: BaseException) -> EntryRecord:
    """The record of an entry that an error ended."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, VoxcaliperError):
        text = f"{type(error).__name__}: {text}"
    return record.model_copy(update={"outcome": "failed", "message": text})


def paces(root: Root) -> dict[str, float]:
    """Workflow -> seconds a voxel took, over the versions that readers see and that took a while."""
    seconds: dict[str, float] = {}
    voxels: dict[str, int] = {}
    for folder in root.entries():
        try:
            shown = folder.current()
            if shown is None or shown.seconds < TELLING_SECONDS:
                continue
            size = math.prod(map(int, next(iter(shown.key["sources"].values()))["array metadata"]["shape"]))
        except (StorageError, LookupError, TypeError, ValueError, AttributeError, StopIteration):
            continue  # of another version, or damaged: it tells no pace
        seconds[shown.workflow] = seconds.get(shown.workflow, 0.0) + shown.seconds
        voxels[shown.workflow] = voxels.get(shown.workflow, 0) + size
    return {workflow: seconds[workflow] / voxels[workflow] for workflow in seconds if voxels[workflow]}


def no_room(root: Root, planned: Planned, budget: int | None, used: int) -> str:
    """Why an entry has to wait for want of disk, as a sentence; "" where there is room. used : bytes of the root."""
    unfinished = root.entry(planned.entry.dataset, planned.entry.workflow).work_bytes()
    need, free = max(0, planned.bytes - unfinished), root.free_bytes()
    if need > free:
        return (
            f"It may take {gib(need)} more, and {gib(free)} are free on the disk of {root.path}; make room there, then"
            " run the release again."
        )
    if budget is not None and used + need > budget:
        return (
            f"It may take {gib(need)} more, and {root.path} has {gib(used)} of its budget of {gib(budget)} already;"
            " raise disk_budget or lower keep, then run the release again."
        )
    return ""


def describe(manifest: Manifest, root: Root, plans: Sequence[Planned]) -> str:
    """The plan of a release as a person reads it."""
    return "\n".join(_lines(manifest, root, plans))


def _lines(manifest: Manifest, root: Root, plans: Sequence[Planned]) -> Iterator[str]:
    stale, broken = [plan for plan in plans if plan.is_stale], [plan for plan in plans if plan.record.message]
    used, budget = root.used_bytes(), manifest.disk_budget
    yield f"release     {manifest.name} ({manifest.path})"
    yield f"output      {root.path}"
    kept = len(plans) - len(stale) - len(broken)
    yield f"entries     {len(plans)}: {len(stale)} to make, {kept} kept, {len(broken)} cannot be made"
    for plan in stale:
        yield f"make        {plan.entry.name}: {', '.join(plan.record.reasons)}"
        yield f"            {plan.voxels:,} voxels, {plan.blocks:,} blocks, {gib(plan.bytes)}{_takes(plan.seconds)}"
        yield from (f"            warning: {text}" for text in plan.warnings)
        if sentence := no_room(root, plan, budget, used):
            yield f"            waits: {sentence}"
    for plan in broken:
        yield f"cannot      {plan.entry.name}: {plan.record.message}"
    others = {folder.path for folder in root.entries()} - {
        root.entry(plan.entry.dataset, plan.entry.workflow).path for plan in plans
    }
    if others:
        yield f"others      {len(others)} entries of earlier releases are not in the manifest; they stay as they are"
    if stale:
        seconds = sum(plan.seconds for plan in stale)
        total = sum(plan.bytes for plan in stale)
        yield f"together    {sum(plan.blocks for plan in stale):,} blocks, {gib(total)}{_takes(seconds)}"
    of_budget = f" of {gib(budget)}" if budget is not None else ""
    if unfinished := root.unfinished_bytes():
        yield f"unfinished  {gib(unfinished)} in folders named work, of runs that failed or were stopped and go on"
    yield f"disk        {gib(used)}{of_budget} used, {gib(root.free_bytes())} free"


def _takes(seconds: float) -> str:
    return f", about {duration(seconds)}"


def as_json(plan: Planned) -> dict[str, Any]:
    """A planned entry for programs."""
    own = {name: getattr(plan, name) for name in ("voxels", "blocks", "bytes", "seconds", "warnings")}
    return {**plan.record.model_dump(mode="json", exclude={"seconds", "bytes"}), **(own if plan.is_stale else {})}
