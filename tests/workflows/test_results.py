"""Finished runs as xarray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.errors import RunError
from pipeline.volume.opening import open_volume
from pipeline.volume.views import to_xarray
from tests.phantoms import noise
from tests.workflows.runs import COMMAND
from workflows.results import open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask of 40 × 70 × 50 voxels, measured to a map of each kind by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "mask.npy", noise((40, 70, 50), 2.0, 1))
    commands = [["convert", str(folder / "mask.npy"), str(folder / "mask.ome.zarr"), "--voxel-size-um", "3,0.7,0.7"]]
    for kind in ("thickness", "squared-radius", "none"):
        run = str(folder / kind)
        commands.append(["thickness", str(folder / "mask.ome.zarr"), "--run", run, "--map", kind, "--workers", "1"])
    for words in commands:
        subprocess.run([COMMAND, *words, "--quiet"], check=True)
    return folder


def test_a_run_is_a_lazy_dataset_in_um(runs: Path) -> None:
    run = open_run(runs / "thickness")
    assert isinstance(run, xr.Dataset)
    assert run.thickness.dims == ("z", "y", "x")
    assert run.thickness.chunks is not None
    np.testing.assert_allclose(run.z[:3], [0.0, 3.0, 6.0])
    np.testing.assert_allclose(run.x[:3], [0.0, 0.7, 1.4])
    assert run.thickness.attrs["units"] == "µm"
    values = run.thickness.values
    mask = to_xarray(open_volume(str(runs / "mask.ome.zarr"))).values
    assert ((values > 0) == mask).all()
    assert run.attrs["foreground_voxels"] == mask.sum()
    np.testing.assert_allclose(values[mask].mean(dtype=float), run.attrs["thickness_um"]["mean"], rtol=1e-6)
    coarse = open_run(runs / "thickness", level=1).thickness
    assert coarse.shape == (20, 35, 25)
    assert coarse.values[0, 0, 0] == values[:2, :2, :2].max()


def test_the_kinds_of_map_agree(runs: Path) -> None:
    squared = open_run(runs / "squared-radius").squared_radius
    thickness = open_run(runs / "thickness").thickness
    expected = (2 * np.sqrt(squared.values.astype(np.float64)) * squared.attrs["unit_um"]).astype(np.float32)
    assert np.array_equal(expected, thickness.values)
    none = open_run(runs / "none")
    assert not none.data_vars
    assert none.attrs == open_run(runs / "thickness").attrs


def test_what_is_no_finished_run(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run of voxcaliper"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text((runs / "none" / "run.json").read_text())
    with pytest.raises(RunError, match="not complete"):
        open_run(tmp_path)
