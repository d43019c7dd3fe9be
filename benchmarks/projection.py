"""The question: what would the whole Human Organ Atlas take, on paper, from what the other benchmarks measured.

python -m benchmarks projection                  constants measured now
python -m benchmarks.projection cpu_us=0.15 …    constants given, all of Costs
"""

from __future__ import annotations

import sys
from dataclasses import asdict, fields

from benchmarks import large_run, scale
from benchmarks.results import Answer, Table
from benchmarks.volumes import Size
from workflows.atlas.costs import STAGES, Costs

# The release of 2026-05-26 as its inventory lists it: data sets, voxels of all and of the largest, blocks of 1024³.
SETS = 378
VOXELS = 98.36e12
LARGEST_VOXELS = 18_709 * 18_709 * 21_517
BLOCKS_OF_1024 = 108_473
LARGEST_BLOCKS_OF_1024 = 7_942

BLOCK_SIDE = 512
GPU_MVOXEL_PER_S = 500.0
"""Assumed, for all stages of a block on one card: no GPU measured it."""
CORES_OF_A_JOB, HOURS_OF_A_JOB = 64, 4
BUSY = 0.9
"""Share of a worker's time that is work; the rest is waiting at barriers and starting."""


HOST_KINDS = ("read", "tally", "map", "write", "file")


def measured(size: Size) -> Costs:
    """The constants of this machine, from the large run and from the stages that do nothing."""
    found = large_run.measured(size)
    return Costs(
        cpu_us=found.cpu_s / found.voxels * 1e6,
        host_us=sum(found.run.seconds(kind) for kind in HOST_KINDS) / found.voxels * 1e6,
        engine_us=scale.measured(size).alone_us,
        source=float(found.run.provenance["bytes_read_per_voxel"]["source"]),
        scratch_read=found.scratch_read,
        scratch_written=found.run.scratch_written,
        map=found.stored_map / found.voxels,
    )


def projected(constants: Costs) -> Table:
    """The whole release, each number with what it assumes."""
    per_block = (1024 // BLOCK_SIDE) ** 3
    blocks = BLOCKS_OF_1024 * per_block
    core_hours = constants.cpu_us * VOXELS / 1e6 / 3600
    gpu_hours = VOXELS / GPU_MVOXEL_PER_S / 1e6 / 3600
    host_hours = constants.host_us * VOXELS / 1e6 / 3600
    engine_hours = constants.engine_us * blocks * STAGES / 1e6 / 3600
    jobs = core_hours / BUSY / (CORES_OF_A_JOB * HOURS_OF_A_JOB)
    gpu_jobs = gpu_hours / BUSY / HOURS_OF_A_JOB
    largest = LARGEST_VOXELS
    rows = (
        ("data sets, voxels", f"{SETS}, {VOXELS / 1e12:.2f} T", "inventory of the release of 2026-05-26; a mask each"),
        ("blocks", f"{blocks:,}", f"{BLOCKS_OF_1024:,} of 1024³, {per_block} of {BLOCK_SIDE}³ in each"),
        ("tasks of blocks", f"{blocks * STAGES:,}", f"{STAGES} stages; a block writes the coarser levels of its map"),
        ("CPU-hours, without a GPU", f"{core_hours:,.0f}",
         f"{constants.cpu_us:.3f} µs a voxel on cores like these, half of it foreground; sparse masks take less"),
        ("GPU-hours", f"{gpu_hours:,.0f}", f"{GPU_MVOXEL_PER_S:,.0f} Mvoxel/s a card: an assumption, not measured"),
        ("CPU-hours beside the GPUs", f"{host_hours:,.0f}",
         f"{constants.host_us:.3f} µs a voxel for {', '.join(HOST_KINDS)}, measured on CPUs; encoding stays there"),
        ("CPU-hours of drivers and schedulers", f"{engine_hours:,.1f}",
         f"{constants.engine_us:.0f} µs a block and stage, measured with tasks that do nothing, each a batch"),
        ("read from masks", _bytes(constants.source * VOXELS),
         f"{constants.source:.2f} bytes a voxel decoded: each voxel is read once, whatever the chunks"),
        ("read from scratch", _bytes(constants.scratch_read * VOXELS),
         f"{constants.scratch_read:.2f} bytes a voxel, measured; grows with the largest radius in blocks"),
        ("written to scratch", _bytes(constants.scratch_written * VOXELS),
         f"{constants.scratch_written:.2f} bytes a voxel, measured; removed as each data set is complete"),
        ("maps", _bytes(constants.map * VOXELS), f"{constants.map:.2f} bytes a voxel stored, all levels, measured"),
        ("scratch of the largest set at once", _bytes(constants.scratch_written * largest),
         f"{largest / 1e12:.1f} Tvoxel"),
        ("receipts of the largest set at once", f"{LARGEST_BLOCKS_OF_1024 * per_block * STAGES:,} files",
         "one a block and stage"),
        ("jobs on CPUs", f"{SETS + jobs:,.0f} at most",
         f"{CORES_OF_A_JOB} cores for {HOURS_OF_A_JOB} h each, {BUSY:.0%} busy, and one a data set that is not full"),
        ("jobs on GPUs", f"{SETS + gpu_jobs:,.0f} at most",
         f"one card for {HOURS_OF_A_JOB} h each, {BUSY:.0%} busy, and one a data set that is not full"),
    )  # fmt: skip
    note = "A paper projection: nothing of it was run."
    return Table("The Human Organ Atlas on paper", ("", "", "assumes"), rows, note)


def _bytes(value: float) -> str:
    return f"{value / 1e12:,.1f} TB"


def answer(size: Size) -> Answer:
    """The projection from constants that are measured now, or were a moment ago by the other benchmarks."""
    constants = measured(size)
    rows = tuple((name, f"{value:.4g}") for name, value in asdict(constants).items())
    table = Table(
        f"Constants, from {size.large_side}³ voxels and {max(size.block_counts):,} empty blocks",
        ("µs or bytes", "per voxel; engine: per block and stage"),
        rows,
    )
    return Answer("What would the whole Human Organ Atlas take?", (table, projected(constants)))


def main() -> None:
    """Project from constants given as NAME=VALUE."""
    names = [field.name for field in fields(Costs)]
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if set(given) != set(names):
        sys.exit(f"give all of {'=… '.join(names)}=…; `python -m benchmarks projection` measures them")
    for row in projected(Costs(**{name: float(value) for name, value in given.items()})).rows:
        print("  ".join((f"{row[0]:<38}", f"{row[1]:>18}", row[2])))


if __name__ == "__main__":
    main()
