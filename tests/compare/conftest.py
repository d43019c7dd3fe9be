"""Where comparisons run in tests, and the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from distributed import Client

from tests.compare.runs import Place
from tests.cuda_shim.compiling import compiler
from tests.cuda_shim.cupy_on_cpu import pretended
from tests.workflows.conftest import here

__all__ = ["here", "place"]


@pytest.fixture(scope="module", params=["cpu", "pretended gpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A real scheduler and worker in this process. pretended gpu : the CUDA kernels, run by the CPU."""
    with contextlib.ExitStack() as stack:
        if request.param == "pretended gpu":
            if compiler() is None:
                pytest.skip("needs g++, which compiles the CUDA kernels for the CPU")
            stack.enter_context(pretended())
        client = Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0")
        yield Place(stack.enter_context(client), "cpu" if request.param == "cpu" else "gpu")
