"""The cards (GPUs) that this machine or a worker offers.

One worker process per card: each sees one card alone, by CUDA_VISIBLE_DEVICES, which every CUDA library obeys.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec

EXTRAS = "install voxcaliper[gpu-cuda12] (driver 525 or newer) or voxcaliper[gpu-cuda13] (driver 580 or newer)"
QUERY = "--query-gpu=index,uuid,name,memory.free,memory.total"


@dataclass(frozen=True)
class Card:
    """A card. identifier : as CUDA_VISIBLE_DEVICES names it. free_bytes, total_bytes : of its memory."""

    identifier: str
    name: str
    free_bytes: int
    total_bytes: int


def local_cards() -> tuple[Card, ...] | str:
    """The cards of this machine that CUDA_VISIBLE_DEVICES allows, or a sentence that says why there is none.

    The driver is asked through nvidia-smi, so that this process, which only plans, takes no memory of a card.
    """
    try:
        listing = subprocess.run(  # noqa: S603  a constant command
            ["nvidia-smi", QUERY, "--format=csv,noheader,nounits"],  # noqa: S607  wherever the driver put it
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        return "there is no NVIDIA driver here (nvidia-smi is not found)."
    except subprocess.CalledProcessError as error:
        return f"the NVIDIA driver does not answer (nvidia-smi: {(error.stderr or error.stdout).strip()})."
    except (OSError, subprocess.SubprocessError) as error:
        return f"the NVIDIA driver does not answer (nvidia-smi: {error})."
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines() if line.strip()]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        named = [name.strip() for name in allowed.split(",") if name.strip()]
        rows = [row for name in named for row in rows if name == row[0] or (row[1].startswith(name) and len(name) > 3)]
    if not rows:
        return f"the driver shows no card (CUDA_VISIBLE_DEVICES is {allowed!r})."
    if find_spec("cupy") is None:
        return f"CuPy is not installed; {EXTRAS}."
    return tuple(Card(row[1], row[2], int(row[3]) << 20, int(row[4]) << 20) for row in rows)


def card_of_worker() -> Card | str:
    """The card that this process would use, or a sentence that says why there is none. Runs on a worker."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); {EXTRAS}."
    runtime = cupy.cuda.runtime
    try:
        free, total = runtime.memGetInfo()
        name = runtime.getDeviceProperties(0)["name"].decode()
    except runtime.CUDARuntimeError as error:
        return f"the CUDA driver does not answer ({error}); check nvidia-smi, and that the extra suits the driver."
    return Card(os.environ.get("CUDA_VISIBLE_DEVICES", "0"), name, int(free), int(total))
