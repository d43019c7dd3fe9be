"""Where N5 lies: offsets of Paintera and n5-ij, transforms of COSEM, and coarser levels without a word of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.geometry import VoxelSize
from pipeline.placement import Placement
from pipeline.volume.opening import open_volume
from tests.volume.test_n5 import write_pyramid

UNITS = {"units": ["nm"] * 3}
SIZE = {"resolution": [500, 700, 3000], **UNITS}
STEPS = [{"downsamplingFactors": [1, 1, 1]}, {"downsamplingFactors": [2, 4, 1]}]
FACTORS = {"downsamplingFactors": [[1, 1, 1], [2, 4, 1]]}
GROUP_TRANSFORM = {
    "multiscales": [
        {
            "datasets": [
                {
                    "path": f"s{level}",
                    "transform": {
                        "axes": ["z", "y", "x"],
                        "scale": [3000, 700 * 4**level, 500 * 2**level],
                        "translate": [30000, 7000 + 1050 * level, 5000 + 250 * level],
                        "units": ["nm"] * 3,
                    },
                }
                for level in range(2)
            ]
        }
    ]
}
OWN_TRANSFORMS = [dict(dataset) for dataset in GROUP_TRANSFORM["multiscales"][0]["datasets"]]
FINE, COARSE = (30.0, 7.0, 5.0), (30.0, 8.05, 5.25)
"""µm (z, y, x): 1.5 fine voxels further along y, half of one along x."""


@pytest.mark.parametrize(
    ("group", "levels"),
    [
        (SIZE | {"multiScale": True, "offset": [5000, 7000, 30000]}, STEPS),
        (SIZE | FACTORS | {"offset": [5000, 7000, 30000]}, [{}, {}]),
        ({"pixelResolution": {"dimensions": [0.5, 0.7, 3], "unit": "um"}, "offset": [5, 7, 30]} | FACTORS, [{}, {}]),
        (SIZE | FACTORS, [{"offset": [5000, 7000, 30000]}, {"offset": [5250, 8050, 30000]}]),
        (GROUP_TRANSFORM, [{}, {}]),
        (SIZE | FACTORS | GROUP_TRANSFORM, [{}, {}]),
        (
            SIZE | FACTORS,
            [{"transform": one["transform"], "pixelResolution": {"dimensions": [1, 1, 1], "unit": "nm"}}
             for one in OWN_TRANSFORMS],
        ),
    ],
    ids=["paintera", "factors of the group", "n5-ij", "own", "group's transform", "both", "cosem"],
)  # fmt: skip
def test_places_that_are_stated(tmp_path: Path, group: dict[str, Any], levels: list[dict[str, Any]]) -> None:
    where = write_pyramid(tmp_path / "v.n5", group, levels)
    for level, (size, origin) in enumerate([((3.0, 0.7, 0.5), FINE), ((3.0, 2.8, 1.0), COARSE)]):
        volume = open_volume(where, level=level)
        assert volume.voxel_size == VoxelSize(size)
        assert volume.placement == Placement(origin)
    assert open_volume(where, level=1, voxel_size_um=(1, 1, 1)).placement == Placement(COARSE)
    assert open_volume(f"{where}/s1").placement == Placement(COARSE)


def test_coarser_levels_begin_in_the_middle_of_the_fine_voxels_that_they_cover(tmp_path: Path) -> None:
    where = write_pyramid(tmp_path / "v.n5", SIZE | FACTORS, [{}, {}])
    assert open_volume(where).placement is None
    assert open_volume(where, level=1).placement == Placement((0.0, 1.05, 0.25))


def test_axes_of_a_transform_are_its_own(tmp_path: Path) -> None:
    """COSEM writes z, y, x beside a resolution in x, y, z; another order is as good."""
    transform = {"axes": ["y", "x", "z"], "scale": [2, 1, 3], "translate": [20, 10, 30], "units": ["um"] * 3}
    where = write_pyramid(tmp_path / "v.n5", None, [{"transform": transform}])
    volume = open_volume(where)
    assert (volume.voxel_size, volume.placement) == (VoxelSize((3, 2, 1)), Placement((30.0, 20.0, 10.0)))
    transform.pop("axes")
    volume = open_volume(write_pyramid(tmp_path / "x.n5", None, [{"transform": transform}]))
    assert (volume.voxel_size, volume.placement) == (VoxelSize((3, 1, 2)), Placement((30.0, 10.0, 20.0)))


@pytest.mark.parametrize(
    "group",
    [
        {"offset": [5, 7, 30]},
        {"offset": [5, 7, 30], "resolution": [1, 1, 1]},
        {"offset": [5, 7, 30], "resolution": [1, 1, 1], "units": [" ", " ", ""]},
        {"offset": [5, 7, 30], "pixelResolution": {"dimensions": [1, 1, 1], "unit": " "}},
        {"multiscales": [{"datasets": [{"path": "s0", "transform": {"scale": [1, 1, 1], "translate": [1, 1, 1]}}]}]},
    ],
)
def test_a_place_without_resolution_or_unit_is_none(tmp_path: Path, group: dict[str, Any]) -> None:
    where = write_pyramid(tmp_path / "v.n5", group | {"multiScale": True}, STEPS)
    assert (open_volume(where).voxel_size, open_volume(where).placement) == (None, None)
    given = open_volume(where, voxel_size_um=(1, 1, 1))
    assert (given.voxel_size, given.placement) == (VoxelSize((1, 1, 1)), None)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (SIZE | {"offset": ["a", 1, 1]}, "resolution or offset that is none"),
        (SIZE | {"offset": [1, 1]}, "resolution or offset that is none"),
        ({"resolution": [1, 1, 1], "units": ["pixel"] * 3}, "'pixel', which is no unit of length"),
        ({"multiscales": [{"datasets": [{"path": "s0", "transform": {"scale": [1], "units": ["nm"] * 3}}]}]}, "none"),
    ],
)
def test_a_place_that_is_none_is_told_unless_the_voxel_size_is_given(
    tmp_path: Path, group: dict[str, Any], words: str
) -> None:
    where = write_pyramid(tmp_path / "v.n5", group, STEPS)
    with pytest.raises(InputError, match=rf"{words}.*--voxel-size-um"):
        open_volume(where)
    assert open_volume(where, voxel_size_um=(3, 2, 1)).voxel_size == VoxelSize((3, 2, 1))
