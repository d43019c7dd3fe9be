"""An ignored label: the same for every blocking and device, equal to nnU-Net's counts and to brute force."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize
from tests.compare.pairs import label_pairs
from tests.compare.runs import Place, compared, maps, result_bytes, stored
from tests.compare.surfaces import (
    Mask,
    blocks_at_most,
    directed,
    expected_layers,
    expected_rows,
    layers_of,
    measured_tally,
    rows_of,
    surface_voxels,
)
from tests.phantoms import SPACINGS, ball, masks, noise
from tests.workflows.conftest import Command

Labels = npt.NDArray[Any]
N = 255
WIDTHS = (1, 3)


def pair() -> tuple[Labels, Labels]:
    """Two labels beside ignored voxels: noise of them, a slab through both labels, and some at the border."""
    reference = np.zeros((20, 24, 28), np.uint8)
    reference[noise(reference.shape, 2.0, 1)] = 1
    reference[:, :12][ball((20, 12, 28), 6)] = 7
    prediction = np.roll(reference, 1, axis=2)
    prediction[np.random.default_rng(2).random(prediction.shape) < 0.02] = 1
    reference[noise(reference.shape, 1.5, 3, share=0.15)] = N
    reference[:, :, 13:15] = N
    reference[0, 5:] = N
    prediction[4:9, 3:7, 20:] = N
    return reference, prediction


def cleared(reference: Labels, prediction: Labels, ignored: int = N) -> tuple[Labels, Labels]:
    """Both volumes with background where the reference holds the ignored label, and where the prediction does."""
    left_out = reference == ignored
    return np.where(left_out, 0, reference), np.where(left_out | (prediction == ignored), 0, prediction)


def compute_tp_fp_fn_tn(mask_ref: Mask, mask_pred: Mask, ignore_mask: Mask) -> tuple[int, int, int, int]:
    """As nnU-Net counts them (nnunetv2/evaluation/evaluate_predictions.py)."""
    use = ~ignore_mask
    tp = int((mask_ref & mask_pred & use).sum())
    fp = int((~mask_ref & mask_pred & use).sum())
    fn = int((mask_ref & ~mask_pred & use).sum())
    return tp, fp, fn, int((~mask_ref & ~mask_pred & use).sum())


def test_no_blocking_and_no_device_shows(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    regions = np.zeros(reference.shape, np.uint16)
    regions[:13], regions[13:22, 9:] = 5, 300
    grey = np.random.default_rng(3).integers(-1000, 1000, reference.shape).astype(np.float32)
    grey[reference == N] = np.nan  # what is ignored need not be measured
    options: dict[str, Any] = {
        "tolerances_um": (0.0, 1.5), "boundary_widths": WIDTHS, "objects": "components", "spacing": (3.0, 0.7, 0.7),
        "regions": stored(tmp_path, "regions", regions), "image": grey, "ignore_label": N,
    }  # fmt: skip
    first: dict[str, bytes] | None = None
    for n, block_shape in enumerate([(20, 24, 28), (9, 13, 16), (20, 7, 28), (7, 24, 5)]):
        folder = tmp_path / str(n)
        here = place if n else Place(place.client, "cpu")
        compared(here, folder, reference, prediction, block_shape, **options)
        values = {name: array.tobytes() for name, array in maps(folder).items()}
        found = result_bytes(folder) | values | {"regions": (folder / "run" / "regions.csv").read_bytes()}
        first = first or found
        assert found == first


def test_overlap_is_that_of_nnunet(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    found = compared(place, tmp_path, reference, prediction, (11, 24, 9), parts=("overlap",), ignore_label=N)
    ignored = reference == N
    assert found["ignored"]["label"] == N
    assert found["ignored"]["voxels"] == ignored.sum()
    assert set(found["labels"]) == {"1", "7"}
    foreground = (~np.isin(reference, (0, N)), ~np.isin(prediction, (0, N)), found["overall"]["foreground"])
    by_label = [(reference == n, prediction == n, found["labels"][str(n)]) for n in (1, 7)]
    for mask_ref, mask_pred, measures in (foreground, *by_label):
        tp, fp, fn, tn = compute_tp_fp_fn_tn(mask_ref, mask_pred, ignored)
        assert (measures["reference_voxels"], measures["prediction_voxels"]) == (tp + fn, tp + fp)
        assert measures["dice"] == 2 * tp / (2 * tp + fp + fn)
        assert measures["iou"] == tp / (tp + fp + fn)
        assert measures["specificity"] == tn / (tn + fp)
        assert measures["accuracy"] == (tp + tn) / (tp + tn + fp + fn)
    clear = [volume[~ignored] for volume in cleared(reference, prediction)]
    assert found["overall"]["multiclass_accuracy"] == (clear[0] == clear[1]).mean()


def test_what_remains_is_measured_as_if_background_were_there(place: Place, tmp_path: Path) -> None:
    """Thickness, topology, objects, areas, structures: equal to a comparison of the cleared volumes, maps too."""
    volumes = pair()
    options: dict[str, Any] = {"objects": "components", "boundary_widths": WIDTHS, "image": volumes[0]}
    ours = compared(place, tmp_path / "ignored", *volumes, (9, 13, 16), ignore_label=N, **options)
    plain = compared(place, tmp_path / "cleared", *cleared(*volumes), (20, 24, 28), **options)
    for name, values in maps(tmp_path / "ignored").items():
        assert np.array_equal(values, maps(tmp_path / "cleared")[name]), name
    alike = ("surface_area_um2", "euler_number", "components", "betti", "thickness", "objects", "structure", "dice",
             "reference_volume_um3")  # fmt: skip
    for label, measures in ours["labels"].items():
        for name in alike:
            assert measures[name] == plain["labels"][label][name], name
        assert measures["specificity"] != plain["labels"][label]["specificity"]
        assert measures["assd_um"] != plain["labels"][label]["assd_um"]
    assert ours["overall"]["objects"] == plain["overall"]["objects"]


def test_surface_measures_equal_brute_force(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    spacing = (2.0, 1.0, 1.0)
    found = compared(
        place, tmp_path, reference, prediction, (11, 16, 17), spacing=spacing, tolerances_um=(0.0, 2.0),
        boundary_widths=WIDTHS, parts=("overlap", "surface"), ignore_label=N,
    )  # fmt: skip
    ignored = reference == N
    for label in (1, 7):
        measures = found["labels"][str(label)]
        volumes = [volume == label for volume in cleared(reference, prediction)]
        rows = expected_rows(volumes[0], volumes[1], VoxelSize(spacing).weights, ignored)
        sides = [[(d, n) for direction, d, _, n in rows if direction == side] for side in (0, 1)]
        lengths = [np.repeat(np.sqrt([d for d, _ in side]), [n for _, n in side]) for side in sides]
        assert measures["hausdorff_um"] == pytest.approx(max(part.max() for part in lengths), rel=1e-12)
        assert measures["assd_um"] == pytest.approx(np.concatenate(lengths).mean(), rel=1e-12)
        near = sum((part <= 2.0).sum() for part in lengths) / sum(part.size for part in lengths)
        assert measures["nsd_voxel"]["2"] == pytest.approx(near, rel=1e-12)
        layers = expected_layers(volumes[0], volumes[1], WIDTHS, ignored)
        for n, width in enumerate(WIDTHS):
            both, either = layers["euclidean"][n]
            assert measures["boundary_iou"][str(width)] == both / either
            both, either = layers["chebyshev"][n]
            assert measures["boundary_iou_erosion"][str(width)] == both / either


@st.composite
def triples(draw: st.DrawFn) -> tuple[Mask, Mask, Mask]:
    """Reference, prediction and what is ignored: sparse, in slabs, at the border, nearly all; the masks have none."""
    reference = draw(masks(largest=16))
    shape = reference.shape
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    prediction = np.roll(reference, rng.integers(-2, 3, 3), (0, 1, 2)) ^ (rng.random(shape) < 0.03)
    ignored = np.zeros(shape, np.bool_)
    kind = draw(st.sampled_from(["sparse", "slab", "border", "most", "shell"]))
    if kind == "sparse":
        ignored = rng.random(shape) < 0.1
    elif kind == "slab":
        axis = int(rng.integers(3))
        np.moveaxis(ignored, axis, 0)[shape[axis] // 2 :][:2] = True
    elif kind == "border":
        ignored[...] = True
        ignored[1:-1, 1:-1, 1:-1] = False
    elif kind == "most":
        ignored = rng.random(shape) < 0.8
    else:  # around what both have, so that no surface is left where it touches
        ignored = ~(reference | prediction)
    return reference & ~ignored, prediction & ~ignored, ignored


@settings(max_examples=60)
@given(data=st.data())
def test_every_blocking_of_a_surface_equals_the_definition(data: st.DataObject) -> None:
    reference, prediction, ignored = data.draw(triples())
    spacing = data.draw(st.sampled_from(SPACINGS))
    sides = st.tuples(*(st.sampled_from([3, 5, 8, 40]) for _ in range(3)))
    shape: Index = reference.shape
    block_shape = data.draw(sides.filter(lambda b: blocks_at_most(shape, b, 30)))
    with TemporaryDirectory() as folder:
        tally = measured_tally(
            Path(folder), reference, prediction, block_shape, spacing, WIDTHS, loose=data.draw(st.booleans()),
            ignored=ignored,
        )  # fmt: skip
    assert rows_of(tally) == expected_rows(reference, prediction, VoxelSize(spacing).weights, ignored)
    assert layers_of(tally) == expected_layers(reference, prediction, WIDTHS, ignored)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_pair_in_any_blocks_with_any_label_ignored(place: Place, data: st.DataObject) -> None:
    reference, prediction = data.draw(label_pairs(largest=12))
    shape = reference.shape
    block_shape: Index = tuple(max(1, -(-n // data.draw(st.integers(1, 2)))) for n in shape)
    labels = sorted({int(n) for n in np.unique(reference)} | {int(n) for n in np.unique(prediction)} - {0})
    ignored = data.draw(st.sampled_from([label for label in labels if label] or [N]))
    options: dict[str, Any] = {"maps": False, "objects": "components", "ignore_label": ignored}
    with TemporaryDirectory() as whole, TemporaryDirectory() as cut:
        first = compared(Place(place.client), Path(whole), reference, prediction, shape, border="closed", **options)
        second = compared(place, Path(cut), reference, prediction, block_shape, border="closed", **options)
    assert second == first
    assert first["ignored"]["voxels"] == (reference == ignored).sum()
    assert str(ignored) not in first["labels"]


def test_cutting_a_structure_makes_no_surface(place: Place, tmp_path: Path) -> None:
    """A bar whose right half is unlabelled, predicted in full or up to the cut: no error, no surface at the cut."""
    reference = np.zeros((9, 9, 30), np.uint8)
    reference[3:6, 3:6, 2:28] = 1
    full, half = reference.copy(), reference.copy()
    half[:, :, 15:] = 0
    reference[:, :, 15:] = N
    for name, prediction in (("full", full), ("half", half)):
        ones = compared(place, tmp_path / name, reference, prediction, (9, 9, 11), ignore_label=N)["labels"]["1"]
        assert (ones["dice"], ones["hausdorff_um"], ones["boundary_iou"]["1"]) == (1.0, 0.0, 1.0)
    worn = full.copy()
    worn[:, :, 2] = 0
    ones = compared(place, tmp_path / "worn", reference, worn, (9, 9, 11), ignore_label=N)["labels"]["1"]
    assert ones["hausdorff_um"] == 1.0
    # 8 voxels around the end, of 13 slices, and the middle of the end; the cut has no surface in its middle.
    volumes = [volume == 1 for volume in cleared(reference, worn)]
    found = {row[0]: 0 for row in expected_rows(volumes[0], volumes[1], (1, 1, 1), reference == N)}
    for direction, _, _, voxels in expected_rows(volumes[0], volumes[1], (1, 1, 1), reference == N):
        found[direction] += voxels
    assert (found[0], found[1]) == (13 * 8 + 1, 12 * 8 + 1)


def test_a_label_wholly_ignored_in_the_reference_is_compared_where_it_is_not(place: Place, tmp_path: Path) -> None:
    reference, prediction = np.zeros((2, 8, 9, 10), np.uint8)
    reference[2:6, 2:6, 2:6] = N
    prediction[3:5, 3:5, 3:5] = 4  # inside of what is ignored: as if it were not there
    found = compared(place, tmp_path / "inside", reference, prediction, (8, 5, 10), ignore_label=N)
    assert found["labels"] == {}
    assert found["overall"]["foreground"]["accuracy"] == 1.0
    prediction[3:5, 3:5, 3:8] = 4
    four = compared(place, tmp_path / "beside", reference, prediction, (8, 5, 10), ignore_label=N)["labels"]["4"]
    assert (four["reference_voxels"], four["prediction_voxels"]) == (0, 2 * 2 * 2)
    assert four["hausdorff_um"] == "inf"
    assert "clear of ignored voxels in only one" in four["reasons"]["hausdorff_um"]


def test_a_label_whose_surface_is_ignored_on_one_side(place: Place, tmp_path: Path) -> None:
    """It is in both volumes, but only the reference's voxels border on background that is known."""
    reference, prediction = np.zeros((2, 9, 9, 20), np.uint8)
    reference[2:7, 2:7, 2:7] = N
    reference[3:6, 3:6, 3:6] = 1
    reference[4, 4, 14:16] = 1
    prediction[3:6, 3:6, 3:6] = 1
    ones = compared(place, tmp_path, reference, prediction, (9, 5, 8), ignore_label=N)["labels"]["1"]
    assert ones["recall"] == 27 / 29
    assert ones["hausdorff_um"] == ones["assd_um"] == "inf"
    assert "clear of ignored voxels in only one" in ones["reasons"]["assd_um"]
    assert (ones["nsd_voxel"]["0"], ones["boundary_iou"]["1"]) == (0.0, 0.0)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "its surface is clear of ignored voxels in only one of the two volumes: look at the HD95" in page


def test_a_label_without_any_surface_left(place: Place, tmp_path: Path) -> None:
    reference = np.full((6, 7, 8), N, np.uint8)
    reference[2:4, 2:5, 2:6] = 1
    found = compared(place, tmp_path, reference, (reference == 1), (6, 4, 8), ignore_label=N)
    ones = found["labels"]["1"]
    assert (ones["dice"], ones["hausdorff_um"], ones["boundary_iou"]["1"]) == (1.0, None, None)
    assert "no surface in either volume that is clear" in ones["reasons"]["hausdorff_um"]
    assert found["overall"]["multiclass_accuracy"] == 1.0


def test_everything_ignored(place: Place, tmp_path: Path) -> None:
    reference = np.full((6, 7, 8), N, np.uint8)
    regions = stored(tmp_path, "regions", np.ones((6, 7, 8), np.uint8))
    found = compared(
        place, tmp_path, reference, ball((6, 7, 8), 2), (6, 4, 8), ignore_label=N, regions=regions,
        objects="components",
    )  # fmt: skip
    assert (found["labels"], found["regions"]) == ({}, {})
    assert found["ignored"]["voxels"] == reference.size
    for name in ("multiclass_accuracy", "multiclass_mcc", "multiclass_kappa"):
        assert found["overall"][name] is None
        assert found["overall"]["reasons"][name] == "every voxel is left out"
    assert found["overall"]["foreground"]["accuracy"] is None
    assert found["overall"]["foreground"]["reasons"]["accuracy"]
    assert "ignored label" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("ignored", [2**64 - 1, 2**40, 300])
def test_ignored_labels_of_any_width(place: Place, tmp_path: Path, ignored: int) -> None:
    reference, prediction = pair()
    expected = compared(place, tmp_path / "narrow", reference, prediction, (20, 24, 28), maps=False, ignore_label=N)
    wide = np.where(reference == N, np.uint64(ignored), reference.astype(np.uint64))
    prediction = np.where(prediction == N, 0, prediction)
    found = compared(place, tmp_path / "wide", wide, prediction, (11, 24, 28), maps=False, ignore_label=ignored)
    assert found["ignored"].pop("label") == ignored
    expected["ignored"].pop("label")
    assert found == expected


def test_a_label_that_no_voxel_holds_changes_nothing(place: Place, tmp_path: Path) -> None:
    """Even one that the type of the labels cannot hold."""
    reference, prediction = cleared(*pair())
    plain = compared(place, tmp_path / "plain", reference, prediction, (11, 24, 28), boundary_widths=WIDTHS)
    found = compared(
        place, tmp_path / "ignoring", reference, prediction, (11, 24, 28), boundary_widths=WIDTHS, ignore_label=300
    )
    assert found.pop("ignored")["voxels"] == 0
    assert found == plain
    assert "ignored" not in plain


def test_regions_are_counted_without_what_is_ignored(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    regions = np.zeros(reference.shape, np.int32)
    regions[:13], regions[13:22, 9:] = 5, 300
    regions[0, 6:] = 12  # all ignored
    path = stored(tmp_path, "regions", regions)
    spacing = (2.0, 1.0, 1.0)
    found = compared(
        place, tmp_path, reference, prediction, (11, 16, 17), regions=path, maps=False, ignore_label=N, spacing=spacing
    )
    use = reference != N
    assert list(found["regions"]) == ["0", "5", "300"]
    clear = cleared(reference, prediction)
    for name, part in found["regions"].items():
        inside = (regions == int(name)) & use
        assert part["voxels"] == inside.sum()
        for label, measures in part["labels"].items():
            r, p = (volume[inside] == int(label) for volume in clear)
            assert measures["dice"] == 2 * (r & p).sum() / (r.sum() + p.sum())
            assert measures["specificity"] == (~r & ~p).sum() / (~r).sum()
            surfaces = [surface_voxels(volume == int(label), ~use) for volume in clear]
            lengths = [
                directed(here & (regions == int(name)), there, spacing)
                for here, there in (surfaces, reversed(surfaces))
            ]
            assert measures["assd_um"] == pytest.approx(np.concatenate(lengths).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ignore_label": 0}, r"--ignore-label takes a whole number from 1 to 2\^64 − 1, not 0"),
        ({"ignore_label": -1}, r"--ignore-label takes a whole number from 1 to 2\^64 − 1, not -1"),
        ({"ignore_label": 2**64}, r"--ignore-label takes a whole number from 1 to 2\^64 − 1, not 18446744073709551616"),
        ({"ignore_label": 3, "labels": (1, 3)}, r"--label and --ignore-label both name 3"),
    ],
)
def test_labels_that_cannot_be_ignored(place: Place, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    labels = np.ones((4, 5, 6), np.uint8)
    with pytest.raises(InputError, match=sentence):
        compared(place, tmp_path, labels, labels, (4, 5, 6), **options)
    assert not (tmp_path / "run").exists()


def test_results_say_what_was_ignored(place: Place, tmp_path: Path) -> None:
    reference, prediction = pair()
    compared(place, tmp_path, reference, prediction, (20, 24, 28), parts=("overlap",), ignore_label=N)
    run = tmp_path / "run"
    assert json.loads((run / "provenance.json").read_text("utf-8"))["configuration"]["ignore_label"] == N
    assert json.loads((run / "run.json").read_text("utf-8"))["ignore_label"] == N
    ignored = json.loads((run / "comparison.json").read_text("utf-8"))["ignored"]
    page = (run / "report.html").read_text("utf-8")
    assert "counted nowhere and no surface runs along them" in ignored["definition"]
    assert ignored["definition"] in page


def test_the_plan_shows_what_is_ignored_and_what_is_read_for_it(here: Command, tmp_path: Path) -> None:
    volumes = [stored(tmp_path, f"volume-{n}", np.zeros((8, 512, 512), np.uint64)) for n in (0, 1)]
    arguments = ("plan", "compare", *volumes, "--voxel-size-um", "1", "--workers", "1")
    plain, ignoring = (here(*arguments, *more).out for more in ((), ("--ignore-label", "3")))
    assert "ignored     voxels where the reference holds 3\n" in ignoring
    assert "ignored" not in plain
    stages = [[line.split()[:2] for line in text.splitlines() if line.startswith("  ")] for text in (plain, ignoring)]
    assert stages[0] == stages[1]
    # 16 MiB a volume: both are read four times, and the reference three times more to know what is ignored.
    read = [next(line for line in text.splitlines() if line.startswith("read ")) for text in (plain, ignoring)]
    assert read == ["read        0.12 GiB of voxels, decoded", "read        0.17 GiB of voxels, decoded"]
