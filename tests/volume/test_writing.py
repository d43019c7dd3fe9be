"""What is written block by block is what is read, and other readers understand it."""

from __future__ import annotations

import json
import math
import pickle
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05.image import Image

from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize
from pipeline.volume.opening import open_volume
from pipeline.volume.writing import Multiscale, Reducer, chunk_side, create_multiscale, reduce_by_two
from tests.volume.stores import grey

REDUCERS: dict[Reducer, list[str]] = {
    "mean": ["uint8", "int8", "uint16", "int64", "uint64", "float32", "float64"],
    "mode": ["uint8", "int16", "uint32"],
    "any": ["bool"],
    "max": ["float32", "uint16"],
}


def write(
    path: Path,
    voxels: npt.NDArray[Any],
    *,
    block_shape: Index,
    reducer: Reducer = "mean",
    voxel_size: VoxelSize | None = None,
) -> Multiscale:
    """The whole image, every block in a thread of its own."""
    z, y, x = voxels.shape
    multiscale = create_multiscale(
        path,
        shape=(z, y, x),
        dtype=voxels.dtype,
        voxel_size=voxel_size or VoxelSize((3.0, 0.7, 0.7)),
        block_shape=block_shape,
        name="test",
        reducer=reducer,
    )
    sent: Multiscale = pickle.loads(pickle.dumps(multiscale))
    with ThreadPoolExecutor(2) as threads:
        grid = multiscale.grid(0)
        list(threads.map(lambda block: sent.write_own_levels(block, voxels[grid.box(block).slices]), grid))
        for level in range(multiscale.own_levels, len(multiscale.level_shapes)):
            list(threads.map(lambda block, n=level: sent.reduce_block(n, block), multiscale.grid(level)))
    return multiscale


def plainly_reduced(voxels: npt.NDArray[Any], reducer: Reducer) -> npt.NDArray[Any]:
    """The definition: a window of up to 2 × 2 × 2 voxels after the other, in Python's numbers."""
    result = np.empty([-(-n // 2) for n in voxels.shape], voxels.dtype)
    for index in np.ndindex(result.shape):
        window = voxels[tuple(slice(2 * i, 2 * i + 2) for i in index)].ravel().tolist()
        if reducer == "mean":
            mean: Any = sum(window) / len(window)
            result[index] = mean if voxels.dtype.kind == "f" else (2 * sum(window) + len(window)) // (2 * len(window))
        elif reducer == "mode":
            counts = Counter(window)
            most = max(counts.values())
            result[index] = min((v for v, n in counts.items() if n == most), key=lambda v: (v == 0, v))
        else:
            result[index] = max(window)
    return result


@pytest.mark.parametrize(("reducer", "dtype"), [(r, d) for r, dtypes in REDUCERS.items() for d in dtypes])
@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (1, 2, 9), (1, 1, 1)])
def test_reducers_follow_their_definition(reducer: Reducer, dtype: str, shape: Index) -> None:
    random = np.random.default_rng(1)
    if np.dtype(dtype).kind in "iu" and reducer != "mode":
        limits = np.iinfo(dtype)
        voxels = random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    else:
        voxels = random.integers(0, 4, shape).astype(dtype)
    np.testing.assert_array_equal(reduce_by_two(voxels, reducer), plainly_reduced(voxels, reducer))


def test_ties_of_labels_go_to_the_smallest_that_is_not_background() -> None:
    assert reduce_by_two(np.array([[[0, 0], [0, 0]], [[3, 3], [3, 3]]]), "mode").item() == 3
    assert reduce_by_two(np.array([[[0, 0], [5, 5]], [[3, 3], [1, 2]]]), "mode").item() == 3
    assert reduce_by_two(np.array([[[0, 0], [0, 5]], [[3, 3], [1, 2]]]), "mode").item() == 0


sides = st.one_of(st.sampled_from([1, 2, 3, 5, 17, 31]), st.integers(1, 40))


@given(
    shape=st.tuples(sides, sides, sides),
    block_shape=st.tuples(sides, sides, sides),
    case=st.sampled_from([(r, d) for r, dtypes in REDUCERS.items() for d in dtypes]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_round_trip(shape: Index, block_shape: Index, case: tuple[Reducer, str], seed: int) -> None:
    reducer, dtype = case
    few = [max(side, -(-n // 3)) for side, n in zip(block_shape, shape, strict=True)]
    block_shape = (few[0], few[1], max(few[2], 43))
    with tempfile.TemporaryDirectory() as folder:
        voxels = grey(shape, dtype, seed)
        # An axis of 129 = 2·64 + 1 voxels makes levels, with a remainder of 1 at each.
        voxels = np.concatenate([voxels] * -(-129 // shape[2]), axis=2)[:, :, :129] if seed % 2 else voxels
        multiscale = write(Path(folder) / "i.ome.zarr", voxels, block_shape=block_shape, reducer=reducer)
        for level, level_shape in enumerate(multiscale.level_shapes):
            volume = multiscale.volume(level)
            assert (volume.shape, volume.shard_shape) == (level_shape, multiscale.shard_shape(level))
            assert volume.every_chunk_stored
            assert volume.missing_chunks(volume.box) == 0
            np.testing.assert_array_equal(volume.read(volume.box), voxels)
            voxels = reduce_by_two(voxels, reducer)
        assert max(level_shape) <= 64


@pytest.mark.parametrize(
    ("side", "chunk"),
    [
        (1, 1),
        (8, 8),
        (13, 13),
        (64, 64),
        (100, 50),
        (128, 64),
        (250, 50),
        (256, 64),
        (254, 127),
        (257, 257),
        (514, 257),
    ],
)
def test_chunk_sides(side: int, chunk: int) -> None:
    assert chunk_side(side) == chunk


def test_metadata_as_a_reader_sees_it(tmp_path: Path) -> None:
    """The checks that viewers make: version, axes, a scale per level in µm, arrays that fit."""
    path = tmp_path / "i.ome.zarr"
    write(path, grey((3, 130, 131)), block_shape=(16, 64, 64))
    assert isinstance(open_ome_zarr(zarr.open_group(path, mode="r")), Image)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["axes"] == [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    assert [dataset["path"] for dataset in image["datasets"]] == ["0", "1", "2"]
    shapes = []
    for level, dataset in enumerate(image["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [3.0 * 2**level, 0.7 * 2**level, 0.7 * 2**level]}
        assert translation["type"] == "translation"
        half = (2**level - 1) / 2
        np.testing.assert_allclose(translation["translation"], [3.0 * half, 0.7 * half, 0.7 * half])
        array = json.loads((path / dataset["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == ["z", "y", "x"]
        assert array["chunk_grid"]["configuration"]["chunk_shape"] == [16, 64, 64]
        (sharding,) = array["codecs"]
        assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "zstd", "crc32c"]
        shapes.append(array["shape"])
    assert shapes == [[3, 130, 131], [2, 65, 66], [1, 33, 33]]


def test_an_axis_of_one_voxel_is_not_halved(tmp_path: Path) -> None:
    multiscale = write(tmp_path / "i.ome.zarr", grey((1, 200, 9)), block_shape=(8, 32, 32))
    coarsest = multiscale.volume(2)
    assert coarsest.shape == (1, 50, 3)
    assert coarsest.voxel_size == VoxelSize((3.0, 2.8, 2.8))
    np.testing.assert_allclose(coarsest.origin_um, (0.0, 1.05, 1.05))


def test_blocks_are_replaced_as_a_whole(tmp_path: Path) -> None:
    voxels = grey((20, 20, 20))
    multiscale = write(tmp_path / "i.ome.zarr", voxels, block_shape=(16, 16, 16))
    shard = tmp_path / "i.ome.zarr" / multiscale.volume(0).object_key((0, 0, 0))
    before = shard.read_bytes()
    shard.write_bytes(before[:100])
    multiscale.write_block(0, (0, 0, 0), voxels[:16, :16, :16])
    assert shard.read_bytes() == before
    with pytest.raises(ValueError, match=r"is \(16, 16, 4\) uint16"):
        multiscale.write_block(0, (0, 0, 1), voxels[:16, :16, :16])


def test_existing_images_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "i.ome.zarr", grey(), block_shape=(16, 16, 16))
    with pytest.raises(InputError, match="exists already; remove it or choose another name"):
        write(tmp_path / "i.ome.zarr", grey(), block_shape=(16, 16, 16))
    assert open_volume(str(tmp_path / "i.ome.zarr")).read_bytes((7, 10, 13)) > math.prod((7, 10, 13)) * 2


@pytest.mark.parametrize("reducer", ["mean", "mode", "max"])
@pytest.mark.parametrize(
    ("block_shape", "own"), [((64, 64, 64), 2), ((150, 64, 128), 2), ((96, 96, 100), 2), ((63, 64, 64), 1)]
)
def test_levels_that_a_block_writes_alone(tmp_path: Path, reducer: Reducer, block_shape: Index, own: int) -> None:
    voxels = grey((150, 131, 130), "uint16", 3)
    multiscale = write(tmp_path / "i.ome.zarr", voxels, block_shape=block_shape, reducer=reducer)
    assert multiscale.own_levels == own
    for level in range(len(multiscale.level_shapes)):
        volume = multiscale.volume(level)
        assert volume.missing_chunks(volume.box) == 0
        np.testing.assert_array_equal(volume.read(volume.box), voxels)
        voxels = reduce_by_two(voxels, reducer)
