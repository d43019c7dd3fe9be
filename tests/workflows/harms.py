"""What may become of the files of a run, and which kinds of files there are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.workflows.runs import Finished, flip

HARMS = ("flipped", "cut", "empty", "swapped", "foreign", "gone")
WRITTEN_LAST = ("provenance.json", "checksums.sha256")
RESULT_FILES = (
    "report.html", "statistics.json", "histogram.csv", "comparison.json", "comparison.csv", "regions.csv",
)  # fmt: skip
NOT_HELD = ("run.log", "lock", "status.json", "performance.html")
"""What a process says of itself while it works: no part of the results, and nothing goes on by it."""


def harm(run: Path, other: Path, victim: str, partner: str, what: str) -> bool:
    """Harm a file of a run; returns whether its bytes are others than before.

    victim, partner : paths in the run folder; the partner is what it is swapped with. other : a run on another volume.
    """
    path = run / victim
    before = path.read_bytes()
    if what == "flipped":
        flip(path, len(before) // 2)
    elif what == "cut":
        path.write_bytes(before[: len(before) // 2])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "swapped":
        path.write_bytes((run / partner).read_bytes())
        (run / partner).write_bytes(before)
    elif what == "foreign":
        path.write_bytes((other / victim).read_bytes())
    else:
        path.unlink()
    return not path.exists() or path.read_bytes() != before


def kinds(run: Path) -> Iterator[tuple[str, str]]:
    """A file of every kind of a run, and another that it may be swapped with."""
    stages = sorted(path.name for path in (run / "ledger").iterdir() if path.is_dir())
    for number, stage in enumerate(stages):
        found = sorted(path.relative_to(run) for path in (run / "ledger" / stage).rglob("*.parcel"))
        # A stage of one block has none to be swapped with but those of other stages.
        partner = found[(number + 1) % len(found)] if len(found) > 1 else f"ledger/{stages[number - 1]}/0/0.0.parcel"
        yield str(found[number % len(found)]), str(partner)
    totals = sorted(path.relative_to(run) for path in (run / "ledger").glob("*.json"))
    for number, path in enumerate(totals):
        yield str(path), str(totals[number - 1])
    noted = sorted(path.relative_to(run) for path in (run / "ledger").glob("*.parcel"))
    for number, path in enumerate(noted):
        yield str(path), str(noted[number - 1]) if len(noted) > 1 else f"ledger/{stages[0]}/0/0.0.parcel"
    for image in sorted(run.glob("*.ome.zarr")):
        yield str((image / "zarr.json").relative_to(run)), str((image / "0" / "zarr.json").relative_to(run))
        for level in sorted(path for path in image.iterdir() if path.is_dir()):
            yield str((level / "zarr.json").relative_to(run)), str((image / "zarr.json").relative_to(run))
            shards = sorted(path.relative_to(run) for path in (level / "c").rglob("*") if path.is_file())
            yield str(shards[-1]), str(shards[0]) if len(shards) > 1 else str((level / "zarr.json").relative_to(run))
    yield "run.json", "plan.json"
    yield "plan.json", "seal.json"
    yield "seal.json", "run.json"
    for name in (*RESULT_FILES, *WRITTEN_LAST, "timings.csv"):
        if (run / name).exists():
            yield name, str(totals[0])


def reopened(whole: Path, run: Path) -> Path:
    """A copy of a run as it was when all its stages were finished and no result was written."""
    shutil.copytree(whole, run)
    for name in (*RESULT_FILES, *WRITTEN_LAST):
        (run / name).unlink(missing_ok=True)
    return run


def linked(whole: Path, run: Path) -> Path:
    """A copy of a complete run that costs nothing: its files are links, and are to be replaced, not written into."""
    return Path(shutil.copytree(whole, run, copy_function=os.link))


def told(done: Finished, *names: str) -> bool:
    """Whether a command that failed said so in one sentence that names one of these."""
    lines = done.err.splitlines()
    return done.code == 1 and len(lines) == 1 and any(name in lines[0] for name in names)


def edited(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the contents of a JSON file."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
