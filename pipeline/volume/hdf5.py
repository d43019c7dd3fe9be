"""HDF5: a data set inside a file, as beamlines (DataExchange, NeXus), ilastik and Fiji write it.

A location is the file and, behind its name, the path of the data set in it. Without a path it is the only data set with
three axes, or the one that NeXus calls the default. Chunks are read through the library, compressed or not; a virtual
or external data set is read from the files that it names. h5py lets one thread at a time into HDF5. Every read opens
the file and closes it: HDF5 would take a file that is open for one that was written over it meanwhile, and nobody could
write to it.

Axes are z, y, x unless axistags (ilastik, vigra), labels of dimensions or NeXus name them. The voxel size counts where
a convention states it with its unit: element_size_um, or pixel sizes or coordinates of NeXus.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Position
from pipeline.volume.axes import as_zyx, in_order, stored_axes, stored_selection
from pipeline.volume.choice import Choice, positions
from pipeline.volume.hdf5_limits import check_chunks
from pipeline.volume.metadata import plain_decimal, unit_um, voxel_size_of
from pipeline.volume.patience import in_time, patiently, reason
from pipeline.volume.ranged import RangedFile
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.volumes import Volume

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs", ".nx", ".nx5")
OWN_BYTES = 16 * 2**20
"""What HDF5 and the memory allocator take beside that (measured: 8 MiB)."""
HDF4 = b"\x0e\x03\x13\x01"
CACHE_BYTES = 2**20
"""Of chunks that HDF5 keeps of an open data set."""
MOST_LOOKED_AT = 10_000
"""Objects of a file that are looked at for one with three axes."""
MOST_COUNTED = 1_000_000
"""Chunks up to which it is counted how many are stored."""
FILTERS = {32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32026: "Blosc2"}


@dataclass(frozen=True)
class Hdf5Array:
    """A `StoredArray` in an HDF5 file; the file is the only stored object, beside those that a data set names.

    opened : what the store said of the file when the volume was opened. sources_sha256 : of the names of the further
    files with voxels and of what the store said of them. at : where axes that are no z, y, x are cut; () is at 0.
    """

    location: str
    array_path: str
    stored_axes: str
    opened: ObjectStat
    sources_sha256: str
    at: tuple[int, ...] = ()

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The voxels of a box (z, y, x).

        Raises StorageError where a file is cut off or damaged, or was changed or replaced since the volume was opened,
        up to the end of this read.
        """
        store = open_store(self.location)
        try:
            # A data set behind a URL asks for its bytes with time limits of their own.
            voxels, sources = self._read(store, box) if "://" in self.location else in_time(self._read, store, box)
        except (ValueError, KeyError, RuntimeError, OSError, InputError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk or the store, not of the content
                raise
            self._check_unchanged(store)
            raise StorageError(
                f"{self.location}/{self.array_path}: the voxels {box.start} to {box.stop} (z, y, x) cannot be read"
                f" ({reason(error)}); the file may be cut off or damaged, so fetch it again."
            ) from None
        self._check_unchanged(store, sources)
        return as_zyx(self.stored_axes, voxels)

    def _read(self, store: Store, box: Box) -> tuple[npt.NDArray[Any], dict[str, int]]:
        with _file(store) as file:
            dataset = _dataset(file, self.array_path, self.location)
            selection = stored_selection(self.stored_axes, box, self.at)
            check_chunks(dataset, selection)
            return dataset[selection], _source_files(dataset, self.location)

    def _check_unchanged(self, store: Store, sources: dict[str, int] | None = None) -> None:
        found = store.stat("")
        if found is None:
            raise StorageError(f"{self.location} is missing; restore it from a copy.")
        if found != self.opened or (sources is not None and _digest(_marks(sources)) != self.sources_sha256):
            which = "" if found != self.opened else ", or a file with voxels of it,"
            raise StorageError(
                f"{self.location}{which} changed while it was read, so its voxels may be of two volumes; start again"
                " when it is complete."
            )

    def object_key(self, index: Index) -> str:
        """The location itself."""
        return ""

    def object_stat(self, index: Index) -> ObjectStat | None:
        """Of the file; None where it is missing."""
        return open_store(self.location).stat("")

    def listed(self) -> Iterator[tuple[str, ObjectStat]] | None:
        """The file and those it names, if any."""
        store = open_store(self.location)
        if self.sources_sha256 == _digest({}) or store.stat("") != self.opened:
            return None
        with _file(store) as file:
            named = _marks(_source_files(_dataset(file, self.array_path, self.location), self.location))
        return iter([("", self.opened), *((name, stat) for name, stat in named.items() if stat is not None)])


def find_hdf5(store: Store) -> Callable[[int, Position | None, Choice], Volume] | None:
    """What opens the data set at a location, given level, voxel size and choice; None where that is in no HDF5 file."""
    found = _file_and_path(store.location)
    return partial(_open, *found) if found else None


def _file_and_path(location: str) -> tuple[str, str] | None:
    scheme, slashes, rest = location.rpartition("://")
    parts = rest.split("/")
    for n, part in enumerate(parts, 1):
        if not part.lower().endswith(SUFFIXES):
            continue
        file, path = scheme + slashes + "/".join(parts[:n]), "/".join(parts[n:])
        if os.path.isfile(file) if not slashes else open_store(file).stat("") is not None:
            return file, unquote(path) if scheme.startswith("http") else path
    return None


def _open(location: str, path: str, level: int, voxel_size_um: Position | None, choice: Choice) -> Volume:
    if level:
        raise InputError(f"{location} holds one array at a path, so it has no level {level}; give another path.")
    store = open_store(location)
    stat = store.stat("")
    if stat is None:
        raise StorageError(f"{location} is missing; restore it from a copy.")
    opening = partial(_describe, store, path.strip("/"), stat, voxel_size_um, choice)
    try:
        return patiently(opening if "://" in location else partial(in_time, opening))
    except OSError as error:
        raise StorageError(f"{location} cannot be read: {reason(error)}; check the store.") from error


def _describe(store: Store, path: str, stat: ObjectStat, voxel_size_um: Position | None, choice: Choice) -> Volume:
    try:
        with _file(store) as file:
            path = _path_of_volume(store.location, file, path)
            return _volume(store.location, path, _dataset(file, path, store.location), stat, voxel_size_um, choice)
    except VoxcaliperError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(store, error) from None


def _volume(
    location: str, path: str, dataset: Any, stat: ObjectStat, voxel_size_um: Position | None, choice: Choice
) -> Volume:
    where, dtype = f"{location}/{path}", np.dtype(dataset.dtype)
    if dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {dtype}; bool, integer or float is needed.")
    warnings: list[str] = []
    files = _source_files(dataset, location)
    sources = _marks(files)
    _check_sources(where, dataset, files, sources, warnings)
    _check_filters(where, dataset)
    _check_stored(location, where, dataset, warnings)
    names = _axis_names(dataset)
    cut = positions(where, dataset.shape, names, choice)
    axes = stored_axes(where, cut.shape, names)
    chunks = _chunks(dataset)
    shape, chunk_shape = in_order(axes, dataset.shape), in_order(axes, chunks)
    layout = (shape, dtype.str, axes, dataset.chunks, dataset.compression, dataset.is_virtual)
    return Volume(
        location=location,
        array_path=path,
        array=Hdf5Array(location, path, axes, stat, _digest(sources), cut.at if any(cut.at) else ()),
        shape=shape,
        dtype=dtype.name,
        chunk_shape=chunk_shape,
        shard_shape=shape,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else _voxel_size(dataset, axes, warnings, where),
        placement=None,
        level=0,
        level_count=1,
        format="HDF5",
        every_chunk_stored=True,
        fill_value=0,
        metadata_sha256=hashlib.sha256(repr(layout).encode()).hexdigest(),
        # A chunk as stored, a buffer that deflate doubles while it grows, and one between two filters.
        decode_bytes=5 * math.prod(chunks) * dtype.itemsize + OWN_BYTES,
        warnings=tuple(warnings),
        selection=cut.selection,
    )


def _library(location: str) -> Any:
    try:
        import h5py  # an extra
    except ImportError as error:
        raise InputError(f"{location} is HDF5, which needs h5py: pip install 'voxcaliper[hdf5]'.") from error
    return h5py


@contextmanager
def _file(store: Store) -> Iterator[Any]:
    """The open file. Raises InputError where it is none, or needs what is not installed."""
    library = _library(store.location)
    try:
        if "://" in store.location:
            file = library.File(RangedFile(store).buffered(), "r", rdcc_nbytes=CACHE_BYTES)
        else:
            file = library.File(store.location, "r", rdcc_nbytes=CACHE_BYTES, locking=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _unreadable(store, error) from None
    with file:
        yield file


def _unreadable(store: Store, error: Exception) -> VoxcaliperError | OSError:
    """What is said of an error of the library; an error of the disk or the store stays what it is."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        return error
    if isinstance(error, OSError) and "://" not in store.location and _is_hdf4(store.location):
        return InputError(f"{store.location} is HDF4, which is not read; convert it with h4toh5.")
    return InputError(f"{store.location} is not a readable HDF5 file ({reason(error)}).")


def _is_hdf4(location: str) -> bool:
    with open(location, "rb") as file:
        return file.read(len(HDF4)) == HDF4


def _dataset(file: Any, path: str, location: str) -> Any:
    library = _library(location)
    access = library.h5p.create(library.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")  # else names of further files are looked for in the folder of this process
    found = library.Dataset(library.h5d.open(file.id, path.encode(), access))
    if found.chunks and any(not library.h5z.filter_avail(number) for number, _ in _filters(found)):
        _plugins()
    return found


def _path_of_volume(location: str, file: Any, path: str) -> str:
    """The path itself where a data set lies there; else of the only volume below it, or of NeXus' default."""
    library = _library(location)
    where = f"{location}/{path}" if path else location
    try:
        node = file[path] if path else file
    except KeyError:
        held = _shown(_volumes_in(library, file, ""))
        raise InputError(f"{location} holds nothing that can be opened at {path}; it holds {held}.") from None
    if isinstance(node, library.Dataset):
        return path
    if (default := _nexus_default(library, node)) is not None:
        return default
    found = _volumes_in(library, node, path)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise InputError(f"{where} holds no data set with three axes; give a file with one.")
    raise InputError(f"{where} holds {_shown(found)}: say which one, for example {location}/{next(iter(found))}.")


def _shown(found: dict[str, tuple[int, ...]]) -> str:
    listed = [f"{path} {' × '.join(map(str, shape))}" for path, shape in found.items()]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"the data sets {', '.join(listed[:8])}{more}" if listed else "no data set with three axes"


def _volumes_in(library: Any, group: Any, path: str) -> dict[str, tuple[int, ...]]:
    """Path and shape of the data sets with three axes or more below a group, each under the first of its names."""
    found: dict[str, tuple[int, ...]] = {}
    seen: set[tuple[str, int]] = set()
    groups = [(path, group)]
    while groups and len(seen) < MOST_LOOKED_AT:
        above, node = groups.pop(0)
        for name in node:
            try:
                child = node[name]
            except (KeyError, OSError):  # a link to what is not there
                continue
            mark = (child.file.filename, library.h5o.get_info(child.id).addr)
            if mark in seen:
                continue
            seen.add(mark)
            key = f"{above}/{name}" if above else name
            if isinstance(child, library.Group):
                groups.append((key, child))
            elif isinstance(child, library.Dataset) and len(child.shape or ()) >= 3 and child.dtype.kind in "biuf":
                found[key] = child.shape
    return found


def _nexus_default(library: Any, node: Any) -> str | None:
    """The path of the signal that a chain of `default` attributes leads to; None where that is no volume."""
    for _ in range(8):
        name = node.attrs.get("default") or node.attrs.get("signal")
        if not isinstance(name, str | bytes):
            return None
        node = node.get(name if isinstance(name, str) else name.decode())
        if isinstance(node, library.Dataset):
            return str(node.name).strip("/") if len(node.shape or ()) >= 3 else None
        if not isinstance(node, library.Group):
            return None
    return None


def _source_files(dataset: Any, location: str) -> dict[str, int]:
    """The further files of a data set, by their paths, each with the bytes it must have at least (0: not known)."""
    found: dict[str, int] = {}
    folder = os.path.dirname(location)
    if "://" not in location:
        own = os.path.abspath(dataset.file.filename)
        if not os.path.samefile(own, location):
            found[own] = 0
        folder = os.path.dirname(own)
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            if source.file_name != ".":
                found[os.path.join(folder, source.file_name)] = 0
    for name, offset, size in dataset.external or ():
        file = os.path.join(folder, name)
        needed = offset + size if size < 2**63 else offset + dataset.size * dataset.dtype.itemsize
        found[file] = max(found.get(file, 0), needed)
    return found


def _marks(files: dict[str, int]) -> dict[str, ObjectStat | None]:
    return {file: open_store(file).stat("") for file in sorted(files)}


def _digest(marks: dict[str, ObjectStat | None]) -> str:
    return hashlib.sha256(repr(marks).encode()).hexdigest()


def _check_sources(
    where: str, dataset: Any, files: dict[str, int], marks: dict[str, ObjectStat | None], warnings: list[str]
) -> None:
    """Raise an error where a further file is missing or too short: HDF5 reads either as fill value, without a word."""
    if "://" in where and (dataset.is_virtual or dataset.external):
        raise InputError(f"{where} lies in further files, which are not read from a URL; copy all of them here.")
    for file, needed in files.items():
        stat = marks[file]
        if stat is None and "%" in file:
            raise InputError(f"{where} names its files by a pattern ({file}), which is not read; write it as one file.")
        if stat is None:
            raise StorageError(f"{where} has voxels in {file}, which is missing; put it there.")
        if stat.size < needed:
            raise StorageError(
                f"{where} has voxels in {file}, which has {stat.size:,} bytes where {needed:,} are needed; fetch it"
                " again."
            )
    if not dataset.is_virtual:
        return
    folder, named, mapped = os.path.dirname(os.path.abspath(dataset.file.filename)), set(), 0
    for source in dataset.virtual_sources():
        mapped += source.vspace.get_select_npoints()
        named.add((source.file_name, source.dset_name))
    for file_name, dset_name in sorted(named):
        source_file = os.path.join(folder, file_name) if file_name != "." else dataset.file.filename
        with _file(open_store(source_file)) as file:
            if dset_name not in file:
                raise StorageError(f"{where} has voxels in {source_file}, which holds no {dset_name}; fetch it again.")
    if mapped < dataset.size:
        warnings.append(
            f"{where} is put together of files that hold {mapped:,} of its {dataset.size:,} voxels; the others read as"
            f" {dataset.fillvalue}."
        )


def _check_filters(where: str, dataset: Any) -> None:
    """Raise InputError where a chunk cannot be decoded; filters of others come with hdf5plugin, where it is there."""
    library = _library(where)
    if dataset.chunks is None:
        return
    for number, name in _filters(dataset):
        if library.h5z.filter_avail(number):
            continue
        raise InputError(
            f"{where} is compressed by {name} (filter {number}), which is not installed here; convert it with h5repack"
            " -f GZIP=1 where it is."
            if _plugins()
            else f"{where} is compressed by {name} (filter {number}), which needs hdf5plugin: pip install"
            " 'voxcaliper[hdf5]'."
        )


def _filters(dataset: Any) -> list[tuple[int, str]]:
    """Number and name of what chunks go through."""
    properties = dataset.id.get_create_plist()
    found = [properties.get_filter(n) for n in range(properties.get_nfilters())]
    return [(number, FILTERS.get(number, name.decode(errors="replace"))) for number, _, _, name in found]


@lru_cache(maxsize=1)
def _plugins() -> bool:
    """Registers the filters of hdf5plugin; False where it is not installed."""
    try:
        import hdf5plugin  # noqa: F401  registers them
    except ImportError:
        return False
    return True


def _check_stored(location: str, where: str, dataset: Any, warnings: list[str]) -> None:
    """Say where chunks were never written, as a writer that was stopped leaves them."""
    if dataset.chunks is None and not (dataset.is_virtual or dataset.external) and not dataset.id.get_storage_size():
        warnings.append(f"{where} was never written; all of it reads as {dataset.fillvalue}.")
    if dataset.chunks is None or "://" in location:  # far away, the whole index would have to be fetched
        return
    expected = math.prod(-(-n // side) for n, side in zip(dataset.shape, dataset.chunks, strict=True))
    if expected > MOST_COUNTED:
        return
    stored = dataset.id.get_num_chunks()
    if stored < expected:
        warnings.append(
            f"{where} has {stored:,} of its {expected:,} chunks; the others were never written and read as"
            f" {dataset.fillvalue}."
        )


def _chunks(dataset: Any) -> tuple[int, ...]:
    """What cannot be read in part: a chunk, of the first file that a virtual data set names; else a line."""
    if dataset.chunks is not None:
        return tuple(map(int, dataset.chunks))
    if dataset.is_virtual and (sources := dataset.virtual_sources()):
        folder = os.path.dirname(os.path.abspath(dataset.file.filename))
        first = dataset.file.filename if sources[0].file_name == "." else os.path.join(folder, sources[0].file_name)
        with _file(open_store(first)) as file:
            chunks = tuple(map(int, file[sources[0].dset_name].chunks or ()))
        if chunks:
            chunks = ((1,) * dataset.ndim + chunks)[-dataset.ndim :]
            return tuple(min(n, side) for n, side in zip(dataset.shape, chunks, strict=True))
    return (*(1,) * (dataset.ndim - 1), int(dataset.shape[-1]))


def _axis_names(dataset: Any) -> list[str]:
    """In stored order, by axistags, labels of dimensions or NeXus; else z, y, x among the axes longer than 1."""
    ndim = len(dataset.shape)
    for stated in (_axistags(dataset), [dimension.label for dimension in dataset.dims], _nexus_axes(dataset)):
        names = [name.lower() for name in stated]
        if len(names) == ndim and {"z", "y", "x"} <= set(names):
            return names
    long = [n for n, length in enumerate(dataset.shape) if length != 1]
    spatial = long if len(long) == 3 else list(range(ndim))[-3:]
    names = list(map(str, range(ndim)))
    for n, name in zip(spatial, "zyx"[-len(spatial) :] if spatial else "", strict=True):
        names[n] = name
    return names


def _axistags(dataset: Any) -> list[str]:
    try:
        return [str(axis["key"]) for axis in json.loads(dataset.attrs["axistags"])["axes"]]
    except (KeyError, TypeError, ValueError):
        return []


def _nexus_axes(dataset: Any) -> list[str]:
    """The names of the coordinates in the group around a signal; those of its own attribute in old files."""
    stated = dataset.parent.attrs.get("axes", dataset.attrs.get("axes", ()))
    if isinstance(stated, str | bytes):
        text = stated if isinstance(stated, str) else stated.decode(errors="replace")
        return text.strip("[]").replace(",", ":").split(":")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in stated]


def _voxel_size(dataset: Any, axes: str, warnings: list[str], where: str) -> VoxelSize | None:
    """Where all three axes and their unit are stated."""
    stated = dataset.attrs.get("element_size_um")
    if stated is not None:
        sides = _numbers(stated)
        if len(sides) == len(axes) > 3:
            sides = list(in_order(axes, sides))
        if len(sides) == 3 and all(math.isfinite(side) and side > 0 for side in sides):
            return voxel_size_of([plain_decimal(side) for side in sides], [Decimal(1)] * 3)
        warnings.append(
            f"{where} has an element_size_um that is no voxel size ({', '.join(map(str, sides))}), so it is left out;"
            " give --voxel-size-um."
        )
        return None
    for lengths in (_pixel_sizes(dataset), _spacings(dataset, axes)):
        if lengths is not None and all(lengths):
            return voxel_size_of(lengths, [Decimal(1)] * 3)
    return None


def _pixel_sizes(dataset: Any) -> list[Decimal | None] | None:
    """x_pixel_size and so on of the group around a data set, each with its units, in µm (z, y, x)."""
    return [_length(dataset.parent.get(f"{axis}_pixel_size")) for axis in "zyx"]


def _length(node: Any) -> Decimal | None:
    unit = _unit(node)
    values = _numbers(node[()]) if unit is not None else []
    return plain_decimal(values[0]) * unit if unit is not None and len(values) == 1 and values[0] > 0 else None


def _spacings(dataset: Any, axes: str) -> list[Decimal | None] | None:
    """Of NeXus' coordinates of voxels, where they are evenly spaced, in µm (z, y, x)."""
    names = _nexus_axes(dataset)
    if len(names) != len(axes):
        return None
    found: list[Decimal | None] = []
    for name, length in zip(in_order(axes, names), in_order(axes, dataset.shape), strict=True):
        node = dataset.parent.get(str(name))
        unit = _unit(node)
        values = np.asarray(_numbers(node[()]) if unit is not None and node.size == length > 1 else [], np.float64)
        steps = np.diff(values)
        even = len(steps) and steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-4, atol=0)
        side = abs(values[-1] - values[0]) / (length - 1) if even else 0.0
        found.append(plain_decimal(float(side)) * unit if even and unit is not None else None)
    return found


def _unit(node: Any) -> Decimal | None:
    if not hasattr(node, "dtype") or node.dtype.kind not in "iuf":
        return None
    stated = node.attrs.get("units", b"")
    return unit_um(stated if isinstance(stated, str) else np.asarray(stated, "S").item().decode(errors="replace"))


def _numbers(stated: Any) -> list[float]:
    try:
        return [float(value) for value in np.ravel(np.asarray(stated, np.float64))]
    except (TypeError, ValueError):
        return []
