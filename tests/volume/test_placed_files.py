"""Files of ITK, 3D Slicer and their like: the voxels, and every corner where SimpleITK says that it lies."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK

from pipeline.errors import InputError, StorageError
from pipeline.geometry import Box, VoxelSize
from pipeline.placement import UPRIGHT
from pipeline.volume import inflated
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume, open_volume
from tests.volume.formats import Voxels
from tests.volume.servers import web_server
from tests.volume.stores import grey, refused

VOXELS = grey((12, 17, 23), "uint16")
TAKEN_FOR_MM = "does not say in which unit its voxel size is, so it is taken for mm"


def turned(z: float, y: float) -> tuple[float, ...]:
    """A rotation about z, then about y, by these angles."""
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    return tuple((about_z @ about_y).ravel().tolist())


mgh: Any = nib.MGHImage
DIRECTIONS = {
    "upright": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "to the back": (1, 0, 0, 0, -1, 0, 0, 0, -1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": turned(0.3, -0.7),
}


def image(direction: tuple[float, ...] = DIRECTIONS["upright"], voxels: Voxels = VOXELS) -> Any:
    made: Any = SimpleITK.GetImageFromArray(voxels)
    made.SetSpacing((0.5, 0.7, 3.0))
    made.SetOrigin((-10.25, 20.125, 0.1))
    made.SetDirection(direction)
    return made


def corners_agree(volume: Volume, itk: Any, rtol: float = 1e-9) -> None:
    """Of our frame, x to the right, y to the front, µm; ITK counts to the left and to the back, mm."""
    assert volume.placement is not None
    assert volume.voxel_size is not None
    for corner in product(*((0, n - 1) for n in volume.shape)):
        x, y, z = itk.TransformIndexToPhysicalPoint(corner[::-1])
        there = volume.placement.position_um(corner, volume.voxel_size)
        np.testing.assert_allclose(there, (1000 * z, -1000 * y, -1000 * x), rtol=rtol, atol=1e-6)


def check(location: Path | str, voxels: Voxels = VOXELS) -> Volume:
    volume = open_volume(str(location))
    for box in (Box((5, 3, 2), (7, 9, 20)), volume.box):
        read = volume.read(box)
        assert read.dtype == voxels.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read, voxels[box.slices])
    return volume


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["v.nrrd", "v.nhdr", "v.mha", "v.mhd"])
def test_every_corner_lies_where_itk_says(tmp_path: Path, direction: str, compress: bool, name: str) -> None:
    itk = image(DIRECTIONS[direction])
    SimpleITK.WriteImage(itk, tmp_path / name, useCompression=compress)
    volume = check(tmp_path / name)
    assert volume.voxel_size == VoxelSize((3000, 700, 500))
    corners_agree(volume, itk)
    assert volume.warnings == (f"{tmp_path / name} {TAKEN_FOR_MM}.",)
    assert volume.stored_objects() == (
        len(list(tmp_path.iterdir())),
        sum(file.stat().st_size for file in tmp_path.iterdir()),
    )


def test_anatomical_spaces_agree(tmp_path: Path) -> None:
    """The same volume, its space named in three ways."""
    for name, x, y in (("right-anterior-superior", 1, 1), ("LAS", -1, 1), ("left-posterior-superior", -1, -1)):
        header = {
            "space": name,
            "space directions": [[x * 0.5, 0, 0], [0, y * 0.7, 0], [0, 0, 3.0]],
            "space origin": [x * 4, y * 5, 6],
            "space units": ["um", "um", "um"],
        }
        nrrd.write(str(tmp_path / "v.nrrd"), VOXELS.T, header)
        volume = check(tmp_path / "v.nrrd")
        assert volume.placement is not None
        assert (volume.voxel_size, volume.origin_um) == (VoxelSize((3, 0.7, 0.5)), (6.0, 5.0, 4.0))
        assert volume.placement.directions == UPRIGHT
        assert volume.warnings == ()


def test_spacings_without_a_space(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "v.nrrd"), VOXELS.T, {"spacings": [0.5, 0.7, 3.0], "units": ["mm", "mm", "mm"]})
    volume = check(tmp_path / "v.nrrd")
    assert (volume.voxel_size, volume.placement) == (VoxelSize((3000, 700, 500)), None)
    nrrd.write(str(tmp_path / "v.nrrd"), VOXELS.T, {"spacings": [0.5, 0.7, 3.0]})
    volume = check(tmp_path / "v.nrrd")
    assert volume.voxel_size is None
    assert "states the spacings 3, 0.7, 0.5 (z, y, x) without a unit of length" in volume.warnings[0]


def test_axes_that_are_not_in_space(tmp_path: Path) -> None:
    header = {
        "space": "LPS",
        "kinds": ["vector", "domain", "domain", "domain"],
        "space directions": np.array([[np.nan] * 3, [0.5, 0, 0], [0, 0.7, 0], [0, 0, 3.0]]),
        "space units": ["mm", "mm", "mm"],
    }
    nrrd.write(str(tmp_path / "v.nrrd"), VOXELS.T[None], header)
    assert check(tmp_path / "v.nrrd").voxel_size == VoxelSize((3000, 700, 500))
    nrrd.write(str(tmp_path / "v.nrrd"), np.stack([VOXELS.T, VOXELS.T]), header)
    assert "has the sizes (2, 23, 17, 12) with 3 axes in space; a grey volume is needed" in refused(tmp_path / "v.nrrd")


@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i2", "<u4", ">f4", "float64", "uint64"])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_types_of_pynrrd(tmp_path: Path, dtype: str, encoding: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    endian = "big" if dtype[0] == ">" else "little"
    for name in ("v.nrrd", "d.nhdr"):
        nrrd.write(str(tmp_path / name), voxels.T, {"encoding": encoding, "endian": endian})
        check(tmp_path / name, voxels)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "float32", "float64"])
def test_types_of_itk(tmp_path: Path, dtype: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    SimpleITK.WriteImage(image(voxels=voxels), tmp_path / "v.mha")
    check(tmp_path / "v.mha", voxels)


def test_bytes_and_lines_before_the_voxels(tmp_path: Path) -> None:
    content = VOXELS.astype("<u2").tobytes()
    (tmp_path / "d.bin").write_bytes(b"one\ntwo\n" + b"12345" + content)
    head = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 23 17 12\nendian: little\nencoding: raw\n"
    for skips in ("line skip: 2\nbyte skip: 5", "byte skip: -1", "lineskip: 0\nbyteskip: 13"):
        (tmp_path / "v.nhdr").write_text(f"{head}{skips}\ndata file: d.bin\n")
        check(tmp_path / "v.nhdr")
    head = "NDims = 3\nDimSize = 23 17 12\nElementType = MET_USHORT\nElementByteOrderMSB = False\n"
    for size in (-1, 13):
        (tmp_path / "v.mhd").write_text(f"{head}HeaderSize = {size}\nElementDataFile = d.bin\n")
        assert check(tmp_path / "v.mhd").voxel_size is None


def test_units_of_a_meta_image(tmp_path: Path) -> None:
    SimpleITK.WriteImage(image(), tmp_path / "v.mhd")
    text = (tmp_path / "v.mhd").read_text().replace("ElementSpacing", "DistanceUnits = um\nElementSpacing")
    (tmp_path / "v.mhd").write_text(text)
    volume = check(tmp_path / "v.mhd")
    assert (volume.voxel_size, volume.origin_um) == (VoxelSize((3, 0.7, 0.5)), (0.1, -20.125, 10.25))
    assert volume.warnings == ()


def test_sheared_axes_are_told(tmp_path: Path) -> None:
    header = {"space": "LPS", "space directions": [[1, 0, 0], [0.2, 1, 0], [0, 0, 1]], "space units": ["mm"] * 3}
    nrrd.write(str(tmp_path / "v.nrrd"), VOXELS.T, header)
    assert "has sheared axes, 78.69° instead of 90° to each other" in open_volume(str(tmp_path / "v.nrrd")).warnings[0]


def test_what_is_not_read_names_the_way_out(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "b.nrrd"), VOXELS.T, {"encoding": "bzip2"})
    assert "has the encoding bzip2, and raw and gzip are read; write it anew" in refused(tmp_path / "b.nrrd")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), "u1"), isVector=True), tmp_path / "c.mha")
    assert "has 3 values in each voxel; a grey volume is needed" in refused(tmp_path / "c.mha")
    SimpleITK.WriteImage(image(), tmp_path / "d.mhd")
    (tmp_path / "d.raw").rename(tmp_path / "e.raw")
    assert refused(tmp_path / "d.mhd") == (
        f"{tmp_path}/d.mhd has its voxels in {tmp_path}/d.raw, which is missing; put it there."
    )
    (tmp_path / "d.raw").write_bytes(b"12345")
    assert f"has 5 bytes in {tmp_path}/d.raw where 9,384 are needed; fetch it again" in refused(tmp_path / "d.mhd")
    text = (tmp_path / "d.mhd").read_text()
    (tmp_path / "d.mhd").write_text(text.replace("d.raw", "LIST\ns0.raw"))
    assert "has its voxels in several files (LIST)" in refused(tmp_path / "d.mhd")
    (tmp_path / "x.nrrd").write_bytes(b"something else")
    assert "x.nrrd is not a readable NRRD file (it has no NRRD header)" in refused(tmp_path / "x.nrrd")
    (tmp_path / "x.mha").write_bytes(b"something else")
    assert "x.mha is not a readable MetaImage file (it has no MetaImage header" in refused(tmp_path / "x.mha")


@pytest.mark.parametrize("name", ["v.nhdr", "v.mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_file_beside_that_changes(tmp_path: Path, name: str, compress: bool) -> None:
    SimpleITK.WriteImage(image(), tmp_path / name, useCompression=compress)
    volume = check(tmp_path / name)
    before = fingerprint(volume)
    (data,) = (file for file in tmp_path.iterdir() if file.name != name)
    shutil.copy(data, tmp_path / "kept")
    SimpleITK.WriteImage(image(voxels=VOXELS[::-1]), tmp_path / name, useCompression=compress)
    with pytest.raises(StorageError, match="changed"):
        volume.read(volume.box)
    after = check(tmp_path / name, VOXELS[::-1])
    assert fingerprint(after) != before
    data.unlink()
    with pytest.raises(StorageError, match=rf"goes with {data}, which is missing"):
        after.read(after.box)


@pytest.mark.parametrize("name", ["v.nhdr", "v.mhd"])
def test_a_file_beside_over_the_web(tmp_path: Path, name: str) -> None:
    SimpleITK.WriteImage(image(), tmp_path / name, useCompression=False)
    with web_server(tmp_path) as server:
        check(f"{server.url}/{name}")
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("v.raw", "/etc/v.raw"))
        assert "which is not below the same address" in refused(f"{server.url}/{name}")


@pytest.mark.parametrize("write", [
    lambda folder, voxels: nrrd.write(str(folder / "v.nrrd"), voxels.T, {"encoding": "gzip"}),
    lambda folder, voxels: SimpleITK.WriteImage(image(voxels=voxels), folder / "v.mha", useCompression=True),
])  # fmt: skip
def test_a_flipped_bit_in_deflated_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Voxels], None]
) -> None:
    monkeypatch.setattr(inflated, "SKIPPED_BYTES", 1000)
    write(tmp_path, VOXELS)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-2000] ^= 16
    file.write_bytes(content)
    for box in (Box((2, 5, 5), (3, 6, 6)), Box((0, 0, 0), VOXELS.shape)):
        with pytest.raises(StorageError, match=r"the voxels .*its compressed data are damaged or its checksum"):
            open_volume(str(file)).read(box)
    file.write_bytes(content[:-3000])
    with pytest.raises((StorageError, InputError), match="it is cut off after"):
        open_volume(str(file)).read(Box((0, 0, 0), VOXELS.shape))


def test_deflated_voxels_are_read_from_places_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the beginning each time, in one pass or out of order, and of several members."""
    monkeypatch.setattr(inflated, "SKIPPED_BYTES", 1000)
    monkeypatch.setattr(inflated, "INDEX_SPACING", 2**15)
    monkeypatch.setattr(inflated, "READ_BYTES", 2**10)
    monkeypatch.setattr(inflated, "PIECE_BYTES", 2**12)
    voxels = grey((40, 64, 64), "uint16")
    head = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 64 64 40\nendian: little\nencoding: gzip\n\n"
    parts = [gzip.compress(voxels[:15].tobytes()), gzip.compress(voxels[15:].tobytes()), bytes(1000)]
    (tmp_path / "v.nrrd").write_bytes(head.encode() + b"".join(parts))
    with web_server(tmp_path) as server:
        volume = open_volume(f"{server.url}/v.nrrd")
        boxes = [Box((z, 3, 4), (z + 3, 50, 60)) for z in (30, 2, 36, 14, 13, 0, 35)]
        for box in boxes:
            np.testing.assert_array_equal(volume.read(box), voxels[box.slices])
        sent = server.sent
        volume.read(Box((38, 3, 4), (39, 50, 60)))
        assert server.sent - sent < len(b"".join(parts)) / 4
    np.testing.assert_array_equal(volume.read(volume.box), voxels)


def nifti_image(kind: Any) -> Any:
    affine = np.diag([-0.5, 0.7, 3.0, 1.0])
    affine[:3, 3] = 4, -5, 6
    made = kind(VOXELS.T.astype("int16"), affine)
    made.header.set_xyzt_units("mm")
    return made


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_nifti_pair_is_the_same_as_one_file(tmp_path: Path, suffix: str) -> None:
    nib.save(nifti_image(nib.Nifti1Image), tmp_path / "one.nii")
    nib.save(nifti_image(nib.Nifti1Pair), tmp_path / f"two.hdr{suffix}")
    one = open_volume(str(tmp_path / "one.nii"))
    two = check(tmp_path / f"two.hdr{suffix}", VOXELS.astype("int16"))
    assert (one.voxel_size, one.placement, one.warnings) == (two.voxel_size, two.placement, ())
    assert two.voxel_size == VoxelSize((3000, 700, 500))
    corners_agree(two, SimpleITK.ReadImage(tmp_path / f"two.hdr{suffix}"), 1e-6)  # single precision
    assert refused(tmp_path / f"two.img{suffix}") == (
        f"{tmp_path}/two.img{suffix} holds the voxels of a NIfTI pair; give its header, {tmp_path}/two.hdr{suffix}."
    )
    (tmp_path / f"two.img{suffix}").unlink()
    assert f"two.img{suffix}, which is missing; put it there" in refused(tmp_path / f"two.hdr{suffix}")
    (tmp_path / "a.hdr").write_bytes((348).to_bytes(4, "little") + bytes(344))
    assert "is Analyze 7.5, which does not say how it lies" in refused(tmp_path / "a.hdr")


@pytest.mark.parametrize("suffix", ["mgh", "mgz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_freesurfer(tmp_path: Path, suffix: str, dtype: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(turned(0.4, 0.2), (3, 3)) @ np.diag([0.5, 0.7, 3.0])
    affine[:3, 3] = 4, -5, 6
    nib.save(mgh(voxels.T, affine), tmp_path / f"v.{suffix}")
    volume = check(tmp_path / f"v.{suffix}", voxels)
    assert volume.placement is not None
    assert volume.voxel_size == VoxelSize((3000, 700, 500))
    for corner in product(*((0, n - 1) for n in volume.shape)):
        there = volume.placement.position_um(corner, volume.voxel_size)
        expected = 1000 * (affine @ [*corner[::-1], 1])[2::-1]
        np.testing.assert_allclose(there, expected, rtol=1e-6, atol=1e-2)  # the header is in single precision
    nib.save(mgh(np.stack([voxels.T, voxels.T], -1), affine), tmp_path / f"f.{suffix}")
    assert "holds 2 volumes; store them one by one" in refused(tmp_path / f"f.{suffix}")
