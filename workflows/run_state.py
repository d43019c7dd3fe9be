"""What the process that works on a run last said of itself: status.json in its folder.

Who knows the address of the dashboard may look at it, so that stands in a file of its own, private.json, which only the
owner of the run reads, and which goes with the process.
"""

from __future__ import annotations

import contextlib
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.security import sweep_credentials
from workflows.run_folder import RunFolder

SECONDS_BETWEEN_BEATS = 3.0
"""How often it is said."""


class RunState(BaseModel):
    """What the driver of a run last said of it: status.json.

    said : when. sentence : how it ended. stage_seconds, stage_found : since the stage began, and blocks that were
    finished before that. retries : batches handed out again because their worker died. jobs : of workers, by state.
    page : how the run stands, beside the dashboard. forwarding : brings both to another machine.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["running", "complete", "stopped"] = "running"
    sentence: str = ""
    process: int
    host: str
    began: datetime
    said: datetime
    stage: str = ""
    stage_seconds: float = 0.0
    stage_found: int = 0
    workers: int
    threads: int
    where: str
    device: str
    retries: int = 0
    jobs: dict[str, int] = {}
    dashboard: str = ""
    page: str = ""
    forwarding: str = ""


PRIVATE = ("dashboard", "page")


class Addresses(BaseModel):
    """Where a run is to be seen: private.json."""

    dashboard: str = ""
    page: str = ""


def write_addresses(run: RunFolder, state: RunState) -> None:
    """Keep them for the owner; not at all where the file system lets others read them."""
    path, draft = _private(run), run.path / "private.json.partial"
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077 == 0:
                file.write(Addresses(dashboard=state.dashboard, page=state.page).model_dump_json())
        os.replace(draft, path)


def forget_addresses(run: RunFolder) -> None:
    """Nobody answers there any more."""
    with contextlib.suppress(OSError):
        _private(run).unlink(missing_ok=True)


def sweep(run: RunFolder) -> None:
    """Remove what a process that was killed left for itself alone; nothing while one is at work."""
    if run.is_locked() is False:
        forget_addresses(run)
        for folder in (run.path, run.path / "jobs"):
            sweep_credentials(folder)


def _private(run: RunFolder) -> Path:
    return run.path / "private.json"


def _addresses(run: RunFolder) -> dict[str, str]:
    try:
        return Addresses.model_validate_json(_private(run).read_text(encoding="utf-8")).model_dump()
    except (OSError, ValidationError, ValueError):
        return {}


def read_state(run: RunFolder) -> RunState | None:
    """What the last driver said, and to its owner where it is to be seen; None where none said anything readable."""
    try:
        said = RunState.model_validate_json(run.status.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None
    return said.model_copy(update=_addresses(run))
