"""Surface measures equal the definitions of the libraries on whole volumes, to the same bits for every blocking."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Index, VoxelSize
from pipeline.measures import surface as measures
from pipeline.surface import SurfaceTally
from tests.compare.surfaces import (
    Floats,
    Mask,
    blocks_at_most,
    by_definition,
    corner_codes,
    directed,
    measured_tally,
)
from tests.phantoms import SPACINGS, ball, masks, noise

AREAS = np.random.default_rng(7).uniform(0.1, 1.0, 256)
"""Any area of a code will do: the formulas weigh by it."""
UNIT_AREAS = np.random.default_rng(8).uniform(0.1, 1.0, 256)
WIDTHS = (1, 2)
ONE = (1.0, 1.0, 1.0)


def weighed(
    reference: Mask, prediction: Mask, spacing: tuple[float, float, float], areas: Floats
) -> list[tuple[Floats, Floats]]:
    """Distances and areas of the surface elements of both, ascending, as google-deepmind/surface-distance has them."""
    codes = [corner_codes(mask) for mask in (reference, prediction)]
    found = [(c != 0) & (c != 255) for c in codes]
    result = []
    for here, there in ((0, 1), (1, 0)):
        distances = directed(found[here], found[there], spacing)
        order = np.argsort(distances, kind="stable")
        result.append((distances[order], areas[codes[here][found[here]]][order]))
    return result


def surfel_nsd(parts: list[tuple[Floats, Floats]], tolerance: float) -> float:
    """surface-distance's surface Dice; the tolerance is a little wider, because its distances are rounded."""
    near = sum(area[distance <= tolerance * (1 + 1e-9) + 1e-9].sum() for distance, area in parts)
    return float(near / sum(area.sum() for _, area in parts))


def covering(parts: list[tuple[Floats, Floats]]) -> float:
    """surface-distance's robust Hausdorff distance at 95 percent."""
    return max(
        float(distance[min(int(np.searchsorted(np.cumsum(area) / area.sum(), 0.95)), area.size - 1)])
        for distance, area in parts
    )


def all_measures(tally: SurfaceTally, spacing: tuple[float, float, float], tolerances: list[float]) -> dict[str, Any]:
    return measures.surface_measures(
        tally, VoxelSize(spacing), tolerances_um=tolerances, widths=WIDTHS, areas=AREAS, unit_areas=UNIT_AREAS
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Two masks with voxels of one shape: unrelated, or shifted."""
    reference = draw(masks(largest=16).filter(lambda mask: bool(mask.any())))
    if draw(st.booleans()):
        return reference, np.roll(reference, draw(st.tuples(*[st.integers(-2, 2)] * 3)), (0, 1, 2))
    z, y, x = reference.shape
    prediction = noise((z, y, x), draw(st.sampled_from([0.0, 1.0])), draw(st.integers(0, 999)), share=0.7)
    prediction[draw(st.sampled_from([0, -1])), 0, draw(st.sampled_from([0, -1]))] = True
    return reference, prediction


@settings(max_examples=50)
@given(data=st.data())
def test_measures_equal_the_definitions_for_every_blocking(data: st.DataObject) -> None:
    reference, prediction = data.draw(pairs())
    spacing = data.draw(st.sampled_from(SPACINGS))
    z, y, x = reference.shape
    sides = st.sampled_from([3, 5, 8, 11])
    block_shape: Index = data.draw(st.tuples(sides, sides, sides).filter(lambda b: blocks_at_most((z, y, x), b, 24)))
    found = []
    for blocks in ((z, y, x), block_shape):
        with TemporaryDirectory() as folder:
            tally = measured_tally(Path(folder), reference, prediction, blocks, spacing, WIDTHS)
        found.append(all_measures(tally, spacing, [0.0, 0.7, 3.0]))
    assert found[1] == found[0]
    for name, value in by_definition(reference, prediction, spacing).items():
        assert found[0][name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
    parts = weighed(reference, prediction, spacing, AREAS)
    assert found[0]["hausdorff95_area_weighted_um"] == pytest.approx(covering(parts), rel=1e-12)
    for text, tolerance in (("0", 0.0), ("0.7", 0.7), ("3", 3.0)):
        assert found[0]["nsd_surfel"][text] == pytest.approx(surfel_nsd(parts, tolerance), rel=1e-12)
    assert found[0]["sennet_score"] == pytest.approx(
        surfel_nsd(weighed(reference, prediction, ONE, UNIT_AREAS), 0.0), rel=1e-12
    )
    assert found[0]["reasons"] == {}


def slabs(gap: int) -> tuple[Mask, Mask]:
    """Two plates of one voxel, `gap` voxels apart along z."""
    reference, prediction = np.zeros((2, 12, 5, 6), np.bool_)
    reference[2], prediction[2 + gap] = True, True
    return reference, prediction


def test_a_shifted_plate_by_hand(tmp_path: Path) -> None:
    tally = measured_tally(tmp_path, *slabs(3), (4, 5, 3), (2.0, 1.0, 1.0), WIDTHS)
    found = all_measures(tally, (2.0, 1.0, 1.0), [3.9, 5.9, 6.0])
    for name in ("hausdorff_um", "hausdorff95_um", "hausdorff95_pooled_um", "assd_um", "masd_um"):
        assert found[name] == 6.0
    assert found["nsd_voxel"] == {"3.9": 0.0, "5.9": 0.0, "6": 1.0}
    assert found["nsd_surfel"] == {"3.9": 0.0, "5.9": 0.5, "6": 1.0}  # one face of a plate is a voxel nearer
    assert found["boundary_iou"] == {"1": 0.0, "2": 0.0}


@pytest.mark.parametrize(("tolerance", "share"), [(1.7320508, 0.0), (math.sqrt(3), 0.0), (1.7320509, 1.0)])
def test_a_tolerance_is_the_number_that_is_written(tmp_path: Path, tolerance: float, share: float) -> None:
    """√3 as float64 is less than √3: what is written decides, not how distances are rounded."""
    reference, prediction = np.zeros((2, 5, 5, 5), np.bool_)
    reference[1, 1, 1], prediction[2, 2, 2] = True, True
    tally = measured_tally(tmp_path, reference, prediction, (5, 5, 5), ONE)
    assert measures.nsd_voxel(tally, VoxelSize(ONE), tolerance) == share


def test_tolerances_meet_decimal_voxel_sizes_exactly(tmp_path: Path) -> None:
    """3 · 0.7 is 2.0999999999999996 in float64, and a distance of three voxels is within 2.1 µm all the same."""
    spacing = (0.7, 0.7, 0.7)
    tally = measured_tally(tmp_path, *slabs(3), (12, 5, 6), spacing)
    assert measures.nsd_voxel(tally, VoxelSize(spacing), 2.1) == 1.0
    assert measures.nsd_voxel(tally, VoxelSize(spacing), 2.0999999999999996) == 0.0
    assert measures.nsd_surfel(tally, VoxelSize(spacing), 2.1, AREAS) == 1.0


def test_definitions_of_the_percentile_differ(tmp_path: Path) -> None:
    """A small far part is more than a twentieth of the prediction's surface and less than a twentieth of both."""
    reference, prediction = ball((24, 24, 60), 9), ball((24, 24, 60), 9)
    prediction[11:14, 10:13, 50:58] = True
    tally = measured_tally(tmp_path, reference, prediction, (24, 24, 60), ONE, WIDTHS)
    found = all_measures(tally, ONE, [])
    assert found["hausdorff95_pooled_um"] == 0.0
    assert 10.0 < found["hausdorff95_um"] < found["hausdorff_um"]
    with pytest.raises(ValueError, match="areas"):
        measures.hausdorff_percentile_um(tally, VoxelSize(ONE), kind="area-weighted")


@pytest.mark.parametrize("percent", [0, 1, 50, 95, 99, 100])
@pytest.mark.parametrize("elements", [1, 2, 20, 21, 101])
def test_percentiles_are_those_of_numpy(percent: int, elements: int) -> None:
    squared = np.random.default_rng(elements).integers(0, 50, elements)
    column = np.zeros(elements, np.int64)
    rows = np.stack((column, squared, column, column + 1))
    found = measures.hausdorff_percentile_um(SurfaceTally.of_rows(rows), VoxelSize(ONE), percent=percent)
    assert found == pytest.approx(np.percentile(np.sqrt(squared), percent), rel=1e-13)


def test_boundary_iou_by_both_definitions(tmp_path: Path) -> None:
    """A cube inside a larger one: layers of one voxel do not meet, layers of two share one of each."""
    reference, prediction = np.zeros((2, 12, 12, 12), np.bool_)
    reference[1:11, 1:11, 1:11] = True
    prediction[2:10, 2:10, 2:10] = True
    tally = measured_tally(tmp_path, reference, prediction, (5, 12, 7), ONE, WIDTHS)
    found = all_measures(tally, ONE, [])
    shell = [n**3 - (n - 2) ** 3 for n in (10, 8, 6)]
    expected = {"1": 0.0, "2": shell[1] / sum(shell)}
    assert found["boundary_iou"] == expected
    assert found["boundary_iou_erosion"] == expected


def test_empty_masks(tmp_path: Path) -> None:
    """One empty is infinitely far and shares nothing, both empty are undefined.

    Libraries disagree: where both are empty MetricsReloaded says 0 and 1, MONAI NaN, and medpy raises.
    """
    mask, nothing = ball((9, 9, 9), 3), np.zeros((9, 9, 9), np.bool_)
    lengths = ["hausdorff_um", "hausdorff95_um", "hausdorff95_pooled_um", "hausdorff95_area_weighted_um", "assd_um",
               "masd_um"]  # fmt: skip
    for n, pair in enumerate(((mask, nothing), (nothing, mask))):
        tally = measured_tally(tmp_path / str(n), *pair, (4, 5, 9), ONE, WIDTHS)
        found = all_measures(tally, ONE, [0.0, 1e9])
        assert [found[name] for name in lengths] == [math.inf] * len(lengths)
        for name in ("nsd_voxel", "nsd_surfel", "boundary_iou", "boundary_iou_erosion"):
            assert set(found[name].values()) == {0.0}
        assert found["sennet_score"] == 0.0
        assert found["reasons"] == dict.fromkeys(lengths, measures.ONE_SURFACE)
    found = all_measures(measured_tally(tmp_path / "none", nothing, nothing, (4, 5, 9), ONE, WIDTHS), ONE, [1.0])
    undefined = [*lengths, "nsd_voxel.1", "nsd_surfel.1", "sennet_score", "boundary_iou.1", "boundary_iou.2",
                 "boundary_iou_erosion.1", "boundary_iou_erosion.2"]  # fmt: skip
    assert found["reasons"] == dict.fromkeys(undefined, measures.NO_SURFACES)


def test_a_touching_surface_has_distance_zero(tmp_path: Path) -> None:
    mask = noise((13, 14, 15), 1.0, 5)
    found = all_measures(measured_tally(tmp_path, mask, mask, (5, 6, 7), ONE, WIDTHS), ONE, [0.0])
    assert found["hausdorff_um"] == 0.0
    assert found["sennet_score"] == found["nsd_voxel"]["0"] == found["nsd_surfel"]["0"] == 1.0
    assert set(found["boundary_iou"].values()) == {1.0}
