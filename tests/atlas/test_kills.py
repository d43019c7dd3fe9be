"""A release that is killed at any moment: readers never miss anything, and the next run makes it whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.atlas.releases import Atlas, change_voxel, labels
from tests.workflows.conftest import Command
from tests.workflows.runs import ROOT


def test_killed_before_every_change_on_disk(here: Command, scheduler: str, tmp_path: Path) -> None:
    atlas = Atlas(
        tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n', head={"keep": 1}
    )
    for seed, name in enumerate(("one", "two")):
        atlas.add(name, labels(seed), workflows=["statistics"])
    assert atlas.run().code == 0
    for name in ("one", "two"):
        change_voxel(atlas.volume(name))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.atlas.kills", str(atlas.manifest)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}  # to be forked
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40, "there were fewer changes than a release makes"
