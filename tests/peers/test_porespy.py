"""PoreSpy, in the one way in which it is exact, agrees with a whole run voxel by voxel.

That is its method by distance transforms with every distance that occurs as a size (`method="legacy"`, sizes given):
the ball of radius r around all voxels at least r from the background, strict like ours. Its other methods round radii
down to integers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import Client

from tests.peers.runs import squared_radius_of
from tests.phantoms import Mask, ball, noise, plates
from tests.shared_data import shared_data

pytest.importorskip("edt", reason="edt is a peer of the extra bench and is not installed")
pytest.importorskip("porespy", reason="PoreSpy is a peer of the extra bench and is not installed")


def porespy_squared_radius(mask: Mask) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    from benchmarks.peers import porespy_radius_of_all_sizes

    # Roots of integers below 2^22 are told apart in float32, and squaring them restores the integer.
    return np.rint(porespy_radius_of_all_sizes(mask).astype(np.float64) ** 2).astype(np.int64)


@pytest.mark.parametrize(
    "mask",
    [noise((40, 33, 37), 1.0, 1), noise((31, 40, 40), 3.0, 2), ball((29, 30, 31), 13.3), plates((17, 30, 40), 9, 6, 2)],
    ids=["fine noise", "coarse noise", "ball", "plates"],
)
def test_porespy_with_all_sizes_agrees(client: Client, tmp_path: Path, mask: Mask) -> None:
    ours = squared_radius_of(client, tmp_path, mask, block_shape=(16, 24, 40))
    assert np.array_equal(ours, porespy_squared_radius(mask))


@pytest.mark.parametrize("name", ["cotton_test_volume.tif", "random_test_volume.tif"])
def test_porespy_agrees_on_real_data(client: Client, tmp_path: Path, name: str) -> None:
    mask = tifffile.imread(shared_data(f"cotton/{name}"))[20:60, 30:70, 40:80] > 0
    assert mask.any()
    ours = squared_radius_of(client, tmp_path, mask, block_shape=(16, 24, 40))
    assert np.array_equal(ours, porespy_squared_radius(mask))


def test_porespy_rounds_radii_down_by_default() -> None:
    import porespy

    mask = noise((30, 30, 30), 2.0, 3)
    exact = np.sqrt(porespy_squared_radius(mask)[mask])
    default = porespy.filters.local_thickness(mask)[mask]
    assert (default <= exact + 1e-6).all()
    assert (default == np.floor(default)).all()
    assert (default < exact - 0.1).mean() > 0.5
