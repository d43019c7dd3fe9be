"""The question: how much of the kernels' speed is left from Zarr to Zarr, and where does the rest go."""

from __future__ import annotations

import json
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client

from benchmarks import whole_volume
from benchmarks.results import Answer, Goal, Table
from benchmarks.timing import bench
from benchmarks.volumes import Mask, Size, noise, store
from cluster.local import Workers
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from workflows.config import ThicknessConfig
from workflows.run_thickness import execute, start

WORKERS = 2
SIGMA = 8
KINDS = ("read", "distance", "prune", "gather", "tally", "map", "write", "file")
"""What tasks time of themselves, in the order of the data; file: to write down for other tasks what they need."""


@dataclass(frozen=True)
class Run:
    """One run from Zarr to Zarr. wall_s : planning, all stages and the results. provenance : as in the run folder."""

    wall_s: float
    provenance: dict[str, Any]

    def seconds(self, kind: str) -> float:
        """Seconds of one kind of work, or "all", summed over all tasks of all workers."""
        return float(sum(stage["seconds"].get(kind, 0.0) for stage in self.provenance["stages"].values()))

    @property
    def scratch_written(self) -> float:
        """Bytes that tasks left for other tasks, per voxel of the volume."""
        written = sum(stage["scratch_bytes_written"] for stage in self.provenance["stages"].values())
        return float(written / math.prod(self.provenance["plan"]["shape"]))


def run_once(client: Client, workers: Workers, config: ThicknessConfig, run: Path) -> Run:
    """Measure a stored mask as `voxcaliper thickness` does, on workers that are there already."""
    begin = time.perf_counter()
    folder, job = start(config, run, workers)
    with folder.locked():
        execute(client, workers, folder, job, report=lambda _: None)
    wall_s = time.perf_counter() - begin
    return Run(wall_s, json.loads(folder.provenance.read_text(encoding="utf-8")))


def warm_up(client: Client, workers: Workers, folder: Path) -> float:
    """A tiny run, so that every worker has imported and compiled everything; returns its seconds."""
    mask = store(noise(32, 2), folder, "tiny")
    config = ThicknessConfig(mask=str(mask), block_shape=(8, 32, 32))
    return run_once(client, workers, config, folder / "tiny-run").wall_s


def kernels_alone(mask: Mask, threads: int, repeats: int, *, tally: bool) -> float:
    """Seconds on the wall for the kernels on a mask in memory, cut into one independent part per thread."""
    planes = -(-mask.shape[0] // threads)
    parts = [mask[i * planes : (i + 1) * planes] for i in range(threads)]

    def work(part: Mask) -> None:
        radii = whole_volume.distance_and_thickness(part)
        if tally:
            whole_volume.count_radii(radii)

    with ThreadPoolExecutor(threads) as pool:
        return bench(lambda: list(pool.map(work, parts)), repeats)[1].wall_s


def answer(size: Size) -> Answer:
    """One run of noise on local workers, beside the kernels on the same volume in memory."""
    whole_volume.compile_kernels()
    mask = noise(size.run_side, SIGMA)
    kernels_s = kernels_alone(mask, WORKERS, size.repeats, tally=False)
    kernels_and_tally_s = kernels_alone(mask, WORKERS, size.repeats, tally=True)
    with tempfile.TemporaryDirectory() as folder:
        stored = store(mask, Path(folder), "noise")
        del mask
        begin = time.perf_counter()
        with open_cluster(LocalProfile(workers=WORKERS)) as (client, workers):
            cluster_s = time.perf_counter() - begin
            first_s = warm_up(client, workers, Path(folder))
            run = run_once(client, workers, ThicknessConfig(mask=str(stored)), Path(folder) / "run")
    voxels = size.run_side**3
    whole = Table(
        f"From Zarr to Zarr, noise σ{SIGMA}, {size.run_side}³ voxels, {WORKERS} workers",
        ("", "seconds", "Mvoxel/s"),
        (
            ("run: planning, stages, results and report", f"{run.wall_s:.2f}", f"{voxels / run.wall_s / 1e6:.2f}"),
            (f"kernels alone on {WORKERS} threads (distance, prune, pack, gather)", f"{kernels_s:.2f}",
             f"{voxels / kernels_s / 1e6:.2f}"),
            ("the same with the tally", f"{kernels_and_tally_s:.2f}", f"{voxels / kernels_and_tally_s / 1e6:.2f}"),
            ("not in the run: starting the workers", f"{cluster_s:.2f}", "–"),
            ("not in the run: a tiny run before it, which loads and compiles everything", f"{first_s:.2f}", "–"),
        ),
        f"{run.provenance['tasks_per_block']:.2f} tasks per block of {times(run.provenance['plan']['block_shape'])};"
        f" bytes per voxel: {run.provenance['bytes_read_per_voxel']['source']:.2f} read from the mask,"
        f" {run.provenance['bytes_read_per_voxel']['scratch']:.2f} from scratch,"
        f" {run.scratch_written:.2f} written to scratch.",
    )  # fmt: skip
    goal = Goal(
        f"run from Zarr to Zarr / kernels alone, {size.run_side}³ σ{SIGMA}, {WORKERS} workers",
        100 * kernels_s / run.wall_s, 60, at_most=False, unit="%",
    )  # fmt: skip
    return Answer(
        "How much of the kernels' speed is left from Zarr to Zarr?", (whole, _breakdown(run), stage_table(run)), (goal,)
    )


def _breakdown(run: Run) -> Table:
    offered = WORKERS * run.wall_s
    busy = run.seconds("all")
    in_stages = WORKERS * sum(stage["wall_seconds"] for stage in run.provenance["stages"].values())
    seconds = {kind: run.seconds(kind) for kind in KINDS}
    seconds["other work in tasks"] = busy - sum(seconds.values())
    seconds["idle within stages"] = in_stages - busy
    seconds["idle before, between and after stages"] = offered - in_stages
    return Table(
        "Where the workers' time goes",
        ("work", "seconds", "share"),
        (
            *((kind, f"{value:.2f}", f"{value / offered:.1%}") for kind, value in seconds.items()),
            (f"{WORKERS} workers × wall", f"{offered:.2f}", "100.0%"),
        ),
    )


def stage_table(run: Run) -> Table:
    """Every stage: its tasks, seconds on the wall, and seconds of all workers by kind of work."""
    return Table(
        "Stages",
        ("stage", "tasks", "wall, s", *KINDS),
        tuple(
            (
                name, str(stage["tasks"]), f"{stage['wall_seconds']:.2f}",
                *(f"{stage['seconds'][kind]:.2f}" if kind in stage["seconds"] else "–" for kind in KINDS),
            )
            for name, stage in run.provenance["stages"].items()
        ),
        "Seconds of all workers together, except for the wall.",
    )  # fmt: skip


def times(shape: list[int]) -> str:
    """A shape as a person reads it."""
    return " × ".join(map(str, shape))
