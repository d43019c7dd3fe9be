"""The one door to volumes: what lies at a location, local or remote, as a `Volume`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pipeline.errors import InputError
from pipeline.placement import Position
from pipeline.volume.files import is_file, open_file
from pipeline.volume.n5_arrays import is_n5, open_n5
from pipeline.volume.slices import find_stack
from pipeline.volume.stores import RefusedError, Store, absolute_location, open_store
from pipeline.volume.volumes import Volume
from pipeline.volume.zarr_arrays import is_zarr, listing, open_zarr

__all__ = ["Position", "Volume", "absolute_location", "open_volume"]


Opener = Callable[[int, Position | None], Volume]
"""Reads the header of what was found. Raises InputError for what is no volume and for a level that is not there.

(level, voxel_size_um)
"""


class Format(NamedTuple):
    """A kind of volume. find : what opens it, where it lies at a location, told by names or a few bytes; else None."""

    name: str
    find: Callable[[Store], Opener | None]


def _where(
    holds: Callable[[Store], bool], opens: Callable[[str, int, Position | None], Volume]
) -> Callable[[Store], Opener | None]:
    return lambda store: partial(opens, store.location) if holds(store) else None


FORMATS = (
    Format("a file (.tif, .nii, .nii.gz, .npy)", _where(is_file, open_file)),
    Format("a Zarr array or image", _where(is_zarr, open_zarr)),
    Format("an N5 data set", _where(is_n5, open_n5)),
    Format("a folder of slices (TIFF or JPEG 2000)", find_stack),
)
"""In the order in which they are tried."""


def open_volume(location: str, *, level: int = 0, voxel_size_um: Position | None = None) -> Volume:
    """Open an OME-Zarr image, one array of it, a bare array, N5, a file or a folder of slices; voxels are not read.

    location : path or URL (pipeline.volume.stores) of an image group, of an array in it (x.ome.zarr/1: then level must
        stay 0), of a bare array, of a .tif, .nii, .nii.gz or .npy file, or of a folder of TIFF or JPEG 2000 slices in
        the natural order of their names. Axes are z, y, x in any stored order (named by the metadata, else z, y, x);
        other axes must have length 1 and are left out.
    level : step of the pyramid.
    voxel_size_um : spacing (z, y, x) of the array that is opened; it goes before the metadata.
    The metadata give a voxel size when every spatial axis has a scale and a unit; without a unit there is none.
    What is wrong in the metadata and read all the same is said in `Volume.warnings`.

    Raises InputError for what is not a volume, StorageError for what cannot be read.
    """
    location = absolute_location(location)
    store, refused = open_store(location), None
    for form in FORMATS:
        try:
            if (opens := form.find(store)) is not None:
                return opens(level, voxel_size_um)
        except RefusedError as error:
            refused = refused or error
    raise refused or InputError(_nothing_there(location))


def _nothing_there(location: str) -> str:
    names = "; a volume is " + ", or ".join(form.name for form in FORMATS)
    if "://" in location:
        return f"{location} holds no volume{names}: check the address."
    if os.path.isdir(location):
        return f"{location} is a folder without a volume (it holds {listing(sorted(os.listdir(location)))}){names}."
    if os.path.islink(location) and not os.path.exists(location):
        return f"{location} is a link that points nowhere ({os.readlink(location)}); mend it."
    if os.path.exists(location):
        return f"{location} is a file of no known kind{names}."
    folder = os.path.dirname(location)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    held = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"{location} does not exist; {folder} holds {listing(held)}."
