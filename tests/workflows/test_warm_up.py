"""What is compiled before the clock of a run starts is all that the run needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.workflows.runs import environment

COUNT = """
import gc, json, pathlib, sys
from numba.core.dispatcher import Dispatcher
from workflows import compare_segmentations, measure_thickness
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.plan_comparison import open_comparison
from workflows.plan_thickness import open_job
from workflows.warm_up import compile_kernels, finish

folder, options = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
if "mask" in options:
    job = open_job(ThicknessConfig(**options), folder)
    create = measure_thickness.create_map
else:
    job = open_comparison(ComparisonConfig(**options), folder)
    create = compare_segmentations.create_maps

def compiled():
    kernels = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
    return {f"{one.py_func.__module__}.{one.py_func.__name__} {kind}" for one in kernels for kind in one.signatures}

compile_kernels(job)
before = compiled()
assert before
create(job)
finish(job)
print(json.dumps(sorted(compiled() - before)))
"""


def compiled_later(folder: Path, options: dict[str, Any]) -> list[str]:
    """Kernels that a run in a fresh process compiles or loads after it was warmed up."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, folder / "run", json.dumps(options)],
        env=environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


def stored(folder: Path, name: str, voxels: Any) -> str:
    zarr.create_array(folder / f"{name}.zarr", data=voxels, chunks=(16, 16, 16))
    return str(folder / f"{name}.zarr")


@pytest.mark.parametrize(
    ("labels", "grey", "um"),
    [
        (np.uint16, np.int16, (1.0, 1.0, 1.0)),
        pytest.param(np.uint64, np.float32, (1.0, 1.0, 1.0001), marks=pytest.mark.slow),
    ],
    ids=["narrow", "wide"],
)
def test_a_comparison_compiles_nothing_after_its_warm_up(
    tmp_path: Path, labels: type[Any], grey: type[Any], um: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        name: stored(tmp_path, name, rng.integers(0, top, (20, 22, 24)).astype(dtype))
        for name, top, dtype in (("reference", 3, labels), ("prediction", 3, labels), ("image", 900, grey))
    }
    options |= {"voxel_size_um": um, "block_shape": (10, 11, 12), "objects": "components"}
    assert compiled_later(tmp_path, options) == []


@pytest.mark.slow
@pytest.mark.parametrize("um", [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0001)], ids=["narrow", "wide"])
def test_a_thickness_run_compiles_nothing_after_its_warm_up(tmp_path: Path, um: tuple[float, float, float]) -> None:
    mask = stored(tmp_path, "mask", np.random.default_rng(0).integers(0, 2, (20, 22, 24)).astype(np.uint16))
    assert compiled_later(tmp_path, {"mask": mask, "voxel_size_um": um, "block_shape": (10, 11, 12)}) == []
