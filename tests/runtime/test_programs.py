"""Programs: what is wrong is said before anything is allocated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime import wire
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    Activation,
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
    gemm_program,
    merged,
    needed_blocks,
    uncovered,
)


def operand(name: str, rows: int, columns: int, dtype: str = "float64") -> Operand:
    return Operand(name, MatrixType(rows, columns, dtype), matrix_id=f"m{name}")


def product(*operands: Operand, **kind: object) -> Program:
    return gemm_program(operands, Gemm(**kind))  # type: ignore[arg-type]


def test_shape_and_flops_follow_the_operands() -> None:
    program = product(operand("A", 3, 5), operand("B", 5, 7))
    assert program.types["C"] == MatrixType(3, 7, "float64")
    assert program.flops == 2 * 3 * 5 * 7


def test_transposed_operands_are_read_the_other_way() -> None:
    program = product(operand("A", 5, 3), operand("B", 7, 5), transpose_a=True, transpose_b=True)
    assert program.types["C"] == MatrixType(3, 7, "float64")


def test_complex_products_cost_four_times_the_work() -> None:
    real = product(operand("A", 3, 5), operand("B", 5, 7))
    complex_ = product(operand("A", 3, 5, "complex128"), operand("B", 5, 7, "complex128"))
    assert complex_.flops == 4 * real.flops


@pytest.mark.parametrize(
    ("operands", "kind", "words"),
    [
        ((operand("A", 3, 4), operand("B", 5, 7)), {}, "inner sizes 4 and 5 differ"),
        ((operand("A", 3, 5), operand("B", 5, 7, "float32")), {}, "share one dtype"),
        ((operand("A", 3, 5),), {}, "2 or 3 operands, not 1"),
        ((operand("A", -3, 5), operand("B", 5, 7)), {}, "cannot be negative"),
        ((operand("A", 2**40, 2**40), operand("B", 2**40, 1)), {}, "the limit is"),
        ((operand("A", 2**40, 1), operand("B", 1, 2**40)), {}, "the limit is"),
        ((operand("A", 3, 5), operand("B", 5, 7), operand("b", 1, 6)), {}, "must be 1 x 7"),
        ((operand("A", 3, 5, "int64"), operand("B", 5, 7, "int64")), {"alpha": 2.0}, "alpha"),
        (
            (operand("A", 3, 5, "complex64"), operand("B", 5, 7, "complex64")),
            {"activation": Activation.TANH},
            "needs a real float",
        ),
        ((operand("A", 3, 5, "str"), operand("B", 5, 7, "str")), {}, "it may be bool"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(
    operands: tuple[Operand, ...], kind: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        product(*operands, **kind)


def test_a_name_is_assigned_once_and_before_its_use() -> None:
    a, b = operand("A", 2, 2), operand("B", 2, 2)
    with pytest.raises(InvalidInput, match="assigned twice"):
        Program((a, b), (Operation("A", ("A", "B"), Gemm()),), ("A",))
    with pytest.raises(InvalidInput, match="not defined before"):
        Program((a, b), (Operation("C", ("A", "D"), Gemm()),), ("C",))
    with pytest.raises(InvalidInput, match="no operation makes"):
        Program((a, b), (Operation("C", ("A", "B"), Gemm()),), ("D",))


def test_inline_bytes_must_be_all_of_the_matrix() -> None:
    short = Operand("A", MatrixType(2, 2, "float64"), inline=b"\0" * 31)
    with pytest.raises(InvalidInput, match="32 bytes, but 31 came"):
        product(short, operand("B", 2, 2))


def test_a_program_survives_the_wire() -> None:
    inline = Operand("b", MatrixType(1, 7, "float32"), inline=b"\1" * 28)
    program = product(
        operand("A", 5, 3, "float32"),
        operand("B", 5, 7, "float32"),
        inline,
        transpose_a=True,
        alpha=0.5,
        activation=Activation.GELU,
    )
    assert wire.program_from_wire(wire.program_to_wire(program)) == program


def test_blocks_of_transposed_operands_are_columns_and_rows() -> None:
    types = {"A": MatrixType(5, 30, "float64"), "B": MatrixType(70, 5, "float64")}
    operation = Operation("C", ("A", "B"), Gemm(transpose_a=True, transpose_b=True))
    found = dict(needed_blocks(operation, types, Rectangle(10, 20, 40, 60)))
    assert found == {"A": Rectangle(0, 5, 10, 20), "B": Rectangle(40, 60, 0, 5)}


rectangles = st.builds(
    lambda r, h, c, w: Rectangle(r, r + h, c, c + w),
    *(st.integers(0, 12), st.integers(0, 8), st.integers(0, 12), st.integers(0, 8)),
)


def cells(rectangle: Rectangle) -> set[tuple[int, int]]:
    return {
        (row, column)
        for row in range(rectangle.row_start, rectangle.row_stop)
        for column in range(rectangle.column_start, rectangle.column_stop)
    }


@given(rectangles, st.lists(rectangles, max_size=5))
def test_what_is_left_of_a_rectangle_is_exactly_what_was_not_taken(
    whole: Rectangle, taken: list[Rectangle]
) -> None:
    left = uncovered(whole, taken)
    expected = cells(whole).difference(*(cells(hole) for hole in taken))
    assert set().union(*(cells(piece) for piece in left)) == expected
    assert sum(piece.area for piece in left) == len(expected)
    fewer = merged(left)
    assert set().union(*(cells(piece) for piece in fewer)) == expected
    assert sum(piece.area for piece in fewer) == len(expected)
    assert len(fewer) <= len(left)
