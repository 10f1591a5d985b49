"""Calibration: how fast this pool is when nobody else uses it, in about two seconds.

What counts is processor time, not elapsed time: a busy neighbour makes a panel take longer, but
does not change how many cycles of ours it costs. So it can be had at a low priority.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.kernels import gemm_panel, sum_panel
from deadheat.runtime.programs import Gemm, GemmShape, Op, Sum

#: Small, cache-sized, large; then thin ones, which are bound by memory.
_SQUARE: Final = ((64, 64, 64), (192, 192, 192), (512, 768, 1024))
_THIN: Final = ((8, 512, 512), (16, 2048, 2048))
#: Sums of four large matrices, which come from memory: the fewest terms of a K-split cost nearly
#: twice as much for each addition, the most two thirds.
_SUM: Final = (512, 3, 1024)
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
#: A tenth of a core beside somebody who wants all of it: out of the way, and done in a minute.
NICENESS: Final = 10
MIN_REPEATS: Final = 2
MAX_REPEATS: Final = 50
#: Processor seconds for one point and thread, after which no more repeats are made.
POINT_BUDGET_S: Final = 0.08


@dataclass(frozen=True, slots=True)
class Point:
    """Seconds of the whole pool for a product or sum of this shape."""

    shape: GemmShape
    seconds: float


def shapes() -> Iterator[GemmShape]:
    for dtype in _MAIN:
        for rows, inner, columns in (*_SQUARE, *_THIN):
            yield GemmShape(rows, inner, columns, dtype)
        rows, passes, columns = _SUM
        yield GemmShape(rows, passes, columns, dtype, Op.SUM)
    for dtype in _OTHERS:
        for rows, inner, columns in _ONE:
            yield GemmShape(rows, inner, columns, dtype)


def calibrate(threads: int, wanted: Iterable[GemmShape]) -> Iterator[Point]:
    """Measures each shape with all threads at once, since they share caches and memory."""
    for shape in wanted:
        yield Point(shape, _measure(shape, threads))


def _measure(shape: GemmShape, threads: int) -> float:
    barrier = threading.Barrier(threads)
    best_s = [float("inf")] * threads

    def work(index: int) -> None:
        # A thread's own, in spite of the name: the machine's owner goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        run = _prepared(shape, index)
        barrier.wait()
        best_s[index] = _best_cpu_s(run)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # Each thread did one in its time; the pool does `threads` of them in that time.
    return 1.0 / sum(1.0 / seconds for seconds in best_s)


def _best_cpu_s(run: Callable[[], None]) -> float:
    run()  # The first call also loads and faults.
    best_s, spent_s = float("inf"), 0.0
    for repeat in range(MAX_REPEATS):
        started_s = time.thread_time()
        run()
        seconds = max(time.thread_time() - started_s, 1e-7)
        best_s, spent_s = min(best_s, seconds), spent_s + seconds
        if repeat + 1 >= MIN_REPEATS and spent_s > POINT_BUDGET_S:
            break
    return best_s


def _prepared(shape: GemmShape, seed: int) -> Callable[[], None]:
    """One panel of that shape, with operands of its own, to be run any number of times."""
    rng = np.random.default_rng(seed)
    out = np.empty((shape.rows, shape.columns), numpy_dtype(shape.dtype))
    if shape.op is Op.SUM:
        terms = [
            _matrix(rng, shape.rows, shape.columns, shape.dtype) for _ in range(shape.inner + 1)
        ]
        return lambda: sum_panel(np, Sum(), shape.dtype, terms, None, out)
    a = _matrix(rng, shape.rows, shape.inner, shape.dtype)
    b = _matrix(rng, shape.inner, shape.columns, shape.dtype)
    return lambda: gemm_panel(np, Gemm(), shape.dtype, a, b, None, out)


def _matrix(rng: np.random.Generator, rows: int, columns: int, dtype: str) -> Any:
    found = numpy_dtype(dtype)
    made = rng.integers(0, 2, (rows, columns)).astype(found)
    return made if element_type(dtype).is_exact else made * found.type(0.37)
