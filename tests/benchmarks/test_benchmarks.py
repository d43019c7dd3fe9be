"""Every benchmark answers its question on a tiny volume; what it measures besides time is right."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu, whole_volume
from benchmarks.results import Answer, Goal, document, goal_table, machine
from benchmarks.volumes import SIZES, ball, noise, slab
from pipeline.kernels.reference import squared_local_radius
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended

NEEDS = {"kernels": ["edt"], "peers": ["edt", "localthickness", "porespy"], "comparison": ["surface_distance"]}


@pytest.mark.parametrize("name", command.QUESTIONS)
def test_a_benchmark_answers(name: str) -> None:
    for library in NEEDS.get(name, []):
        pytest.importorskip(library, reason=f"{library} is a peer of the extra bench and is not installed")
    answer: Answer = importlib.import_module(f"benchmarks.{name}").answer(SIZES["tiny"])
    assert answer.tables
    for table in answer.tables:
        assert table.rows, table.title
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    assert all(np.isfinite(goal.value) and goal.value > 0 for goal in answer.goals)
    text = document(machine(), "tiny", [answer])
    assert answer.question in text
    for goal in answer.goals:
        assert goal.text in text


@pytest.mark.skipif(compiler() is None, reason="needs g++, which compiles the CUDA kernels for the CPU")
def test_the_benchmark_of_a_gpu_measures_its_kernels() -> None:
    """On a stand-in, whose times mean nothing; peers and whole runs need a real GPU."""
    with pretended():
        tables, goals, _ = gpu.kernel_tables(24, (16, 40), peers=False)
    for table in tables:
        assert table.rows, table.title
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    kernels = next(table for table in tables if table.title == "Every kernel, noise σ8")
    timed = {row[0] for row in kernels.rows}
    assert set(gpu.LEAST_BYTES) <= timed
    compared = next(table for table in tables if "of a comparison" in table.title)
    assert {row[0] for row in compared.rows} == set(gpu.COMPARISON_BYTES)
    assert len(goals) == 2 * (len(gpu.SIGMAS) + 1)


@pytest.mark.gpu
def test_the_benchmark_of_a_gpu_answers() -> None:
    answer = gpu.answer(SIZES["tiny"])
    assert all(goal.value > 0 for goal in answer.goals)


def test_every_benchmark_is_in_the_list() -> None:
    folder = Path(command.__file__).parent
    questions = {path.stem for path in folder.glob("*.py") if "def answer(" in path.read_text("utf-8")}
    assert questions == {*command.QUESTIONS, *command.GPU_QUESTIONS}


@pytest.mark.parametrize("mask", [noise(14, 2), ball(14), slab(14)], ids=["noise", "ball", "slab"])
def test_the_kernels_that_are_timed_measure_thickness(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    exact = squared_local_radius(mask, (1, 1, 1), closed=False)
    assert np.array_equal(whole_volume.distance_and_thickness(mask), exact)


def test_goals_are_judged_by_their_numbers() -> None:
    goal = Goal("faster", 6.9, 7, at_most=False)
    assert goal_table([goal]).rows[0][3] == "**no**"
    assert goal_table([replace(goal, value=7.0)]).rows[0][3] == "yes"
    assert goal_table([replace(goal, at_most=True)]).rows[0][3] == "yes"
    assert goal_table([replace(goal, at_most=True, aim=3.5)]).rows[0][4].endswith("✗")
    assert goal_table([replace(goal, at_most=True, aim=6.9)]).rows[0][4].endswith("✓")


def test_the_command_writes_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_answer", lambda name, size: Answer(f"Question {name} at {size}?", ()))
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", "memory", "kernels", "--size", "small", "--output", f"{tmp_path}/r.md"]
    )
    command.main()
    text = (tmp_path / "r.md").read_text("utf-8")
    assert text.index("Question kernels at small?") < text.index("Question memory at small?")
    assert "the goals are stated for size full" in text
    assert "memory kernels --size small" in text
    assert text in capsys.readouterr().out


def test_the_command_refuses_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        command.main()
    assert "there is no benchmark speed; choose from kernels" in capsys.readouterr().err
