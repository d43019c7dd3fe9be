"""A run is what was asked: of the sources that it began with, in the configuration and the plan that it began with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cluster.profile import EXAMPLES
from pipeline.errors import RunError
from pipeline.ledger import Ledger
from pipeline.volume.stored_objects import ObjectStat
from tests.workflows.conftest import Command, noise
from tests.workflows.harms import edited, reopened, told
from tests.workflows.runs import flip, receipts, results
from workflows import run_comparison, run_thickness
from workflows.config import ThicknessConfig
from workflows.results import open_run
from workflows.run_folder import RunFolder, plan_again
from workflows.seals import changed_keys

SHAPE = (40, 24, 24)
OPTIONS = ("--block-shape", "16", "--voxel-size-um", "2", "--quiet")
COMPARED = ("reference", "prediction", "image", "regions")


def array(path: Path, voxels: np.ndarray) -> Path:
    zarr.create_array(path, data=voxels, chunks=(8, 8, 8))
    return path


def volume(role: str, seed: int = 0) -> np.ndarray:
    if role == "image":
        return np.random.default_rng(seed).integers(1, 255, SHAPE).astype(np.uint8)
    found = noise(SHAPE, seed=seed).astype(np.uint8)
    return found + 1 if role == "regions" else found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume for each part in a run, in chunks of 8³."""
    folder = tmp_path_factory.mktemp("kept")
    for number, role in enumerate(("mask", *COMPARED)):
        array(folder / f"{role}.zarr", volume(role, number))
    return folder


@pytest.fixture
def stopped(kept: Path, here: Command, scheduler: str, tmp_path: Path) -> Callable[[str], Path]:
    """A run of a workflow that was stopped when all its stages were finished, beside volumes of its own."""

    def make(workflow: str) -> Path:
        folder = Path(shutil.copytree(kept, tmp_path / "volumes"))
        if workflow == "thickness":
            read: list[Any] = [folder / "mask.zarr"]
        else:
            read = [folder / "reference.zarr", folder / "prediction.zarr", "--image", folder / "image.zarr"]
        read += ["--regions", folder / "regions.zarr", "--keep-scratch"]
        done = here(workflow, *read, "--run", tmp_path / "whole", *OPTIONS, "--scheduler", scheduler, "--unencrypted")
        assert (done.code, done.err) == (0, ""), done
        return reopened(tmp_path / "whole", tmp_path / "run")

    return make


@pytest.fixture
def go_on(here: Command, scheduler: str) -> Command:
    return lambda run, *options: here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet", *options)


def _shifted(path: Path) -> None:
    data = zarr.open_array(path, mode="r+")
    data[:] = np.roll(np.asarray(data[:]), 7, axis=0)


def _zeroed(path: Path) -> None:
    data = zarr.open_array(path, mode="r+")
    data[-10:] = 0


def _without_chunks(path: Path) -> None:
    for chunk in sorted(file for file in (path / "c").rglob("*") if file.is_file())[::3]:
        chunk.unlink()


def _replaced(path: Path) -> None:
    shutil.rmtree(path)
    array(path, volume(path.stem, 77))


CHANGES = {"shifted": _shifted, "zeroed": _zeroed, "without chunks": _without_chunks, "replaced": _replaced}


@pytest.mark.parametrize("workflow", ["thickness", "compare"])
def test_a_source_that_changed_while_a_run_was_stopped_is_refused(
    stopped: Callable[[str], Path], go_on: Command, tmp_path: Path, workflow: str
) -> None:
    run = stopped(workflow)
    for role in ("mask", "regions") if workflow == "thickness" else COMPARED:
        source = tmp_path / "volumes" / f"{role}.zarr"
        shutil.copytree(source, tmp_path / "safe")
        for change in CHANGES.values() if workflow == "thickness" else (_zeroed,):
            change(source)
            message = go_on(run).failure()
            assert message.startswith(f"The {role} of the run {run} changed since it began (content: "), message
            assert f"`voxcaliper resume {run} --restart`" in message
            assert not (run / "provenance.json").exists()
            shutil.rmtree(source)
            shutil.copytree(tmp_path / "safe", source)
        shutil.rmtree(tmp_path / "safe")
    assert go_on(run).code == 0, "they are what they were"
    assert results(run, ()) == results(tmp_path / "whole", ())


@pytest.mark.parametrize("workflow", ["thickness", "compare"])
def test_a_source_that_changes_under_a_run_gives_no_results(
    stopped: Callable[[str], Path], go_on: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    run = stopped(workflow)
    module, name = (run_thickness, "measure") if workflow == "thickness" else (run_comparison, "compare")
    measure = getattr(module, name)

    def changing(*arguments: Any, **named: Any) -> Any:
        totals = measure(*arguments, **named)
        _zeroed(tmp_path / "volumes" / "regions.zarr")
        return totals

    monkeypatch.setattr(module, name, changing)
    assert go_on(run).failure().startswith(f"The regions of the run {run} changed since it began (content: ")
    assert {path.name for path in run.glob("*.csv")} == {"timings.csv"}
    assert not (run / "report.html").exists()
    assert not (run / "provenance.json").exists()
    monkeypatch.undo()
    assert "changed since it began" in go_on(run).failure()
    assert go_on(run, "--restart").code == 0
    fresh = Path(shutil.copytree(run, tmp_path / "fresh"))
    assert go_on(run, "--restart").code == 0, "also a run that is complete"
    name = "statistics.json" if workflow == "thickness" else "comparison.json"
    assert results(run, (name,)) == results(fresh, (name,))
    assert results(run, (name,)) != results(tmp_path / "whole", (name,))


@pytest.mark.parametrize("why", ["too many to ask for at every run", "says neither the ETag nor the time"])
def test_a_source_that_cannot_be_watched_is_told(
    kept: Path, here: Command, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """It is measured as ever; that nobody would hear of its changes is said."""
    if why.startswith("too many"):
        monkeypatch.setattr("pipeline.volume.volumes.MOST_ASKED", 2)
        monkeypatch.setattr("pipeline.volume.volumes.MOST_LISTED", 3)
    else:
        monkeypatch.setattr("pipeline.volume.stores.ObjectStat", lambda size, *_: ObjectStat(size, None, None))
    run = tmp_path / "run"
    done = here("thickness", kept / "mask.zarr", "--run", run, *OPTIONS, "--scheduler", scheduler, "--unencrypted")
    assert done.code == 0, done
    assert done.err.startswith("voxcaliper: warning: Whether the mask changes during the run is told by its metadata")
    assert why in done.err
    assert why in (run / "run.log").read_text("utf-8")
    assert why in json.loads((run / "plan.json").read_text("utf-8"))["sources"]["mask"]["untold"]
    assert here("verify", run).code == 0


RUN_EDITS: dict[str, Any] = {
    "threshold": [1.5], "label": 2, "border": "closed", "map": "squared-radius", "voxel_size_um": [2.0, 2.0, 2.5],
    "regions": None, "level": 1, "block_shape": [8, 8, 8], "device": "cpu", "keep_scratch": False,
    "ignore_place": True, "box": "common",
}  # fmt: skip
PLAN_EDITS: dict[str, Any] = {
    "block_shape": [8, 16, 16], "shape": [40, 24, 25], "weights": [1, 1, 2], "voxel_size_um": [3.0, 2.0, 2.0],
    "blocks": [9, 9, 9], "stages": [], "sources": {}, "mask_identity": {},
}  # fmt: skip


def test_what_was_edited_is_named(stopped: Callable[[str], Path], go_on: Command, here: Command) -> None:
    run = stopped("thickness")
    for name, edits in (("run.json", RUN_EDITS), ("plan.json", PLAN_EDITS)):
        text = (run / name).read_text("utf-8")
        for key, value in edits.items():
            edited(run / name, lambda content, key=key, value=value: content.update({key: value}))  # type: ignore[misc]
            message = go_on(run).failure()
            assert message.startswith(f"{run / name} was edited since the run began ({key} was "), message
            assert "--restart" in message
            assert str(run / name) in here("verify", run).out
            (run / name).write_text(text, "utf-8")
    edited(run / "run.json", lambda content: content.update(border="closed", label=1))
    assert "border was" in go_on(run).failure()
    assert go_on(run, "--restart").code == 0
    assert json.loads((run / "run.json").read_text("utf-8"))["label"] == 1
    provenance = json.loads((run / "provenance.json").read_text("utf-8"))
    assert provenance["configuration"]["border"] == "closed", "it was measured as run.json had it then"
    assert here("verify", run).code == 0


def test_the_same_values_in_other_words_are_no_edit(stopped: Callable[[str], Path], go_on: Command) -> None:
    run = stopped("thickness")
    content = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps({key: content[key] for key in sorted(content)}), "utf-8")
    edited(run / "run.json", lambda content: content.pop("level"))
    assert go_on(run).code == 0


def test_a_kill_between_a_seal_and_its_plan_is_mended(
    stopped: Callable[[str], Path], go_on: Command, tmp_path: Path
) -> None:
    run = stopped("thickness")
    folder, old = RunFolder(run), (run / "plan.json").read_bytes()
    plan_again(folder, folder.plan().model_copy(update={"block_shape": (24, 24, 24)}))
    (run / "plan.json").write_bytes(old)
    assert go_on(run).code == 0
    assert json.loads((run / "provenance.json").read_text("utf-8"))["plan"]["block_shape"] == [24, 24, 24]
    assert (run / "statistics.json").read_bytes() == (tmp_path / "whole" / "statistics.json").read_bytes()


def test_a_newer_key_counts_as_its_default() -> None:
    config = ThicknessConfig(mask="m")
    then = config.model_dump(mode="json", exclude={"box"})
    assert changed_keys(config, then) == {}
    assert list(changed_keys(config.model_copy(update={"box": "common"}), then)) == ["box"]


def unsealed(run: Path) -> Path:
    """A run as those before seals were."""
    (run / "seal.json").unlink()
    (run / "checksums.sha256").unlink(missing_ok=True)
    edited(run / "plan.json", lambda content: content.pop("sources"))
    for path in (run / "ledger").glob("*.json"):
        edited(path, lambda content: content.pop("seal"))
    if (run / "provenance.json").exists():
        edited(run / "provenance.json", lambda content: content.pop("sealed"))
    return run


def test_runs_of_before_seals(stopped: Callable[[str], Path], go_on: Command, here: Command, tmp_path: Path) -> None:
    old = unsealed(stopped("thickness"))
    done = here("status", old)
    assert (done.code, done.err) == (0, ""), done
    assert "finished in" in done.out
    assert told(go_on(old), f"voxcaliper resume {old} --restart")
    complete = unsealed(Path(shutil.copytree(tmp_path / "whole", tmp_path / "complete")))
    with open_run(complete) as opened:
        assert opened.attrs["foreground_voxels"] > 0
    assert here("status", complete).code == 0
    assert "is complete already" in here("resume", complete).err
    done = here("verify", complete)
    assert done.code == 1
    assert "made before runs were sealed" in done.out
    assert go_on(old, "--restart").code == 0
    assert results(old) == results(tmp_path / "whole")


def test_commands_that_start_runs_begin_anew(
    stopped: Callable[[str], Path], here: Command, scheduler: str, tmp_path: Path
) -> None:
    run = stopped("thickness")
    strange = run / "notes.txt"
    strange.write_text("mine")
    volumes = tmp_path / "volumes"
    command: list[Any] = ["thickness", volumes / "mask.zarr", "--regions", volumes / "regions.zarr", "--run", run]
    command += [*OPTIONS, "--keep-scratch", "--scheduler", scheduler, "--unencrypted"]
    assert "is a run already; go on with" in here(*command).failure()
    message = here(*command, "--restart", "--border", "closed").failure()
    assert message.startswith(f"{run} is a run of another configuration (border), which --restart keeps")
    before = receipts(run, "mask")
    assert before
    assert here(*command, "--restart").code == 0
    now = receipts(run, "mask")
    assert now.keys() == before.keys()
    assert not now.items() & before.items(), "every block was measured anew"
    assert results(run) == results(tmp_path / "whole")
    assert strange.read_text() == "mine", "what is not of the run stays"
    assert here(*command[:5], tmp_path / "new", *command[6:], "--restart").code == 0, "there need not be a run"


def test_nobody_restarts_a_run_that_another_process_works_on(stopped: Callable[[str], Path], go_on: Command) -> None:
    run = stopped("thickness")
    with RunFolder(run).locked():
        assert "is being worked on by" in go_on(run, "--restart").failure()
    assert receipts(run, "mask")


def test_a_restart_that_cannot_be_planned_removes_nothing(
    stopped: Callable[[str], Path], go_on: Command, tmp_path: Path
) -> None:
    run = stopped("thickness")
    shutil.rmtree(tmp_path / "volumes" / "regions.zarr")
    assert "does not exist" in go_on(run, "--restart").failure()
    assert receipts(run, "mask")
    assert (run / "seal.json").exists()


def test_a_kill_while_a_run_is_restarted_leaves_one_to_be_restarted(
    stopped: Callable[[str], Path], go_on: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    run = stopped("thickness")
    for place in ("shutil.rmtree", "write_json", "write_seal"):
        monkeypatch.setattr(f"workflows.run_folder.{place}", kill)
        with pytest.raises(KilledError):
            go_on(run, "--restart")
        monkeypatch.undo()
        assert told(go_on(run), f"voxcaliper resume {run} --restart"), place
    assert go_on(run, "--restart").code == 0
    assert results(run) == results(tmp_path / "whole")


def test_results_are_on_the_disk_before_the_mark_of_a_complete_run(
    stopped: Callable[[str], Path], go_on: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take what was not flushed, and names of folders that were not."""
    run, flushed = stopped("thickness"), []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_replace(source: Any, target: Any) -> None:
        flushed.append(f"now {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    assert go_on(run).code == 0
    end = flushed.index(f"now {run / 'provenance.json'}")
    before = flushed[:end]
    for name in ("statistics.json", "histogram.csv", "report.html", "thickness.ome.zarr/zarr.json", "ledger/mask.json"):
        assert str(run / name) in before
    folders = {path for path in (run / "thickness.ome.zarr").rglob("*") if path.is_dir()}
    assert {str(path) for path in (run, run / "ledger", *folders)} <= set(before), "and their names"
    assert before.index(f"now {run / 'checksums.sha256'}") > before.index(str(run / "report.html"))
    assert flushed[end + 1] == str(run), "and its name, too"


def test_shards_are_on_the_disk_when_they_are_checked(
    stopped: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, flushed = stopped("thickness"), []
    fsync = os.fsync

    def note_fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    ledger = Ledger(run / "ledger", RunFolder(run).check_seal(), thorough=True)
    for block in ledger.blocks("thickness"):
        assert ledger.finished("thickness", block)
    shards = [path for path in (run / "thickness.ome.zarr" / "0" / "c").rglob("*") if path.is_file()]
    assert {str(path) for path in shards} == set(flushed)


def test_verify_is_sha256sum(stopped: Callable[[str], Path], tmp_path: Path) -> None:
    stopped("thickness")
    whole = tmp_path / "whole"
    lines = (whole / "checksums.sha256").read_text("utf-8").splitlines()
    assert len(lines) == len({line[66:] for line in lines})
    files = {str(path.relative_to(whole)) for path in (whole / "thickness.ome.zarr").rglob("*") if path.is_file()}
    assert files <= {line[66:] for line in lines}
    done = subprocess.run(
        ["sha256sum", "--quiet", "--check", "checksums.sha256"], cwd=whole, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_verify_of_what_is_no_run(here: Command, tmp_path: Path) -> None:
    assert "is neither a run nor the output of a release" in here("verify", tmp_path).failure()
    assert "is neither a run nor the output of a release" in here("verify", tmp_path / "nothing").failure()


def test_verify_of_a_stopped_run_names_what_resume_makes_again(
    stopped: Callable[[str], Path], here: Command, go_on: Command
) -> None:
    run = stopped("thickness")
    done = here("verify", run)
    assert done.code == 1
    assert len(done.out.splitlines()) == 2, "nothing is damaged; it is not complete"
    victim = sorted(receipts(run, "mask"))[3]
    flip(victim, 9)
    shard = next(path for path in (run / "thickness.ome.zarr" / "0" / "c").rglob("*") if path.is_file())
    flip(shard, 9)
    out = here("verify", run).out
    assert str(victim) in out
    assert str(shard) in out
    assert go_on(run).code == 0


def test_submitting_a_run_anew(
    stopped: Callable[[str], Path], here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made goes when the job is submitted; the job itself goes on, however often it is requeued."""
    submitted: list[Path] = []
    monkeypatch.setattr("cluster.submit.driver_in_queue", lambda _: None)

    def submit_driver(_: object, run: Path, __: str) -> str:
        submitted.append(run)
        return "7"

    monkeypatch.setattr("cluster.submit.submit_driver", submit_driver)
    run = stopped("thickness")
    config = json.loads((run / "run.json").read_text("utf-8"))
    file, profile = tmp_path / "run.toml", tmp_path / "cpu.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if value is not None]
    file.write_text("\n".join([f'run = "{run}"', *lines]), "utf-8")
    profile.write_text((EXAMPLES / "cpu.toml").read_text("utf-8"), "utf-8")
    _zeroed(tmp_path / "volumes" / "mask.zarr")
    before = (run / "seal.json").read_bytes()
    assert here("submit", file, "--profile", profile).code == 0
    assert (run / "seal.json").read_bytes() == before
    assert receipts(run, "mask")
    done = here("submit", file, "--profile", profile, "--restart")
    assert (done.code, done.out) == (0, "7\n"), done
    assert submitted == [run, run]
    assert not receipts(run, "mask")
    assert (run / "seal.json").read_bytes() != before
    assert "exclude each other" in here("resume", run, "--restart", "--requeue").failure()


def test_any_flipped_bit_of_what_was_asked_is_told_or_changes_nothing(stopped: Callable[[str], Path]) -> None:
    run = RunFolder(stopped("thickness"))
    key, chance = run.check_seal(), np.random.default_rng(0)
    for name in ("run.json", "plan.json", "seal.json"):
        content, harmless = (run.path / name).read_bytes(), 0
        for position in chance.integers(0, len(content) * 8, 300):
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << (position % 8)
            (run.path / name).write_bytes(damaged)
            try:
                assert run.check_seal() == key  # white space, or a digit beyond those of a number
                harmless += 1
            except RunError as error:
                assert str(run.path) in str(error)  # noqa: PT017
        (run.path / name).write_bytes(content)
        assert harmless < 100, name
    ledger = Ledger(run.path / "ledger", key)
    for path in (run.path / "ledger").glob("*.json"):
        content, totals = path.read_bytes(), ledger.stage_totals(path.stem)
        assert totals is not None
        for position in chance.integers(0, len(content) * 8, 300):
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << (position % 8)
            path.write_bytes(damaged)
            assert ledger.stage_totals(path.stem) in (None, totals)
        path.write_bytes(content)
