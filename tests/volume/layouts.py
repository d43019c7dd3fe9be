"""Stores as the Human Organ Atlas and others lay them out, with its documents or with ones made here like them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

HOA_ZARR = "hoa_layout/A186/lung-right/24.132um_complete-organ_bm18.ome.zarr"
HOA_N5 = "hoa_layout/LADAF-2020-27/spleen/25.08um_complete-organ_bm05"
LEVEL = 2
"""The level that the recorded documents have, and so the one that is filled."""
UM = 25.08 * 4
"""Of a voxel of that level in the documents that are written here."""


def phantom(shape: tuple[int, int, int] = (130, 32, 134)) -> npt.NDArray[np.uint16]:
    """Grey tissue of about 1000 in a background of about 100, noisy, and nothing in the last corner."""
    random = np.random.default_rng(5)
    tissue = ndimage.gaussian_filter(random.standard_normal(shape), 3) > 0.01
    grey = np.where(tissue, 1000, 100) + random.integers(0, 50, shape)
    grey[96:, :, 96:] = 0
    return grey.astype(np.uint16)


def hoa_multiscales(um: float, levels: int) -> list[dict[str, Any]]:
    """As in the atlas: x, y, z, and a translation, always of half a voxel, before the scale."""
    datasets = [
        {
            "coordinateTransformations": [
                {"translation": [0.5] * 3, "type": "translation"},
                {"scale": [um * 2**level] * 3, "type": "scale"},
            ],
            "path": str(level),
        }
        for level in range(levels)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "xyz"]
    return [{"axes": axes, "datasets": datasets, "metadata": {}, "name": "", "version": "0.4"}]


def write_hoa_zarr(store: Path, voxels: npt.NDArray[Any], recorded: Path | None = None) -> None:
    """OME-Zarr 0.4 of the atlas; chunks of zeros are not stored. Other chunks than its 128³ where it is made here."""
    if recorded:
        group, document = (
            (recorded / ".zattrs").read_text(),
            json.loads((recorded / str(LEVEL) / ".zarray").read_text()),
        )
    else:
        group = json.dumps({"multiscales": hoa_multiscales(UM / 4, 5)})
        compressor = {"blocksize": 0, "clevel": 8, "cname": "zstd", "id": "blosc", "shuffle": 1}
        document = {
            "chunks": [32, 32, 32], "compressor": compressor, "dimension_separator": "/", "dtype": "<u2",
            "fill_value": 0, "filters": None, "order": "C", "zarr_format": 2,
        }  # fmt: skip
    document["shape"] = list(voxels.shape[::-1])
    (store / str(LEVEL)).mkdir(parents=True)
    (store / ".zattrs").write_text(group)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / str(LEVEL) / ".zarray").write_text(json.dumps(document))
    zarr.open_array(store, path=str(LEVEL), mode="r+")[...] = voxels.T


def write_hoa_n5(store: Path, voxels: npt.NDArray[Any], recorded: Path | None = None) -> None:
    """N5 of the atlas; chunks of zeros are not stored."""
    if recorded:
        group, array = (json.loads((recorded / path / "attributes.json").read_text()) for path in (".", f"s{LEVEL}"))
    else:
        factors = [[2**level] * 3 for level in range(5)]
        group = {
            "axes": ["x", "y", "z"], "downsamplingFactors": factors, "multiScale": True,
            "resolution": [UM / 4] * 3, "units": ["um"] * 3,
        }  # fmt: skip
        array = {"axes": ["x", "y", "z"], "blockSize": [32, 32, 32], "dataType": "uint16"}
        array["compression"] = {"blocksize": 0, "clevel": 9, "cname": "zstd", "shuffle": 2, "type": "blosc"}
    array["dimensions"] = list(voxels.shape[::-1])
    store.mkdir(parents=True)
    (store / "attributes.json").write_text(json.dumps(group))
    write_n5_array(store / f"s{LEVEL}", voxels, array)


def write_n5_array(folder: Path, voxels: npt.NDArray[Any], document: dict[str, Any]) -> None:
    """An array of N5 by tensorstore; its attributes.json is the document as it is given."""
    needed = {key: document[key] for key in ("dimensions", "blockSize", "dataType", "compression")}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(folder)}, "metadata": needed, "create": True}
    tensorstore.open(spec).result().write(voxels.T).result()
    (folder / "attributes.json").write_text(json.dumps(document))


def write_stack_to_chunk(
    store: Path, voxels: npt.NDArray[Any], *, chunk: int = 16, slices: int = 64, um: float = UM / 4
) -> None:
    """OME-Zarr 0.5 in shards of whole planes times some slices, with multiscales at the root beside those of `ome`."""
    group = zarr.create_group(store, zarr_format=3)
    multiscales: Any = hoa_multiscales(um, 5)
    multiscales[0].pop("version")
    group.attrs.update({"ome": {"version": "0.5", "multiscales": multiscales}, "multiscales": multiscales})
    planes = [-(-n // chunk) * chunk for n in voxels.shape[:0:-1]]
    array = group.create_array(
        str(LEVEL),
        shape=voxels.shape[::-1],
        dtype=voxels.dtype,
        chunks=(chunk, chunk, chunk),
        shards=(*planes, slices),
        compressors=BloscCodec(cname="zstd", clevel=3),
    )
    array[...] = voxels.T
