"""Trainings: one epoch after the other, each on one device; of its states the newest stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.core.test_restore import restarted

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Dense, Descent, LayerFunction, Loss, Operation
from deadheat.runtime.programs import Operand, Program
from deadheat.runtime.rectangles import MatrixType
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.restore import Matrices
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.core.steps import Steps
from deadheat.scheduler.planner.inputs import Cut

KIND = Descent(
    (Dense(500, 800), LayerFunction.RELU, Dense(800, 10)),
    Loss.CROSS_ENTROPY,
    batch_size=1000,
    learning_rate=0.1,
    momentum=0.9,
    epoch=0,
    epochs=3,
)


def training(epochs: int = 3, rows: int = 100_000, batch_size: int = 1000) -> Program:
    kind = replace(KIND, epochs=epochs, batch_size=batch_size)
    count = 500 * 800 + 800 + 800 * 10 + 10 + 10 * epochs
    types = {
        "X": MatrixType(rows, 500, "float32"),
        "y": MatrixType(rows, 1, "int64"),
        "order": MatrixType(epochs, rows, "uint32"),
        "s0": MatrixType(2, count, "float32"),
    }
    operations = tuple(
        Operation(f"s{n + 1}", ("X", "y", "order", f"s{n}"), replace(kind, epoch=n))
        for n in range(epochs)
    )
    operands = tuple(Operand(name, matrix, name) for name, matrix in types.items())
    return Program(operands, operations, (f"s{epochs}",))


@pytest.fixture
def pool() -> Pool:
    found = Pool()
    found.join("a", gflops=40.0)
    found.join("b", gflops=60.0)
    return found


def work_on(pool: Pool, job: Job) -> None:
    (subtask,) = pool.active(job)
    pool.finish(subtask, took_s=2.0)


@pytest.mark.parametrize("cut", list(Cut))
def test_each_epoch_goes_to_the_device_that_ends_it_first_and_whole(pool: Pool, cut: Cut) -> None:
    job = pool.submit(program=training(), cut=cut)
    for number in range(3):
        (assigned,) = pool.take_sent(effects.SendAssign)
        assert assigned.node == "b"
        assert assigned.rectangle == job.steps[number].type.whole()
        assert [source.name for source in assigned.operands] == ["X", "y", "order", f"s{number}"]
        order = assigned.operands[2].rectangle
        assert (order.row_start, order.row_stop) == (number, number + 1)
        check_cover(job)
        work_on(pool, job)
    assert state_of(job) == "done"
    assert "an epoch, given to one device" in job.plan_texts[0]


def test_room_is_made_for_the_next_state_only_and_spent_ones_are_dropped(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit(program=training())
    for number in range(3):
        made = [step.is_made for step in job.steps]
        assert made == [True] * (number + 1) + [False] * (2 - number)
        held, pool.held_back = pool.held_back, []
        for answer in held:
            answer()
        work_on(pool, job)
        dropped = [id_ for one in pool.take_sent(effects.DropMatrices) for id_ in one.matrix_ids]
        assert dropped == ([["result1"], ["result1-1"]][number - 1] if number else [])
    assert state_of(job) == "done"
    (release,) = pool.take_sent(effects.ReleaseJob)
    assert release.give_up == []


def test_nothing_of_an_epoch_moves_to_a_device_that_is_dry(pool: Pool) -> None:
    job = pool.submit(program=training())
    subtask = pool.on(job, "b")
    for _ in range(8):
        pool.pass_time(1.0)
        pool.sample("a")
        pool.sample("b", foreign=0.9)
        pool.progress(subtask, subtask.area_done + 1000, took_s=1.0)
    assert pool.take_sent(effects.SendResize) == []


def test_an_epoch_whose_device_is_lost_is_worked_anew_from_the_state_before(pool: Pool) -> None:
    job = pool.submit(program=training())
    work_on(pool, job)
    lost = pool.on(job, "b")
    pool.progress(lost, lost.area - 1, took_s=1.0)
    pool.take_sent(effects.SendAssign)
    for _ in range(12):
        pool.pass_time(1.0)
        pool.sample("a")
    (assigned,) = pool.take_sent(effects.SendAssign)
    assert (assigned.node, assigned.attempt) == ("a", 2)
    assert assigned.rectangle == job.steps[1].type.whole()
    assert assigned.operands[3].matrix_id == "result1"
    check_cover(job)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_training_that_ends_early_keeps_the_last_good_state(pool: Pool, done: int) -> None:
    job = pool.submit(program=training())
    for _ in range(done):
        work_on(pool, job)
    pool.fail(pool.on(job, "b"), InvalidInput.code)
    assert state_of(job) == "failed"
    (release,) = pool.take_sent(effects.ReleaseJob)
    running = ["result1", "result1-1", "result1-2"][done]
    assert release.give_up == [running]
    assert (job.checkpoint.operation.result if job.checkpoint else "s0") == f"s{done}"


def test_epochs_wait_for_memory_of_one_device_and_are_refused_where_none_has_it() -> None:
    pool = Pool()
    needed = 100_000 * (500 * 4 + 8 + 4)
    pool.join("far", host="elsewhere", memory_bytes=int(needed * 1.5))
    first, second = (pool.submit(program=training()) for _ in range(2))
    assert (state_of(first), state_of(second)) == ("running", "queued")
    assert second.note == "waiting: the agents' memory is in use"
    for _ in range(6):  # In turn: the users of a pool share it.
        (subtask,) = (one for job in (first, second) for one in pool.active(job))
        pool.finish(subtask)
    assert (state_of(first), state_of(second)) == ("done", "done")
    small = Pool()
    small.join("far", host="elsewhere", memory_bytes=1 << 20)
    job = small.submit(program=training())
    assert state_of(job) == "failed"
    assert job.failure
    assert "bytes on one device; the largest, far/cpu, has 1048576" in job.failure.message


@pytest.mark.parametrize("is_dropped", [False, True])
def test_after_a_restart_it_goes_on_from_the_newest_state(
    pool: Pool, tmp_path: Path, is_dropped: bool
) -> None:
    job = pool.submit(program=training())
    work_on(pool, job)
    work_on(pool, job)
    sealed = {"result1-1"} if is_dropped else {"result1", "result1-1"}
    there = Matrices(frozenset({*sealed, "result1-2"}), frozenset(sealed))
    after = restarted(pool, tmp_path / "db", there)
    again = after.jobs["j1"]
    check_cover(again)
    assert [step.is_done for step in again.steps] == [True, True, False]
    assert again.checkpoint is again.steps[1]
    held = [s.id for s in again.subtasks.values() if s.state.is_active]
    after.join("b", gflops=60.0, held=tuple(events.HeldSubtask(id_, False) for id_ in held))
    assert after.take_sent(effects.SendAssign) == []
    work_on(after, again)
    assert state_of(again) == "done"
    # One row for each epoch: those that were over were not worked again.
    assert len(again.subtasks) == 3


def test_a_training_whose_states_are_gone_begins_anew(pool: Pool, tmp_path: Path) -> None:
    job = pool.submit(program=training())
    work_on(pool, job)
    work_on(pool, job)
    after = restarted(pool, tmp_path / "db", Matrices())
    again = after.jobs["j1"]
    assert [step.is_done for step in again.steps] == [False, False, False]
    assert [step.is_made for step in again.steps] == [True, False, False]
    after.join("b", gflops=60.0)
    (assigned,) = after.take_sent(effects.SendAssign)
    assert assigned.operands[3].name == "s0"


def test_no_event_of_an_epoch_looks_through_all_epochs_or_parts(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unseen(dict[str, Subtask]):
        def values(self) -> Any:
            raise AssertionError("all sub-tasks of a job were looked through")

        items = __iter__ = values

    def unseen(steps: Steps) -> Any:
        raise AssertionError("all steps of a job were looked through")

    job = pool.submit(program=training(epochs=50))
    work_on(pool, job)
    job.subtasks = Unseen(job.subtasks)
    monkeypatch.setattr(Steps, "__iter__", unseen)
    for number in range(1, 10):
        (subtask,) = job.active.values()
        pool.pass_time(0.5)
        pool.sample("a")
        pool.progress(subtask, subtask.area // 2, took_s=0.5)
        assert job.progress == pytest.approx((number + 0.5) / 50)
        assert job.expected_finish_s() == subtask.expected_finish_s
        assert job.checkpoint is job.steps[number - 1]
        pool.finish(subtask, took_s=1.0)
        assert job.steps[number].is_done
        assert job.steps[number - 1].is_dropped


def test_after_a_restart_a_spent_state_is_dropped_at_last(pool: Pool, tmp_path: Path) -> None:
    job = pool.submit(program=training())
    work_on(pool, job)
    work_on(pool, job)
    # The scheduler died before the store had heard that the first one is spent.
    sealed = frozenset({"result1", "result1-1"})
    after = restarted(pool, tmp_path / "db", Matrices(sealed | {"result1-2"}, sealed))
    (dropped,) = after.take_sent(effects.DropMatrices)
    assert dropped.matrix_ids == ["result1"]
    assert [step.is_dropped for step in after.jobs["j1"].steps] == [True, False, False]
