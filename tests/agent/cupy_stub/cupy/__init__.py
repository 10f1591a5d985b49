"""As much of CuPy 14 as the CUDA executor uses, on NumPy, for machines without a card.

It is as late as a card may be: copies happen when somebody waits for them (or computes after them
on the same stream), so that whoever reads or reuses memory too early gets wrong numbers. Memory is
counted, and full of rubbish when it is new. What it does next is in a JSON file named by
$CUPY_STUB_STATE, by the UUID of the card ("*" for any):

    memory_bytes    of the card; a request beyond it raises OutOfMemoryError (default 1 GiB)
    sticky          error status (700): every call fails with it, from now on and for ever (with
                    "once": in the process that meets it first)
    slow_s          a product takes so much longer
    refuses         dtypes of which there are no products
    absent          there is no card
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
import types
import weakref
from typing import Any

import numpy

from cupy import _blas

__version__ = "14.0.stub"

pi = numpy.pi
_lock = threading.RLock()
_local = threading.local()
_used_bytes = 0
_sticky = 0
#: What was asked for, in order: (stream, what, bytes).
log: list[tuple[int, str, int]] = []


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"cudaError{status}")


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUDA_ERROR_{status}")


class CUBLASError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUBLAS_STATUS_{status}")


class OutOfMemoryError(MemoryError):
    pass


def _state() -> dict[str, Any]:
    path = os.environ.get("CUPY_STUB_STATE")
    if not path or not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "*")
    return {**found.get("*", {}), **found.get(card, {})}


def _check() -> None:
    global _sticky
    with _lock:
        if not _sticky:
            state = _state()
            _sticky = int(state.get("sticky", 0))
            if _sticky and state.get("once"):
                os.unlink(os.environ["CUPY_STUB_STATE"])
        if _sticky:
            raise CUDARuntimeError(_sticky)


# Streams


class Stream:
    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        with _lock:
            _streams.append(self)
            self.ptr = len(_streams)
        self._work: list[Any] = []
        self._done = 0

    def _add(self, work: Any) -> None:
        with _lock:
            self._work.append(work)

    def _drain(self, count: int | None = None) -> None:
        with _lock:
            stop = len(self._work) if count is None else count
            while self._done < stop:
                work, self._work[self._done] = self._work[self._done], None
                self._done += 1
                work()

    def synchronize(self) -> None:
        _check()
        self._drain()
        log.append((self.ptr, "synchronize", 0))

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        with _lock:
            event._at = (self, len(self._work))
        log.append((self.ptr, "record", 0))
        return event

    def wait_event(self, event: Any) -> None:
        event._wait()
        log.append((self.ptr, "wait_event", 0))

    def __enter__(self) -> Any:
        _local.streams = [*getattr(_local, "streams", []), self]
        return self

    def __exit__(self, *args: object) -> None:
        _local.streams = _local.streams[:-1]


class Event:
    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self._at: Any = None

    def _wait(self) -> None:
        if self._at:
            stream, count = self._at
            stream._drain(count)

    def synchronize(self) -> None:
        _check()
        self._wait()


_streams: list[Stream] = []
_null = Stream(null=True)


def _current() -> Stream:
    streams = getattr(_local, "streams", [])
    return streams[-1] if streams else _null


# Memory


class _Memory:
    """Some bytes of the card."""

    def __init__(self, size: int) -> None:
        global _used_bytes
        _check()
        with _lock:
            limit = int(_state().get("memory_bytes", 1 << 30))
            if _used_bytes + size > limit:
                raise OutOfMemoryError(f"{size} bytes, {_used_bytes} of {limit} are used")
            _used_bytes += size
        self.bytes = numpy.full(size, 0xA5, numpy.uint8)
        weakref.finalize(self, _freed, size)


def _freed(size: int) -> None:
    global _used_bytes
    with _lock:
        _used_bytes -= size


class PinnedMemoryPointer(bytearray):
    pass


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    _check()
    return PinnedMemoryPointer(size)


class _Pool:
    def free_all_blocks(self, stream: Any = None) -> None:
        log.append((0, "free_all_blocks", 0))


def get_default_memory_pool() -> _Pool:
    return _Pool()


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    memcpy2DAsync(dst, size, src, size, size, 1, kind, stream)


def memcpy2DAsync(
    dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    _check()
    assert min(dpitch, spitch) >= width

    def copy() -> None:
        for row in range(height):
            ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

    log.append((stream, {1: "in", 2: "out"}[kind], width * height))
    _streams[stream - 1]._add(copy)


# Arrays


class _Pointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray:
    def __init__(self, host: Any, memory: _Memory) -> None:
        self._host = host
        self._memory = memory

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    ndim = property(lambda self: self._host.ndim)
    data = property(lambda self: _Pointer(self._host.ctypes.data))
    T = property(lambda self: ndarray(self._host.T, self._memory))

    def __array__(self, *args: Any, **keywords: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, key: Any) -> Any:
        return ndarray(self._host[key], self._memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        _current()._drain()
        self._host[key] = _host(value)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return _made(numpy.ndarray.astype, self, dtype)

    def view(self, dtype: Any) -> Any:
        return ndarray(self._host.view(dtype), self._memory)

    def reshape(self, *shape: int) -> Any:
        found = self._host.reshape(*shape)
        assert numpy.shares_memory(found, self._host) or not found.size
        return ndarray(found, self._memory)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _made(numpy.max, self, axis=axis, keepdims=keepdims)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _made(numpy.sum, self, axis=axis, keepdims=keepdims)


def _operator(name: str) -> Any:
    def apply(self: Any, other: Any) -> Any:
        found = _made(lambda a, b: getattr(a, name)(b), self, other)
        if name.startswith("__i"):
            self._host[...] = found._host
            return self
        return found

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(f"__{_kind}{_name}__"))


def _host(value: Any) -> Any:
    """Matrices of the host do not mix with those of the card; numbers do."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, numpy.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _new(host: Any) -> ndarray:
    memory = _Memory(host.nbytes)
    target = memory.bytes.view(host.dtype).reshape(host.shape) if host.size else host
    if host.size:
        target[...] = host
    return ndarray(target, memory)


def _made(function: Any, *arguments: Any, out: Any = None, **keywords: Any) -> Any:
    _check()
    stream = _current()
    stream._drain()
    log.append((stream.ptr, "kernel", 0))
    found = numpy.asarray(function(*map(_host, arguments), **keywords))
    if out is None:
        return _new(found)
    out._host[...] = found.astype(out.dtype)
    return out


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    dtype = numpy.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    memory = _Memory(int(numpy.prod(shape)) * dtype.itemsize)
    return ndarray(memory.bytes.view(dtype).reshape(shape), memory)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _new(numpy.zeros(shape, dtype))


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return _new(numpy.ones(shape, dtype))


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> Any:
    _current()._drain()
    return a._host.copy()


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return _made(numpy.ascontiguousarray, a)


def sum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> Any:
    return _made(numpy.sum, a, axis=axis, dtype=dtype, keepdims=keepdims, out=out)


def _function(name: str) -> Any:
    def call(*arguments: Any, out: Any = None, **keywords: Any) -> Any:
        return _made(getattr(numpy, name), *arguments, out=out, **keywords)

    return call


for _name in ("add", "subtract", "multiply", "true_divide", "negative", "maximum", "exp", "tanh"):
    globals()[_name] = _function(_name)


def matmul(a: Any, b: Any, out: Any = None, **keywords: Any) -> Any:
    _refuse(a.dtype.name)
    return _made(numpy.matmul, a, b, out=out)


# Libraries


def _refuse(dtype: str) -> None:
    state = _state()
    if dtype in state.get("refuses", ()):
        raise CUBLASError(15)
    time.sleep(float(state.get("slow_s", 0.0)))


def _gemm_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: int, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
    beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    _check()
    _refuse(numpy.dtype(_blas.TYPES[Atype]).name)
    stream = _current()
    stream._drain()
    log.append((stream.ptr, "gemm", 2 * m * n * k))
    _blas.gemm(
        *(transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc),
        _blas.TF32 if computeType == 68 and _math_modes.get(handle) == 3 else computeType,
    )


#: What somebody set, by handle; a new one has CUBLAS_DEFAULT_MATH.
_math_modes: dict[int, int] = {}


def _device_count() -> int:
    if _state().get("absent"):
        raise CUDARuntimeError(100)
    return 1


cuda = types.SimpleNamespace(
    Stream=Stream,
    Event=Event,
    alloc_pinned_memory=alloc_pinned_memory,
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    driver=types.SimpleNamespace(CUDADriverError=CUDADriverError),
    device=types.SimpleNamespace(get_cublas_handle=lambda: 7),
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=_device_count,
        getDeviceProperties=lambda device: {"name": b"Stub Card", "major": 9, "minor": 0},
        memGetInfo=lambda: (int(_state().get("memory_bytes", 1 << 30)) - _used_bytes, 1 << 30),
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12090,
        deviceSynchronize=_check,
        memcpyAsync=memcpyAsync,
        memcpy2DAsync=memcpy2DAsync,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        CUDA_R_32F=0,
        CUDA_R_64F=1,
        CUDA_R_16F=2,
        CUDA_C_32F=4,
        CUDA_C_64F=5,
        CUDA_R_16BF=14,
    ),
    cublas=types.SimpleNamespace(
        CUBLASError=CUBLASError,
        getVersion=lambda handle: 120803,
        gemmEx=_gemm_ex,
        CUBLAS_OP_N=0,
        CUBLAS_OP_T=1,
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_COMPUTE_64F=70,
        CUBLAS_COMPUTE_32F_FAST_TF32=_blas.TF32,
        setMathMode=_math_modes.__setitem__,
        getMathMode=lambda handle: _math_modes.get(handle, 0),
        CUBLAS_DEFAULT_MATH=0,
        CUBLAS_TF32_TENSOR_OP_MATH=3,
        CUBLAS_GEMM_DEFAULT=-1,
    ),
)
