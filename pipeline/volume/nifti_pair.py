"""NIfTI in two files: .hdr with the header, .img with the voxels, either of them in gzip or not."""

from __future__ import annotations

import zlib

from pipeline.volume.file_header import FileHeader
from pipeline.volume.flat import NotAVolumeError
from pipeline.volume.inflated import ANY_HEADER, Deflated
from pipeline.volume.nifti import NIFTI_BYTES, read_nifti_header
from pipeline.volume.ranged import HEADER_BYTES, RangedFile
from pipeline.volume.stores import open_store

ANALYZE = 348
"""The first number of a header, of Analyze 7.5 as of NIfTI-1."""


def read_nifti_pair(file: RangedFile) -> FileHeader:
    """What the header says. Raises ValueError for what is none, NotAVolumeError where it cannot be read."""
    location = file.store.location
    packed = ".gz" if location.lower().endswith(".gz") else ""
    stem = location[: len(location) - len(packed) - 4]
    if location.lower().endswith((".img", ".img.gz")):
        raise NotAVolumeError(f"holds the voxels of a NIfTI pair; give its header, {stem}.hdr{packed}")
    head = file.read_at(0, HEADER_BYTES)
    if head.startswith(b"\x1f\x8b"):
        head = zlib.decompressobj(ANY_HEADER).decompress(head, NIFTI_BYTES)
    try:
        found = read_nifti_header(head[:NIFTI_BYTES])
    except ValueError as error:
        if ANALYZE in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4])):
            raise NotAVolumeError("is Analyze 7.5, which does not say how it lies; convert it (nibabel)") from error
        raise
    names = [f"{stem}{kind}{end}" for end in (packed, "" if packed else ".gz") for kind in (".img", ".IMG")]
    voxels = next((name for name in names if open_store(name).stat("") is not None), None)
    if voxels is None:
        raise NotAVolumeError(f"has its voxels in {names[0]}, which is missing; put it there")
    deflated = Deflated() if RangedFile(open_store(voxels)).read_at(0, 2) == b"\x1f\x8b" else None
    return FileHeader(
        "NIfTI", found.flat, found.voxel_size, found.placement, found.warnings, data=voxels, deflated=deflated
    )
