"""RUN.toml: a run in a file, with the keys of run.json and the folder of the run. Its paths are relative to itself.

workflow = "thickness"        # or "compare", "statistics"
run = "bone-run"
mask = "bone.ome.zarr"
threshold = [63]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.profile import read_toml
from pipeline.errors import InputError
from pipeline.job import PARTS
from pipeline.volume.opening import absolute_location
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.options import block_shape_of, voxel_size_of

LOCATIONS = ("mask", "regions", "reference", "prediction", "image")
KINDS: dict[str, type[ThicknessConfig | ComparisonConfig]] = {
    "thickness": ThicknessConfig,
    "compare": ComparisonConfig,
    "statistics": ComparisonConfig,
}
STATISTICS = {"prediction": None, "boundary_widths": [1], "parts": ["overlap"], "maps": False, "device": "cpu"}
"""What `voxcaliper statistics` takes for granted."""


def read_run_file(path: Path) -> tuple[ThicknessConfig | ComparisonConfig, Path]:
    """The configuration and the folder of a run in a TOML file, as the command line would have made them.

    Raises InputError, one sentence with file and key, where it is not one.
    """
    content = read_toml(path, "run file")
    workflow = content.get("workflow")
    if workflow not in KINDS:
        found = f"{workflow!r} was given" if workflow is not None else "it does not"
        raise InputError(f"The run file {path} must say workflow = {' or '.join(map(repr, KINDS))}, but {found}.")
    run = content.pop("run", None)
    if not isinstance(run, str) or not run:
        raise InputError(f'The run file {path} must name the folder of the run, for example run = "bone-run".')
    folder = path.absolute().parent
    config = config_of(content, folder, where=f"The run file {path}", others=("run",))
    return config, Path(os.path.abspath(folder / Path(run).expanduser()))


def config_of(
    content: Mapping[str, Any], folder: Path, *, where: str, others: Iterable[str] = ()
) -> ThicknessConfig | ComparisonConfig:  # fmt: skip
    """The configuration out of the keys of a TOML file in a folder, `workflow` among them.

    where : what has these keys, for messages. others : keys that it may have beside them.
    Raises InputError, one sentence with `where` and the key.
    """
    content = dict(content)
    for key in LOCATIONS:
        if isinstance(content.get(key), str) and "://" not in content[key]:
            content[key] = absolute_location(str(folder / Path(content[key]).expanduser()))
    for key, read in (("voxel_size_um", voxel_size_of), ("block_shape", block_shape_of)):
        if key in content:
            try:
                content[key] = read(_as_typed(content[key]))
            except InputError as error:
                raise InputError(f"{where} cannot be used: {key}: {error}") from error
    workflow = content["workflow"]
    if workflow == "statistics":
        content = {**STATISTICS, **content}
    if workflow == "compare" and isinstance(content.get("parts"), list):
        content["parts"] = [part for part in PARTS if part in content["parts"] or part == "overlap"]
    model = KINDS[workflow]
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where} cannot be used: {first_error(error, (*others, *model.model_fields))}.") from error


def first_error(error: ValidationError, keys: Iterable[str]) -> str:
    """The first thing that is wrong with a table, as a person says it. keys : those that it may have."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("tuple["))
    if first["type"] == "extra_forbidden":
        return f"{key} is no key of it; there are {', '.join(keys)}"
    text = first["msg"].removeprefix("Value error, ")
    return f"{key}: {text[0].lower()}{text[1:]}"


def _as_typed(value: Any) -> str:
    """Numbers as they would stand on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
