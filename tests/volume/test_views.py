"""xarray views: lazy, in µm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StorageError
from pipeline.volume.opening import open_volume
from pipeline.volume.views import to_xarray
from tests.volume.stores import grey
from tests.volume.test_writing import write


def test_coordinates_are_voxel_centres(tmp_path: Path) -> None:
    voxels = grey((5, 70, 90))
    multiscale = write(tmp_path / "i.ome.zarr", voxels, block_shape=(16, 32, 32))
    fine, coarse = (to_xarray(multiscale.volume(level), name="grey") for level in (0, 1))
    assert fine.dims == ("z", "y", "x")
    assert fine.chunks == ((5,), (32, 32, 6), (32, 32, 26))
    np.testing.assert_allclose(fine.x, 0.7 * np.arange(90))
    np.testing.assert_allclose(coarse.x[:2], [0.35, 1.75])
    assert fine.attrs["voxel_size_um"] == (3.0, 0.7, 0.7)
    assert fine.x.attrs["units"] == "µm"
    np.testing.assert_array_equal(fine, voxels)
    np.testing.assert_array_equal(fine[2, 10:60:3, ::-2], voxels[2, 10:60:3, ::-2])
    nearest = fine.sel(x=slice(7.0, 14.0))
    assert nearest.shape == (5, 70, 11)


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    multiscale = write(tmp_path / "i.ome.zarr", grey((5, 40, 40)), block_shape=(16, 32, 32))
    array = to_xarray(multiscale.volume(0))
    (multiscale.path / "0" / "c" / "0" / "1" / "1").unlink()
    assert array[:, :32, :32].compute().shape == (5, 32, 32)
    with pytest.raises(StorageError, match="0/c/0/1/1 is missing"):
        array.compute()


def test_without_a_voxel_size_coordinates_count_voxels(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "v.zarr", data=grey())
    array = to_xarray(open_volume(str(tmp_path / "v.zarr")))
    assert array.x.attrs["units"] == "voxel"
    np.testing.assert_array_equal(array.x, np.arange(13))
    assert "voxel_size_um" not in array.attrs


def test_files_are_read_in_parts(tmp_path: Path) -> None:
    voxels = np.zeros((40, 1024, 1024), np.uint8)
    voxels[20:] = 1
    np.save(tmp_path / "v.npy", voxels)
    array = to_xarray(open_volume(str(tmp_path / "v.npy")))
    assert array.chunks == ((16, 16, 8), (1024,), (1024,))
    np.testing.assert_array_equal(array[15:25, 5, ::100], voxels[15:25, 5, ::100])
