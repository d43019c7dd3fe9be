"""Masks on disk, a running Dask cluster, and the command line called in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from scipy import ndimage

from pipeline.geometry import VoxelSize
from tests.workflows.runs import TIMEOUT_SECONDS, Finished, environment
from workflows.cli import main
from workflows.convert_volume import convert

Command = Callable[..., Finished]


def noise(shape: tuple[int, int, int], sigma: float = 2, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Smooth noise, half of it foreground."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return np.asarray(field > 0)


def store(path: Path, voxels: npt.NDArray[Any], *, um: float = 2.0, side: int = 32) -> Path:
    """An OME-Zarr image of an array, written by `convert`."""
    source = path.with_suffix(".npy")
    np.save(source, voxels)
    convert(str(source), path, voxel_size=VoxelSize((um, um, um)), block_shape=(side, side, side), kind="labels")
    return path


@pytest.fixture(scope="session")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 64³ voxels of 2 µm in shards of 32³."""
    return store(tmp_path_factory.mktemp("mask") / "mask.ome.zarr", noise((64, 64, 64)))


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, in processes of their own."""
    folder = tmp_path_factory.mktemp("scheduler")
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment())
            for command in (
                [*dask, "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}"],
                [*dask, "worker", "--nworkers=2", "--nthreads=1", "--no-dashboard", f"--scheduler-file={file}"],
            )
        ]
    try:
        limit = time.monotonic() + TIMEOUT_SECONDS
        while not file.exists() or (folder / "log").read_text("utf-8").count("Registered to") < 2:
            assert time.monotonic() < limit, (folder / "log").read_text("utf-8")
            time.sleep(0.05)
        yield json.loads(file.read_text("utf-8"))["address"]
    finally:
        family = [child for process in processes for child in psutil.Process(process.pid).children(recursive=True)]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        for orphan in psutil.wait_procs(family, timeout=30)[1]:
            orphan.kill()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: as fast as a function, with its exit code and output."""

    def call(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["voxcaliper", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    return call


@pytest.fixture
def measure(here: Command, scheduler: str) -> Command:
    """`voxcaliper thickness MASK --run RUN …` on the running cluster."""

    def call(mask: Path, run: Path, *options: object) -> Finished:
        return here("thickness", mask, "--run", run, "--scheduler", scheduler, "--quiet", *options)

    return call
