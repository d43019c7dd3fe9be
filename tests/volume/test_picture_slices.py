"""Stacks of PNG and BMP, as SkyScan and annotators leave them, and pictures that are no slices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StorageError
from pipeline.volume.opening import open_volume
from tests.volume.formats import picture_slices
from tests.volume.stores import grey, refused

VOXELS = grey((12, 17, 23), "uint8")


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", "uint8"), ("png", "uint16"), ("png", "bool"), ("bmp", "uint8"), ("bmp", "bool")]
)
def test_types(tmp_path: Path, suffix: str, dtype: str) -> None:
    voxels = grey(VOXELS.shape, dtype)
    volume = open_volume(str(picture_slices(tmp_path / "s", voxels, suffix)))
    assert (volume.dtype, volume.format) == (dtype, f"folder of {suffix.upper()} slices")
    np.testing.assert_array_equal(volume.read(volume.box), voxels)


def test_another_writer(tmp_path: Path) -> None:
    voxels = grey(VOXELS.shape, "uint16")
    for z, plane in enumerate(voxels):
        (tmp_path / f"z{z:03}.PNG").write_bytes(imagecodecs.png_encode(plane))
    volume = open_volume(str(tmp_path))
    np.testing.assert_array_equal(volume.read(volume.box), voxels)


def with_palette(plane: Any, colours: list[tuple[int, int, int]]) -> Any:
    image = Image.fromarray(plane % len(colours)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([part for colour in colours for part in colour])
    return image


def test_indices_of_a_palette_are_labels(tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        (tmp_path / suffix).mkdir()
        for z, plane in enumerate(VOXELS):
            with_palette(plane, [(0, 0, 0), (255, 0, 0), (0, 9, 200)]).save(tmp_path / suffix / f"{z}.{suffix}")
        volume = open_volume(str(tmp_path / suffix))
        np.testing.assert_array_equal(volume.read(volume.box), VOXELS % 3)


def test_pictures_that_are_no_slices(tmp_path: Path) -> None:
    for name, image in (
        ("colour", Image.fromarray(np.zeros((4, 5, 3), "u1"))),
        ("inverted", with_palette(VOXELS[0], [(255, 255, 255), (0, 0, 0)])),
    ):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
    assert "0.png is not a readable PNG slice (it has several values in each pixel (RGB), and a slice is grey)" in (
        refused(tmp_path / "colour")
    )
    assert "it has a palette of greys that do not go up; convert it to grey" in refused(tmp_path / "inverted")
    (tmp_path / "jpeg").mkdir()
    Image.fromarray(VOXELS[0]).save(tmp_path / "jpeg" / "0.jpg")
    assert "JPEG changes grey values and labels" in refused(tmp_path / "jpeg")


@pytest.mark.parametrize("position", [0.3, 0.6, 0.95])
def test_a_flipped_bit_in_a_png(tmp_path: Path, position: float) -> None:
    folder = picture_slices(tmp_path / "s", VOXELS, "png")
    content = bytearray((folder / "s0005.png").read_bytes())
    content[int(len(content) * position)] ^= 16
    (folder / "s0005.png").write_bytes(content)
    volume = open_volume(str(folder))
    with pytest.raises(StorageError, match=r"s0005\.png cannot be read \(its PNG picture is damaged, a checksum"):
        volume.read(volume.box)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_picture_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    folder = picture_slices(tmp_path / "s", VOXELS, suffix)
    volume = open_volume(str(folder))
    content = (folder / f"s0005.{suffix}").read_bytes()
    (folder / f"s0005.{suffix}").write_bytes(content[:-30])
    with pytest.raises(StorageError, match=rf"s0005\.{suffix} cannot be read"):
        volume.read(volume.box)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("a.dcm", "dcm2niix"),
        ("a.am", "Avizo"),
        ("a.ims", "bioformats2raw"),
        ("a.CZI", "bioformats2raw"),
        ("a.isq", "itk"),
    ],
)
def test_what_is_not_read_names_the_tool_that_converts_it(tmp_path: Path, name: str, tool: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    assert f"{name} is not read; " in refused(tmp_path / name)
    assert tool in refused(tmp_path / name)
    assert tool in refused(tmp_path)
