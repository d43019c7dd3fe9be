"""The definitions, spelled out and slow. Only tests import this module."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def squared_distance(
    mask: npt.NDArray[np.bool_], weights: tuple[int, int, int], *, closed: bool
) -> npt.NDArray[np.int64]:
    """D(q) = min over background voxels b of Σ weight·(q − b)²; 0 on background.

    mask : bool (z, y, x); True is foreground. closed : the voxels just outside of the volume are background.
    Returns int64 (z, y, x). Raises ValueError where no background exists.
    """
    padded = np.pad(mask, 1, constant_values=False) if closed else mask
    background = np.argwhere(~padded).astype(np.int64)
    if len(background) == 0:
        raise ValueError("no background")
    scale = np.array(weights, dtype=np.int64)
    out = np.zeros(padded.shape, dtype=np.int64)
    for q in np.argwhere(padded):
        out[tuple(q)] = (scale * (background - q) ** 2).sum(axis=1).min()
    return out[1:-1, 1:-1, 1:-1] if closed else out


def squared_local_radius(
    mask: npt.NDArray[np.bool_], weights: tuple[int, int, int], *, closed: bool
) -> npt.NDArray[np.int64]:
    """T(p) = max { D(q) : |p − q|² < D(q) } for foreground p, 0 on background (strict: open balls).

    Hildebrand & Rüegsegger 1997, doi:10.1046/j.1365-2818.1997.1340694.x, with integer squared distances.
    """
    distance = squared_distance(mask, weights, closed=closed)
    axes = [np.arange(n, dtype=np.int64) for n in mask.shape]
    out = np.zeros(mask.shape, dtype=np.int64)
    for q in np.argwhere(mask):
        d = distance[tuple(q)]
        dz, dy, dx = (w * (a - c) ** 2 for w, a, c in zip(weights, axes, q, strict=True))
        ball = dz[:, None, None] + dy[None, :, None] + dx[None, None, :] < d
        out[ball & mask] = np.maximum(out[ball & mask], d)
    return out
