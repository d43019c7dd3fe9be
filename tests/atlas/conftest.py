"""A running Dask cluster and the command line in this process, as the tests of runs have them."""

from __future__ import annotations

from tests.workflows.conftest import here, scheduler

__all__ = ["here", "scheduler"]
