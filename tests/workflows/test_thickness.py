"""`voxcaliper thickness` from a file of another program to all results, and what each option changes."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.kernels.reference import squared_local_radius
from tests.workflows.conftest import Command, noise, store
from tests.workflows.runs import COMMAND, RESULTS, STAGES, environment, read_map, results, voxcaliper, without_place

NAMES = {
    "definition", "voxel_size_um", "unit_um", "volume_voxels", "foreground_voxels", "volume_um3",
    "largest_squared_radius", "thickness_um",
}  # fmt: skip
OF_THICKNESS = {
    "mean", "standard_deviation", "minimum", "maximum", "log_mean", "log_variance", "lognormal_median",
    "lognormal_mode", "quantiles",
}  # fmt: skip
QUANTILES = {"0.05", "0.25", "0.5", "0.75", "0.95"}
LINE = re.compile(
    r"(check )?[\w-]+: [\d,]+ of [\d,]+ blocks(, [\d.]+ Mvoxel/s( in [\d.]+ s|, about \d+ (s|min) left))?"
    r"(; run: about \d+ (s|min) left)?"
)


def statistics(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "statistics.json").read_text("utf-8"))
    return content


def histogram(run: Path) -> list[dict[str, str]]:
    with (run / "histogram.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(mask: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask measured without any option, by the command in a process of its own on the running cluster."""
    folder = tmp_path_factory.mktemp("plain")
    done = voxcaliper(folder, "thickness", mask, "--run", folder / "run", "--scheduler", scheduler, "--unencrypted")
    assert done.code == 0, done
    return folder / "run"


def test_from_an_array_to_all_results(tmp_path: Path) -> None:
    voxels = noise((40, 66, 33))
    np.save(tmp_path / "mask.npy", voxels)
    image, run = tmp_path / "mask.ome.zarr", tmp_path / "run"

    done = voxcaliper(tmp_path, "convert", tmp_path / "mask.npy", image, "--voxel-size-um", "7.5")
    assert (done.code, done.out) == (0, f"{image}\n"), done
    done = voxcaliper(tmp_path, "info", image)
    assert done.code == 0, done
    assert "40 × 66 × 33 voxels" in done.out
    assert "7.5 × 7.5 × 7.5 µm" in done.out
    done = voxcaliper(tmp_path, "plan", "thickness", image, "--block-shape", "32", "--workers", "2")
    assert done.code == 0, done
    assert "2 × 3 × 2 = 12 of 32 × 32 × 32 voxels" in done.out
    assert not run.exists()

    options = ("--block-shape", "32", "--workers", "2", "--device", "cpu")
    done = voxcaliper(tmp_path, "thickness", image, "--run", run, *options)
    assert done.code == 0, done
    assert str(run / "report.html") in done.out
    device, dashboard, *lines = done.err.splitlines()
    assert device == "device    CPU"
    assert re.fullmatch(r"dashboard 127\.0\.0\.1:\d+, its whole address: `voxcaliper status`", dashboard), "in a log"
    assert all(LINE.fullmatch(line) for line in lines), done.err
    assert {line.split(":")[0] for line in lines} == {*STAGES, "check thickness", "pyramid-1", "check pyramid-1"}

    assert all((run / name).stat().st_size for name in RESULTS)
    array = zarr.open_array(run / "thickness.ome.zarr", path="0", mode="r")
    assert array.shape == voxels.shape
    assert array.dtype == np.float32
    thickness = read_map(run)
    assert np.array_equal(thickness > 0, voxels)

    found = statistics(run)
    assert set(found) == NAMES
    assert set(found["thickness_um"]) == OF_THICKNESS
    assert set(found["thickness_um"]["quantiles"]) == QUANTILES
    assert found["voxel_size_um"] == [7.5, 7.5, 7.5]
    assert (found["volume_voxels"], found["foreground_voxels"]) == (voxels.size, int(voxels.sum()))
    assert found["volume_um3"] == int(voxels.sum()) * 7.5**3
    assert found["thickness_um"]["mean"] == pytest.approx(thickness[voxels].mean(dtype=np.float64), rel=1e-6)
    assert found["thickness_um"]["maximum"] == pytest.approx(2 * 7.5 * found["largest_squared_radius"] ** 0.5)

    rows = histogram(run)
    assert list(rows[0]) == ["squared_radius", "radius_um", "thickness_um", "voxels"]
    assert sum(int(row["voxels"]) for row in rows) == found["foreground_voxels"]
    radii = np.rint((thickness[voxels] / 15) ** 2).astype(int)
    values, counts = np.unique(radii, return_counts=True)
    assert [(int(r["squared_radius"]), int(r["voxels"])) for r in rows] == list(zip(values, counts, strict=True))
    assert "<html" in (run / "report.html").read_text("utf-8")

    provenance = json.loads((run / "provenance.json").read_text("utf-8"))
    assert provenance["configuration"]["mask"] == str(image)
    assert all(provenance["stages"][stage]["tasks"] == 12 for stage in STAGES)
    assert sorted(path.name for path in (run / "ledger").iterdir()) == sorted(
        f"{stage}.json" for stage in (*STAGES, "pyramid-1")
    )


def test_from_a_tiff(tmp_path: Path, here: Command, measure: Command) -> None:
    voxels = noise((20, 33, 31)).astype(np.uint8) * 200
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    image = tmp_path / "stack.ome.zarr"
    assert here("convert", tmp_path / "stack.tif", image, "--voxel-size-um", "3,0.7,0.7", "--quiet").code == 0
    done = measure(image, tmp_path / "run")
    assert done.code == 0, done
    assert statistics(tmp_path / "run")["voxel_size_um"] == [3, 0.7, 0.7]
    assert np.array_equal(read_map(tmp_path / "run") > 0, voxels > 0)


def test_quiet_prints_the_results_only(mask: Path, measure: Command, tmp_path: Path) -> None:
    done = measure(mask, tmp_path / "run", "--map", "none")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "foreground", "thickness", "from", "report", "results",
    ]  # fmt: skip


@pytest.mark.parametrize("blocks", ["16", "8,16,32", "23,64,5"])
def test_blocks_change_nothing(mask: Path, plain: Path, measure: Command, tmp_path: Path, blocks: str) -> None:
    done = measure(mask, tmp_path / "run", "--block-shape", blocks)
    assert done.code == 0, done
    for name in ("statistics.json", "histogram.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (plain / name).read_bytes()
    assert np.array_equal(read_map(tmp_path / "run"), read_map(plain))


@pytest.mark.parametrize("border", ["unknown", "closed"])
@pytest.mark.parametrize(
    ("size", "weights"), [("7.5", (1, 1, 1)), ("3,0.7,0.7", (900, 49, 49))], ids=["isotropic", "anisotropic"]
)
def test_squared_radii_are_those_of_the_definition(
    measure: Command, tmp_path: Path, border: str, size: str, weights: tuple[int, int, int]
) -> None:
    voxels = noise((13, 17, 11), sigma=1.5)
    zarr.create_array(tmp_path / "mask.zarr", data=voxels, chunks=(8, 8, 8))
    options = ("--map", "squared-radius", "--border", border, "--voxel-size-um", size, "--block-shape", "5,8,7")
    done = measure(tmp_path / "mask.zarr", tmp_path / "run", *options)
    assert done.code == 0, done
    found = read_map(tmp_path / "run")
    expected = squared_local_radius(voxels, weights, closed=border == "closed")
    assert np.issubdtype(found.dtype, np.integer)
    assert np.array_equal(found, expected)
    assert statistics(tmp_path / "run")["largest_squared_radius"] == expected.max()
    assert border in statistics(tmp_path / "run")["definition"]


def test_a_label(measure: Command, tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (7, 9, 11)).astype(np.uint8)
    image = store(tmp_path / "labels.ome.zarr", labels)
    assert measure(image, tmp_path / "run", "--label", "2", "--map", "squared-radius").code == 0
    assert np.array_equal(read_map(tmp_path / "run"), squared_local_radius(labels == 2, (1, 1, 1), closed=False))


@pytest.mark.parametrize(("threshold", "low", "high"), [("62.5", 62, 256), ("62,190", 62, 190)])
def test_a_threshold(measure: Command, tmp_path: Path, threshold: str, low: int, high: int) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (9, 9, 9)).astype(np.uint8)
    image = store(tmp_path / "grey.ome.zarr", grey)
    assert measure(image, tmp_path / "run", "--threshold", threshold, "--map", "squared-radius").code == 0
    expected = squared_local_radius((grey > low) & (grey <= high), (1, 1, 1), closed=False)
    assert np.array_equal(read_map(tmp_path / "run"), expected)


def test_a_threshold_on_floats(measure: Command, tmp_path: Path) -> None:
    grey = np.random.default_rng(3).standard_normal((9, 8, 7)).astype(np.float32)
    zarr.create_array(tmp_path / "grey.zarr", data=grey)
    done = measure(
        tmp_path / "grey.zarr",
        tmp_path / "run",
        "--threshold",
        "-0.5,1",
        "--voxel-size-um",
        "1",
        "--map",
        "squared-radius",
    )
    assert done.code == 0, done
    expected = squared_local_radius((grey > -0.5) & (grey <= 1), (1, 1, 1), closed=False)
    assert np.array_equal(read_map(tmp_path / "run"), expected)


def test_regions_are_no_walls(mask: Path, plain: Path, measure: Command, tmp_path: Path) -> None:
    labels = np.zeros((64, 64, 64), np.uint16)
    labels[:20], labels[20:, :, 30:], labels[63, 63, 63] = 7, 300, 9
    regions = store(tmp_path / "regions.ome.zarr", labels)
    done = measure(mask, tmp_path / "run", "--regions", regions, "--block-shape", "32")
    assert done.code == 0, done
    thickness = read_map(tmp_path / "run")
    assert np.array_equal(thickness, read_map(plain))
    whole = statistics(tmp_path / "run")
    by_label = whole.pop("regions")
    assert whole == statistics(plain)
    assert set(by_label) == {str(label) for label in np.unique(labels[thickness > 0]) if label}
    for label, found in by_label.items():
        part = thickness[(labels == int(label)) & (thickness > 0)].astype(np.float64)
        assert found["foreground_voxels"] == part.size
        assert found["thickness_um"]["mean"] == pytest.approx(part.mean(), rel=1e-6)
        assert found["thickness_um"]["maximum"] == pytest.approx(part.max(), rel=1e-6)
    inside = sum(found["foreground_voxels"] for found in by_label.values())
    assert inside + int((thickness[labels == 0] > 0).sum()) == whole["foreground_voxels"]


def test_no_map_leaves_nothing_of_voxel_size(mask: Path, plain: Path, measure: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert measure(mask, run, "--map", "none", "--block-shape", "32").code == 0
    for name in ("statistics.json", "histogram.csv"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()
    files = [path for path in run.rglob("*") if path.is_file()]
    others = sum(path.stat().st_size for path in files if path.name != "report.html")
    assert others < 64**3 / 8, "more than a bit per voxel"
    assert not (run / "thickness.ome.zarr").exists()
    assert not [path for path in (run / "ledger").iterdir() if path.suffix != ".json"]


def test_a_level_of_a_pyramid(measure: Command, tmp_path: Path) -> None:
    image = store(tmp_path / "mask.ome.zarr", noise((100, 70, 36), sigma=3))
    coarse = np.asarray(zarr.open_array(image, path="1", mode="r")[...])
    zarr.create_array(tmp_path / "coarse.zarr", data=coarse)
    assert measure(image, tmp_path / "level", "--level", "1").code == 0
    assert measure(tmp_path / "coarse.zarr", tmp_path / "array", "--voxel-size-um", "4").code == 0
    assert statistics(tmp_path / "level")["voxel_size_um"] == [4, 4, 4]
    assert without_place(results(tmp_path / "level")) == without_place(results(tmp_path / "array"))


def test_scratch_stays_where_asked_for(mask: Path, plain: Path, measure: Command, tmp_path: Path) -> None:
    assert measure(mask, tmp_path / "run", "--keep-scratch").code == 0
    assert all(any((tmp_path / "run" / "ledger" / stage).rglob("*.parcel")) for stage in STAGES)
    assert (tmp_path / "run" / "statistics.json").read_bytes() == (plain / "statistics.json").read_bytes()


def test_no_foreground(measure: Command, tmp_path: Path) -> None:
    image = store(tmp_path / "empty.ome.zarr", np.zeros((9, 9, 9), bool))
    done = measure(image, tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert "none: there is no foreground" in done.out
    found = statistics(tmp_path / "run")
    assert found["foreground_voxels"] == 0
    assert found["largest_squared_radius"] is None
    assert found["thickness_um"]["quantiles"] == dict.fromkeys(QUANTILES)
    assert all(found["thickness_um"][name] is None for name in OF_THICKNESS - {"quantiles"})
    assert histogram(tmp_path / "run") == []
    assert not read_map(tmp_path / "run").any()
    assert (tmp_path / "run" / "report.html").exists()


def test_one_voxel_of_foreground(measure: Command, tmp_path: Path) -> None:
    voxels = np.zeros((9, 9, 9), bool)
    voxels[0, 4, 8] = True
    image = store(tmp_path / "one.ome.zarr", voxels)
    assert measure(image, tmp_path / "run", "--block-shape", "4").code == 0
    found = statistics(tmp_path / "run")
    assert (found["foreground_voxels"], found["largest_squared_radius"]) == (1, 1)
    assert (found["thickness_um"]["mean"], found["thickness_um"]["standard_deviation"]) == (4, 0)


def test_one_voxel_in_all(measure: Command, tmp_path: Path) -> None:
    image = store(tmp_path / "one.ome.zarr", np.ones((1, 1, 1), bool))
    assert measure(image, tmp_path / "run", "--border", "closed").code == 0
    assert statistics(tmp_path / "run")["largest_squared_radius"] == 1


def test_all_foreground(measure: Command, tmp_path: Path) -> None:
    image = store(tmp_path / "full.ome.zarr", np.ones((9, 7, 5), bool))
    message = measure(image, tmp_path / "unknown").failure()
    assert message.startswith("All 315 voxels of")
    assert "--border closed" in message
    assert not (tmp_path / "unknown" / "statistics.json").exists()
    assert (
        measure(image, tmp_path / "closed", "--border", "closed", "--map", "squared-radius", "--block-shape", "4").code
        == 0
    )
    expected = squared_local_radius(np.ones((9, 7, 5), bool), (1, 1, 1), closed=True)
    assert np.array_equal(read_map(tmp_path / "closed"), expected)


def test_a_bar_in_a_terminal(mask: Path, scheduler: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    options = ("--run", str(tmp_path / "run"), "--scheduler", scheduler, "--unencrypted", "--block-shape", "32")
    command = [str(COMMAND), "thickness", str(mask), *options]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env={**environment(), "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other end of a terminal is closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.stdout is not None
        results_shown = process.stdout.read()
    assert process.returncode == 0, shown
    text = shown.decode()
    assert "━" in text
    assert "\x1b[" in text
    assert "8/8 blocks" in text
    assert "mask: 8 of 8 blocks" not in text
    assert b"\x1b" not in results_shown
