"""Where comparisons differ from other libraries by definition: who says what, and what we say instead.

Each library that is named runs here, or its formula stands here with the place in its source. What it says is asserted
too, so that a version which changes its mind is noticed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cc3d
import gudhi
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.spatial import distance

from pipeline.geometry import VoxelSize
from pipeline.measures import surface as surface_measures
from pipeline.measures.corners import surface_areas
from pipeline.measures.objects import object_measures
from pipeline.measures.overlap import Confusion, overlap_measures
from tests.compare.blockwise import counted_components, measured_objects
from tests.compare.surfaces import Spacing, by_definition, directed, expected_layers, measured_tally, surface_voxels
from tests.peers.surfels import Surfels
from tests.phantoms import Mask, ball

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image comes with PoreSpy, of the extra bench")
measure = pytest.importorskip("skimage.measure", reason="scikit-image comes with PoreSpy, of the extra bench")
segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image comes with PoreSpy, of the extra bench")

ONE = (1.0, 1.0, 1.0)
EMPTY = np.zeros((9, 9, 9), np.bool_)
BALL = ball((9, 9, 9), 3.0)


def measured(
    folder: Path, reference: Mask, prediction: Mask, spacing: Spacing = ONE, *, tolerances: tuple[float, ...] = (),
    widths: tuple[int, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Our surface measures of a pair, through blocks."""
    tally = measured_tally(folder, reference, prediction, (5, 8, 6), spacing, widths)
    return surface_measures.surface_measures(
        tally, VoxelSize(spacing), tolerances_um=tolerances, widths=widths, areas=surface_areas(VoxelSize(spacing)),
        unit_areas=surface_areas(VoxelSize(ONE)),
    )  # fmt: skip


def overlap(reference: Mask, prediction: Mask) -> dict[str, Any]:
    """Our overlap measures of a pair."""
    pairs = ((True, True), (False, True), (True, False), (False, False))
    counts = (int(np.count_nonzero((reference == r) & (prediction == p))) for r, p in pairs)
    return overlap_measures(Confusion(*counts), VoxelSize(ONE))


# Empty masks ----------------------------------------------------------------------------------------------------------


def test_one_empty_mask_is_undefined_for_the_average_of_surface_distance_and_infinitely_far_for_us(
    tmp_path: Path,
) -> None:
    there, back = Surfels.of(BALL, EMPTY, ONE).average_distances()
    assert there == math.inf
    assert math.isnan(back)
    ours = measured(tmp_path, BALL, EMPTY)
    assert (ours["assd_um"], ours["masd_um"]) == (math.inf, math.inf)
    assert ours["reasons"]["assd_um"] == surface_measures.ONE_SURFACE


def test_two_empty_masks_are_infinitely_far_for_surface_distance_and_undefined_for_us(tmp_path: Path) -> None:
    peer = Surfels.of(EMPTY, EMPTY, ONE)
    assert peer.robust_hausdorff(95) == math.inf
    assert math.isnan(peer.surface_dice(1.0))  # here it agrees
    ours = measured(tmp_path, EMPTY, EMPTY, tolerances=(1.0,))
    assert math.isnan(ours["hausdorff95_area_weighted_um"])
    assert math.isnan(ours["nsd_surfel"]["1"])
    assert ours["reasons"]["hausdorff95_area_weighted_um"] == surface_measures.NO_SURFACES


def test_two_empty_masks_are_no_way_apart_for_scikit_image_and_undefined_for_us(tmp_path: Path) -> None:
    assert metrics.hausdorff_distance(EMPTY, EMPTY) == 0
    assert math.isnan(measured(tmp_path / "none", EMPTY, EMPTY)["hausdorff_um"])
    assert metrics.hausdorff_distance(BALL, EMPTY) == math.inf  # here it agrees
    assert measured(tmp_path / "one", BALL, EMPTY)["hausdorff_um"] == math.inf


def test_two_empty_masks_have_an_iou_of_one_for_scipy_and_none_for_us() -> None:
    flat = EMPTY.reshape(-1)
    assert 1 - distance.jaccard(flat, flat) == 1.0
    with np.errstate(invalid="ignore"):
        assert math.isnan(distance.dice(flat, flat))  # here it agrees
    ours = overlap(EMPTY, EMPTY)
    assert math.isnan(ours["iou"])
    assert math.isnan(ours["dice"])
    assert set(ours["reasons"]) == {"iou", "dice", "precision", "recall", "mcc", "kappa", "volumetric_similarity"}


def test_two_empty_masks_are_perfect_for_metrics_reloaded_and_undefined_for_us(tmp_path: Path) -> None:
    """MetricsReloaded's pairwise_measures.py: `dsc` returns 1 where no mask has voxels, `measured_distance` zeros."""
    assert math.isnan(overlap(EMPTY, EMPTY)["dice"])
    ours = measured(tmp_path, EMPTY, EMPTY)
    assert all(math.isnan(ours[name]) for name in ("hausdorff_um", "assd_um", "hausdorff95_um", "masd_um"))


def test_an_empty_prediction_has_a_precision_of_zero_for_metrics_reloaded_and_none_for_us() -> None:
    """MetricsReloaded's `positive_predictive_values` sets 0 with a warning where only the prediction is empty."""
    confusion = Confusion(0, 0, int(BALL.sum()), int((~BALL).sum()))
    ours = overlap_measures(confusion, VoxelSize(ONE))
    assert math.isnan(ours["precision"])
    assert ours["reasons"]["precision"] == "the label is not in the prediction"
    assert ours["recall"] == 0.0  # here they agree


# Surfaces and distances -----------------------------------------------------------------------------------------------


def test_three_definitions_of_hd95_give_three_numbers_and_we_report_each_by_name(tmp_path: Path) -> None:
    """MetricsReloaded and MONAI: the larger directed percentile; medpy: of all together; surface-distance: by area."""
    reference, prediction = ball((20, 20, 44), 7.0), ball((20, 20, 44), 7.0)
    prediction[9:11, 9:11, 26:42] = True  # a needle: more than a twentieth of both surfaces
    ours = measured(tmp_path, reference, prediction)
    expected = by_definition(reference, prediction, ONE)
    expected["hausdorff95_area_weighted_um"] = Surfels.of(reference, prediction, ONE).robust_hausdorff(95)
    names = [name for name in ours if name.startswith("hausdorff95")]
    assert len(names) == 3
    assert [ours[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-12)
    assert len({round(ours[name], 6) for name in names}) == 3


def hollow() -> tuple[Mask, Mask]:
    """A cube of 7³ voxels, and its outermost layer alone."""
    cube = np.zeros((9, 9, 9), np.bool_)
    cube[1:8, 1:8, 1:8] = True
    return cube, surface_voxels(cube)


def test_a_hollow_cube_is_one_away_for_surface_distance_three_for_scikit_image_and_nothing_for_us(
    tmp_path: Path,
) -> None:
    """Between corners, the wall of the hole is a surface of its own; ITK and scikit-image compare sets, not surfaces.

    The layer's voxels are the surface voxels of both, so MetricsReloaded's definition says 0 too.
    """
    cube, layer = hollow()
    assert Surfels.of(cube, layer, ONE).robust_hausdorff(100) == 1.0
    assert metrics.hausdorff_distance(cube, layer) == 3.0
    assert by_definition(cube, layer, ONE)["hausdorff_um"] == 0.0
    ours = measured(tmp_path, cube, layer, tolerances=(0.0,))
    assert ours["hausdorff_um"] == 0.0
    assert ours["nsd_voxel"]["0"] == 1.0
    assert ours["nsd_surfel"]["0"] < 1.0  # what the voxels hide


def test_the_average_of_surface_distance_is_by_area_and_ours_by_voxels(tmp_path: Path) -> None:
    reference, prediction = np.zeros((2, 9, 9, 9), np.bool_)
    reference[4, 4, 1], prediction[4, 4, 2:6] = True, True
    assert Surfels.of(reference, prediction, ONE).average_distances() == pytest.approx((0.5, 2.0))
    ours = measured(tmp_path, reference, prediction)
    assert ours["masd_um"] == (1 + (1 + 2 + 3 + 4) / 4) / 2
    assert ours["assd_um"] == (1 + 1 + 2 + 3 + 4) / 5


def test_panoptica_calls_assd_what_we_call_masd(tmp_path: Path) -> None:
    """In panoptica, metrics/assd.py is the mean of both directed means, MetricsReloaded's and medpy's that of all."""
    reference, prediction = np.zeros((2, 9, 9, 9), np.bool_)
    reference[4, 4, 1], prediction[4, 4, 2:6] = True, True
    a, b = surface_voxels(reference), surface_voxels(prediction)
    panoptica = np.mean((directed(a, b, ONE).mean(), directed(b, a, ONE).mean()))
    ours = measured(tmp_path, reference, prediction)
    assert ours["masd_um"] == panoptica
    assert ours["assd_um"] != panoptica


def test_a_tolerance_of_three_voxels_misses_them_for_surface_distance_and_includes_them_for_us(tmp_path: Path) -> None:
    """3 · 0.1 is 0.30000000000000004 in float64; our distances are integers and the tolerance is its decimal text."""
    spacing = (0.1, 0.1, 0.1)
    reference, prediction = np.zeros((2, 9, 5, 5), np.bool_)
    reference[1], prediction[4] = True, True
    peer = Surfels.of(reference, prediction, spacing)
    assert (peer.surface_dice(0.3), peer.surface_dice(0.3001)) == (0.5, 1.0)
    ours = measured(tmp_path, reference, prediction, spacing, tolerances=(0.3,))
    assert ours["nsd_surfel"]["0.3"] == 1.0
    assert ours["nsd_voxel"]["0.3"] == 1.0


def test_distances_in_float32_are_within_a_tolerance_that_is_smaller_and_ours_are_not(tmp_path: Path) -> None:
    """√3 is 1.73205080…, so beyond 1.7320508; and a float32 tolerance of √3 does not reach a float64 distance."""
    reference, prediction = np.zeros((2, 5, 5, 5), np.bool_)
    reference[1, 1, 1], prediction[2, 2, 2] = True, True
    (apart,) = directed(reference, prediction, ONE)
    assert np.float32(apart) <= np.float32(1.7320508)
    assert apart > float(np.float32(math.sqrt(3)))
    ours = measured(tmp_path, reference, prediction, tolerances=(1.7320508, 1.7320509))
    assert ours["nsd_voxel"] == {"1.7320508": 0.0, "1.7320509": 1.0}


def test_a_mask_that_fills_the_volume_has_a_surface_for_us_and_no_boundary_for_scikit_image(tmp_path: Path) -> None:
    """Outside of the volume lies background for us, as for MetricsReloaded, MONAI and surface-distance."""
    full = np.ones((6, 7, 8), np.bool_)
    assert not segmentation.find_boundaries(full, mode="inner").any()
    tally = measured_tally(tmp_path, full, full, (4, 4, 4), ONE)
    assert tally.of_direction("voxels", "reference")[2].sum() == 6 * 7 * 8 - 4 * 5 * 6
    peer = Surfels.of(full, full, ONE).found["surfel_areas_gt"]
    codes, counts = tally.of_direction("corners", "reference")[1:]
    assert (surface_areas(VoxelSize(ONE))[codes] * counts).sum() == pytest.approx(peer.sum())


def test_boundary_iou_of_metrics_reloaded_is_not_that_of_cheng_and_we_report_both(tmp_path: Path) -> None:
    """Mask voxels nearer than d to the mask's own surface, or those that d erosions by 3 × 3 × 3 take away."""
    reference, prediction = ball((20, 20, 20), 8.0), np.roll(ball((20, 20, 20), 8.0), 1, axis=2)
    ours = measured(tmp_path, reference, prediction, widths=(1, 2, 3))
    expected = expected_layers(reference, prediction, (1, 2, 3))
    for name, layers in (("boundary_iou", "euclidean"), ("boundary_iou_erosion", "chebyshev")):
        assert list(ours[name].values()) == [both / either for both, either in expected[layers]]
    assert all(ours["boundary_iou"][width] < ours["boundary_iou_erosion"][width] for width in ("1", "2", "3"))


# Overlap --------------------------------------------------------------------------------------------------------------


def test_volume_similarity_of_itk_has_a_sign_and_ours_has_none() -> None:
    """ITK's LabelOverlapMeasuresImageFilter says 2 (S − T) / (S + T), of source and target."""
    small, large = ball((15, 15, 15), 4.0), ball((15, 15, 15), 6.0)
    s, t = int(small.sum()), int(large.sum())
    itk = 2 * (s - t) / (s + t)
    ours = overlap(small, large)["volumetric_similarity"]
    assert ours == overlap(large, small)["volumetric_similarity"] == pytest.approx(1 - abs(itk) / 2, rel=1e-12)
    assert itk < 0 < ours < 1


def test_the_products_of_the_mcc_pass_64_bits_for_numpy_and_not_for_us() -> None:
    """An organ of 10^10 voxels in a volume of 10^12: int64 wraps around, and a float of the product is only just it."""
    confusion = Confusion(10**10, 10**8, 10**8, 10**12)
    true, false, missed, rest = (np.int64(n) for n in (10**10, 10**8, 10**8, 10**12))
    with np.errstate(over="ignore"):
        product = (true + false) * (true + missed) * (rest + false) * (rest + missed)
    assert int(product) != (10**10 + 10**8) ** 2 * (10**12 + 10**8) ** 2
    ours = overlap_measures(confusion, VoxelSize(ONE))["mcc"]
    assert ours == pytest.approx((1e10 * 1e12 - 1e8 * 1e8) / ((1e10 + 1e8) * (1e12 + 1e8)), rel=1e-14)


# Topology and objects -------------------------------------------------------------------------------------------------


def diagonal(axes: int) -> npt.NDArray[np.uint8]:
    """Two voxels that touch at an edge (2) or a corner (3)."""
    volume = np.zeros((4, 4, 4), np.uint8)
    volume[1, 1, 1] = 1
    volume[(1,) * (3 - axes) + (2,) * axes] = 1
    return volume


def test_voxels_that_touch_at_a_corner_are_one_piece_for_cc3d_and_two_for_scipy_and_we_say_both() -> None:
    """By default; MetricsReloaded counts lesions as scipy does, ours are joined by 26 neighbours."""
    volume = diagonal(3)
    assert cc3d.connected_components(volume, return_N=True)[1] == 1
    assert measure.label(volume).max() == 1
    assert ndimage.label(volume)[1] == 2
    assert {c: counted_components(volume, (2, 4, 4), c)[1] for c in (6, 18, 26)} == {6: 2, 18: 2, 26: 1}
    objects = object_measures(measured_objects((volume, volume), (2, 4, 4)).tally)
    assert objects["reference_objects"] == 1


def test_scikit_image_has_no_euler_number_for_18_neighbours_and_neither_have_we() -> None:
    with pytest.raises(NotImplementedError, match="connectivities 1 and 3 only"):
        measure.euler_number(diagonal(2), connectivity=2)
    assert counted_components(diagonal(2), (2, 4, 4), 18) == {1: 1}


def test_voxels_are_cells_for_us_and_vertices_for_the_other_complex_of_gudhi() -> None:
    """Closed voxels are joined by 26 neighbours, voxels as vertices by 6."""
    values = np.where(diagonal(3), 0.0, 1.0)
    found = []
    for complex_ in (gudhi.CubicalComplex(top_dimensional_cells=values), gudhi.CubicalComplex(vertices=values)):
        complex_.compute_persistence(homology_coeff_field=2, min_persistence=0.0)
        found.append(complex_.persistent_betti_numbers(0.0, 0.5)[0])
    assert found == [1, 2]


def test_a_volume_has_ends_for_us_and_none_for_the_periodic_complex_of_gudhi() -> None:
    """Two plates, the first and the last of the volume: neighbours where it begins again after its end."""
    mask = np.zeros((6, 4, 4), np.bool_)
    mask[[0, -1]] = True
    values = np.where(mask, 0.0, 1.0)
    periodic = gudhi.PeriodicCubicalComplex(top_dimensional_cells=values, periodic_dimensions=[True, False, False])
    periodic.compute_persistence(homology_coeff_field=2, min_persistence=0.0)
    assert periodic.persistent_betti_numbers(0.0, 0.5)[0] == 1
    assert counted_components(mask, (4, 4, 4), 26) == {1: 2}
