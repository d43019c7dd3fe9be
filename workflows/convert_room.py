"""What `voxcaliper convert` takes, told and compared with what there is before anything is written."""

from __future__ import annotations

import math
import resource
import shutil
from pathlib import Path

import numpy as np

from cluster.local import default_workers
from pipeline.errors import PlanError
from pipeline.volume.opening import Volume

PYRAMID = 8 / 7
"""All levels of a pyramid, for the bytes of its first."""
LEAST_SHARE = 1e-4
"""Of voxels that are all alike, what is written at least: places in the indices of shards, and heads of chunks."""


def memory_here() -> int:
    """Bytes that one process may take on this machine: of its memory, its control group's, or its own limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    memory = default_workers(1).memory_bytes
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit)


def check_room(source: Volume, target: Path, needed: int, *, force: bool) -> str:
    """A sentence on what will be written; raises PlanError where memory or disk is less.

    needed : bytes of memory. What is written is estimated by how well the source is compressed, where that is soon
    known; else nothing is taken to be. force : write although the disk has less than the estimate.
    """
    plain = math.prod(source.shape) * np.dtype(source.dtype).itemsize
    if needed > (memory := memory_here()):
        raise PlanError(
            f"Converting {source.name} takes {_amount(needed)} of memory, because its smallest readable part has"
            f" {' × '.join(f'{side:,}' for side in source.chunk_shape)} voxels, and this process may take"
            f" {_amount(memory)}; give a smaller --block-shape, or convert it where there is more."
        )
    folder = next(above for above in target.absolute().parents if above.exists())
    free = shutil.disk_usage(folder).free
    written = int(plain * PYRAMID)
    stored = source.stored_objects() if written > free else None
    estimate = written if stored is None else int(written * min(1, max(LEAST_SHARE, stored[1] / plain)))
    if estimate > free and not force:
        told = "" if stored is None else f" about {_amount(estimate)} if they are compressed as the source is,"
        raise PlanError(
            f"Converting {source.name} writes {_amount(written)} of voxels,{told} and {folder} has {_amount(free)}"
            " free; write to another disk, or with --force if it is known to compress better."
        )
    return f"writes      {_amount(written)} of voxels with their pyramid, before compression; {_amount(free)} are free"


def _amount(size: float) -> str:
    for unit, step in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1e6:,.1f} MB"
