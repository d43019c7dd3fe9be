"""Damaged stores, damaged intermediate files, full disks: an exact message, and nothing that was finished is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.workflows.conftest import Command, Disk
from tests.workflows.runs import STAGES, Finished, flip, receipts, reseal, results, voxcaliper


@pytest.fixture(scope="module")
def whole(mask: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with all its intermediate files."""
    folder = tmp_path_factory.mktemp("whole")
    options = ("--block-shape", "16", "--keep-scratch", "--scheduler", scheduler, "--unencrypted", "--quiet")
    done = voxcaliper(folder, "thickness", mask, "--run", folder / "run", *options)
    assert done.code == 0, done
    return folder / "run"


@pytest.fixture
def go_on(here: Command, scheduler: str) -> Command:
    def call(run: Path, *options: str) -> Finished:
        return here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet", *options)

    return call


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run as it was when half of the blocks had their thickness."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("provenance.json", "report.html", "statistics.json", "histogram.csv", "ledger/thickness.json"):
        (run / name).unlink()
    for path in sorted(receipts(run, "thickness"))[32:]:
        z, (y, x) = path.parent.name, path.name.split(".")[:2]
        path.unlink()
        (run / "thickness.ome.zarr" / "0" / "c" / z / y / x).unlink()
    return run


@pytest.fixture
def copied_mask(mask: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mask, tmp_path / "mask.ome.zarr"))


def test_a_stopped_run_goes_on(stopped: Path, whole: Path, go_on: Command) -> None:
    finished = receipts(stopped, "thickness")
    done = go_on(stopped)
    assert (done.code, done.err) == (0, ""), done
    assert results(stopped) == results(whole)
    assert json.loads((stopped / "provenance.json").read_text("utf-8"))["stages"]["thickness"]["tasks_now"] == 32
    assert finished.items() <= receipts(stopped, "thickness").items()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "harm", ["gone", "footer", *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("cut", "tail"))]
)
def test_a_damaged_receipt_is_made_again(stopped: Path, whole: Path, go_on: Command, stage: str, harm: str) -> None:
    victim = sorted(receipts(stopped, stage))[20 if stage == "thickness" else 40]  # what goes on reads the later ones
    if harm == "gone":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-30])
    else:
        flip(victim, -1 if harm == "tail" else -40)
    done = go_on(stopped)
    assert (done.code, done.err) == (0, ""), done
    assert results(stopped) == results(whole)


@pytest.mark.parametrize("stage", ["mask", "centres"])
def test_damage_inside_an_intermediate_file(stopped: Path, whole: Path, go_on: Command, stage: str) -> None:
    """Only who reads it finds it; then everything is looked through, and what is damaged is made again."""
    victims = sorted(receipts(stopped, stage))[40:]
    for victim in victims:
        flip(victim, 12)
    done = go_on(stopped)
    assert done.code == 0, done
    assert sum(str(victim) in done.err for victim in victims) == 1, "one finding is enough"
    assert "It goes on by itself" in done.err
    assert results(stopped) == results(whole)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_the_reach_of_the_centres(stopped: Path, whole: Path, go_on: Command, harm: str) -> None:
    reach = stopped / "ledger" / "reach.parcel"
    if harm == "gone":
        reach.unlink()
    else:
        flip(reach, -1)
    done = go_on(stopped)
    assert (done.code, done.err) == (0, ""), done
    assert results(stopped) == results(whole)


@pytest.mark.parametrize("content", ["", "{"])
def test_damaged_totals_of_a_stage(stopped: Path, whole: Path, go_on: Command, content: str) -> None:
    (stopped / "ledger" / "centres.json").write_text(content)
    done = go_on(stopped)
    assert (done.code, done.err) == (0, ""), done
    assert results(stopped) == results(whole)


def test_killed_while_the_map_was_made(stopped: Path, whole: Path, go_on: Command) -> None:
    """The folder with the metadata of the map has another name until it is whole."""
    half = stopped / "thickness.ome.zarr.partial"
    half.mkdir()
    (half / "zarr.json").write_text("{")
    shutil.rmtree(stopped / "thickness.ome.zarr")
    shutil.rmtree(stopped / "ledger" / "thickness")
    assert go_on(stopped).code == 0
    assert results(stopped) == results(whole)
    assert not half.exists()


def test_killed_before_the_run_had_a_configuration(mask: Path, whole: Path, measure: Command, tmp_path: Path) -> None:
    """There is nothing to resume yet, so the same command begins again."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "plan.json", run)
    (run / "run.json.0123.partial").write_text("{")
    done = measure(mask, run, "--block-shape", "16")
    assert (done.code, done.err) == (0, ""), done
    assert results(run) == results(whole)


def test_killed_while_scratch_was_removed(whole: Path, go_on: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    config = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps({**config, "keep_scratch": False}))
    shutil.rmtree(run / "ledger" / "mask")
    assert go_on(run).code == 0
    assert not [path for path in (run / "ledger").iterdir() if path.suffix != ".json"]
    assert results(run) == results(whole)


def test_half_written_files_are_swept(stopped: Path, whole: Path, go_on: Command) -> None:
    (stopped / "ledger" / "thickness" / "3" / "3.3.parcel.0123456789ab.partial").write_bytes(b"half")
    (stopped / "thickness.ome.zarr" / "0" / "c" / "3" / "3" / "3.abc.partial").write_bytes(b"half")
    assert go_on(stopped).code == 0
    assert results(stopped) == results(whole)
    assert not list(stopped.rglob("*.partial"))


def test_another_mask_under_the_same_name(measure: Command, go_on: Command, copied_mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert measure(copied_mask, run, "--map", "none", "--keep-scratch").code == 0
    (run / "provenance.json").unlink()
    metadata = json.loads((copied_mask / "0" / "zarr.json").read_text("utf-8"))
    (copied_mask / "0" / "zarr.json").write_text(json.dumps({**metadata, "fill_value": True}))
    message = go_on(run).failure()
    assert message.startswith(f"The mask of the run {run} changed since it began (metadata_sha256)")
    (copied_mask / "0" / "zarr.json").write_text(json.dumps(metadata))
    assert go_on(run).code == 0


def test_other_axes_under_the_same_name(measure: Command, go_on: Command, copied_mask: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert measure(copied_mask, run, "--map", "none", "--keep-scratch").code == 0
    (run / "provenance.json").unlink()
    metadata = json.loads((copied_mask / "zarr.json").read_text("utf-8"))
    metadata["attributes"]["ome"]["multiscales"][0]["axes"].reverse()
    (copied_mask / "zarr.json").write_text(json.dumps(metadata))
    assert go_on(run).failure().startswith(f"The mask of the run {run} changed since it began (axes)")


def test_another_voxel_size_under_the_same_name(
    measure: Command, go_on: Command, copied_mask: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert measure(copied_mask, run, "--map", "none", "--keep-scratch").code == 0
    (run / "provenance.json").unlink()
    text = (copied_mask / "zarr.json").read_text("utf-8")
    metadata = json.loads(text)
    for dataset in metadata["attributes"]["ome"]["multiscales"][0]["datasets"]:
        dataset["coordinateTransformations"][0]["scale"] = [5.0, 5.0, 1.0]
    (copied_mask / "zarr.json").write_text(json.dumps(metadata))
    assert "changed since it began (voxel" in go_on(run).failure()
    (copied_mask / "zarr.json").write_text(text)
    assert go_on(run).code == 0


def test_the_mask_is_gone(stopped: Path, go_on: Command) -> None:
    config = json.loads((stopped / "run.json").read_text("utf-8"))
    (stopped / "run.json").write_text(json.dumps({**config, "mask": str(stopped / "nowhere.zarr")}))
    reseal(stopped)
    assert f"{stopped / 'nowhere.zarr'} does not exist" in go_on(stopped).failure()


@pytest.mark.parametrize(
    "harm", ["flipped", "gone", *(pytest.param(harm, marks=pytest.mark.slow) for harm in ("cut", "empty"))]
)
def test_a_damaged_mask(
    copied_mask: Path, whole: Path, measure: Command, go_on: Command, tmp_path: Path, harm: str
) -> None:
    run, shard = tmp_path / "run", copied_mask / "0" / "c" / "1" / "0" / "1"
    content = shard.read_bytes()
    if harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content[: {"flipped": None, "cut": 100, "empty": 0}[harm]])
        if harm == "flipped":
            flip(shard, 50)
    done = measure(copied_mask, run, "--block-shape", "16")
    message = done.failure()
    assert str(copied_mask) in message
    assert "0/c/1/0/1" in message
    assert not (run / "statistics.json").exists()
    finished = receipts(run, "mask")
    assert 0 < len(finished) < 64
    assert go_on(run).failure() == message, "as long as it is the same one"
    shard.write_bytes(content)
    message = go_on(run).failure()
    assert message.startswith(f"The mask of the run {run} changed since it began (content: ")
    assert message.endswith(f"`voxcaliper resume {run} --restart`, or start a new run with another --run folder.")
    assert go_on(run, "--restart").code == 0
    assert results(run) == results(whole)


def test_damaged_regions(mask: Path, measure: Command, tmp_path: Path) -> None:
    path = tmp_path / "regions.zarr"
    zarr.create_array(path, data=np.ones((64, 64, 64), np.uint8), chunks=(32, 32, 32))
    chunk = path / "c" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    message = measure(mask, tmp_path / "run", "--regions", path, "--block-shape", "32").failure()
    assert str(path) in message
    assert "c/0/1/1" in message


def test_a_store_without_permission(copied_mask: Path, measure: Command, tmp_path: Path) -> None:
    shard = copied_mask / "0" / "c" / "1" / "0" / "1"
    shard.chmod(0)
    if os.access(shard, os.R_OK):
        pytest.skip("this user may read everything")
    message = measure(copied_mask, tmp_path / "run", "--block-shape", "16").failure()
    assert "permission denied (stored object 0/c/1/0/1)" in message


FEW_KIBIBYTES = (4, 8, 16, 24, 40, 64, 100, 200, 450, 600, 700, 800)
"""From a disk without room for the configuration to one without room for the report."""


@pytest.mark.parametrize("kibibytes", [300, 900, *(pytest.param(n, marks=pytest.mark.slow) for n in FEW_KIBIBYTES)])
def test_a_full_disk(mask: Path, whole: Path, scheduler: str, disk: Disk, tmp_path: Path, kibibytes: int) -> None:
    disk.resize(kibibytes)
    run = disk.path / "run"
    there = ("--scheduler", scheduler, "--unencrypted", "--quiet")
    begin = ("thickness", mask, "--run", run, "--block-shape", "16", *there)
    message = voxcaliper(tmp_path, *begin).failure()
    assert "full" in message or "No space left" in message
    assert "make room" in message
    assert not (run / "provenance.json").exists()
    finished = {stage: receipts(run, stage) for stage in STAGES}
    disk.resize(64 * 1024)
    done = voxcaliper(tmp_path, *(("resume", run, *there) if (run / "run.json").exists() else begin))
    assert (done.code, done.err) == (0, ""), done
    assert results(run) == results(whole)
    stages = json.loads((run / "provenance.json").read_text("utf-8"))["stages"]
    assert all(stages[stage]["tasks"] == 64 for stage in STAGES)
    unfinished = [stage for stage in STAGES if 0 < len(finished[stage]) < 64]
    assert all(stages[stage]["tasks_now"] <= 64 - len(finished[stage]) for stage in unfinished)
