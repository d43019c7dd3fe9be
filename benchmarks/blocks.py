"""The question: what does cutting a volume into blocks cost, and which blocks are best."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks import whole_volume
from benchmarks.results import Answer, Table
from benchmarks.timing import bench
from benchmarks.volumes import Size, noise, store
from benchmarks.whole_run import SIGMA, WORKERS, run_once, warm_up
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from workflows.config import ThicknessConfig

CUTS = (8, 4, 2, 1)
"""Blocks along each axis."""
SMALLEST_SIDE = 20


def answer(size: Size) -> Answer:
    """The same volume in blocks of an eighth of its side up to the whole."""
    whole_volume.compile_kernels()
    mask = noise(size.run_side, SIGMA)
    whole_s = bench(partial(whole_volume.squared_distance, mask), size.repeats)[1].wall_s
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = store(mask, folder, "noise")
        del mask
        with open_cluster(LocalProfile(workers=WORKERS)) as (client, workers):
            warm_up(client, workers, folder)
            for cuts in CUTS:
                side = size.run_side // cuts
                if side < SMALLEST_SIDE:
                    continue
                run = run_once(
                    client,
                    workers,
                    ThicknessConfig(mask=str(stored), block_shape=(side, side, side)),
                    folder / f"run-{side}",
                )
                moved = run.provenance["bytes_read_per_voxel"]
                rows.append(
                    (
                        f"{side}³", str(cuts**3), f"{run.provenance['tasks_per_block']:.2f}",
                        f"{run.wall_s:.2f}", f"{size.run_side**3 / run.wall_s / 1e6:.2f}",
                        f"{run.seconds('all') / (WORKERS * run.wall_s):.0%}",
                        f"{run.seconds('distance'):.2f}", f"{run.seconds('distance') / whole_s:.2f}",
                        f"{run.seconds('prune') + run.seconds('gather'):.2f}",
                        f"{moved['source']:.2f}", f"{moved['scratch']:.2f}",
                        f"{run.scratch_written:.2f}",
                    )
                )  # fmt: skip
    table = Table(
        f"Blocks of one volume, noise σ{SIGMA}, {size.run_side}³ voxels, {WORKERS} workers",
        ("block", "blocks", "tasks per block", "wall, s", "Mvoxel/s", "busy", "distance, s", "distance / whole",
         "prune + gather, s", "source B/voxel", "scratch read B/voxel", "scratch written B/voxel"),
        tuple(rows),
        f"Distance: of all stages and workers together, with reading the parabolas; whole: the distance of the volume"
        f" in one piece, {whole_s:.2f} s. A block of the whole volume keeps one worker only.",
    )  # fmt: skip
    return Answer("What does cutting a volume into blocks cost?", (table,))
