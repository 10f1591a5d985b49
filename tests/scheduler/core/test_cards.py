"""Cards in the pool: left out with the reason while they do not compute, or not this dtype."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import HOST, Pool
from tests.scheduler.core.test_trainings import training
from tests.scheduler.planner.builders import model

from deadheat.runtime.programs import (
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    Segment,
    Unary,
    UnaryFunction,
    gemm_program,
)
from deadheat.runtime.windows import Convolve, Window
from deadheat.scheduler.core import events, snapshot


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    devices = [
        events.DeviceFacts("a/cpu", "cpu", "test", 1, 1 << 34, model(50.0).points),
        events.DeviceFacts("a/gpu0", "gpu", "card", 3, 1 << 34),
    ]
    pool.feed(events.NodeRegistered("a", "1", HOST, frozenset({0}), False, True, "test", devices))
    return pool


def left_out(pool: Pool, dtype: str = "float64") -> dict[str, str]:
    operands = tuple(
        Operand(name, MatrixType(4096, 4096, dtype), matrix_id=f"m{name}") for name in "AB"
    )
    job = pool.submit(program=gemm_program(operands, Gemm()))
    return dict(snapshot.pool(pool.core.world, job, {0})[1])


def test_a_card_takes_work_when_its_speeds_come(pool: Pool) -> None:
    assert left_out(pool) == {"a/gpu0": "it is being calibrated"}
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(1000.0).points))
    assert left_out(pool) == {}


def test_a_card_that_broke_is_left_out_with_its_reason(pool: Pool) -> None:
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(1000.0).points))
    pool.feed(events.SpeedMeasured("a", "a/gpu0", (), "it fell off the bus"))
    assert left_out(pool) == {"a/gpu0": "it fell off the bus"}
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(900.0).points))
    assert left_out(pool) == {}


def test_a_card_gets_no_dtype_that_it_was_not_measured_with(pool: Pool) -> None:
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(1000.0).points))
    assert left_out(pool, "bfloat16") == {"a/gpu0": "it does not compute bfloat16"}


@pytest.mark.parametrize("with_relu", [False, True])
def test_a_card_gets_convolutions_and_segments_of_them(pool: Pool, with_relu: bool) -> None:
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(1000.0).points))
    window = Window(1, 64, 64, (3, 3))
    operands = (
        Operand("x", MatrixType(256, window.inputs, "float64"), matrix_id="mx"),
        Operand("w", MatrixType(1, 4 * window.depth, "float64"), matrix_id="mw"),
    )
    made = (
        Operation("y", ("x", "w"), Convolve(window)),
        Operation("z", ("y",), Unary(UnaryFunction.RELU)),
    )[: 1 + with_relu]
    job = pool.submit(program=Program(operands, made, (made[-1].result,)))
    # The two are worked as one.
    assert isinstance(job.program.operations[0].kind, Segment) == with_relu
    assert snapshot.pool(pool.core.world, job, {0})[1] == []


def test_a_card_gets_no_trainings(pool: Pool) -> None:
    pool.feed(events.SpeedMeasured("a", "a/gpu0", model(1000.0).points))
    job = pool.submit(program=training(1))
    found = dict(snapshot.pool(pool.core.world, job, {0})[1])
    assert found["a/gpu0"].endswith("Descent")
