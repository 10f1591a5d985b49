"""CuPy as the array namespace of `runtime.kernels`, with products that tensor cores do.

Products of floats go to cuBLAS's GemmEx as they are stored, strided views as well, which CuPy's
own `matmul` would copy first, and are summed in the type that we promise: float16 and bfloat16 in
float32. That is also what comes out where a bias is added or an activation taken before the result
is rounded once; where nothing is, cuBLAS rounds it. float32 is strict unless the product was asked
for in TF32, which keeps ten bits of each factor. Nothing else has a say in it: CUPY_TF32 is for
CuPy's own products, the math mode of cuBLAS's handle is set with each call, and the process is
started without NVIDIA_TF32_OVERRIDE.
Products of integers and bool are CuPy's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from deadheat.agent.executors.cuda.card import Card
from deadheat.runtime.programs import Precision

Array = Any

#: By dtype: the name of its cuBLAS type, and the type in which it is summed.
_FLOATS: Final = {
    "float16": ("CUDA_R_16F", "float32"),
    "bfloat16": ("CUDA_R_16BF", "float32"),
    "float32": ("CUDA_R_32F", "float32"),
    "float64": ("CUDA_R_64F", "float64"),
    "complex64": ("CUDA_C_32F", "complex64"),
    "complex128": ("CUDA_C_64F", "complex128"),
}
_COMPUTE: Final = {
    "float32": "CUBLAS_COMPUTE_32F",
    "float64": "CUBLAS_COMPUTE_64F",
    "complex64": "CUBLAS_COMPUTE_32F",
    "complex128": "CUBLAS_COMPUTE_64F",
}
#: Where TF32 was asked for. A card that has none computes in float32 then.
_TF32: Final = "CUBLAS_COMPUTE_32F_FAST_TF32"
#: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: parts of a sum are not rounded before it.
_ROUNDS_ONCE: Final = 16
#: CuPy's kernel for products of integers counts elements in 32 bits.
_MAX_ELEMENTS: Final = (1 << 31) - 1


class Namespace:
    """What is not here is CuPy's."""

    #: Element by element a card reads its memory once in any case; blocks only bound what is
    #: between (and a kernel for each megabyte would be all starting).
    block_bytes: Final = 256 << 20
    rounds: Final = frozenset({"float16", "bfloat16"})

    def __init__(self, card: Card) -> None:
        self._cupy = card.cupy
        self.__name__ = "cupy"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cupy, name)

    def product(
        self, a: Array, b: Array, out: Array, precision: Precision = Precision.STRICT
    ) -> None:
        """`out[...] = a @ b`: `a` is m x k and `b` is k x n, of one dtype, views of any strides;
        `out` is m x n without gaps, of the type in which that dtype is summed, or of that dtype if
        it is one of `rounds`. Of float32 factors may be TF32 if the precision says so."""
        if not a.size or not b.size:
            out[...] = 0
        elif a.dtype.name in _FLOATS:
            is_tf32 = precision is Precision.TF32 and a.dtype.name == "float32"
            self._gemm(a, b, out, _TF32 if is_tf32 else _COMPUTE[_FLOATS[a.dtype.name][1]])
        else:
            self._exact(a, b, out)

    def _gemm(self, a: Array, b: Array, out: Array, compute: str) -> None:
        cuda = self._cupy.cuda
        summed = _FLOATS[a.dtype.name][1]
        is_rounded = out.dtype == a.dtype and a.dtype.name in self.rounds
        if not (is_rounded or out.dtype == summed) or b.dtype != a.dtype:
            raise TypeError(f"{a.dtype} by {b.dtype} is summed in {summed}, not in {out.dtype}")
        a, is_a_transposed, a_stride = self._for_cublas(a)
        b, is_b_transposed, b_stride = self._for_cublas(b)
        # cuBLAS thinks in columns: what is row-major here is the transpose there, so it is asked
        # for C.T = B.T @ A.T. Factors are read when the call is made, not later.
        one, zero = np.ones(1, summed), np.zeros(1, summed)
        cublas, (rows, inner), columns = cuda.cublas, a.shape, b.shape[1]
        of_factors, of_out = (getattr(cuda.runtime, _FLOATS[d.dtype.name][0]) for d in (a, out))
        handle = cuda.device.get_cublas_handle()
        # Each thread has a handle of its own; one that somebody set to TF32 would stay so.
        cublas.setMathMode(handle, _ROUNDS_ONCE if is_rounded else cublas.CUBLAS_DEFAULT_MATH)
        cublas.gemmEx(
            handle,
            cublas.CUBLAS_OP_T if is_b_transposed else cublas.CUBLAS_OP_N,
            cublas.CUBLAS_OP_T if is_a_transposed else cublas.CUBLAS_OP_N,
            *(columns, rows, inner, one.ctypes.data),
            *(b.data.ptr, of_factors, b_stride),
            *(a.data.ptr, of_factors, a_stride),
            zero.ctypes.data,
            *(out.data.ptr, of_out, columns),
            *(getattr(cublas, compute), cublas.CUBLAS_GEMM_DEFAULT),
        )

    def _for_cublas(self, array: Array) -> tuple[Array, bool, int]:
        """The array, or a copy that cuBLAS can read; whether it lies transposed; its stride in
        elements from one line to the next."""
        itemsize, (rows, columns) = array.itemsize, array.shape
        if array.strides[1] == itemsize or columns == 1:
            stride = array.strides[0] // itemsize
            if rows == 1 or stride >= columns:
                return array, False, max(stride, columns)
        if array.strides[0] == itemsize or rows == 1:
            stride = array.strides[1] // itemsize
            if columns == 1 or stride >= rows:
                return array, True, max(stride, rows)
        return self._cupy.ascontiguousarray(array), False, columns

    def _exact(self, a: Array, b: Array, out: Array) -> None:
        inner = a.shape[1]
        most = max(1, _MAX_ELEMENTS // max(a.shape[0], b.shape[1]))
        self._cupy.matmul(a[:, :most], b[:most], out=out)
        for start in range(most, inner, most):
            part = self._cupy.matmul(a[:, start : start + most], b[start : start + most])
            self._cupy.add(out, part, out=out)  # For bool that is "or".
