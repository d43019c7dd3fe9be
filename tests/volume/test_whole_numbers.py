"""Labels that are stored as floats: exact integers, or the first value that is none, in every format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from pipeline.comparison import read_labels
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.regions import read_regions
from pipeline.volume.opening import Volume, open_volume
from pipeline.volume.whole_numbers import as_labels
from tests.volume.formats import FORMATS
from tests.volume.stores import grey
from tests.volume.test_memory import SLACK, peak_bytes

library: Any = nib
VOXELS = grey((11, 40, 37), "uint16")
WITHOUT_FLOATS = {name for name in FORMATS if any(word in name for word in ("jp2", "j2k", "png"))}
INSIDE = Box((2, 3, 5), (9, 33, 30))


def labels_of(path: Path, values: npt.NDArray[Any]) -> Volume:
    """As labels, a Zarr array of floats in chunks that cut it."""
    zarr.create_array(path / "l.zarr", data=values, chunks=(4, 16, 16))
    return as_labels(open_volume(str(path / "l.zarr")))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", sorted(FORMATS.keys() - WITHOUT_FLOATS))
def test_whole_floats_of_every_format_are_int64(tmp_path: Path, kind: str, dtype: str) -> None:
    if kind in ("ImageJ tiff", "mrc") and dtype == "float64":
        pytest.skip(f"{kind} has no float64")
    opened = open_volume(str(FORMATS[kind](tmp_path, VOXELS.astype(dtype))))
    assert opened.dtype == dtype
    volume: Volume = pickle.loads(pickle.dumps(as_labels(opened)))
    assert volume.dtype == "int64"
    read = volume.read(INSIDE)
    assert read.dtype == np.int64
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, VOXELS[INSIDE.slices])
    assert volume.stored_objects() == opened.stored_objects()
    assert as_labels(volume) is volume


@pytest.mark.parametrize(
    ("dtype", "largest"), [("float16", 65504), ("float32", 2**53), ("float64", 2**53), ("float64", 2**53 - 1)]
)
def test_the_largest_and_smallest_labels(tmp_path: Path, dtype: str, largest: int) -> None:
    values = np.zeros((5, 6, 7), dtype)
    values[1, 2, 3], values[4, 5, 6] = largest, -largest
    read = labels_of(tmp_path, values).read(Box((0, 0, 0), (5, 6, 7)))
    assert (int(read[1, 2, 3]), int(read[4, 5, 6]), int(read[0, 0, 0])) == (largest, -largest, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.5, "holds 0.5 at voxel (4, 17, 20) (z, y, x), which is no label; labels are whole numbers, so round or"),
        (-2.25, "holds -2.25 at voxel (4, 17, 20) (z, y, x), which is no label"),
        (np.nan, "holds nan at voxel (4, 17, 20) (z, y, x), which is no label"),
        (-np.inf, "holds -inf at voxel (4, 17, 20) (z, y, x), which is no label"),
        (1e-30, "holds 1e-30 at voxel (4, 17, 20) (z, y, x), which is no label"),
        (2.0**54, "holds 1.80144e+16 at voxel (4, 17, 20) (z, y, x); labels that are stored as floats lie between"),
        (-1e30, "holds -1e+30 at voxel (4, 17, 20) (z, y, x); labels that are stored as floats lie between"),
    ],
)
def test_the_first_value_that_is_no_label(tmp_path: Path, dtype: str, value: float, sentence: str) -> None:
    values = VOXELS.astype(dtype)
    values[4, 17, 20:] = value
    values[5:] = 0.25
    volume = labels_of(tmp_path, values)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 40, 37))), VOXELS[:4])
    with pytest.raises(InputError) as caught:
        volume.read(INSIDE)
    assert str(caught.value).startswith(f"{tmp_path}/l.zarr {sentence}")
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "value", [np.nextafter(np.float32(3), np.float32(0)), np.nextafter(np.float32(3), np.float32(9))]
)
def test_nearly_whole_is_not_whole(tmp_path: Path, value: np.float32) -> None:
    values = np.full((5, 6, 7), 3, np.float32)
    values[2, 3, 4] = value
    with pytest.raises(InputError, match=r"at voxel \(2, 3, 4\) \(z, y, x\), which is no label"):
        labels_of(tmp_path, values).read(Box((0, 0, 0), (5, 6, 7)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64"])
def test_the_first_negative_label_is_told_with_its_place_and_the_way_out(tmp_path: Path, dtype: str) -> None:
    values = VOXELS.astype("int8").clip(0).astype(dtype)
    values[4, 17, 20], values[6, 1, 1] = -3, -7
    volume = labels_of(tmp_path, values)
    np.testing.assert_array_equal(read_labels(volume, Box((0, 0, 0), (4, 40, 37))), values[:4])
    told = "holds the negative label -3; labels must be 0 or more, and voxel (4, 17, 20) (z, y, x) is the first: give"
    with pytest.raises(InputError) as caught:
        read_labels(volume, volume.box)
    assert str(caught.value).startswith(
        f"{tmp_path}/l.zarr {told} the structure another number, or make it background."
    )
    told = "holds the label -3; regions must lie between 0 and 2^63 − 1, and voxel (4, 17, 20) (z, y, x) is the first"
    with pytest.raises(InputError) as caught:
        read_regions(volume, volume.box)
    assert str(caught.value).startswith(f"{tmp_path}/l.zarr {told}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["npy", "Zarr", "nii.gz"])
def test_reading_labels_keeps_to_the_sum(tmp_path: Path, dtype: str, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 2**20, (70, 200, 200)).astype(dtype)
    if kind == "Zarr":
        zarr.create_array(tmp_path / "v.zarr", data=values, chunks=(64, 64, 64))
    location = tmp_path / "v.zarr" if kind == "Zarr" else FORMATS[kind](tmp_path, values)
    volume = as_labels(open_volume(str(location)))
    box = Box((3, 5, 7), (66, 190, 180))
    assert peak_bytes(lambda: volume.read(box)) <= volume.read_bytes(box.shape) + volume.kept_bytes + SLACK


@pytest.mark.parametrize(("dtype", "top", "whole"), [
    ("uint8", 1, True), ("uint8", 3, True), ("uint8", 5, True), ("int16", 3, True), ("int32", 7, True),
    ("uint8", 2, False), ("int16", 2, False), ("uint16", 7, False),
])  # fmt: skip
def test_labels_under_a_slope_that_nibabel_chose(tmp_path: Path, dtype: str, top: int, *, whole: bool) -> None:
    """The stored integers hold the labels, but for the rounding of single precision, or they do not."""
    labels = VOXELS.astype("f8") % (top + 1)
    image = library.Nifti1Image(labels.T, np.eye(4))
    image.set_data_dtype(dtype)
    library.save(image, tmp_path / "l.nii")
    volume = as_labels(open_volume(str(tmp_path / "l.nii")))
    if whole:
        np.testing.assert_array_equal(volume.read(volume.box), labels)
    else:
        with pytest.raises(InputError, match="which is no label"):
            volume.read(volume.box)
