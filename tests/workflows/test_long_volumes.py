"""Volumes of any side: blocks are chosen where none are asked for; no message names an option that was not given."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import InputError
from tests.workflows.conftest import Command
from tests.workflows.runs import Finished
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.plan_comparison import open_comparison
from workflows.plan_thickness import LARGEST_SIDE, open_job

Voxels = npt.NDArray[Any]
Go = Callable[..., Any]
LONG = 100_000


@pytest.fixture
def go(here: Command, scheduler: str, tmp_path: Path) -> Go:
    """A command on the running cluster without --block-shape: the contents of a file of its run."""

    def call(result: str, *arguments: object) -> Any:
        run = ("--run", tmp_path / "run", "--scheduler", scheduler, "--unencrypted", "--quiet")
        finished: Finished = here(*arguments, "--voxel-size-um", "1", *run)
        assert finished.code == 0, finished
        return json.loads((tmp_path / "run" / result).read_text("utf-8"))

    return call


def line(path: Path, length: int, axis: int, background: list[int]) -> Path:
    """A line of foreground along an axis with some background."""
    voxels = np.ones(length, np.uint8)
    voxels[background] = 0
    shape = [1, 1, 1]
    shape[axis] = length
    np.save(path, voxels.reshape(shape))
    return path


def test_one_voxel_more_than_a_block_may_have(go: Go, tmp_path: Path) -> None:
    found = go("statistics.json", "thickness", line(tmp_path / "l.npy", 32_769, 2, [0]), "--map", "none")
    assert (found["foreground_voxels"], found["thickness_um"]["maximum"]) == (32_768, 65_536.0)


@pytest.mark.parametrize(
    ("axis", "length", "ends", "reads"),
    [
        (1, 40_000, [0, -1], 39_998.0),
        *(pytest.param(axis, LONG, [0], 199_998.0, marks=pytest.mark.slow) for axis in range(3)),
    ],
)
def test_thickness_of_long_lines(
    go: Go, tmp_path: Path, axis: int, length: int, ends: list[int], reads: float
) -> None:  # fmt: skip
    found = go("statistics.json", "thickness", line(tmp_path / "l.npy", length, axis, ends), "--map", "none")
    assert found["thickness_um"]["minimum"] == found["thickness_um"]["maximum"] == reads
    assert json.loads((tmp_path / "run" / "run.json").read_text())["block_shape"] is None


def test_plans_of_long_volumes(here: Command, tmp_path: Path) -> None:
    for axis in range(3):
        path = line(tmp_path / f"{axis}.npy", LONG, axis, [0])
        for words in (("thickness", path), ("compare", path, path)):
            planned = here("plan", *words, "--voxel-size-um", "1")
            assert planned.code == 0, planned
            assert "196 of" in planned.out


def test_comparison_of_long_volumes(go: Go, tmp_path: Path) -> None:
    """A gap that is 40,000 voxels away: the farthest surface voxel knows it."""
    one, other = np.ones((1, 1, LONG), np.uint8), np.ones((1, 1, LONG), np.uint8)
    one[..., 50_000:] = 0
    other[..., 90_000:] = 0
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "other.npy", other)
    measures = ("--measures", "overlap,topology,surface")
    label = go("comparison.json", "compare", tmp_path / "one.npy", tmp_path / "other.npy", *measures)["labels"]["1"]
    assert label["hausdorff_um"] == 40_000.0
    assert label["dice"] == pytest.approx(2 * 50_000 / 140_000, rel=1e-15)
    assert label["betti_error"] == [0, 0, 0]


def test_structures_and_centres_of_long_volumes(go: Go, tmp_path: Path) -> None:
    path = line(tmp_path / "l.npy", LONG, 1, [0, 40_000, -1])
    found = go("statistics.json", "detect", path)
    assert found["labels"]["1"]["bounding_box"] == {"start": [0, 1, 0], "stop": [1, 99_999, 1]}
    rows = list(csv.DictReader((tmp_path / "run" / "detections.csv").read_text("utf-8").splitlines()))
    assert sorted(float(row["y"]) for row in rows) == [(1 + 39_999) / 2, (40_001 + 99_998) / 2]


def test_statistics_of_a_flat_volume(go: Go, tmp_path: Path) -> None:
    """70,000 × 40 voxels in one plane."""
    voxels = np.zeros((70_000, 1, 40), np.uint8)
    voxels[100:69_000, :, 3:7] = 200
    np.save(tmp_path / "flat.npy", voxels)
    label = go("statistics.json", "statistics", tmp_path / "flat.npy")["labels"]["200"]
    assert label["voxels"] == 68_900 * 4
    assert label["centroid_voxels"] == [(100 + 68_999) / 2, 0.0, 4.5]


@pytest.mark.parametrize("wrong", [(1, 1, LARGEST_SIDE + 1), (0, 1, 1)])
def test_a_block_that_was_asked_for_is_named(tmp_path: Path, wrong: tuple[int, int, int]) -> None:
    path = str(line(tmp_path / "l.npy", 40_000, 2, [0]))
    size = (1.0, 1.0, 1.0)
    thickness = ThicknessConfig(mask=path, voxel_size_um=size)
    comparison = ComparisonConfig(reference=path, prediction=path, voxel_size_um=size)
    for job in (open_job(thickness, tmp_path / "run"), open_comparison(comparison, tmp_path / "run")):
        assert job.grid.block_shape == (1, 1, LARGEST_SIDE)
    text = f"--block-shape {','.join(map(str, wrong))}: sides must lie between 1 and 32768"
    with pytest.raises(InputError, match=text):
        open_job(thickness.model_copy(update={"block_shape": wrong}), tmp_path / "run")
    with pytest.raises(InputError, match=text):
        open_comparison(comparison.model_copy(update={"block_shape": wrong}), tmp_path / "run")
