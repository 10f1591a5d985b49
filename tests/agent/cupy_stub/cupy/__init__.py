"""As much of CuPy 14 as the CUDA executor uses, on NumPy, for machines without a card.

It is as late as a card may be: copies happen when somebody waits for them (or computes after them
on the same stream), so that whoever reads or reuses memory too early gets wrong numbers. Memory is
counted, and full of rubbish when it is new. What it does next is in a JSON file named by
$CUPY_STUB_STATE, by the UUID of the card ("*" for any):

    memory_bytes    of the card; a request beyond it raises OutOfMemoryError (default 1 GiB)
    sticky          error status (700): every call fails with it, from now on and for ever (with
                    "once": in the process that meets it first)
    slow_s          a product takes so much longer, or until the file says otherwise
    refuses         dtypes of which there are no products
    absent          there is no card
    unpinnable      memory that is there already cannot be pinned
"""

from __future__ import annotations

import time
import types
from typing import Any

import numpy

from cupy import _blas
from cupy._arrays import *  # noqa: F403 - as CuPy has them.
from cupy._arrays import _made, _new
from cupy._card import (
    CUBLASError,
    CUDADriverError,
    CUDARuntimeError,
    OutOfMemoryError,
    check,
    log,
    said,
)
from cupy._memory import (
    alloc_pinned_memory,
    get_default_memory_pool,  # noqa: F401 - for those who import CuPy.
    hostRegister,
    hostUnregister,
    memcpy2DAsync,
    memcpyAsync,
    pinned_bytes,  # noqa: F401 - for tests.
    used_bytes,
)
from cupy._streams import Event, Stream, current

__version__ = "14.0.stub"

pi = numpy.pi
inf = numpy.inf


def matmul(a: Any, b: Any, out: Any = None, **keywords: Any) -> Any:
    _refuse(a.dtype.name)
    return _made(numpy.matmul, a, b, out=out)


random = types.SimpleNamespace(
    random=lambda shape, dtype: _new(numpy.random.default_rng(1).random(shape, dtype))
)


# Libraries


def _refuse(dtype: str) -> None:
    if dtype in said().get("refuses", ()):
        raise CUBLASError(15)
    began_s = time.monotonic()
    while (left_s := began_s + float(said().get("slow_s", 0.0)) - time.monotonic()) > 0.0:
        time.sleep(min(left_s, 0.02))


def _gemm_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int,
    alpha: int, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
    beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    check()
    _refuse(numpy.dtype(_blas.TYPES[Atype]).name)
    stream = current()
    stream._drain()
    log.append((stream.ptr, "gemm", 2 * m * n * k))
    _blas.gemm(
        *(transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc),
        _blas.TF32 if computeType == 68 and _math_modes.get(handle) == 3 else computeType,
    )


#: What somebody set, by handle; a new one has CUBLAS_DEFAULT_MATH.
_math_modes: dict[int, int] = {}


def _device_count() -> int:
    if said().get("absent"):
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
        memGetInfo=lambda: (int(said().get("memory_bytes", 1 << 30)) - used_bytes(), 1 << 30),
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12090,
        deviceSynchronize=check,
        hostRegister=hostRegister,
        hostUnregister=hostUnregister,
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
