"""Workers that are killed for want of memory: fewer tasks at a time, then smaller blocks, then a clear error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workflows.conftest import Command
from tests.workflows.runs import ROOT, results
from workflows.run_folder import open_run_folder

# In every worker: a block of one stage takes seven thousand bytes a voxel more than the plan has summed up.
GREEDY = """
import os
if os.environ.get("GREEDY_BYTES"):
    import numpy, time
    import workflows.measure_thickness
    keep = workflows.measure_thickness.keep_centres

    def greedy(job, block, clock):
        box = job.grid.box(block)
        if job.grid.shape == (64, 64, 64):
            held = numpy.ones(int(os.environ["GREEDY_BYTES"]) * box.voxels, numpy.uint8)
            time.sleep(60 if box.voxels == 64**3 else 0)  # until whoever looks at the memory has seen it
        return keep(job, block, clock)

    workflows.measure_thickness.keep_centres = greedy
"""


@pytest.fixture
def greedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of 0.8 GiB, or one of 1.5: a block of 64³ voxels takes more than either, one of 32³ an eighth."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(GREEDY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'start'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("GREEDY_BYTES", "7000")
    monkeypatch.setattr("cluster.local.MEMORY_LIMIT", int(1.8 * 2**30))
    monkeypatch.setattr("cluster.open.FAILURES", 0)
    monkeypatch.setattr("workflows.plan_thickness.BLOCK_SIDES", (64, 32))


@pytest.mark.usefixtures("greedy")
def test_fewer_workers_then_smaller_blocks(
    here: Command, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    done = here("thickness", mask, "--run", run, "--workers", 2, "--quiet")
    assert done.code == 0, done
    fewer, smaller = done.err.splitlines()
    assert fewer.endswith("It goes on by itself with half as many tasks at a time, each with twice the memory.")
    assert "most likely for want of memory" in fewer
    assert smaller.endswith("The run begins again with blocks of (32, 32, 32) voxels.")
    assert open_run_folder(run).plan().block_shape == (32, 32, 32)
    monkeypatch.delenv("GREEDY_BYTES")
    done = here("thickness", mask, "--run", tmp_path / "plain", "--workers", 2, "--block-shape", 32, "--quiet")
    assert done.code == 0, done
    assert results(run) == results(tmp_path / "plain")


@pytest.mark.usefixtures("greedy")
def test_a_block_that_was_asked_for_and_never_fits(here: Command, mask: Path, tmp_path: Path) -> None:
    done = here("thickness", mask, "--run", tmp_path / "run", "--workers", 1, "--block-shape", 64, "--quiet")
    sentence = done.failure()
    assert "Block (0, 0, 0) of stage centres was given up because the workers that tried it died" in sentence
    assert "voxcaliper resume" in sentence
