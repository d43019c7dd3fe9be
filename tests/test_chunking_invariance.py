"""THE promise: maps and statistics do not depend on how the volume is cut into blocks, and equal the definition."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.device import Device
from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize
from pipeline.job import Border, ThicknessJob
from pipeline.kernels.reference import squared_local_radius
from pipeline.statistics import thickness_statistics
from pipeline.tally import Tally
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended
from tests.phantoms import SPACINGS, Mask, ball, masks, noise
from workflows.config import ThicknessConfig
from workflows.measure_thickness import measure, merged_tally
from workflows.plan_thickness import open_job


@dataclass(frozen=True)
class Workers:
    """Where tasks run, and where their kernels do."""

    client: Client
    device: Device


@pytest.fixture(scope="module", params=["cpu", "pretended gpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """A real scheduler and worker, in this process: tasks of tiny blocks would drown in traffic between processes.

    pretended gpu : all that a GPU does, the CUDA kernels included, on the CPU.
    """
    with contextlib.ExitStack() as stack:
        if request.param == "pretended gpu":
            if compiler() is None:
                pytest.skip("needs g++, which compiles the CUDA kernels for the CPU")
            stack.enter_context(pretended())
        client = Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0")
        yield Workers(stack.enter_context(client), "cpu" if request.param == "cpu" else "gpu")


def measured(
    workers: Workers, folder: Path, mask: Mask, block_shape: Index, spacing: tuple[float, float, float], border: Border,
    *, dtype: str | None = None,
) -> tuple[npt.NDArray[Any], Tally, ThicknessJob]:  # fmt: skip
    """Squared local radius and tally of a mask in a bare Zarr array, through every stage."""
    array = zarr.create_array(folder / "mask.zarr", shape=mask.shape, dtype="bool", chunks=(16, 16, 16))
    array[:] = mask
    config = ThicknessConfig(
        mask=str(folder / "mask.zarr"), voxel_size_um=spacing, border=border, map="squared-radius",
        block_shape=block_shape,
    )  # fmt: skip
    job = open_job(config, folder, device=workers.device)
    if dtype is not None:
        assert job.map is not None
        job = replace(job, wide=dtype == "int64", map=replace(job.map, dtype=dtype))
    measure(workers.client, job, report=lambda _: None)
    return np.asarray(zarr.open_array(folder / "thickness.ome.zarr" / "0", mode="r")[:]), merged_tally(job), job


def blocks_for(shape: tuple[int, ...]) -> st.SearchStrategy[Index]:
    """Block shapes down to 8³ with at most 40 blocks, and odd ones."""
    sides = [st.sampled_from([b for b in (8, 9, 11, 16, 23, 40) if -(-n // b) <= 4]) for n in shape]
    return st.tuples(*sides).filter(lambda b: math.prod(-(-n // s) for n, s in zip(shape, b, strict=True)) <= 40)


@settings(max_examples=50)
@given(data=st.data())
def test_every_blocking_equals_the_definition(workers: Workers, data: st.DataObject) -> None:
    mask = data.draw(masks(largest=28))
    spacing = data.draw(st.sampled_from(SPACINGS))
    border: Border = data.draw(st.sampled_from(["unknown", "closed"]))
    block_shape = data.draw(blocks_for(mask.shape))
    if mask.all() and border == "unknown":
        with TemporaryDirectory() as folder, pytest.raises(InputError, match="no distance to the background"):
            measured(workers, Path(folder), mask, block_shape, spacing, border)
        return
    expected = squared_local_radius(mask, VoxelSize(spacing).weights, closed=border == "closed")
    with TemporaryDirectory() as folder:
        radii, tally, _ = measured(workers, Path(folder), mask, block_shape, spacing, border)
    assert np.array_equal(radii, expected)
    values, counts = np.unique(expected[expected > 0], return_counts=True)
    assert np.array_equal(tally.total().squared_radius, values)
    assert np.array_equal(tally.total().voxels, counts)


@pytest.mark.parametrize("spacing", SPACINGS[:2])
def test_statistics_are_equal_to_the_last_bit(workers: Workers, tmp_path: Path, spacing: Any) -> None:
    mask = noise((45, 35, 41), 3.0, 3)
    results = []
    for n, block_shape in enumerate([(45, 35, 41), (12, 35, 16), (23, 13, 41), (48, 8, 48)]):
        folder = tmp_path / str(n)
        folder.mkdir()
        radii, tally, job = measured(workers, folder, mask, block_shape, spacing, "unknown")
        statistics = thickness_statistics(
            tally, voxel_size=job.voxel_size, volume_voxels=mask.size, definition="", regions=False
        )
        results.append((radii, statistics))
    for radii, statistics in results[1:]:
        assert np.array_equal(radii, results[0][0])
        assert statistics == results[0][1]


def test_radius_of_more_than_four_blocks(workers: Workers, tmp_path: Path) -> None:
    mask = ball((72, 72, 72), 35.5)
    mask[36, 36, 3] = False
    mask[70, :, :] = False
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected, _, _ = measured(workers, whole, mask, (72, 72, 72), (1.0, 1.0, 1.0), "unknown")
    radii, tally, _ = measured(workers, cut, mask, (8, 24, 18), (1.0, 1.0, 1.0), "unknown")
    assert tally.squared_radius.max() >= (4 * 8) ** 2
    assert np.array_equal(radii, expected)


def test_structure_through_many_blocks_without_background(workers: Workers, tmp_path: Path) -> None:
    mask = np.ones((8, 8, 200), np.bool_)
    mask[:, :, 0] = False
    radii, _, _ = measured(workers, tmp_path, mask, (8, 8, 8), (1.0, 1.0, 1.0), "unknown")
    assert np.array_equal(radii, squared_local_radius(mask, (1, 1, 1), closed=False))
    assert radii.max() == 199**2


def test_int64_equals_int32(workers: Workers, tmp_path: Path) -> None:
    mask = noise((30, 41, 37), 3.0, 8)
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    narrow.mkdir()
    wide.mkdir()
    expected, tally, _ = measured(workers, narrow, mask, (16, 16, 37), (3.0, 0.7, 0.7), "unknown")
    radii, wide_tally, job = measured(workers, wide, mask, (16, 16, 37), (3.0, 0.7, 0.7), "unknown", dtype="int64")
    assert np.dtype(job.dtype) == np.int64
    assert radii.dtype == np.int64
    assert np.array_equal(radii, expected)
    assert wide_tally == tally


def test_large_weights_need_int64_and_are_exact(workers: Workers, tmp_path: Path) -> None:
    mask = noise((12, 20, 17), 1.5, 2)
    spacing = (3.0, 0.97656, 0.97656)
    radii, _, job = measured(workers, tmp_path, mask, (8, 9, 17), spacing, "closed")
    assert np.dtype(job.dtype) == np.int64
    assert np.array_equal(radii, squared_local_radius(mask, VoxelSize(spacing).weights, closed=True))


def test_batches_of_centres_do_not_show(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import thickness

    mask = noise((32, 56, 96), 2.0, 4, share=0.1)
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    expected, _, _ = measured(workers, one, mask, (32, 56, 48), (1.0, 1.0, 1.0), "unknown")
    monkeypatch.setattr(thickness, "batch_bytes", lambda _voxels, _dtype: 1)
    radii, _, _ = measured(workers, many, mask, (32, 28, 20), (1.0, 1.0, 1.0), "unknown")
    assert np.array_equal(radii, expected)
