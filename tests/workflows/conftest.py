"""Masks on disk, a running Dask cluster, and the command line called in this process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from pipeline.geometry import VoxelSize
from tests.workflows.runs import Finished, started_scheduler
from workflows.cli import main
from workflows.convert_volume import convert

Command = Callable[..., Finished]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background deaf to Ctrl-C, and the commands that are interrupted here inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    with started_scheduler(tmp_path_factory.mktemp("scheduler"), workers=2) as processes:
        yield processes.address


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
        return here("thickness", mask, "--run", run, "--scheduler", scheduler, "--unencrypted", "--quiet", *options)

    return call


class Disk:
    """A file system in memory that can grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def resize(self, kibibytes: int, *, mounted: bool = True) -> None:
        options = f"size={kibibytes}k" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if not shutil.which("mount"):
        pytest.skip("needs the command mount")
    disk = Disk(tmp_path / "disk")
    try:
        disk.resize(64 * 1024, mounted=False)
    except PermissionError as error:
        pytest.skip(f"needs to mount a small disk: {error}")
    yield disk
    subprocess.run(["umount", str(disk.path)], check=True)
