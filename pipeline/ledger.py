"""The ledger of a run: which block of which stage is done, and what it left behind.

    ledger/<stage>/<z>/<y>.<x>.parcel   one per finished task: its receipt and, for other blocks, its results
    ledger/<stage>.json                 one per finished stage: what all its receipts add up to
    ledger/<name>.parcel                what a stage noted for all blocks of those after it

Every file appears by renaming, so that killing any process at any moment leaves only whole files and *.partial
ones. Parcels stay until the run is complete, so that a damaged one can be made again from those before it. Every file
says inside its checksum of which run, stage and block it is, so that one of another place is as good as none.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.errors import DamagedError, StorageError
from pipeline.files import PARTIAL, file_sum, json_sum, write_json
from pipeline.geometry import Index
from pipeline.parcels import Content, Parcel, Shelf, open_parcel, write_parcel

_SHELF = Shelf()
SHARDS = "shards"
"""In the summary of a receipt: what the task wrote beside it, path in the run folder -> [bytes, SHA-256]."""
SEAL = "seal"
"""In the totals of a stage: of what they are, and the sum of all else."""
SECONDS_OF_ANOTHER = 2.0
TOTALS = frozenset({"tasks", "tasks_now", "wall_seconds"})
"""What totals have at least."""


@dataclass(frozen=True)
class Ledger:
    """Where a run keeps its receipts.

    folder : the `ledger` folder of the run. key : of the run, in every file; without one (who only counts) totals of
    any run are taken. thorough : a receipt counts only when every byte of it and of what its task wrote beside it is as
    it was, and what was written is on the disk; otherwise those who read a part find the damage.
    """

    folder: Path
    key: str = ""
    thorough: bool = False

    def path(self, stage: str, block: Index) -> Path:
        z, y, x = block
        return self.folder / stage / str(z) / f"{y}.{x}.parcel"

    def commit(
        self, stage: str, block: Index, summary: Mapping[str, Any],
        arrays: Mapping[str, Content] | Iterable[tuple[str, Content]],
    ) -> int:  # fmt: skip
        """File the receipt of a finished task as `write_parcel` does; returns its size in bytes."""
        return write_parcel(self.path(stage, block), summary, arrays, self._of(stage, block))

    def beside(self, written: Iterable[Path]) -> dict[str, tuple[int, str]]:
        """The files that a task wrote a moment ago beside its receipt, as its summary has them under SHARDS."""
        return {os.path.relpath(path, self.folder.parent): _sum_of(path) for path in written}

    def receipt(self, stage: str, block: Index) -> Parcel:
        """The receipt of a task that an earlier stage has finished. Raises DamagedError where there is none."""
        path = self.path(stage, block)
        try:
            return _own(_SHELF.open(path), self._of(stage, block))
        except FileNotFoundError as error:
            raise DamagedError(
                f"The intermediate file {path} is missing; run `voxcaliper resume` on the run folder to make it again."
            ) from error

    def receipts(self, stage: str, blocks: Iterable[Index]) -> Iterator[tuple[Index, Parcel]]:
        """The receipts of all tasks of a finished stage, one after the other. Raises DamagedError as `receipt`."""
        return ((block, self.receipt(stage, block)) for block in blocks)

    def read(self, stage: str, block: Index, name: str) -> npt.NDArray[Any]:
        return self.receipt(stage, block).read(name)

    def finished(self, stage: str, block: Index) -> Parcel | None:
        """The receipt of a task; None where it is not done. A damaged receipt counts as none."""
        try:
            parcel = _own(open_parcel(self.path(stage, block)), self._of(stage, block))
            if self.thorough:
                parcel.check()
            whole = all(self._is_whole(name, *told) for name, told in parcel.summary.get(SHARDS, {}).items())
        except (OSError, StorageError):
            return None
        return parcel if whole else None

    def _is_whole(self, name: str, size: int, digest: str) -> bool:
        """Whether what a task wrote beside its receipt is there as it was. Raises OSError where it is not there."""
        path = self.folder.parent / name
        if not self.thorough:
            return path.stat().st_size == size
        return file_sum(path, durable=True) == (size, digest)

    def blocks(self, stage: str) -> Iterator[Index]:
        """The blocks that have a receipt, by the names of the files; none is opened."""
        for folder in _listed(self.folder / stage):
            for entry in _listed(folder):
                y, _, x = entry.name.removesuffix(".parcel").partition(".")
                if entry.name.endswith(".parcel") and all(part.isdecimal() for part in (folder.name, y, x)):
                    yield int(folder.name), int(y), int(x)

    def count(self, stage: str) -> int:
        """How many receipts there are, by their names; none is opened."""
        return sum(1 for _ in self.blocks(stage))

    def note(self, name: str, arrays: Mapping[str, Content]) -> None:
        """File what a stage found out of all its blocks, for every task of those after it."""
        write_parcel(self.folder / f"{name}.parcel", {}, arrays, f"{self.key} {name}")

    def noted(self, name: str) -> Parcel:
        """What `note` filed. Raises DamagedError where it is not there or damaged."""
        path = self.folder / f"{name}.parcel"
        try:
            return _own(open_parcel(path), f"{self.key} {name}")
        except FileNotFoundError as error:
            raise DamagedError(
                f"The intermediate file {path} is missing; run `voxcaliper resume` on the run folder to make it again."
            ) from error

    def is_noted(self, name: str) -> bool:
        """Whether what `note` filed is there, whole."""
        try:
            self.noted(name).check()
        except StorageError:
            return False
        return True

    def finish_stage(self, stage: str, totals: Mapping[str, Any]) -> None:
        of = f"{self.key} {stage}"
        write_json(self.folder / f"{stage}.json", {**totals, SEAL: {"of": of, "sha256": json_sum([of, totals])}})

    def stage_totals(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage added up to; None while it is not finished. Damaged totals are added up again."""
        try:
            content = json.loads((self.folder / f"{stage}.json").read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        seal = content.pop(SEAL, None)
        if seal is None:  # of a run that had no key
            return content if not self.key and content.keys() >= TOTALS else None
        try:
            of, whole = seal["of"], seal["sha256"] == json_sum([seal["of"], content])
        except (KeyError, TypeError, ValueError):
            return None
        mine = of == f"{self.key} {stage}" or (not self.key and str(of).endswith(f" {stage}"))
        return content if whole and mine else None

    def forget_scratch(self) -> None:
        """Remove all receipts of a complete run; the totals of its stages stay."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".json":
                path.unlink()

    def sweep(self) -> None:
        """Remove what killed tasks were writing."""
        for orphan in self.folder.glob(f"**/*{PARTIAL}"):
            orphan.unlink(missing_ok=True)

    def _of(self, stage: str, block: Index) -> str:
        return f"{self.key} {stage} {'.'.join(map(str, block))}"


def _own(parcel: Parcel, of: str) -> Parcel:
    """A parcel that is of what it should be."""
    if parcel.of != of:
        raise DamagedError(
            f"The intermediate file {parcel.path} is of another block or run ({parcel.of}, not {of}); delete it and run"
            " `voxcaliper resume` on the run folder."
        )
    return parcel


def _sum_of(path: Path) -> tuple[int, str]:
    try:
        return file_sum(path)
    except FileNotFoundError:  # a worker that was given up for dead is writing it, too
        time.sleep(SECONDS_OF_ANOTHER)
        return file_sum(path)


def _listed(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
