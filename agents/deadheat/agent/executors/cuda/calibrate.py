"""Calibration of a card: how fast it does products whose operands are in memory of the host.

What is measured is what a sub-task takes, copies included, by the very pool that runs sub-tasks,
from shared memory that is pinned already as that of a store mostly is; there is no counter of a
card's time that leaves out what others do with it. A dtype that a card or its libraries cannot do
gets no point, and so the planner gives it nothing of that dtype.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import psutil

from deadheat.agent.executors.bounds import STREAMS
from deadheat.agent.executors.calibrate import Point
from deadheat.agent.executors.cardpanels import CardPanels
from deadheat.agent.executors.cuda.compute import CardCompute
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.agent.memory import Memory
from deadheat.runtime import logs
from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import (
    Gemm,
    GemmShape,
    MatrixType,
    Op,
    Operation,
    Precision,
    Rectangle,
    Sum,
)
from deadheat.v1 import local_pb2

log = logs.get("calibration")

#: Small: all is starting. Then up to where a large card is bound by arithmetic. Each is at most 64
#: times the work of the one before, since by its time it is judged what the next one will take.
_SQUARE: Final = tuple((n, n, n) for n in (128, 512, 1024, 2048, 4096, 8192, 16384))
_THIN: Final = ((16, 2048, 2048), (32, 8192, 8192))
_SUM: Final = (4096, 3, 4096)
_MAIN: Final = ("float64", "float32", "float16", "bfloat16")
_ONE: Final = (512, 512, 512)
_OTHERS: Final = (
    *("complex128", "complex64", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool"),
)
#: Of each shape. The first also loads libraries and kernels, and is dropped.
REPEATS: Final = 3
#: A shape that would take longer than this, going by the one before, is left out.
MAX_SHAPE_S: Final = 0.5
#: Nor may operands and result take more than this, or more of the memory that is free.
MAX_SIZE_BYTES: Final = 2 << 30
MAX_MEMORY_SHARE: Final = 0.25
#: A panel that does not end by then never will.
TIMEOUT_S: Final = 60.0


def calibrate(compute: CardCompute) -> list[Point]:
    """In the order in which they are measured."""
    found: list[Point] = []
    bench = _Bench(compute)
    try:
        for shapes in _series():
            found += _measured(bench, shapes)
    finally:
        bench.close()
    return found


def _series() -> Iterator[list[GemmShape]]:
    """Shapes of rising size, of one kind each."""
    for dtype in _MAIN:
        yield [GemmShape(*sides, dtype) for sides in _SQUARE]
        yield [GemmShape(*sides, dtype) for sides in _THIN]
        yield [GemmShape(*_SUM, dtype, Op.SUM)]
    for shapes in (_SQUARE, _THIN):
        yield [GemmShape(*sides, "float32", Op.TF32_PRODUCT) for sides in shapes]
    for dtype in _OTHERS:
        yield [GemmShape(*_ONE, dtype)]


def _measured(bench: _Bench, shapes: Sequence[GemmShape]) -> Iterator[Point]:
    rate_flops = 0.0
    for shape in shapes:
        if rate_flops and shape.flops / rate_flops > MAX_SHAPE_S:
            return
        room_bytes = psutil.virtual_memory().available * MAX_MEMORY_SHARE
        if _size_bytes(shape) > min(MAX_SIZE_BYTES, room_bytes):
            return
        try:
            seconds = bench.seconds(shape)
        except _NotDone as error:
            log.warning(
                f"no speed for {shape.op} of {shape.dtype}: {error}",
                extra=logs.keys("calibrate", dtype=shape.dtype),
            )
            return
        rate_flops = shape.flops / seconds
        yield Point(shape, seconds)


class _NotDone(Exception):
    """The card does not do this."""


class _Bench:
    """Runs tasks as an executor does, one at a time."""

    def __init__(self, compute: CardCompute, clock: Callable[[], float] = time.monotonic) -> None:
        self._mappings = compute.mappings
        self._bounds = compute.bounds
        self._said: queue.Queue[local_pb2.ExecutorEvent] = queue.Queue()
        self._pool = Pool(STREAMS, self._said.put, compute, counts_cpu=False)
        self._numbers = itertools.count()
        self._clock = clock

    def close(self) -> None:
        self._pool.close()

    def seconds(self, shape: GemmShape) -> float:
        """The best of some; each time with operands that are not on the card yet. Both as if they
        were most of the work, and as if they were not: which of the two a product is does not show
        before it has been measured."""
        operation, sides = _operation(shape)
        operands = [self._matrix(rows, columns, shape.dtype) for rows, columns in sides]
        result = self._matrix(shape.rows, shape.columns, shape.dtype)
        self._mappings.settle()
        copies_s = _size_bytes(shape) / self._bounds.link_bytes_per_s
        predicted_s = [0.0, *[copies_s, 0.0] * REPEATS]
        tasks = [self._task(shape, operation, operands, result, one) for one in predicted_s]
        return min([self._run(task) for task in tasks][1:])

    def _run(self, task: Task) -> float:
        started_s = self._clock()
        self._pool.add(task)
        while True:
            try:
                event = self._said.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise _NotDone(f"it did not end within {TIMEOUT_S:.0f} s") from None
            if event.HasField("failed"):
                raise _NotDone(event.failed.failure.message)
            if event.HasField("finished"):
                return max(1e-6, self._clock() - started_s)

    def _task(
        self,
        shape: GemmShape,
        operation: Operation,
        operands: Sequence[Block],
        result: Block,
        predicted_s: float,
    ) -> Task:
        name = f"calibration-{next(self._numbers)}"
        whole = Rectangle(0, shape.rows, 0, shape.columns)
        return Task(
            id=name,
            rank=0.0,
            operation=operation,
            types={
                key: MatrixType(block.rectangle.rows, block.rectangle.columns, shape.dtype)
                for key, block in zip(operation.operands, operands)
            },
            operands=operands,
            result=result,
            panels=CardPanels(whole, shape, STREAMS, predicted_s, bounds=self._bounds),
            is_inline=False,
            progress_s=TIMEOUT_S,
            keys=[f"{name}:{key}" for key in operation.operands],
        )

    def _matrix(self, rows: int, columns: int, dtype: str) -> Block:
        """Shared memory, like a store's."""
        row = _row(columns, dtype)
        size_bytes = rows * row.nbytes
        memory = Memory(size_bytes)
        mapped, is_pinned = self._mappings.map(memory.descriptor, size_bytes, is_writable=True)
        memory.close()
        array: Any = np.frombuffer(mapped, row.dtype).reshape(rows, columns)
        array[...] = row
        return Block(array, Rectangle(0, rows, 0, columns), is_pinned)


def _operation(shape: GemmShape) -> tuple[Operation, list[tuple[int, int]]]:
    """And how many rows and columns its operands have."""
    if shape.op is Op.SUM:
        names = tuple(f"P{number}" for number in range(shape.inner + 1))
        return Operation("C", names, Sum()), [(shape.rows, shape.columns)] * len(names)
    is_tf32 = shape.op is Op.TF32_PRODUCT
    kind = Gemm(precision=Precision.TF32 if is_tf32 else Precision.STRICT)
    sides = [(shape.rows, shape.inner), (shape.inner, shape.columns)]
    return Operation("C", ("A", "B"), kind), sides


def _row(columns: int, dtype: str) -> Any:
    """Not all alike: a card draws less power for zeros, and is faster then."""
    found = numpy_dtype(dtype)
    row = np.random.default_rng(columns).integers(0, 2, columns).astype(found)
    if not element_type(dtype).is_exact:
        row *= found.type(0.37)
    return row


def _size_bytes(shape: GemmShape) -> int:
    area = shape.rows * shape.columns
    operands = (shape.rows + shape.columns) * shape.inner
    if shape.op is Op.SUM:
        operands = area * (shape.inner + 1)
    return (operands + area) * element_type(shape.dtype).itemsize
