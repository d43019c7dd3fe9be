"""The manifest of a release to begin with, out of an inventory: every data set, and what a person has to fill in."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workflows.atlas.inventory import DataSet, Listed

HEAD = """\
# A release of an atlas, begun by `voxcaliper inventory`. Paths are relative to this file.

name = "atlas"
output = "atlas-release"            # the root of all results

[defaults]
workflows = ["thickness"]
"""
NO_MASK = """\
# mask = "masks/{name}.ome.zarr"    # fill in: an atlas publishes grey values, masks are yours
"""


def first_manifest(listed: Sequence[Listed], threshold: Sequence[float] | None) -> str:
    """The text of a manifest. threshold : LOW or LOW, HIGH of the grey values of all; None leaves the masks open."""
    lines = [HEAD]
    if threshold is not None:
        lines.append(f"threshold = {json.dumps(list(threshold))}            # foreground is LOW < value (≤ HIGH)\n")
    return "".join([*lines, *(_dataset(one, masked=threshold is None) for one in listed)])


def _dataset(one: Listed, *, masked: bool) -> str:
    dataset = one.dataset
    url = _quoted(dataset.data.gcs_url)
    source = NO_MASK.format(name=dataset.name) + f"image = {url}\n" if masked else f"mask = {url}\n"
    about = ", ".join(f"{name} = {_quoted(value)}" for name, value in about_of(dataset).items())
    return f"\n[[dataset]]\nname = {_quoted(dataset.name)}\n{source}level = {one.level}\nabout = {{ {about} }}\n"


def about_of(dataset: DataSet) -> dict[str, str | int]:
    """What describes a data set and changes no result."""
    known = {
        "donor": dataset.donor.id,
        "organ": dataset.sample.organ,
        "organ_context": dataset.sample.organ_context,
        "type": dataset.dataset_type,
        "voi": dataset.voi,
        "age": dataset.donor.age,
        "sex": dataset.donor.sex,
        "doi": dataset.citation.doi,
    }
    return {name: value for name, value in known.items() if value is not None}


def _quoted(value: str | int) -> str:
    """A value of TOML; its basic strings are escaped as JSON's."""
    return json.dumps(value, ensure_ascii=False)
