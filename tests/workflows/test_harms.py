"""Every kind of file of a run, harmed in every way: it is made again, or somebody says so; never nothing."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workflows.conftest import Command, noise, store
from tests.workflows.harms import HARMS, NOT_HELD, WRITTEN_LAST, harm, kinds, reopened, told
from tests.workflows.runs import Finished, results
from workflows.cli import main

SHAPE = (130, 64, 64)
"""In blocks of 64³: three of them, a level that they write alone, and one that they cannot."""
OPTIONS = ("--block-shape", "64", "--keep-scratch", "--quiet")
RESULTS = {"thickness": ("statistics.json", "histogram.csv"), "compare": ("comparison.json", "comparison.csv")}
WORKFLOWS = tuple(RESULTS)
SLOW = [("compare", what) for what in ("cut", "empty", "foreign", "gone")]
SEALED = ("run.json", "plan.json", "seal.json")


def labels(seed: int) -> np.ndarray:
    """Two labels of smooth noise, not all alike in any two blocks."""
    low, high = noise(SHAPE, sigma=3, seed=seed), noise(SHAPE, sigma=5, seed=seed + 100)
    return np.where(low, np.where(high, 2, 1), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def runs(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each workflow, a complete run with all its files and one on other volumes."""
    folder = tmp_path_factory.mktemp("runs")
    volumes = [store(folder / f"{seed}.ome.zarr", labels(seed), side=64) for seed in range(3)]
    found = {}
    for workflow in WORKFLOWS:
        pair = []
        for number in range(2):
            run = folder / workflow / str(number)
            read = [volumes[number], volumes[2]] if workflow == "compare" else [volumes[number]]
            with pytest.MonkeyPatch.context() as patch:
                command = [
                    "voxcaliper",
                    workflow,
                    *read,
                    "--run",
                    run,
                    *OPTIONS,
                    "--scheduler",
                    scheduler,
                    "--unencrypted",
                ]
                patch.setattr(sys, "argv", [str(word) for word in command])
                with contextlib.suppress(SystemExit):
                    main()
            assert (run / "provenance.json").exists()
            pair.append(run)
        found[workflow] = (pair[0], pair[1])
    return found


def _names(workflow: str) -> list[str]:
    """What `kinds` finds in a run of a workflow that is complete, in words, so that tests have names."""
    stages = ["centres", "distance-y", "distance-z", "mask", "thickness"]
    maps, noted = ["thickness"], ["reach"]
    pyramids = ["pyramid-2"]
    if workflow == "compare":
        stages += ["components", "overlap", "seams", "surface", "surface-distance", "surface-y", "surface-z"]
        maps, noted = ["difference", "prediction", "reference"], ["labels", "overlap", "reach"]
        pyramids = [f"pyramid-{name}-2" for name in maps]
    found = [f"receipt of {stage}" for stage in [*stages, *pyramids]]
    found += [f"totals of {stage}" for stage in [*stages, *pyramids]]
    found += [f"noted {name}" for name in noted]
    for name in maps:
        found += [f"metadata of {name}"]
        found += [f"{what} of level {level} of {name}" for level in range(3) for what in ("metadata", "shard")]
    found += [*SEALED, *RESULTS[workflow], "report.html", *WRITTEN_LAST, "timings.csv"]
    return found


def _name(path: str) -> str:
    """The words for a file."""
    parts = path.split("/")
    if parts[0] == "ledger":
        if len(parts) > 2:
            return f"receipt of {parts[1]}"
        name, _, ending = parts[1].rpartition(".")
        return f"{'totals of' if ending == 'json' else 'noted'} {name}"
    if parts[0].endswith(".ome.zarr"):
        image = parts[0].removesuffix(".ome.zarr")
        if len(parts) == 2:
            return f"metadata of {image}"
        return f"{'metadata' if parts[2] == 'zarr.json' else 'shard'} of level {parts[1]} of {image}"
    return path


def _whole_but_for_scratch(done: Finished) -> bool:
    """Whether nothing is damaged but intermediate files, which a complete run does not need."""
    *found, last = done.out.splitlines()
    return last.startswith("whole ") or all(line.startswith("damaged  The intermediate file ") for line in found)


def _of(run: Path) -> dict[str, tuple[str, str]]:
    return {_name(victim): (victim, partner) for victim, partner in kinds(run)}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_kind_of_file_is_in_the_table(runs: dict[str, tuple[Path, Path]], workflow: str) -> None:
    run, _ = runs[workflow]
    found = _of(run)
    assert sorted(found) == sorted(_names(workflow))
    known = {victim for victim, _ in found.values()}
    rest = {path.name for path in run.iterdir() if path.is_file()} - known
    assert rest <= set(NOT_HELD)


@pytest.mark.parametrize("workflow", ["thickness", pytest.param("compare", marks=pytest.mark.slow)])
def test_every_harm_to_a_complete_run_is_named(
    runs: dict[str, tuple[Path, Path]], here: Command, tmp_path: Path, workflow: str
) -> None:
    whole, other = runs[workflow]
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    done = here("verify", run)
    assert (done.code, done.err) == (0, ""), done
    assert done.out.startswith(f"whole    {run}: ")
    trials, silent = 0, []
    for name, (victim, partner) in _of(run).items():
        for what in HARMS:
            kept = {path: (run / path).read_bytes() for path in (victim, partner)}
            if harm(run, other, victim, partner, what):
                trials += 1
                done = here("verify", run)
                assert not done.err, done
                scratch = what == "gone" and name.startswith(("receipt", "noted"))  # which it does not need
                if not scratch and (done.code != 1 or victim not in done.out):
                    silent.append((name, what))
            for path, content in kept.items():
                (run / path).write_bytes(content)
    assert not silent, silent
    assert trials > 150
    assert here("verify", run).code == 0


@pytest.mark.parametrize(
    ("workflow", "what"),
    [
        pytest.param(workflow, what, marks=pytest.mark.slow if (workflow, what) in SLOW else [])
        for workflow in WORKFLOWS
        for what in HARMS
    ],
)
def test_harms_to_a_stopped_run_are_made_good(
    runs: dict[str, tuple[Path, Path]], here: Command, scheduler: str, tmp_path: Path, workflow: str, what: str
) -> None:
    """A file of every kind at once, in all that can be made again."""
    whole, other = runs[workflow]
    run = reopened(whole, tmp_path / "run")
    harmed = [
        harm(run, other, victim, partner, what)
        for name, (victim, partner) in _of(run).items()
        if name not in SEALED and (run / victim).exists()
    ]
    assert sum(harmed) > (len(harmed) // 2 if what == "foreign" else len(harmed) - 4)
    done = here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet")
    assert done.code == 0, done
    assert results(run, RESULTS[workflow]) == results(whole, RESULTS[workflow])
    assert _whole_but_for_scratch(here("verify", run))


@pytest.mark.parametrize(
    "what", [what if what in ("flipped", "gone") else pytest.param(what, marks=pytest.mark.slow) for what in HARMS]
)
@pytest.mark.parametrize("victim", SEALED)
def test_harms_to_what_a_stopped_run_was_asked_are_told(
    runs: dict[str, tuple[Path, Path]], here: Command, scheduler: str, tmp_path: Path, victim: str, what: str
) -> None:
    whole, other = runs["thickness"]
    run = reopened(whole, tmp_path / "run")
    assert harm(run, other, victim, "plan.json" if victim != "plan.json" else "seal.json", what)
    assert told(here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet"), *SEALED)
    done = here("verify", run)
    assert done.code == 1
    assert any(name in done.out for name in SEALED)
    done = here("status", run)
    assert not done.code or told(done, *SEALED)


@pytest.mark.slow
@pytest.mark.parametrize("what", HARMS)
@pytest.mark.parametrize(
    ("workflow", "name"),
    [
        (workflow, name)
        for workflow in WORKFLOWS
        for name in _names(workflow)
        if name not in (*RESULTS[workflow], "report.html", *WRITTEN_LAST)
    ],
)
def test_one_harm_to_a_stopped_run(
    runs: dict[str, tuple[Path, Path]], here: Command, scheduler: str, tmp_path: Path, workflow: str, name: str,
    what: str,
) -> None:  # fmt: skip
    whole, other = runs[workflow]
    run = reopened(whole, tmp_path / "run")
    victim, partner = _of(run)[name]
    if not harm(run, other, victim, partner, what):
        pytest.skip("another run has the same bytes")
    done = here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet")
    if done.code:
        assert name in SEALED
        assert told(done, *SEALED)
        return
    assert name not in SEALED
    assert results(run, RESULTS[workflow]) == results(whole, RESULTS[workflow])
    assert _whole_but_for_scratch(here("verify", run))


@pytest.mark.parametrize(
    "what", [what if what in ("swapped", "gone") else pytest.param(what, marks=pytest.mark.slow) for what in HARMS]
)
@pytest.mark.parametrize("level", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_shards_that_a_coarser_level_is_made_of(
    runs: dict[str, tuple[Path, Path]], here: Command, scheduler: str, tmp_path: Path, what: str, level: int
) -> None:
    """Stopped before the last level: it is not made of damaged ones."""
    whole, other = runs["thickness"]
    run = reopened(whole, tmp_path / "run")
    shutil.rmtree(run / "ledger" / "pyramid-2")
    (run / "ledger" / "pyramid-2.json").unlink()
    shutil.rmtree(run / "thickness.ome.zarr" / "2" / "c")
    victim, partner = _of(runs["thickness"][0])[f"shard of level {level} of thickness"]
    assert harm(run, other, victim, partner, what)
    done = here("resume", run, "--scheduler", scheduler, "--unencrypted", "--quiet")
    assert done.code == 0, done
    assert results(run) == results(whole)


def test_harms_to_what_a_process_says_of_itself(
    runs: dict[str, tuple[Path, Path]], here: Command, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs["thickness"][0], tmp_path / "run"))
    for name in NOT_HELD:
        if (run / name).exists():
            (run / name).write_bytes(b"\xff\x00{")
    assert here("verify", run).code == 0
    done = here("status", run)
    assert (done.code, done.err) == (0, ""), done
