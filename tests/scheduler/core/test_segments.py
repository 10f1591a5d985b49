"""Segments in the core: one step for many operations, room for what is kept, losses, restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.core.test_restore import restarted

from deadheat.runtime.programs import (
    Activation,
    Chain,
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    Segment,
    Unary,
    UnaryFunction,
)
from deadheat.scheduler.core import effects, estimating, events, explaining
from deadheat.scheduler.core.events import JobPolicy
from deadheat.scheduler.core.report import report_of
from deadheat.scheduler.core.restore import Matrices
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.planner.inputs import Cut

RELU = Gemm(activation=Activation.RELU)
TANH = Unary(UnaryFunction.TANH)


@pytest.fixture
def pool() -> Pool:
    made = Pool()
    made.join("a")
    made.join("b")
    return made


def network(layers: int = 8, rows: int = 8192, results: tuple[str, ...] = ()) -> Program:
    x = Operand("x", MatrixType(rows, 1024, "float64"), "mx")
    w = Operand("w", MatrixType(1024, 1024, "float64"), "mw")
    before = ["x", *(f"h{n}" for n in range(layers - 1))]
    operations = [Operation(f"h{n}", (name, "w"), RELU) for n, name in enumerate(before)]
    return Program((x, w), tuple(operations), results or (f"h{layers - 1}",))


def run(pool: Pool, job: Job) -> None:
    while not job.state.is_final:
        active = pool.active(job)
        assert active, job.note
        for subtask in active:
            pool.finish(subtask)
        check_cover(job)


def test_a_network_has_one_step_and_room_for_one_result(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit(program=network())
    assert [step.operation.result for step in job.steps] == ["h7"]
    assert len(pool.held_back) == 1
    assert not pool.active(job)
    pool.release_answers()
    assert {subtask.rectangle.columns for subtask in pool.active(job)} == {1024}
    assert job.predicted_makespan_s == pytest.approx(network().flops / 100e9, rel=0.02)
    run(pool, job)
    assert state_of(job) == "done"
    (released,) = pool.take_sent(effects.ReleaseJob)
    assert list(released.give_up) == []


def test_what_is_wanted_from_the_middle_has_its_own_step(pool: Pool) -> None:
    job = pool.submit(program=network(results=("h3", "h7")))
    assert [step.operation.result for step in job.steps] == ["h3", "h7"]
    assert all(isinstance(step.operation.kind, Segment) for step in job.steps)
    run(pool, job)
    assert state_of(job) == "done"


def test_rows_of_a_lost_device_are_made_by_the_others(pool: Pool) -> None:
    job = pool.submit(program=network())
    subtask = pool.on(job, "b")
    pool.progress(subtask, subtask.area // 4 // 1024 * 1024, took_s=0.1)
    pool.fail(subtask, row_done=subtask.row_done)
    check_cover(job)
    again = [s for s in pool.active(job) if s.attempt == 2]
    assert {s.rectangle.columns for s in again} == {1024}
    assert min(s.rectangle.row_start for s in again) == subtask.row_done
    run(pool, job)
    assert state_of(job) == "done"


def test_baselines_keep_their_barriers(pool: Pool) -> None:
    job = pool.submit(program=network(3), cut=Cut.EQUAL)
    assert len(job.steps) == 3
    run(pool, job)
    assert state_of(job) == "done"


def test_what_devices_waited_at_barriers_is_told(pool: Pool) -> None:
    layered, joined = pool.submit(program=network(2), cut=Cut.EQUAL), Pool()
    for waits_s in (1.0, 1.5):
        pool.pass_time(waits_s)
        for subtask in pool.active(layered):
            pool.finish(subtask, took_s=1.0)
    report = report_of(layered, {})
    assert explaining.document(report, [])["waiting_s"] == pytest.approx(0.5)
    assert "between operations a device waited 500.0 ms" in explaining.story(report, [])
    joined.join("a")
    job = joined.submit(program=network(2))
    run(joined, job)
    assert explaining.document(report_of(job, {}), [])["waiting_s"] is None


def test_an_empty_result_is_complete_before_all_else(pool: Pool) -> None:
    """Nothing is joined then, since it needs its room in the store at once."""
    x = Operand("x", MatrixType(64, 0, "float64"), "mx")
    z = Operand("z", MatrixType(0, 64, "float64"), "mz")
    operations = (
        Operation("e", ("x",), TANH),
        Operation("h", ("e", "z"), Gemm()),
        Operation("y", ("h",), TANH),
    )
    job = pool.submit(program=Program((x, z), operations, ("y",)))
    run(pool, job)
    assert state_of(job) == "done"


def test_products_of_a_chain_stay_as_they_were_ordered(pool: Pool) -> None:
    operands = tuple(Operand(name, MatrixType(512, 512, "float64"), name) for name in "abc")
    operations = (
        Operation("p", ("a", "b", "c"), Chain()),
        Operation("h", ("p",), TANH),
        Operation("y", ("h", "a"), Gemm()),
    )
    program = Program(operands, operations, ("y",))
    job = pool.submit(program=program)
    made = [step.operation for step in job.steps]
    assert [isinstance(operation.kind, Segment) for operation in made] == [False, False, True]
    assert len({step.result_id for step in job.steps}) == 3
    run(pool, job)
    assert state_of(job) == "done"


def test_a_segment_goes_on_after_a_restart(pool: Pool, tmp_path: Path) -> None:
    job = pool.submit(program=network())
    (held,) = (step.result_id for step in job.steps)
    pool.progress(pool.on(job, "a"), 1024 * 512, took_s=0.1)
    after = restarted(pool, tmp_path / "db", Matrices(frozenset({held})))
    again = after.jobs[job.id]
    assert [step.result_id for step in again.steps] == [held]
    assert again.steps[0].operation == job.steps[0].operation
    check_cover(again)
    for node, cpu in (("a", 0), ("b", 1)):
        mine = tuple(
            events.HeldSubtask(s.id, False) for s in again.subtasks.values() if s.node == node
        )
        after.join(node, cpus=frozenset({cpu}), held=mine)
    run(after, again)
    assert state_of(again) == "done"


def test_what_was_not_planned_before_a_restart_keeps_its_barriers(tmp_path: Path) -> None:
    """Room for all of its results may have been made already."""
    before = Pool()
    before.submit(program=network(3))
    after = restarted(before, tmp_path / "db", Matrices())
    after.join("a")
    job = after.jobs["j1"]
    assert len(job.steps) == 3
    run(after, job)
    assert state_of(job) == "done"


def test_an_estimate_knows_of_segments(pool: Pool) -> None:
    given = estimating.problem(pool.core.world, network(), JobPolicy())
    found = estimating.summary(given, estimating.solve(given, pool.now))
    assert found.makespan_s == pytest.approx(network().flops / 100e9, rel=0.02)
    assert sum(device.share for device in found.devices) == pytest.approx(1.0)
