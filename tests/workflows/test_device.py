"""Runs on a GPU: what is asked for, what is there, what ran, and a card that runs out of memory."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

from cluster.cards import Card, local_cards
from cluster.local import CARD_THREADS, Workers, default_workers
from cluster.processes import local_workers
from pipeline import device
from pipeline.errors import DeviceMemoryError, InputError, PlanError
from pipeline.memory import POOL_SHARE, card_bytes
from tests.cuda_shim import cupy_on_cpu
from tests.cuda_shim.compiling import compiler
from tests.workflows.conftest import Command
from tests.workflows.runs import environment, results, running
from workflows.config import ThicknessConfig
from workflows.plan_thickness import check_memory, choose_blocks, describe_plan, make_plan, open_job
from workflows.run_folder import open_run_folder
from workflows.run_thickness import execute, start

GIB = 2**30
needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs g++, which compiles the CUDA kernels for the CPU")

NVIDIA_SMI = """#!/bin/sh
echo '0, GPU-aaaa-1, A card, 1000, 2000'
echo '1, GPU-bbbb-2, A card, 1500, 2000'
"""
PRETENDING = """
import contextlib, os, sys
sys.modules["numba"] = None  # an import of it fails
if os.environ.get("PRETEND_CARD"):
    from tests.cuda_shim import cupy_on_cpu
    pretence = contextlib.ExitStack()  # a name that stays, or it would end at once
    pretence.enter_context(cupy_on_cpu.pretended())
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that lists two cards, first in the PATH."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "identifiers"),
    [(None, ["GPU-aaaa-1", "GPU-bbbb-2"]), ("1", ["GPU-bbbb-2"]), ("GPU-bbbb,0", ["GPU-bbbb-2", "GPU-aaaa-1"])],
)
def test_cards_are_those_that_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, identifiers: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cards = local_cards()
    assert isinstance(cards, tuple)
    assert [card.identifier for card in cards] == identifiers
    assert {card.total_bytes for card in cards} == {2000 << 20}


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("visible", ["", "7"])
def test_no_card_is_allowed(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_cards() == f"the driver shows no card (CUDA_VISIBLE_DEVICES is {visible!r})."


def test_a_driver_that_fails_is_quoted(driver: Path) -> None:
    (driver / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found; exit 6\n")
    with pytest.raises(InputError, match=r"--device gpu cannot be had: .*No devices were found"):
        default_workers(None, "gpu")


@pytest.mark.usefixtures("driver")
def test_one_worker_per_card() -> None:
    offer = default_workers(None, "auto")
    assert (offer.count, offer.device) == (2, "gpu")
    fewest, most = CARD_THREADS
    assert 2 * fewest <= offer.threads <= 2 * most
    assert default_workers(1, "gpu").count == 1
    assert default_workers(None, "cpu").device == "cpu"


def test_each_worker_sees_its_card_alone(tmp_path: Path) -> None:
    cards = tuple(Card(f"GPU-{n}", "A card", GIB, GIB) for n in range(2))
    with local_workers(Workers(2, 2, GIB, "this machine", cards), tmp_path, print) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(seen.values()) == ["GPU-0", "GPU-1"]


@pytest.mark.usefixtures("no_driver")
def test_gpu_without_a_gpu_is_an_error(here: Command, mask: Path, tmp_path: Path) -> None:
    done = here("thickness", mask, "--run", tmp_path / "run", "--device", "gpu", "--quiet")
    assert done.failure() == "--device gpu cannot be had: there is no NVIDIA driver here (nvidia-smi is not found)."
    assert not (tmp_path / "run").exists()


def test_gpu_on_a_cluster_without_one_is_an_error(measure: Command, mask: Path, tmp_path: Path) -> None:
    sentence = measure(mask, tmp_path / "run", "--device", "gpu").failure()
    assert sentence.startswith("--device gpu cannot be had: 2 of 2 workers have no card, for example tcp://127.0.0.1")
    assert "voxcaliper[gpu-cuda12]" in sentence or "driver does not answer" in sentence


@pytest.mark.usefixtures("no_driver")
def test_auto_takes_the_cpu_and_says_why(here: Command, mask: Path) -> None:
    done = here("plan", "thickness", mask)
    assert "device      CPU (there is no NVIDIA driver here (nvidia-smi is not found))" in done.out


def test_an_unknown_device(here: Command, mask: Path, tmp_path: Path) -> None:
    done = here("thickness", mask, "--run", tmp_path / "run", "--device", "tpu", "--quiet")
    assert done.failure() == "--device must be auto, cpu or gpu, but 'tpu' was given."


def card_offer(gib: float) -> Workers:
    return Workers(1, 4, 64 * GIB, "a machine", (Card("GPU-0", "A card", int(gib * GIB), int(gib * GIB)),))


def job_of(folder: Path, side: int) -> Any:
    zarr.create_array(folder / "mask.zarr", shape=(side,) * 3, dtype="uint8", chunks=(64, 64, 64))
    config = ThicknessConfig(mask=str(folder / "mask.zarr"), voxel_size_um=(1.0, 1.0, 1.0))
    return open_job(config, folder / "run", device="gpu")


def test_blocks_fit_the_card(tmp_path: Path) -> None:
    job = job_of(tmp_path, 1024)
    roomy, narrow = (choose_blocks(job, tmp_path / "run", card_offer(gib)) for gib in (80, 2))
    assert max(roomy.grid.block_shape) == 512
    assert max(narrow.grid.block_shape) < 512
    assert device.SLOTS * max(card_bytes(narrow).values()) <= 2 * GIB * POOL_SHARE
    text = describe_plan(narrow, make_plan(narrow), card_offer(2))
    assert f"GPU, 1 × A card: {device.SLOTS} blocks at a time of" in text
    assert "on the card" in text


def test_a_block_that_does_not_fit_the_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"A block of 512×512×512 voxels does not fit the A card: 3 at a time, each up"):
        check_memory(job_of(tmp_path, 512), card_offer(1))


@pytest.fixture
def pretending() -> Any:
    """CuPy is played by the CPU."""
    if compiler() is None:
        pytest.skip("needs g++, which compiles the CUDA kernels for the CPU")
    with cupy_on_cpu.pretended() as cupy:
        yield cupy


def test_a_block_without_room_is_tried_alone_with_smaller_batches(pretending: Any) -> None:
    tried = []

    def work(place: device.Host) -> str:
        tried.append(place.batch_divisor)
        if place.batch_divisor == 1:
            raise pretending.cuda.memory.OutOfMemoryError
        return "done"

    before = device.RETRIES.count
    assert device.run("gpu", work) == "done"
    assert tried == [1, device.TIGHT_SHARE]
    assert device.RETRIES.count == before + 1


def test_a_block_without_room_even_alone_says_what_to_do(pretending: Any) -> None:
    def work(_place: device.Host) -> None:
        raise pretending.cuda.memory.OutOfMemoryError

    with pytest.raises(DeviceMemoryError, match=r"The card has no room for a block, even alone .* --block-shape"):
        device.run("gpu", work)
    assert device.run("gpu", lambda place: place.is_card), "and the places on the card are free again"


@pytest.mark.usefixtures("pretending")
def test_so_many_blocks_on_a_card_and_no_more() -> None:
    together = 0
    most = 0
    lock = threading.Lock()
    full = threading.Barrier(device.SLOTS)

    def work(_place: device.Host) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        full.wait(30)
        with lock:
            together -= 1

    threads = [threading.Thread(target=device.run, args=("gpu", work)) for _ in range(4 * device.SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most == device.SLOTS


@pytest.mark.usefixtures("pretending")
@pytest.mark.parametrize("stage", ["mask", "thickness"])
def test_a_run_begins_again_with_smaller_blocks(
    stage: str, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.volume.opening import open_volume

    assert open_volume(str(mask)).shape == (64, 64, 64)
    monkeypatch.setattr("workflows.plan_thickness.BLOCK_SIDES", (64, 48, 32))
    plain = device.run

    def refusing(kind: device.Device, work: Any) -> Any:
        def with_limit(place: device.Host) -> Any:
            found = work(place)
            values = found[1] if isinstance(found, tuple) else None
            large = isinstance(values, np.ndarray) and values.size == 64**3
            if large if stage == "thickness" else any(np.size(a) == 64**2 for a in getattr(found, "values", tuple)()):
                raise DeviceMemoryError("The card has no room.")
            return found

        return plain(kind, with_limit)

    monkeypatch.setattr(device, "run", refusing)
    said: list[str] = []
    config = ThicknessConfig(mask=str(mask), device="gpu")
    offer = Workers(1, 1, 8 * GIB, "this process", (Card("0", "A card", 100 * GIB, 100 * GIB),))
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        folder, job = start(config, tmp_path / "run", offer)
        assert job.grid.block_shape == (64, 64, 64)
        with folder.locked():
            execute(client, offer, folder, job, report=lambda _: None, say=said.append)
        assert said == ["The card has no room. The run begins again with blocks of (32, 32, 32) voxels."]
        assert folder.plan().block_shape == (32, 32, 32)
        monkeypatch.setattr(device, "run", plain)
        whole, job = start(replace_block(config, 32), tmp_path / "whole", replace(offer, cards=()))
        with whole.locked():
            execute(client, offer, whole, replace(job, device="cpu"), report=lambda _: None)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def replace_block(config: ThicknessConfig, side: int) -> ThicknessConfig:
    return config.model_copy(update={"block_shape": (side, side, side), "device": "cpu"})


@needs_compiler
@pytest.mark.usefixtures("driver")
def test_a_run_of_the_command_on_pretended_cards(
    here: Command, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes and all; no worker imports numba; byte for byte what the CPU gives."""
    done = here("thickness", mask, "--run", tmp_path / "cpu", "--device", "cpu", "--block-shape", 32, "--quiet")
    assert done.code == 0, done
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(PRETENDING)
    path = f"{tmp_path / 'start'}{os.pathsep}{environment()['PYTHONPATH']}"
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**environment(), "PYTHONPATH": path})
    monkeypatch.setenv("PRETEND_CARD", "1")
    options = ("--device", "gpu", "--block-shape", 32)
    with running(tmp_path / "log", "thickness", mask, "--run", tmp_path / "gpu", *options) as command:
        done = command.finished()
    assert done.code == 0, done
    assert "device    GPU (2 × a CPU that pretends)" in done.err
    assert results(tmp_path / "gpu") == results(tmp_path / "cpu")
    provenance = json.loads(open_run_folder(tmp_path / "gpu").provenance.read_text("utf-8"))
    assert provenance["workers"]["device"] == "gpu"
    assert provenance["workers"]["cards"] == ["a CPU that pretends"] * 2
    assert "numba" not in provenance["versions"]
