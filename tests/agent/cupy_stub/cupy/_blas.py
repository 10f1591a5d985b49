"""What cuBLAS computes, in its own terms: columns, strides, numbers of types."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy

#: CUBLAS_COMPUTE_32F_FAST_TF32.
TF32 = 77
#: CUDA's numbers of types.
TYPES: dict[int, Any] = {
    2: numpy.float16,
    14: ml_dtypes.bfloat16,
    0: numpy.float32,
    1: numpy.float64,
    4: numpy.complex64,
    5: numpy.complex128,
}


def raw(pointer: int, size: int) -> Any:
    return numpy.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(pointer))


def columns(pointer: int, dtype: int, rows: int, columns: int, stride: int) -> Any:
    """A matrix in cuBLAS's order."""
    assert stride >= max(1, rows)
    itemsize = numpy.dtype(TYPES[dtype]).itemsize
    size = ((columns - 1) * stride + rows) * itemsize
    return numpy.lib.stride_tricks.as_strided(
        raw(pointer, size).view(TYPES[dtype]), (rows, columns), (itemsize, stride * itemsize)
    )


def as_tf32(factor: Any) -> Any:
    """float32 with ten bits of its fraction, rounded to the nearest (ties away from zero)."""
    assert factor.dtype == numpy.float32
    bits = numpy.ascontiguousarray(factor).view(numpy.uint32)
    return ((bits + 0x1000) & ~numpy.uint32(0x1FFF)).view(numpy.float32)


def gemm(
    transa: int, transb: int, m: int, n: int, k: int,
    alpha: int, A: int, Atype: int, lda: int, B: int, Btype: int, ldb: int,
    beta: int, C: int, Ctype: int, ldc: int, compute: int,
) -> None:  # fmt: skip
    single = numpy.complex64 if Ctype == 4 else numpy.float32
    double = numpy.complex128 if Ctype == 5 else numpy.float64
    summed: Any = double if Ctype in (1, 5) else single
    assert compute == 70 if summed is double else compute in (68, TF32)
    a = columns(A, Atype, *((k, m) if transa else (m, k)), lda)
    b = columns(B, Btype, *((n, k) if transb else (k, n)), ldb)
    a, b = (a.T if transa else a), (b.T if transb else b)
    size = numpy.dtype(summed).itemsize
    one, zero = (raw(pointer, size).view(summed)[0] for pointer in (alpha, beta))
    assert (one, zero) == (1, 0)
    if compute == TF32:
        assert Atype == 0, "TF32 is for float32"
        a, b = as_tf32(a), as_tf32(b)
    target = columns(C, Ctype, m, n, ldc)
    target[...] = one * (a.astype(summed) @ b.astype(summed))
