"""The question: what does it take to list and cost a whole atlas, and to plan a release of all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import Answer, Goal, Table
from benchmarks.volumes import SEED, Size
from workflows.atlas.inventory_command import amount

SETS = 378
"""Of the release of 2026-05-26; fewer at smaller sizes."""
GOAL_SECONDS, GOAL_BYTES = 60, 1e9
LARGEST = (18_709, 18_709, 21_517)
"""(x, y, z), as the largest of that release; the others are smaller by up to 200 a side."""
ORGANS = ("brain", "heart", "kidney", "lung", "spleen")
LEVELS = 5
PEOPLE = 40
"""Who is named in a file: what makes it as long as the atlas's own, and is not read."""


def write_atlas(folder: Path, sets: int) -> Path:
    """An atlas as the Human Organ Atlas is stored, without a voxel; returns the folder of its metadata.

    The metadata are JSON files, a data set each, with sizes drawn between 1/200 of the largest and the largest; the
    stores are OME-Zarr 0.4 with the axes (x, y, z), chunks of 128³ and five levels.
    """
    rng = np.random.default_rng(SEED)
    metadata = folder / "metadata"
    metadata.mkdir(parents=True)
    for number in range(sets):
        share = 1.0 if number == 0 else float(200 ** -rng.uniform(0, 1))
        voxel_um = float(rng.choice([0.65, 2.0, 6.5, 19.57, 25.08]))
        organ, donor = ORGANS[number % len(ORGANS)], f"LADAF-{number % 60:02d}"
        name = f"{donor}_{organ}_VOI-{number:03d}_{voxel_um}um_bm18"
        shape = [max(1, int(n * share)) for n in LARGEST]
        store = folder / "stores" / f"{name}.ome.zarr"
        _write_store(store, shape, voxel_um)
        people = [{"first_name": "A", "last_name": f"B{n}", "roles": ["Software"]} for n in range(PEOPLE)]
        content = {
            "name": name,
            "dataset_type": "overview" if number % 4 == 0 else "zoom",
            "voi": f"VOI-{number:03d}",
            "data": {"shape": shape, "voxel_size_um": voxel_um, "gcs_url": str(store)},
            "sample": {"organ": organ, "organ_context": "left" if number % 2 else None},
            "donor": {"id": donor, "age": 60 + number % 30, "sex": None},
            "citation": {"doi": f"10.0000/{number}", "contributors": people},
        }
        (metadata / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return metadata


def _write_store(path: Path, shape: list[int], voxel_um: float) -> None:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "xyz"]
    datasets = []
    for level in range(LEVELS):
        scale = [{"type": "scale", "scale": [voxel_um * 2**level] * 3}]
        datasets.append({"path": str(level), "coordinateTransformations": scale})
        array = path / str(level)
        array.mkdir(parents=True)
        (array / ".zarray").write_text(
            json.dumps(
                {
                    "zarr_format": 2, "shape": [-(-n // 2**level) for n in shape], "chunks": [128] * 3, "dtype": "<u2",
                    "fill_value": 0, "order": "C", "filters": None, "dimension_separator": "/",
                    "compressor": {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1, "blocksize": 0},
                }
            )
        )  # fmt: skip
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (path / ".zattrs").write_text(json.dumps({"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}))


@dataclass(frozen=True)
class Spent:
    """What a command took: seconds from its start to its end, and the most memory, in bytes. out : what it printed."""

    seconds: float
    peak: int
    out: str


def spent(*arguments: object) -> Spent:
    """The command line in a process of its own, which must succeed."""
    command = [sys.executable, "-m", "workflows.cli", *map(str, arguments)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, cwd=Path(__file__).parents[1])
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        return Spent(seconds, used.ru_maxrss * 1024, out.read())


def answer(size: Size) -> Answer:
    """An atlas as large as the Human Organ Atlas, made here; both commands start from nothing."""
    sets = SETS if size.name == "full" else 12
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metadata, manifest = write_atlas(folder, sets), folder / "release.toml"
        stored = sum(path.stat().st_size for path in metadata.iterdir())
        listed = spent("inventory", "--metadata", metadata, "--json", "--manifest", manifest, "--threshold", 100)
        plan = spent("atlas", "plan", manifest, "--json")
    total = json.loads(listed.out)["total"]
    entries = json.loads(plan.out)
    rows = (
        ("data sets, their metadata", f"{total['datasets']}, {amount(stored)}"),
        ("voxels", f"{total['voxels'] / 1e12:.2f} T"),
        ("blocks, CPU-hours by the inventory", f"{total['blocks']:,}, {total['cpu_hours']:,.0f}"),
        ("entries, blocks by the plan", f"{len(entries)}, {sum(entry['blocks'] for entry in entries):,}"),
        ("`voxcaliper inventory --manifest`, s", f"{listed.seconds:.1f}"),
        ("its most memory, MB", f"{listed.peak / 1e6:.0f}"),
        ("`voxcaliper atlas plan`, s", f"{plan.seconds:.1f}"),
        ("its most memory, MB", f"{plan.peak / 1e6:.0f}"),
    )
    goals = (
        Goal(
            f"{sets} data sets listed and planned", listed.seconds + plan.seconds, GOAL_SECONDS, at_most=True, unit="s"
        ),
        Goal("memory for it", max(listed.peak, plan.peak) / GOAL_BYTES, 1, at_most=True, unit="GB"),
    )
    note = "The stores have the metadata of real ones and no chunk; a plan opens each and reads no voxel."
    return Answer("What does it take to plan a whole atlas?", (Table("A whole atlas", ("", ""), rows, note),), goals)
