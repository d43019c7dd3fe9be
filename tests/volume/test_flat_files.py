"""Files of voxels one after the other that lie nowhere: bare ones, .npz, MRC and VTK, by real writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import vtk
from vtk.util import numpy_support

from pipeline.errors import StorageError
from pipeline.geometry import VoxelSize
from pipeline.volume.opening import open_volume
from tests.volume.formats import Voxels
from tests.volume.servers import web_server
from tests.volume.stores import grey, refused
from tests.volume.test_placed_files import check

VOXELS = grey((12, 17, 23), "uint16")


def raw(path: Path, voxels: Voxels = VOXELS) -> Path:
    voxels.tofile(path)
    return path


def test_a_file_beside_raw_voxels(tmp_path: Path) -> None:
    file = raw(tmp_path / "x.raw", np.concatenate([[7, 8], VOXELS.ravel()]).astype(">u2"))
    stated: dict[str, Any] = {"shape": [12, 17, 23], "dtype": "uint16", "byte_order": "big", "offset": 4}
    (tmp_path / "x.raw.json").write_text(json.dumps({**stated, "voxel_size_um": [3, 0.7, 0.5]}))
    volume = check(file)
    assert (volume.voxel_size, volume.format) == (VoxelSize((3, 0.7, 0.5)), "raw voxels")
    assert volume.stored_objects() == (2, sum(f.stat().st_size for f in tmp_path.iterdir()))
    (tmp_path / "x.raw.json").write_text(json.dumps({**stated, "byte_order": "little"}))
    with pytest.raises(StorageError, match=r"goes with .*x\.raw\.json, which changed since it was opened"):
        volume.read(volume.box)
    check(file, VOXELS.astype("<u2").byteswap())
    (tmp_path / "x.raw.json").unlink()
    (tmp_path / "x.raw.toml").write_text(
        'shape = [12, 17, 23]\ndtype = "uint16"\nbyte_order = "big"\noffset = 4\nvoxel_size_um = 2.5\n'
    )
    assert check(file).voxel_size == VoxelSize((2.5, 2.5, 2.5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [12, 17, 22]}, "is 12 × 17 × 22 uint16 by {}, which takes 8,976 bytes, but has 9,384; mend either"),
        ({"offset": 4}, "takes 9,388 bytes, but has 9,384"),
        ({"dtype": "words"}, "which has a value that is none"),
        ({"dtype": "complex64"}, "which has a value that is none"),
        ({"byte_order": "middle"}, "which has a value that is none"),
        ({"shape": [12, 17]}, "which has a value that is none"),
        ({"voxel_size_um": [3, 0, 1]}, "states the voxel size 3, 0, 1 (z, y, x), which is none"),
        (
            {"voxelsize": 3},
            "which needs shape and dtype, and may have byte_order, offset, voxel_size_um; it has voxelsize",
        ),
    ],
)
def test_a_file_beside_that_is_wrong(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    raw(tmp_path / "x.raw")
    (tmp_path / "x.raw.json").write_text(json.dumps({"shape": [12, 17, 23], "dtype": "uint16"} | change))
    assert words.format(tmp_path / "x.raw.json") in refused(tmp_path / "x.raw")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bone_23x17x12_16bit.raw", "<u2"),
        ("bone_23x17x12_uint16_be.raw", ">u2"),
        ("bone-23x17x12-float32.raw", "<f4"),
        ("1.5um_23x17x12_i16.vol", "<i2"),
        ("bone 8bit 23x17x12.RAW", "u1"),
    ],
)
def test_names_that_say_shape_and_type(tmp_path: Path, name: str, dtype: str) -> None:
    voxels = VOXELS.astype(dtype)
    assert check(raw(tmp_path / name, voxels), voxels).voxel_size is None
    with web_server(tmp_path) as server:
        check(f"{server.url}/{name}", voxels)
    raw(tmp_path / name, voxels[1:])
    assert "by its name, which takes" in refused(tmp_path / name)


def test_a_sidecar_goes_before_a_name(tmp_path: Path) -> None:
    file = raw(tmp_path / "bone_23x17x12_16bit.raw")
    check(file)
    (tmp_path / f"{file.name}.json").write_text(json.dumps({"shape": [12, 17, 23], "dtype": "int16"}))
    check(file, VOXELS.astype("int16"))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<f4", ">f4"])
def test_what_pyhst_writes(tmp_path: Path, dtype: str) -> None:
    voxels = VOXELS.astype(dtype)
    file = raw(tmp_path / "x.vol", voxels)
    order = "HIGHBYTEFIRST" if dtype[0] == ">" else "LOWBYTEFIRST"
    (tmp_path / "x.vol.info").write_text(
        "! PyHST_SLAVE VOLUME INFO FILE\nNUM_X = 23\nNUM_Y = 17\nNUM_Z = 12\nvoxelSize = 5.060000\n"
        f"BYTEORDER = {order}\nValMin = 0.0\nValMax = 1.0\ns1 = 0.0\n"
    )
    assert check(file, voxels).voxel_size == VoxelSize((5.06, 5.06, 5.06))
    raw(file, voxels[1:])
    assert "are not one, two or four of each; fetch it again" in refused(file)


def test_raw_voxels_of_which_nothing_is_said(tmp_path: Path) -> None:
    said = refused(raw(tmp_path / "x.raw"))
    assert "does not say what it holds; write a file with its name and .json behind it" in said
    assert "or name it like bone_23x17x12_uint16.raw (x, y, z)" in said
    assert "does not say what it holds" in refused(raw(tmp_path / "x_23x17x12_32bit.raw"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, save: Any, order: Any) -> None:
    save(tmp_path / "v.npz", np.asarray(VOXELS, order=order))
    check(tmp_path / "v.npz")
    save(tmp_path / "two.npz", image=VOXELS, mask=VOXELS)
    assert "holds 2 arrays (image, mask); save the volume alone, with numpy.save" in refused(tmp_path / "two.npz")
    (tmp_path / "x.npz").write_bytes(b"nothing")
    assert "x.npz is not a readable .npz file (" in refused(tmp_path / "x.npz")


def test_a_flipped_bit_in_a_compressed_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "v.npz", VOXELS)
    content = bytearray((tmp_path / "v.npz").read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "v.npz").write_bytes(content)
    volume = open_volume(str(tmp_path / "v.npz"))
    with pytest.raises(StorageError, match="its compressed data are damaged or its checksum does not match"):
        volume.read(volume.box)


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
@pytest.mark.parametrize("name", ["v.mrc", "v.map", "v.rec"])
def test_mrc(tmp_path: Path, dtype: str, name: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    with mrcfile.new(tmp_path / name, voxels) as file:
        file.voxel_size = (5.25, 7.0, 30.0)
        file.header.origin = (10.0, -20.0, 30.5)
    volume = check(tmp_path / name, voxels)
    assert (volume.voxel_size, volume.origin_um) == (VoxelSize((3e-3, 7e-4, 5.25e-4)), (3.05e-3, -2e-3, 1e-3))


def test_mrc_with_an_extended_header_other_axes_and_no_voxel_size(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "v.mrc", VOXELS.transpose(2, 1, 0).astype("f4")) as file:
        file.set_extended_header(np.zeros(100, "V1"))
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
    volume = check(tmp_path / "v.mrc", VOXELS.astype("f4"))
    assert (volume.voxel_size, volume.placement) == (None, None)
    with mrcfile.new(tmp_path / "c.mrc", VOXELS.astype("c8")):
        pass
    assert "holds values of mode 4" in refused(tmp_path / "c.mrc")
    (tmp_path / "x.mrc").write_bytes(bytes(2000))
    assert "x.mrc is not a readable MRC file (it has no MRC header)" in refused(tmp_path / "x.mrc")


def vtk_image(voxels: Voxels) -> Any:
    image = vtk.vtkImageData()
    image.SetDimensions(voxels.shape[::-1])
    image.SetSpacing(0.5, 0.7, 3.0)
    scalars = numpy_support.numpy_to_vtk(voxels.ravel(), deep=True)
    scalars.SetName("grey")
    image.GetPointData().SetScalars(scalars)
    return image


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", ["v.vtk", "v.vti"])
def test_vtk(tmp_path: Path, dtype: str, name: str, wide: bool) -> None:
    voxels = grey(VOXELS.shape, dtype)
    if name == "v.vtk":
        writer: Any = vtk.vtkStructuredPointsWriter()
        writer.SetFileTypeToBinary()
    else:
        writer = vtk.vtkXMLImageDataWriter()
        writer.SetCompressorTypeToNone()
        writer.EncodeAppendedDataOff()
        if wide:
            writer.SetHeaderTypeToUInt64()
        else:
            writer.SetHeaderTypeToUInt32()
    writer.SetFileName(str(tmp_path / name))
    writer.SetInputData(vtk_image(voxels))
    writer.Write()
    volume = check(tmp_path / name, voxels)
    assert volume.voxel_size is None
    assert "states the spacing 3, 0.7, 0.5 (z, y, x) without a unit, which VTK does not know" in volume.warnings[0]


def test_vtk_that_is_not_read_names_the_way_out(tmp_path: Path) -> None:
    text: Any = vtk.vtkStructuredPointsWriter()
    text.SetFileTypeToASCII()
    packed: Any = vtk.vtkXMLImageDataWriter()
    for writer, name in ((text, "t.vtk"), (packed, "p.vti")):
        writer.SetFileName(str(tmp_path / name))
        writer.SetInputData(vtk_image(VOXELS))
        writer.Write()
    assert "holds its voxels as text; write it anew" in refused(tmp_path / "t.vtk")
    assert "is compressed; write it anew as raw appended .vti" in refused(tmp_path / "p.vti")
