"""A comparison from volumes to numbers: the same for every blocking and device, equal to plain definitions."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline import comparison
from pipeline.errors import DeviceMemoryError, InputError, LostWorkersError
from pipeline.geometry import Index, VoxelSize
from pipeline.kernels.reference import squared_local_radius
from pipeline.measures.corners import surface_areas
from tests.compare.blockwise import homology, plain_components
from tests.compare.pairs import label_pairs
from tests.compare.runs import OFFER, Place, compared, map_bytes, maps, result_bytes, stored
from tests.compare.surfaces import expected_rows
from tests.phantoms import ball, noise
from tests.shared_data import shared_data
from workflows import compare_segmentations
from workflows.config import ComparisonConfig
from workflows.run_comparison import execute_comparison, reopen_comparison, start_comparison

Labels = npt.NDArray[Any]
HUGE = 2**40


def pair() -> tuple[Labels, Labels]:
    """Three labels, one of them huge, one missing in the prediction; the prediction is worn and shifted."""
    reference = np.zeros((20, 24, 28), np.uint64)
    reference[noise(reference.shape, 2.0, 1)] = 1
    reference[:, :12][ball((20, 12, 28), 6)] = HUGE
    reference[15:18, 16:20, 3:9] = 7
    prediction = np.roll(reference, 1, axis=2)
    prediction[prediction == 7] = 0
    prediction[np.random.default_rng(2).random(prediction.shape) < 0.02] = 1
    return reference, prediction


def test_no_blocking_shows(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    options = {"tolerances_um": (0.0, 1.5, 3.0), "boundary_widths": (1, 3), "objects": "components"}
    grey = np.random.default_rng(3).integers(-1000, 1000, reference.shape).astype(np.int16)
    first: tuple[dict[str, bytes], dict[str, Labels]] | None = None
    for n, block_shape in enumerate([(20, 24, 28), (9, 13, 16), (20, 7, 28)]):
        folder = tmp_path / str(n)
        here = place if n else Place(place.client, "cpu")  # nor does the device
        compared(here, folder, reference, prediction, block_shape, image=grey, spacing=(3.0, 0.7, 0.7), **options)
        found = result_bytes(folder), maps(folder)
        if first is None:
            first = found
            continue
        assert found[0] == first[0]
        for name, values in found[1].items():
            assert np.array_equal(values, first[1][name]), name


def test_no_worker_shows(tmp_path: Path) -> None:
    """One thread, four threads and two processes leave the same files, to the byte."""
    reference, prediction = pair()
    options = {"tolerances_um": (0.0, 1.5), "objects": "components", "spacing": (3.0, 0.7, 0.7)}
    found = []
    with contextlib.ExitStack() as stack:
        for threads in (1, 4):
            client = Client(processes=False, n_workers=1, threads_per_worker=threads, dashboard_address="127.0.0.1:0")
            found.append(_files(stack.enter_context(client), tmp_path / str(threads), reference, prediction, options))
        client, _ = stack.enter_context(open_cluster(LocalProfile(workers=2)))
        found.append(_files(client, tmp_path / "processes", reference, prediction, options))
    names = set(found[0])
    assert {"comparison.json", "comparison.csv", "difference.ome.zarr/zarr.json"} < names
    for other in found[1:]:
        assert set(other) == names
        assert [name for name in names if other[name] != found[0][name]] == []


def _files(
    client: Client, folder: Path, reference: Labels, prediction: Labels, options: dict[str, Any]
) -> dict[str, bytes]:
    compared(Place(client), folder, reference, prediction, (13, 15, 17), **options)
    return result_bytes(folder) | map_bytes(folder)


def test_topology_in_smaller_blocks_than_the_rest(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.device != "cpu":
        pytest.skip("components are found on the CPU")
    reference, prediction = pair()
    found = []
    for voxels in (comparison.TOPOLOGY_VOXELS, 1500):
        monkeypatch.setattr(comparison, "TOPOLOGY_VOXELS", voxels)
        folder = tmp_path / str(voxels)
        compared(
            place, folder, reference, prediction, reference.shape, parts=("overlap", "topology"), objects="components"
        )  # fmt: skip
        plan = json.loads((folder / "run" / "plan.json").read_text("utf-8"))
        tasks = {stage["name"]: stage["tasks"] for stage in plan["stages"]}
        found.append((tasks, result_bytes(folder)))
    assert found[0][1] == found[1][1]
    assert [tasks["overlap"] for tasks, _ in found] == [1, 1]
    assert [tasks["components"] for tasks, _ in found] == [1, 16]


def test_measures_equal_their_definitions(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    spacing = (2.0, 1.0, 1.0)
    weights = VoxelSize(spacing).weights
    found = compared(place, tmp_path, reference, prediction, (11, 16, 17), spacing=spacing, tolerances_um=(0.0, 2.0))
    assert set(found["labels"]) == {"1", "7", str(HUGE)}
    for label in (1, HUGE):
        r, p = reference == label, prediction == label
        measures = found["labels"][str(label)]
        assert measures["dice"] == 2 * (r & p).sum() / (r.sum() + p.sum())
        assert measures["iou"] == (r & p).sum() / (r | p).sum()
        assert (measures["reference_voxels"], measures["prediction_voxels"]) == (r.sum(), p.sum())
        rows = expected_rows(r, p, weights)
        voxels = [[(d, n) for direction, d, _, n in rows if direction == side] for side in (0, 1)]
        lengths = [np.repeat(np.sqrt([d for d, _ in side]), [n for _, n in side]) for side in voxels]
        assert measures["hausdorff_um"] == pytest.approx(max(part.max() for part in lengths), rel=1e-12)
        percentiles = max(np.percentile(part, 95) for part in lengths)
        assert measures["hausdorff95_um"] == pytest.approx(percentiles, rel=1e-12)
        assert measures["assd_um"] == pytest.approx(np.concatenate(lengths).mean(), rel=1e-12)
        near = sum((part <= 2.0).sum() for part in lengths) / sum(part.size for part in lengths)
        assert measures["nsd_voxel"]["2"] == pytest.approx(near, rel=1e-12)
        areas = surface_areas(VoxelSize(spacing))
        surfels = [(d, areas[code] * n) for direction, d, code, n in rows if direction > 1]
        share = math.fsum(a for d, a in surfels if d <= 4) / math.fsum(a for _, a in surfels)
        assert measures["nsd_surfel"]["2"] == pytest.approx(share, rel=1e-12)
        for side, mask in (("reference", r), ("prediction", p)):
            radii = squared_local_radius(mask, weights, closed=False)
            thickness = 2 * np.sqrt(radii[mask].astype(float))
            assert measures["thickness"][side]["mean"] == pytest.approx(thickness.mean(), rel=1e-12)
            pieces = plain_components(mask.astype(np.uint8), 26)[1]
            assert measures["components"]["26"][side] == pieces
            assert measures["betti"][side][0] == pieces
    assert maps(tmp_path)["difference"].any()


def test_maps_hold_each_label_s_own_thickness(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    compared(place, tmp_path, reference, prediction, (13, 16, 17))
    expected = {}
    for side, labels in (("reference", reference), ("prediction", prediction)):
        expected[side] = np.zeros(labels.shape, np.float32)
        for label in (1, 7, HUGE):
            mask = labels == label
            if mask.any():
                radii = squared_local_radius(mask, (1, 1, 1), closed=False)
                expected[side] = np.maximum(expected[side], (2 * np.sqrt(radii)).astype(np.float32))
    same = (reference == prediction) & (reference != 0)
    expected["difference"] = np.where(same, expected["prediction"] - expected["reference"], 0)
    for name, values in maps(tmp_path).items():
        assert np.array_equal(values, expected[name]), name


def test_a_label_in_one_volume_alone_is_reported(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    found = compared(place, tmp_path, reference, prediction, (20, 24, 28))
    seven = found["labels"]["7"]
    assert (seven["dice"], seven["prediction_voxels"]) == (0.0, 0)
    assert seven["hausdorff_um"] == "inf"
    assert seven["nsd_voxel"]["0"] == 0
    assert seven["precision"] is None
    assert seven["thickness"]["wasserstein_um"] is None
    for name in ("hausdorff_um", "precision", "thickness.wasserstein_um"):
        assert seven["reasons"][name], name
    assert "Label 7 is in the reference only" in (tmp_path / "run" / "report.html").read_text("utf-8")


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_pair_in_any_blocks(place: Place, data: st.DataObject) -> None:
    reference, prediction = data.draw(label_pairs(largest=12))
    shape = reference.shape
    block_shape: Index = tuple(max(1, -(-n // data.draw(st.integers(1, 2)))) for n in shape)
    with TemporaryDirectory() as whole, TemporaryDirectory() as cut:
        options: dict[str, Any] = {"border": "closed", "maps": False, "objects": "components"}
        first = compared(place, Path(whole), reference, prediction, shape, **options)
        second = compared(place, Path(cut), reference, prediction, block_shape, **options)
    assert second == first
    for label, measures in first["labels"].items():
        mask = np.asarray(reference == int(label))
        if mask.size <= 400:
            assert tuple(measures["betti"]["reference"]) == homology(mask)


def test_labels_that_are_asked_for(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    found = compared(place, tmp_path, reference, prediction, (20, 24, 28), labels=(1,), parts=("overlap", "surface"))
    assert list(found["labels"]) == ["1"]
    assert "thickness" not in found["labels"]["1"]
    assert found["overall"]["foreground"]["reference_voxels"] == (reference != 0).sum()


def test_a_label_that_is_asked_for_and_is_nowhere_is_reported(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    nowhere = 2**64 - 1
    found = compared(
        place, tmp_path, reference, prediction, (11, 24, 28), labels=(nowhere, 7, nowhere), objects="components"
    )
    assert list(found["labels"]) == ["7", str(nowhere)]
    measures = found["labels"][str(nowhere)]
    assert (measures["reference_voxels"], measures["prediction_voxels"]) == (0, 0)
    assert measures["betti"] == {"reference": [0, 0, 0], "prediction": [0, 0, 0]}
    reasons = measures["reasons"] | measures["objects"]["reasons"]
    undefined = {
        *("dice", "iou", "hausdorff_um", "assd_um", "nsd_voxel.0", "nsd_surfel.0", "boundary_iou.1"),
        *("thickness.reference", "thickness.prediction", "thickness.wasserstein_um", "panoptic_quality"),
    }
    assert undefined <= set(reasons)
    assert measures["dice"] is None
    assert measures["hausdorff_um"] is None
    assert found["overall"]["label_averaged"]["labels"] == 1
    assert f"Label {nowhere} is in neither volume" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_a_volume_without_a_label(place: Place, tmp_path: Path) -> None:
    """An empty prediction is reported label by label, each infinitely far."""
    reference, _ = pair()
    found = compared(place, tmp_path, reference, np.zeros(reference.shape, np.bool_), (20, 13, 28), maps=False)
    assert list(found["labels"]) == ["1", "7", str(HUGE)]
    for measures in found["labels"].values():
        assert (measures["dice"], measures["hausdorff_um"], measures["precision"]) == (0.0, "inf", None)
        assert measures["reasons"]["hausdorff_um"]
        assert measures["reasons"]["thickness.prediction"]
    assert found["overall"]["foreground"]["recall"] == 0.0


def test_two_empty_volumes(place: Place, tmp_path: Path) -> None:
    empty = np.zeros((6, 7, 8), np.uint8)
    found = compared(place, tmp_path, empty, empty, (6, 7, 8))
    assert found["labels"] == {}
    assert found["overall"]["foreground"]["dice"] is None
    assert found["overall"]["foreground"]["reasons"]["dice"]


def test_a_label_that_fills_the_volume_has_no_thickness(place: Place, tmp_path: Path) -> None:
    full = np.ones((6, 7, 8), np.uint8)
    ones = compared(place, tmp_path / "unknown", full, full, (6, 4, 8))["labels"]["1"]
    assert ones["thickness"]["reference"]["mean"] is None
    assert "--border closed" in ones["reasons"]["thickness.reference"]
    closed = compared(place, tmp_path / "closed", full, full, (6, 4, 8), border="closed")["labels"]["1"]
    assert closed["thickness"]["reference"]["mean"] > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r, p, i: (r, p[1:], i), r"The prediction .* has 5 × 7 × 8 voxels and the reference .* has 6 × 7 × 8"),
        (lambda r, p, i: (r[0, 0], p, i), r"reference\.zarr has 1 axes"),
        (
            lambda r, p, i: (r, p.astype(np.float32) / 2, i),
            r"prediction\.zarr holds 0\.5 at voxel \(0, .* which is no label; labels are whole numbers",
        ),
        (
            lambda r, p, i: (r, p.astype(np.complex64), i),
            r"prediction\.zarr holds values of type complex64; bool, integ",
        ),
        (lambda r, p, i: (-r.astype(np.int8), p, i), r"reference\.zarr holds the negative label -1; labels must be 0"),
        (
            lambda r, p, i: (r, -p.astype(np.int64), i),
            r"prediction\.zarr holds the negative label -1; labels must be 0",
        ),
        (lambda r, p, i: (r, p, i[:, 1:]), r"The image .* has 6 × 6 × 8 voxels and the reference"),
        (
            lambda r, p, i: (r, p, i.astype(np.complex128)),
            r"image\.zarr holds values of type complex128; bool, integer",
        ),
        (
            lambda r, p, i: (r, p, np.where(i > 0.9, np.nan, i)),
            r"image\.zarr has (?:a value that is|\d+ values that are) not finite \(nan\)",
        ),
        (
            lambda r, p, i: (r, p, np.where(i > 0.9, -np.inf, i)),
            r"not finite \(-inf\) inside label 1 of the ",
        ),
    ],
    ids=["grid", "axes", "floats", "complex", "negative", "negative 64", "image", "complex image", "NaN", "infinity"],
)
def test_volumes_that_cannot_be_compared(place: Place, tmp_path: Path, change: Any, sentence: str) -> None:
    rng = np.random.default_rng(0)
    volumes = (rng.random((6, 7, 8)) < 0.5).astype(np.uint8), (rng.random((6, 7, 8)) < 0.5).astype(np.uint8)
    reference, prediction, image = change(*volumes, rng.random((6, 7, 8)).astype(np.float32))
    with pytest.raises(InputError, match=sentence):
        compared(place, tmp_path, reference, prediction, (6, 7, 8), image=image)
    assert not (tmp_path / "run" / "comparison.json").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"spacing": None}, r"reference\.zarr states no voxel size; give it with --voxel-size-um"),
        ({"labels": (0,)}, r"--label takes whole numbers from 1 to 2\^64 − 1, not 0"),
        ({"labels": (1, -1)}, r"--label takes whole numbers from 1 to 2\^64 − 1, not 1, -1"),
        ({"labels": (2**64,)}, r"--label takes whole numbers from 1 to 2\^64 − 1, not 18446744073709551616"),
        ({"tolerances_um": (-1.0,)}, r"--tolerance-um takes lengths of 0 µm or more"),
        ({"tolerances_um": (math.nan,)}, r"--tolerance-um takes lengths of 0 µm or more"),
        ({"boundary_widths": (0,)}, r"--boundary-width takes 1 to 64 voxels"),
        ({"boundary_widths": (65,)}, r"--boundary-width takes 1 to 64 voxels"),
    ],
)
def test_options_that_cannot_be_met(place: Place, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    labels = np.ones((4, 5, 6), np.uint8)
    with pytest.raises(InputError, match=sentence):
        compared(place, tmp_path, labels, labels, (4, 5, 6), **options)
    assert not (tmp_path / "run").exists()


def test_the_segmentations_of_totalsegmentator(place: Place, tmp_path: Path) -> None:
    """Per label: Dice and NSD at 3 mm as its evaluation has them, volume and intensity as its statistics have them."""
    if place.device != "cpu":
        pytest.skip("the same on the CPU; other tests compare devices")
    folder = shared_data("totalsegmentator_ct")
    volumes = []
    for name in ("example_seg", "example_seg_fast", "example_ct_sm"):
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert isinstance(image, nibabel.Nifti1Image)
        volumes.append(np.asarray(image.dataobj).transpose(2, 1, 0))
    reference, prediction, grey = volumes
    spacing = (3000.0, 3000.0, 3000.0)
    found = compared(
        place, tmp_path, reference, prediction, (30, 64, 64), image=grey, spacing=spacing, tolerances_um=(3000.0,),
        parts=("overlap", "surface"), maps=False,
    )  # fmt: skip
    assert len(found["labels"]) == 41
    areas = surface_areas(VoxelSize((1.0, 1.0, 1.0)))
    for name, measures in found["labels"].items():
        r, p = reference == int(name), prediction == int(name)
        assert measures["dice"] == 2 * (r & p).sum() / (r.sum() + p.sum())
        statistics = measures["structure"]["reference"]
        assert statistics["volume_mm3"] == r.sum() * 27.0
        if r.any():
            assert round(statistics["intensity"]["mean"], 5) == round(float(grey[r].mean(dtype=np.float64)), 5)
        if r.any() and p.any():
            box = tuple(slice(max(0, a.min() - 1), a.max() + 2) for a in np.nonzero(r | p))
            surfels = [(d, areas[code] * n) for way, d, code, n in expected_rows(r[box], p[box], (1, 1, 1)) if way > 1]
            share = math.fsum(a for d, a in surfels if d <= 1) / math.fsum(a for _, a in surfels)
            assert measures["nsd_surfel"]["3000"] == pytest.approx(share, rel=1e-12), name


def test_regions_split_the_measures_and_build_no_walls(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    regions = np.zeros(reference.shape, np.uint16)
    regions[:13], regions[13:22, 9:] = 5, 300
    path = stored(tmp_path, "regions", regions)
    spacing = (2.0, 1.0, 1.0)
    options: dict[str, Any] = {
        "spacing": spacing,
        "tolerances_um": (0.0, 2.0),
        "parts": ("overlap", "surface", "thickness"),
    }
    found = compared(place, tmp_path / "blocks", reference, prediction, (11, 16, 17), regions=path, **options)
    whole = compared(place, tmp_path / "whole", reference, prediction, reference.shape, regions=path, **options)
    assert found == whole
    assert list(found["regions"]) == ["0", "5", "300"]
    for name, part in found["regions"].items():
        inside = regions == int(name)
        assert part["voxels"] == inside.sum()
        there = {int(n) for n in np.unique(np.concatenate((reference[inside], prediction[inside]))) if n}
        assert {int(label) for label in part["labels"]} == there
        for label, measures in part["labels"].items():
            r, p = reference == int(label), prediction == int(label)
            assert measures["dice"] == 2 * (r & p & inside).sum() / ((r & inside).sum() + (p & inside).sum())
            assert measures["specificity"] == (inside & ~r & ~p).sum() / (inside & ~r).sum()
            if not (r.any() and p.any()):
                continue
            lengths = [surface_distances(a, b, spacing)[inside[surface(a)]] for a, b in ((r, p), (p, r))]
            assert measures["hausdorff_um"] == pytest.approx(max(part.max(initial=0) for part in lengths), rel=1e-12)
            assert measures["assd_um"] == pytest.approx(np.concatenate(lengths).mean(), rel=1e-12)
            for side, mask in (("reference", r), ("prediction", p)):
                radii = squared_local_radius(mask, VoxelSize(spacing).weights, closed=False)[mask & inside]
                if radii.size:
                    mean = (2 * np.sqrt(radii.astype(float))).mean()
                    assert measures["thickness"][side]["mean"] == pytest.approx(mean, rel=1e-12)
    assert (
        found["labels"] == compared(place, tmp_path / "none", reference, prediction, (11, 16, 17), **options)["labels"]
    )
    assert "the edge of a region is no wall" in (tmp_path / "blocks" / "run" / "report.html").read_text("utf-8")


def surface(mask: Labels) -> Labels:
    """Mask voxels with a background voxel among their six neighbours; beyond the volume lies background."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def surface_distances(mask: Labels, other: Labels, spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """µm from each surface voxel of a mask to the other's surface."""
    distances = ndimage.distance_transform_edt(~surface(other), sampling=spacing)
    return np.asarray(distances)[surface(mask)]


@pytest.mark.parametrize("refusal", [DeviceMemoryError, LostWorkersError])
def test_blocks_that_fit_nowhere_become_smaller(
    refusal: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.plan_comparison.BLOCK_SIDES", (32, 16))
    plain = compare_segmentations.count_surface_distances

    def refusing(job: Any, block: Index, clock: Any) -> Any:
        if job.grid.block_shape == (32, 32, 32):
            raise refusal("There is no room.")
        return plain(job, block, clock)

    monkeypatch.setattr(compare_segmentations, "count_surface_distances", refusing)
    reference = noise((32, 32, 32), 2.0, 4).astype(np.uint8)
    volumes = [stored(tmp_path, "reference", reference), stored(tmp_path, "prediction", np.roll(reference, 1, 0))]
    config = ComparisonConfig(reference=volumes[0], prediction=volumes[1], voxel_size_um=(1.0, 1.0, 1.0))
    said: list[str] = []
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        run, job = start_comparison(config, tmp_path / "run", OFFER)
        assert job.grid.block_shape == (32, 32, 32)
        found = execute_comparison(client, OFFER, run, job, report=lambda _: None, say=said.append)
        assert said == ["There is no room. The run begins again with blocks of (16, 16, 16) voxels."]
        assert run.comparison_plan().block_shape == (16, 16, 16)
        asked = config.model_copy(update={"block_shape": (32, 32, 32)})
        run, job = start_comparison(asked, tmp_path / "asked", OFFER)
        with pytest.raises(refusal, match="no room"):
            execute_comparison(client, OFFER, run, job, report=lambda _: None)
        monkeypatch.setattr(compare_segmentations, "count_surface_distances", plain)
        job = reopen_comparison(run, OFFER)
        assert execute_comparison(client, OFFER, run, job, report=lambda _: None) == found
