"""`voxcaliper verify`: of a run, or of every current version of a release."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError, StorageError
from workflows.atlas.manifest import read_manifest
from workflows.atlas.root import Root
from workflows.checksums import verify_run
from workflows.plan_thickness import gib
from workflows.run_folder import RunFolder


def verify_what(what: Path) -> bool:
    """Print what became of a run, or of the current versions of a release; returns whether all is as it was.

    Raises InputError where there is neither.
    """
    whole = True
    for name, run in _runs(Path(os.path.abspath(what))):
        if isinstance(run, str):
            print(f"damaged  {run}")
            whole = False
            continue
        found = verify_run(run, lambda sentence: print(f"damaged  {sentence}", flush=True))
        if found.damaged:
            whole = False
            print(f"damaged  {name}: {found.damaged:,} findings; restore what is damaged from a copy, or measure anew")
        else:
            print(f"whole    {name}: {found.files:,} files, {gib(found.bytes)}, as they were when the run was complete")
    return whole


def _runs(path: Path) -> Iterator[tuple[str, RunFolder | str]]:
    """Every run there, by its name; a sentence instead of a run where there should be one and is none."""
    if path.is_file():
        path = read_manifest(path)[0].output
    if (path / "entries").is_dir():
        yield from _current(Root(path))
    elif any((path / name).exists() for name in ("run.json", "seal.json", "plan.json", "provenance.json")):
        yield str(path), RunFolder(path)
    else:
        raise InputError(f"{path} is neither a run nor the output of a release; check the folder.")


def _current(root: Root) -> Iterator[tuple[str, RunFolder | str]]:
    for folder in root.entries():
        name = str(folder.path.relative_to(root.path / "entries"))
        try:
            record = folder.current()
        except StorageError as error:
            yield name, str(error)
            continue
        if record is not None and record.version is not None:
            yield f"{name} {record.version}", RunFolder(folder.path / "versions" / record.version)
        elif folder.versions():
            yield name, f"{name} has no current version that is whole; run the release again to make it."
