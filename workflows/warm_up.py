"""Compile the kernels once, on one worker, before the clock of a run starts; the others find them in the cache.

A tiny job of the same kind goes through the same tasks, so that exactly the kernels of the run are compiled. The first
run on a machine takes some twenty seconds here, every later one less than a second or two.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.engine import Client, Stage, perform, run_alone
from pipeline.geometry import BlockGrid
from pipeline.job import ThicknessJob, ledger_of
from pipeline.volume.foreground import Foreground
from pipeline.volume.opening import Volume
from pipeline.volume.writing import create_multiscale
from workflows.measure_thickness import create_map, note_reach, stages
from workflows.stages import resource

SHAPE = (12, 12, 24)
BLOCK_SHAPE = (12, 12, 12)


def warm_up(client: Client, job: ThicknessJob) -> None:
    """Compile what the job needs, on one worker."""
    run_alone(client, "compile-kernels", compile_kernels, job, resource=resource(job.device, kernels=True))


_WARM: set[tuple[object, ...]] = set()
"""The kinds of job that this process has compiled or loaded, so that the next run on a cluster begins at once."""


def compile_kernels(job: ThicknessJob) -> None:
    """Measure a ball in two blocks with the job's integer types, in a temporary folder."""
    kind = (job.device, job.dtype, job.map_kind, job.regions.dtype if job.regions else None)
    if kind in _WARM:
        return
    with TemporaryDirectory(prefix="voxcaliper-") as name:
        folder = Path(name)
        tiny = replace(
            job,
            mask=_ball(job, folder / "mask", "uint8"),
            foreground=Foreground.nonzero(),
            regions=_ball(job, folder / "regions", job.regions.dtype) if job.regions else None,
            grid=BlockGrid(SHAPE, BLOCK_SHAPE),
            ledger=ledger_of(folder),
            map=replace(job.map, path=folder / "map", shape=SHAPE, block_shape=BLOCK_SHAPE) if job.map else None,
            wide=job.dtype == np.int64,
        )
        if tiny.map is not None:
            create_map(tiny)
        for stage in stages(tiny):
            _all_blocks(stage, tiny)
    _WARM.add(kind)


def _all_blocks(stage: Stage, job: ThicknessJob) -> None:
    largest = np.zeros(stage.grid.counts, np.int64)
    for block in stage.grid:
        largest[block] = perform(stage.name, stage.task, job, block).get("largest", 0)
    if stage.name == "centres":
        note_reach(job, largest)


def _ball(job: ThicknessJob, path: Path, dtype: str) -> Volume:
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    ball = (z - 6) ** 2 + (y - 6) ** 2 + (x - 12) ** 2 < 30
    image = create_multiscale(
        path,
        shape=SHAPE,
        dtype=dtype,
        voxel_size=job.voxel_size,
        block_shape=SHAPE,
        name="ball",
        reducer="any" if dtype == "bool" else "max",
    )
    image.write_block(0, (0, 0, 0), ball.astype(dtype))
    return image.volume(0)
