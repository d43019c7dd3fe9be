"""The question: how fast and how exact are localthickness and PoreSpy beside us, one thread each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import edt
import localthickness
import numba
import numpy as np
import numpy.typing as npt
import porespy

from benchmarks import whole_volume
from benchmarks.results import Answer, Goal, Table
from benchmarks.timing import Timing, bench
from benchmarks.volumes import Mask, Size, ball, noise, slab

Radii = npt.NDArray[Any]
"""Local radius in voxels, float (z, y, x), 0 on background."""

OURS = "voxcaliper"
LOCALTHICKNESS = "localthickness, scale 1"
LOCALTHICKNESS_HALF = "localthickness, scale 0.5"
PORESPY = "PoreSpy, default"
PORESPY_ALL = "PoreSpy, all sizes"

SAME = 1e-4
"""Radii closer than this are equal: the peers hold them as floats."""


def our_radius(mask: Mask) -> Radii:
    """Distance, thickness, and the root of it, which the peers' results contain too."""
    return np.sqrt(whole_volume.distance_and_thickness(mask), dtype=np.float32)


def porespy_radius(mask: Mask) -> Radii:
    """PoreSpy as it is called without options: integer radii."""
    return np.asarray(porespy.filters.local_thickness(mask))


def porespy_radius_of_all_sizes(mask: Mask) -> Radii:
    """PoreSpy by distance transforms with every radius that occurs, descending, by name: its one exact way.

    Exact while float32 roots of different squared radii differ, and slow: two transforms of the volume per radius.
    `sizes=None`, which promises the same, tries them in ascending order and returns 1 everywhere.
    """
    distances = edt.edt(mask, parallel=1)
    sizes = np.unique(distances[mask])
    return np.asarray(porespy.filters.local_thickness(mask, dt=distances, method="legacy", sizes=sizes))


METHODS: dict[str, Callable[[Mask], Radii]] = {
    OURS: our_radius,
    LOCALTHICKNESS: partial(localthickness.local_thickness, scale=1),
    LOCALTHICKNESS_HALF: partial(localthickness.local_thickness, scale=0.5),
    PORESPY: porespy_radius,
    PORESPY_ALL: porespy_radius_of_all_sizes,
}


@dataclass(frozen=True)
class Difference:
    """How a map of radii differs from the exact one on its foreground: in voxels of radius, and in shares of voxels."""

    mean_absolute: float
    lowest: float
    highest: float
    share_low: float
    share_high: float


def difference(found: Radii, exact: Radii) -> Difference:
    """Compare two maps of radii where the exact one is foreground."""
    foreground = exact > 0
    off = found[foreground].astype(np.float64) - exact[foreground]
    return Difference(
        mean_absolute=float(np.abs(off).mean()),
        lowest=min(0.0, float(off.min())),
        highest=max(0.0, float(off.max())),
        share_low=float(np.mean(off < -SAME)),
        share_high=float(np.mean(off > SAME)),
    )


def one_thread() -> None:
    """Keep the peers to one thread, and compile what they compile."""
    porespy.settings.ncores = 1
    numba.set_num_threads(1)
    for method in METHODS.values():
        method(slab(12))


def compare(mask: Mask, methods: tuple[str, ...], repeats: int) -> dict[str, tuple[Timing, Difference]]:
    """Time and error of each method on one volume."""
    exact = our_radius(mask)
    found = {}
    for name in methods:
        radii, timing = bench(partial(METHODS[name], mask), repeats)
        found[name] = timing, difference(radii, exact)
    return found


def answer(size: Size) -> Answer:
    """Fine and coarse noise at full side; at half the side, with PoreSpy's exact mode, a ball and a slab."""
    whole_volume.compile_kernels()
    threads, cores = numba.get_num_threads(), porespy.settings.ncores
    one_thread()
    try:
        fast = (OURS, LOCALTHICKNESS, LOCALTHICKNESS_HALF, PORESPY)
        half = size.side // 2
        volumes = {
            (f"noise σ4, {size.side}³", fast): partial(noise, size.side, 4),
            (f"noise σ16, {size.side}³", fast): partial(noise, size.side, 16),
            (f"noise σ4, {half}³", (*fast, PORESPY_ALL)): partial(noise, half, 4),
            (f"ball, {half}³", fast): partial(ball, half),
            (f"slab, {half}³", (*fast, PORESPY_ALL)): partial(slab, half),
        }
        found = {name: compare(make(), methods, size.repeats) for (name, methods), make in volumes.items()}
    finally:
        porespy.settings.ncores = cores
        numba.set_num_threads(threads)
    rows = tuple(
        (
            volume, method, f"{timing.cpu_s:.3f}", f"{timing.wall_s:.3f}",
            f"{timing.cpu_s / methods[OURS][0].cpu_s:.2f}",
            f"{off.mean_absolute:.3f}", f"{off.lowest:+.2f}", f"{off.highest:+.2f}",
            f"{off.share_low:.1%}", f"{off.share_high:.1%}",
        )
        for volume, methods in found.items()
        for method, (timing, off) in methods.items()
    )  # fmt: skip
    table = Table(
        "Time, and where the maps differ from the exact one",
        ("volume", "method", "CPU, s", "wall, s", "times ours", "mean |error|", "most below", "most above", "too low",
         "too high"),
        rows,
        "Errors are in voxels of radius on the foreground; too low and too high are shares of its voxels. What is"
        " exact is the definition (open balls, border of the volume unknown), which the tests hold to brute force.",
    )  # fmt: skip
    fine, coarse = list(found.values())[:2]
    return Answer(
        "How fast and how exact are localthickness and PoreSpy, one thread each?", (table,), _goals(fine, coarse)
    )


def _goals(
    fine: dict[str, tuple[Timing, Difference]], coarse: dict[str, tuple[Timing, Difference]]
) -> tuple[Goal, ...]:
    def faster(methods: dict[str, tuple[Timing, Difference]], peer: str) -> float:
        return methods[peer][0].cpu_s / methods[OURS][0].cpu_s

    return (
        Goal(f"faster than {LOCALTHICKNESS}, noise σ4", faster(fine, LOCALTHICKNESS), 7, at_most=False),
        Goal(f"faster than {LOCALTHICKNESS_HALF}, noise σ4", faster(fine, LOCALTHICKNESS_HALF), 1, at_most=False),
        Goal(f"faster than {PORESPY}, noise σ16", faster(coarse, PORESPY), 8, at_most=False),
    )
