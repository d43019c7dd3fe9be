"""Volumes of one run lie on each other, whatever their orientation and box, or the run is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from distributed import Client

from cluster.local import Workers
from pipeline.volume.opening import open_volume
from pipeline.volume.views import to_xarray
from tests.shared_data import shared_data
from tests.workflows.conftest import Command, noise
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.convert_volume import convert
from workflows.results import open_run
from workflows.run_comparison import execute_comparison, start_comparison
from workflows.run_thickness import execute, start

OFFER = Workers(1, 2, 8 << 30, "this process")
Voxels = npt.NDArray[Any]
nifti: Any = nib.Nifti1Image
AFFINE = np.array([[0.5, 0, 0, -30], [0, 0.7, 0, 12.5], [0, 0, 3.0, 7], [0, 0, 0, 1]])
ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A real scheduler and worker in this process."""
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client:
        yield client


def run(client: Client, config: ThicknessConfig | ComparisonConfig, folder: Path) -> dict[str, Any]:
    """A run to its end; the contents of its main result file as it was written."""
    if isinstance(config, ThicknessConfig):
        made, job = start(config, folder, OFFER)
        with made.locked():
            execute(client, OFFER, made, job, report=lambda _: None)
        name = "statistics.json"
    else:
        made, comparison = start_comparison(config, folder, OFFER)
        with made.locked():
            execute_comparison(client, OFFER, made, comparison, report=lambda _: None)
        name = "comparison.json" if config.prediction else "statistics.json"
    found: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return found


def save(path: Path, voxels: Voxels, affine: Voxels = AFFINE) -> str:
    """A NIfTI file in mm. voxels : (x, y, z)."""
    image = nifti(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return str(path)


def oriented(path: Path, to: Path, orientation: Voxels) -> str:
    """The same object in space, stored in another orientation."""
    nib.save(nifti(*_parts(path)).as_reoriented(orientation), to)
    return str(to)


def _parts(path: Path) -> tuple[Voxels, Voxels, Any]:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj), image.affine, image.header


def labels(seed: int = 0, shape: tuple[int, int, int] = (14, 11, 9)) -> Voxels:
    values = np.zeros(shape, np.uint8)
    values[noise(shape, 1.5, seed)] = 1
    values[4:9, 3:9, 2:7] = 2
    return values


def shifted(path: Path, by: Voxels, name: str) -> str:
    voxels, affine, header = _parts(path)
    nib.save(nifti(voxels, by @ affine, header), path.with_name(name))
    return str(path.with_name(name))


def away(*mm: float) -> Voxels:
    """A shift (x, y, z)."""
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def test_comparisons_are_the_same_in_all_orientations(client: Client, tmp_path: Path) -> None:
    """Compare with an image and regions, all three stored in 48 orientations: every number of the result, `==`."""
    reference = save(tmp_path / "reference.nii.gz", labels(0))
    paths = {
        "prediction": save(tmp_path / "prediction.nii.gz", labels(1)),
        "image": save(
            tmp_path / "image.nii.gz", np.random.default_rng(2).integers(0, 99, (14, 11, 9)).astype(np.int16)
        ),
        "regions": save(tmp_path / "regions.nii.gz", labels(3)),
    }
    found = []
    for n, orientation in enumerate(ORIENTATIONS):
        turned = {what: oriented(Path(path), tmp_path / f"{what}-{n}.nii", orientation) for what, path in paths.items()}
        block = ((16, 16, 16), (5, 6, 7), (4, 11, 3))[n % 3]
        parts = ("overlap", "surface", "thickness") if n % 9 == 0 else ("overlap", "surface")
        config = ComparisonConfig(reference=reference, **turned, block_shape=block, device="cpu", parts=parts)
        found.append(run(client, config, tmp_path / f"run-{n}"))
    assert found[0]["overall"]["foreground"]["dice"] not in (0, 1)
    assert all(other == found[0] for other in found[::9])
    assert all(other == found[1] for n, other in enumerate(found) if n % 9)


def test_statistics_and_thickness_are_the_same_in_all_orientations(client: Client, tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.nii.gz", labels(0))
    grey = save(tmp_path / "grey.nii.gz", np.random.default_rng(2).integers(0, 99, (14, 11, 9)).astype(np.int16))
    regions = save(tmp_path / "regions.nii.gz", labels(3))
    statistics, thickness = [], []
    for n, orientation in enumerate(ORIENTATIONS):
        turned = {
            what: oriented(Path(path), tmp_path / f"{what}-{n}.nii", orientation)
            for what, path in (("image", grey), ("regions", regions))
        }
        block = ((16, 16, 16), (5, 6, 7), (4, 11, 3))[n % 3]
        described = ComparisonConfig(
            workflow="statistics", reference=mask, prediction=None, image=turned["image"], parts=("overlap",),
            block_shape=block, device="cpu", maps=False,
        )  # fmt: skip
        statistics.append(run(client, described, tmp_path / f"statistics-{n}"))
        measured = ThicknessConfig(mask=mask, regions=turned["regions"], block_shape=block, device="cpu", map="none")
        thickness.append(run(client, measured, tmp_path / f"thickness-{n}"))
    assert all(other == statistics[0] for other in statistics[1:])
    assert all(other == thickness[0] for other in thickness[1:])
    assert set(thickness[0]["regions"]) == {"1", "2"}


def test_structures_lie_where_they_are_in_all_orientations(client: Client, tmp_path: Path) -> None:
    """The volume that is described itself in 48 orientations: the same place and size in space."""
    mask = save(tmp_path / "mask.nii.gz", labels(0))
    found = []
    for n, orientation in enumerate(ORIENTATIONS):
        turned = oriented(Path(mask), tmp_path / f"mask-{n}.nii", orientation)
        config = ComparisonConfig(
            workflow="statistics", reference=turned, prediction=None, parts=("overlap",), device="cpu", maps=False
        )
        labels_found = run(client, config, tmp_path / f"run-{n}")["labels"]
        found.append(
            {
                label: {name: row[name] for name in ("voxels", "volume_um3", "centroid_um", "bounding_box_um")}
                for label, row in labels_found.items()
            }
        )
    assert all(other == found[0] for other in found[1:])
    # x 4 to 8, y 3 to 8, z 2 to 6, in the frame: −30 + 0.5 x, 12.5 + 0.7 y, 7 + 3 z mm
    assert found[0]["2"]["bounding_box_um"] == {
        "start": [11500.0, 14250.0, -28250.0],
        "stop": [26500.0, 18450.0, -25750.0],
    }
    assert found[0]["2"]["centroid_um"] == [19000.0, 16350.0, -27000.0]


def test_detected_centres_have_their_place(client: Client, tmp_path: Path) -> None:
    mask = save(
        tmp_path / "mask.nii.gz", np.where(labels(0) == 2, 2, 0).astype(np.uint8), AFFINE @ np.diag([-1, 1, 1, 1])
    )
    config = ComparisonConfig(
        workflow="statistics", reference=mask, prediction=None, parts=("overlap",), objects="components", device="cpu",
        maps=False,
    )  # fmt: skip
    run(client, config, tmp_path / "run")
    rows = (tmp_path / "run" / "detections.csv").read_text("utf-8").splitlines()
    assert rows == ["volume,class,z,y,x,z_um,y_um,x_um", "mask,2,4.0,5.5,6.0,19000.0,16350.0,-33000.0"]


def test_a_clinical_pair_in_another_orientation_has_the_same_report(client: Client, tmp_path: Path) -> None:
    folder = shared_data("totalsegmentator_ct")
    pages, results = [], []
    for n, orientation in enumerate((ORIENTATIONS[0], ORIENTATIONS[29])):
        prediction = oriented(folder / "example_seg_fast.nii.gz", tmp_path / f"prediction-{n}.nii.gz", orientation)
        image = oriented(folder / "example_ct_sm.nii.gz", tmp_path / f"image-{n}.nii.gz", orientation)
        config = ComparisonConfig(
            reference=str(folder / "example_seg.nii.gz"), prediction=prediction, image=image, device="cpu",
            labels=(1, 2, 3, 5, 18), parts=("overlap", "surface", "topology"),
        )  # fmt: skip
        results.append(run(client, config, tmp_path / f"run-{n}"))
        page = (tmp_path / f"run-{n}" / "report.html").read_text("utf-8")
        pages.append([len(page.split("<svg")), re.findall(r"data:image/png;base64,[^\"']+", page)])
    assert results[0] == results[1]
    assert len(results[0]["labels"]) == 5
    assert pages[0] == pages[1]
    assert pages[0][1]


def test_a_turned_prediction_is_told_once(here: Command, tmp_path: Path) -> None:
    """Its log and its provenance have it, too."""
    reference = save(tmp_path / "reference.nii.gz", labels())
    prediction = oriented(Path(reference), tmp_path / "prediction.nii.gz", ORIENTATIONS[5])
    done = here("compare", reference, prediction, "--run", tmp_path / "run", "--measures", "overlap", "--workers", "1")
    assert done.code == 0, done.err
    assert "foreground  Dice 1.0000" in done.out
    sentence = f"The prediction {prediction} is turned while it is read: its axes (−z, y, −x) run as z, y, x"
    assert done.err.count(sentence) == 1
    assert (tmp_path / "run" / "run.log").read_text("utf-8").count(sentence) == 1
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text("utf-8"))
    assert provenance["inputs"]["prediction"]["warnings"][0].startswith(sentence)
    assert provenance["inputs"]["reference"]["origin_um"] == [7000.0, 12500.0, -30000.0]
    assert sentence in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (away(0.25, 0, 0), "lies (0, 0, 0.5) voxels (z, y, x) away from the reference"),
        (away(0, -0.07, 0), "lies (0, -0.1, 0) voxels (z, y, x) away from the reference"),
        (away(0.5, 0, 1), "lies (0.333333, 0, 1) voxels (z, y, x) away from the reference"),
        (np.diag([1, 1, 1.01, 1]), "has voxels of 3030 × 700 × 500 µm and the reference"),
        (np.array([[1, -0.1, 0, 0], [0.1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "is rotated by"),
    ],
)
@pytest.mark.parametrize("what", ["prediction", "--image", "--regions"])
def test_voxels_beside_voxels_are_refused(here: Command, tmp_path: Path, by: Voxels, words: str, what: str) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    other = shifted(Path(reference), by, "other.nii.gz")
    others = [other] if what == "prediction" else [reference, what, other]
    message = here("compare", reference, *others, "--run", tmp_path / "run", "-q").failure()
    assert words in message
    assert other in message
    assert reference in message
    assert "SimpleITK.Resample(" in message
    assert not (tmp_path / "run").exists()


def test_places_may_be_left_out_of_account(here: Command, tmp_path: Path) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    other = shifted(Path(reference), np.diag([1, 1, 1.5, 1]) @ away(3.3, 0, 0), "other.nii.gz")
    run_folder = tmp_path / "run"
    done = here("compare", reference, other, "--run", run_folder, "--ignore-place", "--measures", "overlap", "-q")
    assert done.code == 0, done.err
    assert "Dice 1.0000" in done.out
    sentence = f"The prediction {other} is laid on the reference {reference} voxel by voxel although it has voxels of"
    for text in (done.err, *((run_folder / name).read_text("utf-8") for name in ("run.log", "report.html"))):
        assert sentence in text
    provenance = json.loads((run_folder / "provenance.json").read_text("utf-8"))
    assert provenance["configuration"]["ignore_place"] is True
    assert any(text.startswith(sentence) for text in provenance["inputs"]["prediction"]["warnings"])


def test_a_cut_out_is_refused_and_two_ways_are_offered(here: Command, tmp_path: Path) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    other = str(tmp_path / "cut.nii.gz")
    whole: Any = nib.load(reference)
    nib.save(whole.slicer[2:, :9, 1:8].as_reoriented(ORIENTATIONS[7]), other)
    message = here("compare", reference, other, "--run", tmp_path / "run", "-q").failure()
    assert "has 7 × 9 × 12 voxels and the reference" in message
    assert "lies on voxel (1, 0, 2) (z, y, x)" in message
    assert "--box reference (beside the prediction is background) or --box common" in message
    apart = shifted(Path(reference), away(0.5 * 20, 0, 0), "apart.nii.gz")
    for box in ("reference", "common"):
        message = here("compare", reference, apart, "--run", tmp_path / "run", "-q", "--box", box).failure()
        assert "give volumes that overlap" in message
    assert "--box must be reference or common" in here("plan", "compare", reference, other, "--box", "all").failure()
    message = here("plan", "compare", reference, other, "--box", "common", "--ignore-place").failure()
    assert message == "--box and --ignore-place exclude each other; give one of them."


def test_two_boxes_of_one_lattice(client: Client, tmp_path: Path) -> None:
    """As if the arrays had been continued, or cut, by hand."""
    first, second = labels(0), labels(1)
    reference = save(tmp_path / "reference.nii.gz", first)
    whole: Any = nifti(second, AFFINE, nib.load(reference).header)
    nib.save(whole.slicer[2:, :9, 1:8].as_reoriented(ORIENTATIONS[20]), tmp_path / "cut.nii.gz")
    continued = np.zeros_like(second)
    continued[2:, :9, 1:8] = second[2:, :9, 1:8]
    by_hand = {
        "reference": (reference, save(tmp_path / "continued.nii.gz", continued)),
        "common": (
            save(tmp_path / "a.nii.gz", first[2:, :9, 1:8], AFFINE @ away(2, 0, 1)),
            save(tmp_path / "b.nii.gz", second[2:, :9, 1:8], AFFINE @ away(2, 0, 1)),
        ),
    }
    for box, (one, other) in by_hand.items():
        options: dict[str, Any] = {"device": "cpu", "block_shape": (4, 5, 6)}
        config = ComparisonConfig(reference=reference, prediction=str(tmp_path / "cut.nii.gz"), box=box, **options)
        expected = run(client, ComparisonConfig(reference=one, prediction=other, **options), tmp_path / f"hand-{box}")
        assert run(client, config, tmp_path / f"run-{box}") == expected
        for name in ("reference", "prediction", "difference"):
            ours, hand = (open_volume(str(tmp_path / f"{way}-{box}" / f"{name}.ome.zarr")) for way in ("run", "hand"))
            assert ours.placement == hand.placement
            np.testing.assert_array_equal(ours.read(ours.box), hand.read(hand.box))


def test_a_grey_volume_must_cover_the_reference(here: Command, tmp_path: Path) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    whole: Any = nib.load(reference)
    nib.save(whole.slicer[1:], tmp_path / "grey.nii.gz")
    options = ("--image", tmp_path / "grey.nii.gz", "--run", tmp_path / "run", "-q")
    assert "the image must cover it" in here("statistics", reference, *options).failure()
    message = here("statistics", reference, *options, "--box", "reference").failure()
    assert "is not known, so give --box common" in message


def ome(path: Path, voxels: Voxels, translation: tuple[float, ...]) -> str:
    """A five-dimensional OME-Zarr 0.4 image."""
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("0", data=voxels[None, None], chunks=(1, 1, 4, 4, 4))
    axes: list[Any] = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    transforms = [
        {"type": "scale", "scale": [1, 1, 2.5, 0.7125, 0.7125]},
        {"type": "translation", "translation": [0, 0, *translation]},
    ]
    multiscales: Any = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}
    ]
    group.attrs["multiscales"] = multiscales
    return str(path)


def test_translated_images_meet_where_they_overlap(here: Command, client: Client, tmp_path: Path) -> None:
    voxels = np.zeros((9, 12, 12), np.uint8)
    voxels[2:7, 2:10, 2:10] = 1
    first, second = (ome(tmp_path / f"p{n}.zarr", voxels, (0, 0, 2.1375 * n)) for n in (0, 1))
    message = here("compare", first, second, "--measures", "overlap", "--run", tmp_path / "no", "-q").failure()
    assert "lies on voxel (0, 0, 3) (z, y, x)" in message
    config = ComparisonConfig(
        reference=first, prediction=second, parts=("overlap",), box="reference", device="cpu", maps=False
    )
    # Five columns in common, of eight of the reference and of seven of the prediction that lie in its box.
    assert run(client, config, tmp_path / "run")["labels"]["1"]["dice"] == 10 / 15


@pytest.mark.parametrize("level", [0, 1])
def test_a_map_lies_on_its_mask(client: Client, tmp_path: Path, level: int) -> None:
    """Xarray pairs every voxel of a mask with its thickness, on every level."""
    mask = noise((40, 70, 90), 2, 1).astype(np.uint8)
    source = ome(tmp_path / "source.zarr", mask, (-3.25, 1 / 3, 2.1375))
    convert(source, tmp_path / "mask.ome.zarr", kind="labels", block_shape=(20, 35, 45))
    path = str(tmp_path / "mask.ome.zarr")
    run(client, ThicknessConfig(mask=path, level=level, device="cpu"), tmp_path / "run")
    volume = to_xarray(open_volume(path, level=level))
    product = volume * open_run(tmp_path / "run").thickness
    assert isinstance(product, xr.DataArray)
    assert product.shape == volume.shape
    assert ((product > 0) == (volume > 0)).all()
    if level == 0:
        assert (to_xarray(open_volume(source)) * open_run(tmp_path / "run").thickness).shape == mask.shape
        assert volume.x[0] == 2.1375
        coarse = to_xarray(open_volume(path, level=1)) * open_run(tmp_path / "run", level=1).thickness
        assert coarse.shape == open_volume(path, level=1).shape


@pytest.mark.parametrize("kind", ["image", "backwards", "oblique"])
def test_a_source_keeps_its_place_to_the_end(client: Client, tmp_path: Path, kind: str) -> None:
    """Source → convert → thickness → xarray: every voxel within 1e-9 µm, and no voxel without its partner."""
    mask = noise((20, 70, 40), 2, 1).astype(np.uint8)
    turn = {"backwards": np.diag([-1.0, 1, -1, 1]), "oblique": np.eye(4)}.get(kind, np.eye(4))
    if kind == "oblique":
        turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    if kind == "image":
        source = ome(tmp_path / "source.zarr", mask, (-3.25, 1 / 3, 123456.789))
    else:
        source = save(tmp_path / "source.nii.gz", mask.T, turn @ AFFINE @ away(0.1234567, -1e3, 77.7))
    convert(source, tmp_path / "mask.ome.zarr", kind="labels", block_shape=(20, 35, 45))
    run(client, ThicknessConfig(mask=str(tmp_path / "mask.ome.zarr"), device="cpu"), tmp_path / "run")
    before, after = to_xarray(open_volume(source)), open_run(tmp_path / "run").thickness
    for axis in "zyx":
        np.testing.assert_allclose(after[axis], before[axis], rtol=0, atol=1e-9)
    assert (before * after).shape == mask.shape
    assert after.attrs["directions"] == before.attrs["directions"]


def test_regions_of_a_flipped_file_are_those_of_the_mask(client: Client, tmp_path: Path) -> None:
    voxels = np.zeros((12, 10, 8), np.uint8)
    voxels[1:9, 1:9, 1:7] = 1
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = 11, 9, 0
    mask = save(tmp_path / "lps.nii.gz", voxels, affine)
    nib.save(nib.as_closest_canonical(nib.load(mask)), tmp_path / "ras.nii.gz")  # type: ignore[no-untyped-call]
    config = ThicknessConfig(mask=mask, regions=str(tmp_path / "ras.nii.gz"), device="cpu", map="none")
    found = run(client, config, tmp_path / "run")
    assert {region: part["foreground_voxels"] for region, part in found["regions"].items()} == {"1": 8 * 8 * 6}


def test_given_voxel_sizes_leave_places_in_voxels(client: Client, tmp_path: Path) -> None:
    """Two files whose headers share a wrong size: where voxels meet is what the headers say all the same."""
    reference = save(tmp_path / "reference.nii.gz", labels())
    prediction = oriented(Path(reference), tmp_path / "prediction.nii.gz", ORIENTATIONS[33])
    config = ComparisonConfig(
        reference=reference, prediction=prediction, voxel_size_um=(30.0, 7.0, 5.0), parts=("overlap",), device="cpu"
    )
    assert run(client, config, tmp_path / "run")["overall"]["foreground"]["dice"] == 1


def test_a_rotation_is_kept_beside_the_map(here: Command, tmp_path: Path) -> None:
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    mask = save(tmp_path / "mask.nii.gz", labels(), turn @ AFFINE)
    done = here("thickness", mask, "--run", tmp_path / "run", "--workers", "1", "-q")
    assert done.code == 0, done.err
    assert "which OME-Zarr cannot say" in done.err
    source, measured = open_volume(mask), open_volume(str(tmp_path / "run" / "thickness.ome.zarr"))
    assert measured.placement == source.placement
    assert (to_xarray(source) * open_run(tmp_path / "run").thickness).shape == source.shape


def test_info_shows_the_place(here: Command, tmp_path: Path) -> None:
    out = here("info", save(tmp_path / "v.nii.gz", labels(), AFFINE @ np.diag([-1, 1, 1, 1]))).out
    assert "origin      7000, 12500, -30000 µm (z, y, x), the centre of the first voxel" in out
    assert "axes        z along +z, y along +y, x along −x" in out
    np.save(tmp_path / "v.npy", labels())
    assert "place       not stated" in here("info", tmp_path / "v.npy").out
