"""How a run stands, from anywhere that sees its folder: out of its ledger, and what its process last said."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipeline.job import ledger_of
from pipeline.plain_text import one_line
from workflows.estimate import StageState, estimate, states_of
from workflows.progress import duration
from workflows.run_folder import RunFolder
from workflows.run_state import SECONDS_BETWEEN_BEATS, RunState, read_state

SILENT_SECONDS = 10 * SECONDS_BETWEEN_BEATS
"""A process that says nothing for longer is taken for dead where the file system cannot tell."""

MEANINGS = {
    "complete": "complete",
    "running": "running",
    "stopped": "stopped: {sentence}",
    "killed": "killed, or its machine is gone: nobody works on it",
    "new": "planned, and not begun",
}


def run_status(run: RunFolder) -> dict[str, Any]:
    """Everything that `voxcaliper status --json` prints.

    state : complete, running, stopped (with the sentence it ended with), killed (it ended without one) or new.
    seconds_left : of the whole run at the pace so far, null while nothing is known; unmeasured : stages that have not
    begun, which it takes at their usual share. seconds of a stage : those of the last process at work on it.
    """
    said = read_state(run)
    state = _state(run, said)
    stages = _stages(run, said, running=state == "running")
    if state == "new" and any(stage.done for stage in stages):
        state = "killed"
    left = estimate(stages)
    current = next((stage for stage in stages if said and stage.name == said.stage and not stage.is_finished), None)
    return {
        "run": str(run.path),
        "workflow": run.workflow,
        "state": state,
        "sentence": said.sentence if said and state == "stopped" else "",
        "stage": current.name if current and state == "running" else None,
        "blocks": sum(stage.done for stage in stages),
        "of_blocks": sum(stage.blocks for stage in stages),
        "seconds_left": left.seconds if state != "complete" else 0.0,
        "unmeasured": list(left.unmeasured),
        "stages": [
            {
                "name": stage.name,
                "blocks": stage.done,
                "of_blocks": stage.blocks,
                "finished": stage.is_finished,
                "blocks_per_second": 1 / stage.pace if stage.pace else None,
                "seconds": stage.seconds,
            }
            for stage in stages
        ],
        "process": None if said is None else said.model_dump(mode="json", exclude={"state", "sentence", "stage"}),
    }


def _state(run: RunFolder, said: RunState | None) -> str:
    if run.is_complete:
        return "complete"
    held = run.is_locked()
    if held is None:
        held = said is not None and said.state == "running" and _silence(said) < SILENT_SECONDS
    if held:
        return "running"
    if said is None:
        return "new"
    return "killed" if said.state == "running" else said.state


def _silence(said: RunState) -> float:
    return (datetime.now(UTC) - said.said).total_seconds()


def _stages(run: RunFolder, said: RunState | None, *, running: bool) -> list[StageState]:
    """The stages as the ledger has them; the one at work with the pace that its process says."""
    stages = states_of(run.stages(), ledger_of(run.path))
    for n, stage in enumerate(stages):
        if said is None or stage.name != said.stage or stage.is_finished or stage.done <= said.stage_found:
            continue
        # Receipts are counted now, seconds were said a moment ago, by a clock that may be another one.
        since = min(max(_silence(said), 0.0), SECONDS_BETWEEN_BEATS) if running else 0.0
        stages[n] = replace(stage, pace=(said.stage_seconds + since) / (stage.done - said.stage_found))
    return stages


def meaning(status: dict[str, Any]) -> str:
    """The state of a run, for a person."""
    return MEANINGS[status["state"]].format(sentence=status["sentence"])


def describe_status(status: dict[str, Any]) -> str:
    """The status as a person reads it."""
    return "\n".join(map(one_line, _lines(status)))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    process = status["process"]
    yield f"run         {status['run']} ({status['workflow']})"
    yield f"state       {meaning(status)}"
    if status["state"] in ("stopped", "killed", "new"):
        yield f"go on with  voxcaliper resume {status['run']}"
    yield "stages                     blocks                 blocks/s"
    for stage in status["stages"]:
        blocks = f"{stage['blocks']:,} of {stage['of_blocks']:,}"
        rate = stage["blocks_per_second"]
        spent = f"  finished in {duration(stage['seconds'])}" if stage["finished"] else ""
        at_work = "  at work" if stage["name"] == status["stage"] else ""
        yield f"  {stage['name']:<22}{blocks:>19}{f'{rate:,.3g}' if rate else '–':>18}{spent}{at_work}"
    share = status["blocks"] / max(status["of_blocks"], 1)
    yield f"done        {share:.0%}: {status['blocks']:,} of {status['of_blocks']:,} blocks of all stages"
    if status["state"] != "complete":
        yield f"left        {what_is_left(status)}"
    if process is None:
        return
    jobs = ", ".join(f"{count} {state}" for state, count in process["jobs"].items())
    yield (
        f"workers     {process['workers']} ({process['threads']} threads, {process['device'].upper()}) on"
        f" {process['where']}" + (f"; jobs: {jobs}" if jobs else "")
    )
    yield f"lost        {process['retries']} batches were handed out again because their worker died"
    began, said = (datetime.fromisoformat(process[key]).astimezone() for key in ("began", "said"))
    yield f"process     {process['process']} on {process['host']}, since {began:%c}, heard of at {said:%c}"
    if process["dashboard"] and status["state"] == "running":
        yield f"dashboard   {process['dashboard']}  (for you alone: who knows it can look)"
        yield f"page        {process['page']}"
        if process["forwarding"] and process["host"] != socket.gethostname():
            yield f"            first: {process['forwarding']}"


def what_is_left(status: dict[str, Any]) -> str:
    """How long a run takes yet, and how well that is known."""
    if status["seconds_left"] is None:
        return "unknown before the first blocks are done"
    text = f"about {duration(status['seconds_left'])}" + (" of work" if status["state"] != "running" else "")
    if status["unmeasured"]:
        text += f" ({', '.join(status['unmeasured'])} not begun: usual shares)"
    return text
