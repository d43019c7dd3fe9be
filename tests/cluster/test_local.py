"""The rule for workers on this machine, and what a running cluster offers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from cluster.local import MEMORY_SHARE, default_workers
from cluster.open import open_cluster
from cluster.profile import LocalProfile, SchedulerProfile
from pipeline.errors import InputError, RunError
from tests.workflows.runs import started_scheduler


def test_one_worker_per_core() -> None:
    offer = default_workers()
    assert offer.count == offer.threads == CPU_COUNT
    assert default_workers(3).count == 3


@pytest.mark.parametrize("count", [1, 2, 64])
def test_the_memory_is_divided(count: int) -> None:
    offer = default_workers(count)
    assert offer.memory_bytes * count <= MEMORY_LIMIT * MEMORY_SHARE
    assert offer.memory_bytes * count > MEMORY_LIMIT * MEMORY_SHARE - count


@pytest.mark.parametrize("count", [0, -1])
def test_no_workers(count: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        default_workers(count)


def test_local_workers() -> None:
    with open_cluster(LocalProfile(workers=1)) as (client, offer):
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1]
        assert [worker["memory_limit"] for worker in workers] == [offer.memory_bytes]
        assert all(worker["host"] == "127.0.0.1" for worker in workers)
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        process = client.submit(os.getpid).result()
        assert process != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_running_cluster(tmp_path: Path) -> None:
    with started_scheduler(tmp_path, workers=2) as processes:
        with open_cluster(SchedulerProfile(address=processes.address, unencrypted=True)) as (client, offer):
            assert (offer.count, offer.threads, offer.description) == (2, 2, processes.address)
            assert 0 < offer.memory_bytes <= MEMORY_LIMIT
            assert client.submit(lambda: sys.executable).result() == sys.executable
        with open_cluster(SchedulerProfile(address=processes.address, unencrypted=True)) as (_, again):
            assert again == offer, "a running cluster goes on without us"
        processes.workers.terminate()
        processes.workers.wait()
        refused = pytest.raises(RunError, match=f"at {processes.address} has no workers; start some with")
        with refused, open_cluster(SchedulerProfile(address=processes.address, unencrypted=True)):
            pass
