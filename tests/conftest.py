"""What all tests share: how hypothesis draws, and which tests need a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from hypothesis import settings

from tests.cuda_shim import cupy_on_cpu
from tests.cuda_shim.compiling import compiler

# The first call of a kernel compiles it, so no example has a deadline. CI draws the same examples every time: a
# submission must not fail for what an earlier one did.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

# As in workers: what Dask's profiler may do to a process stands in cluster/local.py.
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"
dask.config.refresh()
os.environ["VOXCALIPER_CACHE_SIZE"] = "0"  # a test that is about the cache has one of its own


def _missing_gpu() -> str | None:
    """Why tests marked gpu cannot run here; None where they can."""
    if importlib.util.find_spec("cupy") is None:
        return "needs an NVIDIA GPU and CuPy, and CuPy is not installed (the extra gpu)"
    import cupy

    if not cupy.cuda.is_available():
        return "needs an NVIDIA GPU, and CuPy finds none"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu where there is no GPU, with the reason."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _missing_gpu() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def pretend_gpu() -> Iterator[Any]:
    """CuPy's stand-in on the CPU, in the place of CuPy: the GPU twins run, compiled by g++."""
    if compiler() is None:
        pytest.skip("needs g++ to run CUDA kernels on the CPU")
    with cupy_on_cpu.pretended() as cupy:
        yield cupy
