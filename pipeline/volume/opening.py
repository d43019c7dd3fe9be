"""The one door to volumes: what lies at a location, local or remote, as a `Volume`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from pipeline.errors import InputError, VoxcaliperError
from pipeline.placement import Position
from pipeline.volume.choice import Choice, check_chosen
from pipeline.volume.files import is_file, open_file
from pipeline.volume.hdf5 import find_hdf5
from pipeline.volume.limits import check_shape, check_special
from pipeline.volume.n5_arrays import is_n5, open_n5
from pipeline.volume.ome_files import find_ome_files
from pipeline.volume.other_formats import way_out
from pipeline.volume.patience import reason
from pipeline.volume.precomputed import find_precomputed
from pipeline.volume.slices import find_stack
from pipeline.volume.stores import RefusedError, Store, absolute_location, open_store
from pipeline.volume.volumes import Volume
from pipeline.volume.zarr_arrays import is_zarr, listing, open_zarr

__all__ = ["Choice", "Position", "Volume", "absolute_location", "at_level", "check_chosen", "open_volume"]


Opener = Callable[..., Volume]
"""Reads the header of what was found. Raises InputError for what is no volume and for a level that is not there.

(level, voxel_size_um), and choice where the format has channels.
"""


class Format(NamedTuple):
    """A kind of volume. find : what opens it, where it lies at a location, told by names or a few bytes; else None.

    has_channels : whether what opens it takes a choice, the third argument.
    """

    name: str
    find: Callable[[Store], Opener | None]
    has_channels: bool = False


def _where(holds: Callable[[Store], bool], opens: Callable[..., Volume]) -> Callable[[Store], Opener | None]:
    return lambda store: partial(opens, store.location) if holds(store) else None


FORMATS = (
    Format("an OME-TIFF in several files", find_ome_files, has_channels=True),
    Format(
        "a file (.tif, .nii, .nii.gz, .hdr, .npy, .npz, .nrrd, .nhdr, .mha, .mhd, .mgz, .mrc, .vtk, .vti, .raw, .vol,"
        " .png, .bmp)",
        _where(is_file, open_file),
        has_channels=True,
    ),
    Format("an HDF5 data set (x.h5/PATH)", find_hdf5, has_channels=True),
    Format("a Zarr array or image, also in a ZIP archive", _where(is_zarr, open_zarr), has_channels=True),
    Format("an N5 data set", _where(is_n5, open_n5), has_channels=True),
    Format("a Neuroglancer precomputed volume", find_precomputed),
    Format("a folder of slices (TIFF, JPEG 2000, PNG or BMP)", find_stack),
)
"""In the order in which they are tried. Files are told by the ends of their names: pipeline.volume.files.READERS."""


def open_volume(
    location: str,
    *,
    level: int = 0,
    voxel_size_um: Position | tuple[float, float] | None = None,
    channel: str | None = None,
    time: int | None = None,
) -> Volume:
    """Open an OME-Zarr image, one array of it, a bare array, N5, a file or a folder of slices; voxels are not read.

    location : path or URL (pipeline.volume.stores) of an image group, of an array in it (x.ome.zarr/1: then level must
        stay 0), of a bare array, of a .tif, .nii, .nii.gz, .npy, .png or .bmp file, or of a folder of TIFF or JPEG 2000
        slices in the natural order of their names. Axes are z, y, x in any stored order (named by the metadata, else
        z, y, x); of channels and time points one is chosen where there are several; other axes must have length 1. What
        has y and x alone is a volume of one plane.
    level : step of the pyramid.
    voxel_size_um : spacing (z, y, x) of the array that is opened; it goes before the metadata. One plane takes (y, x)
        too, and is then as thick as its pixels are high.
    channel : number from 0, or name (OME metadata). time : number of the time point. Where an image has but one, they
        do not count (`check_chosen`).
    The metadata give a voxel size when every spatial axis has a scale and a unit; without a unit there is none.
    What is wrong in the metadata and read all the same is said in `Volume.warnings`.

    Raises InputError for what is not a volume, StorageError for what cannot be read.
    """
    location = absolute_location(location)
    if voxel_size_um is not None and len(voxel_size_um) == 2:
        size = (voxel_size_um[0], *voxel_size_um)
        volume = open_volume(location, level=level, voxel_size_um=size, channel=channel, time=time)
        if volume.shape[0] > 1:
            raise InputError(
                f"{volume.name} has {volume.shape[0]:,} planes, so its voxel size has one value or three (z, y, x), not"
                " two; give --voxel-size-um Z,Y,X."
            )
        return volume
    store, refused = open_store(location), None
    choice = Choice(channel=channel, time=time)
    for form in FORMATS:
        try:
            if (opens := form.find(store)) is not None:
                volume = opens(level, voxel_size_um, *([choice] if form.has_channels else []))
                check_shape(volume.name, volume.shape, volume.chunk_shape)
                return volume
        except RefusedError as error:
            refused = refused or error
        except (OSError, VoxcaliperError):
            raise
        except Exception as error:  # libraries raise whatever they like where a header is damaged
            found = reason(error) if str(error) else type(error).__name__
            raise InputError(f"{location} is not readable as {form.name} ({found}); its header is damaged.") from error
    raise refused or InputError(_nothing_there(location))


def at_level(volume: Volume, level: int) -> Volume:
    """The same channel and time point of the same image, at another level of its pyramid.

    Where its metadata state no usable voxel size, so that one was given for the volume, it has none and no place.
    """
    if level == volume.level:
        return volume
    chosen = dict(volume.selection)
    channel = str(chosen["channel"]) if "channel" in chosen else None
    opened = partial(open_volume, volume.location, level=level, channel=channel, time=chosen.get("time"))
    try:
        return opened()
    except InputError:
        if volume.voxel_size is None:
            raise
        return replace(opened(voxel_size_um=volume.voxel_size.um), voxel_size=None, placement=None)


def _nothing_there(location: str) -> str:
    names = "; a volume is " + ", or ".join(form.name for form in FORMATS)
    if "://" in location:
        return f"{location} holds no volume{names}: check the address."
    if os.path.isdir(location):
        held = sorted(os.listdir(location))
        way = way_out(held)
        return f"{location} is a folder without a volume (it holds {listing(held)}){names}{f'; {way}' if way else ''}."
    if os.path.islink(location) and not os.path.exists(location):
        return f"{location} is a link that points nowhere ({os.readlink(location)}); mend it."
    if os.path.exists(location):
        check_special(location, os.stat(location).st_mode)
        way = way_out([location])
        return f"{location} is not read; {way}." if way else f"{location} is a file of no known kind{names}."
    folder = os.path.dirname(location)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    held = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"{location} does not exist; {folder} holds {listing(held)}."
