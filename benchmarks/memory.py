"""The question: does a task stay within the memory that the plan sums up."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from distributed import Client

from benchmarks.results import Answer, Goal, Table
from benchmarks.volumes import Mask, Size, ball, noise, store
from cluster.local import Workers
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.engine import perform
from pipeline.job import ThicknessJob
from pipeline.memory import FIXED_BYTES, task_bytes
from workflows.config import ThicknessConfig
from workflows.measure_thickness import stages
from workflows.run_thickness import execute, start

GOAL_BYTES_PER_VOXEL = 16


def resident(peak: str) -> int:
    """VmRSS (now) or VmHWM (most since the last reset) of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{peak}:"))


def reset_peak() -> None:
    """Let VmHWM begin anew."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peaks(jobs: Mapping[str, ThicknessJob], rehearsal: ThicknessJob) -> dict[tuple[str, str], int]:
    """The most memory that a task took beside this process at rest, in bytes, by name of the job and stage.

    All jobs are of complete runs that kept their scratch: doing a task again changes nothing. The rehearsal, a tiny
    one, loads and compiles everything before the process counts as at rest. Memory that earlier tasks did not give
    back counts for the task, as it does in a worker.
    """
    for stage in stages(rehearsal):
        for block in stage.grid:
            perform(stage.name, stage.task, rehearsal, block)
    rest = resident("VmRSS")
    found: dict[tuple[str, str], int] = {}
    for name, job in jobs.items():
        for stage in stages(job):
            most = 0
            for block in stage.grid:
                reset_peak()
                perform(stage.name, stage.task, job, block)
                most = max(most, resident("VmHWM") - rest)
            found[name, stage.name] = most
    return found


def finished_job(client: Client, workers: Workers, folder: Path, mask: Mask, side: int) -> ThicknessJob:
    """A complete run in blocks of side³ that kept its scratch."""
    folder.mkdir()
    config = ThicknessConfig(mask=str(store(mask, folder, "mask")), block_shape=(side, side, side), keep_scratch=True)
    run, job = start(config, folder / "run", workers)
    execute(client, workers, run, job, report=lambda _: None)
    return job


def answer(size: Size) -> Answer:
    """Blocks of half the side of noise that keeps many centres, of usual noise, and of a ball thicker than a block."""
    side = size.run_side // 2
    volumes: dict[str, Callable[[], Mask]] = {
        "noise σ1": partial(noise, size.run_side, 1),
        "noise σ8": partial(noise, size.run_side, 8),
        "ball": partial(ball, size.run_side),
    }
    with tempfile.TemporaryDirectory() as folder:
        with open_cluster(LocalProfile(workers=2)) as (client, workers):
            rehearsal = finished_job(client, workers, Path(folder, "tiny"), noise(24, 2), 16)
            jobs = {
                name: finished_job(client, workers, Path(folder, name), make(), side) for name, make in volumes.items()
            }
        # A new process: what it holds is its own.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(peaks, (jobs, rehearsal))
    rows = []
    of_formula, per_voxel = 0.0, 0.0
    for (volume, stage), peak in found.items():
        allowed = task_bytes(jobs[volume])["pyramid" if stage.startswith("pyramid") else stage]
        of_formula = max(of_formula, peak / allowed)
        per_voxel = max(per_voxel, peak / side**3)
        rows.append(
            (volume, stage, f"{peak / 2**20:.1f}", f"{allowed / 2**20:.1f}", f"{peak / allowed:.0%}",
             f"{peak / side**3:.1f}")
        )  # fmt: skip
    table = Table(
        f"Most memory of a task beside the worker at rest, blocks of {side}³ in volumes of {size.run_side}³ voxels",
        ("volume", "stage", "peak, MiB", "formula, MiB", "peak / formula", "bytes per voxel of the block"),
        tuple(rows),
        f"The formula holds {FIXED_BYTES / 2**20:.0f} MiB that do not depend on the block"
        f" ({FIXED_BYTES / side**3:.1f} bytes a voxel here).",
    )
    goals = (
        Goal("peak memory of a task / formula", 100 * of_formula, 100, at_most=True, unit="%"),
        Goal(
            f"peak memory of a task per voxel of its {side}³ block",
            per_voxel,
            GOAL_BYTES_PER_VOXEL,
            at_most=True,
            unit="bytes",
        ),
    )
    return Answer("Does a task stay within the memory that the plan sums up?", (table,), goals)
