"""What a benchmark answers, the machine it ran on, and RESULTS.md made of both."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "voxcaliper", "numpy", "scipy", "numba", "zarr", "dask", "distributed", "edt", "localthickness", "porespy",
    "surface-distance", "connected-components-3d",
)  # fmt: skip
INSTRUCTIONS = ("avx2", "avx512f")


@dataclass(frozen=True)
class Table:
    """A table with a title and, under it, a note that says how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Goal:
    """A number that must lie on the right side of a limit, and the aim beyond it where there is one."""

    text: str
    value: float
    limit: float
    at_most: bool
    aim: float | None = None
    unit: str = "×"

    def keeps(self, limit: float) -> bool:
        """Whether the measured value lies on the right side of a limit."""
        return self.value <= limit if self.at_most else self.value >= limit


@dataclass(frozen=True)
class Answer:
    """What one question was answered with. question : a heading."""

    question: str
    tables: tuple[Table, ...]
    goals: tuple[Goal, ...] = ()


def machine() -> Table:
    """The machine and the software, as they are now."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        facts = dict(line.split(":", 1) for line in file if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in facts.items()}
    flags = cpu.get("flags", "").split()
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    rows = (
        (
            "processor",
            f"{cpu.get('model name', platform.processor())} ({', '.join(i for i in INSTRUCTIONS if i in flags)})",
        ),
        ("cores for this process", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"),
        ("system", platform.platform()),
        ("Python", platform.python_version()),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
        ("began", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("load average before", f"{load} (1, 5, 15 minutes)"),
        ("command", shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])),
    )
    return Table("Machine", ("", ""), rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def goal_table(goals: Sequence[Goal]) -> Table:
    """Every goal with its limit, what was measured, and whether that reaches it."""
    rows = []
    for goal in goals:
        side = "≤" if goal.at_most else "≥"
        limit = f"{side} {goal.limit:g} {goal.unit}".strip()
        aim = "–" if goal.aim is None else f"{side} {goal.aim:g} {goal.unit} {'✓' if goal.keeps(goal.aim) else '✗'}"
        rows.append(
            (goal.text, limit, f"{goal.value:.2f} {goal.unit}", "yes" if goal.keeps(goal.limit) else "**no**", aim)
        )
    return Table("Goals", ("goal", "limit", "measured", "reached", "aim"), tuple(rows))


def _markdown(table: Table) -> list[str]:
    rows = (table.columns, tuple("---" for _ in table.columns), *table.rows)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [f"### {table.title}", "", *lines, "", *([table.note, ""] if table.note else [])]


def document(where: Table, size: str, answers: Sequence[Answer]) -> str:
    """The whole of RESULTS.md."""
    lines = ["# Benchmarks", "", "Written by `python -m benchmarks`; times compare within one run only.", ""]
    if size != "full":
        lines += [f"Size **{size}**: the goals are stated for size full.", ""]
    goals = [goal for answer in answers for goal in answer.goals]
    if goals:
        lines += _markdown(goal_table(goals))
    lines += _markdown(where)
    for answer in answers:
        lines += [f"## {answer.question}", ""]
        for table in answer.tables:
            lines += _markdown(table)
    return "\n".join(lines).rstrip() + "\n"


def write_document(path: Path, text: str) -> None:
    """Write RESULTS.md."""
    path.write_text(text, encoding="utf-8")
