"""A run lives in a folder, and everything about it is a file there.

run.json          what was asked                 plan.json   how it is done
seal.json         both as they were when the run began, and its key (see workflows.seals)
checksums.sha256  what every file of the results is, a line each, for `voxcaliper verify` and sha256sum
ledger/           what is finished (see pipeline.ledger); only totals remain when the run is complete
run.log           what happened                  lock        held while a process works on the run
status.json       what the process says of itself while it works (see workflows.run_state)
timings.csv       seconds of every stage         performance.html   Dask's report, of runs that take a while
thickness.ome.zarr  statistics.json  histogram.csv  report.html  provenance.json   the results of a thickness run
comparison.json  comparison.csv  report.html  provenance.json  *.ome.zarr          those of a comparison
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import RunError, StorageError
from pipeline.files import PARTIAL, write_json
from pipeline.job import ledger_of
from pipeline.plain_text import one_line
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
from workflows.seals import SEAL, changed_keys, check_seal, write_seal
from workflows.sources import Sources

RESULTS = (
    "statistics.json", "statistics.csv", "histogram.csv", "detections.csv", "comparison.json", "comparison.csv",
    "regions.csv", "report.html",
)  # fmt: skip
"""What any kind of run leaves beside its maps, as far as it leaves it."""
MADE = (*RESULTS, "checksums.sha256", "timings.csv", "performance.html", "status.json")
"""Files that go when a run is restarted."""

Model = TypeVar("Model", bound=BaseModel)


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short, instead of printing a traceback for each line: the run itself says it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _LogLine(logging.Formatter):
    """A line for each entry, with control characters of names as escapes: logs are read in terminals."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


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
    def checksums(self) -> Path:
        return self.path / "checksums.sha256"

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

    def sources(self) -> Sources:
        """The fingerprints of what is read, as the plan of any kind of run has them."""
        return _load(_PlannedSources, self.path / "plan.json").sources

    def configuration(self) -> ThicknessConfig | ComparisonConfig:
        """The configuration of any kind of run."""
        return self.config() if self.workflow == "thickness" else self.comparison_config()

    def check_seal(self) -> str:
        """The key of a run that is what it was when it began. Raises RunError where it is not, naming what changed."""
        plan = self.plan() if self.workflow == "thickness" else self.comparison_plan()
        return check_seal(self.path, self.configuration(), plan)

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
        handler.setFormatter(_LogLine("%(asctime)s %(levelname)s %(message)s"))
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


class _PlannedSources(BaseModel):
    sources: Sources = {}


class _Header(RunConfig):
    model_config = ConfigDict(frozen=True, extra="ignore")
    workflow: str


def _load(kind: type[Model], path: Path) -> Model:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        hint = "check the folder"
        if path.name == "plan.json" and (path.parent / "run.json").exists():
            hint = f"restore it, or measure the run anew with `voxcaliper resume {path.parent} --restart`"
        raise RunError(f"{path.parent} is not a run of voxcaliper: {path.name} is missing; {hint}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = f"{where}: {first['msg']}" if where else first["msg"]
        raise RunError(f"{path} is not valid ({found}); restore it{_values(path)} or start a new run.") from error


def _values(path: Path) -> str:
    """Where the values of a configuration or a plan can be seen."""
    return f" (seal.json beside it holds its values under {path.stem!r})" if (path.parent / SEAL).exists() else ""


def create_run(path: Path, config: RunConfig, plan: BaseModel) -> RunFolder:
    """A new run folder with its configuration and plan. Raises RunError where something is there already."""
    run = RunFolder(Path(os.path.abspath(path)))
    if (run.path / "run.json").exists():
        hint = "its results are there" if run.is_complete else f"go on with `voxcaliper resume {path}`"
        raise RunError(
            f"{path} is a run already; {hint}, measure it anew with --restart, or choose another --run folder."
        )
    if run.path.exists() and (not run.path.is_dir() or any(_is_strange(path) for path in run.path.iterdir())):
        raise RunError(f"{path} exists and is not an empty folder; choose another --run folder.")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        asked, planned = config.model_dump(mode="json"), plan.model_dump(mode="json")
        write_json(run.path / "plan.json", planned)
        write_seal(run.path, asked, planned, before=None)
        write_json(run.path / "run.json", asked)
    except OSError as error:
        raise StorageError(f"The run folder {path} cannot be made: {error.strerror}; choose another place.") from error
    return run


def _is_strange(path: Path) -> bool:
    """Whether a file is not what a run leaves that ended before it had its configuration, which is written last."""
    return path.name not in ("plan.json", SEAL) and path.suffix != PARTIAL


def plan_again(run: RunFolder, plan: BaseModel) -> str:
    """Another plan for a run that has one; returns its key. What was made by the old one counts as not made."""
    before = json.loads((run.path / "plan.json").read_bytes())
    asked, planned = run.configuration().model_dump(mode="json"), plan.model_dump(mode="json")
    key = write_seal(run.path, asked, planned, before=before)
    write_json(run.path / "plan.json", planned)
    return key


def run_to_restart(path: Path, config: RunConfig) -> RunFolder | None:
    """The run of this configuration that lies in a folder; None where there is no run.

    Raises RunError where the run there was asked something else.
    """
    run = RunFolder(Path(os.path.abspath(path)))
    if not (run.path / "run.json").exists():
        return None
    changed = changed_keys(run.configuration(), config.model_dump(mode="json"))
    if changed:
        raise RunError(
            f"{path} is a run of another configuration ({', '.join(changed)}), which --restart keeps; choose another"
            " --run folder, or remove that one."
        )
    return run


def restart_run(run: RunFolder, plan: BaseModel) -> None:
    """Remove what a run made and give it another plan; run.json stays as it is.

    Raises LockedError where a process works on it, StorageError where something cannot be removed. A kill at any moment
    leaves a run that has to be restarted.
    """
    maps = ["thickness"] if run.workflow == "thickness" else list(COMPARISON_MAPS)
    images = [run.path / f"{name}.ome.zarr{ending}" for name in maps for ending in ("", PARTIAL)]
    asked, planned = run.configuration().model_dump(mode="json"), plan.model_dump(mode="json")
    with run.locked():
        try:
            # The marks of a run that is complete, or can go on, go first.
            for name in ("provenance.json", SEAL, "plan.json", *MADE):
                (run.path / name).unlink(missing_ok=True)
            for folder in (run.ledger, *images):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise StorageError(
                f"{error.filename} cannot be removed: {error.strerror or error}; mend the permissions there, then"
                " restart the run."
            ) from error
        write_json(run.path / "plan.json", planned)
        write_seal(run.path, asked, planned, before=None)


def tidy(run: RunFolder) -> None:
    """Remove the scratch of a complete run, unless it was asked for."""
    if not run.common.keep_scratch:
        ledger_of(run.path).forget_scratch()


def open_run_folder(path: Path) -> RunFolder:
    """An existing run folder."""
    run = RunFolder(Path(os.path.abspath(path)))
    run.configuration()
    return run
