"""Operations that are not products: NumPy's types and values, in whatever pieces they are made."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deadheat.runtime import wire
from deadheat.runtime.dtypes import BY_NAME, float_for, numpy_dtype, promoted
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import (
    Binary,
    BinaryFunction,
    Cast,
    Gemm,
    Kind,
    MatrixType,
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
    is_row_local,
)
from deadheat.v1 import types_pb2

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
KINDS: list[Kind] = [
    *(Unary(function) for function in UnaryFunction),
    *(Binary(function) for function in BinaryFunction),
    Cast("float32"),
    Softmax(),
    SumAlong(0),
    SumAlong(0, 3, "float32"),
    SumAlong(1),
    Transpose(),
    Slice(Rectangle(1, 3, 0, 2)),
]


def random(rows: int, columns: int, dtype: str = "float64") -> Array:
    found = numpy_dtype(dtype)
    if BY_NAME[dtype].is_exact:
        return RNG.integers(0, 2 if dtype == "bool" else 100, (rows, columns)).astype(found)
    real = RNG.standard_normal((rows, columns))
    if dtype.startswith("complex"):
        return (real + 1j * RNG.standard_normal((rows, columns))).astype(found)
    return real.astype(found)


def program(kind: Kind, *given: Array) -> Program:
    operands = tuple(
        Operand(f"x{n}", MatrixType(x.shape[0], x.shape[1], x.dtype.name), inline=x.tobytes())
        for n, x in enumerate(given)
    )
    names = tuple(operand.name for operand in operands)
    return Program(operands, (Operation("y", names, kind),), ("y",))


def thirds(operation: Operation, whole: Rectangle) -> Iterable[Rectangle]:
    """Nine rectangles, some of them empty."""
    rows = [whole.rows * k // 3 for k in range(4)]
    columns = [whole.columns * k // 3 for k in range(4)]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Rectangle(top, bottom, left, right)


def made(kind: Kind, *given: Array) -> Array:
    """The result, which is the same in one piece and in nine."""
    built = program(kind, *given)
    operands = {f"x{n}": x for n, x in enumerate(given)}
    whole: Array = evaluate(np, built, operands)["y"]
    pieces = evaluate(np, built, operands, thirds)["y"]
    wide = np.complex128 if whole.dtype.kind == "c" else np.float64
    assert np.allclose(whole.astype(wide), pieces.astype(wide), rtol=1e-6, equal_nan=True)
    return whole


def check(found: Array, expected: Array) -> None:
    """Equal, but for rounding: twice in types narrower than that in which they are computed."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if found.dtype.kind in "biu":
        assert np.array_equal(found, expected)
        return
    wide = np.complex128 if found.dtype.kind == "c" else np.float64
    limits = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "complex64": 1e-6}
    limit = limits.get(found.dtype.name, 1e-14)
    assert np.allclose(found.astype(wide), expected.astype(wide), rtol=limit, atol=limit)


@pytest.mark.parametrize("a", sorted(BY_NAME))
@pytest.mark.parametrize("b", sorted(BY_NAME))
def test_two_dtypes_make_numpys(a: str, b: str) -> None:
    try:
        expected = np.result_type(numpy_dtype(a), numpy_dtype(b)).name
    except TypeError:
        with pytest.raises(InvalidInput, match="no common type"):
            promoted(a, b)
        return
    assert promoted(a, b) == expected


@pytest.mark.parametrize("dtype", sorted(BY_NAME))
def test_each_dtype_has_numpys_sums_and_exponentials(dtype: str) -> None:
    x = random(7, 5, dtype)
    if BY_NAME[dtype].is_exact and dtype != "bool":
        x %= x.dtype.type(5)
    assert np.exp(x).dtype == numpy_dtype(float_for(dtype))
    for axis in (0, 1):
        expected = np.sum(x.astype("float64") if dtype == "bfloat16" else x, axis, keepdims=True)
        check(made(SumAlong(axis), x), expected.astype(np.sum(x).dtype))
    check(made(Unary(UnaryFunction.EXP), x), np.exp(x))


@pytest.mark.parametrize("function", BinaryFunction)
@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (6, 1), (1, 1)])
@pytest.mark.parametrize(
    "dtypes", [("float64", "float64"), ("int32", "uint8"), ("int8", "float16")]
)
def test_sides_are_broadcast(
    function: BinaryFunction, shape: tuple[int, int], dtypes: tuple[str, str]
) -> None:
    ufunc = getattr(np, "true_divide" if function.value == "divide" else function.value)
    a, b = random(6, 5, dtypes[0]), random(*shape, dtypes[1]) + 1
    check(made(Binary(function), a, b), ufunc(a, b))
    check(made(Binary(function), b, a + 1), ufunc(b, a + 1))


def test_functions_are_what_their_names_say() -> None:
    from scipy import special

    x = random(5, 4) * 3
    expected = {
        UnaryFunction.NEGATIVE: -x,
        UnaryFunction.EXP: np.exp(x),
        UnaryFunction.TANH: np.tanh(x),
        UnaryFunction.RELU: np.maximum(x, 0),
        UnaryFunction.SIGMOID: special.expit(x),
        UnaryFunction.GELU: x * special.ndtr(x),
        UnaryFunction.GELU_TANH: 0.5
        * x
        * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    }
    for function in UnaryFunction:
        check(made(Unary(function), x), expected[function])
    check(made(Softmax(), x), special.softmax(x, axis=1))
    assert np.isfinite(made(Softmax(), x + 1e4)).all()
    integers = random(4, 4, "int16") - np.int16(50)
    check(made(Unary(UnaryFunction.RELU), integers), np.maximum(integers, 0))
    check(made(Unary(UnaryFunction.NEGATIVE), integers), -integers)


def test_rearranged_and_cast() -> None:
    x = random(5, 7)
    check(made(Transpose(), x), x.T)
    check(made(Slice(Rectangle(1, 4, 2, 7)), x), x[1:4, 2:7])
    check(made(Cast("float32"), x), x.astype("float32"))


def test_sums_of_blocks_are_halves_of_a_sum() -> None:
    x = random(10, 4, "float16")
    halves = made(SumAlong(0, 4, "float32"), x)
    assert halves.shape == (3, 4)
    check(made(SumAlong(0, dtype="float16"), halves), x.sum(axis=0, keepdims=True))
    integers = random(3, 4, "int8")
    check(made(SumAlong(1, dtype="float64"), integers), integers.sum(1, float, keepdims=True))


def test_sums_over_nothing_are_zero() -> None:
    assert np.array_equal(made(SumAlong(0), np.empty((0, 3))), np.zeros((1, 3)))
    assert np.array_equal(made(SumAlong(1), np.empty((3, 0))), np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Unary(UnaryFunction.GELU), [("int32", 2, 2)], "gelu needs a real float"),
        (Unary(UnaryFunction.RELU), [("complex64", 2, 2)], "relu needs real numbers"),
        (Unary(UnaryFunction.NEGATIVE), [("bool", 2, 2)], "no negative"),
        (Unary(UnaryFunction.EXP), [("int32", 2, 2)] * 2, "unary has 1 operands, not 2"),
        (Binary(BinaryFunction.ADD), [("int32", 2, 3), ("int32", 2, 2)], "3 and 2 differ"),
        (Binary(BinaryFunction.SUBTRACT), [("bool", 2, 2)] * 2, "does not subtract"),
        (Binary(BinaryFunction.ADD), [("bfloat16", 2, 2), ("int64", 2, 2)], "no common type"),
        (Softmax(), [("int32", 2, 2)], "softmax needs a real float"),
        (Cast("float64"), [("complex64", 2, 2)], "imaginary part"),
        (Cast("str"), [("complex64", 2, 2)], "it may be bool"),
        (SumAlong(2), [("float64", 2, 2)], "axis is 2"),
        (SumAlong(0, 0), [("float64", 2, 2)], "block is 0"),
        (SumAlong(1, 2), [("float64", 2, 2)], "along axis 1"),
        (SumAlong(1, dtype="int8"), [("float64", 2, 2)], "sums of float64 are float64"),
        (Slice(Rectangle(0, 3, 0, 1)), [("float64", 2, 2)], "is not inside 'x0', 2 x 2 float64"),
        (Slice(Rectangle(2, 1, 0, 1)), [("float64", 2, 2)], "is not inside"),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: Kind, given: list[tuple[str, int, int]], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        program(kind, *(random(rows, columns, dtype) for dtype, rows, columns in given))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kinds_survive_the_wire(kind: Kind) -> None:
    operation = Operation("y", ("a", "b"), kind)
    assert wire.operation_from_wire(wire.operation_to_wire(operation)) == operation


def test_what_only_a_newer_version_knows_is_named() -> None:
    newer = types_pb2.Operation(result="y").SerializeToString() + b"\xfa\x01\x00"  # Field 31.
    with pytest.raises(InvalidInput, match=r"'y' is of a kind .* \(number 31\)"):
        wire.operation_from_wire(types_pb2.Operation.FromString(newer))
    unknown = types_pb2.Operation(result="y", unary=types_pb2.Unary(function=99))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="unary function 99 is unknown"):
        wire.operation_from_wire(unknown)


def test_rows_are_local_where_no_other_row_is_needed() -> None:
    local = {Unary, Binary, Cast, Softmax}
    for kind in KINDS:
        expected = type(kind) in local or kind == SumAlong(1)
        assert is_row_local(Operation("y", ("a",), kind)) == expected
    assert is_row_local(Operation("y", ("a", "b"), Gemm()))
    assert not is_row_local(Operation("y", ("a", "b"), Gemm(transpose_a=True)))
