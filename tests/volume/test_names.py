"""Files whose name does not say what they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.volume.opening import open_volume
from tests.volume.stores import grey

VOXELS = grey((6, 10, 13))


def nifti(path: Path) -> bytes:
    nib.save(nib.Nifti1Image(VOXELS.T, np.diag([0.5, 0.7, 3, 1])), path)  # type: ignore[no-untyped-call]
    return path.read_bytes()


@pytest.mark.parametrize("name", ["scan.nii", "SCAN.NII"])
def test_gzip_called_nii_says_so(tmp_path: Path, name: str) -> None:
    content = nifti(tmp_path / "a.nii.gz")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"{name} is not a readable NIfTI file \(it is compressed by gzip; call it .nii"
    ):
        open_volume(str(tmp_path / name))
    volume = open_volume(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)


def test_nifti_called_nii_gz_says_so(tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").write_bytes(nifti(tmp_path / "a.nii"))
    with pytest.raises(InputError, match=r"b\.nii\.gz .*it is not compressed by gzip; call it \.nii, if it is NIfTI"):
        open_volume(str(tmp_path / "b.nii.gz"))


def test_gzip_of_something_else_is_no_nifti(tmp_path: Path) -> None:
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(b"text" * 200))
    with pytest.raises(InputError, match="it has no NIfTI header"):
        open_volume(str(tmp_path / "c.nii.gz"))


@pytest.mark.parametrize("suffix", [".jpx", ".jpf", ".j2c", ".jpc", ".JPX", ".J2C"])
def test_names_of_jpeg_2000(tmp_path: Path, suffix: str) -> None:
    kind = "jp2" if suffix.lower() in (".jpx", ".jpf") else "j2k"
    for z, plane in enumerate(VOXELS):
        content = imagecodecs.jpeg2k_encode(plane, codecformat=kind, level=0)
        (tmp_path / f"s_{z:03}{suffix}").write_bytes(content)
    volume = open_volume(str(tmp_path))
    assert volume.format == "folder of JPEG 2000 slices"
    np.testing.assert_array_equal(volume.read(volume.box), VOXELS)
