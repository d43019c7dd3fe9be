"""What the result of an entry depends on, as a key, and why an entry with another key is to be made again.

A key is ready for JSON and lies beside every version:

    dataset, workflow      the name of the entry
    algorithm version      workflows.config.ALGORITHM_VERSION
    voxel size             µm (z, y, x), as the metadata or the manifest give it
    parameters             of the run, those that its result depends on
    sources                role -> location, level, array metadata and content (fingerprint) of every volume it reads

Descriptive metadata are not in it, nor what changes how a run goes and not what it finds: device, blocks, profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.comparison import ComparisonJob
from pipeline.job import ThicknessJob
from pipeline.volume.fingerprint import fingerprint
from pipeline.volume.opening import Volume
from workflows.atlas.manifest import Entry
from workflows.config import ALGORITHM_VERSION, ComparisonConfig, ThicknessConfig
from workflows.plan_comparison import open_comparison
from workflows.plan_thickness import open_job
from workflows.run_file import KINDS, LOCATIONS

Key = dict[str, Any]
Job = ThicknessJob | ComparisonJob

NO_MATTER = frozenset({
    *LOCATIONS, "workflow", "device", "block_shape", "keep_scratch", "level", "channel", "time", "voxel_size_um",
})  # fmt: skip
"""Keys of a configuration that are no parameters of a key: they change no number, or the key has them elsewhere."""
PLACES = ("location", "level", "array path")
"""What of a source says where it is; the rest says what is there."""


def open_entry(entry: Entry, folder: Path) -> Job:
    """The job of an entry in one block, its volumes opened. Raises InputError or StorageError where that fails."""
    if isinstance(entry.config, ThicknessConfig):
        return open_job(entry.config, folder)
    return open_comparison(entry.config, folder)


def volumes_of(entry: Entry, job: Job) -> dict[str, Volume]:
    """What an entry reads, by the manifest's word for it."""
    words = {"reference": "mask"} if entry.workflow == "statistics" else {}
    return {words.get(role, role): volume for role, volume in job.volumes.items()}


def key_of(entry: Entry, job: Job) -> Key:
    """The key of an entry as its sources are now. Raises StorageError where they cannot be listed."""
    return {
        "dataset": entry.dataset,
        "workflow": entry.workflow,
        "algorithm version": ALGORITHM_VERSION,
        "voxel size": list(job.voxel_size.um),
        "parameters": parameters_of(entry.config),
        "sources": {role: _source(volume) for role, volume in volumes_of(entry, job).items()},
    }


def parameters_of(config: ThicknessConfig | ComparisonConfig) -> dict[str, Any]:
    """The parameters of a run that its numbers depend on."""
    no_matter = set(NO_MATTER)
    if isinstance(config, ComparisonConfig):
        surface, thickness = "surface" in config.parts, "thickness" in config.parts
        if config.prediction is None or not surface:
            no_matter |= {"tolerances_um", "boundary_widths"}
        if config.prediction is None or not thickness:
            no_matter |= {"maps"}
        if config.prediction is not None or config.objects != "components":
            no_matter |= {"class_names"}
        if not surface and not thickness:
            no_matter |= {"border"}
    return config.model_dump(mode="json", exclude=no_matter)


def _source(volume: Volume) -> dict[str, Any]:
    identity = volume.identity()
    return {
        "location": identity.pop("location"),
        "level": volume.level,
        "array path": identity.pop("array_path"),
        "array metadata": identity,
        "content": fingerprint(volume).as_json(),
    }


def reasons(old: Key | None, new: Key) -> tuple[str, ...]:
    """Why an entry with a version of key `old` is to be made again for key `new`; none where it may be kept.

    old : None where there is no version.
    """
    return ("new",) if old is None else tuple(_reasons(old, new))


def _reasons(old: Key, new: Key) -> Iterator[str]:
    then, now = old.get("sources", {}), new["sources"]
    for role in dict.fromkeys((*now, *then)):
        if role not in now or role not in then:
            yield f"{role}: {'no more' if role in then else 'new'}"
            continue
        changed = [name for name in now[role] if now[role][name] != then[role].get(name)]
        # What lies elsewhere, or another level, is another volume: that it differs in the rest, too, explains nothing.
        elsewhere = [name for name in PLACES if name in changed]
        yield from (f"{role}: {name}" for name in elsewhere[:1] or changed)
    yield from (f"parameter {name}" for name in _changed_parameters(old, new))
    yield from (name for name in new if name not in ("sources", "parameters") and new[name] != old.get(name))


def _changed_parameters(old: Key, new: Key) -> Iterator[str]:
    then, now = old.get("parameters", {}), new["parameters"]
    fields = KINDS[new["workflow"]].model_fields
    for name in dict.fromkeys((*now, *then)):
        # A parameter that voxcaliper had not when a version was made counted as its default.
        default = fields[name].default if name in fields else None
        if _plain(now.get(name, default)) != _plain(then.get(name, default)):
            yield name


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
