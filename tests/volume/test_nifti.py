"""What a NIfTI header says of size, place and scale, beside nibabel, which wrote it."""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.geometry import VoxelSize
from pipeline.placement import UPRIGHT
from pipeline.volume.opening import Volume, open_volume
from tests.volume.stores import grey

Affine = npt.NDArray[np.float64]
VOXELS = grey((7, 10, 13))
library: Any = nib
PIXDIM = 76
"""Where pixdim lies in a NIfTI-1 header, and what follows it."""


def rotation(degrees: float, axis: int) -> Affine:
    a, b = [n for n in range(3) if n != axis]
    matrix, angle = np.eye(4), np.radians(degrees)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def affine(matrix: Affine, origin: tuple[float, float, float] = (-12.5, 31.25, 7.0)) -> Affine:
    made = matrix.copy()
    made[:3, 3] = origin
    return made


SCALE = np.diag([0.5, 0.7, 3.0, 1.0])
SHEAR = np.eye(4)
SHEAR[0, 1] = 0.2
AFFINES: dict[str, Affine] = {
    "upright": affine(SCALE),
    "flipped in x": affine(np.diag([-1.0, 1, 1, 1]) @ SCALE),
    "flipped in x and y": affine(np.diag([-1.0, -1, 1, 1]) @ SCALE),
    "permuted": affine(np.eye(4)[[2, 0, 1, 3]] @ SCALE),
    "permuted and flipped": affine(np.diag([1.0, -1, 1, 1]) @ np.eye(4)[[1, 2, 0, 3]] @ SCALE),
    "oblique": affine(rotation(17, 2) @ rotation(-8, 0) @ SCALE),
    "sheared": affine(SHEAR @ SCALE),
    "far away": affine(SCALE, (1234.5678, -987.65432, 0.001)),
}
CODES = {"sform": (2, 0), "qform": (0, 1), "both": (1, 1)}


def saved(path: Path, matrix: Affine, codes: tuple[int, int], unit: str = "mm", kind: str = "Nifti1Image") -> Any:
    """VOXELS as nibabel writes them, read by nibabel. codes : of sform and qform."""
    image = getattr(library, kind)(VOXELS.T, None)
    image.set_sform(matrix, code=codes[0])
    image.set_qform(matrix, code=codes[1])
    if codes[0] and not codes[1]:
        image.header["pixdim"][1:4] = np.linalg.norm(matrix[:3, :3], axis=0)
    image.header.set_xyzt_units(unit)
    library.save(image, path)
    return library.load(path)


def check_corners(volume: Volume, oracle: Any, um: float = 1000.0) -> None:
    """Every corner voxel lies where nibabel says, to a millionth of the volume's reach. um : of the header's unit."""
    assert volume.placement is not None
    assert volume.voxel_size is not None
    reach = np.abs(oracle.affine[:3]).sum(axis=1).max() * um * max(volume.shape)
    for corner in itertools.product(*((0, n - 1) for n in volume.shape)):
        expected = (oracle.affine @ [*corner[::-1], 1])[2::-1] * um
        found = volume.placement.position_um(corner, volume.voxel_size)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * reach)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_corners_lie_where_nibabel_says(tmp_path: Path, name: str, codes: str, suffix: str) -> None:
    if name == "sheared" and codes != "sform":
        pytest.skip("a qform has no shear")
    oracle = saved(tmp_path / f"v{suffix}", AFFINES[name], CODES[codes])
    volume = open_volume(str(tmp_path / f"v{suffix}"))
    check_corners(volume, oracle)
    assert volume.voxel_size is not None
    np.testing.assert_allclose(volume.voxel_size.um, np.linalg.norm(AFFINES[name][:3, 2::-1], axis=0) * 1000, rtol=1e-6)
    assert any("sheared" in text for text in volume.warnings) == (name == "sheared")
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize(("unit", "um"), [("micron", 1.0), ("mm", 1e3), ("meter", 1e6), ("unknown", 1e3)])
def test_units_of_size_and_place(tmp_path: Path, kind: str, unit: str, um: float) -> None:
    oracle = saved(tmp_path / "v.nii", AFFINES["flipped in x"], (1, 0), unit, kind)
    volume = open_volume(str(tmp_path / "v.nii"))
    assert volume.voxel_size == VoxelSize((3.0 * um, 0.7 * um, 0.5 * um))
    check_corners(volume, oracle, um)
    said = f"{tmp_path}/v.nii does not say in which unit its voxel size is, so it is taken for mm."
    assert volume.warnings == ((said,) if unit == "unknown" else ())


def test_a_header_without_sform_and_qform_says_nothing_of_the_place(tmp_path: Path) -> None:
    saved(tmp_path / "v.nii", AFFINES["upright"], (0, 0))
    volume = open_volume(str(tmp_path / "v.nii"))
    assert volume.placement is None
    assert volume.voxel_size == VoxelSize((3000.0, 700.0, 500.0))


def test_the_qform_counts_where_the_sform_has_code_0(tmp_path: Path) -> None:
    """The rows of the sform hold something else all the same."""
    saved(tmp_path / "v.nii", AFFINES["flipped in x"], (0, 1))
    content = bytearray((tmp_path / "v.nii").read_bytes())
    content[280:328] = np.eye(4, dtype="<f4")[:3].tobytes()
    (tmp_path / "v.nii").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.nii"))
    check_corners(volume, library.load(tmp_path / "v.nii"))
    assert volume.voxel_size == VoxelSize((3000.0, 700.0, 500.0))
    assert not volume.warnings


def test_the_sform_goes_before_a_qform_that_differs(tmp_path: Path) -> None:
    image = library.Nifti1Image(VOXELS.T, None)
    image.set_sform(AFFINES["flipped in x"], code=1)
    image.set_qform(AFFINES["upright"], code=1)
    image.header.set_xyzt_units("mm")
    library.save(image, tmp_path / "v.nii")
    volume = open_volume(str(tmp_path / "v.nii"))
    check_corners(volume, library.load(tmp_path / "v.nii"))
    assert volume.warnings == (f"{tmp_path}/v.nii has a qform that differs from its sform; the sform counts.",)


@pytest.mark.parametrize(
    ("pixdim", "sides"),
    [
        ((1, 1, 1), (0.0195, 0.0195, 0.0195)),
        ((2.875, 3, 2.875), (3, 2.875, 2.875)),
        ((0.7, 0.7, 3), (0.5, 0.7, 3)),
        ((1, 1, 1), (1000, 1000, 1000)),
    ],
)
def test_the_affine_goes_before_pixdim(
    tmp_path: Path, pixdim: tuple[float, ...], sides: tuple[float, float, float]
) -> None:
    saved(tmp_path / "v.nii", affine(np.diag([*sides, 1.0])), (1, 0))
    content = bytearray((tmp_path / "v.nii").read_bytes())
    struct.pack_into("<3f", content, PIXDIM + 4, *pixdim)
    (tmp_path / "v.nii").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.nii"))
    z, y, x = (1000 * side for side in sides[::-1])
    assert volume.voxel_size == VoxelSize((z, y, x))
    assert "; the affine counts" in volume.warnings[0]
    check_corners(volume, library.load(tmp_path / "v.nii"))


@pytest.mark.parametrize("zeroed", [(3,), (1,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_size_of_zero_is_not_stated(
    tmp_path: Path, zeroed: tuple[int, ...], codes: tuple[int, int], suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "v.nii", np.eye(4), codes)
    content = bytearray((tmp_path / "v.nii").read_bytes())
    for axis in zeroed:
        content[PIXDIM + 4 * axis : PIXDIM + 4 * axis + 4] = bytes(4)
    path = tmp_path / f"zero{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    volume = open_volume(str(path))
    assert volume.voxel_size is None
    shown = ", ".join("0" if axis in zeroed else "1" for axis in (3, 2, 1))
    assert volume.warnings == (
        f"{path} has the pixdim {shown} (z, y, x), and a size of 0 says nothing; give --voxel-size-um.",
    )
    assert open_volume(str(path), voxel_size_um=(3, 2, 1)).voxel_size == VoxelSize((3, 2, 1))
    assert capsys.readouterr() == ("", "")


def scaled(path: Path, voxels: npt.NDArray[Any], slope: float, intercept: float, kind: str = "Nifti1Image") -> Volume:
    """Stored values and what they are multiplied with, byte for byte."""
    image = getattr(library, kind)(voxels.T, np.eye(4), dtype=voxels.dtype)
    library.save(image, path)
    content = bytearray(path.read_bytes())
    at, form = (112, "<2f") if kind == "Nifti1Image" else (176, "<2d")
    struct.pack_into(form, content, at, slope, intercept)
    path.write_bytes(content)
    return open_volume(str(path))


NAN = float("nan")


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "dtype"),
    [
        ("int16", 1, -1024, "int32"),
        ("uint16", 1, -1024, "int32"),
        ("uint8", 1, -100, "int16"),
        ("int16", 2, 0, "int32"),
        ("uint8", 2, 0, "uint16"),
        ("uint8", -1, 255, "uint8"),
        ("int8", 1, 128, "uint8"),
        ("int16", 1, 32768, "uint16"),
        ("uint16", 65537, 0, "uint32"),
        ("int32", 3, -7, "int64"),
        ("uint32", -2, 5, "int64"),
        ("uint64", 1, 0, "uint64"),
        ("int16", 1, NAN, "int16"),
        ("int16", NAN, NAN, "int16"),
        ("int16", NAN, 3, "int16"),
        ("int16", 0, 3, "int16"),
    ],
)
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
def test_whole_slopes_make_exact_integers(
    tmp_path: Path, stored: str, slope: float, intercept: float, dtype: str, kind: str
) -> None:
    limits = np.iinfo(stored)
    voxels = np.random.default_rng(2).integers(limits.min, limits.max, (3, 4, 5), stored, endpoint=True)
    voxels[0, 0, :2] = limits.min, limits.max
    volume = scaled(tmp_path / "v.nii", voxels, slope, intercept, kind)
    none = np.isnan(slope) or slope == 0
    by, more = (1, 0) if none else (int(slope), 0 if np.isnan(intercept) else int(intercept))
    expected = voxels.astype(object) * by + more
    assert volume.dtype == dtype
    assert (volume.read(volume.box).astype(object) == expected).all()
    assert any("no readable intercept" in text for text in volume.warnings) == (not none and bool(np.isnan(intercept)))


@pytest.mark.parametrize(
    ("stored", "slope", "intercept"),
    [("int16", 0.5, 0), ("uint8", 1, 0.5), ("float32", 2, 1), ("uint64", 2, 0), ("int64", 1, 1)],
)
def test_other_slopes_make_float32(tmp_path: Path, stored: str, slope: float, intercept: float) -> None:
    voxels = grey((3, 4, 5), "int16").astype(stored)
    volume = scaled(tmp_path / "v.nii", voxels, slope, intercept)
    assert volume.dtype == "float32"
    np.testing.assert_array_equal(volume.read(volume.box), (voxels.astype("f8") * slope + intercept).astype("f4"))


@pytest.mark.parametrize("shape", [(1, 10, 13), (10, 13)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_one_plane(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    voxels = grey(shape)
    image = library.Nifti1Image(voxels.T, AFFINES["flipped in x"])
    image.header.set_xyzt_units("mm")
    library.save(image, tmp_path / f"v{suffix}")
    volume = open_volume(str(tmp_path / f"v{suffix}"))
    assert volume.shape == (1, 10, 13)
    assert volume.voxel_size == VoxelSize((3000.0, 700.0, 500.0))
    check_corners(volume, library.load(tmp_path / f"v{suffix}"))
    np.testing.assert_array_equal(volume.read(volume.box)[0], voxels.reshape(10, 13))
    assert not volume.warnings


def test_one_plane_without_a_thickness_is_as_thick_as_its_pixels_are_high(tmp_path: Path) -> None:
    image = library.Nifti1Image(VOXELS[0].T, SCALE)
    image.header.set_xyzt_units("mm")
    library.save(image, tmp_path / "v.nii")
    content = bytearray((tmp_path / "v.nii").read_bytes())
    content[88:92] = bytes(4)
    (tmp_path / "v.nii").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.nii"))
    assert volume.voxel_size == VoxelSize((700.0, 700.0, 500.0))
    assert len(volume.warnings) == 1
    assert "is one plane and does not say how thick it is; the voxel size along y is taken" in volume.warnings[0]
    assert volume.placement is not None
    assert volume.placement.directions == UPRIGHT
