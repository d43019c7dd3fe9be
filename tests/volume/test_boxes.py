"""Any box of any stored array is that part of its voxels, whatever the format, axes, chunks and shards."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.volume import volumes
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey

SIDES = st.tuples(*[st.integers(1, 17)] * 3)
CHUNKS = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int, int], Box]:
    """A shape and a box in it."""
    shape = draw(SIDES)
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    stops = [draw(st.integers(low + 1, n)) for low, n in zip(starts, shape, strict=True)]
    return shape, Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


@settings(max_examples=40)
@given(
    boxes(), CHUNKS, CHUNKS, st.permutations("zyx").map("".join), st.sampled_from(["v2", "v3", "shards", "n5"]),
    st.integers(1, 5000),
)  # fmt: skip
def test_any_box(
    shape_and_box: tuple[tuple[int, int, int], Box], chunks: tuple[int, int, int], per_shard: tuple[int, int, int],
    axes: str, kind: str, piece_bytes: int,
) -> None:  # fmt: skip
    shape, box = shape_and_box
    voxels = grey(shape)
    voxels[: shape[0] // 2] = 0  # some chunks are not stored
    axes = "zyx" if kind == "v2" else axes  # which has no names for them
    stored = voxels.transpose(["zyx".index(axis) for axis in axes])
    where = f"memory://{uuid.uuid4().hex}"
    if kind == "n5":
        with tempfile.TemporaryDirectory() as folder:
            write_n5_array(Path(folder) / "a", stored.T, {
                "dimensions": list(stored.shape), "blockSize": list(chunks), "dataType": "uint16",
                "compression": {"type": "zstd"}, "axes": list(axes),
            })  # fmt: skip
            fsspec.filesystem("memory").put(f"{folder}/a", f"/{where.removeprefix('memory://')}", recursive=True)
    else:
        array = zarr.create_array(
            where,
            shape=stored.shape,
            dtype=stored.dtype,
            chunks=chunks,
            shards=tuple(a * b for a, b in zip(chunks, per_shard, strict=True)) if kind == "shards" else None,
            zarr_format=2 if kind == "v2" else 3,
            dimension_names=None if kind == "v2" else tuple(axes),
        )
        array[...] = stored
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes, "PIECE_BYTES", piece_bytes)
        volume = open_volume(where)
        assert volume.shape == shape
        np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        present = len(volume.objects) - volume.missing_chunks(volume.box)
        assert fingerprint(volume).objects == present
