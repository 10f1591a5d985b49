"""Calibration: how fast this pool is when nobody else uses it, in about two seconds.

What counts is processor time, not elapsed time: a busy neighbour makes a panel take longer, but
does not change how many cycles of ours it costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deadheat.agent.executors.kernels import gemm_panel
from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import Gemm, GemmShape

#: Small, cache-sized, large; then thin ones, which are bound by memory.
_SQUARE: Final = ((64, 64, 64), (192, 192, 192), (512, 768, 1024))
_THIN: Final = ((8, 512, 512), (16, 2048, 2048))
#: For types without BLAS, which are slow, and those computed through another.
_ONE: Final = ((128, 192, 192),)
_MAIN: Final = ("float64", "float32")
_OTHERS: Final = (
    "complex128",
    "complex64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)
MIN_REPEATS: Final = 2
MAX_REPEATS: Final = 50
#: Processor seconds for one point and thread, after which no more repeats are made.
POINT_BUDGET_S: Final = 0.08


@dataclass(frozen=True, slots=True)
class Point:
    """Seconds of the whole pool for a product of this shape."""

    shape: GemmShape
    seconds: float


def shapes() -> Iterator[GemmShape]:
    for dtype in _MAIN:
        for rows, inner, columns in (*_SQUARE, *_THIN):
            yield GemmShape(rows, inner, columns, dtype)
    for dtype in _OTHERS:
        for rows, inner, columns in _ONE:
            yield GemmShape(rows, inner, columns, dtype)


def calibrate(threads: int) -> list[Point]:
    """Measures every shape with all threads at once, since they share caches and memory."""
    return [Point(shape, _measure(shape, threads)) for shape in shapes()]


def _measure(shape: GemmShape, threads: int) -> float:
    barrier = threading.Barrier(threads)
    best_s = [float("inf")] * threads

    def work(index: int) -> None:
        a, b, out = _operands(shape, index)
        barrier.wait()
        best_s[index] = _best_cpu_s(shape, a, b, out)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # Each thread did one product in its time; the pool does `threads` of them in that time.
    return 1.0 / sum(1.0 / seconds for seconds in best_s)


def _best_cpu_s(shape: GemmShape, a: Any, b: Any, out: Any) -> float:
    gemm_panel(np, Gemm(), shape.dtype, a, b, None, out)  # The first call also loads and faults.
    best_s, spent_s = float("inf"), 0.0
    for repeat in range(MAX_REPEATS):
        started_s = time.thread_time()
        gemm_panel(np, Gemm(), shape.dtype, a, b, None, out)
        seconds = max(time.thread_time() - started_s, 1e-7)
        best_s, spent_s = min(best_s, seconds), spent_s + seconds
        if repeat + 1 >= MIN_REPEATS and spent_s > POINT_BUDGET_S:
            break
    return best_s


def _operands(shape: GemmShape, seed: int) -> Sequence[Any]:
    dtype = numpy_dtype(shape.dtype)
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, (shape.rows, shape.inner)).astype(dtype)
    b = rng.integers(0, 2, (shape.inner, shape.columns)).astype(dtype)
    if not element_type(shape.dtype).is_exact:
        a, b = a * dtype.type(0.37), b * dtype.type(0.73)
    return a, b, np.empty((shape.rows, shape.columns), dtype)
