"""What a complete run is made of, file by file: checksums.sha256, sealed in its provenance, and what became of it.

A line has the SHA-256 of a file and its path in the run folder, as sha256sum writes and checks them: about 100 bytes a
shard of the maps. It is written and read line by line, so no memory grows with it. provenance.json, which is written
last, holds the sum of that file and its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison import ComparisonJob
from pipeline.engine import Stage
from pipeline.errors import RunError, StorageError
from pipeline.files import file_sum, json_sum, sync_folder, whole_file
from pipeline.job import ThicknessJob, ledger_of
from pipeline.ledger import SHARDS
from workflows.run_folder import RESULTS, RunFolder
from workflows.seals import SEAL, read_seal

SEALED = "sealed"
"""In the provenance: the key of the run, the sum of the checksums, and that of all else of the provenance."""
ALWAYS = ("run.json", "plan.json", SEAL, "timings.csv")
LINE = re.compile(rb"([0-9a-f]{64})  ([^\r\n]+)\n")
READERS = min(8, os.cpu_count() or 1)
"""Files that are read at a time; each takes 1 MiB."""


def sealed(
    run: RunFolder, job: ThicknessJob | ComparisonJob, stages: Iterable[Stage], provenance: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Write the checksums of a run whose results are written; returns its provenance, with their seal.

    Every file is on the disk then, under its name: shards were flushed when they were checked. Raises DamagedError
    where a receipt is not there, OSError as it comes.
    """
    stages = list(stages)
    for folder in itertools.chain([job.ledger.folder], *(image.folders() for image in job.images)):
        sync_folder(folder)
    plain = json.loads(json.dumps(provenance))
    lines, size, summed = 0, 0, hashlib.sha256()
    with whole_file(run.checksums) as file:
        for digest, name in _sums(run, job, stages):
            line = f"{digest}  {name}\n".encode()
            file.write(line)
            summed.update(line)
            lines, size = lines + 1, size + len(line)
    noted = {"file": run.checksums.name, "lines": lines, "bytes": size, "sha256": summed.hexdigest()}
    seal = {"key": job.ledger.key, "checksums": noted}
    return {**plain, SEALED: {**seal, "sha256": json_sum({**plain, SEALED: seal})}}


def _sums(
    run: RunFolder, job: ThicknessJob | ComparisonJob, stages: list[Stage]
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Sum and path in the run folder of every file: results first, then the maps' metadata and shards."""
    totals = (str(Path(job.ledger.folder.name, f"{stage.name}.json")) for stage in stages)
    names = [name for name in (*ALWAYS, *RESULTS) if (run.path / name).exists()]
    metadata = (
        str((image.path / level / "zarr.json").relative_to(run.path))
        for image in job.images
        for level in ("", *map(str, range(len(image.level_shapes))))
    )
    for name in (*names, *totals, *metadata):
        yield file_sum(run.path / name, durable=True)[1], name
    for stage in stages:
        if stage.writes:
            for _, receipt in job.ledger.receipts(stage.name, stage.grid):
                yield from ((digest, name) for name, (_, digest) in receipt.summary[SHARDS].items())


@dataclass
class Verified:
    """How much was read, and how many files are damaged."""

    files: int = 0
    bytes: int = 0
    damaged: int = 0


def verify_run(run: RunFolder, tell: Callable[[str], None]) -> Verified:
    """Read every file of a run and hold it against what was noted of it. tell : called with a sentence for each damage.

    A run that is not complete is damaged, too; of what it has made so far is told what `resume` would make again.
    """
    found = Verified()
    for sentence in _damages(run, found):
        found.damaged += 1
        tell(sentence)
    return found


def _damages(run: RunFolder, found: Verified) -> Iterator[str]:
    try:
        provenance = json.loads(run.provenance.read_bytes())
        seal = provenance[SEALED]
        stated = json_sum({**provenance, SEALED: {name: seal[name] for name in ("key", "checksums")}})
        whole, noted, key = stated == seal["sha256"], seal["checksums"], seal["key"]
    except FileNotFoundError:
        yield f"{run.provenance} is missing: the run is not complete, or somebody removed it."
        yield from _damages_of_unfinished(run, found)
        return
    except (KeyError, TypeError, ValueError, RecursionError):
        if _was_never_sealed(run):
            yield f"{run.path} was made before runs were sealed, so there is nothing to hold its files against."
        else:
            yield f"{run.provenance} is damaged: it does not say what the checksums are."
        return
    found.files += 1
    if not whole:
        yield f"{run.provenance} is not as it was written: its own sum does not match."
        return
    try:
        said = file_sum(run.checksums)
    except OSError as error:
        yield f"{run.checksums} cannot be read ({error.strerror}), so nothing can be held against it."
        return
    if said != (noted["bytes"], noted["sha256"]):
        yield f"{run.checksums} is not what provenance.json says of it, so nothing can be held against it."
        return
    found.files, found.bytes = found.files + 1, found.bytes + said[0]
    yield from _damaged_files(run, found)
    yield from _foreign_key(run, key)
    yield from _damaged_receipts(run, key, found, shards=False)


def _was_never_sealed(run: RunFolder) -> bool:
    """Whether a complete run is of a time before seals, as far as what is left of it says."""
    if run.checksums.exists() or (run.path / SEAL).exists():
        return False
    try:
        return SEALED not in json.loads(run.provenance.read_bytes())
    except (ValueError, TypeError, RecursionError):
        return False


def _damaged_files(run: RunFolder, found: Verified) -> Iterator[str]:
    """What is not as its line says; some files are read at a time."""
    waiting: deque[tuple[Path, str, Future[tuple[int, str]]]] = deque()

    def told() -> Iterator[str]:
        path, digest, future = waiting.popleft()
        try:
            size, summed = future.result()
        except FileNotFoundError:
            yield f"{path} is missing."
            return
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror or error}."
            return
        found.files, found.bytes = found.files + 1, found.bytes + size
        if summed != digest:
            yield f"{path} is not what was written: its SHA-256 is another one ({size:,} bytes)."

    with run.checksums.open("rb") as lines, ThreadPoolExecutor(READERS) as threads:
        for line in lines:
            if parts := LINE.fullmatch(line):
                path = run.path / os.fsdecode(parts[2])
                waiting.append((path, parts[1].decode(), threads.submit(file_sum, path)))
            if len(waiting) > 4 * READERS:
                yield from told()
        while waiting:
            yield from told()


def _foreign_key(run: RunFolder, key: str) -> Iterator[str]:
    try:
        if read_seal(run.path)["key"] != key:
            yield f"{run.provenance} is of another run than {run.path / SEAL}."
    except RunError as error:
        if (run.path / SEAL).exists():  # that it is missing was told
            yield str(error)


def _damages_of_unfinished(run: RunFolder, found: Verified) -> Iterator[str]:
    """What is not as it was asked, and what `resume` would make again."""
    try:
        key = run.check_seal()
    except RunError as error:
        yield str(error)
        return
    yield from _damaged_receipts(run, key, found, shards=True)


def _damaged_receipts(run: RunFolder, key: str, found: Verified, *, shards: bool) -> Iterator[str]:
    """The intermediate files that are left, and what was written beside them, as far as they are not whole."""
    ledger = ledger_of(run.path, key)
    for path in sorted(ledger.folder.glob("*.parcel")):
        found.files += 1
        try:
            ledger.noted(path.stem).check()
        except StorageError as error:
            yield str(error)
    for stage in (path.name for path in sorted(ledger.folder.glob("*")) if path.is_dir()):
        for block in ledger.blocks(stage):
            found.files += 1
            try:
                receipt = ledger.receipt(stage, block)
                receipt.check()
                found.bytes += receipt.stored_bytes
                for name, told in receipt.summary.get(SHARDS, {}).items() if shards else ():
                    found.files, found.bytes = found.files + 1, found.bytes + told[0]
                    if not (run.path / name).exists():
                        yield f"{run.path / name} is missing; `voxcaliper resume {run.path}` makes it again."
                    elif list(file_sum(run.path / name)) != list(told):
                        yield (
                            f"{run.path / name} is not what was written: its SHA-256 is another one; `voxcaliper"
                            f" resume {run.path}` makes it again."
                        )
            except (StorageError, OSError) as error:
                yield str(error)
