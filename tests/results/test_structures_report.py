"""The page of a description: every structure with its numbers, in the colour that it has in the planes."""

from __future__ import annotations

import base64
import io
import itertools
import re
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from pipeline.report import LabelledSlice, StructuresContent, Timing, render_structures
from pipeline.report.structures import colour_of, label_pixels


def row(voxels: int, **more: Any) -> dict[str, Any]:
    """The statistics of a structure."""
    return {
        "voxels": voxels,
        "volume_um3": 8.0 * voxels,
        "centroid_um": [2.0, 4.0, 6.5] if voxels else None,
        "bounding_box": {"start": [0, 1, 2], "stop": [3, 4, 5]} if voxels else None,
        "touches_border": False,
        "incomplete": False,
        **more,
    }


def content(labels: dict[str, Any], planes: list[LabelledSlice], **more: Any) -> StructuresContent:
    """A page of these structures."""
    statistics = {"voxel_size_um": [2.0, 2.0, 2.0], "shape": [10, 20, 30], "labels": labels}
    values: dict[str, Any] = {"objects": None, "slices_note": None, "provenance": {"Host": "<b>&"}, **more}
    return StructuresContent(
        "Structures of a & b", statistics, slices=planes, timings=[Timing("overlap", 4, 2, 3)], **values
    )


def plane(labels: Any, grey: Any = None) -> LabelledSlice:
    return LabelledSlice("xy", 10.0, np.asarray(labels), (2.0, 2.0), None if grey is None else np.asarray(grey))


def test_every_structure_has_its_row_and_the_colour_that_it_has_in_the_planes() -> None:
    huge = 2**40 + 1
    labels = {"3": row(5, touches_border=True, incomplete=True), str(huge): row(1234567), "12": row(7, incomplete=True)}
    text = render_structures(content(labels, [plane([[0, 3], [huge, 12]])]))
    rows = re.findall(r"background:(#\w+)\"></i></td><th>(\d+)</th>", text)
    assert [name for _, name in rows] == ["3", "12", str(huge)]
    picture = re.search(r"data:image/png;base64,([^\"]+)", text)
    assert picture
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture[1])))
    shown = {name: "#{:02x}{:02x}{:02x}".format(*np.rint(255 * pixels[at][:3]).astype(int)) for name, at in
             (("3", (0, 1)), (str(huge), (1, 0)), ("12", (1, 1)))}  # fmt: skip
    assert shown == {name: colour for colour, name in rows}
    assert "1\u202f234\u202f567" in text
    assert "<td>touches</td>" in text
    assert "<td>near</td>" in text
    assert "2 of the structures come within three voxels" in text
    assert "a &amp; b" in text
    assert "&lt;b&gt;&amp;" in text


def test_grey_values_have_columns_and_lie_under_the_labels() -> None:
    intensity = {"mean": -12.5, "standard_deviation": 3.0, "minimum": -20, "maximum": 1, "median": None}
    grey = [[0.0, 1000.0], [np.nan, 500.0]]
    shown = plane([[0, 0], [0, 9]], grey)
    text = render_structures(content({"9": row(1, intensity=intensity)}, [shown]))
    assert "−12.50" in text
    assert "Standard deviation" in text
    pixels = label_pixels(shown)
    assert pixels[0, 0, 0] == 0
    assert pixels[0, 1, 0] > 200
    assert len(set(pixels[1, 1, :3].tolist())) > 1


def test_neighbouring_labels_differ_in_colour() -> None:
    colours = [colour_of(label) for label in range(1, 120)]
    assert len(set(colours)) == len(colours)
    steps = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(colours)]
    assert min(steps) > 60


@pytest.mark.parametrize("labels", [{}, {"4": row(0)}])
def test_a_page_without_voxels_says_so(labels: dict[str, Any]) -> None:
    text = render_structures(content(labels, [plane([[0, 0]])]))
    assert "The planes that were looked at hold no label." in text
    assert ("No voxel has any of the labels asked for." in text) == (not labels)


def test_components_are_counted_and_large_volumes_say_why_no_plane_is_shown() -> None:
    found = content({"4": row(9)}, [], objects={"4": 3}, slices_note="Planes are shown from coarse levels.")
    text = render_structures(found)
    assert "<strong>3</strong> connected components" in text
    assert "Planes are shown from coarse levels." in text
    assert render_structures(found) == text
