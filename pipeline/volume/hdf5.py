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
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise, product
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, StorageError, VoxcaliperError
from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Position
from pipeline.volume.axes import as_zyx, in_order, stored_axes, stored_selection
from pipeline.volume.choice import Choice, positions
from pipeline.volume.hdf5_file import KNOWN_BYTES, OpenedFile, library_of, unreadable
from pipeline.volume.hdf5_limits import check_chunks
from pipeline.volume.hdf5_metadata import axis_names, in_space
from pipeline.volume.patience import in_time, patiently, reason
from pipeline.volume.stores import ObjectStat, Store, open_store
from pipeline.volume.volumes import Volume

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs", ".nx", ".nx5")
OWN_BYTES = 16 * 2**20
"""What HDF5 and the memory allocator take beside that (measured: 8 MiB)."""
MOST_LOOKED_AT = 10_000
"""Objects of a file that are looked at for one with three axes."""
MOST_COUNTED = 1_000_000
"""Chunks up to which it is counted how many are stored."""
FILTERS = {32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32026: "Blosc2"}

Selection = tuple[slice | int, ...]
"""Of each stored axis a stretch, or the one place where it is cut."""


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
        opened = OpenedFile(store)
        selection = stored_selection(self.stored_axes, box, self.at)
        if "://" not in self.location:
            return opened.use(lambda file: (self._voxels(file, selection), self._sources(file)))
        parts = opened.use(lambda file: list(_parts(_dataset(file, self.array_path, self.location), selection)))
        found = [
            (part.place, opened.use(partial(self._voxels, selection=part.selection), wanted=part.wanted))
            for part in parts
        ]
        if len(found) == 1:
            return found[0][1], {}
        voxels = np.empty([s.stop - s.start for s in selection if isinstance(s, slice)], found[0][1].dtype)
        for place, values in found:
            voxels[place] = values
        return voxels, {}

    def _voxels(self, file: Any, selection: Selection) -> npt.NDArray[Any]:
        dataset = _dataset(file, self.array_path, self.location)
        check_chunks(dataset, selection)
        found: npt.NDArray[Any] = dataset[selection]
        return found

    def _sources(self, file: Any) -> dict[str, int]:
        return _source_files(_dataset(file, self.array_path, self.location), self.location)

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
        named = _marks(OpenedFile(store).use(self._sources))
        return iter([("", self.opened), *((name, stat) for name, stat in named.items() if stat is not None)])


class Part(NamedTuple):
    """What is read at a time. place : in the result. wanted : the bytes that hold it, as far as they are known."""

    selection: Selection
    place: tuple[slice, ...]
    wanted: range


def _parts(dataset: Any, selection: Selection) -> Iterator[Part]:
    """What a selection holds of each chunk, or of each layer along the slowest axis of what lies in one piece."""
    sides = dataset.chunks or (1, *dataset.shape[1:])
    cuts: list[list[tuple[slice | int, slice]]] = []
    for part, side in zip(selection, sides, strict=True):
        if isinstance(part, int):
            cuts.append([(part, slice(0))])
            continue
        borders = [part.start, *range((part.start // side + 1) * side, part.stop, side), part.stop]
        cuts.append([(slice(a, b), slice(a - part.start, b - part.start)) for a, b in pairwise(borders)])
    offset = None if dataset.chunks else dataset.id.get_offset()
    for pieces in product(*cuts):
        chosen = tuple(piece for piece, _ in pieces)
        place = tuple(where for piece, where in pieces if isinstance(piece, slice))
        yield Part(chosen, place, range(0) if offset is None else _stretch(dataset, offset, chosen))


def _stretch(dataset: Any, offset: int, selection: Selection) -> range:
    """The bytes from the first to the last voxel of a selection of what lies in one piece."""
    first = [s if isinstance(s, int) else s.start for s in selection]
    last = [s if isinstance(s, int) else s.stop - 1 for s in selection]
    start, stop = (int(np.ravel_multi_index(index, dataset.shape)) for index in (first, last))
    return range(offset + start * dataset.dtype.itemsize, offset + (stop + 1) * dataset.dtype.itemsize)


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
    def look(file: Any) -> Volume:
        found = _path_of_volume(store.location, file, path)
        return _volume(store.location, found, _dataset(file, found, store.location), stat, voxel_size_um, choice)

    try:
        return OpenedFile(store).use(look)
    except VoxcaliperError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(store, error) from None


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
    names = axis_names(dataset)
    cut = positions(where, dataset.shape, names, choice)
    axes = stored_axes(where, cut.shape, names)
    chunks = _chunks(dataset)
    shape, chunk_shape = in_order(axes, dataset.shape), in_order(axes, chunks)
    layout = (shape, dtype.str, axes, dataset.chunks, dataset.compression, dataset.is_virtual)
    stated, placement = in_space(dataset, axes, warnings, where)
    return Volume(
        location=location,
        array_path=path,
        array=Hdf5Array(location, path, axes, stat, _digest(sources), cut.at if any(cut.at) else ()),
        shape=shape,
        dtype=dtype.name,
        chunk_shape=chunk_shape,
        shard_shape=shape,
        voxel_size=VoxelSize(voxel_size_um) if voxel_size_um else stated,
        stated_voxel_size=stated,
        placement=placement,
        level=0,
        level_count=1,
        format="HDF5",
        every_chunk_stored=True,
        fill_value=0,
        metadata_sha256=hashlib.sha256(repr(layout).encode()).hexdigest(),
        # A chunk as stored, a buffer that deflate doubles while it grows, and one between two filters.
        decode_bytes=5 * math.prod(chunks) * dtype.itemsize
        + OWN_BYTES
        + ("://" in location) * (KNOWN_BYTES + 2 * math.prod(dataset.chunks or dataset.shape[1:]) * dtype.itemsize),
        warnings=tuple(warnings),
        selection=cut.selection,
    )


def _dataset(file: Any, path: str, location: str) -> Any:
    library = library_of(location)
    access = library.h5p.create(library.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")  # else names of further files are looked for in the folder of this process
    found = library.Dataset(library.h5d.open(file.id, path.encode(), access))
    if found.chunks and any(not library.h5z.filter_avail(number) for number, _ in _filters(found)):
        _plugins()
    return found


def _path_of_volume(location: str, file: Any, path: str) -> str:
    """The path itself where a data set lies there; else of the only volume below it, or of NeXus' default."""
    library = library_of(location)
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
        if not OpenedFile(open_store(source_file)).use(partial(_holds, path=dset_name)):
            raise StorageError(f"{where} has voxels in {source_file}, which holds no {dset_name}; fetch it again.")
    if mapped < dataset.size:
        warnings.append(
            f"{where} is put together of files that hold {mapped:,} of its {dataset.size:,} voxels; the others read as"
            f" {dataset.fillvalue}."
        )


def _holds(file: Any, path: str) -> bool:
    return path in file


def _check_filters(where: str, dataset: Any) -> None:
    """Raise InputError where a chunk cannot be decoded; filters of others come with hdf5plugin, where it is there."""
    library = library_of(where)
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
        chunks = OpenedFile(open_store(first)).use(lambda file: tuple(file[sources[0].dset_name].chunks or ()))
        if chunks:
            chunks = ((1,) * dataset.ndim + chunks)[-dataset.ndim :]
            return tuple(min(n, side) for n, side in zip(dataset.shape, chunks, strict=True))
    return (*(1,) * (dataset.ndim - 1), int(dataset.shape[-1]))
