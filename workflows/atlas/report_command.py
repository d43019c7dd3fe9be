"""The command that makes or remakes the catalogue and the page of the latest release of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RunError
from workflows.options import say


def report(
    manifest: Annotated[Path, typer.Argument(metavar="RELEASE.toml", help="Manifest of the release.")],
    release: Annotated[
        str | None, typer.Option(help="Identifier of a release; default: the last one that came to its end.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Release to compare with; default: the one before.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another process that works on the output.")] = False,
) -> None:
    """Make the catalogue and the page of a release again, and print where they are. No result is touched."""
    from workflows.atlas.manifest import read_manifest
    from workflows.atlas.release_folder import find_release, identifiers
    from workflows.atlas.release_page import write_release_page
    from workflows.atlas.root_lock import root_locked

    root = read_manifest(manifest)[0].output
    known = identifiers(root)
    if not known:
        raise RunError(f"{root} holds no release yet; make one with `voxcaliper atlas run {manifest}`.")
    with root_locked(root, wait=wait, say=say):
        found = (find_release(root, name) for name in reversed(known))
        ended = (one.record.identifier for one in found if one is not None and one.record.ended is not None)
        page = write_release_page(root, release or next(ended, known[-1]), since)
    print(f"page       {page}")
    for label, name in (("catalogue", "catalogue.parquet"), ("as CSV", "catalogue.csv"), ("changes", "changes.csv")):
        print(f"{label:<11}{page.with_name(name)}")
