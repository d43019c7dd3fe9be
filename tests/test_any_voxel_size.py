"""Thickness and surface distances with voxel sizes of many digits: float64's to 1e-6, the same for every blocking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from distributed import Client
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.geometry import VoxelSize
from pipeline.job import Border
from pipeline.measures import surface as measures
from pipeline.measures.corners import surface_areas
from pipeline.statistics import described
from pipeline.tally import Histogram
from pipeline.weights import decimals
from tests.compare.surfaces import by_definition, measured_tally, nsd_by_definition
from tests.phantoms import Mask, masks, noise
from tests.test_chunking_invariance import Workers, measured
from tests.voxel_sizes import TIE, Floats, Size, sizes, thickness_by_definition

CLINICAL: dict[Size, Size] = {
    (2500.0, 789.062, 789.062): (2500.0, 789.062, 789.062),
    (3270.0, 976.562, 976.562): (3270.0, 976.562, 976.562),
    (10999.67384, 703.09985, 703.09979): (10999.67384, 703.09982, 703.09982),
    (1.0, 0.3333333333333333, 0.3333333333333333): (3.0 / 3, 1.0 / 3, 1.0 / 3),
    (7.5, 7.5, 7.50001): (7.5, 7.5, 7.50001),
    (3299.999, 1171.875001, 1171.875): (3299.999, 1171.875, 1171.875),
    (0.4000000059604645, 0.10833340138196945, 0.10833339393138885): (0.4, 0.1083334, 0.1083334),  # float32
}
"""Voxel sizes of the field, and those that are meant where they have noise."""


@pytest.fixture(scope="module")
def here() -> Iterator[Workers]:
    """A scheduler and a worker in this process."""
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client:
        yield Workers(client, "cpu")


def thickness_um(here: Workers, mask: Mask, blocks: tuple[int, int, int], um: Size, border: Border) -> Floats:
    """Local thickness of a mask through every stage, in µm."""
    with TemporaryDirectory() as folder:
        radii, _, job = measured(here, Path(folder), mask, blocks, um, border)
    assert job.voxel_size.largest_rounding < 1.3e-7
    return np.asarray(2 * np.sqrt(radii.astype(np.float64)) * job.voxel_size.unit_um)


@settings(max_examples=25)
@given(
    mask=masks(largest=9), um=sizes(most=20.0), border=st.sampled_from(["unknown", "closed"]),
    blocks=st.tuples(*[st.integers(4, 9)] * 3),
)  # fmt: skip
def test_thickness_is_that_of_float64(
    here: Workers, mask: Mask, um: Size, border: Border, blocks: tuple[int, int, int]
) -> None:
    assume(mask.any() and (border == "closed" or not mask.all()))
    whole = thickness_um(here, mask, (9, 9, 9), um, border)
    assert np.array_equal(thickness_um(here, mask, blocks, um, border), whole)
    low, high = (thickness_by_definition(mask, um, closed=border == "closed", grown=grown) for grown in (-TIE, TIE))
    assert (whole >= low * (1 - 1e-6)).all()
    assert (whole <= high * (1 + 1e-6)).all()


@pytest.mark.parametrize("um", CLINICAL)
def test_thickness_with_sizes_of_the_field(here: Workers, um: Size) -> None:
    """Every voxel has float64's thickness; where noise tells apart what is meant to be equal, that without noise."""
    mask = noise((11, 10, 12), 1.2, 3, share=0.3)
    found = thickness_um(here, mask, (11, 10, 12), um, "unknown")
    for blocks in ((5, 10, 12), (4, 3, 7)):
        assert np.array_equal(thickness_um(here, mask, blocks, um, "unknown"), found)
    np.testing.assert_allclose(found, thickness_by_definition(mask, CLINICAL[um], closed=False), rtol=1e-6)


@pytest.mark.usefixtures("pretend_gpu")
@pytest.mark.parametrize("um", list(CLINICAL)[:2])
def test_a_gpu_has_the_same_thickness(here: Workers, um: Size) -> None:
    mask = noise((11, 10, 12), 1.2, 3, share=0.3)
    with TemporaryDirectory() as folder:
        radii, _, job = measured(Workers(here.client, "gpu"), Path(folder), mask, (5, 10, 12), um, "unknown")
    found = 2 * np.sqrt(radii.astype(np.float64)) * job.voxel_size.unit_um
    assert np.array_equal(found, thickness_um(here, mask, (11, 10, 12), um, "unknown"))


@settings(max_examples=30)
@given(
    shape=st.tuples(*[st.integers(2, 12)] * 3), seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)), um=sizes(),
    sigma=st.sampled_from([0.0, 1.0]), blocks=st.tuples(*[st.integers(3, 12)] * 3),
)  # fmt: skip
def test_surface_distances_are_those_of_float64(
    shape: tuple[int, int, int], seeds: tuple[int, int], um: Size, sigma: float, blocks: tuple[int, int, int]
) -> None:
    reference, prediction = (noise(shape, sigma, seed) for seed in seeds)
    assume(reference.any() and prediction.any())
    with TemporaryDirectory() as one, TemporaryDirectory() as many:
        tally = measured_tally(Path(one), reference, prediction, (12, 12, 12), um)
        assert measured_tally(Path(many), reference, prediction, blocks, um) == tally
    size = VoxelSize(um).for_distances(shape)
    found = {
        "hausdorff_um": measures.hausdorff_um(tally, size),
        "hausdorff95_um": measures.hausdorff_percentile_um(tally, size),
        "hausdorff95_pooled_um": measures.hausdorff_percentile_um(tally, size, kind="pooled"),
        "assd_um": measures.assd_um(tally, size),
        "masd_um": measures.masd_um(tally, size),
    }
    assert found == pytest.approx(by_definition(reference, prediction, um), rel=1e-6)
    tolerance = 1.5 * max(um)
    near = measures.nsd_voxel(tally, size, tolerance)
    assert nsd_by_definition(reference, prediction, um, tolerance * (1 - 1e-6)) <= near
    assert near <= nsd_by_definition(reference, prediction, um, tolerance * (1 + 1e-6))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("um", [*CLINICAL, (3.0, 0.7, 0.7), (0.1, 0.3, 0.2)])
def test_a_distance_equal_to_the_tolerance_is_within_it(tmp_path: Path, um: Size, axis: int) -> None:
    """Exact or rounded weights: three steps along an axis are as far as three times its spacing."""
    mask = np.zeros((20, 20, 20), np.bool_)
    mask[8, 8, 8] = True
    tally = measured_tally(tmp_path, mask, np.roll(mask, 3, axis), (20, 20, 20), um)
    size, areas = VoxelSize(um).for_distances((20, 20, 20)), surface_areas(VoxelSize(um))
    exactly = float(3 * decimals(um)[axis])
    for nsd in (measures.nsd_voxel(tally, size, exactly), measures.nsd_surfel(tally, size, exactly, areas)):
        assert nsd == 1.0
    assert measures.nsd_voxel(tally, size, exactly * (1 - 1e-6)) == 0.0
    assert measures.hausdorff_um(tally, size) == pytest.approx(exactly, rel=1.3e-7)


def test_volumes_and_areas_are_of_the_sizes_given() -> None:
    um = (2500.0, 789.062, 789.062)
    size = VoxelSize(um).for_distances((116, 512, 512))
    assert size.largest_rounding > 0
    assert np.array_equal(surface_areas(size), surface_areas(VoxelSize(um)))
    histogram = Histogram(np.array([523], np.int64), np.array([400_000], np.int64))
    assert described(histogram, size)["volume_um3"] == 622_618_839_844_000.0  # not a digit of rounded spacings
