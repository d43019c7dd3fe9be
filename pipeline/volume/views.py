"""Volumes as xarray objects: lazy, with coordinates in µm."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline.geometry import Box, VoxelSize
from pipeline.placement import AT_ORIGIN
from pipeline.volume.opening import Volume


def to_xarray(volume: Volume, *, name: str | None = None, long_name: str | None = None) -> xr.DataArray:
    """A volume as a lazy DataArray with the dimensions (z, y, x).

    A chunk of it is a stored object, or where that is a whole file some of its planes.
    Coordinates are voxel centres in µm, in the frame of the source, which all levels of a pyramid share; falling where
    an axis runs against the frame's. Where axes run along no axis of the frame, they are lengths along the axes of the
    array (pipeline.placement). Voxel indices where the volume has no voxel size. Attributes: voxel_size_um, origin_um
    and directions where they are known, source, format, level.
    Selecting, slicing and plotting read only what they need; a damaged store raises StorageError when it is read.
    """
    voxel_size = volume.voxel_size
    placement = (volume.placement if voxel_size else None) or AT_ORIGIN
    along = placement.coordinates_um(voxel_size or VoxelSize((1.0, 1.0, 1.0)), volume.shape)
    coordinates: dict[Hashable, Any] = {
        axis: (axis, values, {"units": "µm" if voxel_size else "voxel", "long_name": axis})
        for axis, values in zip("zyx", along, strict=True)
    }
    attributes: dict[str, Any] = {
        "long_name": long_name or name or volume.name.rpartition("/")[2],
        "source": volume.name,
        "format": volume.format,
        "level": volume.level,
    }
    if voxel_size:
        attributes["voxel_size_um"] = voxel_size.um
    if voxel_size and volume.placement:
        attributes |= {"origin_um": placement.origin_um, "directions": placement.directions}
    one_file = volume.decode_bytes is not None and volume.shard_shape is not None
    chunks = next(volume.pieces(volume.box)).shape if one_file else volume.shard_shape or volume.chunk_shape
    lazy = da.from_array(_Lazy(volume), chunks=chunks, asarray=True, fancy=False)  # type: ignore[no-untyped-call]
    return xr.DataArray(lazy, dims=("z", "y", "x"), coords=coordinates, name=name, attrs=attributes)


class _Lazy:
    """What dask needs to know of an array, with `Volume.read` behind it."""

    ndim = 3

    def __init__(self, volume: Volume) -> None:
        self.volume, self.shape, self.dtype = volume, volume.shape, np.dtype(volume.dtype)

    def __getitem__(self, key: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        bounds = [part.indices(n) for part, n in zip(key, self.shape, strict=True)]
        (z0, z1, _), (y0, y1, _), (x0, x1, _) = bounds
        steps = tuple(slice(None, None, step) for _, _, step in bounds)
        return self.volume.read(Box((z0, y0, x0), (z1, y1, x1)))[steps]
