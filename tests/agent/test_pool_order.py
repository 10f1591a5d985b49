"""The order of an executor's words, whatever its threads do at the same moment."""

from __future__ import annotations

import threading

import numpy as np

from deadheat.agent.executors.panels import Panels
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.runtime.programs import Gemm, GemmShape, MatrixType, Operation, Rectangle
from deadheat.v1 import local_pb2

SIZE = 512


def make_task(name: str) -> Task:
    matrix = np.ones((SIZE, SIZE))
    whole = Rectangle(0, SIZE, 0, SIZE)
    return Task(
        id=name,
        rank=0.0,
        operation=Operation("C", ("A", "B"), Gemm()),
        types=dict.fromkeys("ABC", MatrixType(SIZE, SIZE, "float64")),
        operands=[Block(matrix, whole), Block(matrix, whole)],
        result=Block(np.empty((SIZE, SIZE)), whole),
        panels=Panels(whole, GemmShape(SIZE, SIZE, SIZE, "float64"), 4),
        is_inline=False,
    )


def test_blocks_are_released_only_after_the_last_word_on_a_sub_task() -> None:
    words: dict[str, list[str]] = {}
    released = threading.Semaphore(0)

    def hear(event: local_pb2.ExecutorEvent) -> None:
        kind = str(event.WhichOneof("event"))
        if kind == "finished":
            words.setdefault(event.finished.progress.subtask_id, []).append(kind)
        elif kind == "released":
            words.setdefault(event.released.subtask_id, []).append(kind)
            released.release()

    pool = Pool(4, hear)
    names = [f"t{number}" for number in range(300)]
    for name in names:
        pool.add(make_task(name))
    for _ in names:
        assert released.acquire(timeout=60)
    assert all(words[name] == ["finished", "released"] for name in names)
