"""The published sums hold: no step takes more memory than its formula says, with voxels that cannot be compressed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import Turn
from pipeline.volume.foreground import Foreground
from pipeline.volume.laying import lay
from pipeline.volume.opening import open_volume
from pipeline.volume.writing import Multiscale, create_multiscale, reduce_block_bytes, write_block_bytes
from tests.volume.formats import FORMATS
from tests.volume.layouts import write_n5_array
from workflows.convert_volume import convert, convert_bytes

BLOCK: Index = (64, 128, 128)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Multiscale:
    multiscale = create_multiscale(
        tmp_path_factory.mktemp("memory") / "i.ome.zarr",
        shape=(128, 256, 256),
        dtype="float32",
        voxel_size=VoxelSize((1, 1, 1)),
        block_shape=BLOCK,
        name="noise",
        reducer="mean",
    )
    noise = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
    for block in multiscale.grid(0):
        multiscale.write_block(0, block, noise)
    return multiscale


def peak_bytes(step: Callable[[], object]) -> int:
    step()  # what is loaded and cached once is not part of the sum
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


SLACK = 2**20
"""Python objects."""


def test_write_block(image: Multiscale) -> None:
    noise = np.random.default_rng(1).standard_normal(BLOCK, dtype=np.float32)
    assert peak_bytes(lambda: image.write_block(0, (0, 0, 1), noise)) <= write_block_bytes(BLOCK, "float32") + SLACK


def test_reduce_block(image: Multiscale) -> None:
    assert peak_bytes(lambda: image.reduce_block(1, (0, 0, 0))) <= reduce_block_bytes(BLOCK, "float32") + SLACK


def test_read(image: Multiscale) -> None:
    volume = image.volume(0)
    box = Box((3, 5, 7), (125, 250, 250))
    assert len(list(volume.pieces(box))) > 1
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + SLACK
    mask = peak_bytes(lambda: Foreground.threshold(0).read(volume, box))
    assert mask <= Foreground.read_bytes(volume, box.shape) + SLACK


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_read_turned(image: Multiscale, order: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.volumes.PIECE_BYTES", 2**22)
    turn = Turn(order, (True, False, True))
    volume = lay(image.volume(0), turn, (-4, 3, 5), turn.shape((140, 240, 240)))
    z, y, x = volume.shape
    box = Box((3, 5, 7), (z - 7, y, x - 3))
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + SLACK
    mask = peak_bytes(lambda: Foreground.threshold(0).read(volume, box))
    assert mask <= Foreground.read_bytes(volume, box.shape) + SLACK


def write(folder: Path, kind: str, voxels: npt.NDArray[Any]) -> Path:
    if kind in FORMATS:
        return FORMATS[kind](folder, voxels)
    if kind == "N5":
        document = {"dimensions": voxels.shape[::-1], "blockSize": [64] * 3, "dataType": "uint16"}
        write_n5_array(folder / "v.n5", voxels, document | {"compression": {"type": "gzip"}})
        return folder / "v.n5"
    zarr.create_array(folder / "v.zarr", data=voxels, chunks=(64, 64, 64))
    return folder / "v.zarr"


@pytest.mark.parametrize(
    ("kind", "shape", "labels"),
    [
        ("npy", (70, 200, 200), False),
        ("nii.gz", (70, 200, 200), False),
        ("striped tiff slices", (70, 200, 200), False),
        ("fortran npy", (200, 300, 300), False),
        ("tiled tiff", (66, 200, 210), True),
        ("N5", (66, 480, 500), False),
        ("Zarr", (66, 480, 500), True),
    ],
)
def test_convert(tmp_path: Path, kind: str, shape: Index, labels: bool) -> None:
    voxels = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    (tmp_path / "small").mkdir()
    small, large = write(tmp_path / "small", kind, voxels[:9, :40, :40]), write(tmp_path, kind, voxels)
    block_shape, size = (64, 128, 128), VoxelSize((1, 1, 1))
    formula, sources = convert_bytes(open_volume(str(large)), block_shape), iter([small, large])

    def run() -> None:
        source = next(sources)
        target = source.with_suffix(".ome.zarr")
        convert(str(source), target, voxel_size=size, block_shape=block_shape, kind="labels" if labels else "grey")

    assert peak_bytes(run) <= formula + SLACK
    if kind in ("fortran npy", "N5", "Zarr"):
        assert formula < voxels.nbytes


@pytest.mark.parametrize(
    "kind",
    [
        "npy",
        "fortran npy",
        "nii.gz",
        "zlib mha",
        "compressed npz",
        "raw",
        "png slices",
        "striped tiff",
        "tiled tiff slices",
        "tiff slices",
    ],
)
def test_read_a_block_of_a_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volume.slices.PLANES_BYTES", 0)
    monkeypatch.setattr("pipeline.volume.volumes.PIECE_BYTES", 2**19)
    voxels = np.random.default_rng(0).integers(0, 60000, (20, 400, 450)).astype(np.uint16)
    volume = open_volume(str(FORMATS[kind](tmp_path, voxels)))
    box = Box((3, 50, 70), (19, 350, 420))
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + volume.kept_bytes + SLACK
