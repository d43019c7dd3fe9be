"""Masks that are hard in one way or another, and hypothesis strategies for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (1.0, 2.0, 3.0), (7.5, 7.5, 7.5)]


def noise(shape: Shape, sigma: float, seed: int, *, share: float = 0.5) -> Mask:
    """Smoothed normal noise above its quantile: share is the part that is background."""
    values = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(values, sigma) if sigma else values
    return np.asarray(smooth > np.quantile(smooth, share))


def ball(shape: Shape, radius: float) -> Mask:
    """An open ball in the middle."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    squared: Any = sum((g - (n - 1) / 2) ** 2 for g, n in zip(grids, shape, strict=True))
    return np.asarray(squared < radius**2)


def plates(shape: Shape, period: int, thickness: int, axis: int) -> Mask:
    """Parallel slabs across an axis."""
    lines = np.arange(shape[axis]) % period < thickness
    view = [1, 1, 1]
    view[axis] = shape[axis]
    return np.broadcast_to(lines.reshape(view), shape).copy()


def nearly_full(shape: Shape, seed: int) -> Mask:
    """Everything foreground but one voxel: the largest radii a shape can have."""
    mask = np.ones(shape, np.bool_)
    rng = np.random.default_rng(seed)
    mask[tuple(rng.integers(0, n) for n in shape)] = False
    return mask


@st.composite
def shapes(draw: st.DrawFn, *, largest: int) -> Shape:
    """Primes, single voxels, remainders of one: what block borders get wrong."""
    side = st.one_of(st.sampled_from([1, 2, 3, 7, 8, 9, 13, 16, 17]), st.integers(1, largest))
    z, y, x = (min(largest, draw(side)) for _ in range(3))
    return z, y, x


@st.composite
def masks(draw: st.DrawFn, *, largest: int) -> Mask:
    """Noise, plates, balls and nearly full volumes; some background, some foreground or none."""
    shape = draw(shapes(largest=largest))
    seed = draw(st.integers(0, 2**16))
    kind = draw(st.sampled_from(["noise", "dense", "plates", "ball", "full"]))
    if kind == "noise":
        return noise(shape, draw(st.sampled_from([0.0, 1.0, 2.5])), seed)
    if kind == "dense":
        return noise(shape, draw(st.sampled_from([0.0, 1.0])), seed, share=0.03)
    if kind == "plates":
        return plates(shape, draw(st.integers(2, 12)), draw(st.integers(1, 8)), draw(st.integers(0, 2)))
    if kind == "ball":
        return ball(shape, draw(st.floats(1.0, 20.0)))
    return nearly_full(shape, seed)
