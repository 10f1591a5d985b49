"""The pool's threads: in which order they say what happened, whoever says it."""

from __future__ import annotations

import queue

import numpy as np
import pytest

from deadheat.agent.executors.panels import Panels
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.runtime.programs import Gemm, GemmShape, MatrixType, Operation, Rectangle
from deadheat.v1 import local_pb2


def product(operands: str) -> Task:
    """A product of two small matrices, of which only `operands` are there."""
    whole = Rectangle(0, 8, 0, 8)
    operation = Operation("C", ("A", "B"), Gemm())
    return Task(
        id="s",
        rank=0.0,
        operation=operation,
        types={name: MatrixType(8, 8, "float64") for name in "AB"},
        operands=[Block(np.ones((8, 8)), whole) for _ in operands],
        result=Block(np.zeros((8, 8)), whole),
        panels=Panels(whole, GemmShape(8, 8, 8, "float64"), 1),
        is_inline=False,
    )


@pytest.mark.parametrize(("operands", "end"), [("AB", "finished"), ("A", "failed")])
def test_blocks_are_released_only_after_the_end_was_told(operands: str, end: str) -> None:
    told: queue.Queue[str] = queue.Queue()
    task = product(operands)

    def emit(event: local_pb2.ExecutorEvent) -> None:
        kind = str(event.WhichOneof("event"))
        if kind == end:
            # What the thread of another panel does, if it ends at this very moment.
            pool._say()
        if kind != "progress":
            told.put(kind)

    pool = Pool(1, emit)
    pool.add(task)
    assert [told.get(timeout=60), told.get(timeout=60)] == [end, "released"]
