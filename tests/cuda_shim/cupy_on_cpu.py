"""The part of CuPy that the project uses, on numpy. `pretended` puts it in CuPy's place for a while.

As strict as CuPy where mistakes hide: an array never becomes a numpy array by itself, never mixes with one, and
kernels take only contiguous arrays of their parameters' types. Stricter than a GPU: new memory holds garbage, and
memory before and behind every array is guarded.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tests.cuda_shim.compiling import bytes_of, compile_source

GUARD = 64
POISON = 0xA5

_lock = threading.Lock()


class Pool:
    """Counts device memory: bytes in use, and the most there have been since `peak` was set."""

    def __init__(self) -> None:
        self.peak = 0
        self._used = 0
        # Arrays end whenever the garbage collector likes, also while the lock is held: they only leave a note.
        self._ended: collections.deque[int] = collections.deque()

    @property
    def used(self) -> int:
        with _lock:
            while self._ended:
                self._used -= self._ended.popleft()
            return self._used

    def take(self, nbytes: int) -> None:
        now = self.used + nbytes
        with _lock:
            self._used += nbytes
            self.peak = max(self.peak, now)

    def give_back(self, nbytes: int) -> None:
        self._ended.append(nbytes)

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is kept."""

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Nothing is limited."""


pool = Pool()


class Allocation:
    """Device memory between two guards, counted while it lives."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.raw = np.full(nbytes + 2 * GUARD + 64, POISON, np.uint8)
        self.first = GUARD + -(self.raw.ctypes.data + GUARD) % 64  # aligned as device memory is
        pool.take(nbytes)

    def __del__(self) -> None:
        pool.give_back(self.nbytes)

    def check(self) -> None:
        last = self.first + self.nbytes
        if (self.raw[: self.first] != POISON).any() or (self.raw[last:] != POISON).any():
            raise RuntimeError("a kernel wrote outside of its array")


def _root(array: npt.NDArray[Any]) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class ndarray:  # noqa: N801  # CuPy's name
    """An array that pretends to live on a device."""

    __slots__ = ("__weakref__", "host", "owner")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    def __init__(self, host: npt.NDArray[Any], owner: Allocation) -> None:
        self.host = host
        self.owner = owner

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.host.__array_interface__, "version": 3, "stream": 1}

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: Any, method: str, *arguments: Any, **named: Any) -> Any:
        return _call(getattr(ufunc, method), arguments, named)

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, named: Any) -> Any:
        if function.__name__ in globals():
            return globals()[function.__name__](*arguments, **named)
        return _call(function, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.host, name)
        if callable(found):
            return lambda *arguments, **named: _call(found, arguments, named, self)
        return _wrap(found, [self.owner]) if isinstance(found, np.ndarray) else found

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.host.ctypes.data)

    @property
    def device(self) -> Device:
        return Device(0)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
        if out is None:
            return self.host.copy()
        out[...] = self.host
        return out

    def set(self, values: npt.NDArray[Any], stream: Any = None) -> None:
        if values.shape != self.host.shape or values.dtype != self.host.dtype:
            raise ValueError("set takes an array of the same shape and dtype")
        self.host[...] = values

    def __getitem__(self, index: Any) -> Any:
        return _call(self.host.__getitem__, (index,), {}, self)

    def __setitem__(self, index: Any, value: Any) -> None:
        _call(self.host.__setitem__, (index, value), {}, self)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self.host)))

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __index__(self) -> int:
        return operator.index(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __repr__(self) -> str:
        return f"on device: {self.host!r}"


def _operator(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *others: Any) -> Any:
        result = _call(getattr(self.host, name), others, {}, self)
        return self if name.startswith("__i") and name != "__invert__" else result

    return method


_OPERATORS = """
add sub mul floordiv truediv mod pow and or xor lshift rshift radd rsub rmul rfloordiv rtruediv rand ror
iadd isub imul ifloordiv iand ior ixor ilshift irshift lt le eq ne gt ge neg invert abs
"""
for _name in _OPERATORS.split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _allocate(shape: Any, dtype: Any) -> ndarray:
    dtype = np.dtype(dtype)
    shape = tuple(int(n) for n in shape) if np.ndim(shape) else (int(shape),)
    nbytes = dtype.itemsize
    for n in shape:
        nbytes *= n
    owner = Allocation(nbytes)
    host = owner.raw[owner.first : owner.first + nbytes].view(dtype).reshape(shape)
    return ndarray(host, owner)


def _wrap(result: Any, owners: list[Allocation]) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(_wrap(item, owners) for item in result)
    if isinstance(result, np.ndarray):
        root = _root(result)
        for owner in owners:
            if root is owner.raw:
                return ndarray(result, owner)
    if isinstance(result, np.ndarray | np.generic):
        copy = _allocate(result.shape, result.dtype)
        copy.host[...] = result
        return copy
    return result


def _bare(value: Any, owners: list[Allocation]) -> Any:
    """A value as numpy knows it; notes the memory that it lives in."""
    if isinstance(value, ndarray):
        owners.append(value.owner)
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(_bare(item, owners) for item in value)
    return value


def _call(function: Any, arguments: Any, named: Any, me: ndarray | None = None) -> Any:
    owners = [me.owner] if me is not None else []
    ours = [_bare(value, owners) for value in arguments]
    return _wrap(function(*ours, **{name: _bare(value, owners) for name, value in named.items()}), owners)


# ---- functions of the module -----------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Memory with garbage in it."""
    return _allocate(shape, dtype)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    """Zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float) -> ndarray:
    """Ones."""
    return full(shape, 1, dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    """One value."""
    out = _allocate(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    out.host[...] = fill_value
    return out


def empty_like(prototype: ndarray, dtype: Any = None) -> ndarray:
    """Garbage in the shape of another array."""
    return _allocate(prototype.host.shape, prototype.host.dtype if dtype is None else dtype)


def asarray(values: Any, dtype: Any = None) -> ndarray:
    """To the device, or as it is where it lives there already."""
    if isinstance(values, ndarray):
        return values if dtype is None or values.host.dtype == np.dtype(dtype) else array(values, dtype)
    return array(values, dtype)


def array(values: Any, dtype: Any = None) -> ndarray:
    """A copy on the device."""
    host = np.asarray(values.host if isinstance(values, ndarray) else values, dtype)
    out = _allocate(host.shape, host.dtype)
    out.host[...] = host
    return out


def ascontiguousarray(values: Any, dtype: Any = None) -> ndarray:
    """Contiguous, on the device."""
    array_ = asarray(values, dtype)
    return array_ if array_.host.flags.c_contiguous else array(array_)


def asnumpy(values: Any, stream: Any = None, order: str = "C", out: Any = None) -> Any:
    """From the device."""
    return values.get(stream, order, out) if isinstance(values, ndarray) else np.asarray(values)


def get_array_module(*arrays: Any) -> Any:
    """CuPy if an array lives on the device, else numpy."""
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in arrays) else np


class RawKernel:
    """A kernel of a module."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.preferred_shared_memory_carveout = -1

    @property
    def num_regs(self) -> int:
        return 32

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError("set max_dynamic_shared_size_bytes first")
        arrays = [a for a in args if isinstance(a, ndarray)]
        for a in arrays:
            if not a.host.flags.c_contiguous:
                raise TypeError("a kernel was given an array that is not contiguous")
        packed = []
        for a in args:
            if isinstance(a, ndarray):
                kind = f"*{a.host.dtype.kind}{a.host.dtype.itemsize}"
                packed.append((kind, np.uint64(a.host.ctypes.data).tobytes()))
            else:
                packed.append(bytes_of(a))
        self._kernel(tuple(int(n) for n in grid), tuple(int(n) for n in block), packed, shared_mem)
        for a in arrays:
            a.owner.check()


class RawModule:
    """CUDA source, compiled by g++ at first use."""

    def __init__(self, *, code: str, options: Any = (), backend: str = "nvrtc", **_: Any) -> None:
        self._code = code
        self._options = tuple(options)

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(compile_source(self._code, self._options)[name])


# ---- cupy.cuda: one device, streams that are always done -------------------------------------------------------------


class Device:
    """The only device."""

    def __init__(self, device: int | None = None) -> None:
        if device not in (None, 0):
            raise cuda.runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = 0
        self.compute_capability = "90"
        self.mem_info = (1 << 37, 1 << 37)
        self.attributes = {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 232448}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __int__(self) -> int:
        return 0

    def use(self) -> None:
        """It is in use."""

    def synchronize(self) -> None:
        """Nothing is under way."""


class Stream:
    """A stream that is done with everything."""

    null: Stream
    _numbers = itertools.count(1)

    def __init__(self, *, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.ptr = 0 if null else next(self._numbers)

    def __enter__(self) -> Self:
        _streams().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _streams().pop()

    def use(self) -> Stream:
        _streams()[:] = [self]
        return self

    def synchronize(self) -> None:
        """Nothing is under way."""

    def record(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, event: Event) -> None:
        """It is done."""

    @property
    def done(self) -> bool:
        return True


class Event:
    """An event that has happened, and when."""

    def __init__(self, *, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.done = True
        self.seconds = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """It has happened."""


Stream.null = Stream(null=True)
_current = threading.local()


def _streams() -> list[Stream]:
    if not hasattr(_current, "streams"):
        _current.streams = [Stream.null]
    streams: list[Stream] = _current.streams
    return streams


def get_default_memory_pool() -> Pool:
    """The pool that counts."""
    return pool


def get_default_pinned_memory_pool() -> Any:
    """Nothing is pinned."""
    return types.SimpleNamespace(free_all_blocks=lambda: None, n_free_blocks=lambda: 0)


class CUDARuntimeError(RuntimeError):
    """Never raised by the runtime of a CPU."""


class OutOfMemoryError(MemoryError):
    """Never raised here."""


cuda = types.ModuleType("cupy.cuda")
runtime = types.ModuleType("cupy.cuda.runtime")
nvrtc = types.ModuleType("cupy.cuda.nvrtc")
BYTES = 1 << 37
vars(runtime).update(
    CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, getDevice=lambda: 0, setDevice=lambda _: None,
    getDeviceProperties=lambda _: {"name": b"a CPU that pretends", "multiProcessorCount": 4, "totalGlobalMem": BYTES},
    memGetInfo=lambda: (BYTES, BYTES), driverGetVersion=lambda: 12090, runtimeGetVersion=lambda: 12090,
    deviceSynchronize=lambda: None,
)  # fmt: skip
vars(nvrtc).update(getVersion=lambda: (12, 9))
vars(cuda).update(
    Device=Device, Stream=Stream, Event=Event, runtime=runtime, nvrtc=nvrtc, is_available=lambda: True,
    get_elapsed_time=lambda begin, end: 1e3 * (end.seconds - begin.seconds),
    get_current_stream=lambda: _streams()[-1], alloc_pinned_memory=bytearray,
    MemoryPool=lambda *_: pool, set_allocator=lambda *_: None, set_pinned_memory_allocator=lambda *_: None,
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
)  # fmt: skip

_cupyx = types.ModuleType("cupyx")
vars(_cupyx).update(
    empty_pinned=lambda shape, dtype=float, order="C": np.empty(shape, dtype),
    zeros_pinned=lambda shape, dtype=float, order="C": np.zeros(shape, dtype),
    empty_like_pinned=lambda like: np.empty(like.shape, like.dtype),
)


def __getattr__(name: str) -> Any:
    """Everything else as numpy has it: types and constants themselves, functions with device arrays."""
    if name.startswith("__"):
        raise AttributeError(name)
    found = getattr(np, name)
    if isinstance(found, type) or not callable(found):
        return found
    return lambda *arguments, **named: _call(found, arguments, named)


def _forget() -> None:
    """Drop what remembers which CuPy it was made with: the GPU twins, and the loader's kernels."""
    for name in [n for n in sys.modules if n.startswith("pipeline.kernels.") and n.endswith(".gpu")]:
        del sys.modules[name]
    if (loader := sys.modules.get("pipeline.kernels.cuda")) is not None:
        for value in vars(loader).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@contextlib.contextmanager
def pretended() -> Iterator[Any]:
    """This module in the place of CuPy; yields it."""
    ours = {"cupy": sys.modules[__name__], "cupy.cuda": cuda, "cupy.cuda.runtime": runtime, "cupyx": _cupyx}
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("cupy", "cupyx")}
    for name in real:
        del sys.modules[name]
    sys.modules.update(ours)
    _forget()
    try:
        yield ours["cupy"]
    finally:
        _forget()
        for name in ours:
            del sys.modules[name]
        sys.modules.update(real)
