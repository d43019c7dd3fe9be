"""What the tasks of a stage take at most, measured in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.comparison import ComparisonJob
from pipeline.job import ThicknessJob
from tests.workflows.runs import environment
from workflows.execution import with_key
from workflows.plan_comparison import open_comparison
from workflows.plan_thickness import open_job
from workflows.run_folder import open_run_folder

# VmHWM belongs to the memory of one process; ru_maxrss would start at what its parent held when it was started.
MEASURE = """
import pathlib, sys
from pipeline.engine import perform
from tests.workflows.peaks import job_of
from workflows import compare_segmentations, measure_thickness
from workflows.warm_up import compile_kernels

def resident(name):
    lines = pathlib.Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

job = job_of(sys.argv[1])
compile_kernels(job)
stages = (compare_segmentations if hasattr(job, "prediction") else measure_thickness).stages(job)
stage = next(stage for stage in stages if stage.name == sys.argv[2])
rest, most = resident("VmRSS"), 0
blocks = list(stage.grid)
for block in {blocks[0], blocks[-1]}:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    perform(stage.name, stage.task, job, block)
    most = max(most, resident("VmHWM"))
print(rest, most)
"""


class Peak(NamedTuple):
    """Resident bytes of a process: before the first task of a stage, and at most during its first and last one."""

    rest: int
    most: int


def job_of(run: Path | str) -> ThicknessJob | ComparisonJob:
    """The job of a run as its tasks see it."""
    folder = open_run_folder(Path(run))
    key = folder.check_seal()
    if folder.workflow == "thickness":
        return with_key(open_job(folder.config(), folder.path, block_shape=folder.plan().block_shape), key)
    config, plan = folder.comparison_config(), folder.comparison_plan()
    return with_key(open_comparison(config, folder.path, block_shape=plan.block_shape), key)


def peak(run: Path, stage: str) -> Peak:
    """Do a stage of a run whose earlier stages are finished in a fresh process."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs the peaks of memory that Linux keeps in /proc")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, run, stage], env=environment(), check=True, capture_output=True, text=True
    )
    rest, most = map(int, done.stdout.split())
    return Peak(rest, most)


def check(run: Path, stage: str, allowed: int, worker_bytes: int) -> None:
    """Hold the tasks of a stage against what the plan allows them."""
    found = peak(run, stage)
    taken = found.most - found.rest
    assert taken <= allowed, f"{stage}: {taken / 2**20:.0f} of {allowed / 2**20:.0f} MiB"
    assert found.most <= allowed + worker_bytes
