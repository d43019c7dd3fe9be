"""Memory of a task of a comparison, and of what the driver merges: sums that contain no radius and no list of voxels.

Per-label stages hold one label's field at a time and file it before the next, so labels do not add up. With V voxels in
the block, W in the block and one voxel around it, C in its largest face, L bytes of a label (of both volumes together
where both are read), S bytes per squared distance (4, or 8 for very large weights), the most that a task holds is,
beside FIXED_BYTES, what `Content` prices, and a few pieces and chunks of the source where it reads:

    parabolas         V·(S + 2) + faces C·2·(2·4 + S + 2), as in a thickness run: those that come or those that go
    overlap           L·W + the grey values + the regions + tables of pairs and grey values (see `_overlap_tables`)
    components        L·v of one volume, and v·(12 + L) while components are numbered; then 4·v, 56 per component and
                      37 per pair of touching ones; with objects 500 per component. v : voxels of a block of the
                      topology grid, at most TOPOLOGY_VOXELS; up to v components and 3·v pairs: noise of many labels
                      has as many
    seams             16·v labels of nodes, here and there, and 200 per voxel of its largest face
    surface           L·W + 3·W masks, one of them padded + W·(1 + S) elements and distances + parabolas
    surface-y/z       W·(1 + S) elements and distances + parabolas
    surface-distance  W·(3 + S) elements of both sides, codes and distances + parabolas, or for the layers of width d
                      8 per voxel of the block grown by d on all sides
    mask              L·V of one volume + V/8 bits + V·(1 + S) + parabolas
    distance-y/z      V/8 + V·(1 + S) + parabolas
    centres           the same while parabolas come, then V/8 + V·(2 + S) + one cell of centres
    thickness         V·4 for each map + V·4 thickness of the other side, then V/8 + V·(1 + S) + V·(S + 2) centres of
                      one batch, or the map that is encoded
    pyramid           one block of the coarser level and 2 × 2 × 2 chunks of the finer one

where voxels are ignored also
    overlap, surface  W·(2 + L) which they are, and a copy of one volume without them; the regions once more
    surface-distance  L·U of the reference, then U which they are, and 2·U for the layers. U : the block grown by d
    mask              L·V of the reference + 2·V

so with S = 4 and labels of one byte at most 16 V while surface elements are found, 13 V while their distances are
counted, 12 V while other distances are swept, and 27 V while thickness is measured into three maps.

The driver merges block after block. What it holds grows with what is found, never with voxels:

    overlap           of the volume, a few times while it is merged: 144 per pair of labels; 8 + the grey value's bytes
                      per distinct grey value of a pair, 72 per power of two of floats; 2 kB per label of each volume
    components        32 per node (a component that reaches another block, or holds others together), one side and
                      connectivity at a time, and the seams of one block, 24 each
    cavities          48 per node, and at most 112 per edge of the graph of who touches whom
    objects           72 per open object of either side, 120 per meeting of open ones; 88 per object that is listed
    surface tallies   32 per distinct {direction, squared distance, code}, twice while it is made, of 32 labels together
    thickness         24 per distinct squared radius and structure; 8 per structure and block, how far its balls reach
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.comparison import ComparisonJob
from pipeline.geometry import Index
from pipeline.kernels.centres import CELL
from pipeline.memory import FIXED_BYTES
from pipeline.overlap import MOST_VALUES, SLAB_VOXELS
from pipeline.thickness import batch_bytes
from pipeline.volume.writing import reduce_block_bytes, write_block_bytes

FOOTERS_BYTES = 16 << 20
"""Footers of parcels that a task keeps at hand (pipeline/parcels.py)."""
LABEL_BYTES = 64 << 10
"""A label in a task that files it: what names its arrays in the footers that are written and read, 60 kB, and while
labels are counted the table of its corner codes, 2 kB a volume, doubled when it is full."""
PAIR_BYTES = 512
"""A pair of labels while it is counted, merged with others, and filed."""
POWER_BYTES = 300
POWERS = 32
"""Powers of two that the grey values of a pair may have where they are floats, and what each takes."""
VALUE_BYTES = 160
MERGED_VALUE_BYTES = 90
"""A distinct grey value of a pair while it is sorted and its moments are formed, and while it is merged with others."""
PAGE_BYTES = 480
PAGE_VALUES = 16
"""Neighbouring grey values of at most 16 bits that are counted in one page, and what a page takes in its table."""
ROW_BYTES = 250
"""A distinct {squared distance, code} of a label while it is counted and sorted."""


@dataclass(frozen=True)
class Content:
    """What a block may hold of what only its voxels tell. A plan counts on this much; the constants above price more.

    labels, pairs : of labels that occur in the block. full_pairs : pairs whose grey values take all values there are.
    rows : of the surface tally of one label.
    """

    labels: int = 256
    pairs: int = 1024
    full_pairs: int = 64
    rows: int = 1 << 17


def comparison_bytes(job: ComparisonJob, content: Content | None = None) -> Mapping[str, int]:
    """Most memory a task of each stage takes, in bytes, beside an idle worker. content : of a block, at most."""
    content = content or Content()
    block = _clipped(job.grid.block_shape, job.grid.shape)
    voxels, wide = math.prod(block), math.prod(n + 2 for n in block)
    size = job.dtype.itemsize
    bytes_of = [np.dtype(volume.dtype).itemsize for volume in job.sides.values()]
    pieces = sum(volume.piece_bytes(block) for volume in job.sides.values())
    labels = wide * sum(bytes_of) + pieces
    ignoring = job.ignore_label is not None
    if ignoring:
        labels += wide * (2 + max(bytes_of))
    parabolas = wide * (size + 2) + (wide // min(n + 2 for n in block)) * 2 * (2 * 4 + size + 2)
    swept = voxels // 8 + voxels * (1 + size)
    cell = min(voxels, CELL**3) * 2 * (size + 2)
    maps = len(job.maps) * voxels * 4
    written = max((write_block_bytes(block, image.dtype) for image in job.maps.values()), default=0)
    values = voxels * 4 * (1 if size == 4 else 2) if job.maps else 0  # int32 turns into float32 in place
    grown = _grown(block, max(job.widths, default=0))
    layers = 8 * math.prod(grown)
    read = [volume.read_bytes(block) for volume in job.sides.values()]
    grey, split = (volume.read_bytes(block) if volume else 0 for volume in (job.image, job.regions))
    regions_left = 0
    if ignoring:
        layers = math.prod(grown) + max(job.reference.read_bytes(grown), layers + 2 * math.prod(grown))
        regions_left = voxels * np.dtype(job.regions.dtype).itemsize if job.regions else 0
    stages = {
        "overlap": labels + grey + split + regions_left + _overlap_tables(job, voxels, content),
        **_topology_bytes(job, max(bytes_of)),
        "surface": labels + 3 * wide + wide * (1 + size) + parabolas,
        "surface-y": wide * (1 + size) + parabolas,
        "surface-z": wide * (1 + size) + parabolas,
        "surface-distance": split
        + content.rows * ROW_BYTES
        + max(wide * (3 + size) + parabolas + (math.prod(grown) if ignoring else 0), layers),
        "mask": (sum(read) + 2 * voxels if ignoring else max(read)) + swept + parabolas,
        "distance-y": swept + parabolas,
        "distance-z": swept + parabolas,
        "centres": max(swept + parabolas, swept + voxels + cell),
        "thickness": split + maps + max(values + swept + batch_bytes(voxels, np.dtype(f"i{size}")) + cell, written),
    }
    kept = sum(volume.kept_bytes for volume in job.volumes.values())
    fixed = FIXED_BYTES + FOOTERS_BYTES + kept + content.labels * LABEL_BYTES
    result = {name: value + fixed for name, value in stages.items()}
    if job.maps:
        result["pyramid"] = (
            FIXED_BYTES + kept + max(reduce_block_bytes(image.block_shape, image.dtype) for image in job.maps.values())
        )
    return result


def _clipped(block_shape: Index, shape: Index) -> Index:
    z, y, x = (min(b, n) for b, n in zip(block_shape, shape, strict=True))
    return z, y, x


def _grown(block: Index, by: int) -> Index:
    z, y, x = (n + 2 * by for n in block)
    return z, y, x


def _topology_bytes(job: ComparisonJob, label: int) -> dict[str, int]:
    """Of the stages that find components, one volume at a time. label : bytes of one, in the volume of wider labels."""
    part = _clipped(job.topology_grid.block_shape, job.grid.shape)
    voxels = math.prod(part)
    pieces = max(volume.piece_bytes(part) for volume in job.sides.values())
    graph = 4 + 56 + 3 * 37
    return {
        "components": voxels * (label + max(12 + label, graph, 500 if job.objects != "none" else 0)) + pieces,
        "seams": 16 * voxels + 200 * (voxels // min(part)),
    }


def _overlap_tables(job: ComparisonJob, voxels: int, content: Content) -> int:
    """Tables of pairs of labels; with grey values of at most 16 bits their pages, or all values while they are sorted.

    Wider values are counted in slabs, so that their table has at most SLAB_VOXELS entries, and merged after each.
    """
    pairs = content.pairs * PAIR_BYTES
    if job.image is None:
        return pairs
    dtype = np.dtype(job.image.dtype)
    if dtype.kind == "f":
        pairs += content.pairs * POWERS * POWER_BYTES
    if dtype.itemsize > 2:
        slab = min(voxels, SLAB_VOXELS)
        merged = min(voxels, content.full_pairs * MOST_VALUES) + slab
        return pairs + slab * VALUE_BYTES + merged * MERGED_VALUE_BYTES
    values = min(voxels, content.full_pairs << (8 * dtype.itemsize))
    pages = min(voxels, content.full_pairs * ((1 << (8 * dtype.itemsize)) // PAGE_VALUES))
    return pairs + max(pages * PAGE_BYTES, values * VALUE_BYTES)
