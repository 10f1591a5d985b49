"""Programs: what is wrong is said before anything is allocated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime import wire
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    MAX_CHAIN,
    Activation,
    Chain,
    Gemm,
    GemmShape,
    Kind,
    MatrixType,
    Op,
    Operand,
    Operation,
    Program,
    Rectangle,
    Sum,
    chain_program,
    gemm_program,
    merged,
    needed_blocks,
    uncovered,
)
from deadheat.runtime.rules import fewest_steps
from deadheat.v1 import types_pb2


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


def one(kind: Kind, *operands: Operand) -> Program:
    names = tuple(operand.name for operand in operands)
    return Program(operands, (Operation("C", names, kind),), ("C",))


def test_a_window_of_the_inner_dimension_reads_and_costs_only_that() -> None:
    kind = Gemm(transpose_a=True, inner=(2, 5))
    program = one(kind, operand("A", 8, 30), operand("B", 8, 70))
    operation = program.operations[0]
    found = dict(needed_blocks(operation, program.types, Rectangle(10, 20, 40, 60)))
    assert found == {"A": Rectangle(2, 5, 10, 20), "B": Rectangle(2, 5, 40, 60)}
    assert program.shape_of(operation) == GemmShape(30, 3, 70, "float64")
    assert program.flops == 2 * 30 * 3 * 70


def test_parts_of_half_precision_products_keep_the_type_they_are_summed_in() -> None:
    a, b = operand("A", 3, 5, "float16"), operand("B", 5, 7, "float16")
    program = one(Gemm(out_dtype="float32"), a, b)
    assert program.types["C"] == MatrixType(3, 7, "float32")
    # It is computed as fast as any other product of float16.
    assert program.shape_of(program.operations[0]).dtype == "float16"


def test_a_sum_needs_the_same_rectangle_of_each_term_and_a_row_of_bias() -> None:
    terms = [operand(f"P{i}", 30, 70, "float32") for i in range(3)]
    kind = Sum(bias=True, alpha=2.0, dtype="float16")
    program = one(kind, *terms, operand("b", 1, 70, "float16"))
    assert program.types["C"] == MatrixType(30, 70, "float16")
    wanted = Rectangle(10, 20, 40, 60)
    found = dict(needed_blocks(program.operations[0], program.types, wanted))
    assert found == {"P0": wanted, "P1": wanted, "P2": wanted, "b": Rectangle(0, 1, 40, 60)}
    # Two additions, a bias and a factor for each element.
    assert program.flops == 30 * 70 * 4
    assert program.shape_of(program.operations[0]).op is Op.SUM


def test_a_chains_work_is_that_of_its_best_order() -> None:
    sizes = [10, 100, 5, 50]
    matrices = tuple(operand(f"M{i}", sizes[i], sizes[i + 1]) for i in range(3))
    program = chain_program(matrices)
    assert program.types["C"] == MatrixType(10, 50, "float64")
    assert program.flops == 2 * 7500
    assert program.shape_of(program.operations[0]).flops == pytest.approx(2 * 7500, rel=0.05)


@given(st.lists(st.integers(0, 40), min_size=3, max_size=8))
def test_the_fewest_steps_are_those_of_the_best_of_all_orders(sizes: list[int]) -> None:
    def best(i: int, j: int) -> int:
        if i == j:
            return 0
        return min(
            best(i, k) + best(k + 1, j) + sizes[i] * sizes[k + 1] * sizes[j + 1]
            for k in range(i, j)
        )

    assert fewest_steps(sizes) == best(0, len(sizes) - 2)


def many(count: int) -> list[Operand]:
    return [operand(f"M{i}", 2, 2) for i in range(count)]


@pytest.mark.parametrize(
    ("kind", "operands", "words"),
    [
        (Gemm(inner=(2, 9)), (operand("A", 3, 5), operand("B", 5, 7)), r"\[2, 9\) is not inside"),
        (Gemm(inner=(3, 2)), (operand("A", 3, 5), operand("B", 5, 7)), "is not inside"),
        (Gemm(out_dtype="float16"), (operand("A", 3, 5), operand("B", 5, 7)), "summed in float64"),
        (Sum(), (), "1 to 1024 terms, not 0"),
        (Sum(bias=True), (operand("b", 1, 7),), "terms, not 0"),
        (Sum(), (operand("P", 3, 5), operand("Q", 3, 6)), "'Q' is 3 x 6"),
        (Sum(), (operand("P", 3, 5), operand("Q", 3, 5, "float32")), "must be of one type"),
        (Sum(dtype="float16"), (operand("P", 3, 5),), "not summed in float64"),
        (Sum(bias=True), (operand("P", 3, 5), operand("b", 1, 4)), "must be 1 x 5"),
        (
            Sum(bias=True, dtype="float16"),
            (operand("P", 3, 5, "float32"), operand("b", 1, 5, "float32")),
            "the result is float16",
        ),
        (Sum(alpha=2.0), (operand("P", 3, 5, "int8"),), "alpha"),
        (Chain(), many(1), f"2 to {MAX_CHAIN} operands, not 1"),
        (Chain(), many(MAX_CHAIN + 1), f"not {MAX_CHAIN + 1}"),
        (Chain(), (operand("A", 3, 5), operand("B", 5, 7), operand("D", 6, 2)), "7 and 6 differ"),
        (Chain(), (operand("A", 3, 5), operand("B", 5, 7, "int8")), "share one dtype"),
        (Chain((1, 0)), many(3), "ascending"),
        (Chain((3,)), many(3), "0 to 2"),
    ],
)
def test_kinds_refuse_what_does_not_fit_them(
    kind: Kind, operands: tuple[Operand, ...], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        one(kind, *operands)


@pytest.mark.parametrize(
    ("kind", "operands"),
    [
        (Gemm(inner=(0, 0)), (operand("A", 3, 5), operand("B", 5, 7))),
        (
            Gemm(inner=(1, 4), out_dtype="float32"),
            (operand("A", 3, 5, "bfloat16"), operand("B", 5, 7, "bfloat16")),
        ),
        (Sum(), (operand("P", 3, 5), operand("Q", 3, 5))),
        (
            Sum(bias=True, alpha=0.5, activation=Activation.TANH, dtype="float16"),
            (operand("P", 3, 5, "float32"), operand("b", 1, 5, "float16")),
        ),
        (Chain(), (operand("A", 3, 5), operand("B", 5, 7))),
        (Chain((0, 2)), (operand("A", 5, 3), operand("B", 5, 7), operand("D", 2, 7))),
    ],
)
def test_every_kind_survives_the_wire(kind: Kind, operands: tuple[Operand, ...]) -> None:
    program = one(kind, *operands)
    sent = wire.program_to_wire(program).SerializeToString()
    assert wire.program_from_wire(types_pb2.Program.FromString(sent)) == program


def test_a_kind_from_a_newer_version_is_refused_by_name() -> None:
    newer = types_pb2.Operation.FromString(
        types_pb2.Operation(result="Z", operands=["A"]).SerializeToString() + b"\xa2\x06\x00"
    )
    with pytest.raises(InvalidInput, match=r"'Z' is of a kind .* it knows gemm, sum, chain"):
        wire.operation_from_wire(newer)


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
