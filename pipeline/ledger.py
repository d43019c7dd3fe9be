"""The ledger of a run: which block of which stage is done, and what it left behind.

    ledger/<stage>/<z>/<y>.<x>.parcel   one per finished task: its receipt and, for other blocks, its results
    ledger/<stage>.json                 one per finished stage: what all its receipts add up to

Every file appears by renaming, so that killing any process at any moment leaves only whole files and *.partial
ones. Parcels stay until the run is complete, so that a damaged one can be made again from those before it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.errors import StorageError
from pipeline.files import PARTIAL, write_json
from pipeline.geometry import Index
from pipeline.parcels import Content, Parcel, Shelf, open_parcel, write_parcel

_SHELF = Shelf()


@dataclass(frozen=True)
class Ledger:
    """Where a run keeps its receipts. folder : the `ledger` folder of the run."""

    folder: Path

    def path(self, stage: str, block: Index) -> Path:
        z, y, x = block
        return self.folder / stage / str(z) / f"{y}.{x}.parcel"

    def commit(
        self, stage: str, block: Index, summary: Mapping[str, Any],
        arrays: Mapping[str, Content] | Iterable[tuple[str, Content]],
    ) -> int:  # fmt: skip
        """File the receipt of a finished task as `write_parcel` does; returns its size in bytes."""
        return write_parcel(self.path(stage, block), summary, arrays)

    def receipt(self, stage: str, block: Index) -> Parcel:
        """The receipt of a task that an earlier stage has finished."""
        try:
            return _SHELF.open(self.path(stage, block))
        except FileNotFoundError as error:
            raise StorageError(
                f"The intermediate file {self.path(stage, block)} is missing;"
                " run `voxcaliper resume` on the run folder to make it again."
            ) from error

    def read(self, stage: str, block: Index, name: str) -> npt.NDArray[Any]:
        return self.receipt(stage, block).read(name)

    def finished(self, stage: str, block: Index) -> Parcel | None:
        """The receipt of a task; None where it is not done. A damaged receipt counts as none."""
        try:
            return open_parcel(self.path(stage, block))
        except (FileNotFoundError, StorageError):
            return None

    def finished_tasks(self, stage: str) -> Iterator[tuple[Index, Parcel]]:
        """Receipts on disk, opened one after the other; a damaged one counts as not done."""
        for folder in _listed(self.folder / stage):
            for entry in _listed(folder):
                if not entry.name.endswith(".parcel"):
                    continue
                y, x = entry.name.split(".")[:2]
                block = int(folder.name), int(y), int(x)
                parcel = self.finished(stage, block)
                if parcel is not None:
                    yield block, parcel

    def count(self, stage: str) -> int:
        """How many receipts there are, by their names; none is opened."""
        return sum(
            entry.name.endswith(".parcel") for folder in _listed(self.folder / stage) for entry in _listed(folder)
        )

    def finish_stage(self, stage: str, totals: Mapping[str, Any]) -> None:
        write_json(self.folder / f"{stage}.json", totals)

    def stage_totals(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage added up to; None while it is not finished."""
        try:
            content: dict[str, Any] = json.loads((self.folder / f"{stage}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # damaged totals are added up again
            return None
        return content

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


def _listed(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
