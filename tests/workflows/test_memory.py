"""No task takes more memory than the plan sums up, measured in a fresh process for each stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.job import ThicknessJob
from pipeline.memory import WORKER_BYTES, task_bytes
from tests.workflows.conftest import noise
from tests.workflows.runs import STAGES, environment, voxcaliper
from workflows.plan_thickness import open_job
from workflows.run_folder import open_run_folder

# VmHWM belongs to the memory of one process; ru_maxrss would start at what its parent held when it was started.
MEASURE = """
import pathlib, sys, tempfile
from pipeline.engine import perform
from workflows.measure_thickness import stages
from workflows.plan_thickness import open_job
from workflows.run_folder import open_run_folder
from workflows.warm_up import compile_kernels

def resident(name):
    lines = pathlib.Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

run = open_run_folder(sys.argv[1])
job = open_job(run.config(), run.path, block_shape=run.plan().block_shape)
compile_kernels(job)
stage = next(stage for stage in stages(job) if stage.name == sys.argv[2])
rest, most = resident("VmRSS"), 0
for block in stage.grid:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    perform(stage.name, stage.task, job, block)
    most = max(most, resident("VmHWM"))
print(rest, most)
"""


def finished_run(folder: Path, side: int, scheduler: str) -> Path:
    """Two blocks of noise with many centres, and all that their tasks left for each other."""
    voxels = np.concatenate([noise((side, side, side), sigma=1, seed=seed) for seed in (0, 1)])
    zarr.create_array(folder / "mask.zarr", data=voxels.astype(np.uint16), chunks=(64, 64, 64))
    options = ("--voxel-size-um", "1", "--block-shape", str(side), "--keep-scratch", "--scheduler", scheduler)
    done = voxcaliper(folder, "thickness", folder / "mask.zarr", "--run", folder / "run", *options)
    assert done.code == 0, done
    return folder / "run"


@pytest.fixture(scope="module")
def blocks_of_128(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("128"), 128, scheduler)


@pytest.fixture(scope="module")
def blocks_of_256(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("256"), 256, scheduler)


def job_of(run: Path) -> ThicknessJob:
    folder = open_run_folder(run)
    return open_job(folder.config(), folder.path, block_shape=folder.plan().block_shape)


def check(run: Path, stage: str) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs the peaks of memory that Linux keeps in /proc")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, run, stage], env=environment(), check=True, capture_output=True, text=True
    )
    rest, most = map(int, done.stdout.split())
    allowed = task_bytes(job_of(run))["pyramid" if stage.startswith("pyramid") else stage]
    assert most - rest <= allowed, f"{stage}: {(most - rest) / 2**20:.0f} of {allowed / 2**20:.0f} MiB"
    assert most <= allowed + WORKER_BYTES


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
