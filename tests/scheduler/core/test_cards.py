"""Cards in the pool: left out with the reason while they do not compute, or not this dtype."""

from __future__ import annotations

from dataclasses import replace

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
from deadheat.scheduler.core import effects, events, snapshot


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    devices = [
        events.DeviceFacts("a/cpu", "cpu", "test", 1, 1 << 34, model(50.0).points),
        events.DeviceFacts("a/gpu0", "gpu", "card", 3, 1 << 34),
    ]
    pool.feed(events.NodeRegistered("a", "1", HOST, frozenset({0}), False, True, "test", devices))
    return pool


def registered(name: str, *uuids: str, host: str = HOST, cpu: int = 0) -> events.NodeRegistered:
    devices = [
        events.DeviceFacts(f"{name}/gpu{number}", "gpu", "card", 3, 1 << 34, uuid=uuid)
        for number, uuid in enumerate(uuids)
    ]
    return events.NodeRegistered(name, "1", host, frozenset({cpu}), False, True, "test", devices)


def refusals(pool: Pool) -> list[str]:
    return [one.error.message for one in pool.take_sent(effects.RefuseNode)]


@pytest.mark.parametrize("host", [HOST, "a container's"])
def test_a_card_is_one_agents_and_no_plan_counts_it_twice(host: str) -> None:
    pool = Pool()
    pool.feed(registered("a", "GPU-1", "MIG-1"))
    pool.feed(registered("b", "GPU-2", "MIG-1", host=host, cpu=1))
    assert refusals(pool) == ["agent 'a' has the card MIG-1 already, as a/gpu1; give other --gpus"]
    assert "b" not in pool.nodes
    # Other instances of one card are others; and where no UUID is known nobody can tell.
    pool.feed(registered("b", "GPU-2", "MIG-2", "", host=host, cpu=1))
    pool.feed(registered("c", "", host=host, cpu=2))
    assert refusals(pool) == []


def test_a_card_is_free_when_its_agent_is_gone_and_its_own_again_when_it_returns() -> None:
    pool = Pool()
    pool.feed(registered("a", "GPU-1"))
    pool.feed(events.SessionBroken("a", "1"))
    pool.feed(registered("a", "GPU-1"))
    assert refusals(pool) == []
    pool.feed(events.NodeLeft("a", "1", "stopped"))
    pool.feed(registered("b", "GPU-1"))
    assert refusals(pool) == []
    pool.feed(registered("a", "GPU-1", cpu=1))
    assert refusals(pool) == ["agent 'b' has the card GPU-1 already, as b/gpu0; give other --gpus"]


def test_a_card_that_appears_late_and_is_anothers_is_left_out_and_told_as_an_event() -> None:
    pool = Pool()
    pool.feed(registered("a", "GPU-1"))
    pool.feed(registered("b", cpu=1))
    late = events.DeviceFacts("b/gpu0", "gpu", "card", 3, 1 << 34, uuid="GPU-1")
    pool.feed(events.DeviceAppeared("b", late))
    assert list(pool.nodes["b"].devices) == []
    told = [one for one in pool.committed if isinstance(one, effects.EventRow)]
    assert (told[-1].kind, told[-1].node) == ("device_refused", "b")
    assert told[-1].detail == "b/gpu0: agent 'a' has the card GPU-1 already, as a/gpu0"
    pool.feed(events.DeviceAppeared("b", replace(late, uuid="GPU-2")))
    assert list(pool.nodes["b"].devices) == ["b/gpu0"]


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
