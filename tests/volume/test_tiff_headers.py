"""What TIFF says beside its voxels: ImageJ's units, OME's stage positions, and what stands for white."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.geometry import Box, VoxelSize
from pipeline.placement import UPRIGHT, Placement
from pipeline.volume.opening import open_volume
from tests.volume.stores import grey

VOXELS = grey()
MASK = grey((7, 10, 13), "bool")


@pytest.mark.parametrize(
    ("units", "um"),
    [
        ({"unit": "nm", "zunit": "um"}, (3.0, 0.0026755, 0.0026755)),
        ({"unit": "um", "zunit": "mm"}, (3000.0, 2.6755, 2.6755)),
        ({"unit": "um", "yunit": "nm"}, (3.0, 0.0026755, 2.6755)),
        ({"unit": "mm", "yunit": "um", "zunit": "nm"}, (0.003, 2.6755, 2675.5)),
        ({"unit": "\\u00B5m", "zunit": "cm"}, (30000.0, 2.6755, 2.6755)),
        ({"unit": "nm", "zunit": "\\u00B5m"}, (3.0, 0.0026755, 0.0026755)),
        ({"unit": "um"}, (3.0, 2.6755, 2.6755)),
    ],
)
def test_imagej_has_a_unit_for_each_axis(tmp_path: Path, units: dict[str, str], um: tuple[float, float, float]) -> None:
    metadata: dict[str, Any] = {"spacing": 3.0, "axes": "ZYX", **units}
    tifffile.imwrite(tmp_path / "z.tif", VOXELS, imagej=True, resolution=(1 / 2.6755,) * 2, metadata=metadata)
    assert open_volume(str(tmp_path / "z.tif")).voxel_size == VoxelSize(um)


@pytest.mark.parametrize("units", [{"unit": "um", "zunit": "pixel"}, {"unit": "um", "yunit": "furlong"}, {}])
def test_imagej_units_that_are_no_lengths_state_nothing(tmp_path: Path, units: dict[str, str]) -> None:
    metadata: dict[str, Any] = {"spacing": 3.0, "axes": "ZYX", **units}
    tifffile.imwrite(tmp_path / "z.tif", VOXELS, imagej=True, resolution=(1 / 2.6755,) * 2, metadata=metadata)
    assert open_volume(str(tmp_path / "z.tif")).voxel_size is None


def ome(path: Path, planes: dict[str, Any] | None, **options: Any) -> Path:
    size = {f"PhysicalSize{axis}": value for axis, value in zip("ZYX", (3.0, 0.7, 0.5), strict=True)}
    metadata = {"axes": "ZYX", **size} | ({"Plane": planes} if planes else {})
    tifffile.imwrite(path, VOXELS, ome=True, metadata=metadata, **options)
    return path


def positions(z: float, y: float, x: float, *units: str) -> dict[str, Any]:
    """Of every plane; z moves on."""
    made: dict[str, Any] = {"PositionZ": [z + 3 * i for i in range(7)], "PositionY": [y] * 7, "PositionX": [x] * 7}
    return made | {f"Position{axis}Unit": [unit] * 7 for axis, unit in zip("ZYX", units, strict=False)}


@pytest.mark.parametrize(
    ("planes", "origin"),
    [
        (positions(1.5, -20.25, 300.125, "µm", "µm", "µm"), (1.5, -20.25, 300.125)),
        (positions(0.25, 2, -3, "mm", "mm", "mm"), (250.0, 2000.0, -3000.0)),
        (positions(0.1, 0.2, 0.7, "nm", "µm", "mm"), (0.0001, 0.2, 700.0)),
        (positions(0, 0, 0, "µm", "µm", "µm"), (0.0, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ome_stage_positions_place_the_volume(
    tmp_path: Path, planes: dict[str, Any], origin: tuple[float, float, float], compression: str | None
) -> None:
    volume = open_volume(str(ome(tmp_path / "v.ome.tif", planes, compression=compression)))
    assert volume.placement == Placement(origin, UPRIGHT)
    assert volume.voxel_size == VoxelSize((3.0, 0.7, 0.5))
    assert not volume.warnings
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)


@pytest.mark.parametrize(
    "planes",
    [
        None,
        positions(1, 2, 3),  # the schema's own unit is a reference frame
        positions(1, 2, 3, "reference frame", "reference frame", "reference frame"),
        positions(1, 2, 3, "µm", "pixel", "µm"),
        {name: values for name, values in positions(1, 2, 3, "µm", "µm", "µm").items() if "Z" not in name},
    ],
    ids=["none", "no units", "reference frame", "pixel", "no z"],
)
def test_ome_positions_without_lengths_place_nothing(tmp_path: Path, planes: dict[str, Any] | None) -> None:
    assert open_volume(str(ome(tmp_path / "v.ome.tif", planes))).placement is None


WHITE = 0
PHOTOMETRIC = 262


@pytest.mark.parametrize("compression", ["raw", "packbits", "group3", "group4", "tiff_lzw"])
@pytest.mark.parametrize("stack", ["file", "slices"])
@pytest.mark.parametrize("photometric", [WHITE, 1])
def test_bits_are_read_as_they_are_shown(tmp_path: Path, compression: str, stack: str, photometric: int) -> None:
    """Pillow stores what it is given so that white stays white, whatever stands for it."""
    planes = [Image.fromarray(plane) for plane in MASK]
    options: dict[str, Any] = {"compression": compression, "tiffinfo": {PHOTOMETRIC: photometric}}
    place = tmp_path / "bits.tif"
    if stack == "file":
        planes[0].save(place, save_all=True, append_images=planes[1:], **options)
    else:
        place = tmp_path / "bits"
        place.mkdir()
        for z, plane in enumerate(planes):
            plane.save(place / f"{z}.tif", **options)
    volume = open_volume(str(place))
    assert volume.dtype == "bool"
    np.testing.assert_array_equal(volume.read(volume.box), MASK)
    box = Box((2, 3, 5), (6, 9, 12))
    np.testing.assert_array_equal(volume.read(box), MASK[box.slices])
    said = f"{place} has bits of which 0 is white (MinIsWhite); it is read as it is shown, white as 1."
    assert volume.warnings == ((said,) if photometric == WHITE else ())


@pytest.mark.parametrize("options", [{}, {"software": "a tool"}, {"tile": (16, 16)}, {"bigtiff": True}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bool_by_tifffile_is_what_it_was_given(
    tmp_path: Path, options: dict[str, Any], compression: str | None
) -> None:
    """It says of every array of bool that 0 is white, and stores True as 1."""
    tifffile.imwrite(tmp_path / "b.tif", MASK, compression=compression, **options)
    tifffile.imwrite(tmp_path / "b.ome.tif", MASK, ome=True, metadata={"axes": "ZYX"}, compression=compression)
    ome = open_volume(str(tmp_path / "b.ome.tif"))
    np.testing.assert_array_equal(ome.read(ome.box), MASK)
    with tifffile.TiffFile(tmp_path / "b.tif") as written:
        assert written.pages.first.photometric == WHITE
    volume = open_volume(str(tmp_path / "b.tif"))
    np.testing.assert_array_equal(volume.read(volume.box), MASK)
    assert not volume.warnings
    (tmp_path / "s").mkdir()
    for z, plane in enumerate(MASK):
        tifffile.imwrite(tmp_path / "s" / f"{z}.tif", plane, compression=compression, **options)
    stack = open_volume(str(tmp_path / "s"))
    np.testing.assert_array_equal(stack.read(stack.box), MASK)


def test_tiled_bits_of_which_0_is_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "b.tif", ~MASK, software="a tool", metadata=None, tile=(16, 16), compression="zlib")
    volume = open_volume(str(tmp_path / "b.tif"))
    np.testing.assert_array_equal(volume.read(volume.box), MASK)


def test_slices_may_differ_in_what_stands_for_white(tmp_path: Path) -> None:
    for z, plane in enumerate(MASK):
        Image.fromarray(plane).save(tmp_path / f"{z}.tif", compression="raw", tiffinfo={PHOTOMETRIC: z % 2})
    volume = open_volume(str(tmp_path))
    np.testing.assert_array_equal(volume.read(volume.box), MASK)
    assert len(volume.warnings) == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("stack", ["file", "slices"])
def test_grey_of_which_0_is_white_stays_as_it_is_stored_and_is_told(
    tmp_path: Path, dtype: str, options: dict[str, Any], stack: str
) -> None:
    voxels, place = grey(dtype=dtype), tmp_path / "g.tif"
    if stack == "file":
        tifffile.imwrite(place, voxels, photometric="miniswhite", **options)
    else:
        place = tmp_path / "g"
        place.mkdir()
        for z, plane in enumerate(voxels):
            tifffile.imwrite(place / f"{z}.tif", plane, photometric="miniswhite", **options)
    volume = open_volume(str(place))
    np.testing.assert_array_equal(volume.read(volume.box), voxels)
    said = f"{place} has values of which 0 is white (MinIsWhite); they are taken as they are stored, the low ones being"
    assert volume.warnings == (f"{said} bright.",)
