"""One array of voxels in every format of files and slices that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import mrcfile
import nibabel as nib
import nrrd
import numpy as np
import numpy.typing as npt
import SimpleITK
import tifffile
from PIL import Image

Voxels = npt.NDArray[Any]
nifti: Any = nib.Nifti1Image
nifti2: Any = nib.Nifti2Image
SPACING = np.diag([0.7, 0.7, 3.0, 1.0])


def tiff_slices(folder: Path, voxels: Voxels, **options: Any) -> Path:
    """A folder of slice0.tif, slice1.tif and so on."""
    folder.mkdir()
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"slice{z}.tif", plane, photometric="minisblack", **options)
    return folder


def jpeg2000_slices(folder: Path, voxels: Voxels, *, suffix: str = "jp2", digits: int = 6) -> Path:
    """A folder of organ_000000.jp2 and so on, without loss."""
    folder.mkdir()
    for z, plane in enumerate(voxels):
        (folder / f"organ_{z:0{digits}}.{suffix}").write_bytes(jpeg2000(plane, suffix))
    return folder


def jpeg2000(plane: Voxels, suffix: str = "jp2") -> bytes:
    """A plane without loss."""
    return bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), level=0, reversible=True, codecformat=suffix))


def picture_slices(folder: Path, voxels: Voxels, suffix: str) -> Path:
    """A folder of s0000.png and so on, by Pillow."""
    folder.mkdir()
    for z, plane in enumerate(voxels):
        Image.fromarray(plane).save(folder / f"s{z:04}.{suffix}")
    return folder


def _npy(path: Path, voxels: Voxels) -> Path:
    np.save(path, voxels)
    return path


def _tiff(path: Path, voxels: Voxels, **options: Any) -> Path:
    tifffile.imwrite(path, voxels, photometric=None if options.get("imagej") else "minisblack", **options)
    return path


def _nifti(path: Path, voxels: Voxels, kind: Any = nifti) -> Path:
    image = kind(voxels.T, SPACING)
    image.header.set_xyzt_units("micron")
    nib.save(image, path)
    return path


def _hdf5(path: Path, voxels: Voxels, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("exchange/data", data=voxels, **options)
    return path


def _itk(path: Path, voxels: Voxels, *, compress: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), path, useCompression=compress)
    return path


def _nrrd(path: Path, voxels: Voxels, *, encoding: str = "raw", endian: str = "little") -> Path:
    nrrd.write(str(path), voxels, {"encoding": encoding, "endian": endian}, index_order="C")
    return path


def _raw(folder: Path, voxels: Voxels) -> Path:
    path = folder / f"v_{'x'.join(map(str, voxels.shape[::-1]))}_{voxels.dtype.name}.raw"
    voxels.tofile(path)
    return path


def _npz(path: Path, voxels: Voxels) -> Path:
    np.savez_compressed(path, voxels)
    return path


def _mrc(path: Path, voxels: Voxels) -> Path:
    with mrcfile.new(path, voxels):
        return path


FORMATS: dict[str, Callable[[Path, Voxels], Path]] = {
    "npy": lambda folder, voxels: _npy(folder / "v.npy", voxels),
    "fortran npy": lambda folder, voxels: _npy(folder / "v.npy", np.asfortranarray(voxels)),
    "big-endian npy": lambda folder, voxels: _npy(folder / "v.npy", voxels.astype(voxels.dtype.newbyteorder(">"))),
    "nii": lambda folder, voxels: _nifti(folder / "v.nii", voxels),
    "nii.gz": lambda folder, voxels: _nifti(folder / "v.nii.gz", voxels),
    "nifti 2": lambda folder, voxels: _nifti(folder / "v.nii.gz", voxels, nifti2),
    "plain tiff": lambda folder, voxels: _tiff(folder / "v.tif", voxels),
    "big-endian tiff": lambda folder, voxels: _tiff(folder / "v.tiff", voxels, byteorder=">"),
    "ImageJ tiff": lambda folder, voxels: _tiff(folder / "v.tif", voxels, imagej=True, metadata={"axes": "ZYX"}),
    "striped tiff": lambda folder, voxels: _tiff(folder / "v.TIF", voxels, compression="zlib", rowsperstrip=4),
    "tiled tiff": lambda folder, voxels: _tiff(
        folder / "v.tif", voxels, compression="zlib", predictor=True, tile=(16, 16)
    ),
    "tiff slices": lambda folder, voxels: tiff_slices(folder / "s", voxels),
    "striped tiff slices": lambda folder, voxels: tiff_slices(folder / "s", voxels, compression="zlib", rowsperstrip=4),
    "tiled tiff slices": lambda folder, voxels: tiff_slices(folder / "s", voxels, compression="lzw", tile=(16, 16)),
    "jp2 slices": lambda folder, voxels: jpeg2000_slices(folder / "s", voxels),
    "j2k slices": lambda folder, voxels: jpeg2000_slices(folder / "s", voxels, suffix="j2k"),
    "png slices": lambda folder, voxels: picture_slices(folder / "s", voxels, "png"),
    "HDF5": lambda folder, voxels: _hdf5(folder / "v.h5", voxels),
    "chunked HDF5": lambda folder, voxels: _hdf5(
        folder / "v.nxs", voxels, chunks=(4, 16, 16), compression="gzip", shuffle=True, fletcher32=True
    ),
    "nrrd": lambda folder, voxels: _nrrd(folder / "v.nrrd", voxels),
    "big-endian gzip nrrd": lambda folder, voxels: _nrrd(
        folder / "v.nrrd", voxels.astype(voxels.dtype.newbyteorder(">")), encoding="gzip", endian="big"
    ),
    "mha": lambda folder, voxels: _itk(folder / "v.mha", voxels),
    "zlib mha": lambda folder, voxels: _itk(folder / "v.mha", voxels, compress=True),
    "raw": _raw,
    "compressed npz": lambda folder, voxels: _npz(folder / "v.npz", voxels),
    "mrc": lambda folder, voxels: _mrc(folder / "v.mrc", voxels),
}
"""Name -> writes voxels (z, y, x) into a folder and says where they lie."""
