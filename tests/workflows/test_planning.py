"""Configuration and plan are files; blocks come from memory and shards; what does not fit is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.local import Workers
from pipeline.errors import InputError, PlanError, RunError
from pipeline.geometry import BlockGrid, Index
from pipeline.job import ThicknessJob
from pipeline.memory import FIXED_BYTES, WORKER_BYTES, task_bytes
from workflows.config import ThicknessConfig, ThicknessPlan
from workflows.plan_thickness import (
    BLOCKS_PER_THREAD,
    check_memory,
    choose_blocks,
    decoded_bytes,
    describe_plan,
    make_plan,
    open_job,
    with_blocks,
)
from workflows.run_folder import create_run, open_run_folder

RUN = Path("run").absolute()
GIB = 2**30
configurations = st.builds(
    ThicknessConfig,
    mask=st.text(min_size=1),
    level=st.integers(0, 9),
    label=st.none() | st.integers(-(2**31), 2**31),
    threshold=st.none()
    | st.tuples(st.floats(allow_nan=False, allow_infinity=False))
    | st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False)),
    voxel_size_um=st.none() | st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    border=st.sampled_from(["unknown", "closed"]),
    regions=st.none() | st.text(),
    map=st.sampled_from(["thickness", "squared-radius", "none"]),
    block_shape=st.none() | st.tuples(*[st.integers(1, 32768)] * 3),
    keep_scratch=st.booleans(),
)


def workers(gib: float, threads: int = 2) -> Workers:
    return Workers(threads, threads, int(gib * GIB), "a machine")


def job_of(
    tmp_path: Path,
    shape: Index,
    *,
    shards: Index | None = None,
    chunks: Index = (32, 32, 32),
    map_kind: str = "thickness",
) -> ThicknessJob:
    path = tmp_path / "mask.zarr"
    zarr.create_array(path, shape=shape, chunks=chunks, shards=shards, dtype=np.uint8, overwrite=True)
    return open_job(ThicknessConfig(mask=str(path), voxel_size_um=(2, 2, 2), map=map_kind), RUN)


@given(configurations)
def test_a_configuration_is_a_file(config: ThicknessConfig) -> None:
    assert ThicknessConfig.model_validate_json(config.model_dump_json()) == config


def test_a_configuration_has_no_other_names() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ThicknessConfig.model_validate({"mask": "a", "bloc_shape": [1, 1, 1]})


def test_a_plan_is_a_file(tmp_path: Path) -> None:
    job = with_blocks(job_of(tmp_path, (100, 90, 80)), (64, 32, 32), RUN)
    plan = make_plan(job)
    assert ThicknessPlan.model_validate_json(plan.model_dump_json()) == plan
    folder = create_run(tmp_path / "run", ThicknessConfig(mask="m"), plan)
    assert open_run_folder(tmp_path / "run").plan() == plan
    assert folder.config() == ThicknessConfig(mask="m")
    with pytest.raises(RunError, match="is a run already"):
        create_run(tmp_path / "run", ThicknessConfig(mask="m"), plan)


def test_the_sums_of_a_plan(tmp_path: Path) -> None:
    job = with_blocks(job_of(tmp_path, (100, 90, 80)), (64, 32, 32), RUN)
    plan = make_plan(job)
    assert plan.blocks == (2, 3, 3)
    assert {stage.name: stage.tasks for stage in plan.stages} == {
        "mask": 18, "distance-y": 18, "distance-z": 18, "centres": 18, "thickness": 18, "pyramid-1": 4,
    }  # fmt: skip
    assert plan.map_bytes == 4 * (100 * 90 * 80 + 50 * 45 * 40)
    assert plan.source_bytes == 128 * 96 * 96
    text = describe_plan(job, plan, workers(4))
    assert "2 × 3 × 3 = 18 of 64 × 32 × 32 voxels" in text
    assert "4.00 GiB for each of 2 threads on a machine" in text
    for stage in plan.stages:
        assert f"  {stage.name} " in text


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    block=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.tuples(*[st.integers(1, 40)] * 3),
)
def test_decoded_bytes(shape: Index, block: Index, chunk: Index) -> None:
    """Against counting the chunks of every block one by one."""
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(store, shape=shape, chunks=tuple(map(min, chunk, shape)), dtype=np.uint16)
    grid = BlockGrid(shape, block)
    expected = 0
    for index in grid:
        box = grid.box(index)
        touched = [-(-stop // c) - start // c for start, stop, c in zip(box.start, box.stop, array.chunks, strict=True)]
        expected += math.prod(touched) * math.prod(array.chunks) * 2

    class Source:
        chunk_shape = array.chunks
        dtype = "uint16"

    assert decoded_bytes(Source(), grid) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [(64, 64, 64), (128, 128, 128), (96, 64, 160), (32, 256, 256)])
def test_blocks_are_whole_shards(tmp_path: Path, shards: Index) -> None:
    job = choose_blocks(job_of(tmp_path, (1920, 1920, 1920), shards=shards), RUN, workers(8))
    assert all(block % shard == 0 for block, shard in zip(job.grid.block_shape, shards, strict=True))
    assert job.map is not None
    assert job.map.block_shape == job.grid.block_shape
    check_memory(job, workers(8))


@pytest.mark.parametrize("gib", [0.6, 0.8, 1, 2, 4, 16])
def test_blocks_fit_the_memory(tmp_path: Path, gib: float) -> None:
    whole = job_of(tmp_path, (4096, 4096, 4096), chunks=(64, 64, 64))
    job = choose_blocks(whole, RUN, workers(gib))
    check_memory(job, workers(gib))
    larger = choose_blocks(whole, RUN, workers(2 * gib))
    assert math.prod(larger.grid.block_shape) >= math.prod(job.grid.block_shape)
    assert max(task_bytes(job).values()) + WORKER_BYTES > gib * GIB / 16, "memory lies idle"


def test_every_thread_has_blocks(tmp_path: Path) -> None:
    whole = job_of(tmp_path, (512, 512, 512), chunks=(64, 64, 64))
    for threads in (1, 2, 8):
        job = choose_blocks(whole, RUN, workers(8, threads))
        assert len(job.grid) >= min(BLOCKS_PER_THREAD * threads, 64)


def test_a_volume_smaller_than_a_block_is_one(tmp_path: Path) -> None:
    job = choose_blocks(job_of(tmp_path, (5, 70, 3)), RUN, workers(2))
    assert job.grid.block_shape == (5, 70, 3)


def test_what_does_not_fit_is_refused_with_its_sum(tmp_path: Path) -> None:
    job = with_blocks(job_of(tmp_path, (1024, 1024, 1024)), (1024, 1024, 1024), RUN)
    with pytest.raises(PlanError) as caught:
        check_memory(job, workers(2))
    needed = max(task_bytes(job).values())
    for number in (needed, WORKER_BYTES, needed + WORKER_BYTES, 2 * GIB):
        assert f"{number / GIB:.2f} GiB" in str(caught.value)
    small = choose_blocks(job, RUN, workers(0.4))
    with pytest.raises(PlanError, match="does not fit"):
        check_memory(small, workers(0.4))


@pytest.mark.parametrize("map_kind", ["thickness", "squared-radius", "none"])
def test_sixteen_bytes_a_voxel(tmp_path: Path, map_kind: str) -> None:
    job = with_blocks(job_of(tmp_path, (4096,) * 3, map_kind=map_kind), (256,) * 3, RUN)
    for stage, needed in task_bytes(job).items():
        assert needed - FIXED_BYTES <= 16 * 256**3, stage


def test_memory_does_not_contain_the_radius(tmp_path: Path) -> None:
    """The largest possible radius grows with the volume, the memory of a task does not."""
    small, large = (task_bytes(with_blocks(job_of(tmp_path, (side,) * 3), (128,) * 3, RUN)) for side in (4096, 8192))
    assert small == large


def test_sides_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "mask.zarr"
    zarr.create_array(path, shape=(8, 8, 8), dtype=np.uint8)
    config = ThicknessConfig(mask=str(path), voxel_size_um=(1, 1, 1), block_shape=(1, 9, 32768))
    assert open_job(config, RUN).grid.block_shape == (1, 8, 8)
    with pytest.raises(InputError, match="between 1 and 32768"):
        open_job(config.model_copy(update={"block_shape": (1, 1, 32769)}), RUN)


def test_a_job_without_a_map(tmp_path: Path) -> None:
    job = job_of(tmp_path, (100, 100, 100), map_kind="none")
    assert job.map is None
    assert make_plan(job).map_bytes == 0
    assert [stage.name for stage in make_plan(job).stages][-1] == "thickness"
    assert replace(job, border="closed").border == "closed"
