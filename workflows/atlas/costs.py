"""What a voxel costs, as measured: estimates of plans and the projection of the benchmarks both take it from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Of a thickness run, per voxel of the volume. Times in µs of one core, sizes in bytes.

    cpu_us : all tasks; host_us : reading, writing, filing and counting alone, which a GPU does not take over.
    engine_us : driver and scheduler, per block and stage, where a block is a batch of its own.
    source, scratch_read, scratch_written, map : bytes moved.
    """

    cpu_us: float
    host_us: float
    engine_us: float
    source: float
    scratch_read: float
    scratch_written: float
    map: float


STAGES = 5
MEASURED = Costs(
    cpu_us=0.1511,
    host_us=0.05373,
    engine_us=2900,
    source=1,
    scratch_read=0.3238,
    scratch_written=0.181,
    map=0.452,
)
"""Measured on 1024³ voxels of noise, half of it foreground: the table of constants in benchmarks/RESULTS_SCALE.md.
Sparse masks take less."""


def cpu_hours(voxels: int, blocks: int) -> float:
    """Hours of one core that a thickness run takes, driver and scheduler included."""
    return (MEASURED.cpu_us * voxels + MEASURED.engine_us * blocks * STAGES) / 1e6 / 3600


MARGIN = 2
"""Of sizes on disk, beside those measured: another mask may compress worse than noise."""


def written_bytes(voxels: int, *, maps: int = 1, fields: int = 1) -> int:
    """Bytes that a run may write: its maps with their levels, and the scratch that it removes at its end.

    maps : of thickness, that are stored. fields : distance transforms whose scratch lies there at a time, one for a
    thickness run.
    """
    return round(MARGIN * (MEASURED.map * maps + MEASURED.scratch_written * fields) * voxels)
