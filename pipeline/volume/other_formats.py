"""Files that are not read, by the ends of their names, and the tool that makes of each what is."""

from __future__ import annotations

from collections.abc import Iterable

BIOFORMATS = "bioformats2raw makes OME-Zarr of it"
WAYS: dict[tuple[str, ...], str] = {
    (".dcm", ".ima", ".dicom"): "dcm2niix makes NIfTI of a series of DICOM, SimpleITK .mha",
    (".am", ".surf"): "Avizo or Amira exports raw data or TIFF",
    (".ims",): f"{BIOFORMATS}, Imaris exports TIFF",
    (".czi", ".lif", ".nd2", ".lsm", ".oib", ".oif", ".vsi", ".svs", ".dv"): BIOFORMATS,
    (
        ".jpg",
        ".jpeg",
    ): "JPEG changes grey values and labels, so ask for the data before it; ImageMagick makes TIFF of it",
    (".gif", ".webp", ".tga", ".ppm", ".pgm"): "ImageMagick makes TIFF of it",
    (".mnc",): "mnc2nii makes NIfTI of it",
    (".mat",): "scipy.io reads it (h5py from version 7.3 on), and numpy.save makes .npy of the array",
    (".nc", ".cdf"): "xarray reads it, and numpy.save makes .npy of the array",
    (
        ".vgi",
        ".vgl",
        ".xtekvolume",
    ): "it describes a file of raw voxels beside it; write NAME.raw.json or NAME.vol.json",
    (".isq", ".aim"): "itk-ioscanco (ITK) makes .mha of it",
    (".txm", ".txrm"): "dxchange reads it, and numpy.save makes .npy of the array",
    (".wkw", "datasource-properties.json"): "webknossos export-as-tiff makes slices of it",
    (".vdb",): "OpenVDB's Python module makes an array of it, and numpy.save .npy",
    (".pvd", ".pvti", ".vtu", ".vtp", ".stl", ".ply", ".obj"): "ParaView resamples it to an image, .vti",
    (".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".zip"): "unpack it first",
}


def way_out(names: Iterable[str]) -> str | None:
    """What to do with files of which the first has a known end; None where none has."""
    for name in names:
        for ends, way in WAYS.items():
            if name.lower().endswith(ends):
                return way
    return None
