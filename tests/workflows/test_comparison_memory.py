"""No task of a comparison takes more memory than its plan sums up, and the driver holds what it says, on hard input."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from pipeline import cavities, components
from pipeline.comparison import ComparisonJob
from pipeline.comparison_memory import Content, comparison_bytes
from pipeline.engine import Outcome, Stopwatch, perform
from pipeline.geometry import Index
from pipeline.memory import WORKER_BYTES
from tests.workflows import peaks
from tests.workflows.conftest import noise
from workflows.compare_segmentations import conclusions, create_maps, stages
from workflows.config import ComparisonConfig
from workflows.plan_comparison import make_comparison_plan, open_comparison
from workflows.run_comparison import task_counts
from workflows.run_folder import create_run
from workflows.stages import Conclusion
from workflows.warm_up import finish

Labels = npt.NDArray[Any]
SIDE = 128
SALT_LABELS = 8
SALT = Content(labels=SALT_LABELS, pairs=(SALT_LABELS + 1) ** 2, full_pairs=(SALT_LABELS + 1) ** 2)
PER_LABEL = (
    "surface", "surface-y", "surface-z", "surface-distance", "mask", "distance-y", "distance-z", "centres", "thickness"
)  # fmt: skip


def salt(seed: int) -> Labels:
    """Every voxel has a label of its own, or none."""
    return np.random.default_rng(seed).integers(0, SALT_LABELS + 1, (SIDE, SIDE, SIDE)).astype(np.uint8)


def stored(folder: Path, **volumes: Labels) -> dict[str, str]:
    for name, voxels in volumes.items():
        zarr.create_array(folder / f"{name}.zarr", data=voxels, chunks=(64, 64, 64))
    return {name: str(folder / f"{name}.zarr") for name in volumes}


def begun(folder: Path, volumes: dict[str, str], block_shape: Index, **options: Any) -> ComparisonJob:
    """The job of a run of which nothing is done."""
    config = ComparisonConfig(**volumes, voxel_size_um=(1.0, 1.0, 1.0), block_shape=block_shape, **options)
    job = open_comparison(config, folder / "run")
    create_run(folder / "run", config, make_comparison_plan(job, task_counts(job)))
    return job


GREY: dict[str, Callable[[np.random.Generator], Labels]] = {
    "no grey": lambda rng: np.zeros(0),
    "16 bit": lambda rng: rng.integers(0, 2**16, (SIDE, SIDE, SIDE)).astype(np.uint16),
    "float32": lambda rng: rng.standard_normal((SIDE, SIDE, SIDE)).astype(np.float32),
}


@pytest.mark.parametrize("grey", [pytest.param("no grey", marks=pytest.mark.slow), "16 bit", "float32"])
def test_overlap_of_salt_noise_keeps_to_the_formula(tmp_path: Path, grey: str) -> None:
    volumes = {"reference": salt(1), "prediction": salt(2), "image": GREY[grey](np.random.default_rng(3))}
    volumes = {name: voxels for name, voxels in volumes.items() if voxels.size}
    job = begun(tmp_path, stored(tmp_path, **volumes), (SIDE, SIDE, SIDE), parts=("overlap",))
    peaks.check(tmp_path / "run", "overlap", comparison_bytes(job, SALT)["overlap"], WORKER_BYTES)


@pytest.mark.parametrize("objects", ["components", pytest.param("none", marks=pytest.mark.slow)])
def test_components_of_salt_noise_keep_to_the_formula(tmp_path: Path, objects: str) -> None:
    volumes = stored(tmp_path, reference=salt(1), prediction=salt(2))
    job = begun(tmp_path, volumes, (SIDE, SIDE, SIDE), parts=("overlap", "topology"), objects=objects)
    peaks.check(tmp_path / "run", "components", comparison_bytes(job, SALT)["components"], WORKER_BYTES)


@pytest.mark.slow
def test_components_that_are_voxels_keep_to_the_formula(tmp_path: Path) -> None:
    """As many components and touching pairs as there can be."""
    voxels = [np.random.default_rng(n).integers(0, 2**32, (SIDE, SIDE, SIDE)).astype(np.uint32) for n in (1, 2)]
    volumes = stored(tmp_path, reference=voxels[0], prediction=voxels[1])
    job = begun(tmp_path, volumes, (SIDE, SIDE, SIDE), parts=("overlap", "topology"), objects="components")
    peaks.check(tmp_path / "run", "components", comparison_bytes(job)["components"], WORKER_BYTES)


@pytest.fixture(scope="module")
def hard_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks of 128³; the boxes of all labels are the volume.

    Half of it is noise with many centres, sprinkled with two more labels.
    """
    folder = tmp_path_factory.mktemp("hard")
    volumes = {}
    for name, seed in (("reference", 0), ("prediction", 1)):
        voxels = noise((SIDE, 2 * SIDE, 2 * SIDE), sigma=1, seed=seed).astype(np.uint8)
        sprinkled = np.random.default_rng(seed).integers(0, 10, voxels.shape).astype(np.uint8)
        voxels[sprinkled < 2] = 2 + sprinkled[sprinkled < 2]
        volumes[name] = voxels
    job = begun(folder, stored(folder, **volumes), (SIDE, SIDE, SIDE), boundary_widths=(1, 5))
    create_maps(job)
    finish(job)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["overlap", "components", "seams", *PER_LABEL])
def test_a_task_on_many_overlapping_labels_keeps_to_the_formula(hard_run: Path, stage: str) -> None:
    job = peaks.job_of(hard_run)
    assert isinstance(job, ComparisonJob)
    peaks.check(hard_run, stage, comparison_bytes(job)[stage], WORKER_BYTES)


@pytest.fixture(scope="module")
def hard_ignoring_run(hard_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without one of the labels, in boundaries of 9 voxels."""
    volumes = {name: str(hard_run.parent / f"{name}.zarr") for name in ("reference", "prediction")}
    folder = tmp_path_factory.mktemp("ignoring")
    job = begun(folder, volumes, (SIDE, SIDE, SIDE), boundary_widths=(1, 9), ignore_label=3)
    create_maps(job)
    finish(job)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["overlap", "components", "surface", "surface-distance", "mask"])
def test_a_task_that_ignores_voxels_keeps_to_the_formula(hard_ignoring_run: Path, stage: str) -> None:
    job = peaks.job_of(hard_ignoring_run)
    assert isinstance(job, ComparisonJob)
    peaks.check(hard_ignoring_run, stage, comparison_bytes(job)[stage], WORKER_BYTES)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ComparisonJob:
    """Six labels that lie everywhere, in eight blocks."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    volumes = stored(
        folder, **{n: rng.integers(0, 7, (20, 20, 20)).astype(np.uint8) for n in ("reference", "prediction")}
    )
    job = begun(folder, volumes, (10, 10, 10))
    create_maps(job)
    return job


def test_a_task_lets_go_of_a_label_before_the_next(small: ComparisonJob) -> None:
    """Whatever is filed for a label is gone when the first array of the next one comes."""
    for stage in stages(small):
        conclusion = conclusions(small).get(stage.name, Conclusion)()
        if stage.name in PER_LABEL:
            assert labels_let_go(stage.task(small, (0, 0, 0), Stopwatch())) >= 6
        for block in stage.grid:
            conclusion.absorb(block, perform(stage.name, stage.task, small, block))
        conclusion.conclude({})


def labels_let_go(outcome: Outcome) -> int:
    """How many labels a task found one after the other; no array of one lives when the next is there."""
    assert isinstance(outcome.arrays, Iterator), "the task does not file label by label"
    labels: list[str] = []
    alive: list[weakref.ref[Any]] = []
    for name, array in outcome.arrays:
        label = name.split("-")[0]
        if labels[-1:] != [label]:
            assert not any(one() is not None for one in alive), f"{name} comes while {labels[-1]} is held"
            labels.append(label)
            alive.clear()
        if isinstance(array, np.ndarray):
            alive.append(weakref.ref(array))
        del array
    return len(set(labels))


def test_what_the_driver_holds_of_nodes_and_edges() -> None:
    """32 bytes a node of a union; 48 a node, 16 of them the union's, and 112 an edge of cavities."""
    blocks, nodes = 50, 20_000
    rng = np.random.default_rng(0)

    def labels() -> Iterator[npt.NDArray[np.uint64]]:
        return (np.random.default_rng(n).integers(0, 20, nodes).astype(np.uint64) for n in range(blocks))

    def seams() -> Iterator[npt.NDArray[np.int64]]:
        for n in range(blocks):
            here, there = rng.integers(0, nodes, (2, 1000 if n else 0))
            yield np.stack((here, np.full(len(here), max(0, n - 1)), there), axis=1)

    def edges() -> Iterator[npt.NDArray[np.int64]]:
        return (rng.integers(0, nodes, (nodes, 2)) for _ in range(blocks))

    components.unite([np.ones(1, np.uint64)], [np.zeros((1, 3), np.int64)])  # compiles
    union, taken = traced(lambda: components.unite(labels(), seams()))
    assert taken <= 32.5 * blocks * nodes
    holes, taken = traced(lambda: cavities.merge_cavities(union, edges(), seams(), []))
    assert holes
    assert taken <= (48 - 16 + 112) * blocks * nodes


def traced(work: Callable[[], Any]) -> tuple[Any, int]:
    """What some work returns, and how many bytes it held at most."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
