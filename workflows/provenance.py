"""With what a run was made: the part of its provenance that every kind of run has."""

from __future__ import annotations

import contextlib
import platform
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.local import Workers
from pipeline.device import Device
from pipeline.volume.opening import Volume
from workflows.config import ALGORITHM_VERSION

PACKAGES = ("voxcaliper", "numpy", "zarr", "numcodecs", "dask", "distributed", "ome-zarr-models")
BACK_ENDS = {"cpu": ("numba",), "gpu": ("cupy-cuda12x", "cupy-cuda13x")}
"""What compiles the kernels of a device, by its distribution's name; on a GPU one of several."""


def circumstances(
    totals: Mapping[str, Mapping[str, Any]], workers: Workers, device: Device, seconds: float
) -> dict[str, Any]:
    """Version, time, stages, workers, packages and host of a run."""
    return {
        "algorithm_version": ALGORITHM_VERSION,
        "completed": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds_of_last_process": round(seconds, 3),
        "stages": totals,
        "workers": {
            "processes": workers.count,
            "threads": workers.threads,
            "where": workers.description,
            "device": device,
            "cards": [card.name for card in workers.cards],
        },
        "versions": {"python": platform.python_version(), **_versions(device)},
        "host": {"name": socket.gethostname(), "system": platform.platform(), "machine": platform.machine()},
    }


def shown_circumstances(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a report shows of it."""
    return {
        "Workers": f"{provenance['workers']['processes']} processes",
        "Device": _device(provenance["workers"], provenance["stages"]),
        "Versions": ", ".join(f"{name} {number}" for name, number in provenance["versions"].items()),
        "Algorithm version": str(provenance["algorithm_version"]),
        "Completed": provenance["completed"],
    }


def described_input(volume: Volume) -> dict[str, Any]:
    """A volume as provenance holds it: which one it is, where it lies, and what was wrong with it."""
    placement = volume.placement
    return {
        **volume.identity(),
        "format": volume.format,
        "origin_um": list(placement.origin_um) if placement else None,
        "directions": [list(row) for row in placement.directions] if placement else None,
        "warnings": list(volume.warnings),
    }


def shown_place(volume: Volume, volumes: Iterable[Volume]) -> dict[str, str]:
    """What a report shows of where a volume lies, and of what was wrong with all volumes of a run."""
    shown = {}
    if volume.placement:
        origin = ", ".join(f"{v:.9g}" for v in volume.placement.origin_um)
        shown["Place"] = f"first voxel at {origin} µm (z, y, x); {volume.placement.describe_directions()}"
    warnings = list(dict.fromkeys(text for one in volumes for text in one.warnings))
    return shown | ({"Warnings": " ".join(warnings)} if warnings else {})


def _versions(device: Device) -> dict[str, str]:
    """Of the packages that took part and are installed here; workers of a cluster may have others."""
    found = {}
    for name in (*PACKAGES, *BACK_ENDS[device]):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _device(workers: Mapping[str, Any], totals: Mapping[str, Mapping[str, Any]]) -> str:
    if workers["device"] == "cpu":
        return "CPU"
    retries = sum(stage["card_retries"] for stage in totals.values())
    cards = ", ".join(sorted(set(workers["cards"])))
    return f"GPU, {len(workers['cards'])} × {cards}" + (
        f"; {retries} tasks were tried once more for want of its memory" if retries else ""
    )
