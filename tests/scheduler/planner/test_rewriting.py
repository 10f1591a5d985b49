"""Rewrites keep what a program means: NumPy evaluates both and is the judge."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime import wire
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.programs import (
    MAX_NAME,
    Activation,
    Chain,
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    Sum,
    chain_program,
)
from deadheat.scheduler.planner.orders import Leaf, Order, Pair, left_to_right, right_to_left
from deadheat.scheduler.planner.rewriting import expand_chain, product_names, split_inner

Array = np.ndarray[Any, Any]


def operand(name: str, rows: int, columns: int, dtype: str = "float64") -> Operand:
    return Operand(name, MatrixType(rows, columns, dtype), matrix_id=f"m{name}")


def evaluated(program: Program, given: Mapping[str, Array]) -> Mapping[str, Array]:
    """What every name of a program stands for."""
    values = dict(given)
    for operation in program.operations:
        found = [values[name] for name in operation.operands]
        kind = operation.kind
        bias: Array | float = 0.0
        if isinstance(kind, Gemm):
            a = found[0].T if kind.transpose_a else found[0]
            b = found[1].T if kind.transpose_b else found[1]
            window = slice(*kind.inner) if kind.inner else slice(None)
            wide = complex if found[0].dtype.kind == "c" else float
            made: Array = a[:, window].astype(wide) @ b[window].astype(wide)
            bias = found[2] if len(found) == 3 else 0.0
        elif isinstance(kind, Sum):
            terms = found[:-1] if kind.bias else found
            made = np.sum(terms, axis=0)
            bias = found[-1] if kind.bias else 0.0
        else:
            raise TypeError(f"{operation} was not rewritten")
        made = kind.alpha * made + bias
        if kind.activation is Activation.RELU:
            made = np.maximum(made, 0)
        values[operation.result] = made.astype(
            numpy_dtype(program.types[operation.result].dtype), copy=False
        )
    return values


def values_of(program: Program) -> Mapping[str, Array]:
    """Small whole numbers, so that every order of summation gives the very same result."""
    rng = np.random.default_rng(17)
    return {
        o.name: rng.integers(-3, 4, (o.type.rows, o.type.columns)).astype(numpy_dtype(o.type.dtype))
        for o in program.operands
    }


def biased(dtype: str, **kind: Any) -> Program:
    """A product in the middle of a program: C uses A, and D uses C."""
    operands = (
        operand("A", 20, 4, dtype),
        operand("B", 20, 6, dtype),
        operand("bias", 1, 6, dtype),
        operand("E", 6, 3, dtype),
    )
    product = Operation("C", ("A", "B", "bias"), Gemm(transpose_a=True, **kind))
    after = Operation("D", ("C", "E"), Gemm())
    return Program(operands, (product, after), ("C", "D"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("parts", [[(0, 7), (7, 20)], [(0, 1), (1, 2), (2, 20)]])
def test_a_split_product_means_the_same(dtype: str, parts: list[tuple[int, int]]) -> None:
    activation = Activation.NONE if dtype.startswith("complex") else Activation.RELU
    program = biased(dtype, alpha=0.5, activation=activation)
    rewritten = split_inner(program, 0, parts)
    given = values_of(program)
    whole, split = evaluated(program, given), evaluated(rewritten, given)
    for name in ("C", "D"):
        assert np.array_equal(whole[name], split[name])
        assert rewritten.types[name] == program.types[name]
    assert rewritten.results == program.results


def test_a_split_reads_well() -> None:
    rewritten = split_inner(biased("float16", alpha=0.5), 0, [(0, 7), (7, 20)])
    part = Gemm(transpose_a=True, inner=(0, 7), out_dtype="float32")
    assert rewritten.operations == (
        Operation("C~k0", ("A", "B"), part),
        Operation("C~k1", ("A", "B"), Gemm(transpose_a=True, inner=(7, 20), out_dtype="float32")),
        Operation("C", ("C~k0", "C~k1", "bias"), Sum(bias=True, alpha=0.5, dtype="float16")),
        Operation("D", ("C", "E"), Gemm()),
    )
    assert rewritten.types["C~k0"] == MatrixType(4, 6, "float32")
    assert wire.program_from_wire(wire.program_to_wire(rewritten)) == rewritten


def test_a_part_can_be_split_again() -> None:
    program = biased("float64")
    once = split_inner(program, 0, [(0, 8), (8, 20)])
    twice = split_inner(once, 1, [(8, 9), (9, 20)])
    assert [operation.result for operation in twice.operations] == [
        *("C~k0", "C~k1~k0", "C~k1~k1", "C~k1", "C", "D")
    ]
    given = values_of(program)
    assert np.array_equal(evaluated(program, given)["D"], evaluated(twice, given)["D"])


def test_one_part_is_no_split() -> None:
    program = biased("float64")
    assert split_inner(program, 0, [(0, 20)]) is program


@pytest.mark.parametrize(
    "parts", [[], [(0, 7)], [(0, 7), (8, 20)], [(0, 9), (7, 20)], [(0, 7), (7, 21)], [(7, 0)]]
)
def test_parts_that_are_not_the_whole_are_refused(parts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="not consecutive windows of"):
        split_inner(biased("float64"), 0, parts)


def chain(sizes: list[int], transposed: tuple[int, ...] = (), result: str = "C") -> Program:
    operands = []
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        shape = (columns, rows) if index in transposed else (rows, columns)
        operands.append(operand(f"M{index + 1}", *shape))
    return chain_program(tuple(operands), Chain(transposed), result)


@st.composite
def orders(draw: st.DrawFn, start: int, stop: int) -> Order:
    if stop - start == 1:
        return Leaf(start)
    middle = draw(st.integers(start + 1, stop - 1))
    return Pair(draw(orders(start, middle)), draw(orders(middle, stop)))


@given(st.data())
def test_a_chain_in_any_order_means_the_same(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=8))
    length = len(sizes) - 1
    transposed = tuple(sorted(data.draw(st.sets(st.integers(0, length - 1)))))
    program = chain(sizes, transposed)
    order = data.draw(orders(0, length))
    rewritten = expand_chain(program, 0, order)
    given = values_of(program)
    straight = [
        given[o.name].T if index in transposed else given[o.name]
        for index, o in enumerate(program.operands)
    ]
    expected = np.linalg.multi_dot(straight)
    assert np.array_equal(evaluated(rewritten, given)["C"], expected)
    assert rewritten.types["C"] == program.types["C"]
    assert len(rewritten.operations) == length - 1
    assert rewritten == expand_chain(program, 0, order)


def test_an_expanded_chain_reads_well() -> None:
    order = Pair(Pair(Leaf(0), Leaf(1)), Pair(Leaf(2), Leaf(3)))
    program = chain([2, 3, 4, 5, 6], transposed=(2,))
    assert expand_chain(program, 0, order).operations == (
        Operation("C~1..2", ("M1", "M2"), Gemm()),
        Operation("C~3..4", ("M3", "M4"), Gemm(transpose_a=True)),
        Operation("C", ("C~1..2", "C~3..4"), Gemm()),
    )
    assert product_names(program, 0, order) == {(0, 2): "C~1..2", (2, 4): "C~3..4", (0, 4): "C"}


def test_names_stay_unique_and_short_whatever_they_come_from() -> None:
    long = "C" * MAX_NAME
    a, b, d = operand("A", 2, 2), operand("B", 2, 2), operand("C~1..2", 2, 2)
    three = Program((a, b, d), (Operation("C", ("A", "B", "C~1..2"), Chain()),), ("C",))
    made = expand_chain(three, 0, left_to_right(3)).operations
    assert [operation.result for operation in made] == ["C~1..2~1", "C"]
    longest = expand_chain(chain([2] * 5, result=long), 0, right_to_left(4))
    assert longest.results == (long,)


def test_what_is_no_order_of_the_chain_is_refused() -> None:
    for wrong in (left_to_right(2), Pair(Leaf(1), Pair(Leaf(0), Leaf(2)))):
        with pytest.raises(ValueError, match="is no order of the 3 operands"):
            expand_chain(chain([2, 3, 4, 5]), 0, wrong)
    with pytest.raises(TypeError, match="is not a chain"):
        expand_chain(biased("float64"), 0, left_to_right(2))
    with pytest.raises(TypeError, match="is not a product"):
        split_inner(chain([2, 3, 4]), 0, [(0, 3)])
