"""The question: how fast are the kernels beside the edt library's transform, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import edt
import numpy as np

from benchmarks import whole_volume
from benchmarks.results import Answer, Goal, Table
from benchmarks.timing import Timing, bench_once, median
from benchmarks.volumes import Mask, Size, ball, noise, slab

SIGMAS = (2, 4, 8, 16, 30)


@dataclass(frozen=True)
class Steps:
    """Times of every step on one volume, its foreground voxels, kept centres and largest squared radius."""

    times: Mapping[str, Timing]
    foreground: int
    kept: int
    largest: int

    def ratio(self, *names: str) -> float:
        """CPU time of some steps, as a multiple of the edt library's."""
        return self.cpu_s(*names) / self.cpu_s("edt")

    def cpu_s(self, *names: str) -> float:
        """CPU seconds of some steps together."""
        return sum(self.times[name].cpu_s for name in names)


def measure_steps(mask: Mask, repeats: int) -> Steps:
    """Every step of the measurement in turn, repeated as a whole so that a busy moment of the machine hits all."""
    taken: dict[str, list[Timing]] = {}
    kept = largest = 0
    for _ in range(repeats):
        times: dict[str, Timing] = {}
        _, times["edt"] = bench_once(partial(edt.edtsq, mask, parallel=1))
        distances, times["distance"] = bench_once(partial(whole_volume.squared_distance, mask))
        packed, times["centres"] = bench_once(partial(whole_volume.packed_centres, distances))
        radii, times["gather"] = bench_once(partial(whole_volume.squared_local_radius, mask, packed))
        _, times["tally"] = bench_once(partial(whole_volume.count_radii, radii))
        kept, largest = len(packed.centre_d), int(radii.max())
        for name, timing in times.items():
            taken.setdefault(name, []).append(timing)
    medians = {name: median(timings) for name, timings in taken.items()}
    return Steps(medians, int(np.count_nonzero(mask)), kept, largest)


def answer(size: Size) -> Answer:
    """Times and ratios on noise from fine to coarse, a ball and a slab."""
    whole_volume.compile_kernels()
    volumes: dict[str, Callable[[], Mask]] = {f"noise σ{sigma}": partial(noise, size.side, sigma) for sigma in SIGMAS}
    volumes |= {"ball": partial(ball, size.side), "slab": partial(slab, size.side)}
    steps = {name: measure_steps(make(), size.repeats) for name, make in volumes.items()}
    heading = f"{size.side}³ voxels, median of {size.repeats}"
    seconds = Table(
        f"CPU seconds, and seconds on the wall in brackets ({heading})",
        ("volume", "largest radius", "edt library", "distance", "prune + pack", "gather", "tally"),
        tuple(
            (name, f"{s.largest**0.5:.1f}", *(f"{t.cpu_s:.3f} ({t.wall_s:.3f})" for t in s.times.values()))
            for name, s in steps.items()
        ),
    )
    ratios = Table(
        f"Ratios of CPU time ({heading})",
        ("volume", "distance / edt", "thickness / edt", "both / edt", "distance, ns", "prune + pack, ns", "gather, ns",
         "kept centres"),
        tuple(
            (
                name, f"{s.ratio('distance'):.2f}", f"{s.ratio('centres', 'gather'):.2f}",
                f"{s.ratio('distance', 'centres', 'gather'):.2f}",
                *(f"{s.cpu_s(step) / s.foreground * 1e9:.1f}" for step in ("distance", "centres", "gather")),
                f"{s.kept / s.foreground:.1%}",
            )
            for name, s in steps.items()
        ),
        "Thickness is what follows the distance: prune, pack and gather. ns: per foreground voxel. Kept centres: share"
        " of the foreground.",
    )  # fmt: skip
    return Answer("How fast are the kernels beside the edt library, one thread each?", (seconds, ratios), _goals(steps))


def _goals(steps: Mapping[str, Steps]) -> tuple[Goal, ...]:
    fine, coarse = steps["noise σ4"], steps["noise σ30"]
    return (
        Goal("distance / edt library, noise σ4", fine.ratio("distance"), 1.5, at_most=True),
        Goal("distance / edt library, noise σ30", coarse.ratio("distance"), 1.5, at_most=True),
        Goal("thickness after it / edt library, noise σ4", fine.ratio("centres", "gather"), 4, at_most=True, aim=2),
        Goal("thickness after it / edt library, noise σ30", coarse.ratio("centres", "gather"), 12, at_most=True, aim=6),
    )
