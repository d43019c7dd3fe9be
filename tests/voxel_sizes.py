"""Voxel sizes as scanners and files give them, and thickness by definition in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Size = tuple[float, float, float]

TIE = 1e-6
"""Squared distances that are nearer than this are not told apart, relatively."""


@st.composite
def sizes(draw: st.DrawFn, *, most: float = 100.0) -> Size:
    """Six decimals, float32, or noise on simple ratios; spacings differ by a factor of at most `most`."""
    kind = draw(st.sampled_from(["six decimals", "in-plane", "float32", "noise", "fractions"]))
    if kind in ("six decimals", "in-plane"):
        z, y, x = (draw(st.integers(100_000, int(100_000 * most))) / 1e6 for _ in range(3))
        return (z, y, x) if kind == "six decimals" else (z, y, y)
    if kind == "float32":
        z, y, x = (float(np.float32(draw(st.floats(0.1, 0.1 * most)))) for _ in range(3))
        return z, y, x
    if kind == "noise":
        base = draw(st.sampled_from([7.5, 0.7, 19.498, 1.0]))
        factors = [draw(st.sampled_from([1, 1, 2, 5])) for _ in range(3)]
        z, y, x = (base * f * (1 + draw(st.integers(-1000, 1000)) * 10.0 ** -draw(st.integers(6, 10))) for f in factors)
        return z, y, x
    z, y, x = (draw(st.integers(1, 9)) / draw(st.sampled_from([3, 7, 9])) for _ in range(3))
    return z, y, x


def thickness_by_definition(mask: Mask, um: Size, *, closed: bool, grown: float = 0.0) -> Floats:
    """Local thickness in µm by definition, T(p) = max { D(q) : |p − q|² < D(q) · (1 + grown) }, in float64.

    T jumps where p lies on the edge of a ball. Axes of one spacing are added up in integers first, so that what is
    equal is equal in float64, too; whether noise on a spacing puts p in or out means nothing: `grown` = ∓TIE gives
    bounds.
    """
    padded = np.pad(mask, 1) if closed else mask
    background, inside = np.argwhere(~padded), np.argwhere(padded)
    nearest = np.array([_squared(background - q, um).min() for q in inside])
    apart = _squared(inside[:, None] - inside[None], um)  # of p (rows) and q (columns)
    values = np.zeros(mask.shape)
    values[mask] = 2 * np.sqrt(np.where(apart < nearest * (1 + grown), nearest, 0.0).max(axis=1))
    return values


def _squared(steps: npt.NDArray[np.int64], um: Size) -> Floats:
    """Squared lengths in µm² of steps in voxels (…, 3)."""
    of_spacing = [(v * v, (steps[..., [a for a in range(3) if um[a] == v]] ** 2).sum(axis=-1)) for v in sorted({*um})]
    return np.asarray(sum(square * number for square, number in of_spacing))
