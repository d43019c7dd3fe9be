"""The command line in this process, as tests of runs have it."""

from __future__ import annotations

from tests.workflows.conftest import here

__all__ = ["here"]
