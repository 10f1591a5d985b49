"""Which operations are joined to segments, and whether that pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.scheduler.planner.builders import GIGABIT, device

from deadheat.runtime.programs import (
    Activation,
    Binary,
    BinaryFunction,
    Gemm,
    Kind,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
    Segment,
    Slice,
    Softmax,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.scheduler.planner.inputs import Cut, PlanningInput, Policy, Pool, Work
from deadheat.scheduler.planner.joining import joined, segments
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.planner import plan

RELU = Gemm(activation=Activation.RELU)
TANH = Unary(UnaryFunction.TANH)
ADD = Binary(BinaryFunction.ADD)


def program(
    *steps: tuple[str, str, Kind], results: str = "", rows: int = 4096, side: int = 512
) -> Program:
    """Steps like ("h", "x w", kind); x and z have so many rows, w and v are square."""
    tall, square = MatrixType(rows, side, "float64"), MatrixType(side, side, "float64")
    operands = [Operand(name, tall, name) for name in "xz"]
    operands += [Operand(name, square, name) for name in "wv"]
    made = tuple(Operation(name, tuple(reads.split()), kind) for name, reads, kind in steps)
    return Program(tuple(operands), made, tuple(results.split() or [made[-1].result]))


def names(given: Program, apart: str = "") -> list[str]:
    return [
        " ".join(given.operations[number].result for number in group)
        for group in segments(given, apart.split())
    ]


def test_layers_and_what_is_element_by_element_are_one_segment() -> None:
    given = program(
        ("h", "x w", RELU),
        ("t", "h", TANH),
        ("r", "t h", ADD),
        ("s", "r", SumAlong(axis=1)),
        ("q", "r s", ADD),
        ("y", "q", Softmax()),
    )
    assert names(given) == ["h t r s q y"]
    made = joined(given, segments(given))
    (one,) = made.operations
    assert (one.result, one.operands) == ("y", ("x", "w"))
    assert made.types["y"] == given.types["y"]
    assert made.flops == pytest.approx(given.flops)
    assert segments(made) == []


@pytest.mark.parametrize(
    ("mixing", "kind"),
    [
        ("h", Transpose()),
        ("x h", Gemm(transpose_a=True)),
        ("h", SumAlong(axis=0)),
        ("w h", Gemm(transpose_b=True)),
        ("h", Slice(Rectangle(1, 4096, 0, 512))),
    ],
)
def test_a_segment_ends_where_rows_mix(mixing: str, kind: Kind) -> None:
    given = program(("m", "x", TANH), ("h", "m w", RELU), ("g", mixing, kind), ("y", "g", TANH))
    for group in names(given):
        assert not {"g", "h"} <= {*group.split()}
    joined(given, segments(given))  # It is checked as it is made.


def test_what_is_wanted_or_used_elsewhere_is_made() -> None:
    steps = (("h", "x w", RELU), ("g", "h v", RELU), ("y", "g w", RELU))
    assert names(program(*steps)) == ["h g y"]
    assert names(program(*steps, results="h y")) == ["g y"]
    assert names(program(*steps), apart="g") == []
    gradient = ("d", "h y", Gemm(transpose_a=True))
    assert names(program(*steps, gradient, results="y d")) == ["g y"]


def test_two_ends_of_one_start_do_not_compute_it_twice() -> None:
    given = program(
        ("h", "x w", RELU), ("a", "h w", RELU), ("b", "h v", RELU), ("c", "b", TANH), results="a c"
    )
    assert names(given) == ["b c"]


def test_a_batch_of_a_larger_matrix_is_the_start_of_a_segment() -> None:
    batch = Slice(Rectangle(100, 356, 0, 512))
    given = program(("m", "x", TANH), ("s", "m", batch), ("h", "s w", RELU), ("y", "h", TANH))
    assert names(given) == ["s h y"]
    joined(given, segments(given))


def test_one_row_is_no_segment() -> None:
    assert names(program(("h", "x w", RELU), ("y", "h v", RELU), rows=1)) == []


def planned(given: Program, pool: Pool, cut: Cut = Cut.BALANCED) -> Plan:
    first = Work(0, given.types[given.operations[0].result].whole())
    return plan(PlanningInput(given, (first,), pool, Policy(cut), may_join=True), now=0.0)


POOL = Pool.of([device("a"), device("b", 25.0)])
LAYERED = tuple(
    (f"h{number}", f"{before} w", RELU)
    for number, before in enumerate(["x", *(f"h{n}" for n in range(7))])
)


def test_a_network_is_planned_as_one_segment_and_the_plan_says_so() -> None:
    rewritten = planned(program(*LAYERED, side=2048), POOL)
    assert rewritten.program is not None
    (one,) = rewritten.program.operations
    assert isinstance(one.kind, Segment)
    assert "h7 is one segment of 8" in str(rewritten)
    assert "one barrier stays, after h7" in str(rewritten)
    assert "instead, a barrier after each of these 8" in str(rewritten)
    made = planned(rewritten.program, POOL)
    (step,) = made.steps
    assert step.cut == "rows"
    # All of the work at both devices' rates, and nothing but their speeds decides.
    flops = program(*LAYERED, side=2048).flops
    assert made.makespan_s == pytest.approx(flops / 75e9, rel=0.02)
    assert made.makespan_s == pytest.approx(rewritten.makespan_s, rel=0.02)


def test_baselines_have_a_barrier_after_each_operation() -> None:
    assert planned(program(*LAYERED), POOL, Cut.EQUAL).program is None


def test_programs_of_many_unlike_operations_are_joined_by_their_rows() -> None:
    steps: list[tuple[str, str, Kind]] = [("h0", "x w", RELU)]
    steps += [(f"h{n}", f"h{n - 1} w", Gemm(alpha=1.0 + n / 10_000)) for n in range(1, 2500)]
    rewritten = planned(program(*steps), POOL)
    assert rewritten.program is not None
    assert len(rewritten.program.operations) == 10
    assert "there are 2 segments more" in str(rewritten)
    assert planned(program(*steps, rows=500), POOL).program is None


def test_few_rows_and_much_to_fetch_stay_layer_by_layer() -> None:
    """In columns each device fetches its part of the weights, in rows all of them."""
    pool = Pool.of([device(name, 50.0, link=GIGABIT) for name in "abcd"])
    steps = (("h", "x w", RELU), ("y", "h v", RELU))
    assert planned(program(*steps, rows=64, side=8192), pool).program is None
    assert planned(program(*steps, rows=65536, side=512), pool).program is not None


def test_weights_that_do_not_fit_together_are_not_needed_together() -> None:
    small = [device(name, memory_bytes=80 << 20, link=GIGABIT) for name in "ab"]
    steps = (("h", "x w", RELU), ("y", "h v", RELU))
    given = program(*steps, rows=2048, side=2048)
    assert planned(given, Pool.of(small)).program is None
    large = [replace(one, memory_bytes=1 << 40) for one in small]
    assert planned(given, Pool.of(large)).program is not None
