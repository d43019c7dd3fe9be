"""No task takes more memory than the plan sums up, measured in a fresh process for each stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.engine import perform
from pipeline.job import ThicknessJob
from pipeline.memory import CARD_FIXED_BYTES, WORKER_BYTES, card_bytes, task_bytes
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pool, pretended
from tests.workflows import peaks
from tests.workflows.conftest import noise
from tests.workflows.peaks import job_of
from tests.workflows.runs import STAGES, voxcaliper
from workflows.config import ThicknessConfig
from workflows.measure_thickness import note_reach, stages
from workflows.plan_thickness import open_job
from workflows.run_folder import open_run_folder

SIDE_ON_CARD = 48
SMALL_FIXED_BYTES = 3 << 20
"""What tables take whatever the block: of containment 0.3 MB, of the tally 1 MB."""


def finished_run(folder: Path, side: int, scheduler: str) -> Path:
    """Two blocks of noise with many centres, and all that their tasks left for each other."""
    voxels = np.concatenate([noise((side, side, side), sigma=1, seed=seed) for seed in (0, 1)])
    zarr.create_array(folder / "mask.zarr", data=voxels.astype(np.uint16), chunks=(64, 64, 64))
    options = (
        "--voxel-size-um",
        "1",
        "--block-shape",
        str(side),
        "--keep-scratch",
        "--scheduler",
        scheduler,
        "--unencrypted",
    )
    done = voxcaliper(folder, "thickness", folder / "mask.zarr", "--run", folder / "run", *options)
    assert done.code == 0, done
    return folder / "run"


@pytest.fixture(scope="module")
def blocks_of_128(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("128"), 128, scheduler)


@pytest.fixture(scope="module")
def blocks_of_256(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("256"), 256, scheduler)


def check(run: Path, stage: str) -> None:
    job = job_of(run)
    assert isinstance(job, ThicknessJob)
    peaks.check(run, stage, task_bytes(job)["pyramid" if stage.startswith("pyramid") else stage], WORKER_BYTES)


@pytest.mark.parametrize("stage", ["centres", "thickness"])
def test_a_task_stays_within_the_formula(blocks_of_128: Path, stage: str) -> None:
    check(blocks_of_128, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "pyramid-3"])
def test_a_task_on_a_large_block_stays_within_the_formula(blocks_of_256: Path, stage: str) -> None:
    names = {planned.name for planned in open_run_folder(blocks_of_256).plan().stages}
    if stage not in names:
        pytest.skip("blocks write all levels of this map themselves")
    check(blocks_of_256, stage)


@pytest.fixture(scope="module")
def on_a_pretended_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThicknessJob]:
    """Two blocks of noise with many centres, whose kernels run on a stand-in for a card that meters its memory."""
    if compiler() is None:
        pytest.skip("needs g++, which compiles the CUDA kernels for the CPU")
    folder = tmp_path_factory.mktemp("card")
    voxels = np.concatenate([noise((SIDE_ON_CARD,) * 3, sigma=1, seed=seed) for seed in (0, 1)])
    zarr.create_array(folder / "mask.zarr", data=voxels.astype(np.uint8), chunks=(SIDE_ON_CARD,) * 3)
    config = ThicknessConfig(
        mask=str(folder / "mask.zarr"), voxel_size_um=(1.0, 1.0, 1.0), block_shape=(SIDE_ON_CARD,) * 3, map="none"
    )
    with pretended():
        yield open_job(config, folder / "run", device="gpu")


def test_the_memory_of_a_card_keeps_to_the_plan(on_a_pretended_card: ThicknessJob) -> None:
    job = on_a_pretended_card
    planned = card_bytes(job)
    most: dict[str, int] = {}
    for stage in stages(job):
        largest = np.zeros(stage.grid.counts, np.int64)
        for block in stage.grid:
            pool.peak = pool.used
            summary = perform(stage.name, stage.task, job, block)
            most[stage.name] = max(most.get(stage.name, 0), pool.peak)
            largest[block] = summary.get("largest", 0)
        if stage.name == "centres":
            note_reach(job, largest)
    assert set(most) == set(planned)
    for name, found in most.items():
        allowed = planned[name] - CARD_FIXED_BYTES
        assert found <= allowed + SMALL_FIXED_BYTES, f"{name}: {found:,} of {allowed:,} bytes"
    assert max(most.values()) >= 0.6 * (max(planned.values()) - CARD_FIXED_BYTES), "the plan asks for far too much"
