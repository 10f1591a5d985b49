"""What may be served: programs in which no caller's row meets another's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.operations import (
    Activation,
    Binary,
    BinaryFunction,
    Gemm,
    Kind,
    Segment,
    Slice,
    Softmax,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.runtime.programs import (
    UNSENT,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
)
from deadheat.scheduler.core.serving import MAX_BATCH_BYTES, MAX_BATCH_ROWS, Pass, served

WIDTH = 4
X = Operand("x", MatrixType(2, WIDTH, "float64"), matrix_id=UNSENT)
W = Operand("w", MatrixType(WIDTH, WIDTH, "float64"), matrix_id="m1")
B = Operand("b", MatrixType(1, WIDTH, "float64"), matrix_id="m2")
ADD, MULTIPLY = Binary(BinaryFunction.ADD), Binary(BinaryFunction.MULTIPLY)


def program(*steps: tuple[Kind, tuple[str, ...]]) -> Program:
    """Steps called s1, s2 and so on."""
    operations = tuple(
        Operation(f"s{number}", names, kind) for number, (kind, names) in enumerate(steps, 1)
    )
    return Program((X, W, B), operations, (operations[-1].result,))


def test_a_network_is_one_segment_for_any_number_of_rows() -> None:
    made = served(
        program(
            (Gemm(activation=Activation.RELU), ("x", "w", "b")),
            (Gemm(), ("s1", "w")),
            (Softmax(), ("s2",)),
        ),
        "x",
    )
    (operation,) = made.program.operations
    assert isinstance(operation.kind, Segment)
    assert (made.row.rows, made.outputs.columns) == (1, WIDTH)
    assert made.max_rows == MAX_BATCH_ROWS
    batch = made.of(7, bytes(7 * WIDTH * 8))
    assert batch.types[batch.results[0]].rows == 7
    assert [operand.name for operand in made.stored] == ["w", "b"]
    # What is recorded is read again as it was.
    assert served(made.program, "x") == made


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([(Gemm(transpose_b=True), ("x", "x"))], "other rows of the samples"),
        ([(Gemm(transpose_a=True), ("x", "x"))], "make 4 rows"),
        (
            [(Gemm(transpose_b=True), ("x", "x")), (SumAlong(1), ("s1",))],
            "other rows|needs all rows",
        ),
        ([(SumAlong(0), ("x",))], "make 1 rows"),
        ([(Transpose(), ("x",))], "make 4 rows"),
        ([(Slice(Rectangle(0, 1, 0, 4)), ("x",))], "make 1 rows"),
        ([(Gemm(), ("w", "w"))], "make 4 rows"),
        ([(SumAlong(0), ("x",)), (ADD, ("s1", "x"))], "row by row"),
    ],
)
def test_rows_that_would_mix_are_refused(
    steps: list[tuple[Kind, tuple[str, ...]]], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        served(program(*steps), "x")


def test_a_row_that_is_too_large_is_refused_with_the_limit() -> None:
    wide = MAX_BATCH_BYTES // 8 + 1
    big = Operand("x", MatrixType(2, wide, "float64"), matrix_id=UNSENT)
    negative = Operation("y", ("x",), Unary(UnaryFunction.NEGATIVE))
    with pytest.raises(InvalidInput, match=r"the limit for a model that is served is 1\.0 MiB"):
        served(Program((big,), (negative,), ("y",)), "x")


def test_samples_that_are_not_there_are_named() -> None:
    with pytest.raises(InvalidInput, match="no operand 'rows'"):
        served(program((Softmax(), ("x",))), "rows")


#: Steps that go row by row, and some that do not: by what is accepted, rows must not mix.
STEPS: list[tuple[Kind, int, str]] = [
    (Gemm(), 1, "w"),
    (Gemm(transpose_b=True), 1, "w"),
    (Unary(UnaryFunction.TANH), 1, ""),
    (Softmax(), 1, ""),
    (ADD, 1, "b"),
    (ADD, 2, ""),
    (MULTIPLY, 2, ""),
    (Gemm(transpose_b=True), 2, ""),
    (SumAlong(0), 1, ""),
    (SumAlong(1), 1, ""),
    (Transpose(), 1, ""),
    (Slice(Rectangle(0, 2, 0, 4)), 1, ""),
]


@given(st.data())
def test_in_what_is_accepted_no_row_meets_another(data: st.DataObject) -> None:
    steps: list[tuple[Kind, tuple[str, ...]]] = []
    for number in range(data.draw(st.integers(1, 5))):
        kind, count, more = data.draw(st.sampled_from(STEPS))
        known = ["x", *(f"s{before + 1}" for before in range(number))]
        names = [data.draw(st.sampled_from(known)) for _ in range(count)]
        steps.append((kind, (*names, more) if more else tuple(names)))
    try:
        made = served(program(*steps), "x")
    except InvalidInput:
        return
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((5, WIDTH))
    whole = computed(made, rows)
    for number in range(len(rows)):
        others = rng.standard_normal(rows.shape)
        others[number] = rows[number]
        # Not one bit of a row depends on others beyond the rounding of a longer product.
        assert np.allclose(computed(made, others)[number], whole[number], rtol=1e-12, atol=1e-12)


def computed(made: Pass, rows: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    given_ = {"x": rows, "w": rng.standard_normal((WIDTH, WIDTH)), "b": rng.random((1, WIDTH))}
    batch = made.of(len(rows), rows.tobytes())
    found = evaluate(np, batch, {name: given_[name] for name in batch.sources})
    made_rows: np.ndarray = found[batch.results[0]]
    return made_rows
