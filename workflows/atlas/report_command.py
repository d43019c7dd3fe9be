"""The command that makes or remakes the catalogue and the page of the latest release of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RunError


def report(
    manifest: Annotated[Path, typer.Argument(metavar="RELEASE.toml", help="Manifest of the release.")],
    release: Annotated[str | None, typer.Option(help="Identifier of a release; default: the latest.")] = None,
    since: Annotated[str | None, typer.Option(help="Release to compare with; default: the one before.")] = None,
) -> None:
    """Make the catalogue and the page of a release again, and print where they are. No result is touched."""
    from workflows.atlas.manifest import read_manifest
    from workflows.atlas.release_folder import identifiers
    from workflows.atlas.release_page import write_release_page

    root = read_manifest(manifest)[0].output
    known = identifiers(root)
    if not known:
        raise RunError(f"{root} holds no release yet; make one with `voxcaliper atlas run {manifest}`.")
    page = write_release_page(root, release or known[-1], since)
    print(f"page       {page}")
    for name in ("catalogue.parquet", "catalogue.csv", "changes.csv"):
        print(f"{name.partition('.')[0]:<11}{page.with_name(name)}")
