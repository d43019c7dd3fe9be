"""The demonstration: make a vascular phantom of known diameters, measure it, compare, say what to try next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import Workers
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.engine import Client, Progress
from pipeline.errors import InputError
from pipeline.report import Comparison, ComparisonRow, Lookalike, LookalikesContent, write_lookalikes
from pipeline.volume.writing import Multiscale, create_multiscale
from workflows.comparison_content import slices_of
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.lookalikes import lookalikes
from workflows.options import shown
from workflows.phantom import Phantom, vascular_phantom
from workflows.progress import Reporter, reporter
from workflows.run_comparison import execute_comparison, start_comparison
from workflows.run_folder import RunFolder
from workflows.run_thickness import execute, start

BLOCK_SIDE = 128


LOOKALIKE_SIDE = 64


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made: the phantom's mask, its run, what was measured and how it compares."""

    mask: Path
    run: RunFolder
    statistics: Mapping[str, Any]
    comparison: Comparison
    lookalikes: Path

    @property
    def largest_difference_voxels(self) -> float:
        rows = self.comparison.rows
        return max(abs(row.measured_um - row.designed_um) for row in rows) / self.comparison.voxel_um


def demonstrate(
    folder: Path, *, side: int, workers: int | None, quiet: bool, say: Callable[[str], None]
) -> Demonstration:
    """Write FOLDER/phantom.ome.zarr and FOLDER/regions.ome.zarr, and measure them into FOLDER/run."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; remove it, or name another folder: voxcaliper demo FOLDER.")
    say(f"making a phantom of {side}³ voxels in {folder}")
    phantom = vascular_phantom((side, side, side))
    mask = write_phantom(phantom, folder / "phantom.ome.zarr", regions=False)
    regions = write_phantom(phantom, folder / "regions.ome.zarr", regions=True)
    config = ThicknessConfig(mask=str(mask.path), regions=str(regions.path))
    with open_cluster(LocalProfile(workers=workers), device=config.device) as (client, offer):
        say(f"dashboard {shown(client.dashboard_link)}")
        run, job = start(config, folder / "run", offer)
        with run.locked(), reporter(quiet=quiet) as progress:

            def compare(statistics: Mapping[str, Any]) -> Comparison:
                return compared(phantom, statistics)

            statistics = execute(client, offer, run, job, report=progress.stage, compare=compare)
        page = compare_lookalikes(client, offer, folder / "lookalikes", quiet=quiet, say=say)
    return Demonstration(mask.path, run, statistics, compared(phantom, statistics), page)


def compare_lookalikes(
    client: Client, offer: Workers, folder: Path, *, quiet: bool, say: Callable[[str], None]
) -> Path:
    """Compare predictions of the same Dice and different structure with their reference; returns the overview."""
    made = lookalikes((LOOKALIKE_SIDE,) * 3)
    say(f"comparing {len(made.predictions)} segmentations that have the same Dice")
    volumes = {name: folder / f"{_slug(name)}.ome.zarr" for name in ("reference", *made.predictions)}
    for name, path in volumes.items():
        mask = made.reference if name == "reference" else made.predictions[name]
        image = create_multiscale(
            path, shape=(LOOKALIKE_SIDE,) * 3, dtype=np.bool_, voxel_size=made.voxel_size,
            block_shape=(LOOKALIKE_SIDE,) * 3, name=name, reducer="any",
        )  # fmt: skip
        image.write_own_levels((0, 0, 0), mask)
    shown = []
    for name in made.predictions:
        config = ComparisonConfig(
            reference=str(volumes["reference"]),
            prediction=str(volumes[name]),
            tolerances_um=(0.0, float(made.voxel_size.um[0])),
        )
        run, job = start_comparison(config, folder / _slug(name), offer)
        with run.locked(), reporter(quiet=quiet) as progress:

            def tell(step: Progress, name: str = name, progress: Reporter = progress) -> None:
                progress.stage(replace(step, stage=f"{name}: {step.stage}"))

            results = execute_comparison(client, offer, run, job, report=tell)
        shown.append(Lookalike(name, results, slices_of(job)[0], f"{_slug(name)}/report.html"))
    page = folder / "lookalikes.html"
    title = "Segmentations with the same Dice and different structure"
    write_lookalikes(page, LookalikesContent(title, made.voxel_size.um, shown))
    return page


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def write_phantom(phantom: Phantom, path: Path, *, regions: bool) -> Multiscale:
    """The phantom's mask (bool) or its regions (uint8) as an OME-Zarr image, block by block."""
    z, y, x = (min(BLOCK_SIDE, n) for n in phantom.shape)
    image = create_multiscale(
        path,
        shape=phantom.shape,
        dtype=np.uint8 if regions else np.bool_,
        voxel_size=phantom.voxel_size,
        block_shape=(z, y, x),
        name=path.name.removesuffix(".ome.zarr"),
        reducer="mode" if regions else "any",
    )
    grid = image.grid(0)
    for block in grid:
        image.write_own_levels(block, (phantom.read_regions if regions else phantom.read_mask)(grid.box(block)))
    for level in range(image.own_levels, len(image.level_shapes)):
        for block in image.grid(level):
            image.reduce_block(level, block)
    return image


def compared(phantom: Phantom, statistics: Mapping[str, Any]) -> Comparison:
    """Designed diameters beside the mean thickness in the middle part of each tube."""
    rows = []
    for label, designed_um in phantom.designed_diameters().items():
        region = statistics["regions"].get(str(label))
        if region is not None:
            measured_um = region["thickness_um"]["mean"]
            rows.append(ComparisonRow(f"tube {label}", designed_um, measured_um, region["foreground_voxels"]))
    return Comparison(
        title="Designed and measured diameters",
        note="Each tube's mean local thickness over the middle part of its length, away from the joints, where larger"
        " balls legitimately reach in.",
        rows=sorted(rows, key=lambda row: -row.designed_um),
        voxel_um=phantom.voxel_size.um[0],
        expected_voxels=(-0.35, 0.1),
    )
