"""How a release stands, from any machine that sees its output: out of its record, the lock, and the run being made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from workflows.atlas.manifest import read_manifest
from workflows.atlas.records import ReleaseRecord
from workflows.atlas.root import Root
from workflows.atlas.root_lock import is_root_locked
from workflows.atlas.run_release import STOPPED, TO_COME
from workflows.lock import holder
from workflows.status import run_status, what_is_left

MEANINGS = {
    "complete": "complete",
    "running": "running ({holder})",
    "stopped": "stopped, or its machine is gone: nobody works on it",
    "starting": "another one is beginning ({holder})",
}


def root_of(place: Path) -> Root:
    """The output root of a manifest, or of a folder that is one."""
    return Root(place.absolute() if place.is_dir() else read_manifest(place)[0].output)


def release_status(root: Root) -> dict[str, Any]:
    """Everything that `voxcaliper atlas status --json` prints.

    state : complete, running, stopped (by whatever) or starting (complete, and a process works on the next one).
    counts : entries by outcome. entries : as in the record of the release. run : of the entry that is being made, what
    `voxcaliper status --json` prints of it, and its name; null where none is.
    Raises RunError where there is no release.
    """
    release = root.newest()
    if release is None:
        raise RunError(f"{root.path} holds no release; make one with: voxcaliper atlas run RELEASE.toml")
    held = is_root_locked(root.path)
    finished = root.is_finished(release)
    state = ("starting" if held else "complete") if finished else ("running" if held else "stopped")
    return {
        "release": release.identifier,
        "name": release.name,
        "manifest": release.manifest,
        "output": str(root.path),
        "state": state,
        "holder": holder(root.lock) if held else "",
        "began": release.began.isoformat(),
        "ended": release.ended.isoformat() if release.ended else None,
        "counts": dict(Counter(entry.outcome for entry in release.entries)),
        "entries": [entry.model_dump(mode="json", exclude={"key"}) for entry in release.entries],
        "run": _run(root, release) if held else None,
    }


def _run(root: Root, release: ReleaseRecord) -> dict[str, Any] | None:
    """The run of the entry that is being made."""
    for entry in release.entries:
        if entry.outcome != "waiting":
            continue
        run = root.entry(entry.dataset, entry.workflow).work
        if not (run.path / "run.json").exists():
            continue
        try:
            found = run_status(run)
        except (RunError, OSError):  # published or begun anew in this moment
            continue
        if found["state"] == "running":
            return {"entry": f"{entry.dataset}/{entry.workflow}", **found}
    return None


def describe_release(status: dict[str, Any]) -> str:
    """The status as a person reads it."""
    return "\n".join(_lines(status))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    yield f"release     {status['release']} of {status['name']} ({status['manifest']})"
    yield f"output      {status['output']}"
    yield f"state       {MEANINGS[status['state']].format(holder=status['holder'])}"
    if status["state"] == "stopped":
        yield f"go on with  voxcaliper atlas run {status['manifest']}"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status["counts"].items()))
    yield f"entries     {len(status['entries'])}: {counts}"
    for entry in status["entries"]:
        if entry["outcome"] != "kept" and entry["message"] not in (TO_COME, STOPPED):
            yield f"{entry['outcome']:<12}{entry['dataset']}/{entry['workflow']}: {_why(entry)}"
    run = status["run"]
    if run is not None:
        blocks = f"{run['blocks']:,} of {run['of_blocks']:,} blocks"
        yield f"at work     {run['entry']}: {run['stage'] or 'beginning'}, {blocks}"
        yield f"            left {what_is_left(run)}"
        yield f"            more: voxcaliper status {run['run']}"


def _why(entry: dict[str, Any]) -> str:
    return " – ".join(text for text in (", ".join(entry["reasons"]), entry["message"]) if text)
