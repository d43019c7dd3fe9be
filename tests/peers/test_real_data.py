"""Real volumes at their full size equal the independent painter voxel by voxel, from file to map by the command line.

Squared radii are compared, so nothing is rounded. The masks come from the files by their own readers, not ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from distributed import Client

from pipeline.geometry import Index
from pipeline.job import Border
from tests.peers import painter
from tests.peers.runs import squared_radius_of, stored_map, voxcaliper
from tests.phantoms import Mask
from tests.shared_data import shared_data

Grey = npt.NDArray[Any]

LABELS = "totalsegmentator_ct/example_seg.nii.gz"


def tiff(path: Path) -> Grey:
    return np.asarray(tifffile.imread(path))


def tiff_slices(folder: Path) -> Grey:
    return np.stack([tifffile.imread(path) for path in sorted(folder.glob("*.tif"))])


def nifti(path: Path) -> Grey:
    """Voxels (z, y, x) of a file that stores (x, y, z)."""
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    return np.asarray(image.dataobj).transpose(2, 1, 0)


VOLUMES: dict[str, tuple[str, Callable[[Path], Grey], tuple[str, ...], tuple[str, ...], Callable[[Grey], Mask]]] = {
    "bone": (
        "lhdl_trabecular_bone/slices", tiff_slices, ("--voxel-size-um", "19.5"),
        ("--threshold", "63", "--block-shape", "128,96,80"), lambda grey: grey > 63,
    ),
    "fly": (
        "qim3d_microct/fly_150x256x256.tif", tiff, ("--voxel-size-um", "1"),
        ("--threshold", "60,200", "--block-shape", "96"), lambda grey: (grey > 60) & (grey <= 200),
    ),
    "cotton": (
        "cotton/cotton_test_volume.tif", tiff, ("--voxel-size-um", "1"), ("--block-shape", "64"), lambda grey: grey > 0,
    ),
    "cotton, border closed": (
        "cotton/cotton_test_volume.tif", tiff, ("--voxel-size-um", "1"),
        ("--block-shape", "31,100,47", "--border", "closed"), lambda grey: grey > 0,
    ),
    "body in the CT": (
        "totalsegmentator_ct/example_ct.nii.gz", nifti, (), ("--threshold", "-300"), lambda grey: grey > -300,
    ),
    "all CT labels": (LABELS, nifti, ("--labels",), ("--block-shape", "30,64,48"), lambda grey: grey > 0),
    "liver in the CT labels": (LABELS, nifti, ("--labels",), ("--label", "5"), lambda grey: grey == 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Converts a file by the command line, once for all tests that measure it."""

    @cache
    def convert(location: str, *options: str) -> Path:
        target = tmp_path_factory.mktemp("converted") / "volume.ome.zarr"
        voxcaliper("convert", shared_data(location), target, *options, "--quiet")
        return target

    return convert


@pytest.mark.parametrize("name", VOLUMES)
def test_a_real_volume_equals_the_painter(tmp_path: Path, converted: Callable[..., Path], name: str) -> None:
    location, read, converting, measuring, rule = VOLUMES[name]
    path = shared_data(location)
    voxcaliper(
        "thickness", converted(location, *converting), "--run", tmp_path / "run", "--map", "squared-radius", "--quiet",
        "--workers", "2", *measuring,
    )  # fmt: skip
    mask = rule(read(path))
    painted = painter.squared_local_radius(mask, closed="closed" in measuring)
    assert np.array_equal(stored_map(tmp_path / "run"), painted)
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text("utf-8"))
    assert statistics["foreground_voxels"] == np.count_nonzero(mask)
    assert statistics["largest_squared_radius"] == painted.max()


def crop(name: str, box: tuple[slice, slice, slice]) -> Mask:
    location, read, _, _, rule = VOLUMES[name]
    return rule(read(shared_data(location))[box])


@pytest.mark.parametrize("border", ["unknown", "closed"])
@pytest.mark.parametrize(
    ("name", "box", "voxel_size_um", "spacing"),
    [
        ("bone", np.s_[40:81, 30:101, 60:130], (3.0, 0.7, 0.7), (30, 7, 7)),
        ("fly", np.s_[50:97, 100:161, 90:143], (1.0, 2.0, 3.0), (1, 2, 3)),
        ("cotton", np.s_[10:71, 20:91, 30:77], (2.5, 1.0, 1.5), (5, 2, 3)),
        ("all CT labels", np.s_[:, :60, 20:81], (3.0, 1.0, 1.0), (3, 1, 1)),
    ],
)
def test_anisotropic_crops_equal_the_painter(
    client: Client, tmp_path: Path, name: str, box: tuple[slice, slice, slice],
    voxel_size_um: tuple[float, float, float], spacing: Index, border: Border,
) -> None:  # fmt: skip
    mask = crop(name, box)
    assert mask.any()
    ours = squared_radius_of(
        client, tmp_path, mask, voxel_size_um=voxel_size_um, border=border, block_shape=(32, 17, 40)
    )
    assert np.array_equal(ours, painter.squared_local_radius(mask, spacing, closed=border == "closed"))


def test_each_ct_label_equals_the_painter(client: Client, tmp_path: Path) -> None:
    """Each of the larger organs by itself, in blocks of which most are empty."""
    labels = nifti(shared_data(LABELS))
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    organs = values[np.argsort(counts)[-8:]]
    for organ in organs:
        folder = tmp_path / str(organ)
        folder.mkdir()
        mask = labels == organ
        ours = squared_radius_of(client, folder, mask, block_shape=(16, 64, 64))
        assert np.array_equal(ours, painter.squared_local_radius(mask)), f"label {organ}"
