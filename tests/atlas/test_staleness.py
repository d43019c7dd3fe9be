"""Why an entry is made again: keys and what tells two of them apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.atlas.releases import change_voxel, labels, write_volume
from workflows.atlas.manifest import Entry, read_manifest
from workflows.atlas.staleness import Key, key_of, open_entry, reasons
from workflows.config import ALGORITHM_VERSION

MANIFEST = """\
name = "test"
output = "out"
[[dataset]]
name = "one"
mask = "a.ome.zarr"
{}
"""
DETECT = "workflows = ['statistics']\n[dataset.statistics]\nobjects = 'components'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write_volume(tmp_path / f"{name}.ome.zarr", labels(seed, (32, 32, 32)), levels=2)
    return tmp_path


def entry_of(folder: Path, keys: str) -> Entry:
    (folder / "release.toml").write_text(MANIFEST.format(keys))
    return read_manifest(folder / "release.toml")[1][0]


def key(folder: Path, keys: str = "") -> Key:
    """The key of the entry with these lines in its data set, as it is read again."""
    entry = entry_of(folder, keys)
    found: Key = json.loads(json.dumps(key_of(entry, open_entry(entry, folder))))
    return found


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", ()),
        ("", "threshold = [1]", ("parameter threshold",)),
        ("label = 1", "label = 2", ("parameter label",)),
        ("", "map = 'none'\nborder = 'closed'", ("parameter border", "parameter map")),
        ("", "level = 1", ("mask: level", "voxel size")),
        ("", "level = 1\nvoxel_size_um = 2", ("mask: level",)),
        ("", "voxel_size_um = 2", ()),
        ("", "voxel_size_um = 3", ("voxel size",)),
        ("", "regions = 'b.ome.zarr'", ("regions: new",)),
        ("regions = 'b.ome.zarr'", "regions = 'c.ome.zarr'", ("regions: location",)),
        ("regions = 'b.ome.zarr'", "", ("regions: no more",)),
        ("", "device = 'cpu'\nblock_shape = 16\nkeep_scratch = true\nabout = { organ = 'heart' }", ()),
        ("workflows = ['statistics']", "workflows = ['statistics']\nborder = 'closed'\nmap = 'none'", ()),
        ("workflows = ['statistics']", "workflows = ['statistics']\nimage = 'b.ome.zarr'", ("image: new",)),
        (
            "workflows = ['compare']\nreference = 'b.ome.zarr'\nparts = ['overlap']",
            "workflows = ['compare']\nreference = 'b.ome.zarr'\nparts = ['overlap']\ntolerances_um = [3]\nmaps = false",
            (),
        ),
        (
            "workflows = ['compare']\nreference = 'b.ome.zarr'",
            "workflows = ['compare']\nreference = 'c.ome.zarr'\ntolerances_um = [3]",
            ("reference: location", "parameter tolerances_um"),
        ),
        (
            "workflows = ['compare']\nreference = 'b.ome.zarr'\nparts = ['overlap']",
            "workflows = ['compare']\nreference = 'b.ome.zarr'\nparts = ['overlap']\nignore_label = 255",
            ("parameter ignore_label",),
        ),
        ("workflows = ['statistics']", "workflows = ['statistics']\nignore_label = 255", ()),
        (
            f"{DETECT}class_names = {{ 1 = 'bp', 12 = 'ac' }}",
            f"{DETECT}class_names = {{ 12 = 'ac', 1 = 'bp' }}",
            (),
        ),
        (
            DETECT,
            f"{DETECT}class_names = {{ 1 = 'bp' }}",
            ("parameter class_names",),
        ),
    ],
)
def test_what_the_manifest_changes(folder: Path, before: str, after: str, expected: tuple[str, ...]) -> None:
    assert reasons(key(folder, before), key(folder, after)) == expected


def attributes(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(volume: Path) -> None:
        path = volume / ".zattrs"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def rechunk(volume: Path) -> None:
    document = json.loads((volume / "0" / ".zarray").read_text())
    (volume / "0" / ".zarray").write_text(json.dumps({**document, "fill_value": 1}))


def reverse_axes(content: dict[str, Any]) -> None:
    content["multiscales"][0]["axes"].reverse()


def remove_chunk(volume: Path) -> None:
    (volume / "0" / "1" / "1" / "1").unlink()


def another_level(volume: Path) -> None:
    (volume / "1" / "0" / "0" / "0").write_bytes(b"anything")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_voxel, ("mask: content",)),
        (remove_chunk, ("mask: content",)),
        (another_level, ()),
        (attributes(lambda content: content.update(omero={})), ()),
        (attributes(lambda content: content["multiscales"][0].update(name="other")), ()),
        (
            attributes(
                lambda content: content["multiscales"][0]["datasets"][0].update(
                    coordinateTransformations=[{"type": "scale", "scale": [3, 3, 3]}]
                )
            ),
            ("voxel size",),
        ),
        (rechunk, ("mask: array metadata",)),
        (attributes(reverse_axes), ("mask: array metadata",)),
    ],
    ids=["voxel", "chunk", "level", "omero", "name", "scale", "metadata", "axes"],
)
def test_what_a_source_changes(folder: Path, change: Callable[[Path], None], expected: tuple[str, ...]) -> None:
    before = key(folder)
    change(folder / "a.ome.zarr")
    assert reasons(before, key(folder)) == expected


def test_a_newer_algorithm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(folder)
    monkeypatch.setattr("workflows.atlas.staleness.ALGORITHM_VERSION", ALGORITHM_VERSION + 1)
    assert reasons(before, key(folder)) == ("algorithm version",)


def test_a_parameter_that_is_new_counts_as_its_default(folder: Path) -> None:
    before = key(folder)
    del before["parameters"]["border"]
    assert reasons(before, key(folder)) == ()
    assert reasons(before, key(folder, "border = 'closed'")) == ("parameter border",)
    compared = "workflows = ['compare']\nreference = 'b.ome.zarr'\n"
    before = key(folder, compared)
    del before["parameters"]["ignore_label"]
    assert "class_names" not in before["parameters"]
    assert reasons(before, key(folder, compared)) == ()
    before_names = key(folder, DETECT)
    del before_names["parameters"]["class_names"]
    assert reasons(before_names, key(folder, DETECT)) == ()
    assert reasons(before, key(folder, f"{compared}ignore_label = 2")) == ("parameter ignore_label",)


SOURCE = {
    "location": "a", "level": 0, "array path": "0", "array metadata": {"shape": [3, 4, 5]},
    "content": {"method": "times", "digest": "0"},
}  # fmt: skip
PARAMETERS = {"label": None, "threshold": None, "border": "unknown", "map": "thickness"}
CHANGES: dict[str, Callable[[Key], None]] = {
    "mask: content": lambda it: it["sources"]["mask"]["content"].update(digest="1"),
    "mask: array metadata": lambda it: it["sources"]["mask"]["array metadata"].update(shape=[3, 4, 6]),
    "regions: content": lambda it: it["sources"]["regions"]["content"].update(digest="1"),
    "parameter border": lambda it: it["parameters"].update(border="closed"),
    "parameter label": lambda it: it["parameters"].update(label=3),
    "voxel size": lambda it: it.update({"voxel size": [1.0, 1.0, 2.0]}),
    "algorithm version": lambda it: it.update({"algorithm version": 2}),
}


@given(st.sets(st.sampled_from(sorted(CHANGES))))
def test_every_change_is_told_and_nothing_else(changes: set[str]) -> None:
    old: Key = {
        "dataset": "one", "workflow": "thickness", "algorithm version": 1, "voxel size": [1.0, 1.0, 1.0],
        "parameters": PARAMETERS, "sources": {"mask": SOURCE, "regions": SOURCE},
    }  # fmt: skip
    new: Key = json.loads(json.dumps(old))
    for change in changes:
        CHANGES[change](new)
    found = reasons(old, new)
    assert sorted(found) == sorted(changes)
    assert reasons(None, new) == ("new",)
    assert sorted(reasons(new, old)) == sorted(changes)
