"""The one loader of CUDA kernels, and the one place that says what is missing where there is no GPU to use.

A source is compiled by NVRTC when its first kernel is needed, once per device and type of squared distances; CuPy
keeps the result on disk. Kernels run on the current stream of the thread that calls them.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

KERNELS = Path(__file__).parent
OPTIONS = ("-std=c++17", "-fmad=false", f"-I{KERNELS}")
"""What every source is compiled with. No fused multiply-add: a double rounds here as it does on a CPU."""
DISTANCE = {np.dtype(np.int32): "int", np.dtype(np.int64): "long long"}
"""The macro DISTANCE by the dtype of squared distances."""
MOST_BLOCKS = 2**31 - 1


def checked_cupy() -> Any:
    """CuPy, once it is sure that it finds a GPU and a compiler."""
    try:
        import cupy
    except ImportError as error:
        raise InputError(
            f"A GPU is asked for, and CuPy cannot be imported ({error}); install voxcaliper[gpu-cuda12] for a driver of"
            " CUDA 12 or voxcaliper[gpu-cuda13] for CUDA 13."
        ) from error
    _check(cupy)
    return cupy


@functools.lru_cache(maxsize=1)
def _check(cupy: Any) -> None:
    """Raise InputError where CuPy finds no GPU or no compiler; asked once, because the answers take time."""
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise InputError(
            f"A GPU is asked for, and its driver does not answer: {_sentence(error)}; see that nvidia-smi lists the"
            " GPU, and install the extra of its CUDA version: voxcaliper[gpu-cuda12] or voxcaliper[gpu-cuda13]."
        ) from error
    if not devices:
        raise InputError("A GPU is asked for, and the driver lists none; see CUDA_VISIBLE_DEVICES and nvidia-smi.")
    try:
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"The GPU's compiler NVRTC cannot be loaded: {_sentence(error)}; install voxcaliper[gpu-cuda12] or"
            " voxcaliper[gpu-cuda13], which bring it along."
        ) from error


def _sentence(error: Exception) -> str:
    """The words of a library, fit for the middle of a sentence."""
    return " ".join(str(error).split()).rstrip(".;")


def source_text(source: str) -> str:
    """A source as it is compiled: messages name its file, and its first line changes with every header.

    source : path below this folder. CuPy's cache on disk knows a source by its text, not by the headers it includes.
    """
    headers = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(KERNELS.rglob("*.cuh")))).hexdigest()
    return f'// headers {headers}\n#line 1 "{source}"\n{(KERNELS / source).read_text("utf-8")}'


def compile_options(dtype: npt.DTypeLike) -> tuple[str, ...]:
    """Options of NVRTC for squared distances of a dtype."""
    return (*OPTIONS, f"-DDISTANCE={DISTANCE[np.dtype(dtype)]}")


@functools.lru_cache(maxsize=64)
def _module(device: int, source: str, dtype: np.dtype[Any]) -> Any:  # noqa: ARG001  # a module belongs to a device
    import cupy

    return cupy.RawModule(code=source_text(source), options=compile_options(dtype), backend="nvrtc")


@functools.lru_cache(maxsize=512)
def _function(device: int, source: str, name: str, dtype: np.dtype[Any]) -> Any:
    return _module(device, source, dtype).get_function(name)


def function(source: str, name: str, dtype: npt.DTypeLike) -> Any:
    """A kernel for the current device, to be called as kernel((blocks,), (threads,), arguments).

    source : path below this folder, such as "distance/distance.cu". name : an extern "C" __global__ function of it.
    dtype : int32 or int64, the type of squared distances (DISTANCE in the source). Python's int is passed as
    long long, its float as double.
    """
    return _function(checked_cupy().cuda.Device().id, source, name, np.dtype(dtype))


def blocks_for(items: int, threads: int) -> int:
    """Blocks of so many threads for so many items; at least one, at most what a GPU takes."""
    return min(max(1, -(-items // threads)), MOST_BLOCKS)
