"""Surface stages on arrays: every block, stage by stage, with a ledger on disk; and the definitions in plain scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline import surface
from pipeline.device import Device
from pipeline.geometry import BlockGrid, Box, Index, VoxelSize
from pipeline.ledger import Ledger
from pipeline.surface import LAYERS, LabelSurfaces, SurfaceTally

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]

NO_SURFACE = 2**53


def box_of(mask: Mask) -> Box | None:
    """The tight box of a mask."""
    if not mask.any():
        return None
    sides = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    z, y, x = (int(side[0]) for side in sides)
    end_z, end_y, end_x = (int(side[-1]) + 1 for side in sides)
    return Box((z, y, x), (end_z, end_y, end_x))


def measured_tally(
    folder: Path, reference: Mask, prediction: Mask, block_shape: Index, spacing: Spacing,
    widths: tuple[int, ...] = (), *, loose: bool = False, device: Device = "cpu", ignored: Mask | None = None,
) -> SurfaceTally:  # fmt: skip
    """The merged tally of one label through all stages. loose : with the volume in place of the tight boxes.

    ignored : of the volume; no mask has any of it.
    """
    z, y, x = reference.shape
    grid = BlockGrid((z, y, x), block_shape)
    boxes = [box_of(mask) for mask in (reference, prediction)]
    if boxes == [None, None]:
        return SurfaceTally.empty(len(widths))
    if loose:
        boxes = [Box((0, 0, 0), (z, y, x)), Box((0, 0, 0), (z, y, x))]
    ledger = Ledger(folder)
    size = VoxelSize(spacing).for_distances((z, y, x))
    label = LabelSurfaces("5", grid, boxes[0], boxes[1], size, ledger, widths, device)
    blocks = [block for block in grid if label.touches(block)]
    passed = {block: _ignored_around(ignored, grid.box(block), max((1, *widths))) for block in blocks}
    for block in blocks:
        read = label.reading_box(block).slices
        arrays = surface.find_elements(label, block, reference[read], prediction[read], passed[block])
        ledger.commit("surface", block, {}, arrays)
    for axes, stage in ((1, "surface-y"), (2, "surface-z")):
        for block in reversed(blocks):
            ledger.commit(stage, block, {}, surface.face_neighbours(label, block, axes=axes))
    for block in blocks:
        ledger.commit("surface-distance", block, {}, surface.count_distances(label, block, None, passed[block]))
    receipts = (ledger.receipt("surface-distance", block) for block in blocks)
    return surface.merged((surface.tally_of(label, receipt) for receipt in receipts), len(widths))


def _ignored_around(ignored: Mask | None, box: Box, reach: int) -> surface.Ignored | None:
    """What a task knows of it: the block and so much around it, and no more."""
    if ignored is None:
        return None
    (z, y, x), (end_z, end_y, end_x) = (
        tuple(max(0, start - reach) for start in box.start),
        tuple(min(n, stop + reach) for n, stop in zip(ignored.shape, box.stop, strict=True)),
    )
    wide = Box((z, y, x), (end_z, end_y, end_x))
    return surface.Ignored(wide, ignored[wide.slices].view(np.uint8))


def surface_voxels(mask: Mask, ignored: Mask | None = None) -> Mask:
    """Mask voxels with a background voxel among their six neighbours; beyond the volume lies background.

    ignored : voxels that are no background.
    """
    known = np.pad(~mask if ignored is None else ~mask & ~ignored, 1, constant_values=True)
    return np.asarray(mask & ndimage.binary_dilation(known)[1:-1, 1:-1, 1:-1])


def corner_codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """The code of every corner of the volume, of its edge too."""
    bits = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]])
    codes = ndimage.correlate(np.pad(mask, ((0, 1),) * 3).astype(np.int64), bits, mode="constant", cval=0)
    return np.asarray(codes, np.uint8)


def squared_distances(seeds: Mask, weights: Index) -> Distances:
    """Squared distance to the nearest seed in unit_um², from its position, so exact."""
    if not seeds.any():
        return np.full(seeds.shape, NO_SURFACE, np.int64)
    nearest = ndimage.distance_transform_edt(
        ~seeds, sampling=np.sqrt(weights), return_distances=False, return_indices=True
    )
    offsets = nearest - np.indices(seeds.shape)
    return np.asarray(sum(w * d.astype(np.int64) ** 2 for w, d in zip(weights, offsets, strict=True)))


def elements(kind: str, mask: Mask, ignored: Mask | None = None) -> tuple[Mask, npt.NDArray[np.uint8]]:
    """The surface elements of a mask and their codes. ignored : voxels that take the elements at them away."""
    if kind == "voxels":
        found = surface_voxels(mask, ignored)
        return found, np.zeros(found.shape, np.uint8)
    codes = corner_codes(mask)
    mixed = (codes != 0) & (codes != 255)
    return mixed if ignored is None else mixed & (corner_codes(ignored) == 0), codes


def expected_rows(
    reference: Mask, prediction: Mask, weights: Index, ignored: Mask | None = None
) -> list[tuple[int, int, int, int]]:
    """The rows of the tally of a pair, by definition."""
    rows: list[tuple[int, int, int, int]] = []
    for number, (kind, here, there) in enumerate(
        (kind, *pair) for kind in ("voxels", "corners") for pair in ((reference, prediction), (prediction, reference))
    ):
        found, codes = elements(kind, here, ignored)
        squared = squared_distances(elements(kind, there, ignored)[0], weights)
        keys, counts = np.unique(np.stack((squared[found], codes[found])), axis=1, return_counts=True)
        rows += [(number, int(d), int(c), int(n)) for (d, c), n in zip(keys.T, counts, strict=True)]
    return rows


def expected_layers(
    reference: Mask, prediction: Mask, widths: tuple[int, ...], ignored: Mask | None = None
) -> dict[str, list[tuple[int, int]]]:
    """Voxels in both boundaries and in either, per width, as MetricsReloaded and as Cheng et al. define them."""
    result: dict[str, list[tuple[int, int]]] = {name: [] for name in LAYERS}
    for width in widths:
        for name in LAYERS:
            a, b = (_layer(name, mask, width, ignored) for mask in (reference, prediction))
            result[name].append((int((a & b).sum()), int((a | b).sum())))
    return result


def _layer(name: str, mask: Mask, width: int, ignored: Mask | None) -> Mask:
    if name == "euclidean":
        return np.asarray(mask & (squared_distances(surface_voxels(mask, ignored), (1, 1, 1)) < width**2))
    all_but_known = mask if ignored is None else mask | ignored
    eroded = ndimage.binary_erosion(all_but_known, np.ones((3, 3, 3)), iterations=width, border_value=0)
    return np.asarray(mask & ~eroded)


def directed(here: Mask, there: Mask, spacing: Spacing) -> Floats:
    """Distances in µm of the elements of one surface to the other."""
    return np.asarray(ndimage.distance_transform_edt(~there, sampling=spacing)[here], np.float64)


def by_definition(reference: Mask, prediction: Mask, spacing: Spacing) -> dict[str, float]:
    """Distances between the surface voxels of masks that both have some, in float64, on whole volumes.

    As MetricsReloaded takes them in metrics/pairwise_measures.py: `border_distance` (the mask less its erosion by six
    neighbours, then scipy's distance_transform_edt), `measured_distance` (Hausdorff, its larger directed percentile,
    ASSD, MASD). MONAI's metrics/hausdorff_distance.py has the same percentile. Pooled: medpy's metric/binary.py, hd95.
    """
    a, b = surface_voxels(reference), surface_voxels(prediction)
    ab, ba = directed(a, b, spacing), directed(b, a, spacing)
    return {
        "hausdorff_um": max(ab.max(), ba.max()),
        "hausdorff95_um": max(np.percentile(ab, 95), np.percentile(ba, 95)),
        "hausdorff95_pooled_um": np.percentile(np.concatenate((ab, ba)), 95),
        "assd_um": (ab.sum() + ba.sum()) / (ab.size + ba.size),
        "masd_um": (ab.mean() + ba.mean()) / 2,
    }


def nsd_by_definition(reference: Mask, prediction: Mask, spacing: Spacing, tolerance: float) -> float:
    """MetricsReloaded's `normalised_surface_distance`, and MONAI's surface dice without sub-voxels."""
    a, b = surface_voxels(reference), surface_voxels(prediction)
    near = [np.count_nonzero(directed(*pair, spacing) <= tolerance) for pair in ((a, b), (b, a))]
    return sum(near) / (np.count_nonzero(a) + np.count_nonzero(b))


def rows_of(tally: SurfaceTally) -> list[tuple[int, ...]]:
    """The rows of a tally as tuples."""
    return [tuple(row) for row in tally.rows.T.tolist()]


def layers_of(tally: SurfaceTally) -> Mapping[str, Any]:
    """The layers of a tally as tuples."""
    return {name: [tuple(pair) for pair in tally.layers[n].tolist()] for n, name in enumerate(LAYERS)}


def blocks_at_most(shape: Index, block_shape: Index, most: int) -> bool:
    """Whether a blocking has at most so many blocks."""
    return math.prod(-(-n // b) for n, b in zip(shape, block_shape, strict=True)) <= most
