"""Which steps are live: whatever is done or lost, those that can go on, and none that are done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.programs import Gemm, MatrixType, Operand, Operation, Program
from deadheat.scheduler.core.state import Step
from deadheat.scheduler.core.steps import Steps

SQUARE = MatrixType(4, 4, "float64")


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Products of operands and of what was made before."""
    names, operations = ["x"], []
    for number in range(draw(st.integers(1, 12))):
        read = (draw(st.sampled_from(names)), draw(st.sampled_from(names)))
        operations.append(Operation(f"r{number}", read, Gemm()))
        names.append(f"r{number}")
    return Program((Operand("x", SQUARE, "x"),), tuple(operations), (names[-1],))


def steps_of(program: Program) -> Steps:
    return Steps.of(program, [f"m{n}" for n in range(len(program.operations))])


def ready(steps: Steps) -> list[Step]:
    """Those that can go on, looked for the long way."""
    done = {step.operation.result for step in steps if step.is_done} | {"x"}
    return [s for s in steps if not s.is_done and done.issuperset(s.operation.operands)]


@given(programs(), st.data())
def test_until_something_is_lost_those_that_can_go_on_are_live(
    program: Program, data: st.DataObject
) -> None:
    steps = steps_of(program)
    while steps.live:
        before = ready(steps)
        assert list(steps.live) == before
        step = data.draw(st.sampled_from(before))
        new = steps.note_done(step, 1.0)
        assert {one.index for one in new} == {one.index for one in steps.live} - {
            one.index for one in before
        }
        assert steps.done_flops == sum(one.is_done for one in steps)
    assert all(step.is_done for step in steps)
    assert steps.reached == len(steps)


@given(programs(), st.data())
def test_whatever_is_lost_who_can_go_on_is_live_and_nobody_who_is_done(
    program: Program, data: st.DataObject
) -> None:
    steps = steps_of(program)
    for _ in range(data.draw(st.integers(1, 30))):
        done = [step for step in steps if step.is_done]
        is_loss = data.draw(st.booleans())
        if done and is_loss:
            steps.note_lost(data.draw(st.sampled_from(done)), 1.0)
        elif can := ready(steps):
            steps.note_done(data.draw(st.sampled_from(can)), 1.0)
        live = {step.index for step in steps.live}
        assert {step.index for step in ready(steps)} <= live
        assert not any(steps[index].is_done for index in live)
        assert bool(live) == any(not step.is_done for step in steps)
        assert steps.done_flops == sum(step.is_done for step in steps)
        for step in steps:
            readers = [s for s in steps if step.operation.result in s.operation.operands]
            assert steps.is_read(step) == any(not reader.is_done for reader in readers)


def test_ids_of_results_are_as_many_as_operations() -> None:
    program = Program((Operand("x", SQUARE, "x"),), (Operation("y", ("x", "x"), Gemm()),), ("y",))
    with pytest.raises(ValueError, match="shorter"):
        Steps.of(program, [])
