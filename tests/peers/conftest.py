"""Workers that the comparisons share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client


@pytest.fixture(scope="package")
def client() -> Iterator[Client]:
    """A real scheduler and worker, in this process."""
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client:
        yield client
