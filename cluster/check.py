"""What is right and wrong with a profile, tried with one job: start-up, what a worker finds, bandwidth to the store."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from cluster.cards import Card, card_of_worker
from cluster.local import DeviceChoice
from cluster.open import open_cluster
from cluster.profile import Profile, SlurmProfile
from pipeline.errors import VoxcaliperError

PACKAGES = ("voxcaliper", "dask", "distributed", "numpy", "zarr")
STORE_BYTES = 128 << 20
PIECE_BYTES = 4 << 20
SLOW_STORE = 50e6
"""Bytes a second under which a store is the bottleneck of every run."""
LITTLE_SCRATCH = 1 << 30


@dataclass
class Findings:
    """What was found. facts : as they are. wrong : what has to change, each a sentence."""

    facts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def check_profile(
    profile: Profile, *, store: Path, patience_seconds: float, say: Callable[[str], None]
) -> Findings:  # fmt: skip
    """Try a profile with one job. store : the folder where runs shall lie; a file is written there and removed.

    patience_seconds : how long the job may wait in the queue.
    """
    found = Findings()
    tiny = profile.model_copy(update={"jobs": 1}) if isinstance(profile, SlurmProfile) else profile
    device: DeviceChoice = "gpu" if isinstance(profile, SlurmProfile) and profile.gpus else "cpu"
    try:
        folder = Path(tempfile.mkdtemp(prefix="voxcaliper-check-", dir=store))
        (folder / "seen").touch()
    except OSError as error:
        found.wrong.append(f"{store} cannot be written here: {error.strerror}; name another --store.")
        return found
    begin = time.monotonic()
    try:
        with open_cluster(tiny, folder=folder, say=say, patience_seconds=patience_seconds) as (client, offer):
            found.facts.append(f"the first worker was there after {time.monotonic() - begin:.1f} s")
            seen = client.submit(look_around, str(folder), device, pure=False).result()
            _judge(found, seen, profile, offer.memory_bytes)
    except VoxcaliperError as error:
        found.wrong.append(str(error))
    if not found.wrong:  # otherwise the logs are worth reading
        shutil.rmtree(folder, ignore_errors=True)
    return found


def look_around(folder: str, device: DeviceChoice) -> dict[str, Any]:
    """What a worker sees: itself, its programs, the folder of runs and how fast that is. Runs on a worker."""
    seen: dict[str, Any] = {
        "host": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "python": platform.python_version(),
        "program": sys.executable,
        "versions": versions(),
        "cores": CPU_COUNT,
        "memory": MEMORY_LIMIT,
        "scratch": tempfile.gettempdir(),
        "scratch_free": shutil.disk_usage(tempfile.gettempdir()).free,
        "card": card_of_worker() if device == "gpu" else None,
    }
    here = Path(folder)
    limit = time.monotonic() + 30  # file systems of clusters show new files late
    while not (here / "seen").exists() and time.monotonic() < limit:
        time.sleep(0.5)
    seen["folder"] = (here / "seen").exists()
    if seen["folder"]:
        try:
            seen["write"], seen["read"] = bandwidth(here / "bandwidth")
        except OSError as error:
            seen["store"] = error.strerror or str(error)
    return seen


def versions() -> dict[str, str]:
    """Of what both sides of a run must have alike."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def bandwidth(path: Path) -> tuple[float, float]:
    """Bytes a second with which a file is written, to the disk, and read again, past the cache where that can be."""
    piece = os.urandom(PIECE_BYTES)
    begin = time.monotonic()
    with path.open("wb") as file:
        for _ in range(STORE_BYTES // PIECE_BYTES):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    written = time.monotonic() - begin
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.monotonic()
        while file.read(PIECE_BYTES):
            pass
    read = time.monotonic() - begin
    path.unlink()
    return STORE_BYTES / max(written, 1e-6), STORE_BYTES / max(read, 1e-6)


def _judge(found: Findings, seen: dict[str, Any], profile: Profile, memory: int) -> None:
    gib = 2**30
    found.facts += [
        f"it runs on {seen['host']}, Python {seen['python']} ({seen['program']})",
        f"it has {seen['cores']} cores and {memory / gib:.1f} GiB for a task",
        f"its temporary files go to {seen['scratch']}, {seen['scratch_free'] / gib:.1f} GiB free",
    ]
    here = versions()
    for name, there in seen["versions"].items():
        if there != here[name]:
            found.wrong.append(
                f"{name} is {there} on the worker and {here[name]} here; let setup in the profile give the same ones."
            )
    if seen["python"] != platform.python_version():
        found.wrong.append(
            f"Python is {seen['python']} on the worker and {platform.python_version()} here; set python in the profile."
        )
    if isinstance(profile, SlurmProfile) and seen["cores"] < profile.cores:
        found.wrong.append(
            f"The job has {seen['cores']} cores although the profile asks for {profile.cores}; ask the node's owner, or"
            " lower cores."
        )
    if isinstance(seen["card"], Card):
        card = seen["card"]
        total = f"{card.total_bytes / gib:.1f} GiB"
        found.facts.append(f"its GPU is a {card.name}, {card.free_bytes / gib:.1f} of {total} free")
        if isinstance(profile, SlurmProfile) and card.total_bytes < (profile.gpu_memory or 0):
            found.wrong.append(f"gpu_memory in the profile is more than the {total} of its GPU; lower it.")
    elif seen["card"] is not None:
        found.wrong.append(f"The worker has no GPU: {seen['card']}")
    if seen["scratch_free"] < LITTLE_SCRATCH:
        found.wrong.append(f"{seen['scratch']} on {seen['host']} is nearly full; set scratch in the profile.")
    if not seen["folder"]:
        found.wrong.append(
            "The worker does not see the folder of runs; --store must be on a file system that every node mounts."
        )
    elif "store" in seen:
        found.wrong.append(f"The worker cannot write to the folder of runs: {seen['store']}.")
    else:
        write, read = seen["write"], seen["read"]
        found.facts.append(f"it writes {write / 1e6:.0f} MB/s to the store and reads {read / 1e6:.0f} MB/s")
        slow = [what for what, speed in (("write", write), ("read", read)) if speed < SLOW_STORE]
        if slow:
            found.wrong.append(
                f"The store is slow ({', '.join(slow)} under {SLOW_STORE / 1e6:.0f} MB/s for one worker); put runs on a"
                " faster file system, or expect workers to wait for it."
            )
