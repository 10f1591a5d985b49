"""Products in the caller's own process: NumPy's, through the kernels that the cluster uses too.

Rules of this file: the values, types and errors are those of a job on the cluster; what NumPy
would warn of (an overflow, infinity times zero) is as quiet here as it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from math import prod
from pathlib import Path
from threading import local
from typing import Final

import numpy as np

from deadheat.client.arrays import Array, ArrayLike, ChainOfMatrices, Product, Source
from deadheat.client.ordering import best_cuts
from deadheat.client.places import Work
from deadheat.runtime import kernels
from deadheat.runtime.dtypes import element_type, name_of, numpy_dtype
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.runtime.programs import Batched, Gemm, MatrixType
from deadheat.runtime.scratch import Scratch
from deadheat.runtime.units import format_bytes
from deadheat.store.npyfiles import read_header

#: Multiply-adds up to which no cluster can be faster: a job costs milliseconds, and a core does
#: this in two or three. BLAS does float64 at some 25e9 a second; integers have no BLAS, and NumPy's
#: loops do about 1e9.
_BLAS_STEPS: Final = 64_000_000
_LOOP_STEPS: Final = 2_000_000
#: float16 and bfloat16 are not here: they are summed in float32, which NumPy's product does not.
_STEPS: Final = {
    **dict.fromkeys(map(np.dtype, ("float64", "float32")), _BLAS_STEPS),
    **dict.fromkeys(map(np.dtype, ("complex128", "complex64")), _BLAS_STEPS // 4),
    **dict.fromkeys(map(np.dtype, ("bool", "int64", "int32", "int16", "int8")), _LOOP_STEPS),
    **dict.fromkeys(map(np.dtype, ("uint64", "uint32", "uint16", "uint8")), _LOOP_STEPS),
}

#: For each thread a context in which NumPy does not warn: one may not be entered twice.
_here = local()


def at_once(a: ArrayLike, b: ArrayLike) -> Array | None:
    """`a @ b` where that needs no second thought; None where it does.

    What it looks at costs about a microsecond: plain arrays of one native type, whose sizes fit,
    and so few steps that no cluster could be faster.
    """
    if type(a) is not np.ndarray or type(b) is not np.ndarray:
        return None
    steps = _STEPS.get(a.dtype)
    rows, columns = a.shape, b.shape
    if (
        steps is None
        or a.dtype != b.dtype
        or not 0 < len(rows) < 3
        or not 0 < len(columns) < 3
        or rows[-1] != columns[0]
        or a.size * (columns[1] if len(columns) == 2 else 1) > steps
    ):
        return None
    return _quiet_matmul(a, b)


def _quiet_matmul(a: Array, b: Array) -> Array:
    """NumPy's, without a warning. After a product the caches hold nothing of ours: there
    `np.errstate` takes 20 microseconds, a context in which warnings are off takes one."""
    try:
        run = _here.run
    except AttributeError:
        quiet = Context()
        quiet.run(np.seterr, all="ignore")
        run = _here.run = quiet.run
    made: Array = run(np.matmul, a, b)
    return made


def plain_work(a: ArrayLike, b: ArrayLike) -> Work | None:
    """What `a @ b` takes, of matrices with which nothing is to be found out: plain arrays of one
    native type, whose sizes fit and of which neither is a part of the other. None for others.

    A product of 512 x 512 takes NumPy two milliseconds; to check all that may be given and to
    write a program takes a tenth of one.
    """
    if type(a) is not np.ndarray or type(b) is not np.ndarray:
        return None
    if a.dtype not in _STEPS or a.dtype != b.dtype or not a.ndim == b.ndim == 2:
        return None
    if a.shape[1] != b.shape[0] or np.may_share_memory(a, b):
        return None
    dtype = name_of(a.dtype, field="a")
    flops = float(2 * a.size * b.shape[1] * element_type(dtype).flops_per_step)
    result_bytes = a.shape[0] * b.shape[1] * a.itemsize
    return Work(dtype, flops, flops, a.nbytes + b.nbytes + result_bytes)


def multiplied(a: Array, b: Array) -> Array:
    """`a @ b` of two matrices; raises LimitReached where there is no memory for it."""
    try:
        return _quiet_matmul(a, b)
    except MemoryError:
        raise _no_memory(MatrixType(a.shape[0], b.shape[1], a.dtype.name)) from None


def read(value: ArrayLike) -> ArrayLike:
    """What a path names, read rather than mapped: a file that somebody cuts short meanwhile must
    not kill this process. Anything else as it is."""
    if not isinstance(value, (str, Path)):
        return value
    path = read_header(Path(value).expanduser().absolute()).path
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InvalidInput(f"{path}: {error}", field=str(path)) from None
    except MemoryError:
        raise LimitReached(f"no memory here for {path}") from None


def product(checked: Product, kind: Gemm | Batched) -> Array:
    """A checked product, with its epilogue."""
    if isinstance(kind, Batched):
        return _stack(checked, kind)
    a, b = _operand(checked.a, checked.dtype), _operand(checked.b, checked.dtype)
    bias = None if checked.bias is None else _operand(checked.bias, checked.dtype)
    # Transposed operands are views already.
    kind = Gemm(alpha=kind.alpha, activation=kind.activation)
    made = _multiplied(a, b, checked.dtype, kind, bias)
    return _shaped(made, checked.result_shape)


def _stack(checked: Product, kind: Batched) -> Array:
    """A product for each matrix of a batch, in one call."""
    if 0 in checked.result_shape:
        return np.empty(checked.result_shape, numpy_dtype(checked.dtype))
    a, b = _operand(checked.a, checked.dtype), _operand(checked.b, checked.dtype)
    bias = None if checked.bias is None else _operand(checked.bias, checked.dtype)
    a = a.reshape(*kind.a_batch, a.shape[0] // prod(kind.a_batch), a.shape[1])
    b = b.reshape(*kind.b_batch, b.shape[0] // prod(kind.b_batch), b.shape[1])
    shape = (*np.broadcast_shapes(kind.a_batch, kind.b_batch), a.shape[-2], b.shape[-1])
    with np.errstate(all="ignore"):
        try:
            out = np.empty(shape, numpy_dtype(checked.dtype))
            kernels.gemm_panel(np, kind.gemm, checked.dtype, a, b, bias, out)
        except MemoryError:
            raise LimitReached(f"no memory here for the result, {shape}") from None
    return _shaped(out, checked.result_shape)


def chain(checked: ChainOfMatrices) -> Array:
    """A checked chain, in the order with the fewest operations."""
    matrices = [_operand(source, checked.dtype) for source in checked.sources]
    sizes = [matrices[0].shape[0], *(matrix.shape[1] for matrix in matrices)]
    cuts = best_cuts(sizes)

    scratch = Scratch(np)
    dtype = numpy_dtype(checked.dtype)

    def made(start: int, stop: int) -> Array:
        if stop - start == 1:
            return matrices[start]
        cut = cuts[start, stop]
        a, b = made(start, cut), made(cut, stop)
        out = None
        if stop - start < len(matrices):
            with _no_memory_means_limit(MatrixType(a.shape[0], b.shape[1], checked.dtype)):
                out = scratch.take(a.shape[0], b.shape[1], dtype)
        product = _multiplied(a, b, checked.dtype, Gemm(), out=out)
        scratch.give(a)
        scratch.give(b)
        return product

    return _shaped(made(0, len(matrices)), checked.result_shape)


def _operand(source: Source, dtype: str) -> Array:
    """The operand as NumPy multiplies it: native, of the product's type, and otherwise as it is,
    so that NumPy sees where one operand is the other one transposed and does half the work."""
    array = source.array.astype(numpy_dtype(dtype), copy=False)
    return array.T if source.is_transposed else array


def _multiplied(
    a: Array,
    b: Array,
    dtype: str,
    kind: Gemm,
    bias: Array | None = None,
    out: Array | None = None,
) -> Array:
    matrix = MatrixType(a.shape[0], b.shape[1], dtype)
    with np.errstate(all="ignore"), _no_memory_means_limit(matrix):
        if out is None:
            out = np.empty((matrix.rows, matrix.columns), numpy_dtype(dtype))
        kernels.gemm_panel(np, kind, dtype, a, b, bias, out)
    return out


@contextmanager
def _no_memory_means_limit(matrix: MatrixType) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise _no_memory(matrix) from None


def _no_memory(matrix: MatrixType) -> LimitReached:
    size = format_bytes(matrix.size_bytes)
    return LimitReached(f"no memory here for the result, {matrix}: {size}")


def _shaped(made: Array, shape: tuple[int, ...]) -> Array:
    """NumPy's shape of the result; a number where it has no dimension."""
    if made.shape == shape:
        return made
    found: Array = made.reshape(shape)[()]
    return found
