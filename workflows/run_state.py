"""What the process that works on a run last said of itself: status.json in its folder."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

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


def read_state(run: RunFolder) -> RunState | None:
    """What the last driver said; None where none said anything readable."""
    try:
        return RunState.model_validate_json(run.status.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None
