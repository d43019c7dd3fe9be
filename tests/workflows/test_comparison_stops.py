"""A comparison that is stopped, killed or damaged goes on to the same bytes, and does nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.workflows.conftest import Command, Disk, noise, store
from tests.workflows.runs import Finished, Running, all_gone, flip, receipts, reseal, results, running, voxcaliper

BLOCKS = 8
STAGES = (
    "overlap", "components", "seams", "surface", "surface-y", "surface-z", "surface-distance", "mask", "distance-y",
    "distance-z", "centres", "thickness",
)  # fmt: skip
RESULTS = ("comparison.json", "comparison.csv")
OPTIONS = ("--block-shape", "16", "--objects", "components", "--tolerance-um", "0,3", "--quiet")
NOTED = ("overlap.parcel", "labels.parcel", "reach.parcel")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two labels of 32³ voxels, the same worn, and grey values."""
    folder = tmp_path_factory.mktemp("volumes")
    shape = (32, 32, 32)
    reference = noise(shape).astype(np.uint8) * (1 + noise(shape, sigma=3, seed=1))
    prediction = np.where(noise(shape, sigma=1, seed=2), reference, 0)
    grey = np.random.default_rng(3).integers(0, 2**16, shape)
    return (
        store(folder / "reference.ome.zarr", reference.astype(np.uint8)),
        store(folder / "prediction.ome.zarr", prediction.astype(np.uint8)),
        store(folder / "grey.ome.zarr", grey.astype(np.uint16)),
    )


def arguments(volumes: tuple[Path, Path, Path], run: Path) -> tuple[object, ...]:
    reference, prediction, image = volumes
    return ("compare", reference, prediction, "--image", image, "--run", run, *OPTIONS)


@pytest.fixture(scope="module")
def whole(volumes: tuple[Path, Path, Path], scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete comparison with all its intermediate files."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = voxcaliper(run.parent, *arguments(volumes, run), "--keep-scratch", "--scheduler", scheduler, "--unencrypted")
    assert (done.code, done.err) == (0, ""), done
    assert {path.name for path in (run / "ledger").iterdir() if path.is_dir()} == set(STAGES)
    return run


def reopened(whole: Path, run: Path) -> Path:
    """A copy of the run as it was when all its stages were finished and no result was written."""
    shutil.copytree(whole, run)
    for name in (*RESULTS, "report.html", "provenance.json"):
        (run / name).unlink()
    return run


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    return reopened(whole, tmp_path / "run")


@pytest.fixture
def go_on(here: Command, scheduler: str) -> Command:
    def call(run: Path, *options: str) -> Finished:
        return here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet", *options)

    return call


def assert_same(run: Path, whole: Path, done: Finished) -> None:
    assert (done.code, done.err) == (0, ""), done
    assert results(run, RESULTS) == results(whole, RESULTS)


def done_now(run: Path, stage: str) -> int:
    stages = json.loads((run / "provenance.json").read_text("utf-8"))["stages"]
    assert stages[stage]["tasks"] == BLOCKS
    return int(stages[stage]["tasks_now"])


def harmed(path: Path, harm: str) -> None:
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        flip(path, -40)


@pytest.mark.parametrize("harm", ["gone", "footer", pytest.param("cut", marks=pytest.mark.slow)])
def test_a_damaged_receipt_of_every_stage(stopped: Path, whole: Path, go_on: Command, harm: str) -> None:
    """What is damaged is made again, another block in every stage, and nothing else."""
    kept: dict[Path, int] = {}
    for number, stage in enumerate(STAGES):
        found = sorted(receipts(stopped, stage))
        harmed(found[number % BLOCKS], harm)
        kept |= {path: written for path, written in receipts(stopped, stage).items() if path != found[number % BLOCKS]}
    assert_same(stopped, whole, go_on(stopped))
    assert [done_now(stopped, stage) for stage in STAGES] == [1] * len(STAGES)
    now = {path: written for stage in STAGES for path, written in receipts(stopped, stage).items()}
    assert len(now) == BLOCKS * len(STAGES)
    assert kept.items() <= now.items()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_receipt(stopped: Path, whole: Path, go_on: Command, stage: str) -> None:
    sorted(receipts(stopped, stage))[5].unlink()
    assert_same(stopped, whole, go_on(stopped))


@pytest.mark.parametrize("harm", ["gone", "footer"])
@pytest.mark.parametrize("names", [NOTED, *(pytest.param((name,), marks=pytest.mark.slow) for name in NOTED)])
def test_what_is_noted_between_stages(
    stopped: Path, whole: Path, go_on: Command, names: tuple[str, ...], harm: str
) -> None:
    before = {path: written for stage in STAGES for path, written in receipts(stopped, stage).items()}
    for name in names:
        harmed(stopped / "ledger" / name, harm)
    assert_same(stopped, whole, go_on(stopped))
    assert before == {path: written for stage in STAGES for path, written in receipts(stopped, stage).items()}


@pytest.mark.parametrize(
    ("stage", "readers"),
    [
        ("surface-distance", ()),
        *(
            pytest.param(stage, readers, marks=pytest.mark.slow)
            for stage, readers in (
                ("overlap", ("overlap.parcel",)),
                ("components", ()),
                ("seams", ()),
                ("surface", ("surface-distance",)),
                ("mask", ("thickness",)),
                ("centres", ("thickness",)),
                ("thickness", ()),
            )
        ),
    ],
)
def test_damage_inside_a_receipt(
    stopped: Path, whole: Path, go_on: Command, stage: str, readers: tuple[str, ...]
) -> None:
    """Only who reads it finds it: a later task, or the driver when it merges. It is made again without more ado."""
    for reader in readers:
        path = stopped / "ledger" / reader
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    victim = sorted(receipts(stopped, stage))[3]
    flip(victim, 12)
    done = go_on(stopped)
    assert done.code == 0, done
    assert str(victim) in done.err
    assert "It goes on by itself" in done.err
    assert results(stopped, RESULTS) == results(whole, RESULTS)


@pytest.mark.parametrize("content", ["", pytest.param("{", marks=pytest.mark.slow)])
def test_damaged_totals_of_stages(
    stopped: Path, whole: Path, go_on: Command, content: str
) -> None:  # fmt: skip
    for stage in ("overlap", "seams", "centres"):
        (stopped / "ledger" / f"{stage}.json").write_text(content)
    assert_same(stopped, whole, go_on(stopped))


def test_a_map_is_gone(stopped: Path, whole: Path, go_on: Command) -> None:
    """Killed between two maps, and while one of them was made."""
    shutil.rmtree(stopped / "ledger" / "thickness")
    shutil.rmtree(stopped / "prediction.ome.zarr")
    (stopped / "difference.ome.zarr").rename(stopped / "difference.ome.zarr.partial")
    assert_same(stopped, whole, go_on(stopped))
    assert not list(stopped.rglob("*.partial"))


@pytest.mark.parametrize("which", ["reference", "prediction", "image"])
def test_another_volume_under_the_same_name(
    stopped: Path, whole: Path, go_on: Command, tmp_path: Path, which: str
) -> None:
    """Refused while it is another, and the run goes on when the old one is back."""
    config = json.loads((stopped / "run.json").read_text("utf-8"))
    plan = json.loads((stopped / "plan.json").read_text("utf-8"))
    copy = shutil.copytree(config[which], tmp_path / "copy.ome.zarr")
    (stopped / "run.json").write_text(json.dumps({**config, which: str(copy)}))
    plan["identities"][which]["location"] = str(copy)
    (stopped / "plan.json").write_text(json.dumps(plan))
    reseal(stopped)
    text = (copy / "0" / "zarr.json").read_text("utf-8")
    metadata = json.loads(text)
    (copy / "0" / "zarr.json").write_text(json.dumps({**metadata, "fill_value": 1}))
    message = go_on(stopped).failure()
    assert message.startswith(f"The {which} of the run {stopped} changed since it began (metadata_sha256)")
    assert not (stopped / "comparison.json").exists()
    (copy / "0" / "zarr.json").write_text(text)
    if which == "reference":
        assert go_on(stopped).code == 0
        assert results(stopped, RESULTS) == results(whole, RESULTS)


def test_other_axes_under_the_same_name(stopped: Path, go_on: Command) -> None:
    """Also of a plan that does not know in which order they were."""
    plan = json.loads((stopped / "plan.json").read_text("utf-8"))
    for axes in ({"axes": "xyz"}, {}):
        known = {name: value for name, value in plan["identities"]["prediction"].items() if name != "axes"}
        identities = plan["identities"] | {"prediction": known | axes}
        (stopped / "plan.json").write_text(json.dumps({**plan, "identities": identities}))
        reseal(stopped)
        assert f"The prediction of the run {stopped} changed since it began (axes)" in go_on(stopped).failure()


def test_another_voxel_size_under_the_same_name(stopped: Path, go_on: Command) -> None:
    plan = json.loads((stopped / "plan.json").read_text("utf-8"))
    (stopped / "plan.json").write_text(json.dumps({**plan, "voxel_size_um": [5.0, 2.0, 2.0]}))
    reseal(stopped)
    assert "changed since it began (voxel size)" in go_on(stopped).failure()


def test_a_damaged_volume(
    volumes: tuple[Path, Path, Path], whole: Path, here: Command, go_on: Command, scheduler: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The message names the stored object; when it is mended, it is another volume than the run began with."""
    reference, prediction, image = volumes
    path = tmp_path / "prediction.zarr"
    zarr.create_array(path, data=np.asarray(zarr.open_array(prediction, path="0", mode="r")[:]), chunks=(16, 16, 16))
    chunk = path / "c" / "1" / "0" / "1"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-5])
    run = tmp_path / "run"
    message = here(*arguments((reference, path, image), run), "--scheduler", scheduler, "--unencrypted").failure()
    assert str(path) in message
    assert "c/1/0/1" in message
    assert receipts(run, "overlap")
    chunk.write_bytes(content)
    assert go_on(run).failure().startswith(f"The prediction of the run {run} changed since it began (content: ")
    assert_same(run, whole, go_on(run, "--restart"))


@pytest.mark.parametrize("kibibytes", [200, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 40, 100, 350, 500))])
def test_a_full_disk(
    volumes: tuple[Path, Path, Path], whole: Path, here: Command, go_on: Command, scheduler: str,
    disk: Disk, kibibytes: int,
) -> None:  # fmt: skip
    disk.resize(kibibytes)
    run = disk.path / "run"
    start = (*arguments(volumes, run), "--keep-scratch", "--scheduler", scheduler, "--unencrypted")
    message = here(*start).failure()
    assert "full" in message or "No space left" in message
    assert "make room" in message or "choose another place" in message
    assert not (run / "provenance.json").exists()
    finished = {path: written for stage in STAGES for path, written in receipts(run, stage).items()}
    disk.resize(64 * 1024)
    assert_same(run, whole, go_on(run) if (run / "run.json").exists() else here(*start))
    now = {path: written for stage in STAGES for path, written in receipts(run, stage).items()}
    assert finished.items() <= now.items()


def begin(tmp_path: Path, volumes: tuple[Path, Path, Path]) -> contextlib.AbstractContextManager[Running]:
    """The run RUN on two workers of its own, in the background."""
    return running(tmp_path, *arguments(volumes, tmp_path / "run"), "--keep-scratch", "--workers", "2")


def reached(run: Path, stage: str) -> Callable[[], bool]:
    return lambda: bool(receipts(run, stage))


@pytest.mark.parametrize(
    "stage", [stage if stage == "surface-y" else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES]
)
def test_a_killed_driver(
    volumes: tuple[Path, Path, Path], whole: Path, go_on: Command, tmp_path: Path, stage: str
) -> None:
    run = tmp_path / "run"
    with begin(tmp_path, volumes) as command:
        command.wait_until(reached(run, stage))
        family = command.family()
        command.process.kill()
        command.process.wait()
        assert all_gone(family), "workers outlive their driver"
    assert not (run / "comparison.json").exists()
    finished = {name: receipts(run, name) for name in STAGES}
    assert_same(run, whole, go_on(run))
    for name in STAGES:
        assert finished[name].items() <= receipts(run, name).items(), f"{name} was repeated"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["components", "surface-distance", "thickness"])
def test_a_killed_worker_is_replaced(
    volumes: tuple[Path, Path, Path], whole: Path, tmp_path: Path, stage: str
) -> None:  # fmt: skip
    with begin(tmp_path, volumes) as command:
        command.wait_until(reached(tmp_path / "run", stage))
        family = command.family()
        command.workers()[0].kill()
        assert_same(tmp_path / "run", whole, command.finished())
        assert all_gone(family)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["components", "centres"])
def test_interrupted(volumes: tuple[Path, Path, Path], whole: Path, go_on: Command, tmp_path: Path, stage: str) -> None:
    """Ctrl-C in a terminal goes to every process of the group."""
    run = tmp_path / "run"
    with begin(tmp_path, volumes) as command:
        command.wait_until(reached(run, stage))
        family = command.family()
        os.killpg(command.process.pid, signal.SIGINT)
        message = command.finished().failure()
        assert "interrupted" in message
        assert "voxcaliper resume" in message
        assert all_gone(family)
    finished = {path: written for name in STAGES for path, written in receipts(run, name).items()}
    assert_same(run, whole, go_on(run))
    assert finished.items() <= {p: w for name in STAGES for p, w in receipts(run, name).items()}.items()


@pytest.mark.slow
def test_killed_while_the_results_are_written(
    volumes: tuple[Path, Path, Path], whole: Path, go_on: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with begin(tmp_path, volumes) as command:
        command.wait_until((run / "comparison.json").exists)
        os.killpg(command.process.pid, signal.SIGKILL)
    assert_same(run, whole, go_on(run))
    assert (run / "provenance.json").exists()
