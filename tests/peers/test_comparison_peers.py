"""Comparisons agree with other libraries where those follow the definition that is ours.

Pairs come in every hard kind (tests/compare): anisotropic, touching the border, empty, chains that meet at edges and
corners, serpentines, tori, shells in shells, salt, labels of one side alone, ids up to 2^64. Each goes through the
stations in blocks, odd ones too, and must give what the other library finds in the whole. Where they differ by
definition: test_known_disagreements.py.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cc3d
import gudhi
import numpy as np
import numpy.typing as npt
import pytest
from distributed import Client
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.spatial import distance

from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.geometry import Index, VoxelSize
from pipeline.kernels.reference import squared_local_radius
from pipeline.measures import surface as surface_measures
from pipeline.measures.corners import codes_of, euler_number, surface_area, surface_areas
from pipeline.measures.distributions import distribution_distances
from pipeline.measures.overlap import confusions, label_averages, multiclass_measures, overlap_measures
from pipeline.measures.topology import Topology
from pipeline.surface import SIDES, SurfaceTally
from pipeline.tally import Histogram
from tests.compare.blockwise import counted_cavities, counted_components, cut_volumes, labels_in
from tests.compare.pairs import blockwise, label_pairs
from tests.compare.runs import Place, compared
from tests.compare.surfaces import Spacing, by_definition, measured_tally, nsd_by_definition
from tests.peers.surfels import Surfels, areas_of_codes
from tests.phantoms import SPACINGS, Mask, ball, noise

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image comes with PoreSpy, of the extra bench")
measure = pytest.importorskip("skimage.measure", reason="scikit-image comes with PoreSpy, of the extra bench")

Labels = npt.NDArray[Any]
Cut = tuple[Labels, Labels, Index]

TOLERANCES = (0.0, 0.7, 1.0, 2.5, 6.0)
SLIGHTLY = 1e-9
"""How far apart two float64 distances may be that are one integer of ours."""


@st.composite
def cuts(draw: st.DrawFn, *, largest: int) -> Cut:
    """A pair and a shape of blocks: odd ones of at least a third of the volume, and the whole."""
    reference, prediction = draw(label_pairs(largest=largest))
    z, y, x = (draw(st.integers(max(1, n // 3), n + 1)) for n in reference.shape)
    return reference, prediction, (z, y, x)


def either(reference: Labels, prediction: Labels) -> list[int]:
    """Every label of a pair but 0."""
    return sorted({*labels_in(reference), *labels_in(prediction)})


def mask_of(labels: Labels, label: int) -> Mask:
    """Where a volume has a label; NumPy does not compare booleans with integers above 2^63."""
    return np.asarray((labels.view(np.uint8) if labels.dtype == np.bool_ else labels) == label)


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[Mask, Mask, Index, Spacing]:
    """One label of a pair as two masks, one of them may be empty; blocks and a spacing."""
    reference, prediction, block_shape = draw(cuts(largest=13))
    labels = either(reference, prediction)
    assume(labels)
    label = draw(st.sampled_from(labels))
    return mask_of(reference, label), mask_of(prediction, label), block_shape, draw(st.sampled_from(SPACINGS))


def averages(tally: SurfaceTally, spacing: Spacing) -> list[float]:
    """Mean distance of the elements of either surface, by area; no measure of ours, but it is in the tally."""
    areas, found = surface_areas(VoxelSize(spacing)), []
    for side in SIDES:
        squared, code, count = tally.of_direction("corners", side)
        lengths = surface_measures.distances_um(squared, VoxelSize(spacing))
        whole = math.fsum(areas[code] * count)
        found.append(math.fsum(areas[code] * count * lengths) / whole if whole else math.nan)
    return found


@settings(max_examples=60)
@given(case=mask_pairs())
def test_surfaces_are_those_of_surface_distance_and_of_metrics_reloaded(
    case: tuple[Mask, Mask, Index, Spacing],
) -> None:
    reference, prediction, block_shape, spacing = case
    with TemporaryDirectory() as folder:
        tally = measured_tally(Path(folder), reference, prediction, block_shape, spacing)
    check_elements(tally, Surfels.of(reference, prediction, spacing), spacing)
    if reference.any() and prediction.any():
        check_voxels(tally, reference, prediction, spacing)


def check_elements(tally: SurfaceTally, peer: Surfels, spacing: Spacing) -> None:
    """Robust Hausdorff distance, surface Dice and mean distances, by area; infinitely far from an empty mask."""
    size, areas = VoxelSize(spacing), surface_areas(VoxelSize(spacing))
    for percent in (50, 95, 100):
        # Whether a share of rounded areas reaches 95 % exactly is a matter of the order in which they are added.
        lower, upper = (peer.robust_hausdorff(percent + step) for step in (-SLIGHTLY, SLIGHTLY))
        ours = surface_measures.hausdorff_percentile_um(tally, size, percent=percent, kind="area-weighted", areas=areas)
        assert lower * (1 - 1e-12) <= ours <= upper * (1 + 1e-12)
    for tolerance in TOLERANCES:
        ours = surface_measures.nsd_surfel(tally, size, tolerance, areas)
        lower, upper = (peer.surface_dice(tolerance * (1 + step)) for step in (-SLIGHTLY, SLIGHTLY))
        assert lower - 1e-12 <= ours <= upper + 1e-12
    if all(tally.of_direction("corners", side)[0].size for side in SIDES):
        assert averages(tally, spacing) == pytest.approx(peer.average_distances(), rel=1e-12, abs=1e-12)


def check_voxels(tally: SurfaceTally, reference: Mask, prediction: Mask, spacing: Spacing) -> None:
    """By the definition of MetricsReloaded's source, on scipy's distance transform (tests/compare/surfaces.py)."""
    size = VoxelSize(spacing)
    ours = {
        "hausdorff_um": surface_measures.hausdorff_um(tally, size),
        "hausdorff95_um": surface_measures.hausdorff_percentile_um(tally, size),
        "hausdorff95_pooled_um": surface_measures.hausdorff_percentile_um(tally, size, kind="pooled"),
        "assd_um": surface_measures.assd_um(tally, size),
        "masd_um": surface_measures.masd_um(tally, size),
    }
    assert ours == pytest.approx(by_definition(reference, prediction, spacing), rel=1e-12, abs=1e-12)
    for tolerance in TOLERANCES:
        lower, upper = (
            nsd_by_definition(reference, prediction, spacing, tolerance * (1 + step)) for step in (-SLIGHTLY, SLIGHTLY)
        )
        assert lower <= surface_measures.nsd_voxel(tally, size, tolerance) <= upper


@pytest.mark.parametrize("spacing", [*SPACINGS, (0.1, 25.0, 3.3)])
def test_areas_are_those_of_surface_distance(spacing: Spacing) -> None:
    assert surface_areas(VoxelSize(spacing)) == pytest.approx(areas_of_codes(spacing), rel=1e-12)


@settings(max_examples=80)
@given(cut=cuts(largest=12), seed=st.integers(0, 99))
def test_overlap_is_that_of_scipy_and_of_the_definitions(cut: Cut, seed: int) -> None:
    reference, prediction, block_shape = cut
    tally = blockwise(reference, prediction, None, block_shape, seed)
    found = confusions(tally)
    assert list(found) == either(reference, prediction)
    every = []
    for label, confusion in found.items():
        ours = overlap_measures(confusion, VoxelSize((3.0, 0.7, 0.7)))
        every.append(ours)
        check_overlap(ours, mask_of(reference, label).reshape(-1), mask_of(prediction, label).reshape(-1))
    if every:
        means = label_averages(every)
        assert means["labels"] == len(every)
        assert means["dice"] == pytest.approx(np.mean([m["dice"] for m in every]), rel=1e-12)
        defined = [m["precision"] for m in every if not math.isnan(m["precision"])]
        assert means["undefined_labels"].get("precision", 0) == len(every) - len(defined)


def check_overlap(ours: dict[str, Any], reference: Mask, prediction: Mask) -> None:
    """The measures of one mask, flat, against scipy's distances and plain counts."""
    assert ours["dice"] == pytest.approx(1 - distance.dice(reference, prediction), rel=1e-12, abs=1e-12)
    assert ours["iou"] == pytest.approx(1 - distance.jaccard(reference, prediction), rel=1e-12, abs=1e-12)
    agree = reference == prediction
    assert ours["accuracy"] == pytest.approx(agree.mean(), rel=1e-12)
    nan = pytest.approx(math.nan, nan_ok=True)
    assert ours["precision"] == (pytest.approx(reference[prediction].mean()) if prediction.any() else nan)
    assert ours["recall"] == (pytest.approx(prediction[reference].mean()) if reference.any() else nan)
    assert ours["specificity"] == (nan if reference.all() else pytest.approx((~prediction[~reference]).mean()))
    sizes = int(reference.sum()), int(prediction.sum())
    assert ours["volumetric_similarity"] == pytest.approx(1 - abs(sizes[0] - sizes[1]) / sum(sizes))
    spread = all(0 < size < reference.size for size in sizes)
    # The coefficient of two binary variables is their Pearson correlation.
    assert ours["mcc"] == (pytest.approx(stats.pearsonr(reference, prediction)[0], abs=1e-9) if spread else nan)
    share = [Fraction(n, reference.size) for n in sizes]
    chance = share[0] * share[1] + (1 - share[0]) * (1 - share[1])
    observed = Fraction(int(agree.sum()), reference.size)
    assert ours["kappa"] == (nan if chance == 1 else float((observed - chance) / (1 - chance)))


@settings(max_examples=60)
@given(cut=cuts(largest=10), seed=st.integers(0, 99))
def test_pairs_of_labels_are_those_of_scikit_image(cut: Cut, seed: int) -> None:
    """Its contingency table takes small labels only, so it gets their ranks; all classes at once by Gorodkin's form."""
    reference, prediction, block_shape = cut
    tally = blockwise(reference, prediction, None, block_shape, seed)
    classes = sorted({0, *either(reference, prediction)})
    ranks = [np.array([classes.index(int(label)) for label in side.reshape(-1)]) for side in (reference, prediction)]
    table = metrics.contingency_table(*ranks).toarray()
    rows = zip(tally["pair-labels"].tolist(), tally["pair-voxels"].tolist(), strict=True)
    pairs = {(classes.index(r), classes.index(p)): n for (r, p), n in rows}
    expected = {(int(r), int(p)): int(table[r, p]) for r, p in np.argwhere(table)}
    expected.pop((0, 0), None)
    assert pairs == expected
    ours = multiclass_measures(tally)
    assert ours["multiclass_accuracy"] == np.mean(ranks[0] == ranks[1])
    # Gorodkin's R_K: covariances of the indicators of the classes, summed over classes.
    r, p = (np.eye(len(classes))[side] - np.eye(len(classes))[side].mean(axis=0) for side in ranks)
    variances = float((r * r).sum() * (p * p).sum())
    if min(len(set(side.tolist())) for side in ranks) > 1:
        assert ours["multiclass_mcc"] == pytest.approx((r * p).sum() / math.sqrt(variances), abs=1e-9)
    else:
        assert math.isnan(ours["multiclass_mcc"])


@settings(max_examples=60)
@given(cut=cut_volumes(largest=13), connectivity=st.sampled_from(CONNECTIVITIES))
def test_components_are_those_of_cc3d_and_scikit_image(cut: tuple[Labels, Index], connectivity: Connectivity) -> None:
    labels, block_shape = cut
    ours = counted_components(labels, block_shape, connectivity)
    assert set(ours) == set(labels_in(labels))
    for label, pieces in ours.items():
        mask = labels == label
        # As uint8: cc3d 4.1 fails on some bool volumes that are one voxel wide.
        assert cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity, return_N=True)[1] == pieces
        numbered = measure.label(mask, connectivity=CONNECTIVITIES.index(connectivity) + 1)
        assert numbered.max() == pieces


@settings(max_examples=60)
@given(cut=cuts(largest=12), seed=st.integers(0, 99))
def test_euler_numbers_are_those_of_scikit_image(cut: Cut, seed: int) -> None:
    """Of every label, and of the foreground, joined by 26 and by 6 neighbours."""
    reference, prediction, block_shape = cut
    tally = blockwise(reference, prediction, None, block_shape, seed)
    sides: list[tuple[Literal["reference", "prediction"], Labels]] = [
        ("reference", reference), ("prediction", prediction)
    ]  # fmt: skip
    for side, volume in sides:
        for label in (0, *labels_in(volume)):
            mask = volume == label if label else volume != 0
            codes = codes_of(tally, side, label)
            assert euler_number(codes, 26) == measure.euler_number(mask, connectivity=3)
            assert euler_number(codes, 6) == measure.euler_number(mask, connectivity=1)


def betti_numbers(mask: Mask) -> list[int]:
    """gudhi's, of the union of closed voxels: its filtration holds the foreground from 0, the rest from 1."""
    complex_ = gudhi.CubicalComplex(top_dimensional_cells=np.where(mask, 0.0, 1.0))
    complex_.compute_persistence(homology_coeff_field=2, min_persistence=0.0)
    found = complex_.persistent_betti_numbers(0.0, 0.5)
    return [*found, 0, 0, 0][:3]


@settings(max_examples=60)
@given(cut=cut_volumes(largest=12))
def test_betti_numbers_are_those_of_gudhi(cut: tuple[Labels, Index]) -> None:
    labels, block_shape = cut
    counts: dict[Connectivity, dict[int, int]] = {c: counted_components(labels, block_shape, c) for c in CONNECTIVITIES}
    _, cavities = counted_cavities(labels, block_shape)
    tally = blockwise(labels, None, None, block_shape, 0)
    for label in labels_in(labels):
        euler = euler_number(codes_of(tally, "reference", label))
        topology = Topology({c: counts[c][label] for c in CONNECTIVITIES}, cavities.get(label, 0), euler)
        assert list(topology.betti) == betti_numbers(labels == label)


@settings(max_examples=60)
@given(data=st.data())
def test_distances_of_distributions_are_those_of_scipy(data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from([1.0, 0.7, 2.5]))
    sides = []
    for _ in range(2):
        squared = data.draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True))
        voxels = data.draw(st.lists(st.integers(1, 40), min_size=len(squared), max_size=len(squared)))
        sides.append(Histogram(np.array(sorted(squared), np.int64), np.array(voxels, np.int64)))
    samples = [np.repeat(2 * unit * np.sqrt(h.squared_radius), h.voxels) for h in sides]
    wasserstein, kolmogorov_smirnov = distribution_distances(sides[0], sides[1], unit)
    assert wasserstein == pytest.approx(stats.wasserstein_distance(*samples), rel=1e-9, abs=1e-9)
    assert kolmogorov_smirnov == pytest.approx(kolmogorov(samples), rel=1e-12)


def kolmogorov(samples: list[npt.NDArray[np.float64]]) -> float:
    """The statistic of scipy; the p-value that comes with it divides by 0 for samples of one."""
    with np.errstate(divide="ignore"):
        return float(stats.ks_2samp(*samples, method="asymp").statistic)


def test_a_whole_run_says_what_the_libraries_say(client: Client, tmp_path: Path) -> None:
    """From two stores to comparison.json, on workers: every kind of measure against the library that has it."""
    huge, spacing, block_shape = 2**33 + 5, (3.0, 0.7, 0.7), (7, 12, 15)
    reference = np.zeros((20, 24, 29), np.uint64)
    reference[noise(reference.shape, 1.5, 4, share=0.7)] = 7
    reference[:, :13][ball((20, 13, 29), 6)] = huge
    prediction = np.roll(reference, (1, 0, -1), (0, 1, 2))
    prediction[np.random.default_rng(5).random(prediction.shape) < 0.03] = 0
    grey = np.random.default_rng(6).normal(100, 40, reference.shape).astype(np.float32)
    found = compared(
        Place(client), tmp_path, reference, prediction, block_shape, image=grey, spacing=spacing,
        tolerances_um=(0.0, 1.0, 2.5), objects="components",
    )  # fmt: skip
    size = VoxelSize(spacing)
    assert set(found["labels"]) == {"7", str(huge)}
    for name, ours in found["labels"].items():
        masks = {"reference": reference == int(name), "prediction": prediction == int(name)}
        r, p = masks.values()
        check_overlap(ours, r.reshape(-1), p.reshape(-1))
        for length, value in by_definition(r, p, spacing).items():
            assert ours[length] == pytest.approx(value, rel=1e-12), length
        peer = Surfels.of(r, p, spacing)
        assert ours["hausdorff95_area_weighted_um"] == pytest.approx(peer.robust_hausdorff(95), rel=1e-12)
        for text in ("0", "1", "2.5"):
            assert ours["nsd_surfel"][text] == pytest.approx(peer.surface_dice(float(text)), rel=1e-12)
            voxels = nsd_by_definition(r, p, spacing, float(text))
            assert ours["nsd_voxel"][text] == pytest.approx(voxels, rel=1e-12)
        # The SenNet + HOA score: voxels of side 1, tolerance 0.
        assert ours["sennet_score"] == pytest.approx(Surfels.of(r, p, (1, 1, 1)).surface_dice(0), rel=1e-12)
        thickness = []
        for side, mask in masks.items():
            assert ours["betti"][side] == betti_numbers(mask)
            assert ours["euler_number"][side] == measure.euler_number(mask, connectivity=3)
            for connectivity in CONNECTIVITIES:
                expected = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)[1]
                assert ours["components"][str(connectivity)][side] == expected
            area = surface_area(code_counts(mask), areas_of_codes(spacing))
            assert ours["surface_area_um2"][side] == pytest.approx(area, rel=1e-12)
            check_structure(ours["structure"][side], mask, grey)
            radii = squared_local_radius(mask, size.weights, closed=False)[mask]
            thickness.append(2 * size.unit_um * np.sqrt(radii))
        assert ours["thickness"]["wasserstein_um"] == pytest.approx(stats.wasserstein_distance(*thickness), rel=1e-9)
        assert ours["thickness"]["kolmogorov_smirnov"] == pytest.approx(kolmogorov(thickness), rel=1e-12)


def code_counts(mask: Mask) -> npt.NDArray[np.int64]:
    """Corners per code of a mask, by scipy's correlation, as surface-distance counts them."""
    kernel = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]])
    codes = ndimage.correlate(np.pad(mask, 1).astype(np.int64), kernel, mode="constant")
    return np.bincount(codes.reshape(-1), minlength=256)


def check_structure(ours: dict[str, Any], mask: Mask, grey: npt.NDArray[np.float32]) -> None:
    """Size, place and grey values of a structure against scikit-image's region and scipy's statistics."""
    (region,) = measure.regionprops(mask.astype(np.uint8), intensity_image=grey)
    assert ours["voxels"] == region.num_pixels
    assert [*ours["bounding_box"]["start"], *ours["bounding_box"]["stop"]] == list(region.bbox)
    assert ours["centroid_voxels"] == pytest.approx(region.centroid, rel=1e-12)
    inside = grey[mask].astype(np.float64)
    assert ours["intensity"]["mean"] == pytest.approx(inside.mean(), rel=1e-12)
    assert ours["intensity"]["median"] == ndimage.median(grey.astype(np.float64), mask)
    assert ours["intensity"]["standard_deviation"] == pytest.approx(inside.std(), rel=1e-10)
    extremes = ours["intensity"]["minimum"], ours["intensity"]["maximum"]
    assert extremes == (region.intensity_min, region.intensity_max)
