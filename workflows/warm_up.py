"""Compile the kernels once, on one worker, before the clock of a run starts; the others find them in the cache.

A tiny job of the same kind goes through the same tasks, so that exactly the kernels of the run are compiled. The first
run on a machine takes some twenty seconds here, every later one less than a second or two.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.comparison import ComparisonJob
from pipeline.engine import Client, perform, run_alone
from pipeline.errors import StorageError
from pipeline.geometry import BlockGrid, VoxelSize
from pipeline.job import ThicknessJob, ledger_of
from pipeline.volume.foreground import Foreground
from pipeline.volume.opening import Volume
from pipeline.volume.writing import create_multiscale
from workflows import measure_thickness
from workflows.stages import Conclusion, resource

PREFIX = "warm-up-"
SHAPE = (12, 12, 24)
BLOCK_SHAPE = (12, 12, 12)
WIDE = VoxelSize((1.0, 1.0, 1.0001))
"""Voxels whose squared distances, in units of 0.1 nm, do not fit into 32 bits in any volume."""


def warm_up(client: Client, job: ThicknessJob | ComparisonJob) -> None:
    """Compile what the job needs, on one worker. What killed ones leave in the run folder is swept."""
    _sweep(job)
    run_alone(client, "compile-kernels", compile_kernels, job, resource=resource(job.device, kernels=True))
    _sweep(job)


def _sweep(job: ThicknessJob | ComparisonJob) -> None:
    for left in job.ledger.folder.parent.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


_WARM: set[tuple[object, ...]] = set()
"""The kinds of job that this process has compiled or loaded, so that the next run on a cluster begins at once."""


def compile_kernels(job: ThicknessJob | ComparisonJob) -> None:
    """Measure or compare balls in two blocks with the job's types, in a folder of its own beside the ledger.

    Raises StorageError where that cannot be.
    """
    kind = _kind_of_comparison(job) if isinstance(job, ComparisonJob) else _kind_of_thickness(job)
    if kind in _WARM:
        return
    run = job.ledger.folder.parent
    try:
        run.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=PREFIX, dir=run) as name:
            _measure_balls(job, Path(name))
    except (OSError, StorageError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        said = cause.strerror if isinstance(cause, OSError) else cause
        raise StorageError(
            f"The kernels could not be tried in {run}: {said}; make room or mend it, and go on with `voxcaliper resume"
            f" {run}`, finished blocks are kept."
        ) from error
    _WARM.add(kind)


def _measure_balls(job: ThicknessJob | ComparisonJob, folder: Path) -> None:
    if isinstance(job, ComparisonJob):
        from workflows import compare_segmentations  # it needs numba, which thickness on GPUs does without

        for pair in _tiny_comparisons(job, folder):
            compare_segmentations.create_maps(pair)
            finish(pair)
    else:
        ball = _tiny_thickness(job, folder)
        if ball.map is not None:
            measure_thickness.create_map(ball)
        finish(ball)


def finish(job: ThicknessJob | ComparisonJob) -> None:
    """Every stage of a job in this process, block by block."""
    if isinstance(job, ComparisonJob):
        from workflows import compare_segmentations

        stages, conclusions = compare_segmentations.stages(job), compare_segmentations.conclusions(job)
    else:
        stages, conclusions = measure_thickness.stages(job), measure_thickness.conclusions(job)
    for stage in stages:
        conclusion = conclusions.get(stage.name, Conclusion)()
        for block in stage.grid:
            conclusion.absorb(block, perform(stage.name, stage.task, job, block))
        conclusion.conclude({})


def _kind_of_thickness(job: ThicknessJob) -> tuple[object, ...]:
    return "thickness", job.device, job.dtype, job.map_kind, job.regions.dtype if job.regions else None


def _kind_of_comparison(job: ComparisonJob) -> tuple[object, ...]:
    volumes = (job.reference, job.prediction, job.image, job.regions)
    dtypes = tuple(volume.dtype if volume else None for volume in volumes)
    return (
        "compare", job.device, job.dtype, dtypes, job.parts, job.objects,
        bool(job.widths), bool(job.maps),
    )  # fmt: skip


def _tiny_thickness(job: ThicknessJob, folder: Path) -> ThicknessJob:
    """A ball in two blocks."""
    return replace(
        job,
        mask=_ball(folder / "mask", "uint8", job.voxel_size),
        foreground=Foreground.nonzero(),
        regions=_ball(folder / "regions", job.regions.dtype, job.voxel_size) if job.regions else None,
        grid=BlockGrid(SHAPE, BLOCK_SHAPE),
        ledger=ledger_of(folder),
        map=replace(job.map, path=folder / "map", shape=SHAPE, block_shape=BLOCK_SHAPE) if job.map else None,
        wide=job.dtype == np.int64,
    )


def _tiny_comparisons(job: ComparisonJob, folder: Path) -> Iterator[ComparisonJob]:
    """A ball in two blocks and the same ball moved; where large labels need 64 bits, once more with distances so wide.

    Small labels never do: distances are as wide as the box of a label asks for.
    """
    wide = job.dtype == np.int64
    narrow = VoxelSize((1.0, 1.0, 1.0))
    for number, voxel_size in enumerate([narrow, WIDE] if wide else [narrow]):
        here = folder / str(number)
        yield replace(
            job,
            reference=_ball(here / "reference", job.reference.dtype, voxel_size),
            prediction=_ball(here / "prediction", job.prediction.dtype, voxel_size, 1) if job.prediction else None,
            image=_ball(here / "image", job.image.dtype, voxel_size) if job.image else None,
            regions=_ball(here / "regions", job.regions.dtype, voxel_size) if job.regions else None,
            labels=None,
            ignore_label=None,
            voxel_size=voxel_size,
            grid=BlockGrid(SHAPE, BLOCK_SHAPE),
            ledger=ledger_of(here),
            maps={
                name: replace(image, path=here / f"map-{name}", shape=SHAPE, block_shape=BLOCK_SHAPE)
                for name, image in job.maps.items()
            },
        )


def _ball(path: Path, dtype: str, voxel_size: VoxelSize, moved: int = 0) -> Volume:
    """A stored ball, moved by some voxels along x."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    ball = (z - 6) ** 2 + (y - 6) ** 2 + (x - 12 - moved) ** 2 < 30
    image = create_multiscale(
        path,
        shape=SHAPE,
        dtype=dtype,
        voxel_size=voxel_size,
        block_shape=SHAPE,
        name="ball",
        reducer="any" if dtype == "bool" else "max",
    )
    image.write_block(0, (0, 0, 0), ball.astype(dtype))
    return image.volume(0)
