"""The rules that make a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.volume import volumes
from pipeline.volume.foreground import Foreground
from pipeline.volume.opening import Volume, open_volume
from tests.volume.stores import grey


def stored(folder: Path, voxels: npt.NDArray[Any]) -> Volume:
    zarr.create_array(folder / "v.zarr", data=voxels, chunks=(2, 5, 5))
    return open_volume(str(folder / "v.zarr"))


def test_bone_is_above_63() -> None:
    values = np.array([[[62, 63, 64, 255]]], np.uint8)
    assert Foreground.threshold(63)(values).tolist() == [[[False, False, True, True]]]
    assert Foreground.threshold(62, 64)(values).tolist() == [[[False, True, True, False]]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32", "float64", "bool"])
@pytest.mark.parametrize(("low", "high"), [(0, None), (-5, 0), (62.5, 63.5), (62.5, None), (300, None), (-1e30, 1e30)])
def test_threshold_is_the_comparison_of_numbers(dtype: str, low: float, high: float | None) -> None:
    values = np.array([[[0, 1, 62, 63, 64, 255]]]).astype(dtype)
    expected = [low < float(v) and (high is None or float(v) <= high) for v in values.ravel()]
    assert Foreground.threshold(low, high)(values).ravel().tolist() == expected


def test_nonzero_and_label() -> None:
    values = np.array([[[-1, 0, 2, 3]]], np.int16)
    assert Foreground.nonzero()(values).tolist() == [[[True, False, True, True]]]
    assert Foreground.label(2)(values).tolist() == [[[False, False, True, False]]]
    assert Foreground.label(0)(values).tolist() == [[[False, True, False, False]]]


def test_words() -> None:
    rules = (Foreground.nonzero(), Foreground.label(7), Foreground.threshold(63), Foreground.threshold(0.5, 2))
    assert [rule.describe() for rule in rules] == ["value ≠ 0", "value = 7", "value > 63", "0.5 < value ≤ 2"]


@pytest.mark.parametrize(("low", "high"), [(float("nan"), None), (5, 5), (5, 4)])
def test_empty_thresholds(low: float, high: float | None) -> None:
    with pytest.raises(InputError, match="selects nothing"):
        Foreground.threshold(low, high)


def test_floats_need_a_threshold(tmp_path: Path) -> None:
    volume = stored(tmp_path, grey(dtype="float32"))
    Foreground.threshold(3).check(volume)
    for rule in (Foreground.nonzero(), Foreground.label(1)):
        with pytest.raises(InputError, match=r"v\.zarr holds float32 values, which are not a mask.*--threshold LOW"):
            rule.check(volume)


def test_labels_the_type_cannot_hold(tmp_path: Path) -> None:
    volume = stored(tmp_path, grey(dtype="uint8"))
    Foreground.label(255).check(volume)
    with pytest.raises(InputError, match="uint8 values from 0 to 255, so it has no label 256"):
        Foreground.label(256).check(volume)


def test_masks_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = grey()
    volume = stored(tmp_path, voxels)
    monkeypatch.setattr(volumes, "PIECE_BYTES", 1)
    box = Box((1, 0, 3), (7, 10, 13))
    np.testing.assert_array_equal(Foreground.threshold(500).read(volume, box), voxels[box.slices] > 500)


def test_nan_is_named_with_its_place(tmp_path: Path) -> None:
    voxels = grey(dtype="float32")
    voxels[5, :2, 3] = np.nan
    volume = stored(tmp_path, voxels)
    with pytest.raises(InputError, match=r"v\.zarr, voxels \(0, 0, 0\) to \(7, 10, 13\) \(z, y, x\): 2 values are NaN"):
        Foreground.threshold(3).read(volume, volume.box)
