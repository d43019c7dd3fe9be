"""Runs on SLURM as tests see them: a profile, a run in the background, and what was done how often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.slurm import name_of
from tests.workflows.runs import Running, receipts, running

BLOCK = 32
BLOCKS = 8
PLAIN = {
    "kind": "slurm",
    "jobs": 2,
    "cores": 1,
    "memory": "1500 MiB",
    "walltime": "00:10:00",
    "partition": "work",
    "interface": "lo",
}


@dataclass(frozen=True)
class Profile:
    """A profile file that tests change."""

    path: Path

    def write(self, **changes: Any) -> Path:
        """The plain profile with changes; None leaves a key out, a dictionary is a section."""
        content = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
        sections = {key: content.pop(key) for key, value in list(content.items()) if isinstance(value, dict)}
        lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.path.write_text("\n".join(lines) + "\n")
        return self.path


def begin(tmp_path: Path, mask: Path, profile: Path, *options: object) -> AbstractContextManager[Running]:
    """The run RUN with workers as jobs, its driver here, in the background."""
    arguments = ("thickness", mask, "--run", tmp_path / "run", "--block-shape", BLOCK, "--profile", profile, "--quiet")
    return running(tmp_path, *arguments, *options)


def go_on(tmp_path: Path, profile: Path) -> AbstractContextManager[Running]:
    """The run RUN resumed, in the background."""
    return running(tmp_path, "resume", tmp_path / "run", "--profile", profile, "--quiet")


def jobs_name(tmp_path: Path) -> str:
    """What the jobs of the run RUN are called."""
    return name_of(tmp_path / "run")


def well_into(tmp_path: Path, stage: str, count: int = 3) -> Callable[[], bool]:
    """Whether so many blocks of a stage are done."""
    return lambda: len(receipts(tmp_path / "run", stage)) >= count


def repeated(tmp_path: Path) -> int:
    """How many blocks were finished more than once, over all stages."""
    done = Counter((tmp_path / "notes").read_text().splitlines())
    ledger = str(tmp_path / "run" / "ledger")
    return sum(count - 1 for path, count in done.items() if path.startswith(ledger) and "/reach" not in path)


def worker_processes(name: str) -> list[psutil.Process]:
    """The processes of `dask worker` of jobs of this name, nannies first."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "dask_worker" in line and name in line:
            found.append(process)
    return found
