"""Operations that are not products: priced, cut among devices, and fetched once."""

from __future__ import annotations

import pytest
from tests.scheduler.planner.builders import GIGABIT, device, problem

from deadheat.runtime.programs import (
    Binary,
    BinaryFunction,
    Cast,
    GemmShape,
    Kind,
    MatrixType,
    Op,
    Operand,
    Operation,
    Program,
    Rectangle,
    Slice,
    Softmax,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
    needed_blocks,
    uncovered,
)
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.planner import plan
from deadheat.scheduler.planner.speed import SpeedModel, SpeedPoint

KINDS: list[tuple[Kind, tuple[tuple[int, int], ...]]] = [
    (Unary(UnaryFunction.TANH), ((9000, 700),)),
    (Cast("float32"), ((9000, 700),)),
    (Softmax(), ((9000, 700),)),
    (Transpose(), ((700, 9000),)),
    (Slice(Rectangle(100, 9000, 0, 700)), ((9001, 800),)),
    (SumAlong(1), ((9000, 700),)),
    (SumAlong(0), ((9000, 700),)),
    (SumAlong(0, 10), ((9000, 700),)),
    (Binary(BinaryFunction.ADD), ((9000, 700), (9000, 700))),
    (Binary(BinaryFunction.ADD), ((9000, 700), (1, 700))),
    (Binary(BinaryFunction.MULTIPLY), ((9000, 1), (9000, 700))),
    (Binary(BinaryFunction.MULTIPLY), ((9000, 700), (1, 1))),
    (Binary(BinaryFunction.MULTIPLY), ((9000, 1), (1, 700))),
]


def program(kind: Kind, shapes: tuple[tuple[int, int], ...]) -> Program:
    operands = tuple(
        Operand(f"x{n}", MatrixType(rows, columns, "float64"), matrix_id=f"m{n}")
        for n, (rows, columns) in enumerate(shapes)
    )
    names = tuple(operand.name for operand in operands)
    return Program(operands, (Operation("C", names, kind),), ("C",))


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize(("kind", "shapes"), KINDS, ids=str)
def test_every_kind_is_cut_into_all_of_its_result(
    kind: Kind, shapes: tuple[tuple[int, int], ...], cut: Cut
) -> None:
    built = program(kind, shapes)
    devices = [device("a", 2.0), device("b", 3.0), device("far", 1.0, link=GIGABIT)]
    made = plan(problem(built, devices, cut, min_subtask_s=0.0), now=0.0)
    whole = built.types["C"].whole()
    rectangles = [placement.rectangle for placement in made.placements]
    assert not uncovered(whole, rectangles)
    assert sum(rectangle.area for rectangle in rectangles) == whole.area
    for placement in made.placements:
        blocks = needed_blocks(built.operations[0], built.types, placement.rectangle)
        total = sum(block.area * 8 for _, block in blocks)
        if placement.device == "far/cpu":
            # One element that everybody needs is not worth counting.
            assert total - 8 <= placement.predicted_bytes_in <= total
        else:
            assert placement.predicted_bytes_in == 0


def adding(gflops: float) -> SpeedModel:
    shape = GemmShape(1024, 8, 1024, "float64", Op.SUM)
    return SpeedModel((SpeedPoint(shape, shape.flops / (gflops * 1e9)),))


def test_a_large_function_is_shared_by_speed() -> None:
    built = program(Unary(UnaryFunction.TANH), ((90_000, 2000),))
    devices = [device("a", model=adding(1.0)), device("b", model=adding(2.0))]
    made = plan(problem(built, devices), now=0.0)
    rows = {placement.device: placement.rectangle.rows for placement in made.placements}
    assert rows["b/cpu"] == pytest.approx(2 * rows["a/cpu"], rel=0.01)
