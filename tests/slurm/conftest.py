"""One SLURM for all tests of this folder; they are left out of `make test`, and `make test-slurm` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.controller import Slurm, missing, started
from tests.slurm.runs import BLOCK, Profile
from tests.workflows.conftest import noise, store
from tests.workflows.runs import ROOT, results, voxcaliper

# In every Python of the tests: a task takes a little while before it is done, and notes what it did.
DAWDLING = """
import os, time
if os.environ.get("DAWDLE_SECONDS"):
    import pipeline.ledger
    filed = pipeline.ledger.write_parcel

    def dawdle(path, *arguments):
        time.sleep(float(os.environ["DAWDLE_SECONDS"]))
        size = filed(path, *arguments)
        with open(os.environ["DAWDLE_NOTES"], "a") as notes:
            notes.write(f"{path}\\n")
        return size

    pipeline.ledger.write_parcel = dawdle
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is marked slurm, and skipped with the reason where SLURM is not installed."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = missing() if here else None
    for item in here:
        item.add_marker(pytest.mark.slurm)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with started(tmp_path_factory.mktemp("slurm") / "daemons") as slurm:
        yield slurm


@pytest.fixture
def slurm(controller: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """SLURM with an empty queue; commands that a test starts find it, and their tasks dawdle."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(DAWDLING)
    added = {
        **{name: controller.environment[name] for name in ("SLURM_CONF", "PATH")},
        "PYTHONPATH": f"{tmp_path / 'start'}{os.pathsep}{ROOT}",
        "PYTHONUNBUFFERED": "1",
        "DAWDLE_SECONDS": "0.3",
        "DAWDLE_NOTES": str(tmp_path / "notes"),
    }
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**os.environ})
    controller.clear()
    yield controller
    left = [job for job in controller.jobs() if job.state != "COMPLETING"]
    controller.clear()
    assert not left, "no test leaves a job behind"


@pytest.fixture(scope="session")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 64³ voxels of 2 µm in shards of 32³."""
    return store(tmp_path_factory.mktemp("mask") / "mask.ome.zarr", noise((64, 64, 64)))


@pytest.fixture(scope="session")
def undisturbed(mask: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = voxcaliper(folder, "thickness", mask, "--run", folder / "run", "--block-shape", BLOCK, "--workers", 2)
    assert done.code == 0, done
    return results(folder / "run")


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return Profile(tmp_path / "profile.toml")
