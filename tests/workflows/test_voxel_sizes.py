"""Voxel sizes as scanners write them, through the commands: none is refused for its digits, and numbers are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from tests.compare.surfaces import by_definition
from tests.voxel_sizes import thickness_by_definition
from tests.workflows.conftest import Command, noise
from tests.workflows.runs import Finished

Voxels = npt.NDArray[Any]
Go = Callable[..., Finished]


@pytest.fixture
def go(here: Command, scheduler: str, tmp_path: Path) -> Go:
    """A command on the running cluster, with its run in tmp_path/run."""

    def call(*arguments: object) -> Finished:
        finished = here(*arguments, "--run", tmp_path / "run", "--scheduler", scheduler, "--unencrypted", "--quiet")
        assert finished.code == 0, finished
        return finished

    return call


def nifti(path: Path, voxels: Voxels, pixdim: tuple[float, float, float]) -> Path:
    """A NIfTI of voxels (z, y, x) with these spacings in mm (x, y, z)."""
    image = nib.Nifti1Image(np.ascontiguousarray(voxels.T), np.diag([*pixdim, 1]))  # type: ignore[no-untyped-call]
    nib.save(image, path)
    return path


def box(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> Voxels:
    """A box of ones."""
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return voxels


def found(tmp_path: Path, name: str) -> Any:
    """A result of the run."""
    return json.loads((tmp_path / "run" / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TotalSegmentator's: 512 × 512 × 116 voxels of 0.7890620231628418, 0.7890620231628418, 2.5 mm."""
    voxels = box((116, 512, 512), (20, 200, 200), (60, 300, 300))
    return nifti(tmp_path_factory.mktemp("ct") / "ct.nii", voxels, (0.7890620231628418, 0.7890620231628418, 2.5))


def test_statistics_of_a_ct(go: Go, ct: Path, tmp_path: Path) -> None:
    go("statistics", ct)
    label = found(tmp_path, "statistics.json")["labels"]["1"]
    assert label["voxels"] == 400_000
    assert label["volume_mm3"] == pytest.approx(400_000 * 0.789062**2 * 2.5, rel=1e-15)
    assert f"{label['volume_mm3']:.1f}" == "622618.8"
    assert found(tmp_path, "provenance.json")["plan"]["weights"] is None


def test_overlap_of_a_ct_forms_no_distances(go: Go, ct: Path, tmp_path: Path) -> None:
    go("compare", ct, ct, "--measures", "overlap")
    assert found(tmp_path, "comparison.json")["labels"]["1"]["dice"] == 1.0
    assert found(tmp_path, "provenance.json")["plan"]["weights"] is None
    assert "lengths rounded" not in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_thickness_of_a_ct_says_how_it_is_rounded(go: Go, ct: Path, tmp_path: Path, here: Command) -> None:
    planned = here("plan", "thickness", ct).out
    assert "int32 in (34.5033 µm)², weights 5250, 523, 523, lengths rounded by at most 8.3e-08 of them" in planned
    go("thickness", ct, "--map", "none")
    statistics, plan = found(tmp_path, "statistics.json"), found(tmp_path, "provenance.json")["plan"]
    assert (plan["weights"], plan["unit_um"]) == ([5250, 523, 523], statistics["unit_um"])
    assert 8e-8 < plan["largest_rounding"] < 9e-8
    # The box is 40 slices, 100 mm, high; the largest ball is as wide as 100 columns.
    assert statistics["thickness_um"]["maximum"] == pytest.approx(100 * 789.062, rel=1e-6)
    assert statistics["volume_um3"] == pytest.approx(622_618.839844e9, rel=1e-15)
    assert "weights 5250, 523, 523, lengths rounded" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("pixel", "thick"), [(0.976562, 3.27), (0.742188, 2.5), (0.683594, 1.25), (0.703125, 5), (0.820312, 1)]
)
def test_thickness_and_plan_of_livers(
    go: Go, here: Command, tmp_path: Path, pixel: float, thick: float
) -> None:  # fmt: skip
    """LiTS: a plate of three slices reads four, whatever the digits."""
    voxels = box((91, 512, 512), (40, 0, 0), (43, 512, 512))
    path = nifti(tmp_path / "liver.nii", voxels[:, :64, :64], (pixel, pixel, thick))
    assert here("plan", "thickness", nifti(tmp_path / "whole.nii", voxels, (pixel, pixel, thick))).code == 0
    go("thickness", path, "--map", "none")
    thickness = found(tmp_path, "statistics.json")["thickness_um"]
    assert [thickness["minimum"], thickness["maximum"]] == pytest.approx([4000 * thick] * 2, rel=1e-6)


def test_float32_noise_in_a_header(go: Go, tmp_path: Path) -> None:
    """0.70309979, 0.70309985 and 10.99967384 mm: statistics, and distances as scipy has them."""
    reference, prediction = (noise((24, 64, 64), 1.5, seed).astype(np.uint8) for seed in (1, 2))
    pixdim = (0.70309979, 0.70309985, 10.99967384)
    one, other = (nifti(tmp_path / f"{n}.nii", v, pixdim) for n, v in enumerate((reference, prediction)))
    go("compare", one, other, "--no-maps", "--image", one)
    label = found(tmp_path, "comparison.json")["labels"]["1"]
    um = (10999.674, 703.09985, 703.0998)  # float32 of the header
    definition = by_definition(reference.astype(np.bool_), prediction.astype(np.bool_), um)
    assert {name: label[name] for name in definition} == pytest.approx(definition, rel=1e-6)
    volume = label["structure"]["reference"]["volume_um3"]
    assert volume == pytest.approx(int(reference.sum()) * np.prod(um), rel=1e-7)
    plan = found(tmp_path, "provenance.json")["plan"]
    assert plan["weights"][1] == plan["weights"][2]
    assert 0 < plan["largest_rounding"] < 1.3e-7
    assert "lengths rounded" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((9, 11, 13), "1,0.3333333333333333,0.3333333333333333"),
        ((9, 11, 13), "0.0190000001,0.0063333333,0.0063333333"),
        ((8, 9, 10), "7.5,7.5,7.50001"),
        ((7, 9, 10), "2.000001,0.6459999,0.6459998"),
    ],
)
def test_thickness_of_sections(go: Go, tmp_path: Path, shape: tuple[int, int, int], size: str) -> None:
    """Sizes on the command line: the map is float64's, voxel by voxel."""
    mask = np.random.default_rng(0).random(shape) < 0.75
    np.save(tmp_path / "m.npy", mask)
    go("thickness", tmp_path / "m.npy", "--voxel-size-um", size, "--block-shape", "5")
    z, y, x = (float(v) for v in size.split(","))
    meant = {0.0190000001: (0.019, 0.019 / 3, 0.019 / 3), 2.000001: (2.000001, 0.64599985, 0.64599985)}
    values = np.asarray(zarr.open_array(tmp_path / "run" / "thickness.ome.zarr", path="0", mode="r")[:])
    np.testing.assert_allclose(values, thickness_by_definition(mask, meant.get(z, (z, y, x)), closed=False), rtol=1e-6)


def test_the_smallest_volume_that_was_refused(go: Go, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", box((20, 20, 20), (5, 5, 5), (15, 15, 15)))
    go("statistics", tmp_path / "m.npy", "--voxel-size-um", "7.5,7.5,7.50001")
    volume = found(tmp_path, "statistics.json")["labels"]["1"]["volume_um3"]
    assert volume == pytest.approx(1000 * 7.5 * 7.5 * 7.50001, rel=1e-15)


@pytest.mark.parametrize("command", ["statistics", "detect"])
def test_no_size_is_refused_where_no_distance_is_formed(go: Go, tmp_path: Path, command: str) -> None:
    np.save(tmp_path / "m.npy", box((6, 6, 6), (1, 1, 1), (3, 3, 3)))
    go(command, tmp_path / "m.npy", "--voxel-size-um", "1e-7,3.141592653589793,123456789.0123")
    volume = found(tmp_path, "statistics.json")["labels"]["1"]["volume_um3"]
    assert volume == pytest.approx(8e-7 * 3.141592653589793 * 123456789.0123, rel=1e-15)


def test_topology_is_compared_with_any_size(go: Go, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", box((6, 6, 6), (1, 1, 1), (3, 3, 3)))
    size = ("--voxel-size-um", "1e-7,3.141592653589793,123456789.0123")
    go("compare", tmp_path / "m.npy", tmp_path / "m.npy", "--measures", "topology", *size)
    assert found(tmp_path, "comparison.json")["labels"]["1"]["betti_error"] == [0, 0, 0]


def test_a_resumed_run_has_the_same_weights(go: Go, here: Command, scheduler: str, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", noise((20, 24, 30), 1.5, 4))
    options = ("thickness", tmp_path / "m.npy", "--voxel-size-um", "2.5000003,0.789062,0.7890620001", "--map", "none")
    go(*options)
    whole, plan = found(tmp_path, "statistics.json"), found(tmp_path, "plan.json")
    for name in ("provenance.json", "statistics.json", "ledger/thickness.json"):
        (tmp_path / "run" / name).unlink()
    assert here("resume", tmp_path / "run", "--scheduler", scheduler, "--unencrypted", "--quiet").code == 0
    assert found(tmp_path, "statistics.json") == whole
    assert whole["unit_um"] == plan["unit_um"]


def test_weights_are_those_of_the_volume_in_all_blocks(go: Go, tmp_path: Path) -> None:
    """Label by label and block by block: what a comparison says of thickness is what a thickness run says."""
    mask = noise((30, 40, 50), 1.5, 4)
    np.save(tmp_path / "m.npy", mask.astype(np.uint8))
    options = (tmp_path / "m.npy", "--voxel-size-um", "2.5000003,0.789062,0.7890620001")
    plans, values = [], []
    for blocks in ("16", "50"):
        go("thickness", *options, "--map", "none", "--block-shape", blocks)
        plans.append(found(tmp_path, "plan.json"))
        values.append(found(tmp_path, "statistics.json")["thickness_um"])
        (tmp_path / "run").rename(tmp_path / f"thickness-{blocks}")
    go("compare", options[0], *options, "--measures", "thickness", "--no-maps", "--block-shape", "23")
    plans.append(found(tmp_path, "plan.json"))
    values.append(found(tmp_path, "comparison.json")["labels"]["1"]["thickness"]["reference"])
    names = ("weights", "unit_um", "largest_rounding")
    assert (
        [plans[0][name] for name in names] == [plans[1][name] for name in names] == [plans[2][name] for name in names]
    )
    assert plans[0]["largest_rounding"] > 0
    assert values[0] == values[1] == values[2]
