"""What cannot be measured as asked: exit code 1, one sentence that names what was found and what to do, no run made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.workflows.conftest import Command, store
from tests.workflows.runs import voxcaliper

Refusal = Callable[..., str]


@pytest.fixture
def refused(here: Command, tmp_path: Path) -> Refusal:
    """The sentence with which `voxcaliper thickness` refuses before anything is started."""

    def call(mask: object, *options: object) -> str:
        message = here("thickness", mask, "--run", tmp_path / "run", "--quiet", *options).failure()
        assert not (tmp_path / "run").exists()
        return message

    return call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--voxel-size-um", "0"), "positive"),
        (("--voxel-size-um", "-1"), "positive"),
        (("--voxel-size-um", "nan"), "positive"),
        (("--voxel-size-um", "inf,1,1"), "positive"),
        (("--voxel-size-um", "1,2"), "has 64 planes, so its voxel size has one value or three (z, y, x), not two"),
        (("--voxel-size-um", ""), "takes 1 or 2 or 3 values, but '' has 0"),
        (("--voxel-size-um", "abc"), "takes numbers separated by commas, but 'abc' was given"),
        (("--voxel-size-um", "1,1,1e9"), "squared distances beyond 2^53 in a volume of 64 × 64 × 64 voxels"),
        (("--block-shape", "0"), "takes whole numbers of at least 1, but '0' was given"),
        (("--block-shape", "-8"), "takes whole numbers of at least 1"),
        (("--block-shape", "8.5"), "takes whole numbers of at least 1"),
        (("--block-shape", "inf"), "takes whole numbers of at least 1"),
        (("--block-shape", "nan"), "takes whole numbers of at least 1"),
        (("--block-shape", "32769"), "between 1 and 32768"),
        (("--block-shape", "8,8"), "takes 1 or 3 values"),
        (("--threshold", "3,2"), "selects nothing"),
        (("--threshold", "nan"), "selects nothing"),
        (("--threshold", "1,2,3"), "takes 1 or 2 values"),
        (("--label", "1", "--threshold", "0"), "exclude each other"),
        (("--border", "open"), "--border must be unknown or closed, but 'open' was given"),
        (("--map", "radius"), "--map must be thickness, squared-radius or none, but 'radius' was given"),
        (("--level", "3"), "has no level 3; its levels are 0 to 0"),
    ],
)
def test_options(refused: Refusal, mask: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refused(mask, *options)


def test_no_such_volume(refused: Refusal, mask: Path) -> None:
    missing = mask.with_name("msak.ome.zarr")
    assert refused(missing) == f"{missing} does not exist; {mask.parent} holds mask.ome.npy, mask.ome.zarr."


def test_a_text_file(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("femur, left")
    assert "is a file of no known kind; a volume is" in refused(tmp_path / "notes.txt")


def test_a_folder_of_something(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "0001.tif").write_text("")
    assert f"{tmp_path}/slices/0001.tif is not a readable TIFF slice" in refused(tmp_path / "slices")
    (tmp_path / "slices" / "0001.tif").rename(tmp_path / "slices" / "notes")
    assert "is a folder without a volume (it holds notes)" in refused(tmp_path / "slices")


def test_broken_metadata(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "mask.zarr").mkdir()
    (tmp_path / "mask.zarr" / "zarr.json").write_text("{")
    assert "is not a readable Zarr store" in refused(tmp_path / "mask.zarr")


def test_a_name_that_is_an_emoji(refused: Refusal, tmp_path: Path) -> None:
    assert ":bone:" in refused(tmp_path / ":bone:.zarr")


def test_no_voxel_size(refused: Refusal, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "mask.zarr", data=np.ones((4, 4, 4), np.uint8))
    message = refused(tmp_path / "mask.zarr")
    assert "states no voxel size; give it with --voxel-size-um 7.5" in message


def test_floats_without_a_threshold(refused: Refusal, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "grey.zarr", data=np.ones((4, 4, 4), np.float32))
    message = refused(tmp_path / "grey.zarr", "--voxel-size-um", "1")
    assert "holds float32 values, which are not a mask" in message
    assert "--threshold LOW" in message


def test_a_label_that_cannot_be(refused: Refusal, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "labels.zarr", data=np.ones((4, 4, 4), np.uint8))
    assert "has no label 300" in refused(tmp_path / "labels.zarr", "--voxel-size-um", "1", "--label", "300")


@pytest.mark.parametrize("shape", [(8,), (2, 8, 8, 8), (2, 2, 8, 8, 8)])
def test_not_three_axes(refused: Refusal, tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.create_array(tmp_path / "mask.zarr", data=np.ones(shape, np.uint8))
    assert str(tmp_path / "mask.zarr") in refused(tmp_path / "mask.zarr", "--voxel-size-um", "1")


def test_complex_values(refused: Refusal, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "mask.zarr", data=np.ones((4, 4, 4), np.complex64))
    assert "complex64" in refused(tmp_path / "mask.zarr", "--voxel-size-um", "1")


def test_regions_of_another_grid(refused: Refusal, mask: Path, tmp_path: Path) -> None:
    regions = store(tmp_path / "regions.ome.zarr", np.ones((64, 64, 63), np.uint8))
    assert "both must have the same grid" in refused(mask, "--regions", regions)


def test_regions_that_are_no_labels(here: Command, mask: Path, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "regions.zarr", data=np.full((64, 64, 64), 0.5, "f4"), chunks=(64, 64, 64))
    options = ("--run", tmp_path / "run", "--regions", tmp_path / "regions.zarr", "--workers", 1, "--quiet")
    message = here("thickness", mask, *options).failure()
    assert "holds 0.5 at voxel (0, 0, 0) (z, y, x), which is no label" in message


def test_not_a_number_in_the_volume(measure: Command, tmp_path: Path) -> None:
    grey = np.ones((8, 8, 8), np.float32)
    grey[5, 6, 7] = np.nan
    zarr.create_array(tmp_path / "grey.zarr", data=grey, chunks=(4, 4, 4))
    options = ("--voxel-size-um", "1", "--threshold", "0.5", "--block-shape", "4")
    message = measure(tmp_path / "grey.zarr", tmp_path / "run", *options).failure()
    assert str(tmp_path / "grey.zarr") in message
    assert "NaN" in message


@pytest.fixture
def not_compared(here: Command, tmp_path: Path) -> Refusal:
    """The sentence with which `voxcaliper compare` refuses before anything is started."""

    def call(reference: object, prediction: object, *options: object) -> str:
        arguments = ("compare", reference, prediction, "--run", tmp_path / "run", "--quiet", *options)
        message = here(*arguments).failure()
        assert not (tmp_path / "run").exists()
        return message

    return call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label", "0"), "--label takes whole numbers of at least 1, but '0' was given"),
        (("--label", "liver"), "--label takes whole numbers separated by commas, but 'liver' was given"),
        (("--label", str(2**64)), f"--label takes whole numbers from 1 to 2^64 − 1, not {2**64}"),
        (("--ignore-label", "0"), "--ignore-label takes whole numbers of at least 1, but '0' was given"),
        (("--ignore-label", "-1"), "--ignore-label takes whole numbers of at least 1, but '-1' was given"),
        (("--ignore-label", "unlabelled"), "--ignore-label takes whole numbers separated by commas, but 'unlabelled'"),
        (("--ignore-label", "2,3"), "--ignore-label takes one whole number, but '2,3' was given"),
        (("--ignore-label", str(2**64)), f"--ignore-label takes a whole number from 1 to 2^64 − 1, not {2**64}"),
        (("--ignore-label", "2", "--label", "1,2"), "--label and --ignore-label both name 2"),
        (("--tolerance-um", "-1"), "--tolerance-um takes lengths of 0 µm or more"),
        (("--boundary-width", "65"), "--boundary-width takes 1 to 64 voxels"),
        (("--measures", "volume"), "--measures takes any of "),
        (("--objects", "lesions"), "--objects must be none, components or labels, but 'lesions' was given"),
        (("--image", "missing.zarr"), "missing.zarr does not exist"),
    ],
)
def test_options_of_a_comparison(not_compared: Refusal, mask: Path, options: tuple[str, ...], words: str) -> None:
    assert words in not_compared(mask, mask, *options)


def test_comparing_other_grids(not_compared: Refusal, mask: Path, tmp_path: Path) -> None:
    smaller = store(tmp_path / "smaller.ome.zarr", np.ones((64, 64, 63), np.uint8))
    assert not_compared(mask, smaller) == (
        f"The prediction {smaller}/0 has 64 × 64 × 63 voxels and the reference {mask}/0 has 64 × 64 × 64 (z, y, x);"
        " both must have the same grid, and its first voxel lies on voxel (0, 0, 0) (z, y, x) of the reference; give"
        " --box reference (beside the prediction is background) or --box common (what all volumes hold)."
    )
    np.save(tmp_path / "smaller.npy", np.ones((64, 64, 63), np.uint8))
    assert not_compared(mask, tmp_path / "smaller.npy") == (
        f"The prediction {tmp_path}/smaller.npy has 64 × 64 × 63 voxels and the reference {mask}/0 has 64 × 64 × 64"
        " (z, y, x); both must have the same grid."
    )


def test_comparing_other_voxel_sizes(not_compared: Refusal, mask: Path, tmp_path: Path) -> None:
    finer = store(tmp_path / "finer.ome.zarr", np.ones((64, 64, 64), np.uint8), um=1.5)
    message = not_compared(mask, finer)
    assert (
        f"The prediction {finer}/0 has voxels of 1.5 × 1.5 × 1.5 µm and the reference {mask}/0 of 2 × 2 × 2" in message
    )
    assert "give the size of both with --voxel-size-um" in message


def test_comparing_without_a_voxel_size(not_compared: Refusal, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "labels.zarr", data=np.ones((4, 4, 4), np.uint8))
    message = not_compared(tmp_path / "labels.zarr", tmp_path / "labels.zarr")
    assert "labels.zarr states no voxel size; give it with --voxel-size-um 7.5" in message


def test_grey_values_of_a_comparison_that_are_no_numbers(here: Command, scheduler: str, tmp_path: Path) -> None:
    """A task finds it: still one sentence that names the file, and nothing that looks finished."""
    grey = np.ones((8, 8, 8), np.float32)
    grey[5, 6, 7] = np.nan
    zarr.create_array(tmp_path / "labels.zarr", data=np.ones((8, 8, 8), np.uint8), chunks=(4, 4, 4))
    zarr.create_array(tmp_path / "grey.zarr", data=grey, chunks=(4, 4, 4))
    message = here(
        "compare", tmp_path / "labels.zarr", tmp_path / "labels.zarr", "--image", tmp_path / "grey.zarr",
        "--run", tmp_path / "run", "--voxel-size-um", "1", "--block-shape", "4", "--scheduler", scheduler,
        "--unencrypted", "--quiet",
    ).failure()  # fmt: skip
    assert f"The image {tmp_path / 'grey.zarr'} has a value that is not finite (nan) inside label 1" in message
    assert not any((tmp_path / "run" / name).exists() for name in ("comparison.json", "report.html", "provenance.json"))


def test_a_label_that_is_in_neither_volume_is_said(here: Command, scheduler: str, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "labels.zarr", data=np.pad(np.ones((4, 4, 4), np.uint8), 2), chunks=(4, 4, 4))
    done = here(
        "compare", tmp_path / "labels.zarr", tmp_path / "labels.zarr", "--run", tmp_path / "run", "--label", "1,300",
        "--voxel-size-um", "1", "--scheduler", scheduler, "--unencrypted", "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "look at     Label 300 is in neither volume, so there is nothing to compare." in done.out
    assert list(json.loads((tmp_path / "run" / "comparison.json").read_text("utf-8"))["labels"]) == ["1", "300"]


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8192³ voxels of which none is stored."""
    path = tmp_path_factory.mktemp("huge") / "huge.zarr"
    zarr.create_array(path, shape=(8192,) * 3, chunks=(128,) * 3, dtype=np.uint8)
    return path


def test_blocks_that_do_not_fit(here: Command, refused: Refusal, huge: Path) -> None:
    options = ("--voxel-size-um", "1", "--workers", "64", "--block-shape", "4096")
    message = refused(huge, *options)
    assert "A block of 4096×4096×4096 voxels does not fit: a task of stage " in message
    assert message.count(" GiB") == 4, "task, worker, sum, what there is"
    assert "(64 workers, 64 threads); choose a smaller --block-shape or fewer --workers" in message
    planned = here("plan", "thickness", huge, *options)
    assert planned.code == 1
    unstored = f"voxcaliper: warning: {huge} has no stored chunk: every voxel reads as the fill value.\n"
    assert planned.err == f"{unstored}voxcaliper: {message}\n"
    assert "2 × 2 × 2 = 8 of 4,096 × 4,096 × 4,096 voxels" in planned.out


def test_a_plan_of_a_huge_volume(here: Command, huge: Path) -> None:
    planned = here("plan", "thickness", huge, "--voxel-size-um", "1", "--workers", "2")
    assert planned.code == 0, planned
    assert "512.00 GiB of voxels, decoded (1.00 bytes a voxel)" in planned.out


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_run_folder_that_is_something_else(here: Command, mask: Path, tmp_path: Path, taken: str) -> None:
    run = tmp_path / "run"
    if taken == "file":
        run.write_text("")
    else:
        run.mkdir()
        (run / "thesis.tex").write_text("")
    message = here("thickness", mask, "--run", run, "--quiet").failure()
    assert message == f"{run} exists and is not an empty folder; choose another --run folder."


def test_a_run_folder_that_cannot_be_made(here: Command, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = here("thickness", mask, "--run", tmp_path / "file" / "run", "--quiet").failure()
    assert "cannot be made: Not a directory" in message


def test_resume_of_no_run(here: Command, tmp_path: Path) -> None:
    message = here("resume", tmp_path, "--quiet").failure()
    assert message == f"{tmp_path} is not a run of voxcaliper: run.json is missing; check the folder."


def test_resume_of_an_edited_run(here: Command, measure: Command, mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert measure(mask, run, "--map", "none").code == 0
    config = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps({**config, "border": "open"}))
    assert "run.json is not valid (border: " in here("resume", run, "--quiet").failure()
    (run / "run.json").write_text("{")
    assert "run.json is not valid" in here("resume", run, "--quiet").failure()


def test_a_complete_run(here: Command, measure: Command, mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert measure(mask, run, "--map", "none").code == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    done = here("resume", run)
    assert done.code == 0
    assert f"{run} is complete already; its report is {run / 'report.html'}" in done.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    message = measure(mask, run).failure()
    hint = "measure it anew with --restart, or choose another --run folder."
    assert message == f"{run} is a run already; its results are there, {hint}"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:port", ""])
@pytest.mark.slow  # the first one is tried for as long as a connection may take
def test_no_scheduler(refused: Refusal, mask: Path, address: str) -> None:
    assert "No Dask scheduler answers" in refused(mask, "--scheduler", address, "--unencrypted")


def test_convert_and_info(here: Command, mask: Path, tmp_path: Path) -> None:
    assert "does not exist" in here("info", tmp_path / "no.zarr").failure()
    assert "exists already" in here("convert", mask.with_suffix(".npy"), mask, "--quiet").failure()
    assert (
        "states no voxel size" in here("convert", mask.with_suffix(".npy"), tmp_path / "new.ome.zarr", "-q").failure()
    )


def test_a_wrong_option_is_no_traceback(tmp_path: Path) -> None:
    done = voxcaliper(tmp_path, "thickness", "mask.zarr")
    assert done.code == 2
    assert "Missing option '--run'" in done.err
    assert "Traceback" not in done.err


def test_the_command_alone_helps(tmp_path: Path) -> None:
    done = voxcaliper(tmp_path, "--help")
    assert done.code == 0
    for command in ("thickness", "resume", "plan", "convert", "info", "demo"):
        assert f"  {command} " in done.out
