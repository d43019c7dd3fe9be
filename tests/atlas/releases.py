"""Small atlases on disk, their manifests, and releases of them as tests see them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tests.workflows.conftest import Command, noise
from tests.workflows.runs import Finished
from workflows.atlas.records import EntryRecord, ReleaseRecord

SHAPE = (32, 36, 40)


def write_volume(path: Path, voxels: npt.NDArray[Any], *, um: float = 2.0, levels: int = 1) -> Path:
    """An OME-Zarr 0.4 image in chunks of 16³, its metadata in .zattrs."""
    group = zarr.create_group(path, zarr_format=2, overwrite=True)
    for level in range(levels):
        part = voxels[:: 2**level, :: 2**level, :: 2**level]
        encoding: Any = {"name": "v2", "separator": "/"}
        group.create_array(str(level), data=part, chunks=(16, 16, 16), chunk_key_encoding=encoding)
    transforms = [[{"type": "scale", "scale": [um * 2**level] * 3}] for level in range(levels)]
    datasets: list[Any] = [
        {"path": str(level), "coordinateTransformations": found} for level, found in enumerate(transforms)
    ]
    axes: list[Any] = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    multiscales: list[Any] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["multiscales"] = multiscales
    return path


def labels(seed: int, shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.uint8]:
    """Two labels of smooth noise on a background."""
    low, high = noise(shape, seed=seed), noise(shape, sigma=3, seed=seed + 1000)
    return np.where(low, np.where(high, 2, 1), 0).astype(np.uint8)


def chunks(volume: Path, level: int = 0) -> list[Path]:
    """The stored chunks of a volume."""
    return sorted(
        path for path in (volume / str(level)).rglob("*") if path.is_file() and not path.name.startswith(".")
    )  # fmt: skip


def change_voxel(volume: Path) -> None:
    """Give one voxel another value of the same size; the files stay as many and (nearly) as large."""
    array = zarr.open_array(volume, path="0", mode="r+")
    value = int(array[20, 20, 20])  # type: ignore[arg-type]
    array[20, 20, 20] = 0 if value else 1


def corrupt(volume: Path) -> None:
    """Cut a chunk short."""
    path = chunks(volume)[2]
    path.write_bytes(path.read_bytes()[:20])


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a folder: time, inode and size of each file and folder, and bytes or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        said = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (said.st_mtime_ns, said.st_ino, said.st_size, content)
    return found


@dataclass
class Atlas:
    """A folder with volumes, a manifest and an output; `call` is the command line."""

    folder: Path
    call: Command
    profile: str
    head: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "output"

    @property
    def manifest(self) -> Path:
        return self.folder / "release.toml"

    def volume(self, name: str) -> Path:
        return self.folder / "volumes" / f"{name}.ome.zarr"

    def add(self, name: str, voxels: npt.NDArray[Any], **keys: Any) -> None:
        """A data set with a mask of its own."""
        write_volume(self.volume(name), voxels)
        self.datasets[name] = {"mask": f"volumes/{name}.ome.zarr", **keys}

    def write(self) -> Path:
        """The manifest as it is wanted now."""
        (self.folder / "profile.toml").write_text(self.profile)
        head = {"name": "test", "output": "output", "profile": "profile.toml", **self.head}
        lines = [f"{key} = {_toml(value)}" for key, value in head.items()]
        lines += ["[defaults]", *(f"{key} = {_toml(value)}" for key, value in self.defaults.items())]
        for name, keys in self.datasets.items():
            lines += ["[[dataset]]", *(f"{key} = {_toml(value)}" for key, value in {"name": name, **keys}.items())]
        self.manifest.write_text("\n".join(lines) + "\n")
        return self.manifest

    def run(self, *options: object) -> Finished:
        """Its standard error is without the warnings that the scheduler of the tests is a plain one."""
        done = self.call("atlas", "run", self.write(), "--quiet", *options)
        said = [line for line in done.err.splitlines(keepends=True) if "is not encrypted; every user" not in line]
        return replace(done, err="".join(said))

    def plan(self) -> Finished:
        return self.call("atlas", "plan", self.write())

    def status(self) -> dict[str, Any]:
        done = self.call("atlas", "status", self.manifest, "--json")
        assert done.code == 0, done
        found: dict[str, Any] = json.loads(done.out)
        return found

    def release(self) -> ReleaseRecord:
        """The release that readers see."""
        return ReleaseRecord.model_validate_json((self.root / "latest" / "release.json").read_text())

    def entries(self) -> dict[str, EntryRecord]:
        return {f"{entry.dataset}/{entry.workflow}": entry for entry in self.release().entries}

    def outcomes(self) -> dict[str, str]:
        return {name: entry.outcome for name, entry in self.entries().items()}

    def entry(self, name: str) -> Path:
        return self.root / "entries" / name

    def versions(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.entry(name) / "versions").iterdir())

    def trees(self) -> dict[str, dict[str, tuple[int, int, int, bytes]]]:
        """Every file of every entry."""
        found = [path for path in (self.root / "entries").glob("*/*") if path.is_dir()]
        return {str(path.relative_to(self.root / "entries")): tree(path) for path in found}

    def lose(self, name: str) -> None:
        """Take a volume away."""
        shutil.move(self.volume(name), self.volume(f"{name}.away"))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)
