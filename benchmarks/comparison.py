"""The question: how fast is a comparison of segmentations, step by step, on one core, and beside surface-distance."""

from __future__ import annotations

import ctypes
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks import surface_peers
from benchmarks.memory import reset_peak, resident
from benchmarks.results import Answer, Goal, Table
from benchmarks.timing import Timing, bench, bench_once, median
from benchmarks.volumes import Labels, Size, segmentations
from pipeline import cavities, components, overlap, surface
from pipeline.comparison import FoundLabel
from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.geometry import BlockGrid, Index, VoxelSize
from pipeline.kernels.corners import count_corner_codes
from pipeline.kernels.structures import count_structures
from pipeline.ledger import Ledger
from pipeline.measures import corners
from pipeline.measures.surface import surface_measures
from pipeline.surface import LabelSurfaces
from workflows.compare_segmentations import labels_in

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SIGMA = 4
MANY = 104
"""Labels of the volume that has many, as many as TotalSegmentator finds."""
VOXEL_SIZE = VoxelSize((1.0, 1.0, 1.0))
WIDTHS = (1, 2)
TOLERANCES_UM = (0.0, 1.0, 2.0)
AREAS = corners.surface_areas(VOXEL_SIZE)

SURFACE_STAGES = (surface.SEEDS_STAGE, surface.STAGE_OF_AXIS[1], surface.STAGE_OF_AXIS[0], surface.COUNT_STAGE)

PAIRS = "overlap and structures, the kernel alone"
STATISTICS = "overlap and structures, as the stage merges them"
CORNERS = "areas and Euler numbers alone"
OVERLAP = "both, as the stage overlap counts and merges them"
CAVITIES = "cavities, components 6"
SURFACE = "all surface measures"


@dataclass(frozen=True, eq=False)
class Compared:
    """A reference and a prediction, and the blocks that they are cut into."""

    reference: Labels
    prediction: Labels
    grid: BlockGrid

    @property
    def megavoxels(self) -> float:
        """Voxels of one of the two volumes, in millions."""
        return self.reference.size / 1e6

    @property
    def volumes(self) -> tuple[Labels, Labels]:
        return self.reference, self.prediction

    @cached_property
    def found(self) -> list[FoundLabel]:
        """The labels and the boxes that hold them."""
        return labels_in(count_overlap(self))


def cut(pair: tuple[Labels, Labels], side: int) -> Compared:
    """A pair in blocks of side³."""
    z, y, x = pair[0].shape
    return Compared(*pair, BlockGrid((z, y, x), (side, side, side)))


def count_pairs(pair: Compared) -> list[Array]:
    """Pairs of labels with their voxels, sums and boxes, alone: the kernel on every block."""
    nothing = np.zeros((0, 0, 0), np.uint8)
    found = []
    for block in pair.grid:
        slices = pair.grid.box(block).slices
        reference, prediction = (_read(volume, slices) for volume in pair.volumes)
        found.append(count_structures(reference, prediction, nothing, (1, 1, 0), (0, 0, 0), 0, reference.shape[0])[1])
    return found


def count_overlap(pair: Compared) -> Arrays:
    """Stage overlap of every block, merged: pairs, structures, and the corner codes of both volumes."""
    parts = []
    for block in pair.grid:
        box = pair.grid.box(block)
        reference, prediction = (_read(volume, overlap.reading_box(box).slices) for volume in pair.volumes)
        parts.append(overlap.overlap_of_block(reference, prediction, box=box, shape=pair.grid.shape))
    return overlap.merge(*parts)


def count_statistics(pair: Compared) -> Arrays:
    """Stage overlap of every block, merged, but for the corner codes."""
    none = np.zeros(0, np.uint64), np.zeros((0, 256), np.int64)
    with patch("pipeline.overlap.corners.count_corner_codes", return_value=none):
        return count_overlap(pair)


def count_corners(pair: Compared) -> list[tuple[float, int]]:
    """Corner codes alone, and area and Euler number of every label of both volumes; as one block."""
    z, y, x = (n + 1 for n in pair.grid.shape)
    measured = []
    for volume in pair.volumes:
        _, codes = count_corner_codes(volume, (0, 0, 0), (z, y, x))
        measured += [(corners.surface_area(row, AREAS), corners.euler_number(row)) for row in codes]
    return measured


def count_components(pair: Compared, connectivity: Connectivity) -> list[dict[int, int]]:
    """Components of every label of both volumes under one connectivity: label, seams, unite, count."""
    counts = []
    for volume in pair.volumes:
        arrays = {}
        for block in pair.grid:
            box = pair.grid.box(block)
            labels = _read(volume, box.slices)
            arrays[block] = components.block_components(labels, box, pair.grid.shape, connectivity)[1]
        counts.append(components.component_counts(*_united(pair.grid, arrays, connectivity)))
    return counts


def count_cavities(pair: Compared) -> list[tuple[dict[int, int], dict[int, int]]]:
    """Components under connectivity 6 and cavities of every label of both volumes."""
    counts = []
    for volume in pair.volumes:
        arrays = {}
        for block in pair.grid:
            box = pair.grid.box(block)
            arrays[block] = cavities.block_cavities(_read(volume, box.slices), box, pair.grid.shape)
        seams = list(_seams(pair.grid, arrays, 6, same_label=False))
        union, final = _united(pair.grid, arrays, 6)
        edges = [of_block["edges"] for of_block in arrays.values()]
        leaves = [(of_block["cavity-label"], of_block["cavity-count"]) for of_block in arrays.values()]
        counts.append((components.component_counts(union, final), cavities.merge_cavities(union, edges, seams, leaves)))
    return counts


def _united(
    grid: BlockGrid, arrays: Mapping[Index, Arrays], connectivity: Connectivity
) -> tuple[components.Union, list[tuple[Array, Array]]]:
    labels = [of_block["label"] for of_block in arrays.values()]
    final = [(of_block["final-label"], of_block["final-count"]) for of_block in arrays.values()]
    return components.unite(labels, _seams(grid, arrays, connectivity)), final


def _seams(
    grid: BlockGrid, arrays: Mapping[Index, Arrays], connectivity: Connectivity, *, same_label: bool = True
) -> Iterator[Array]:
    return (
        components.seams(grid, block, connectivity, lambda b, name: arrays[b][name], same_label=same_label)
        for block in grid
    )


def _read(volume: Labels, slices: tuple[slice, slice, slice]) -> Labels:
    """A part of a volume in memory of its own, as a task gets it from a store."""
    return np.array(volume[slices], order="C")


def _surface_arrays(pair: Compared, labels: list[LabelSurfaces], stage: str, block: Index) -> Arrays:
    """What a task of a surface stage leaves."""
    arrays: Arrays = {}
    touched = [label for label in labels if label.touches(block)]
    if stage == surface.SEEDS_STAGE:
        around = overlap.reading_box(pair.grid.box(block))
        z, y, x = (min(stop + 1, n) for stop, n in zip(around.stop, pair.grid.shape, strict=True))
        wide = type(around)(around.start, (z, y, x))
        reference, prediction = (_read(volume, wide.slices) for volume in pair.volumes)
        for label in touched:
            read = label.reading_box(block)
            part = tuple(slice(a - o, b - o) for a, b, o in zip(read.start, read.stop, wide.start, strict=True))
            masks = (reference[part] == int(label.name), prediction[part] == int(label.name))
            arrays |= surface.find_elements(label, block, *masks)
        return arrays
    for label in touched:
        if stage == surface.COUNT_STAGE:
            arrays |= surface.count_distances(label, block)
        else:
            arrays |= surface.face_neighbours(label, block, axes=SURFACE_STAGES.index(stage))
    return arrays


def measure_surfaces(pair: Compared) -> tuple[dict[str, dict[str, Any]], dict[str, Timing]]:
    """The surface measures of every label, and the times of the stages, with parcels on disk as in a run."""
    times: dict[str, Timing] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        labels = _label_surfaces(pair, ledger)

        def perform(stage: str) -> None:
            for block in pair.grid:
                ledger.commit(stage, block, {}, _surface_arrays(pair, labels, stage, block))

        for stage in SURFACE_STAGES:
            _, times[stage] = bench_once(partial(perform, stage))
        found, times["measures"] = bench_once(partial(_formed_measures, pair, labels))
    return found, times


def _label_surfaces(pair: Compared, ledger: Ledger) -> list[LabelSurfaces]:
    return [
        LabelSurfaces(str(one.label), pair.grid, one.reference, one.prediction, VOXEL_SIZE, ledger, WIDTHS)
        for one in pair.found
    ]


def _formed_measures(pair: Compared, labels: list[LabelSurfaces]) -> dict[str, dict[str, Any]]:
    found = {}
    for label in labels:
        receipts = (label.ledger.receipt(surface.COUNT_STAGE, b) for b in pair.grid if label.touches(b))
        tally = surface.merged((surface.tally_of(label, receipt) for receipt in receipts), len(WIDTHS))
        found[label.name] = surface_measures(
            tally, VOXEL_SIZE, tolerances_um=TOLERANCES_UM, widths=WIDTHS, areas=AREAS, unit_areas=AREAS
        )
    return found


def peer_measures(pair: Compared, method: surface_peers.Method) -> dict[str, dict[str, Any]]:
    """What another tool finds, label by label.

    Only labels that both volumes have: elsewhere surface-distance 0.1 asks for np.Inf, which NumPy 2 has not.
    """
    return {
        str(one.label): method(pair.reference == one.label, pair.prediction == one.label, VOXEL_SIZE.um, TOLERANCES_UM)
        for one in pair.found
        if one.reference is not None and one.prediction is not None
    }


def surface_peaks(side: int, block_side: int, rehearsal_side: int) -> dict[str, int]:
    """The most memory that a task of each surface stage took beside this process at rest, in bytes; one label.

    The volumes count as at rest, what a task reads of them does not. A rehearsal loads and compiles everything before.
    """
    measure_surfaces(cut(segmentations(rehearsal_side, SIGMA, 1), rehearsal_side // 2))
    pair = cut(segmentations(side, SIGMA, 1), block_side)
    found = dict.fromkeys(SURFACE_STAGES, 0)
    with tempfile.TemporaryDirectory() as folder:
        labels = _label_surfaces(pair, Ledger(Path(folder)))
        ctypes.CDLL(None).malloc_trim(0)  # or what making the volumes left in the heap would count as at rest
        rest = resident("VmRSS")
        for stage in SURFACE_STAGES:
            for block in pair.grid:
                reset_peak()
                labels[0].ledger.commit(stage, block, {}, _surface_arrays(pair, labels, stage, block))
                found[stage] = max(found[stage], resident("VmHWM") - rest)
    return found


@dataclass(frozen=True)
class Measured:
    """Times of every step of a pair by name, those of the surface stages among them."""

    pair: Compared
    times: Mapping[str, Timing]

    def cpu_s(self, *names: str) -> float:
        """CPU seconds of some steps together."""
        return sum(self.times[name].cpu_s for name in names)

    def speed(self, *names: str) -> float:
        """Millions of voxels of the pair per CPU second of some steps together."""
        return self.pair.megavoxels / self.cpu_s(*names)


def measure_steps(pair: Compared, repeats: int) -> Measured:
    """Every step of a comparison in turn, repeated as a whole so that a busy moment of the machine hits all."""
    steps: dict[str, Callable[[], Any]] = {
        PAIRS: partial(count_pairs, pair), STATISTICS: partial(count_statistics, pair),
        CORNERS: partial(count_corners, pair), OVERLAP: partial(count_overlap, pair),
    }  # fmt: skip
    steps |= {_components(c): partial(count_components, pair, c) for c in CONNECTIVITIES}
    steps[CAVITIES] = partial(count_cavities, pair)
    taken: dict[str, list[Timing]] = {}
    for _ in range(repeats):
        times = {name: bench_once(step)[1] for name, step in steps.items()}
        _, stages = measure_surfaces(pair)
        together = Timing(sum(t.cpu_s for t in stages.values()), sum(t.wall_s for t in stages.values()))
        for name, timing in (times | stages | {SURFACE: together}).items():
            taken.setdefault(name, []).append(timing)
    return Measured(pair, {name: median(timings) for name, timings in taken.items()})


def _components(connectivity: Connectivity) -> str:
    return f"components {connectivity}, merged"


STEPS = (PAIRS, STATISTICS, CORNERS, OVERLAP, *map(_components, CONNECTIVITIES), CAVITIES, SURFACE)
TOPOLOGY = (CAVITIES, _components(18), _components(26))
"""What the stages components and seams do."""


def answer(size: Size) -> Answer:
    """One label and many, as one block and in eight; surface-distance on both; memory of the surface tasks."""
    measure_steps(cut(segmentations(24, 2, 3), 12), 1)  # compiles everything
    half = size.side // 2
    pairs = {"1 label": segmentations(size.side, SIGMA, 1), f"{MANY} labels": segmentations(size.side, SIGMA, MANY)}
    cuts = {"one block": size.side, f"blocks of {half}³": half}
    measured = {
        (labels, blocks): measure_steps(cut(pair, side), size.repeats)
        for labels, pair in pairs.items()
        for blocks, side in cuts.items()
    }
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peaks = pool.apply(surface_peaks, (size.side, half, 24))
    peers, peer_s = _peer_table(size, measured)
    per_voxel = max(peaks.values()) / half**3
    heading = f"{size.side}³ voxels, median of {size.repeats}"
    tables = (_speed_table(measured, heading), _stage_table(measured, heading), peers, _peak_table(peaks, half))
    return Answer(
        "How fast is a comparison of segmentations, on one core?", tables, _goals(measured, peer_s, per_voxel)
    )


Runs = Mapping[tuple[str, str], Measured]


def _speed_table(measured: Runs, heading: str) -> Table:
    runs = list(measured.values())
    rows = [
        (name, *(f"{run.speed(*steps):.1f}" for run in runs),
         f"{_ratio(measured, 0, *steps):.2f}", f"{_ratio(measured, 1, *steps):.2f}")
        for name, steps in (
            *((name, (name,)) for name in STEPS), ("the stages components and seams", TOPOLOGY),
            ("all stages", (OVERLAP, *TOPOLOGY, SURFACE)),
        )
    ]  # fmt: skip
    blocks = list(dict.fromkeys(blocks for _, blocks in measured))
    return Table(
        f"Millions of voxels of the pair per CPU second ({heading})",
        ("step", *(f"{labels}, {blocks}" for labels, blocks in measured), *(f"{MANY} / 1, {b}" for b in blocks)),
        tuple(rows),
        f"A pair counts the voxels of one of its two volumes. Reference: noise σ{SIGMA} with 35 % of foreground;"
        " prediction: the same moved, worn and smaller. The last columns: time with many labels / with one.",
    )


def _ratio(measured: Runs, cut_number: int, *steps: str) -> float:
    """Time with many labels as a multiple of that with one, in one of the ways to cut the volume."""
    one, many = (run for number, run in enumerate(measured.values()) if number % 2 == cut_number)
    return many.cpu_s(*steps) / one.cpu_s(*steps)


def _stage_table(measured: Runs, heading: str) -> Table:
    names = (*SURFACE_STAGES, "measures", SURFACE)
    return Table(
        f"CPU seconds of the surface stages, and seconds on the wall in brackets ({heading})",
        ("volume", *names),
        tuple(
            (f"{labels}, {blocks}", *(f"{run.times[n].cpu_s:.3f} ({run.times[n].wall_s:.3f})" for n in names))
            for (labels, blocks), run in measured.items()
        ),
        "Parcels are written and read as in a run.",
    )


def _peer_table(size: Size, measured: Runs) -> tuple[Table, dict[str, float]]:
    """Ours beside other tools; and the CPU seconds of each with one label, by name."""
    rows: list[tuple[str, ...]] = []
    seconds: dict[str, float] = {}
    blocks = list(dict.fromkeys(blocks for _, blocks in measured))
    for labels in dict.fromkeys(labels for labels, _ in measured):
        pair = measured[labels, blocks[0]].pair
        ours, _ = measure_surfaces(pair)
        times = [measured[labels, each].cpu_s(SURFACE) for each in blocks]
        rows += [
            (labels, f"voxcaliper, {each}", f"{cpu_s:.2f}", f"{pair.megavoxels / cpu_s:.2f}", *(1 + len(blocks)) * "–")
            for each, cpu_s in zip(blocks, times, strict=True)
        ]
        # Whole volumes, label by label, would take the others hours.
        tools = {"surface-distance": surface_peers.by_surface_distance} if seconds else surface_peers.methods()
        for name, method in tools.items():
            theirs, timing = bench(partial(peer_measures, pair, method), size.repeats)
            off = max(surface_peers.largest_difference(ours[label], found) for label, found in theirs.items())
            faster = (f"{timing.cpu_s / cpu_s:.1f}" for cpu_s in times)
            speed = f"{pair.megavoxels / timing.cpu_s:.2f}"
            rows.append((labels, name, f"{timing.cpu_s:.2f}", speed, *faster, f"{off:.1e}"))
            seconds.setdefault(name, timing.cpu_s)
    if "MONAI" not in seconds:
        rows.append(("1 label", "MONAI", "not installed", *(2 + len(blocks)) * "–"))
    table = Table(
        "Surface measures beside other tools, one thread",
        ("volume", "method", "CPU, s", "Mvoxel/s", *(f"× the time of voxcaliper, {each}" for each in blocks),
         "largest difference from ours"),
        tuple(rows),
        "voxcaliper: HD, HD95 by three definitions, ASSD, MASD, NSD of voxels and of surface elements, boundary IoU by"
        " two definitions, all at once. surface-distance: its distances, HD95, average distance and NSD, label by"
        " label, in the crop that it makes itself. MetricsReloaded, which is on no package index, by its way in plain"
        " SciPy: HD, HD95, ASSD, MASD and NSD out of one pair of distance transforms. MONAI: HD, HD95, ASSD and NSD of"
        " surface elements, one call each.",
    )  # fmt: skip
    return table, seconds


def _peak_table(peaks: Mapping[str, int], side: int) -> Table:
    return Table(
        f"Most memory of a surface task beside the process at rest, one label, blocks of {side}³",
        ("stage", "peak, MiB", "bytes per voxel of the block"),
        tuple((stage, f"{peak / 2**20:.1f}", f"{peak / side**3:.1f}") for stage, peak in peaks.items()),
        "With what a task reads: both label volumes and the masks made of them. Memory that earlier tasks did not give"
        " back counts for the task, as it does in a worker.",
    )


def _goals(measured: Runs, peer_s: Mapping[str, float], bytes_per_voxel: float) -> tuple[Goal, ...]:
    """The slowest of all volumes and blocks counts."""

    def slowest(*steps: str) -> float:
        return min(run.speed(*steps) for run in measured.values())

    one = [run for (labels, _), run in measured.items() if labels == "1 label"]
    slowest_s = max(run.cpu_s(SURFACE) for run in one)
    unit = "Mvoxel/s"
    return (
        Goal("overlap and statistics of every label, merged", slowest(STATISTICS), 100, at_most=False, unit=unit),
        Goal("areas and Euler numbers", slowest(CORNERS), 60, at_most=False, unit=unit),
        Goal("components with their merge", min(map(slowest, map(_components, CONNECTIVITIES))), 60, at_most=False,
             unit=unit),
        *(Goal(f"all surface measures, faster than {name}", cpu_s / slowest_s, 10, at_most=False)
          for name, cpu_s in peer_s.items()),
        Goal("peak memory of a surface task per voxel of its block", bytes_per_voxel, 24, at_most=True, unit="bytes"),
        Goal(f"overlap and statistics, {MANY} labels / one", max(_ratio(measured, n, OVERLAP) for n in (0, 1)), 2,
             at_most=True),
    )  # fmt: skip
