"""RELEASE.toml: the data sets of an atlas, and what is to be measured of each. Its paths are relative to itself.

A data set has the keys of run files, so an entry (one workflow of one data set) becomes the configuration of a run.
What counts for an entry, first to last: [dataset.WORKFLOW], [[dataset]], [defaults.WORKFLOW], [defaults].
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.profile import Memory, Profile, read_toml
from pipeline.errors import InputError
from workflows.atlas.first_manifest import about_of
from workflows.atlas.inventory import read_inventory
from workflows.atlas.records import Workflow
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.options import profile_of
from workflows.run_file import KINDS, STATISTICS, config_of, first_error

EXAMPLE = Path(__file__).with_name("example.toml")
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
RUN_KEYS = frozenset(key for model in KINDS.values() for key in model.model_fields) - {"workflow"}
NOT_OF_STATISTICS = frozenset({*STATISTICS, "reference", "regions", "border", "tolerances_um", "ignore_label"})
"""Keys that statistics have only from their own tables: they are meant for comparisons and thickness."""
Table = dict[str, Any]


def _name(text: str) -> str:
    if SAFE_NAME.fullmatch(text):
        return text
    raise ValueError(f"{text!r} is no safe name of a folder; use letters, digits and ._+-, at most 100 of them")


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if words and not words[0]:
        raise ValueError("its first word is the command, and it is empty")
    return words


def _finite(about: dict[str, str | float | None]) -> dict[str, str | float | None]:
    for name, value in about.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, which is no number; leave it out")
    return about


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _once(workflows: tuple[Workflow, ...]) -> tuple[Workflow, ...]:
    if len(set(workflows)) == len(workflows) > 0:
        return workflows
    raise ValueError("name at least one, and each once")


class Parameters(_Section):
    """What counts for several entries. common : for every workflow that knows the key; the others for one alone."""

    common: Table = {}
    thickness: Table = {}
    statistics: Table = {}
    compare: Table = {}
    workflows: Annotated[tuple[Workflow, ...], AfterValidator(_once)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, content: Any) -> Any:
        """The keys of run files, which stand in a table beside its own, gathered."""
        if not isinstance(content, Mapping):
            return content
        if "common" in content:
            raise ValueError("common is no key of it; its keys stand in the table itself")
        own = {key: value for key, value in content.items() if key not in RUN_KEYS}
        return {**own, "common": {key: value for key, value in content.items() if key in RUN_KEYS}}

    def of(self, workflow: Workflow) -> Table:
        """The keys that count for one workflow."""
        known = frozenset(KINDS[workflow].model_fields) | {"mask"}
        if workflow == "statistics":
            known -= NOT_OF_STATISTICS
        return {**{key: value for key, value in self.common.items() if key in known}, **getattr(self, workflow)}


class Dataset(Parameters):
    """One data set. about : what describes it (donor, organ, …) and changes no result."""

    name: Annotated[str, AfterValidator(_name)]
    about: Annotated[dict[str, str | float | None], AfterValidator(_finite)] = {}


@dataclass(frozen=True)
class Entry:
    """One workflow of one data set: one run."""

    dataset: str
    workflow: Workflow
    config: ThicknessConfig | ComparisonConfig
    about: dict[str, str | float | None]

    @property
    def name(self) -> str:
        """As people read it, and the place of its results in the folder `entries`."""
        return f"{self.dataset}/{self.workflow}"


class Manifest(_Section):
    """A release as it is wanted. Paths are absolute.

    output : the root of the results. profile : where workers run, None for this machine. keep : versions that are kept
    of each entry. disk_budget : most bytes that the root may take. on_failure : a command that an unattended run calls
    when it fails. metadata : of the atlas (a folder or an archive), where what describes a data set is looked up by its
    name; what the manifest says of it goes before.
    """

    path: Path
    name: Annotated[str, Field(min_length=1)]
    output: Path
    profile: Path | None = None
    keep: Annotated[int, Field(ge=1, strict=True)] = 3
    disk_budget: Memory | None = None
    on_failure: Annotated[tuple[str, ...], AfterValidator(_command)] = ()
    metadata: Path | None = None
    defaults: Parameters = Parameters()
    datasets: Annotated[tuple[Dataset, ...], Field(alias="dataset", min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _placed(cls, content: Any) -> Any:
        folder = content["path"].parent
        paths = {key: content[key] for key in ("output", "profile", "metadata") if isinstance(content.get(key), str)}
        return {**content, **{key: folder / Path(value).expanduser() for key, value in paths.items()}}

    def entries(self) -> tuple[Entry, ...]:
        """Every workflow of every data set, in their order. Raises InputError with file, data set and key."""
        return tuple(self._entries())

    def _entries(self) -> Iterator[Entry]:
        published = self._published()
        for dataset in self.datasets:
            for workflow in dataset.workflows or self.defaults.workflows or ("thickness",):
                where = f"The workflow {workflow} of the data set {dataset.name} of the manifest {self.path}"
                content = {**self.defaults.of(workflow), **dataset.of(workflow)}
                grey = {**self.defaults.common, **dataset.common}.get("threshold")
                content = _as_run(content, workflow, where, grey_mask=grey is not None)
                config = config_of({**content, "workflow": workflow}, self.path.parent, where=where)
                yield Entry(dataset.name, workflow, config, {**published.get(dataset.name, {}), **dataset.about})

    def _published(self) -> dict[str, dict[str, str | int]]:
        """Data set -> what the metadata of the atlas say of it."""
        if self.metadata is None:
            return {}
        try:
            return {dataset.name: about_of(dataset) for dataset in read_inventory(self.metadata)}
        except InputError as error:
            raise InputError(f"The manifest {self.path} cannot be used: metadata: {error}") from error


def _as_run(content: Table, workflow: Workflow, where: str, *, grey_mask: bool) -> Table:
    """The keys as a run file has them: the mask of a data set is what a comparison and statistics look at."""
    if workflow == "thickness":
        if "mask" not in content:
            raise InputError(f"{where} cannot be used: mask: field required.")
        return content
    role = "prediction" if workflow == "compare" else "reference"
    mask = content.pop("mask", None)
    if mask is not None and role not in content:
        if grey_mask:
            raise InputError(
                f"{where} cannot be used: threshold: it makes a mask of grey values, and {workflow} takes labels; give"
                f" them as {role}, in a table [dataset.{workflow}], or leave the workflow out."
            )
        content[role] = mask
    for key in ("reference", "prediction") if workflow == "compare" else ("reference",):
        if content.get(key) is None:
            raise InputError(f"{where} cannot be used: {key}{' (or mask)' if key == role else ''}: field required.")
    return content


def read_manifest(path: Path) -> tuple[Manifest, tuple[Entry, ...]]:
    """A manifest and its entries. Raises InputError, one sentence with file, data set and key, where it is not one."""
    path = Path(os.path.abspath(path))
    content = read_toml(path, "manifest")
    if "path" in content:
        raise InputError(
            f"The manifest {path} cannot be used: path is no key of it; there are {', '.join(_keys(Manifest))}."
        )
    try:
        manifest = Manifest.model_validate({**content, "path": path})
    except ValidationError as error:
        raise InputError(_sentence(path, content, error)) from error
    seen = Counter(dataset.name.casefold() for dataset in manifest.datasets)
    for dataset in manifest.datasets:
        if seen[dataset.name.casefold()] > 1:
            raise InputError(
                f"The manifest {path} has {seen[dataset.name.casefold()]} data sets named {dataset.name}; a name is a"
                " folder, so each needs its own (large and small letters do not tell them apart)."
            )
    return manifest, manifest.entries()


def profile_for(
    manifest: Manifest, profile: Path | None = None, workers: int | None = None, scheduler: str | None = None, *,
    unencrypted: bool = False,
) -> Profile:  # fmt: skip
    """Where the workers of a release run: as options say, or else its manifest."""
    if profile is None and workers is None and scheduler is None:
        profile = manifest.profile
    return profile_of(profile, workers, scheduler, unencrypted=unencrypted)


def _sentence(path: Path, content: Table, error: ValidationError) -> str:
    """What is wrong with a manifest, with the name of the data set where it lies in one."""
    where = error.errors()[0]["loc"]
    if where[:1] == ("dataset",) and len(where) > 1:
        number = int(where[1])
        told = first_error(error, _keys(Dataset)).removeprefix(f"dataset.{number}").lstrip(".: ")
        name = content["dataset"][number].get("name", f"number {number + 1}")
        return f"The data set {name} of the manifest {path} cannot be used: {told}."
    keys = _keys(Parameters if where[:1] == ("defaults",) else Manifest)
    return f"The manifest {path} cannot be used: {first_error(error, keys)}."


def _keys(section: type[BaseModel]) -> list[str]:
    """The keys that a table may have."""
    own = [field.alias or name for name, field in section.model_fields.items() if name not in ("common", "path")]
    return own if section is Manifest else [*own, *sorted(RUN_KEYS)]
