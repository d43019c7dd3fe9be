"""The vascular phantom: known diameters, no tube touches a stranger, the same voxels whatever the boxes."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from pipeline.errors import InputError
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from workflows.phantom import Phantom, Segment, vascular_phantom

SHAPE: Index = (96, 96, 96)
WHOLE = Box((0, 0, 0), SHAPE)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """As large as the demonstration's, in coarser voxels."""
    return vascular_phantom(SHAPE, VoxelSize((20.0, 20.0, 20.0)))


def squared_local_radius(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """T(p) = max { D(q) : |p − q|² < D(q) }, painted ball by ball with the distances of scipy."""
    distance = np.rint(np.asarray(distance_transform_edt(mask)) ** 2).astype(np.int64)
    radii = np.zeros(mask.shape, dtype=np.int64)
    # Ascending: a larger ball paints over a smaller one.
    for value in np.unique(distance[mask]):
        reach = int(np.sqrt(value)) + 1
        for q in np.argwhere(distance == value):
            z, y, x = (np.arange(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(q, mask.shape, strict=True))
            ball = ((z - q[0]) ** 2)[:, None, None] + ((y - q[1]) ** 2)[:, None] + (x - q[2]) ** 2 < value
            radii[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1][ball] = value
    return radii


@pytest.mark.parametrize("diameter", [5.3, 8.0, 12.7])
def test_a_tube_reads_its_diameter(diameter: float) -> None:
    tube = Segment(1, (-20.0, 5.0, 8.0), (70.0, 27.0, 21.0), diameter, 0, 0, (20.0, 70.0))
    phantom = Phantom((48, 34, 30), VoxelSize((1.0, 1.0, 1.0)), (tube,))
    box = Box((0, 0, 0), phantom.shape)
    radii = squared_local_radius(phantom.read_mask(box))
    measured = 2 * np.sqrt(radii[phantom.read_regions(box) == 1]).mean()
    assert -0.35 <= measured - diameter <= 0.1


def test_tubes_obey_murrays_law(phantom: Phantom) -> None:
    children = defaultdict(list)
    for segment in phantom.segments:
        children[segment.parent].append(segment)
    assert len(phantom.segments) > 40
    for segment in phantom.segments:
        if segment.id in children:
            assert len(children[segment.id]) == 2
            cubes = sum(child.diameter_um**3 for child in children[segment.id])
            assert cubes == pytest.approx(segment.diameter_um**3, rel=1e-12)
            assert all(child.start_um == segment.end_um for child in children[segment.id])
            assert all(child.generation == segment.generation + 1 for child in children[segment.id])
    diameters = [s.diameter_um for s in phantom.segments]
    assert max(diameters) == phantom.segments[0].diameter_um == pytest.approx(1920 * 36 / 256)
    assert min(diameters) < max(diameters) / 6


def test_the_tree_is_one_piece_and_strangers_do_not_touch(phantom: Phantom) -> None:
    assert label(phantom.read_mask(WHOLE), structure=np.ones((3, 3, 3)))[1] == 1
    for a in phantom.segments:
        for b in phantom.segments:
            joined = a.parent in (b.id, b.parent) or b.parent == a.id
            if a.id < b.id and not joined:
                gap = _distance(a, b) - 0.5 * (a.diameter_um + b.diameter_um)
                assert gap >= 2.5 * 20.0, (a.id, b.id)


def _distance(a: Segment, b: Segment) -> float:
    share = np.linspace(0, 1, 60)[:, None]
    first, second = (np.array(s.start_um) * (1 - share) + np.array(s.end_um) * share for s in (a, b))
    return float(np.linalg.norm(first[:, None] - second, axis=2).min())


def test_boxes_are_parts_of_the_whole(phantom: Phantom) -> None:
    mask, regions = phantom.read_mask(WHOLE), phantom.read_regions(WHOLE)
    assert mask.dtype == np.bool_
    assert regions.dtype == np.uint8
    for grid in (BlockGrid(SHAPE, (32, 96, 96)), BlockGrid(SHAPE, (50, 41, 60))):
        for block in grid:
            box = grid.box(block)
            np.testing.assert_array_equal(phantom.read_mask(box), mask[box.slices])
            np.testing.assert_array_equal(phantom.read_regions(box), regions[box.slices])


def test_regions_are_the_middle_parts_of_known_tubes(phantom: Phantom) -> None:
    mask, regions = phantom.read_mask(WHOLE), phantom.read_regions(WHOLE)
    assert not (regions > 0)[~mask].any()
    designed = phantom.designed_diameters()
    assert set(np.unique(regions)) - {0} == set(designed)
    assert len(designed) >= 20


def test_thickness_in_the_labelled_parts_is_the_tubes_own(phantom: Phantom) -> None:
    """No larger ball of a joint reaches a label: nothing there reads much thicker than its tube."""
    radii = squared_local_radius(phantom.read_mask(WHOLE))
    regions = phantom.read_regions(WHOLE)
    for region, diameter_um in phantom.designed_diameters().items():
        measured = 2 * np.sqrt(radii[regions == region])
        assert measured.max() - diameter_um / 20.0 < 0.8, region


def test_anisotropic_voxels_show_the_same_kind_of_tree() -> None:
    shape, voxel_size = (40, 90, 120), VoxelSize((30.0, 15.0, 10.0))
    phantom = vascular_phantom(shape, voxel_size)
    mask = phantom.read_mask(Box((0, 0, 0), shape))
    assert 0.02 < mask.mean() < 0.2
    assert len(phantom.segments) > 20


def test_a_phantom_too_small_for_a_tube_is_refused() -> None:
    with pytest.raises(InputError, match="at least 16 voxels"):
        vascular_phantom((64, 64, 8))


def test_the_demonstrations_phantom_is_always_the_same_tree() -> None:
    phantom = vascular_phantom()
    voxels = sorted(s.diameter_um / 7.5 for s in phantom.segments)
    assert phantom.shape == (256, 256, 256)
    assert len(phantom.segments) == 63
    assert len(phantom.designed_diameters()) == 50
    assert phantom.segments[0].id in phantom.designed_diameters()
    assert (voxels[0], voxels[-1]) == pytest.approx((4.4, 36), abs=0.05)
    assert all(b - a < 8 for a, b in pairwise(voxels))
