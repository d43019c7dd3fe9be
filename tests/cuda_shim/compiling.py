"""CUDA source → shared library by g++ and cuda_shim.h, and its kernels as callables on addresses."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

SHIM = Path(__file__).with_name("cuda_shim.h")
FLAGS = (
    "-std=c++20", "-O2", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w",
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero",
)  # fmt: skip
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")

# Kernels of one library share its static memory, and blocks run one after the other.
_one_at_a_time = threading.Lock()


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which("g++")


class Kernel:
    """One __global__ function: checks the arguments against its parameters, then runs every block."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._launch = getattr(library, f"shim_launch_{name}")
        self._launch.restype = ctypes.c_char_p
        signature = getattr(library, f"shim_signature_{name}")
        signature.restype = ctypes.c_char_p
        self.parameters: list[str] = signature().decode().split()
        """One text per parameter: i8 is a signed integer of 8 bytes, *i8 a pointer to such."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[tuple[str, bytes]], shared_bytes: int
    ) -> None:
        """Run. arguments : kind (as in parameters) and bytes of each."""
        kinds = [kind for kind, _ in arguments]
        matches = len(kinds) == len(self.parameters) and all(
            expected in (kind, "*") or (expected == "*u1" and kind == "*b1")
            for kind, expected in zip(kinds, self.parameters, strict=True)
        )
        if not matches:
            raise TypeError(f"{self.name} takes ({', '.join(self.parameters)}) and was given ({', '.join(kinds)})")
        if not (0 < _product(block) <= 1024 and 0 < grid[0] < 2**31 and all(0 < n < 2**16 for n in grid[1:])):
            raise ValueError(f"{self.name}: no GPU launches a grid of {grid} blocks of {block} threads")
        buffers = [ctypes.create_string_buffer(value, len(value)) for _, value in arguments]
        pointers = (ctypes.c_void_p * max(1, len(buffers)))(*(ctypes.addressof(b) for b in buffers))
        three = [(ctypes.c_uint * 3)(*(*n, 1, 1)[:3]) for n in (grid, block)]
        with _one_at_a_time:
            problem = self._launch(*three, ctypes.c_size_t(shared_bytes), pointers).decode()
        if problem:
            raise RuntimeError(f"{self.name}: {problem}")


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for n in sizes:
        result *= n
    return result


@functools.lru_cache(maxsize=64)
def compile_source(code: str, options: tuple[str, ...]) -> dict[str, Kernel]:
    """Every kernel of a CUDA source by its name. options : those of NVRTC; -D and -I count here."""
    names = _KERNEL.findall(code)
    code = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(shim::dynamic_memory);", code)
    unit = f'#include "{SHIM}"\n{code}\n' + "".join(f"SHIM_KERNEL({name})\n" for name in names)
    flags = [*FLAGS, *(option for option in options if option.startswith(("-D", "-I")))]
    headers = "".join(p.read_text("utf-8") for o in options if o.startswith("-I") for p in _headers(o[2:]))
    key = hashlib.sha256("\0".join([unit, SHIM.read_text("utf-8"), headers, *flags]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"voxcaliper-cuda-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source = Path(work) / "unit.cpp"
            source.write_text(unit, "utf-8")
            # Linked without the sanitiser's library: the shim has its own handlers.
            _run(["g++", *flags, "-c", str(source), "-o", f"{work}/unit.o"])
            _run(["g++", "-shared", f"{work}/unit.o", "-o", f"{work}/unit.so"])
            Path(f"{work}/unit.so").replace(library)
    loaded = ctypes.CDLL(str(library))
    return {name: Kernel(loaded, name) for name in names}


def _headers(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.cuh"))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ refuses a kernel:\n{done.stderr[:6000]}")


def bytes_of(value: Any) -> tuple[str, bytes]:
    """Kind and bytes of a scalar argument, as CuPy passes it: int is long long, float is double."""
    import numpy as np

    if isinstance(value, bool):
        value = np.bool_(value)
    elif isinstance(value, int):
        value = np.int64(value)
    elif isinstance(value, float):
        value = np.float64(value)
    if not isinstance(value, np.generic):
        raise TypeError(f"a kernel cannot take {type(value)}")
    return f"{value.dtype.kind}{value.dtype.itemsize}", value.tobytes()
