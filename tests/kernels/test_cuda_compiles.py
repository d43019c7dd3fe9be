"""Every CUDA source compiles for the GPUs we name, without a GPU: NVRTC through CuPy's binding."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.kernels import cuda

SOURCES = sorted(str(path.relative_to(cuda.KERNELS)) for path in cuda.KERNELS.rglob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90"]


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """The binding to the compiler."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy's binding to NVRTC, and CuPy is not installed (the extra dev)")
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"needs NVRTC, and CuPy cannot load it (the extra dev brings it): {error}")
    return nvrtc


def compiled(nvrtc: Any, text: str, options: tuple[str, ...]) -> str:
    """What the compiler says; raises where it refuses."""
    program = nvrtc.createProgram(text, "unnamed.cu", [], [])
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    return str(nvrtc.getProgramLog(program))


def test_there_are_sources() -> None:
    packages = {Path(source).parts[0] for source in SOURCES}
    assert packages == {path.parent.name for path in cuda.KERNELS.glob("*/gpu.py")}
    assert {"distance", "tally"} <= packages


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_compiles_without_a_warning(nvrtc: Any, source: str, dtype: Any, architecture: str) -> None:
    options = (*cuda.compile_options(dtype), f"-arch={architecture}")
    assert not compiled(nvrtc, cuda.source_text(source), options).strip()


def test_a_message_names_the_file_and_the_line(nvrtc: Any) -> None:
    text = cuda.source_text("tally/tally.cu")
    broken = text.replace('#include "counting.cuh"', '#include "counting.cuh"\nmistake', 1)
    line = broken.split("\n").index("mistake") - 1  # our two lines before the source; lines count from 1
    with pytest.raises(AssertionError, match=rf"tally/tally\.cu\({line}\): error"):
        compiled(nvrtc, broken, (*cuda.compile_options(np.int32), "-arch=sm_90"))
