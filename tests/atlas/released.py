"""Two releases of a small atlas, made once for all tests that read catalogues and pages; none of them changes it."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.atlas.releases import SHAPE, Atlas, labels, write_volume
from tests.workflows.runs import Finished
from workflows.atlas.records import EntryRecord
from workflows.atlas.release_folder import ReleaseFolder, open_release
from workflows.cli import main

ABOUT = {"donor": "LADAF-1", "organ": "kidney", "type": "overview"}
NO_LABEL = 7
"""A label that is asked for and in no volume."""


@dataclass(frozen=True)
class Released:
    """An atlas and the identifiers of its releases.

    first : data sets "ball" (thickness with regions, statistics), "pair" (compare), "empty" (no foreground), "gone"
    (its source is missing) and "old". second : "ball" with another border, "old" taken out, "new" put in.
    """

    atlas: Atlas
    first: str
    second: str

    @property
    def root(self) -> Path:
        return self.atlas.root

    def release(self, identifier: str) -> ReleaseFolder:
        return open_release(self.root, identifier)

    def entry(self, name: str) -> EntryRecord:
        """An entry of the second release, by data set and workflow."""
        found = self.release(self.second).record.entries
        return next(entry for entry in found if f"{entry.dataset}/{entry.workflow}" == name)


def call(*arguments: object) -> Finished:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["voxcaliper", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def released(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Released:
    atlas = Atlas(
        tmp_path_factory.mktemp("released"), call, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n',
        head={"name": "Test & organs"},
    )  # fmt: skip
    regions = np.ones(SHAPE, np.uint8)
    regions[16:] = 2
    write_volume(atlas.volume("regions"), regions)
    atlas.add("ball", labels(1), workflows=["thickness", "statistics"], regions="volumes/regions.ome.zarr", about=ABOUT)
    atlas.add("pair", labels(2), workflows=["compare"], reference="volumes/ball.ome.zarr", labels=[1, NO_LABEL])
    atlas.add("empty", np.zeros(SHAPE, np.uint8), about={"organ": "lung"})
    atlas.add("gone", labels(3), about={"organ": "heart"})
    atlas.lose("gone")
    atlas.add("old", labels(4), workflows=["statistics"])
    assert atlas.run().code == 1, "one source is missing"
    first = atlas.release().identifier
    atlas.datasets["ball"] |= {"border": "closed", "about": ABOUT | {"donor": "LADAF-2"}}
    del atlas.datasets["old"]
    atlas.add("new", labels(5), workflows=["statistics"])
    assert atlas.run().code == 1
    return Released(atlas, first, atlas.release().identifier)
