"""Small volumes on disk, as other programs would have written them, and the real data next to the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from pipeline.errors import VoxcaliperError
from pipeline.volume.opening import open_volume

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def shared(path: str) -> Path:
    """A file or folder of the shared data; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"the shared data {path} are not beside this checkout")
    return found


def refused(location: str | Path, **options: Any) -> str:
    """The one sentence with which a volume is refused."""
    with pytest.raises(VoxcaliperError) as caught:
        open_volume(str(location), **options)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def grey(shape: tuple[int, ...] = (7, 10, 13), dtype: npt.DTypeLike = "uint16", seed: int = 0) -> npt.NDArray[Any]:
    """Noise of a type: bool, 0..255 or 0..1000."""
    values = np.random.default_rng(seed).integers(0, 1000, shape)
    if np.dtype(dtype).kind == "b":
        return values > 500
    return values.astype(dtype)


def write_ome_zarr(
    location: str | Path,
    voxels: npt.NDArray[Any],
    *,
    version: str = "0.5",
    axes: str = "zyx",
    scale: tuple[float, ...] = (3.0, 0.7, 0.7),
    unit: str | None = "micrometer",
    levels: int = 2,
    sharded: bool = False,
    translation_first: bool = False,
) -> None:
    """An OME-Zarr image with plain subsampling, written by zarr alone.

    voxels, scale : in the order of `axes`; t and c are axes of their own type.
    """
    kinds = {"t": "time", "c": "channel"}
    names = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    if unit:
        names = [{**axis, "unit": unit} if axis["type"] == "space" else axis for axis in names]
    datasets = []
    group = zarr.create_group(location, zarr_format=3 if version == "0.5" else 2, overwrite=True)
    for level in range(levels):
        step = tuple(slice(None, None, 1 if axis in kinds else 2**level) for axis in axes)
        part = voxels[step]
        chunks = tuple(min(4, n) for n in part.shape)
        array = group.create_array(
            str(level),
            shape=part.shape,
            dtype=part.dtype,
            chunks=chunks,
            shards=tuple(2 * n for n in chunks) if sharded else None,
            chunk_key_encoding={"name": "v2", "separator": "/"} if version == "0.4" else None,
            dimension_names=tuple(axes) if version == "0.5" else None,
        )
        array[...] = part
        level_scale = [s * (1 if axis in kinds else 2**level) for axis, s in zip(axes, scale, strict=True)]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": level_scale}]
        if translation_first:
            transforms.insert(0, {"type": "translation", "translation": [0.5] * len(axes)})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscales: list[Any] = [{"axes": names, "datasets": datasets, "name": "test"}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        multiscales[0]["version"] = version
        group.attrs["multiscales"] = multiscales
