"""Commands that work on labels give for whole numbers in floats what they give for integers, or name what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from pipeline.volume.opening import open_volume
from tests.workflows.conftest import Command, noise

library: Any = nib
SIZE = ("--voxel-size-um", "2.5,0.7,0.7")
LABELS = noise((14, 20, 22)).astype(np.uint8) * (1 + noise((14, 20, 22), 4, 1))
OTHER = np.roll(LABELS, 1, 1)
VALUES = "foreground_voxels", "volume_voxels", "thickness_um", "regions"


def stored(folder: Path, name: str, labels: npt.NDArray[Any], kind: str) -> Path:
    """Labels in a file of a kind and a type, such as "nii float64"."""
    suffix, dtype = kind.split()
    path, labels = folder / f"{name}.{suffix}", labels.astype(dtype)
    if suffix == "npy":
        np.save(path, labels)
    elif suffix == "tif":
        tifffile.imwrite(path, labels, photometric="minisblack")
    else:
        library.save(library.Nifti1Image(labels.T, np.eye(4)), path)
    return path


KINDS = ["nii float32", "nii float64", "nii.gz float64", "npy float16", "tif float32"]


@pytest.mark.parametrize("kind", KINDS)
def test_compare(tmp_path: Path, here: Command, scheduler: str, kind: str) -> None:
    found = []
    for number, kinds in enumerate((("npy uint8", "npy uint8"), (kind, kind), (kind, "npy uint8"))):
        (tmp_path / str(number)).mkdir()
        files = [
            stored(tmp_path / str(number), name, labels, of)
            for name, labels, of in zip("rp", (LABELS, OTHER), kinds, strict=True)
        ]
        run = tmp_path / str(number) / "run"
        done = here(
            "compare",
            *files,
            "--run",
            run,
            *SIZE,
            "--scheduler",
            scheduler,
            "--unencrypted",
            "--quiet",
            "--block-shape",
            "11",
        )
        assert done.code == 0, done
        found.append(json.loads((run / "comparison.json").read_text("utf-8")))
    assert found[0]["labels"].keys() == {"1", "2"}
    assert found[1] == found[2] == found[0]


@pytest.mark.parametrize("command", ["statistics", "detect"])
def test_statistics_and_detect(tmp_path: Path, here: Command, scheduler: str, command: str) -> None:
    results = []
    for kind in ("npy uint8", "nii float32", "tif float64"):
        run = tmp_path / kind
        file = stored(tmp_path, "l", LABELS, kind)
        done = here(command, file, "--run", run, *SIZE, "--scheduler", scheduler, "--unencrypted", "--quiet")
        assert done.code == 0, done
        text = (run / ("statistics.json" if command == "statistics" else "detections.csv")).read_text("utf-8")
        results.append(text.replace(str(file), "l"))
    assert results[0] == results[1] == results[2]
    assert "2" in results[0]


def test_thickness_of_a_label_and_by_regions(tmp_path: Path, measure: Command) -> None:
    found = []
    for kind in ("npy uint8", "nii float64", "tif float32", "npy float16"):
        mask, regions = stored(tmp_path, "mask", LABELS, kind), stored(tmp_path, "regions", OTHER, kind)
        done = measure(mask, tmp_path / kind, *SIZE, "--label", 2, "--regions", regions, "--block-shape", "11")
        assert done.code == 0, done
        statistics = json.loads((tmp_path / kind / "statistics.json").read_text("utf-8"))
        found.append({key: statistics.get(key) for key in VALUES})
    assert found[0]["foreground_voxels"] == np.count_nonzero(LABELS == 2)
    assert found[0]["regions"]
    assert found[1] == found[2] == found[3] == found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_converted_labels_are_int64_and_their_pyramid_holds_labels(tmp_path: Path, here: Command, kind: str) -> None:
    file, target = stored(tmp_path, "l", LABELS * 7, kind), tmp_path / "t.ome.zarr"
    done = here("convert", file, target, *SIZE, "--labels", "--quiet", "--block-shape", "8")
    assert done.code == 0, done
    level = open_volume(str(target))
    assert level.dtype == "int64"
    np.testing.assert_array_equal(level.read(level.box), LABELS * 7)
    for number in range(level.level_count):
        level = open_volume(str(target), level=number)
        assert set(np.unique(level.read(level.box))) <= {0, 7, 14}
    here("convert", file, tmp_path / "grey.ome.zarr", *SIZE, "--quiet")
    assert open_volume(str(tmp_path / "grey.ome.zarr")).dtype == kind.split()[1]


@pytest.mark.parametrize("wrong", [0.5, float("nan"), 2.0**60])
@pytest.mark.parametrize("command", ["compare", "statistics", "detect", "thickness", "regions", "convert"])
def test_what_is_no_label_is_named_with_its_place(
    tmp_path: Path, here: Command, scheduler: str, command: str, wrong: float
) -> None:
    values = LABELS.astype("f8")
    values[3, 4, 5:] = wrong
    file, whole = stored(tmp_path, "wrong", values, "tif float64"), stored(tmp_path, "l", LABELS, "npy uint8")
    ran = ("--run", tmp_path / "run", "--scheduler", scheduler, "--unencrypted")
    arguments: dict[str, tuple[Any, ...]] = {
        "compare": ("compare", whole, file, *ran),
        "statistics": ("statistics", file, *ran),
        "detect": ("detect", file, *ran),
        "thickness": ("thickness", file, "--label", 2, *ran),
        "regions": ("thickness", whole, "--regions", file, *ran),
        "convert": ("convert", file, tmp_path / "t.ome.zarr", "--labels"),
    }
    message = here(*arguments[command], *SIZE, "--quiet").failure()
    assert f"{file} holds " in message
    assert "at voxel (3, 4, 5) (z, y, x)" in message
    assert "labels" in message


def test_floats_without_a_rule_still_need_a_threshold(tmp_path: Path, here: Command) -> None:
    file = stored(tmp_path, "l", LABELS, "nii float32")
    message = here("thickness", file, "--run", tmp_path / "run", "--quiet", *SIZE).failure()
    assert message.endswith(
        "holds float32 values, which are not a mask; say what is foreground with --threshold LOW, or with --label N"
        " where they are labels (whole numbers)."
    )
