"""A run lives in a folder, and everything about it is a file there.

run.json          what was asked                 plan.json   how it is done
ledger/           what is finished (see pipeline.ledger); only totals remain when the run is complete
run.log           what happened                  lock        held while a process works on the run
status.json       what the process says of itself while it works (see workflows.run_state)
timings.csv       seconds of every stage         performance.html   Dask's report, of runs that take a while
thickness.ome.zarr  statistics.json  histogram.csv  report.html  provenance.json   the results of a thickness run
comparison.json  comparison.csv  report.html  provenance.json  *.ome.zarr          those of a comparison
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import RunError, StorageError
from pipeline.files import PARTIAL, write_json
from pipeline.job import ledger_of
from workflows.config import (
    COMPARISON_MAPS,
    ComparisonConfig,
    ComparisonPlan,
    RunConfig,
    StagePlan,
    ThicknessConfig,
    ThicknessPlan,
)
from workflows.lock import is_locked, locked

Model = TypeVar("Model", bound=BaseModel)


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short, instead of printing a traceback for each line: the run itself says it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


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
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def timings(self) -> Path:
        return self.path / "timings.csv"

    @property
    def performance(self) -> Path:
        return self.path / "performance.html"

    @property
    def is_complete(self) -> bool:
        """Provenance is written last."""
        return self.provenance.exists()

    @property
    def workflow(self) -> str:
        """Which kind of run it is: thickness, compare or statistics."""
        return _load(_Header, self.path / "run.json").workflow

    @property
    def common(self) -> RunConfig:
        """What the configuration of every kind of run has."""
        return _load(_Header, self.path / "run.json")

    def config(self) -> ThicknessConfig:
        """The configuration of a thickness run."""
        return _load(ThicknessConfig, self.path / "run.json")

    def plan(self) -> ThicknessPlan:
        """The plan of a thickness run."""
        return _load(ThicknessPlan, self.path / "plan.json")

    def comparison_config(self) -> ComparisonConfig:
        """The configuration of a comparison."""
        return _load(ComparisonConfig, self.path / "run.json")

    def comparison_plan(self) -> ComparisonPlan:
        """The plan of a comparison."""
        return _load(ComparisonPlan, self.path / "plan.json")

    def wanted_maps(self) -> list[Path]:
        """The maps that its configuration asks for."""
        if self.workflow == "thickness":
            return [self.map] if self.config().map != "none" else []
        names = COMPARISON_MAPS if self.comparison_config().stores_maps else ()
        return [self.path / f"{name}.ome.zarr" for name in names]

    def stages(self) -> tuple[StagePlan, ...]:
        """The stages of the plan of any kind of run, in their order."""
        return _load(_PlannedStages, self.path / "plan.json").stages

    def is_locked(self) -> bool | None:
        """Whether a process works on the run; None where the file system cannot tell."""
        return is_locked(self.path / "lock")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off this run; the lock goes with the process, however it ends."""
        with locked(self.path / "lock", str(self.path)):
            yield

    @contextlib.contextmanager
    def logged(self) -> Iterator[logging.Logger]:
        """The run's own log, run.log."""
        logger = logging.getLogger(f"voxcaliper.{self.path}")
        try:
            handler: logging.Handler = _LogFile(self.path / "run.log", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{self.path / 'run.log'} cannot be made: {error.strerror}; make room or mend the permissions there,"
                " then resume the run."
            ) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield logger
        finally:
            logger.removeHandler(handler)
            handler.close()


class _PlannedStages(BaseModel):
    stages: tuple[StagePlan, ...]


class _Header(RunConfig):
    model_config = ConfigDict(frozen=True, extra="ignore")
    workflow: str


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


def create_run(path: Path, config: RunConfig, plan: BaseModel) -> RunFolder:
    """A new run folder with its configuration and plan. Raises RunError where something is there already."""
    run = RunFolder(Path(os.path.abspath(path)))
    if (run.path / "run.json").exists():
        hint = "its results are there" if run.is_complete else f"go on with `voxcaliper resume {path}`"
        raise RunError(f"{path} is a run already; {hint}, or choose another --run folder.")
    if run.path.exists() and (not run.path.is_dir() or any(_is_strange(path) for path in run.path.iterdir())):
        raise RunError(f"{path} exists and is not an empty folder; choose another --run folder.")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "plan.json", plan.model_dump(mode="json"))
        write_json(run.path / "run.json", config.model_dump(mode="json"))
    except OSError as error:
        raise StorageError(f"The run folder {path} cannot be made: {error.strerror}; choose another place.") from error
    return run


def _is_strange(path: Path) -> bool:
    """Whether a file is not what a run leaves that ended before it had its configuration, which is written last."""
    return path.name != "plan.json" and path.suffix != PARTIAL


def tidy(run: RunFolder) -> None:
    """Remove the scratch of a complete run, unless it was asked for."""
    if not run.common.keep_scratch:
        ledger_of(run.path).forget_scratch()


def open_run_folder(path: Path) -> RunFolder:
    """An existing run folder."""
    run = RunFolder(Path(os.path.abspath(path)))
    if run.workflow == "thickness":
        run.config()
    else:
        run.comparison_config()
    return run
