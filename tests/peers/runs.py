"""Whole runs of voxcaliper, for comparison with others: by the command line, or on workers that are there already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import Client

from pipeline.geometry import Index, VoxelSize
from pipeline.job import Border
from pipeline.volume.opening import open_volume
from tests.phantoms import Mask
from workflows.config import ThicknessConfig
from workflows.convert_volume import convert
from workflows.measure_thickness import measure
from workflows.plan_thickness import open_job

COMMAND = Path(sys.executable).with_name("voxcaliper")


def voxcaliper(*arguments: str | Path) -> None:
    """Run the command line in a process of its own; it must succeed."""
    done = subprocess.run([COMMAND, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def stored_map(run: Path) -> npt.NDArray[Any]:
    """The map of a finished run, all of it."""
    volume = open_volume(str(run / "thickness.ome.zarr"))
    return volume.read(volume.box)


def squared_radius_of(
    client: Client, folder: Path, mask: Mask, *, block_shape: Index,
    voxel_size_um: tuple[float, float, float] = (1.0, 1.0, 1.0), border: Border = "unknown",
) -> npt.NDArray[Any]:  # fmt: skip
    """Squared local radius of a mask from Zarr to Zarr, in units of the job's unit_um²."""
    np.save(folder / "mask.npy", mask)
    convert(str(folder / "mask.npy"), folder / "mask.ome.zarr", voxel_size=VoxelSize(voxel_size_um))
    config = ThicknessConfig(
        mask=str(folder / "mask.ome.zarr"), map="squared-radius", border=border, block_shape=block_shape
    )
    measure(client, open_job(config, folder), report=lambda _: None)
    return stored_map(folder)
