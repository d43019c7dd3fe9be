"""Finished runs as xarray."""

from __future__ import annotations

import json
from pathlib import Path

import xarray as xr

from pipeline.errors import RunError
from pipeline.volume.opening import open_volume
from pipeline.volume.views import to_xarray
from workflows.run_folder import open_run_folder


def open_run(path: str | Path, *, level: int = 0) -> xr.Dataset:
    """A finished thickness run as a lazy Dataset with the dimensions (z, y, x) and coordinates in µm.

    Variables: `thickness` (diameter in µm, float32) or `squared_radius` (integers, in unit_um²), 0 on background;
    none where the run stored no map. Attributes: everything of statistics.json.
    level : step of the map's pyramid; a coarser voxel is the largest of the 2 × 2 × 2 under it.
    Raises RunError where the run is not complete.
    """
    run = open_run_folder(Path(path))
    if not run.is_complete:
        raise RunError(f"{run.path} is not complete; go on with `voxcaliper resume {path}`.")
    statistics = json.loads(run.statistics.read_text(encoding="utf-8"))
    kind = run.config().map
    if kind == "none":
        return xr.Dataset(attrs=statistics)
    volume = open_volume(str(run.map), level=level)
    if kind == "squared-radius":
        values = to_xarray(volume, name="squared_radius", long_name="squared local radius")
        values.attrs["unit_um"] = statistics["unit_um"]
    else:
        values = to_xarray(volume, name="thickness", long_name="local thickness (diameter)")
        values.attrs["units"] = "µm"
    return values.to_dataset().assign_attrs(statistics)
