"""Operations that the planner replaces by others before anything is assigned."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of

from deadheat.runtime.programs import (
    Chain,
    MatrixType,
    Operand,
    Operation,
    Program,
    Unary,
    UnaryFunction,
    chain_program,
)
from deadheat.scheduler.core import effects, estimating
from deadheat.scheduler.core.events import JobPolicy
from deadheat.scheduler.core.state import Job


@pytest.fixture
def pool() -> Pool:
    made = Pool()
    made.join("a")
    made.join("b")
    return made


def run(pool: Pool, job: Job) -> None:
    while not job.state.is_final:
        active = pool.active(job)
        assert active, job.note
        for subtask in active:
            pool.finish(subtask)
        check_cover(job)


def matrices(*sizes: int) -> tuple[Operand, ...]:
    return tuple(
        Operand(f"M{index}", MatrixType(rows, columns, "float64"), matrix_id=f"m{index}")
        for index, (rows, columns) in enumerate(pairwise(sizes))
    )


def test_a_chain_becomes_products_in_the_better_order(pool: Pool) -> None:
    job = pool.submit(program=chain_program(matrices(4000, 40, 4000, 40)))
    (change,) = (c for c in pool.committed if isinstance(c, effects.ProgramChange))
    assert [operation.operands[:2] for operation in change.program.operations] == [
        ("M1", "M2"),
        ("M0", "C~2..3"),
    ]
    # What was asked for keeps its place in the store; what is new gets one of its own.
    assert change.result_ids[-1] == "result1"
    assert change.result_ids[0] == f"{job.id}-0"
    made = pool.take_sent(effects.MakeResults)
    assert not made  # The harness answers them: both have room.
    run(pool, job)
    assert state_of(job) == "done"
    (released,) = pool.take_sent(effects.ReleaseJob)
    assert list(released.give_up) == [f"{job.id}-0"]
    assert "in the order (M1 (M2 M3))" in job.plan_texts[0]


def test_nobody_is_told_to_write_a_product_for_which_there_is_no_room_yet(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit(program=chain_program(matrices(4000, 40, 4000, 40)))
    (room_for_result, room_for_product), pool.held_back = pool.held_back, []
    room_for_result()
    assert pool.take_sent(effects.SendAssign) == []
    room_for_product()
    assert {one.result_id for one in pool.take_sent(effects.SendAssign)} == {f"{job.id}-0"}
    run(pool, job)
    assert state_of(job) == "done"


def test_what_can_be_computed_at_once_does_not_wait_for_room_for_the_rest(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit(program=chain_program(matrices(4000, 40, 4000, 40)))
    (room_for_result, room_for_product), pool.held_back = pool.held_back, []
    room_for_product()
    for subtask in pool.active(job):
        pool.finish(subtask)
    assert {one.result_id for one in pool.take_sent(effects.SendAssign)} == {f"{job.id}-0"}
    room_for_result()
    assert {one.result_id for one in pool.take_sent(effects.SendAssign)} == {"result1"}
    run(pool, job)
    assert state_of(job) == "done"


def test_sides_of_a_chain_that_run_at_once_have_devices_of_their_own() -> None:
    pool = Pool()
    for name in "abcd":
        pool.join(name)
    job = pool.submit(program=chain_program(matrices(48, 4000, 48, 48, 4000, 48)))
    assert job.groups
    groups = list(job.groups.values())
    assert any(not one & other for one in groups for other in groups)
    run(pool, job)
    assert state_of(job) == "done"


def test_a_deep_product_is_cut_along_its_inner_side_where_that_is_better() -> None:
    pool = Pool()
    for name in "abcdefgh":
        pool.join(name, host=f"host-{name}")
    job = pool.submit(256, 1_000_000, 256)
    assert [step.operation.result for step in job.steps][-1] == "C"
    assert len(job.steps) > 2
    assert "is cut along its inner dimension 1000000" in job.plan_texts[0]
    run(pool, job)
    assert state_of(job) == "done"


def test_an_ordinary_product_stays_what_it_is(pool: Pool) -> None:
    job = pool.submit(4096, 4096, 4096)
    assert len(job.steps) == 1
    assert not [c for c in pool.committed if isinstance(c, effects.ProgramChange)]


def two_chains(*names: str) -> Program:
    """A chain, a function of its result, and a chain with that."""
    operands = matrices(400, 40, 400, 400)
    operations = (
        Operation("first", ("M0", "M1", "M2"), Chain()),
        Operation("bent", ("first",), Unary(UnaryFunction.TANH)),
        Operation("second", ("bent", "M2", "M2", "M2"), Chain()),
    )
    return Program(operands, operations, names)


def test_all_chains_of_a_program_are_put_in_order_before_anything_is_assigned(pool: Pool) -> None:
    job = pool.submit(program=two_chains("first", "second"))
    assert not [step for step in job.steps if isinstance(step.operation.kind, Chain)]
    ids = [step.result_id for step in job.steps]
    assert len(set(ids)) == len(ids) == 6
    changes = [c for c in pool.committed if isinstance(c, effects.ProgramChange)]
    assert len(changes) == 2
    assert {subtask.plan for subtask in job.subtasks.values()} == {3}
    run(pool, job)
    assert state_of(job) == "done"
    (released,) = pool.take_sent(effects.ReleaseJob)
    wanted = {step.result_id for step in job.steps if step.operation.result in job.program.results}
    assert set(released.give_up) == set(ids) - wanted


def test_an_estimate_counts_every_chain_of_a_program(pool: Pool) -> None:
    def makespan_s(program: Program) -> float:
        given = estimating.problem(pool.core.world, program, JobPolicy())
        made = estimating.solve(given, pool.now)
        assert made.program is not None
        assert not [o for o in made.program.operations if isinstance(o.kind, Chain)]
        return made.makespan_s

    program = two_chains("second")
    first = Program(program.operands, program.operations[:1], ("first",))
    assert makespan_s(program) > makespan_s(first)
