"""Segments on the wire and in programs: what is wrong with them is said."""

from __future__ import annotations

import numpy as np
import pytest

from deadheat.runtime import wire
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import (
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
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
    needed_blocks,
    read_by_rows,
)
from deadheat.v1 import types_pb2

TANH = Unary(UnaryFunction.TANH)


def built(*steps: tuple[str, str, Kind], reads: str = "x w", result: str = "y") -> Program:
    types = {"x": MatrixType(40, 6, "float64"), "w": MatrixType(6, 6, "float64")}
    operations = tuple(Operation(name, tuple(given.split()), kind) for name, given, kind in steps)
    operands = tuple(Operand(name, matrix, name) for name, matrix in types.items())
    made = Operation(result, tuple(reads.split()), Segment(operations))
    return Program(operands, (made,), (result,))


def test_a_segment_needs_its_rows_and_all_of_the_weights() -> None:
    program = built(("h", "x w", Gemm()), ("y", "h w", Gemm()))
    (operation,) = program.operations
    rows = Rectangle(10, 20, 0, 6)
    assert list(needed_blocks(operation, program.types, rows)) == [
        ("x", rows),
        ("w", Rectangle(0, 6, 0, 6)),
    ]
    assert read_by_rows(operation, program.types) == (True, False)
    assert wire.operation_from_wire(wire.operation_to_wire(operation)) == operation
    x, w = np.random.default_rng(1).random((40, 6)), np.eye(6) * 2
    assert np.allclose(evaluate(np, program, {"x": x, "w": w})["y"], 4 * x)


def test_rows_of_a_slice_are_counted_from_where_it_starts() -> None:
    batch = Slice(Rectangle(5, 25, 0, 6))
    program = built(("b", "x", batch), ("y", "b w", Gemm()))
    (operation,) = program.operations
    needed = dict(needed_blocks(operation, program.types, Rectangle(0, 10, 0, 6)))
    assert needed["x"] == Rectangle(5, 15, 0, 6)
    assert read_by_rows(operation, program.types) == (False, False)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("y", "x w", Gemm())], "2 to 256 operations"),
        ([("h", "x w", Gemm()), ("z", "h", TANH)], "does not name"),
        ([("h", "x w", Gemm()), ("h", "h", TANH), ("y", "h", TANH)], "assigned twice"),
        ([("h", "x w", Gemm()), ("y", "h", Transpose())], "row by row"),
        ([("h", "x w", Gemm()), ("y", "h", SumAlong(axis=0))], "row by row"),
        ([("h", "x w", Gemm()), ("y", "h", Slice(Rectangle(0, 9, 0, 6)))], "row by row"),
        ([("h", "x w", Gemm()), ("g", "w", TANH), ("y", "h", TANH)], "on the same rows"),
        ([("g", "w w", Gemm()), ("y", "x g", Gemm())], "on the same rows"),
        ([("g", "w w", Gemm()), ("y", "g g", Gemm()), ("q", "x", TANH)], "does not name"),
        ([("h", "x w", Gemm()), ("y", "h h", Gemm())], "inner sizes"),
    ],
)
def test_what_is_no_segment_is_refused(steps: list[tuple[str, str, Kind]], words: str) -> None:
    reads = dict.fromkeys(name for _, given, _ in steps for name in given.split() if name in "xw")
    with pytest.raises(InvalidInput, match=words):
        built(*steps, reads=" ".join(reads))


def test_a_square_that_is_read_whole_is_no_row() -> None:
    with pytest.raises(InvalidInput, match="needs all rows"):
        built(("g", "w", TANH), ("y", "w g", Gemm()), reads="w")


def test_a_step_of_an_unknown_kind_is_refused() -> None:
    message = types_pb2.Operation(result="y", operands=["x"])
    message.segment.steps.add(result="y", operands=["x"])
    with pytest.raises(InvalidInput, match="of a kind this version does not know"):
        wire.operation_from_wire(message)


def test_a_segment_is_not_made_of_segments() -> None:
    inner = Segment((Operation("a", ("x",), TANH), Operation("h", ("a",), TANH)))
    with pytest.raises(InvalidInput, match="row by row"):
        built(("h", "x", inner), ("y", "h", TANH), reads="x")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((40, 6), (40, 6), (True, True)),
        ((40, 6), (1, 6), (True, False)),
        ((1, 1), (40, 6), (False, True)),
        ((1, 6), (1, 6), (True, True)),
    ],
)
def test_of_a_binary_operation_the_side_that_is_not_repeated_is_read_by_rows(
    left: tuple[int, int], right: tuple[int, int], expected: tuple[bool, bool]
) -> None:
    types = {"a": MatrixType(*left, "float64"), "b": MatrixType(*right, "float64")}
    operation = Operation("c", ("a", "b"), Binary(BinaryFunction.ADD))
    assert read_by_rows(operation, types) == expected
    types["c"] = MatrixType(max(left[0], right[0]), max(left[1], right[1]), "float64")
    row = types["c"].whole().with_rows(0, 1)
    for (name, block), is_by_rows in zip(needed_blocks(operation, types, row), expected):
        assert block.rows == 1, name
        assert is_by_rows == (types[name].rows == types["c"].rows)
