"""Where the volumes of a release lie: part of a key, and held against each other as in any run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from tests.atlas.test_staleness import entry_of, folder, key
from workflows.atlas.staleness import open_entry, reasons

__all__ = ["folder"]
REGIONS = "regions = 'b.ome.zarr'"


def move(volume: Path, translation: list[float]) -> None:
    """Say that the first voxel of level 0 lies there, µm (z, y, x)."""
    document = json.loads((volume / ".zattrs").read_text())
    transforms = document["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    transforms[1:] = [{"type": "translation", "translation": translation}]
    (volume / ".zattrs").write_text(json.dumps(document))


def test_a_volume_that_moved_is_measured_again(folder: Path) -> None:
    before = key(folder)
    move(folder / "a.ome.zarr", [0.0, 0.0, 0.0])
    assert reasons(before, key(folder)) == ()
    move(folder / "a.ome.zarr", [0.0, 0.0, 4.0])
    assert reasons(before, key(folder)) == ("mask: array metadata",)


@pytest.mark.parametrize(
    ("translation", "words"),
    [
        ([0.0, 0.0, 3.0], "which are no whole voxels"),
        ([4.0, 0.0, 0.0], "lies on voxel (2, 0, 0) (z, y, x) of the mask"),
    ],
)
def test_volumes_of_an_entry_must_lie_on_each_other(folder: Path, translation: list[float], words: str) -> None:
    move(folder / "b.ome.zarr", translation)
    with pytest.raises(InputError) as error:
        open_entry(entry_of(folder, REGIONS), folder)
    assert words in str(error.value)


def test_a_manifest_says_how_volumes_are_laid(folder: Path) -> None:
    move(folder / "b.ome.zarr", [4.0, 0.0, 0.0])
    common = open_entry(entry_of(folder, f"{REGIONS}\nbox = 'common'"), folder)
    assert common.grid.shape == (30, 32, 32)
    ignored = open_entry(entry_of(folder, f"{REGIONS}\nignore_place = true"), folder)
    assert ignored.grid.shape == (32, 32, 32)
    assert any("voxel by voxel" in text for text in ignored.volumes["regions"].warnings)
    assert "parameter box" in reasons(
        key(folder, f"{REGIONS}\nbox = 'common'"), key(folder, f"{REGIONS}\nbox = 'reference'")
    )
