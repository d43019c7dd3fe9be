"""Comparisons as tests see them: of arrays, in blocks, through every stage and the results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from distributed import Client

from cluster.local import Workers
from pipeline.device import Device
from pipeline.geometry import Index
from workflows.config import ComparisonConfig
from workflows.run_comparison import execute_comparison, start_comparison

Labels = npt.NDArray[Any]
OFFER = Workers(1, 2, 8 << 30, "this process")


@dataclass(frozen=True)
class Place:
    """Where tasks run, and where their kernels do."""

    client: Client
    device: Device = "cpu"


def stored(folder: Path, name: str, voxels: Labels) -> str:
    """A bare Zarr array."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zarr"
    if not path.exists():
        zarr.create_array(path, data=voxels, chunks=tuple(min(16, n) for n in voxels.shape))
    return str(path)


def compared(
    place: Place, folder: Path, reference: Labels, prediction: Labels | None, block_shape: Index,
    *, image: Labels | None = None, spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0), **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Run a comparison of two arrays in folder/run; the contents of the main result file, as it was written."""
    config = ComparisonConfig(
        workflow="compare" if prediction is not None else "statistics",
        reference=stored(folder, "reference", reference),
        prediction=stored(folder, "prediction", prediction) if prediction is not None else None,
        image=stored(folder, "image", image) if image is not None else None,
        voxel_size_um=spacing,
        block_shape=block_shape,
        **options,
    )
    run, job = start_comparison(config, folder / "run", OFFER)
    job = job if place.device == "cpu" else job_on_gpu(job)
    with run.locked():
        execute_comparison(place.client, OFFER, run, job, report=lambda _: None)
    name = "comparison.json" if prediction is not None else "statistics.json"
    found: dict[str, Any] = json.loads((folder / "run" / name).read_text("utf-8"))
    return found


def job_on_gpu(job: Any) -> Any:
    """The same job with its kernels on a GPU."""
    from dataclasses import replace

    return replace(job, device="gpu")


def maps(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Level 0 of every map of folder/run."""
    return {
        name: np.asarray(zarr.open_array(folder / "run" / f"{name}.ome.zarr", path="0", mode="r")[:])
        for name in ("reference", "prediction", "difference")
    }


def map_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of every map of folder/run, with all levels."""
    run = folder / "run"
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("*.ome.zarr/**/*") if path.is_file()}


def result_bytes(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on how a run went, without the report, which shows times."""
    return {name: (folder / "run" / name).read_bytes() for name in ("comparison.json", "comparison.csv")}
