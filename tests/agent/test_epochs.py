"""Epochs in a pool: all threads take part, and what ends one ends it whole."""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.agent.test_executor import Harness, with_executor
from tests.agent.test_pool import product
from tests.runtime.test_descents import SMALL, epoch, operands

from deadheat.agent.executors.epochs import _KEPT, Epoch
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.runtime import descents
from deadheat.runtime.operations import Dense, Descent, LayerFunction, Loss, Operation
from deadheat.runtime.rectangles import MatrixType, Rectangle
from deadheat.v1 import local_pb2

Array = np.ndarray[Any, Any]
LARGER = Descent(
    (Dense(300, 400), LayerFunction.RELU, Dense(400, 10)),
    Loss.CROSS_ENTROPY,
    batch_size=500,
    learning_rate=0.1,
    momentum=0.9,
    epoch=0,
    epochs=1,
)


def task(
    kind: Descent, parts: list[Array], threads: int, name: str = "s", rank: float = 0.0
) -> Task:
    names = ("X", "y", "order", "before")
    wholes = [Rectangle(0, a.shape[0], 0, a.shape[1]) for a in parts]
    out = np.full_like(parts[3], np.nan)
    row = parts[2][kind.epoch : kind.epoch + 1]
    given = [parts[0], parts[1], row, parts[3]]
    return Task(
        id=name,
        rank=rank,
        operation=Operation("after", names, kind),
        types={n: MatrixType(len(a), a.shape[1], a.dtype.name) for n, a in zip(names, parts)},
        operands=[Block(a, whole) for a, whole in zip(parts, wholes)],
        result=Block(out, wholes[3]),
        panels=Epoch(wholes[3], kind, given, out, threads),
        is_inline=False,
        progress_s=0.0,
    )


class Told:
    """What a pool said, one after the other."""

    def __init__(self) -> None:
        self.events: queue.Queue[local_pb2.ExecutorEvent] = queue.Queue()

    def until(self, kind: str) -> local_pb2.ExecutorEvent:
        while True:
            event = self.events.get(timeout=60)
            if event.WhichOneof("event") == kind:
                return event


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_epoch_comes_out_as_in_one_thread(threads: int) -> None:
    parts = operands(LARGER, 2300, "float32")
    made, told = task(LARGER, parts, threads), Told()
    Pool(threads, told.events.put).add(made)
    done = told.until("finished").finished.progress
    assert (done.area_done, done.row_done) == (parts[3].size, 2)
    told.until("released")
    expected = epoch(LARGER, parts, threads)
    count = expected.shape[1] - 10
    assert np.array_equal(made.result.array[:, :count], expected[:, :count])
    assert isinstance(made.panels, Epoch)
    assert np.isclose(done.flops, made.panels._pass.flops if made.panels._pass else 0)


def test_progress_grows_and_rows_count_at_the_end_only() -> None:
    told = Told()
    Pool(2, told.events.put).add(task(LARGER, operands(LARGER, 2300), 2))
    seen, whole = [], task(LARGER, operands(LARGER, 2300), 2).result.array.size
    while (event := told.events.get(timeout=60)).WhichOneof("event") == "progress":
        assert event.progress.row_done == (2 if event.progress.area_done == whole else 0)
        seen.append(event.progress.area_done)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


def test_a_thread_that_does_all_of_it_in_one_turn_has_waited_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deadheat.agent.executors.epochs.TURN_S", float("inf"))
    parts = operands(SMALL, 30)
    for threads, waiting in ((1, 0.0), (2, 0.5)):
        made = task(SMALL, parts, threads)
        panels = made.panels
        assert isinstance(panels, Epoch)
        turn = panels.take()
        assert turn is not None
        panels.do(turn)
        panels.finish(turn, 0.1)
        assert panels.is_done
        (found,) = descents.records(descents.parameters(SMALL), made.result.array)[:1]
        assert found[3] == waiting


def test_nothing_of_an_epoch_is_given_away_and_a_cancelled_one_ends() -> None:
    told = Told()
    pool = Pool(2, told.events.put)
    pool.add(task(LARGER, operands(LARGER, 200_000, "float32"), 2))
    told.until("progress")
    pool.resize("s", 0)
    assert not told.until("resized").resized.released
    pool.cancel("s")
    told.until("released")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_job_overtakes_an_epoch_which_goes_on_afterwards(threads: int) -> None:
    told, small = Told(), product("AB")
    small.id = "small"

    def hear(event: local_pb2.ExecutorEvent) -> None:
        """Called by a thread of the pool, which has done a piece of the epoch and wants another."""
        if event.WhichOneof("event") == "progress" and not small.arrival:
            pool.add(small)
        told.events.put(event)

    pool = Pool(threads, hear)
    pool.add(task(LARGER, operands(LARGER, 5000, "float32"), threads, name="epoch", rank=2.0))
    ends = [told.until("finished").finished.progress.subtask_id for _ in range(2)]
    # Of two threads the other one may go through all of the epoch while this one's core is taken.
    assert ends == ["small", "epoch"] if threads == 1 else sorted(ends) == ["epoch", "small"]


def test_values_that_name_nothing_fail_it_with_what_is_wrong() -> None:
    parts, told = operands(SMALL, 10), Told()
    parts[1][4, 0] = 3
    Pool(2, told.events.put).add(task(SMALL, parts, 2))
    failure = told.until("failed").failed.failure
    assert failure.code == "invalid_input"
    assert failure.message == "label 3 is out of range; labels go from 0 to 2"
    told.until("released")


def test_memory_serves_the_next_epoch_of_the_same_training_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deadheat.agent.executors.epochs.KEPT_S", 600.0)
    parts, told = operands(LARGER, 1000), Told()
    pool = Pool(2, told.events.put)
    kept = []
    for kind, given in ((LARGER, parts), (LARGER, parts), (SMALL, operands(SMALL, 10))):
        made = task(kind, given, 2)
        pool.add(made)
        told.until("released")
        assert isinstance(made.panels, Epoch)
        assert made.panels._pass is not None
        kept.append(made.panels._pass.work)
    assert kept[0] is kept[1]
    assert kept[2] is not kept[1]
    _KEPT.take(None)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_executor_works_an_epoch_on_whole_and_on_streamed_blocks(is_streamed: bool) -> None:
    parts = operands(SMALL, 25)
    kind = replace(SMALL, epoch=1)
    operation = Operation("after", ("X", "y", "order", "before"), kind)
    cut = Rectangle(0, 2, 0, parts[3].shape[1]) if is_streamed else None

    async def test(harness: Harness) -> None:
        result = harness.execute(operation, parts, cut=cut)
        finished = await harness.next("finished")
        assert finished.progress.area_done == result.size
        expected = epoch(kind, parts, 2)
        count = descents.parameters(kind)
        assert np.array_equal(result[:, :count], expected[:, :count])
        (before, made) = descents.records(count, result)
        assert before == (0.0,) * 5
        assert made[0] == descents.records(count, expected)[1][0]

    with_executor(test)
