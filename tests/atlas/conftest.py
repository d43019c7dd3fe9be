"""A running Dask cluster and the command line in this process, as tests of runs have them, and finished releases."""

from __future__ import annotations

from tests.atlas.released import released
from tests.workflows.conftest import here, scheduler

__all__ = ["here", "released", "scheduler"]
