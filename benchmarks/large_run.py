"""The question: what does a volume take that is never in memory, in time, memory of a worker, and bytes moved."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from distributed import Client

from benchmarks.memory import resident
from benchmarks.results import Answer, Goal, Table
from benchmarks.volumes import Size, spline_noise, store_blockwise
from benchmarks.whole_run import WORKERS, Run, run_once, stage_table, times, warm_up
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.memory import WORKER_BYTES
from workflows.config import ThicknessConfig

SPACING = 16
"""Voxels between the numbers that the noise is made of."""


def _spent() -> tuple[int, int, float]:
    """Bytes that this process has read from files and written to them, as it asked for them, and its CPU seconds."""
    with open("/proc/self/io", encoding="ascii") as file:
        counted = dict(line.split(": ") for line in file.read().splitlines())
    return int(counted["rchar"]), int(counted["wchar"]), time.process_time()


def _peak() -> int:
    return resident("VmHWM")


@dataclass(frozen=True)
class LargeRun:
    """A run, and what its workers took. made_s : to make and store the volume. Sizes are in bytes.

    read, written, cpu_s : by all workers, from and to files, and their CPU time. peak : memory of the worker that took
    the most, with itself. formula : what the plan allows a worker. stored_mask, stored_map : of the files, with all
    levels. foreground : share of the voxels.
    """

    run: Run
    made_s: float
    read: int
    written: int
    cpu_s: float
    peak: int
    formula: int
    stored_mask: int
    stored_map: int
    foreground: float

    @property
    def voxels(self) -> int:
        z, y, x = self.run.provenance["plan"]["shape"]
        return int(z * y * x)

    @property
    def scratch_read(self) -> float:
        return float(self.run.provenance["bytes_read_per_voxel"]["scratch"])


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sum_spent(client: Client) -> tuple[int, int, float]:
    read, written, cpu_s = zip(*client.run(_spent).values(), strict=True)
    return sum(read), sum(written), sum(cpu_s)


@cache
def measured(size: Size) -> LargeRun:
    """Store the volume block by block and measure it on workers of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.perf_counter()
        stored = store_blockwise(partial(spline_noise, size.large_side, SPACING), size.large_side, folder, "noise")
        made_s = time.perf_counter() - begin
        with open_cluster(LocalProfile(workers=WORKERS)) as (client, workers):
            warm_up(client, workers, folder)
            before = _sum_spent(client)
            run = run_once(client, workers, ThicknessConfig(mask=str(stored)), folder / "run")
            after, peaks = _sum_spent(client), client.run(_peak).values()
        plan, stages = run.provenance["plan"], run.provenance["stages"]
        return LargeRun(
            run=run,
            made_s=made_s,
            read=after[0] - before[0],
            written=after[1] - before[1],
            cpu_s=after[2] - before[2],
            peak=max(peaks),
            formula=max(stage["memory_bytes"] for stage in plan["stages"]) + WORKER_BYTES,
            stored_mask=_bytes_in(stored),
            stored_map=_bytes_in(folder / "run" / "thickness.ome.zarr"),
            foreground=stages["mask"]["foreground_voxels"] / size.large_side**3,
        )


def answer(size: Size) -> Answer:
    """One run from Zarr to Zarr."""
    found = measured(size)
    run, voxels = found.run, found.voxels
    source = run.provenance["bytes_read_per_voxel"]["source"]
    blocks = times(run.provenance["plan"]["block_shape"])
    rows = (
        ("planning, stages, results and report, s", f"{run.wall_s:.1f}"),
        ("Mvoxel/s", f"{voxels / run.wall_s / 1e6:.2f}"),
        ("CPU seconds of all workers per Mvoxel", f"{found.cpu_s / voxels * 1e6:.4f}"),
        ("most memory of a worker, MiB", f"{found.peak / 2**20:.0f}"),
        ("the plan allows a worker, MiB", f"{found.formula / 2**20:.0f}"),
        ("bytes per voxel decoded from the mask", f"{source:.3f}"),
        ("bytes per voxel read from scratch", f"{found.scratch_read:.3f}"),
        ("bytes per voxel written to scratch", f"{run.scratch_written:.3f}"),
        ("bytes per voxel of the stored mask, all levels", f"{found.stored_mask / voxels:.4f}"),
        ("bytes per voxel of the stored map, all levels", f"{found.stored_map / voxels:.3f}"),
        ("bytes per voxel that workers read from files", f"{found.read / voxels:.3f}"),
        ("bytes per voxel that workers wrote to files", f"{found.written / voxels:.3f}"),
        ("foreground", f"{found.foreground:.1%}"),
        ("not in the run: making and storing the volume, s", f"{found.made_s:.1f}"),
    )  # fmt: skip
    whole = Table(
        f"From Zarr to Zarr, {size.large_side}³ voxels of noise in blocks of {blocks}, {WORKERS} workers",
        ("", ""),
        rows,
        "No process ever holds the volume: it is made, stored and measured block by block.",
    )
    goal = Goal(
        f"most memory of a worker / what the plan allows it, {size.large_side}³", 100 * found.peak / found.formula, 100,
        at_most=True, unit="%",
    )  # fmt: skip
    return Answer("What does a volume take that is never in memory?", (whole, stage_table(run)), (goal,))
