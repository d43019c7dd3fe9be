"""N5 of others: where their voxel sizes and levels stand, axes in any order, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.volume.opening import open_volume
from tests.volume.layouts import write_n5_array
from tests.volume.stores import grey


def write_pyramid(folder: Path, group: dict[str, Any] | None, levels: list[dict[str, Any]]) -> str:
    for level, attributes in enumerate(levels):
        write_n5_array(folder / f"s{level}", grey((7, 10, 13), seed=level), {
            "dimensions": [13, 10, 7], "blockSize": [4, 5, 6], "dataType": "uint16", "compression": {"type": "raw"},
            **attributes,
        })  # fmt: skip
    if group is not None:
        (folder / "attributes.json").write_text(json.dumps(group))
    return str(folder)


PIXELS = {"pixelResolution": {"dimensions": [1.5, 2, 3], "unit": "um"}}
NANOMETRES = {"resolution": [1500, 2000, 3000], "units": ["nm"] * 3}
STEPS = [{"downsamplingFactors": [1, 1, 1]}, {"downsamplingFactors": [2, 2, 1]}]


@pytest.mark.parametrize(
    ("group", "levels"),
    [
        (PIXELS | {"scales": [[1, 1, 1], [2, 2, 1]]}, [{}, {}]),
        (PIXELS | {"downsamplingFactors": [[1, 1, 1], [2, 2, 1]]}, [{}, {}]),
        (NANOMETRES | {"multiScale": True}, STEPS),
        (None, [PIXELS | steps for steps in STEPS]),
        ({"resolution": [1.5, 2, 3], "units": "um", "multiScale": True}, STEPS),
        ({"multiScale": True}, [NANOMETRES | steps for steps in STEPS]),
    ],
)
def test_n5_of_others(tmp_path: Path, group: dict[str, Any] | None, levels: list[dict[str, Any]]) -> None:
    where = write_pyramid(tmp_path / "v.n5", group, levels)
    for level, size in enumerate([(3.0, 2.0, 1.5), (3.0, 4.0, 3.0)]):
        volume = open_volume(where, level=level)
        assert (volume.voxel_size, volume.level_count, volume.format) == (VoxelSize(size), 2, "N5")
        assert volume.chunk_shape == (6, 5, 4)
        box = Box((1, 2, 3), (7, 9, 11))
        np.testing.assert_array_equal(volume.read(box), grey((7, 10, 13), seed=level)[box.slices])


def test_n5_of_bigdataviewer(tmp_path: Path) -> None:
    where = write_pyramid(tmp_path / "setup0" / "timepoint0", {"multiScale": True} | PIXELS, [{}, {}])
    (tmp_path / "setup0" / "attributes.json").write_text(json.dumps({"downsamplingFactors": [[1, 1, 1], [4, 4, 2]]}))
    assert open_volume(where, level=1).voxel_size == VoxelSize((6, 8, 6))


def test_n5_without_units_has_no_voxel_size(tmp_path: Path) -> None:
    where = write_pyramid(tmp_path / "v.n5", {"resolution": [1, 1, 1]}, STEPS)
    assert open_volume(where).voxel_size is None
    assert open_volume(f"n5://{where}/", voxel_size_um=(1, 1, 1)).voxel_size == VoxelSize((1, 1, 1))


def test_n5_that_is_none(tmp_path: Path) -> None:
    where = Path(write_pyramid(tmp_path / "v.n5", {"resolution": [1, "x", 1], "units": ["um"] * 3}, [{}]))
    with pytest.raises(InputError, match=r"states a resolution or offset that is none.*--voxel-size-um"):
        open_volume(str(where))
    document = json.loads((where / "s0" / "attributes.json").read_text())
    for change, words in (
        ({"compression": {"type": "lzf"}}, "is no N5 array that can be read"),
        ({"dataType": "object"}, "is no N5 array that can be read"),
        ({"dimensions": [13, 10]}, "is no N5 array that can be read"),
    ):
        (where / "s0" / "attributes.json").write_text(json.dumps(document | change))
        with pytest.raises(InputError, match=words) as caught:
            open_volume(str(where))
        assert "tensorstore" not in str(caught.value)
    document.pop("blockSize")
    (where / "s0" / "attributes.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"lacks blockSize"):
        open_volume(str(where))
    (where / "s0" / "attributes.json").write_text("{")
    with pytest.raises(InputError, match=r"attributes\.json is not JSON"):
        open_volume(str(where))


def test_n5_before_version_2(tmp_path: Path) -> None:
    where = write_pyramid(tmp_path / "v.n5", None, [{}])
    document = json.loads((tmp_path / "v.n5" / "s0" / "attributes.json").read_text())
    document["compressionType"] = document.pop("compression")["type"]
    (tmp_path / "v.n5" / "s0" / "attributes.json").write_text(json.dumps(document))
    volume = open_volume(where)
    np.testing.assert_array_equal(volume.read(volume.box), grey((7, 10, 13)))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            (0, 3, 4, 5, 3),
            r"its header says 4 × 5 × 3 voxels, but its place takes 4 × 5 × 6\) \(stored object s0/0/0/0\)",
        ),
        ((0, 3, 4, 5, 7), r"its header says 4 × 5 × 7 voxels"),
        ((0, 2, 4, 5, 6), r"its header says"),
        ((1, 3, 4, 5, 6), r"it is of variable length, which is not read"),
        ((9, 3, 4, 5, 6), r"it is of the unknown mode 9, which is not read"),
        ((0, 3), r"it was cut off after 4 bytes, within its header"),
    ],
)
def test_n5_chunks_that_lack_voxels(tmp_path: Path, header: tuple[int, ...], words: str) -> None:
    """What a header leaves out would be read as zeros."""
    volume = open_volume(write_pyramid(tmp_path / "v.n5", None, [{}]))
    chunk = tmp_path / "v.n5" / "s0" / "0" / "0" / "0"
    voxels = bytes(range(1, 241)) if len(header) > 2 else b""
    chunk.write_bytes(struct.pack(f">HH{len(header) - 2}I", *header) + voxels)
    with pytest.raises(StorageError, match=words):
        volume.read(volume.box)
    beside = Box((6, 0, 0), (7, 5, 4))
    np.testing.assert_array_equal(volume.read(beside), grey((7, 10, 13))[beside.slices])


@pytest.mark.parametrize("planes", [1, 6])
def test_n5_border_chunks_end_with_the_volume_or_after_it(tmp_path: Path, planes: int) -> None:
    """One plane of six is within the volume."""
    volume = open_volume(write_pyramid(tmp_path / "v.n5", None, [{}]))
    block = np.arange(20 * planes).reshape(planes, 5, 4)
    chunk = struct.pack(">HHIII", 0, 3, 4, 5, planes) + block.astype(">u2").tobytes()
    (tmp_path / "v.n5" / volume.object_key((1, 0, 0))).write_bytes(chunk)
    np.testing.assert_array_equal(volume.read(Box((6, 0, 0), (7, 5, 4))), block[:1])


@pytest.mark.parametrize("axes", ["xyz", "zyx", "yxz"])
def test_n5_axes_in_any_stored_order(tmp_path: Path, axes: str) -> None:
    voxels = grey((7, 10, 13))
    stored = voxels.transpose(["zyx".index(axis) for axis in axes])
    write_n5_array(tmp_path / "a.n5", stored.T, {
        "dimensions": list(stored.shape), "blockSize": [4, 4, 4], "dataType": "uint16", "axes": list(axes),
        "compression": {"type": "gzip"},
    })  # fmt: skip
    volume = open_volume(str(tmp_path / "a.n5"))
    np.testing.assert_array_equal(volume.read(volume.box), voxels)
    (tmp_path / "a.n5" / volume.object_key((1, 0, 0))).unlink()
    assert volume.missing_chunks(volume.box) == 1
    assert not volume.read(Box((4, 0, 0), (7, 4, 4))).any()
