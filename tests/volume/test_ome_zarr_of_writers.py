"""OME-Zarr as other programs leave it: identities of iohub, versions before 0.4, blank units, scales of 0, plates.

The documents are those that iohub 0.2.3 (layouts fov and hcs) and older writers leave, made here without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.geometry import VoxelSize
from pipeline.volume.opening import open_volume
from tests.volume.stores import grey
from tests.workflows.conftest import Command

VOXELS = grey((12, 17, 23))
IDENTITY = {"type": "identity"}
SCALE = {"type": "scale", "scale": [1, 1, 3, 0.7, 0.5]}
TCZYX: list[Any] = [
    {"name": "T", "type": "time", "unit": "second"},
    {"name": "C", "type": "channel"},
    *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "ZYX"),
]


def write_image(folder: Path, multiscale: dict[str, Any], voxels: Any = VOXELS[None, None], version: Any = 2) -> str:
    group = zarr.create_group(folder, zarr_format=version)
    array = group.create_array(
        "0", shape=voxels.shape, dtype=voxels.dtype, chunks=(1,) * (voxels.ndim - 3) + (5, 6, 7),
        chunk_key_encoding={"name": "v2", "separator": "/"} if version == 2 else None,
    )  # fmt: skip
    array[...] = voxels
    document: Any = {"datasets": [{"path": "0"}], **multiscale}
    attributes: Any = {"multiscales": [document]}
    group.attrs.update(attributes if version == 2 else {"ome": {"version": "0.5"} | attributes})
    return str(folder)


def transformed(dataset: list[Any], image: list[Any]) -> dict[str, Any]:
    return {
        "axes": TCZYX, "datasets": [{"path": "0", "coordinateTransformations": dataset}],
        "coordinateTransformations": image, "name": "0",
    }  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("multiscale", "size"),
    [
        (transformed([SCALE], [IDENTITY]), (3, 0.7, 0.5)),  # iohub
        (transformed([SCALE, IDENTITY], [IDENTITY, {"type": "scale", "scale": [1, 1, 2, 2, 2]}]), (6, 1.4, 1)),
        (transformed([IDENTITY], [SCALE]), (3, 0.7, 0.5)),
        (transformed([IDENTITY], [IDENTITY]), (1, 1, 1)),
    ],
)
def test_an_identity_changes_nothing(
    tmp_path: Path, multiscale: dict[str, Any], size: tuple[float, float, float], version: int
) -> None:
    where = write_image(tmp_path / "i.zarr", multiscale, version=version)
    volume = open_volume(where)
    assert volume.voxel_size == VoxelSize(size)
    (warning,) = volume.warnings
    assert warning.endswith("(an identity transformation), which changes nothing.")
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    assert open_volume(f"{where}/0").voxel_size == VoxelSize(size)


@pytest.mark.parametrize(
    ("multiscale", "form", "voxels"),
    [
        ({"version": "0.1"}, "OME-Zarr 0.1", VOXELS[None, None]),
        ({"version": "0.2"}, "OME-Zarr 0.2", VOXELS[None, None]),
        ({"version": "0.3", "axes": ["t", "c", "z", "y", "x"]}, "OME-Zarr 0.3", VOXELS[None, None]),
        ({"version": "0.3", "axes": ["z", "y", "x"]}, "OME-Zarr 0.3", VOXELS),
        ({"version": "0.3", "axes": ["x", "y", "z"]}, "OME-Zarr 0.3", VOXELS.T),
        ({"version": "0.1"}, "OME-Zarr 0.1", VOXELS),
        ({"metadata": {"method": "skimage"}}, "OME-Zarr 0.1", VOXELS[None]),
    ],
)
def test_ome_zarr_before_0_4_has_no_voxel_size(
    tmp_path: Path, multiscale: dict[str, Any], form: str, voxels: Any
) -> None:
    where = write_image(tmp_path / "i.zarr", multiscale, voxels)
    volume = open_volume(where)
    assert (volume.format, volume.voxel_size, volume.placement, volume.warnings) == (form, None, None, ())
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
    assert open_volume(where, voxel_size_um=(3, 0.7, 0.5)).voxel_size == VoxelSize((3, 0.7, 0.5))


def test_ome_zarr_0_3_without_z_is_refused(tmp_path: Path) -> None:
    where = write_image(tmp_path / "i.zarr", {"version": "0.3", "axes": ["t", "z", "x"]}, VOXELS)
    with pytest.raises(InputError, match="has the axes t, z, x; three spatial axes z, y, x are needed"):
        open_volume(where)


@pytest.mark.parametrize("unit", [" ", ""])
def test_a_blank_unit_is_none(tmp_path: Path, unit: str) -> None:
    """MoBIE writes a blank."""
    axes = [{**axis, "unit": unit} if axis["type"] == "space" else axis for axis in TCZYX]
    where = write_image(
        tmp_path / "i.zarr", transformed([SCALE], [{"type": "scale", "scale": [1] * 5}]) | {"axes": axes}
    )
    assert open_volume(where).voxel_size is None


@pytest.mark.parametrize(
    ("unit", "scale"), [("pixel", SCALE), (" ", SCALE), ("micrometer", {"type": "scale", "scale": [1, 1, 0, 0.7, 0.5]})]
)
def test_convert_takes_the_voxel_size_that_is_given(
    tmp_path: Path, here: Command, unit: str, scale: dict[str, Any]
) -> None:
    axes = [{**axis, "unit": unit} if axis["type"] == "space" else axis for axis in TCZYX]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    where = write_image(tmp_path / "i.zarr", multiscale)
    assert "--voxel-size-um" in here("convert", where, tmp_path / "no.ome.zarr", "-q").failure()
    assert here("convert", where, tmp_path / "o.ome.zarr", "--voxel-size-um", "3,.7,.5", "-q").code == 0
    converted = open_volume(str(tmp_path / "o.ome.zarr"))
    assert converted.voxel_size == VoxelSize((3, 0.7, 0.5))
    np.testing.assert_array_equal(converted.read(converted.box), VOXELS)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("well", ["A/1", "B/03"])
def test_plates_and_wells_name_their_first_image(tmp_path: Path, version: Any, well: str) -> None:
    plate: Any = {"version": "0.4", "wells": [{"path": well}], "rows": [{"name": "A"}], "columns": [{"name": "1"}]}
    images: Any = {"images": [{"path": "fov0"}, {"path": "fov1"}]}

    def said(**attributes: Any) -> dict[str, Any]:
        return attributes if version == 2 else {"ome": {"version": "0.5"} | attributes}

    zarr.create_group(tmp_path / "p.zarr", zarr_format=version).attrs.update(said(plate=plate))
    with pytest.raises(InputError, match=r"without OME-Zarr image metadata"):  # its well is not there
        open_volume(str(tmp_path / "p.zarr"))
    zarr.create_group(tmp_path / "p.zarr" / well, zarr_format=version).attrs.update(said(well=images))
    image = write_image(tmp_path / "p.zarr" / well / "fov0", transformed([SCALE], [SCALE]), version=version)
    with pytest.raises(InputError, match=rf"is a plate .* wells, for example {image}\.$"):
        open_volume(str(tmp_path / "p.zarr"))
    with pytest.raises(InputError, match=rf"is a well .* images, for example {image}\.$"):
        open_volume(str(tmp_path / "p.zarr" / well))
    assert open_volume(image).shape == VOXELS.shape
