"""Runs of the command as tests see them: started, watched, killed, finished, and their results as bytes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import zarr

from workflows.seals import write_seal

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sysconfig.get_path("scripts")) / "voxcaliper"
TIMEOUT_SECONDS = 180.0
RESULTS = ("statistics.json", "histogram.csv", "report.html", "provenance.json")
STAGES = ("mask", "distance-y", "distance-z", "centres", "thickness")


@dataclass(frozen=True)
class Finished:
    """What a command left behind: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def failure(self) -> str:
        """The one sentence of a quiet command that failed, without its "voxcaliper: "."""
        assert self.code != 0, self
        assert not self.out, self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("voxcaliper: "), self.err
        assert lines[0].endswith((".", " TARGET.ome.zarr")), self.err  # the second is there to be copied
        return lines[0].removeprefix("voxcaliper: ")


def environment() -> dict[str, str]:
    """Of a process that finds the project without an installation, too."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Running:
    """The command in a process group of its own, its output in files."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in folder.glob("*.out"))
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(),
                start_new_session=True,
            )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to happen while the command runs."""
        limit = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended too early: {self.finished()}"
            assert time.monotonic() < limit, "it never happened"
            time.sleep(0.002)

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that was killed may still be seen
                found += [child] if "cluster.worker" in child.cmdline() else []
        return found

    def finished(self) -> Finished:
        """Wait for the end of the command."""
        code = self.process.wait(TIMEOUT_SECONDS)
        return Finished(code, self._out.read_text("utf-8"), self._err.read_text("utf-8"))

    def stop(self) -> None:
        """Leave nothing running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(folder: Path, *arguments: object) -> Iterator[Running]:
    """A command in the background, gone at the end."""
    command = Running(folder, *arguments)
    try:
        yield command
    finally:
        command.stop()


def voxcaliper(folder: Path, *arguments: object) -> Finished:
    """Run the command to its end."""
    with running(folder, *arguments) as command:
        return command.finished()


def all_gone(processes: list[psutil.Process], *, seconds: float = 20) -> bool:
    """Whether all processes end within some seconds."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def receipts(run: Path, stage: str) -> dict[Path, int]:
    """Receipts of a stage and when each was written, in ns."""
    found = {}
    for path in (run / "ledger" / stage).glob("*/*.parcel"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def results(run: Path, names: tuple[str, ...] = ("statistics.json", "histogram.csv")) -> dict[str, bytes]:
    """What must not depend on how a run went: the named files, and every file of its maps."""
    files = {name: (run / name).read_bytes() for name in names}
    for image in sorted(run.glob("*.ome.zarr")):
        for path in sorted(image.rglob("*")):
            if path.is_file():
                files[str(path.relative_to(run))] = path.read_bytes()
    return files


def without_place(files: dict[str, bytes]) -> dict[str, bytes]:
    """Results but for the document of the map that says where it lies."""
    return {name: content for name, content in files.items() if name != "thickness.ome.zarr/zarr.json"}


def reseal(run: Path) -> None:
    """Seal a run as its configuration and plan are now: what was made before counts as another run's."""
    asked, planned = (json.loads((run / name).read_text("utf-8")) for name in ("run.json", "plan.json"))
    write_seal(run, asked, planned, before=None)


def flip(path: Path, position: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def read_map(run: Path, level: int = 0) -> npt.NDArray[Any]:
    """A level of a run's map (z, y, x), read by zarr alone."""
    array = zarr.open_array(run / "thickness.ome.zarr", path=str(level), mode="r")
    return np.asarray(array[...])


@dataclass(frozen=True)
class Scheduler:
    """A `dask scheduler` and a `dask worker` in processes of their own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: subprocess.Popen[bytes]


@contextlib.contextmanager
def started_scheduler(folder: Path, *, workers: int) -> Iterator[Scheduler]:
    """A running Dask cluster on 127.0.0.1, gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "scheduler.json", folder / "log"
    dask = [sys.executable, "-m", "dask"]
    with log.open("wb") as stream:
        processes = [
            subprocess.Popen([*dask, *command], cwd=folder, stdout=stream, stderr=stream, env=environment())
            for command in (
                ["scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}"],
                ["worker", f"--nworkers={workers}", "--nthreads=1", "--no-dashboard", f"--scheduler-file={file}"],
            )
        ]
    try:
        limit = time.monotonic() + TIMEOUT_SECONDS
        while not file.exists() or log.read_text("utf-8").count("Registered to") < workers:
            assert time.monotonic() < limit, log.read_text("utf-8")
            time.sleep(0.05)
        yield Scheduler(json.loads(file.read_text("utf-8"))["address"], *processes)
    finally:
        family = [
            child
            for process in processes
            if process.poll() is None
            for child in psutil.Process(process.pid).children(recursive=True)
        ]
        for process in reversed(processes):  # workers would wait for a scheduler that went first
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for orphan in psutil.wait_procs(family, timeout=15)[1]:
            orphan.kill()
