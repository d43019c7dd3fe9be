"""Each twin is imported where it is needed, and what is missing for a GPU is said in one sentence."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.kernels import accelerate, cuda
from tests.cuda_shim import cupy_on_cpu
from tests.cuda_shim.compiling import compiler

ON_GPU = """
import sys
import numpy as np
from tests.cuda_shim.cupy_on_cpu import pretended
from pipeline.kernels import corners, distance, structures, surface, tally
with pretended() as cupy:
    mask = distance.unpack_bits(cupy.asarray(np.full((3, 4, 1), 7, np.uint8)), 8)
    distances = distance.unswept(mask, np.int32)
    distance.distance_along_lines(mask, 1, distance.unreached(np.int32), distances)
    assert tally.count_pairs(distances, np.ones((1, 1, 1), np.uint8))[2].sum() == 36
    assert structures.count_structures(mask, mask, mask, (1, 1, 0), (0, 0, 0), 0, 3)[1].sum() == 36
    assert corners.count_corner_codes(mask, (0, 0, 0), (4, 5, 9))[0].tolist() == [0, 1]
    voxels = surface.surface_voxels(mask)
    assert surface.count_distances(distances[1:2, 1:3, 1:7].copy(), voxels, np.empty(0, np.uint8), 1000)[2].sum() == 2
assert "numba" not in sys.modules, "numba was imported"
"""
ON_CPU = """
import sys
import numpy as np
from pipeline.kernels import distance
mask = distance.unpack_bits(np.full((3, 4, 1), 7, np.uint8), 8)
distance.unswept(mask, np.int32)
assert "cupy" not in sys.modules, "CuPy was imported"
"""


@pytest.mark.parametrize("program", [ON_GPU, ON_CPU], ids=["gpu", "cpu"])
def test_a_twin_alone_is_imported(program: str) -> None:
    if program == ON_GPU and compiler() is None:
        pytest.skip("needs g++ to run CUDA kernels on the CPU")
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_that_are_compiled_at_once_do_not_take_each_other_s_place(tmp_path: Path) -> None:
    """Many writers of one cache, each with a kernel of other types: each finds its own again."""

    def write(number: int) -> None:
        # A file of its own, as each process has.
        accelerate.OneWriter(str(tmp_path), "kernel", "stamp").save(number, f"machine code {number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(200)))
    cache: Any = accelerate.OneWriter(str(tmp_path), "kernel", "stamp")
    assert [cache.load(number) for number in range(200)] == [f"machine code {number}" for number in range(200)]


@pytest.fixture
def asked_anew() -> Any:
    """The loader remembers no GPU."""
    cuda._check.cache_clear()
    yield
    cuda._check.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r"voxcaliper\[gpu-cuda12\].*voxcaliper\[gpu-cuda13\]"):
        cuda.checked_cupy()


def _fails(error: Exception) -> Any:
    def function() -> int:
        raise error

    return function


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("devices", "version", "message"),
    [
        (_fails(cupy_on_cpu.CUDARuntimeError("cudaErrorInsufficientDriver: too old.")), lambda: (12, 9),
         "driver does not answer: cudaErrorInsufficientDriver: too old; see that nvidia-smi"),
        (lambda: 0, lambda: (12, 9), "the driver lists none; see CUDA_VISIBLE_DEVICES"),
        (lambda: 1, _fails(RuntimeError("libnvrtc.so.12 not found")), "NVRTC cannot be loaded: libnvrtc.so.12"),
    ],
    ids=["driver", "no device", "compiler"],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_explained(
    monkeypatch: pytest.MonkeyPatch, devices: Any, version: Any, message: str
) -> None:
    runtime = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=cupy_on_cpu.CUDARuntimeError)
    inside = SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=version))
    monkeypatch.setitem(sys.modules, "cupy", HalfCupy(inside))
    with pytest.raises(InputError, match=message) as caught:
        cuda.checked_cupy()
    assert str(caught.value).endswith(".")


class HalfCupy:
    """As much of CuPy as the loader looks at; hashable, as a module is."""

    def __init__(self, cuda: SimpleNamespace) -> None:
        self.cuda = cuda
