"""What a release would do: which entries are stale and why, and what making them takes. No voxel is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local import DeviceChoice, Workers
from cluster.profile import Profile
from pipeline.errors import VoxcaliperError
from workflows.atlas.costs import cpu_hours
from workflows.atlas.manifest import Entry, Manifest
from workflows.atlas.records import EntryRecord
from workflows.atlas.root import EntryFolder, Root
from workflows.atlas.staleness import Key, key_of, open_entry, reasons
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.options import offer_of
from workflows.plan_comparison import check_comparison_memory, make_comparison_plan
from workflows.plan_thickness import (
    SCRATCH_BYTES_PER_VOXEL,
    check_memory,
    choose_blocks,
    gib,
    make_plan,
    open_job,
)
from workflows.progress import duration
from workflows.run_comparison import plan_of, task_counts


@dataclass(frozen=True)
class Planned:
    """An entry of a release before it is made.

    record : kept; waiting, where it is stale; failed, where its sources cannot be opened or it fits no worker.
    voxels, blocks, bytes : of the run, where it is stale; bytes are its map and scratch before compression.
    seconds : that making it takes, as far as anybody knows.
    """

    entry: Entry
    record: EntryRecord
    voxels: int = 0
    blocks: int = 0
    bytes: int = 0
    seconds: float | None = None

    @property
    def is_stale(self) -> bool:
        return self.record.outcome == "waiting"


class Planner:
    """Plans entries for the workers of a profile; a running cluster is asked once."""

    def __init__(self, root: Root, profile: Profile) -> None:
        self._root, self._profile = root, profile
        self._offers: dict[DeviceChoice, Workers] = {}
        self._paces = paces(root)

    def offer(self, device: DeviceChoice) -> Workers:
        """What the workers offer."""
        if device not in self._offers:
            self._offers[device] = offer_of(self._profile, device)
        return self._offers[device]

    def plan(self, entry: Entry) -> Planned:
        """Whether an entry is to be made, why, and what that takes."""
        folder = self._root.entry(entry.dataset, entry.workflow)
        record = standing(entry, folder)
        try:
            key = key_of(entry, open_entry(entry, folder.work.path))
        except (VoxcaliperError, OSError) as error:
            return Planned(entry, failed(record, error))
        why = why_made(folder, key)
        if not why:
            return Planned(entry, record.model_copy(update={"key": key}))
        record = record.model_copy(
            update={"outcome": "waiting", "reasons": why, "key": key, "seconds": 0.0, "bytes": 0}
        )
        try:
            shape, blocks, size = _extent(entry.config, folder.work.path, self.offer(entry.config.device))
        except (VoxcaliperError, OSError) as error:
            return Planned(entry, failed(record, error))
        voxels = math.prod(shape)
        return Planned(entry, record, voxels, blocks, size, self._seconds(entry, voxels, blocks))

    def _seconds(self, entry: Entry, voxels: int, blocks: int) -> float | None:
        """By the pace of the versions in the root; of thickness, until there are some, by that of the benchmarks."""
        if entry.workflow in self._paces:
            return voxels * self._paces[entry.workflow]
        if entry.workflow != "thickness":
            return None
        return cpu_hours(voxels, blocks) * 3600 / self.offer(entry.config.device).threads


def standing(entry: Entry, folder: EntryFolder) -> EntryRecord:
    """An entry as it is: kept, with the version that readers see."""
    shown = folder.current()
    seen = {} if shown is None else {"version": shown.version, "run": shown.run}
    return EntryRecord(
        dataset=entry.dataset, workflow=entry.workflow, outcome="kept", about=entry.about, **seen,
    )  # fmt: skip


def why_made(folder: EntryFolder, key: Key) -> tuple[str, ...]:
    """Why an entry is to be made for a key, none where its version may be kept."""
    shown = folder.current()
    if shown is None and folder.versions():
        return ("no whole version",)
    return reasons(shown.key if shown else None, key)


def failed(record: EntryRecord, error: BaseException) -> EntryRecord:
    """The record of an entry that an error ended."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, VoxcaliperError):
        text = f"{type(error).__name__}: {text}"
    return record.model_copy(update={"outcome": "failed", "message": text})


def _extent(
    config: ThicknessConfig | ComparisonConfig, run: Path, workers: Workers
) -> tuple[Sequence[int], int, int]:  # fmt: skip
    """Shape, blocks, and bytes written of a run, map and scratch. Raises PlanError where it fits no worker."""
    if isinstance(config, ThicknessConfig):
        job = open_job(config, run, device=workers.device)
        if config.block_shape is None:
            job = choose_blocks(job, run, workers)
        check_memory(job, workers)
        plan = make_plan(job)
        return plan.shape, len(job.grid), plan.map_bytes + plan.scratch_bytes
    comparison = plan_of(config, run, workers)
    check_comparison_memory(comparison, workers)
    made = make_comparison_plan(comparison, task_counts(comparison))
    fields = len(comparison.sides) if {"surface", "thickness"} & set(config.parts) else 0
    scratch = math.prod(made.shape) * SCRATCH_BYTES_PER_VOXEL * fields
    return made.shape, len(comparison.grid), made.map_bytes + int(scratch)


def paces(root: Root) -> dict[str, float]:
    """Workflow -> seconds a voxel took, over the versions that readers see."""
    seconds: dict[str, float] = {}
    voxels: dict[str, int] = {}
    for folder in root.entries():
        shown = folder.current()
        if shown is None:
            continue
        shape = next((source["array metadata"]["shape"] for source in shown.key.get("sources", {}).values()), None)
        if shape is not None:
            seconds[shown.workflow] = seconds.get(shown.workflow, 0.0) + shown.seconds
            voxels[shown.workflow] = voxels.get(shown.workflow, 0) + math.prod(shape)
    return {workflow: seconds[workflow] / voxels[workflow] for workflow in seconds}


def no_room(root: Root, planned: Planned, budget: int | None) -> str:
    """Why an entry has to wait for want of disk, as a sentence; "" where there is room."""
    unfinished = root.entry(planned.entry.dataset, planned.entry.workflow).work_bytes()
    need, free = max(0, planned.bytes - unfinished), root.free_bytes()
    if need > free:
        return (
            f"It may take {gib(need)} more, and {gib(free)} are free on the disk of {root.path}; make room there, then"
            " run the release again."
        )
    if budget is not None and (used := root.used_bytes()) + need > budget:
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
    yield f"release     {manifest.name} ({manifest.path})"
    yield f"output      {root.path}"
    kept = len(plans) - len(stale) - len(broken)
    yield f"entries     {len(plans)}: {len(stale)} to make, {kept} kept, {len(broken)} cannot be made"
    for plan in stale:
        yield f"make        {plan.entry.name}: {', '.join(plan.record.reasons)}"
        yield f"            {plan.voxels:,} voxels, {plan.blocks:,} blocks, {gib(plan.bytes)}{_takes(plan.seconds)}"
    for plan in broken:
        yield f"cannot      {plan.entry.name}: {plan.record.message}"
    if not stale:
        return
    total = sum(plan.bytes for plan in stale)
    known = [plan.seconds for plan in stale if plan.seconds is not None]
    unknown = f", without {len(stale) - len(known)} of unknown length" if len(known) < len(stale) else ""
    yield f"together    {sum(plan.blocks for plan in stale):,} blocks, {gib(total)}{_takes(sum(known))}{unknown}"
    budget = f" of {gib(manifest.disk_budget)}" if manifest.disk_budget is not None else ""
    used, free = (root.used_bytes(), root.free_bytes()) if root.path.exists() else (0, None)
    yield f"disk        {gib(used)}{budget} used" + (f", {gib(free)} free" if free is not None else "")


def _takes(seconds: float | None) -> str:
    return f", about {duration(seconds)}" if seconds is not None else ""


def as_json(plan: Planned) -> dict[str, Any]:
    """A planned entry for programs."""
    own = {"voxels": plan.voxels, "blocks": plan.blocks, "bytes": plan.bytes, "seconds": plan.seconds}
    return {**plan.record.model_dump(mode="json", exclude={"seconds", "bytes"}), **(own if plan.is_stale else {})}


def plan_release(
    manifest: Manifest, entries: Sequence[Entry], profile: Profile, *, told: Callable[[Entry], None] = lambda _: None
) -> list[Planned]:  # fmt: skip
    """Every entry of a release, planned."""
    planner = Planner(Root(manifest.output), profile)
    plans = []
    for entry in entries:
        told(entry)
        plans.append(planner.plan(entry))
    return plans
