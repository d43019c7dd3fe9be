"""Overlap: which labels two volumes have at the same voxels, and what each structure looks like. One pass per block.

A block contributes named integer arrays; `merge` adds the contributions of any blocks in any order to the same bytes.
Everything is kept per pair of (reference label, predicted label) other than (0, 0), sorted:

  volume-voxels     int64 (1,)         voxels in all, the background included, without those that are left out
  pair-labels       uint64 (n, 2)      reference label, predicted label
  pair-voxels       int64 (n,)         voxels with both
  pair-sums         int64 (n, 3, 3)    Σz, Σy, Σx in the coordinates of the volume, as carried wide integers
  pair-boxes        int64 (n, 2, 3)    first voxel, and the one after the last (z, y, x)
with a grey volume
  grey-extremes     its dtype (n, 2)   smallest and largest grey value
  grey-powers       int64 (n,)         rows of the next two that belong to the pair
  grey-exponents    int64 (p,)         a power of two; grey value = integer · 2^exponent, 0 for integer volumes
  grey-sums         int64 (p, 8)       Σ of these integers (3 limbs) and Σ of their squares (5 limbs)
  grey-kinds        int64 (n,)         rows of the next two that belong to the pair, −1 where they were too many
  grey-values       its dtype (m,)     the distinct grey values of a pair, ascending
  grey-voxels       int64 (m,)         voxels with the value
of each volume (reference-, prediction-)
  …-corner-labels   uint64 (k,)        the labels; 0 for the foreground, any label at all
  …-corner-codes    int64 (k, 256)     corners per code of their 2×2×2 neighbourhood, see pipeline/kernels/corners

A pair with more than MOST_VALUES distinct grey values keeps none of them: its median is not known, all the rest is.
Whether it does is a matter of the whole volume, not of the blocks, and volumes of 16 bits and less never have as many.

Memory beside the block itself, which is read once: nothing per voxel, the kernels hold lines (only arrays that are not
contiguous, or have the other byte order, are copied). In bytes, tables being doubled when they are half full:
  * a distinct pair: 112 to 336 while a block is counted and 144 in a contribution; with grey values 16 + 2·itemsize
    more, and 72 for each power of two;
  * a distinct grey value of a pair: 8 + itemsize in a contribution, up to 160 while it is sorted and 90 while it is
    merged; while it is counted 160 to 480 per 16 neighbouring values of at most 16 bits, 40 to 120 per wider value;
  * a label of a block: 2 kB for its codes.
Volumes of more than 16 bits are counted in slabs of SLAB_VOXELS: their tables stay near 100 MB, whatever the values.
On a GPU there are the volumes as they were read, and tables that keep to a size (`card_bytes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.device import Host
from pipeline.errors import InputError
from pipeline.geometry import Box, Index
from pipeline.kernels import corners, structures
from pipeline.wide_integers import Limbs, add_shifted, carried, wide

Array = npt.NDArray[Any]
Contribution = dict[str, Array]

MOST_VALUES = 1 << 18
"""Distinct grey values that a pair of labels may have and keep: four times what 16 bits can hold."""

SLAB_VOXELS = 1 << 19
"""Voxels of a block whose grey values, where they have more than 16 bits, are counted at once."""

_LARGEST_BLOCK = 1 << 31
"""Voxels of a block, up to which sums of a block fit into int64."""


def reading_box(box: Box) -> Box:
    """What a block reads of the label volumes: itself and one voxel more on the low side, where the volume has one."""
    start_z, start_y, start_x = (max(0, start - 1) for start in box.start)
    return Box((start_z, start_y, start_x), box.stop)


def overlap_of_block(
    reference: Array, prediction: Array | None, image: Array | None = None, *, box: Box, shape: Index,
    image_name: str = "The grey volume", place: Host | None = None, left_out: int = 0,
) -> Contribution:  # fmt: skip
    """What one block contributes.

    reference, prediction : labels (z, y, x) of `reading_box(box)`, bool or integers of up to 64 bits, 0 is
    background. Without a prediction the structures of the reference alone are described, as pairs (label, 0).
    image : grey values (z, y, x) of `box` itself, integers or floats of up to 64 bits. shape : of the whole volume.
    All of these are on the host. place : where they are counted, the host by default. image_name : what a message
    calls the image. left_out : voxels of the block that are not counted; both volumes have background there.
    Raises InputError for negative labels, and for grey values inside a label that are not finite.
    """
    if box.voxels >= _LARGEST_BLOCK:
        raise ValueError(f"a block has fewer than 2**31 voxels, not {box.voxels}")
    read = reading_box(box)
    for array, expected in ((reference, read.shape), (prediction, read.shape), (image, box.shape)):
        if array is not None and array.shape != expected:
            raise ValueError(f"the block {box} needs arrays of {expected}, not {array.shape}")
    volumes = {"reference": reference} if prediction is None else {"reference": reference, "prediction": prediction}
    for name, volume in volumes.items():
        if volume.dtype.kind not in "bui":
            raise InputError(f"The {name} holds {volume.dtype} values; labels must be integers or bool.")
    place = place or Host()
    labels = {name: place.up(bit_patterns(volume)) for name, volume in volumes.items()}

    contribution = _structures_of_block(labels, image, image_name, box, read, place)
    contribution["volume-voxels"] -= left_out
    for column, (name, volume) in enumerate(volumes.items()):
        _refuse_negative_labels(name, volume.dtype, contribution["pair-labels"][:, column])
    for name, patterns in labels.items():
        start_z, start_y, start_x = (b - r for b, r in zip(box.start, read.start, strict=True))
        # The planes that close the volume belong to its last blocks.
        stop_z, stop_y, stop_x = (n + (stop == end) for n, stop, end in zip(read.shape, box.stop, shape, strict=True))
        found, codes = corners.count_corner_codes(patterns, (start_z, start_y, start_x), (stop_z, stop_y, stop_x))
        order = np.argsort(found)
        contribution |= {f"{name}-corner-labels": found[order], f"{name}-corner-codes": codes[order]}
    return contribution


def card_bytes(shape: Index, *, labels: int, grey: int) -> int:
    """Most bytes that a block takes on a GPU.

    shape : of the block. labels, grey : bytes of a voxel in the label volumes together, and in the grey volume, or 0.
    """
    tables = max(structures.table_bytes(grey=grey > 0), corners.table_bytes(shape[2] + 1))
    return math.prod(n + 1 for n in shape) * labels + math.prod(shape) * grey + tables


def merge(*contributions: Mapping[str, Array]) -> Contribution:
    """The contribution of all voxels of several contributions of one kind. Associative and commutative."""
    merged = {"volume-voxels": _sum(c["volume-voxels"] for c in contributions)} | _merged_pairs(contributions)
    for name in ("reference", "prediction"):
        if f"{name}-corner-labels" in contributions[0]:
            labels = np.concatenate([c[f"{name}-corner-labels"] for c in contributions])
            codes = np.concatenate([c[f"{name}-corner-codes"] for c in contributions])
            groups = _groups(labels)
            merged |= {
                f"{name}-corner-labels": labels[groups.order][groups.starts],
                f"{name}-corner-codes": groups.reduce(np.add, codes),
            }
    return merged


def _structures_of_block(
    labels: Mapping[str, Array], image: Array | None, image_name: str, box: Box, read: Box, place: Host
) -> Contribution:  # fmt: skip
    """The contribution of a block but for the corners."""
    nothing = place.up(np.zeros((0, 0, 0), np.uint8))
    volumes = [labels["reference"], labels.get("prediction", nothing)]
    volumes.append(nothing if image is None else place.up(bit_patterns(_checked_image(image))))
    width_r, width_p, width_g = (volume.itemsize if volume.size else 0 for volume in volumes)
    widths = (width_r, width_p, width_g)
    reference, prediction, grey = (volume.view(np.uint8) for volume in volumes)
    first_z, first_y, first_x = (b - r for b, r in zip(box.start, read.start, strict=True))
    size_z = box.shape[0]
    layers = size_z if widths[2] <= 2 else max(1, SLAB_VOXELS // (box.shape[1] * box.shape[2]))
    merged: Contribution | None = None
    for start in range(0, size_z, layers):
        tables = structures.count_structures(
            reference, prediction, grey, widths, (first_z, first_y, first_x), start, min(size_z, start + layers)
        )
        slab = _contribution(tables, None if image is None else image.dtype, image_name, box)
        merged = slab if merged is None else _merged_pairs((merged, slab))
    assert merged is not None
    return {"volume-voxels": np.array([box.voxels])} | merged


def _contribution(
    tables: tuple[Array, ...], grey_dtype: np.dtype[Any] | None, image_name: str, box: Box
) -> Contribution:
    """The tables of the kernel as sorted arrays in the coordinates of the volume."""
    pairs, voxels, sums, boxes, rows, patterns, counts = tables
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    start = np.array(box.start, np.int64)
    contribution = {
        "pair-labels": pairs[order],
        "pair-voxels": voxels[order],
        "pair-sums": wide((sums + voxels[:, None] * start)[order], 3),
        "pair-boxes": (boxes.reshape(-1, 2, 3) + start + np.array([[0], [1]]))[order],
    }
    if grey_dtype is None:
        return contribution
    values = patterns.astype(f"u{grey_dtype.itemsize}").view(grey_dtype.newbyteorder("="))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    if values.dtype.kind == "f":
        _refuse_values_that_are_not_finite(image_name, values, counts, pairs[rows])
        values += values.dtype.type(0)  # −0 is 0
    return contribution | _grey_arrays(rank[rows], values, counts, len(pairs))


def _grey_arrays(rows: Array, values: Array, counts: Array, pairs: int) -> Contribution:
    """The grey arrays of a contribution out of (row of the pair, value, voxels) in any order."""
    groups = _groups(rows, values)
    rows, values, counts = groups.first(rows), groups.first(values), groups.reduce(np.add, counts)
    of_pair = _groups(rows, in_order=True)  # every pair has a voxel, so a value
    extremes = np.stack([of_pair.reduce(np.minimum, values), of_pair.reduce(np.maximum, values)], axis=1)
    exponents, integers, negative = _integers(values)
    powers = of_pair if values.dtype.kind != "f" else _groups(rows, exponents)
    sums = _moments(powers, integers, negative, counts)
    kinds = np.bincount(rows, minlength=pairs)
    kept = kinds[rows] <= MOST_VALUES
    return {
        "grey-extremes": extremes,
        "grey-powers": np.bincount(powers.first(rows), minlength=pairs),
        "grey-exponents": powers.first(exponents),
        "grey-sums": sums,
        "grey-kinds": np.where(kinds <= MOST_VALUES, kinds, -1),
        "grey-values": values[kept],
        "grey-voxels": counts[kept],
    }


def _merged_pairs(parts: tuple[Mapping[str, Array], ...]) -> Contribution:
    """All arrays of pairs and of grey values merged."""

    def together(name: str) -> Array:
        return np.concatenate([part[name] for part in parts])

    labels = together("pair-labels")
    groups = _groups(labels[:, 0], labels[:, 1])
    boxes = together("pair-boxes")
    merged: Contribution = {
        "pair-labels": groups.first(labels),
        "pair-voxels": groups.reduce(np.add, together("pair-voxels")),
        "pair-sums": carried(groups.reduce(np.add, together("pair-sums"))),
        "pair-boxes": np.stack(
            [groups.reduce(np.minimum, boxes[:, 0]), groups.reduce(np.maximum, boxes[:, 1])], axis=1
        ),
    }
    if "grey-kinds" not in parts[0]:
        return merged
    pairs = len(merged["pair-labels"])
    row = groups.rows()
    extremes = together("grey-extremes")
    power_rows = np.repeat(row, together("grey-powers"))
    exponents = together("grey-exponents")
    powers = _groups(power_rows, exponents)
    kinds = together("grey-kinds")
    value_rows = np.repeat(row, np.maximum(kinds, 0))
    values = together("grey-values")
    distinct = _groups(value_rows, values)
    value_rows, values = distinct.first(value_rows), distinct.first(values)
    merged_kinds = np.bincount(value_rows, minlength=pairs)
    too_many = merged_kinds > MOST_VALUES
    too_many[row[kinds < 0]] = True
    kept = ~too_many[value_rows]
    return merged | {
        "grey-extremes": np.stack(
            [groups.reduce(np.minimum, extremes[:, 0]), groups.reduce(np.maximum, extremes[:, 1])], axis=1
        ),
        "grey-powers": np.bincount(powers.first(power_rows), minlength=pairs),
        "grey-exponents": powers.first(exponents),
        "grey-sums": _carried_moments(powers.reduce(np.add, together("grey-sums"))),
        "grey-kinds": np.where(too_many, -1, merged_kinds),
        "grey-values": values[kept],
        "grey-voxels": distinct.reduce(np.add, together("grey-voxels"))[kept],
    }


class _Groups(NamedTuple):
    """Rows sorted by their keys; rows of equal keys are a group."""

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]

    def first(self, column: Array) -> Array:
        """A column's value in each group, where it is the same in all of a group."""
        return column[self.order[self.starts]]

    def reduce(self, operation: np.ufunc, column: Array) -> Array:
        """A column reduced in each group, along its first axis."""
        if not self.starts.size:
            return column[:0]
        return np.asarray(operation.reduceat(column[self.order], self.starts, axis=0))

    def rows(self) -> npt.NDArray[np.int64]:
        """The group of each row."""
        firsts = np.zeros(len(self.order), np.int64)
        firsts[self.starts] = 1
        result = np.empty(len(self.order), np.int64)
        result[self.order] = np.cumsum(firsts) - 1
        return result


def _groups(*keys: Array, in_order: bool = False) -> _Groups:
    order = np.arange(len(keys[0])) if in_order else np.lexsort(keys[::-1])
    first = np.zeros(len(order), np.bool_)
    first[:1] = True
    for key in keys:
        ordered = key[order]
        first[1:] |= ordered[1:] != ordered[:-1]
    return _Groups(order, np.flatnonzero(first))


def _integers(values: Array) -> tuple[Array, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Values as ± integer · 2^exponent, exactly: exponents int64, magnitudes uint64, whether negative."""
    if values.dtype.kind == "f":
        mantissa, exponent = np.frexp(values.astype(np.float64))
        return exponent.astype(np.int64) - 53, np.ldexp(np.abs(mantissa), 53).astype(np.uint64), mantissa < 0
    negative = values < 0
    unsigned = values.astype(np.uint64)  # modulo 2⁶⁴
    return np.zeros(len(values), np.int64), np.where(negative, ~unsigned + np.uint64(1), unsigned), negative


def _moments(groups: _Groups, magnitude: Array, negative: Array, counts: Array) -> Limbs:
    """Σ count·m and Σ count·m² of each group, int64 (groups, 8): 3 and 5 limbs, carried.

    Halves of 32 bits and fewer than 2³¹ voxels: no sum of a half times a count reaches 2⁶³.
    """
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    high, low = magnitude >> shift, magnitude & mask
    signed = np.where(negative, -counts, counts)
    sums = np.zeros((len(groups.starts), 9), np.int64)
    for position, half in enumerate((low, high)):
        add_shifted(sums[:, :3], groups.reduce(np.add, signed * half.astype(np.int64)), position)
    for position, product, times in ((0, low * low, 1), (1, low * high, 2), (2, high * high, 1)):
        for offset, half in enumerate((product & mask, product >> shift)):
            total = groups.reduce(np.add, counts * half.astype(np.int64))
            for _ in range(times):
                add_shifted(sums[:, 3:], total, position + offset)
    return _carried_moments(sums[:, :8])


def _carried_moments(sums: Limbs) -> Limbs:
    return np.concatenate((carried(sums[:, :3]), carried(sums[:, 3:])), axis=1)


def _sum(arrays: Any) -> Array:
    return np.asarray(np.sum(list(arrays), axis=0, dtype=np.int64))


def bit_patterns(values: Array) -> Array:
    """An array as the unsigned integers of its width, contiguous and in the byte order of the machine."""
    if values.dtype.kind not in "buif":
        raise InputError(f"Volumes of {values.dtype} cannot be compared; convert it to integers or floats.")
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return native.view(f"u{values.dtype.itemsize}")


def _checked_image(image: Array) -> Array:
    if image.dtype.itemsize > 8:
        raise InputError(f"The grey volume has values of {image.dtype}; convert it to float64 or narrower.")
    return image


def _refuse_negative_labels(name: str, dtype: np.dtype[Any], labels: npt.NDArray[np.uint64]) -> None:
    bits = 8 * dtype.itemsize
    if dtype.kind == "i" and labels.size and int(labels.max()) >= 1 << (bits - 1):
        raise InputError(
            f"The {name} has the label {int(labels.max()) - (1 << bits)}, but labels are 0 for the background and"
            " positive integers for structures; give the structure another number, or make it background."
        )


def _refuse_values_that_are_not_finite(name: str, values: Array, counts: Array, labels: Array) -> None:
    wrong = ~np.isfinite(values)
    if not wrong.any():
        return
    reference, prediction = (int(label) for label in labels[wrong][0])
    number = int(counts[wrong].sum())
    where = f"label {reference} of the reference" if reference else f"label {prediction} of the prediction"
    raise InputError(
        f"{name} has {'a value that is' if number == 1 else f'{number:,} values that are'} not finite"
        f" ({values[wrong][0]}) inside"
        f" {where}; fill them, or make these voxels background."
    )
