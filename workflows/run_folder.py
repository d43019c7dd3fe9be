"""A run lives in a folder, and everything about it is a file there.

run.json          what was asked                 plan.json   how it is done
ledger/           what is finished (see pipeline.ledger); only totals remain when the run is complete
run.log           what happened                  lock        held while a process works on the run
thickness.ome.zarr  statistics.json  histogram.csv  report.html  provenance.json   the results
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import RunError, StorageError
from pipeline.files import write_json
from workflows.config import ThicknessConfig, ThicknessPlan

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. path : absolute."""

    path: Path

    @property
    def statistics(self) -> Path:
        return self.path / "statistics.json"

    @property
    def histogram(self) -> Path:
        return self.path / "histogram.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def map(self) -> Path:
        return self.path / "thickness.ome.zarr"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    @property
    def is_complete(self) -> bool:
        """Provenance is written last."""
        return self.provenance.exists()

    def config(self) -> ThicknessConfig:
        return _load(ThicknessConfig, self.path / "run.json")

    def plan(self) -> ThicknessPlan:
        return _load(ThicknessPlan, self.path / "plan.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off this run; the lock goes with the process, however it ends."""
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunError(f"{self.path} is being worked on by {holder}; wait for it or stop it.") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            yield

    @contextlib.contextmanager
    def logged(self) -> Iterator[logging.Logger]:
        """The run's own log, run.log."""
        logger = logging.getLogger(f"voxcaliper.{self.path}")
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield logger
        finally:
            logger.removeHandler(handler)
            handler.close()


def _load(kind: type[Model], path: Path) -> Model:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent} is not a run of voxcaliper: {path.name} is missing; check the folder."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is not valid ({where}: {first['msg']}); restore it or start a new run.") from error


def create_run(path: Path, config: ThicknessConfig, plan: ThicknessPlan) -> RunFolder:
    """A new run folder with its configuration and plan. Raises RunError where something is there already."""
    run = RunFolder(Path(os.path.abspath(path)))
    if (run.path / "run.json").exists():
        hint = "its results are there" if run.is_complete else f"go on with `voxcaliper resume {path}`"
        raise RunError(f"{path} is a run already; {hint}, or choose another --run folder.")
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{path} exists and is not an empty folder; choose another --run folder.")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "plan.json", plan.model_dump(mode="json"))
        write_json(run.path / "run.json", config.model_dump(mode="json"))
    except OSError as error:
        raise StorageError(f"The run folder {path} cannot be made: {error.strerror}; choose another place.") from error
    return run


def open_run_folder(path: Path) -> RunFolder:
    """An existing run folder."""
    run = RunFolder(Path(os.path.abspath(path)))
    run.config()
    return run
