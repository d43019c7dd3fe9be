"""Which twin does the work: gpu.py where the first array lives on a GPU, else cpu.py.

Twins are imported when they are first needed, so a worker with a GPU never waits for numba, and a worker without one
needs no CuPy.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy.typing as npt

Voxels = npt.NDArray[Any]
"""An array of voxels where they live: of numpy or of CuPy, which has the same interface."""


def on_gpu(array: Any) -> bool:
    """Whether an array lives on a GPU."""
    return hasattr(array, "__cuda_array_interface__")


def twin(package: str, array: Any) -> Any:
    """The module of a kernel package that works where the array lives. package : its name, as in __name__."""
    return importlib.import_module(f"{package}.{'gpu' if on_gpu(array) else 'cpu'}")
