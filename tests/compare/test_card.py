"""A comparison on a card keeps to the plan of its memory, metered on a stand-in; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cluster.cards import Card
from cluster.local import Workers
from pipeline import device
from pipeline.comparison import ComparisonJob
from pipeline.engine import perform
from pipeline.errors import PlanError
from pipeline.kernels import corners, structures, surface
from pipeline.memory import CARD_FIXED_BYTES, POOL_SHARE
from tests.compare.runs import stored
from tests.cuda_shim.cupy_on_cpu import pool
from tests.phantoms import noise
from workflows.compare_segmentations import _Labels, _Reach, stages
from workflows.config import ComparisonConfig
from workflows.plan_comparison import (
    check_comparison_memory,
    choose_comparison_blocks,
    comparison_card_bytes,
    describe_comparison,
    make_comparison_plan,
    open_comparison,
)
from workflows.run_comparison import task_counts

GIB = 2**30
SIDE = 24
SMALL_FIXED_BYTES = {"centres": 1 << 19, "thickness": 3 << 20}
"""What tables take whatever the block: of containment 0.3 MB, of the tally 1 MB."""


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are no more than a small block, and full."""
    monkeypatch.setattr(structures, "MOST_SLOTS", 1 << 13)
    monkeypatch.setattr(corners, "MOST_SLOTS", 1 << 10)
    monkeypatch.setattr(surface, "MOST_SLOTS", 1 << 10)


@pytest.mark.usefixtures("small_tables", "pretend_gpu")
@pytest.mark.parametrize("ignored", [None, 7])
def test_the_memory_of_a_card_keeps_to_the_plan(tmp_path: Path, ignored: int | None) -> None:
    """Eight blocks of two noises in a salt of other labels, with grey values, so that every table overflows."""
    rng = np.random.default_rng(0)
    shape = (2 * SIDE, 2 * SIDE, 2 * SIDE)
    volumes = [np.where(noise(shape, 1.0, seed), 1, rng.integers(2, 5000, shape)) for seed in (0, 1)]
    config = ComparisonConfig(
        reference=stored(tmp_path, "reference", volumes[0].astype(np.uint16)),
        prediction=stored(tmp_path, "prediction", volumes[1].astype(np.uint32)),
        image=stored(tmp_path, "image", rng.integers(0, 9999, volumes[0].shape).astype(np.float32)),
        voxel_size_um=(1.0, 1.0, 1.0), block_shape=(SIDE, SIDE, SIDE), labels=(1,), maps=False,
        parts=("overlap", "surface", "thickness"), ignore_label=ignored,
    )  # fmt: skip
    job = open_comparison(config, tmp_path / "run", device="gpu")
    planned = comparison_card_bytes(job)
    most = peaks(job)
    assert set(most) == set(planned)
    for name, found in most.items():
        allowed = planned[name] - CARD_FIXED_BYTES + SMALL_FIXED_BYTES.get(name, 0)
        assert found <= allowed, f"{name}: {found:,} of {allowed:,} bytes"
    for part in ({"overlap"}, {name for name in most if name.startswith("surface")}, {"mask", "distance-z"}):
        asked = max(planned[name] for name in part) - CARD_FIXED_BYTES
        assert max(most[name] for name in part) >= 0.6 * asked, f"the plan of {part} asks for far too much"


def peaks(job: ComparisonJob) -> dict[str, int]:
    """The most memory of the card that a task of each stage took."""
    most: dict[str, int] = {}
    conclusions: dict[str, Any] = {"overlap": _Labels(job), "centres": _Reach(job)}
    for stage in stages(job):
        for block in stage.grid:
            pool.peak = pool.used
            summary = perform(stage.name, stage.task, job, block)
            most[stage.name] = max(most.get(stage.name, 0), pool.peak)
            if stage.name in conclusions:
                conclusions[stage.name].absorb(block, summary)
        if stage.name in conclusions:
            conclusions[stage.name].conclude({})
    return most


def offer(gib: float) -> Workers:
    card = Card("GPU-0", "A card", int(gib * GIB), int(gib * GIB))
    return Workers(1, 4, 1024 * GIB, "a machine", (card,))


def large_job(folder: Path, side: int) -> ComparisonJob:
    """A comparison of volumes that hold nothing."""
    for name in ("reference", "prediction"):
        zarr.create_array(folder / f"{name}.zarr", shape=(side,) * 3, dtype="uint8", chunks=(64, 64, 64))
    config = ComparisonConfig(
        reference=str(folder / "reference.zarr"), prediction=str(folder / "prediction.zarr"), voxel_size_um=(1, 1, 1)
    )
    return open_comparison(config, folder / "run", device="gpu")


def test_blocks_fit_the_card(tmp_path: Path) -> None:
    job = large_job(tmp_path, 1024)
    roomy, narrow = (choose_comparison_blocks(job, tmp_path / "run", offer(gib)) for gib in (80, 2))
    assert max(roomy.grid.block_shape) == 512
    assert max(narrow.grid.block_shape) < 512
    assert device.SLOTS * max(comparison_card_bytes(narrow).values()) <= 2 * GIB * POOL_SHARE
    text = describe_comparison(narrow, make_comparison_plan(narrow, task_counts(narrow)), offer(2))
    assert f"GPU, 1 × A card: {device.SLOTS} blocks at a time of" in text
    assert "on the card" in text


def test_a_block_that_does_not_fit_the_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"A block of 512×512×512 voxels does not fit the A card: 3 at a time, each up"):
        check_comparison_memory(large_job(tmp_path, 512), offer(1))
