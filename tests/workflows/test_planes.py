"""Runs on one plane are those of two dimensions: the definition, spelled out there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.volume.opening import open_volume
from tests.compare.surfaces import by_definition
from tests.workflows.conftest import Command, noise

library: Any = nib
Plane = npt.NDArray[np.bool_]
MASK: Plane = noise((3, 33, 29))[1]
SIZES = {"0.7,0.5": (0.7, 0.5), "7.5": (7.5, 7.5), "3,2,2": (2.0, 2.0)}
"""--voxel-size-um and what it means along y and x."""


def thickness(mask: Plane, size: tuple[float, float]) -> npt.NDArray[np.float64]:
    """2·max { d(q) : |p − q| < d(q) } in µm, d being the distance to the nearest background pixel of the plane."""
    y, x = np.indices(mask.shape) * np.array(size)[:, None, None]
    background = np.stack((y[~mask], x[~mask]))
    found = np.zeros(mask.shape)
    for at in np.argwhere(mask):
        here = at * np.array(size)
        d = np.hypot(*(background - here[:, None])).min()
        ball = (np.hypot(y - here[0], x - here[1]) < d * (1 - 1e-12)) & mask
        found[ball] = np.maximum(found[ball], 2 * d)
    return found


def stored(folder: Path, mask: Plane, kind: str) -> Path:
    path = folder / f"m.{kind}"
    if kind == "npy":
        np.save(path, mask)
    elif kind == "png":
        Image.fromarray(mask).save(path)
    elif kind == "tif":
        tifffile.imwrite(path, mask.astype(np.uint8) * 255, photometric="minisblack")
    elif kind == "zarr":
        zarr.create_array(path, data=mask, chunks=(8, 8))
    else:
        library.save(library.Nifti1Image(mask.T.astype(np.uint8), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("kind", "size"), [("npy", "0.7,0.5"), ("png", "7.5"), ("tif", "3,2,2"), ("zarr", "0.7,0.5"), ("nii", "7.5")]
)
def test_thickness_of_a_plane(tmp_path: Path, measure: Command, kind: str, size: str) -> None:
    file = stored(tmp_path, MASK, kind)
    done = measure(file, tmp_path / "run", "--voxel-size-um", size, "--block-shape", "1,16,16")
    assert done.code == 0, done
    found = open_volume(str(tmp_path / "run" / "thickness.ome.zarr"))
    expected = thickness(MASK, SIZES[size])
    np.testing.assert_allclose(found.read(found.box)[0], expected, rtol=1e-6)
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text("utf-8"))
    assert statistics["foreground_voxels"] == np.count_nonzero(MASK)
    assert statistics["thickness_um"]["mean"] == pytest.approx(expected[MASK].mean(), rel=1e-9)


@pytest.mark.parametrize(("kind", "size"), [("tif", "0.7,0.5"), ("png", "3,2,2"), ("zarr", "7.5")])
def test_comparison_of_planes(tmp_path: Path, here: Command, scheduler: str, kind: str, size: str) -> None:
    """As of every volume, beyond it lies background: a plane has two faces, and all of its mask is surface."""
    other = np.roll(MASK, 2, 1)
    (tmp_path / "p").mkdir()
    files = stored(tmp_path, MASK, kind), stored(tmp_path / "p", other, kind)
    run, (y, x) = tmp_path / "run", SIZES[size]
    done = here(
        "compare", *files, "--run", run, "--voxel-size-um", size, "--scheduler", scheduler, "--unencrypted", "--quiet"
    )
    assert done.code == 0, done
    assert f"{files[0]} is one plane; beyond a volume lies background, so all of a label is surface there" in done.err
    (found,) = json.loads((run / "comparison.json").read_text("utf-8"))["labels"].values()
    both = np.count_nonzero(MASK & other)
    assert found["dice"] == pytest.approx(2 * both / (np.count_nonzero(MASK) + np.count_nonzero(other)))
    z = 3.0 if size == "3,2,2" else y
    assert found["reference_volume_um3"] == pytest.approx(np.count_nonzero(MASK) * z * y * x)
    for name, value in by_definition(MASK[None], other[None], (z, y, x)).items():
        assert found[name] == pytest.approx(value), name
    mean = found["thickness"]["reference"]["mean"]
    assert mean == pytest.approx(thickness(MASK, (y, x))[MASK].mean(), rel=1e-9)
