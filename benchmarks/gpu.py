"""The question: how near do the CUDA kernels come to the card's limits, and how much of it is left from Zarr to Zarr.

Needs a GPU; written to RESULTS_GPU.md by `make bench-gpu`. Times are CUDA events on one stream, medians.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks import whole_volume
from benchmarks.results import Answer, Goal, Table
from benchmarks.volumes import SEED, Mask, Size, ball, noise, store
from benchmarks.whole_run import KINDS, run_once
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.job import MapKind
from pipeline.kernels import cuda
from workflows.config import ThicknessConfig

T = TypeVar("T")
Array = npt.NDArray[Any]

MAPS: tuple[MapKind, ...] = ("thickness", "none")
SIGMAS = (2, 8, 30)
DISTANCE_GOAL_MS, ALL_GOAL_MS, GOAL_SIDE = 20.0, 60.0, 512
SWEEP_SIDES = (256, 384, 512, 768, 1024)
REPEATS = 5
COPY_BYTES = 1 << 30
LANE_STEPS, LANE_CHAINS = 4096, 4
LEAST_BYTES = {
    "distance/distance_along_lines": 5, "distance/envelope_along_columns": 8, "centres/prune": 5, "thickness/seal": 5,
    "thickness/gather": 8, "thickness/unseal": 8, "thickness/to_thickness": 8, "tally/count_pairs": 4,
}  # fmt: skip
"""Bytes a voxel that a kernel must read and write at least, with int32 distances."""
COMPARISON_BYTES = {
    "structures/count_pairs": 4, "structures/count_values": 6, "structures/collect_pairs": None,
    "structures/collect_values": None, "corners/count_corner_codes": 2, "surface/surface_voxels": 2,
    "surface/corner_codes": 2, "surface/mixed_corners": 2, "surface/list_codes": 1, "surface/count_elements": 1,
    "surface/count_distances": 1, "distance/pack_bits": 1.125, "distance/unpack_bits": 1.125,
}  # fmt: skip
"""The same for what only a comparison needs, with labels and grey values of 16 bits; None: not by voxels."""
LANES = r"""
extern "C" __global__ void lanes(long long steps, long long seed, int* out) {
    unsigned a = threadIdx.x + static_cast<unsigned>(seed), b = a + 1, c = a + 2, d = a + 3;
    for (long long i = 0; i < steps; ++i) { a = a * b + c; b = b * c + d; c = c * d + a; d = d * a + b; }
    out[blockIdx.x * (long long)blockDim.x + threadIdx.x] = static_cast<int>(a ^ b ^ c ^ d);
}
"""
"""Multiply-and-adds of 32-bit integers that depend on nothing but registers."""


@dataclass(frozen=True)
class Ceilings:
    """What the card can do, measured. bytes per second of its memory and of both ways to the host; lane operations."""

    name: str
    copy: float
    up: float
    down: float
    lane_operations: float


@dataclass(frozen=True)
class Steps:
    """Milliseconds of every step and of every kernel of one volume, its kept centres and largest squared radius."""

    milliseconds: Mapping[str, float]
    kernels: Mapping[str, tuple[int, float]]
    voxels: int
    kept: int
    largest: int

    def together(self, *names: str) -> float:
        """Milliseconds of some steps, of all where none is named."""
        return sum(self.milliseconds[name] for name in names or self.milliseconds)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Some work and its milliseconds on the current stream, by events before and after it."""
    event = cuda.checked_cupy().cuda.Event
    begin, end = event(), event()
    begin.record()
    result = work()
    end.record()
    end.synchronize()
    return result, float(cuda.checked_cupy().cuda.get_elapsed_time(begin, end))


def median_of(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median milliseconds of repeated work, after one round that is not counted."""
    work()
    return statistics.median(timed(work)[1] for _ in range(repeats))


def ceilings(copy_bytes: int = COPY_BYTES, lane_steps: int = LANE_STEPS) -> Ceilings:
    """Measure what the card can do."""
    import cupyx

    cupy = cuda.checked_cupy()
    source, target = cupy.zeros(copy_bytes, np.uint8), cupy.empty(copy_bytes, np.uint8)
    pinned = cupyx.zeros_pinned(copy_bytes, np.uint8)

    def copy() -> None:
        target[...] = source

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    blocks, threads = properties["multiProcessorCount"] * 8, 256
    lanes = cupy.RawModule(code=LANES, backend="nvrtc").get_function("lanes")
    out = cupy.empty(blocks * threads, np.int32)
    operations = 2 * LANE_CHAINS * lane_steps * blocks * threads
    return Ceilings(
        properties["name"].decode(),
        copy=2 * copy_bytes / median_of(copy) * 1e3,
        up=copy_bytes / median_of(lambda: source.set(pinned)) * 1e3,
        down=copy_bytes / median_of(lambda: cupy.asnumpy(source, out=pinned)) * 1e3,
        lane_operations=operations / median_of(lambda: lanes((blocks,), (threads,), (lane_steps, 1, out))) * 1e3,
    )


@contextlib.contextmanager
def kernels_timed() -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Every kernel that is launched in this context with an event before and one after it, by its name."""
    launched: dict[str, list[tuple[Any, Any]]] = {}
    plain = cuda.function
    event = cuda.checked_cupy().cuda.Event

    def function(source: str, name: str, dtype: npt.DTypeLike) -> Any:
        kernel = plain(source, name, dtype)

        def launch(*arguments: Any, **settings: Any) -> None:
            begin, end = event(), event()
            begin.record()
            kernel(*arguments, **settings)
            end.record()
            launched.setdefault(f"{source.split('/', maxsplit=1)[0]}/{name}", []).append((begin, end))

        return launch

    cuda.function = function
    try:
        yield launched
    finally:
        cuda.function = plain


def measure_steps(mask: Mask, repeats: int = REPEATS) -> Steps:
    """Every step on a mask that lies on the card already; the first round, which compiles, is not counted."""
    cupy = cuda.checked_cupy()
    on_card = cupy.asarray(mask.view(np.uint8))
    rounds: list[dict[str, float]] = []
    kept = largest = 0
    for _ in range(repeats + 1):
        times: dict[str, float] = {}
        distances, times["distance"] = timed(partial(whole_volume.squared_distance, on_card))
        packed, times["prune + pack"] = timed(partial(whole_volume.packed_centres, distances))
        radii, times["gather"] = timed(partial(whole_volume.squared_local_radius, on_card, packed))
        _, times["tally"] = timed(partial(whole_volume.count_radii, radii))
        kept, largest = len(packed.centre_d), int(radii.max())
        rounds.append(times)
    cupy.cuda.get_current_stream().synchronize()
    with kernels_timed() as launched:
        radii = whole_volume.distance_and_thickness(on_card)
        whole_volume.count_radii(radii)
        whole_volume.thickness_um(radii)
        cupy.cuda.get_current_stream().synchronize()
        elapsed = cupy.cuda.get_elapsed_time
        kernels = {name: (len(pairs), sum(elapsed(*pair) for pair in pairs)) for name, pairs in launched.items()}
    medians = {name: statistics.median(times[name] for times in rounds[1:]) for name in rounds[0]}
    return Steps(medians, kernels, mask.size, kept, largest)


def measure_comparison(mask: Mask) -> Steps:
    """Every kernel of a comparison: the octants of a mask as labels, the same one voxel on, and 16-bit grey values."""
    cupy = cuda.checked_cupy()
    octant = [(np.arange(n) >= n // 2).astype(np.uint16) for n in mask.shape]
    labels = 1 + octant[2] + 2 * octant[1][:, None] + 4 * octant[0][:, None, None]
    reference = np.where(mask, labels, 0).astype(np.uint16)
    grey = np.random.default_rng(SEED).normal(1000, 200, mask.shape).astype(np.uint16)
    volumes = [cupy.asarray(volume) for volume in (reference, np.roll(reference, 1, axis=2), grey)]
    whole_volume.compare(volumes[0], volumes[1], volumes[2])
    with kernels_timed() as launched:
        whole_volume.compare(volumes[0], volumes[1], volumes[2])
        cupy.cuda.get_current_stream().synchronize()
        elapsed = cupy.cuda.get_elapsed_time
        kernels = {name: (len(pairs), sum(elapsed(*pair) for pair in pairs)) for name, pairs in launched.items()}
    return Steps({}, {name: spent for name, spent in kernels.items() if name in COMPARISON_BYTES}, mask.size, 0, 0)


def enlarged(mask: Mask, side: int) -> Mask:
    """A mask continued by its mirror images to a larger cube, which has no seams."""
    return np.pad(mask, [(0, side - n) for n in mask.shape], mode="symmetric")


def volumes_table(steps: Mapping[str, Steps], side: int) -> Table:
    """Milliseconds of every step, per volume."""
    names = list(next(iter(steps.values())).milliseconds)
    return Table(
        f"Milliseconds on the card, {side}³ voxels, median of {REPEATS}",
        ("volume", "largest radius", "kept centres", *names, "all", "Gvoxel/s"),
        tuple(
            (
                name, f"{s.largest**0.5:.1f}", f"{s.kept / s.voxels:.1%}",
                *(f"{s.milliseconds[step]:.2f}" for step in names),
                f"{s.together():.2f}", f"{s.voxels / s.together() / 1e6:.2f}",
            )
            for name, s in steps.items()
        ),
        "Events on the stream: the way of packed centres to the host and back is part of “prune + pack” and “gather”,"
        " as it is of a run. Kept centres: share of the voxels.",
    )  # fmt: skip


def kernels_table(name: str, steps: Steps, limits: Ceilings) -> Table:
    """Every kernel of one volume beside the card's memory."""
    rows = []
    for kernel, (launches, milliseconds) in sorted(steps.kernels.items(), key=lambda item: -item[1][1]):
        least = LEAST_BYTES.get(kernel) or COMPARISON_BYTES.get(kernel)
        rate = least * launches * steps.voxels / milliseconds * 1e3 if least and milliseconds else None
        rows.append(
            (
                kernel, str(launches), f"{milliseconds:.3f}", f"{milliseconds * 1e6 / steps.voxels:.4f}",
                f"{rate / 1e9:.0f}" if rate else "–", f"{rate / limits.copy:.0%}" if rate else "–",
            )
        )  # fmt: skip
    return Table(
        f"Every kernel, {name}",
        ("kernel", "launches", "ms", "ns a voxel", "GB/s at least", "of the ceiling"),
        tuple(rows),
        "GB/s at least: the bytes that no implementation can save, divided by the time. The gather and the envelopes"
        " are bound by arithmetic, not by memory.",
    )


def ceilings_table(limits: Ceilings) -> Table:
    """What the card can do."""
    return Table(
        f"Ceilings of the {limits.name}, measured",
        ("", "rate"),
        (
            ("memory, copy (read + write)", f"{limits.copy / 1e9:.0f} GB/s"),
            ("host to card, pinned", f"{limits.up / 1e9:.1f} GB/s"),
            ("card to host, pinned", f"{limits.down / 1e9:.1f} GB/s"),
            ("32-bit integer multiply and add", f"{limits.lane_operations / 1e12:.2f} T operations/s"),
        ),
    )


def sweep_table(sides: Sequence[int], base: Mask) -> Table:
    """Block sizes: small blocks leave a card idle, large ones take its memory."""
    cupy = cuda.checked_cupy()
    rows = []
    for side in sides:
        mask = enlarged(base, side) if side > base.shape[0] else np.ascontiguousarray(base[:side, :side, :side])
        steps = measure_steps(mask, repeats=3)
        peak = cupy.get_default_memory_pool().total_bytes()
        cupy.get_default_memory_pool().free_all_blocks()
        rows.append(
            (
                f"{side}³", *(f"{value:.2f}" for value in steps.milliseconds.values()), f"{steps.together():.2f}",
                f"{steps.voxels / steps.together() / 1e6:.2f}", f"{peak / steps.voxels:.1f}",
            )
        )  # fmt: skip
    return Table(
        "Block sizes, noise σ8",
        ("block", "distance", "prune + pack", "gather", "tally", "all, ms", "Gvoxel/s", "bytes a voxel in the pool"),
        tuple(rows),
    )


def thresholded_transforms(mask: Array) -> Array:
    """Local thickness as ltedt computes it: for every integer radius an opening by two distance transforms."""
    from cupyx.scipy import ndimage

    cupy = cuda.checked_cupy()
    distance = ndimage.distance_transform_edt(mask, float64_distances=False)
    out = cupy.zeros(mask.shape, np.float32)
    for radius in range(1, int(distance.max()) + 1):
        centres = distance >= radius
        out[ndimage.distance_transform_edt(~centres, float64_distances=False) < radius] = radius
    return out  # type: ignore[no-any-return]


def peers_table(volumes: Mapping[str, Mask], ours: Mapping[str, Steps]) -> Table:
    """CuPy's transform and a loop of transforms on the same masks."""
    from cupyx.scipy import ndimage

    cupy = cuda.checked_cupy()
    rows = []
    for name, mask in volumes.items():
        on_card = cupy.asarray(mask)
        transform = median_of(partial(ndimage.distance_transform_edt, on_card, float64_distances=False))
        loop = median_of(partial(thresholded_transforms, on_card), repeats=1)
        ms = ours[name]
        distance, both = ms.together("distance"), ms.together("distance", "prune + pack", "gather")
        rows.append(
            (
                name, f"{transform:.1f}", f"{distance:.1f}", f"{transform / distance:.1f}",
                f"{loop:.0f}", f"{both:.1f}", f"{loop / both:.1f}",
            )
        )  # fmt: skip
    return Table(
        "Beside other transforms on the same card, ms",
        ("volume", "CuPy distance_transform_edt", "our distance", "ratio", "loop of thresholded transforms",
         "our distance and thickness", "ratio"),
        tuple(rows),
        "The loop knows integer radii only, so its result is not exact; ours is.",
    )  # fmt: skip


@contextlib.contextmanager
def utilisation() -> Iterator[list[float]]:
    """Share of the time in which a kernel ran, sampled by the driver five times a second."""
    samples: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield samples
        finally:
            process.terminate()
            output, _ = process.communicate()
            samples += [float(line) / 100 for line in output.splitlines() if line.strip().isdigit()]


def end_to_end(base: Mask, side: int) -> tuple[Table, Table]:
    """A run from Zarr to Zarr on a local disk, with and without the map."""
    totals, details = [], []
    with tempfile.TemporaryDirectory() as folder:
        stored = store(enlarged(base, side), Path(folder), "noise")
        tiny = store(base[:64, :64, :64].copy(), Path(folder), "tiny")
        with open_cluster(LocalProfile(), device="gpu") as (client, workers):
            run_once(client, workers, ThicknessConfig(mask=str(tiny), device="gpu"), Path(folder) / "tiny-run")
            for what in MAPS:
                config = ThicknessConfig(mask=str(stored), map=what, device="gpu")
                with utilisation() as samples:
                    run = run_once(client, workers, config, Path(folder) / f"run-{what}")
                busy = f"{statistics.fmean(samples):.0%}" if samples else "–"
                rate = side**3 / run.wall_s / 1e6
                totals.append((what, f"{run.wall_s:.1f}", f"{rate:.0f}", busy, f"{len(workers.cards)}"))
                spent = sum(run.seconds(kind) for kind in KINDS)
                details += [
                    (what, kind, f"{run.seconds(kind):.1f}", f"{run.seconds(kind) / spent:.0%}") for kind in KINDS
                ]
    return (
        Table(
            f"From Zarr to Zarr, noise σ8, {side}³ voxels",
            ("map", "seconds", "Mvoxel/s", "GPU busy", "cards"),
            tuple(totals),
        ),
        Table(
            "Where the threads' time goes",
            ("map", "work", "seconds of all threads", "share"),
            tuple(details),
            "distance, prune, gather and tally include waiting for a place on the card.",
        ),
    )


def kernel_tables(side: int, sides: Sequence[int], *, peers: bool) -> tuple[list[Table], tuple[Goal, ...], Mask]:
    """Everything that needs no cluster: tables, goals, and the noise of σ8."""
    volumes = {f"noise σ{sigma}": noise(side, sigma) for sigma in SIGMAS} | {"ball": ball(side)}
    limits = ceilings(*(() if side >= GOAL_SIDE else (1 << 20, 16)))
    steps = {name: measure_steps(mask) for name, mask in volumes.items()}
    base = volumes["noise σ8"]
    tables = [ceilings_table(limits), volumes_table(steps, side)]
    tables += [kernels_table(name, s, limits) for name, s in steps.items()]
    tables.append(kernels_table("of a comparison of eight labels, noise σ8", measure_comparison(base), limits))
    tables.append(sweep_table(sides, base))
    if peers:
        tables.append(peers_table(volumes, steps))
    scale = (side / GOAL_SIDE) ** 3
    goals = [
        Goal(f"distance, {name}, {side}³", s.together("distance"), DISTANCE_GOAL_MS * scale, at_most=True, unit="ms")
        for name, s in steps.items()
    ]
    goals += [
        Goal(f"all, {name}, {side}³", s.together(), ALL_GOAL_MS * scale, at_most=True, unit="ms")
        for name, s in steps.items()
    ]
    return tables, tuple(goals), base


def answer(size: Size) -> Answer:
    """Kernels, block sizes, peers and a whole run on the card of this machine."""
    side = 2 * size.side
    full = side >= GOAL_SIDE
    sides = SWEEP_SIDES if full else (side // 2, side)
    tables, goals, base = kernel_tables(side, sides, peers=True)
    tables += end_to_end(base, 4 * size.side if full else side)
    return Answer("How near do the CUDA kernels come to the card's limits?", tuple(tables), goals)
