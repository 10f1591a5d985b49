"""Lazy matrices: what they say as they are written, and what programs become of them."""

from __future__ import annotations

import gc
import random
import re
import weakref
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.expressions import values

from deadheat.client import InvalidInput, Lazy
from deadheat.client.client import Offline
from deadheat.client.lowering import lower
from deadheat.client.programs import Programs
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import (
    MAX_OPERATIONS,
    Activation,
    Chain,
    Gemm,
    Kind,
    Operation,
    Program,
    Rectangle,
)
from deadheat.scheduler.planner.orders import left_to_right, right_to_left
from deadheat.scheduler.planner.rewriting import expand_chain

Array = np.ndarray[Any, Any]
HERE = Offline()
RNG = np.random.default_rng(3)


def put(*shape: int, dtype: str = "float64") -> Lazy:
    return HERE.put(RNG.standard_normal(shape).astype(dtype))


def kinds(*matrices: Lazy) -> list[Kind]:
    program = lower([matrix.node for matrix in matrices]).program
    assert program is not None
    return [operation.kind for operation in program.operations]


def cut_by(seed: int) -> Any:
    """Cuts of results into random strips of random widths."""
    rng = random.Random(seed)

    def edges(size: int) -> list[int]:
        return [0, *sorted(rng.randint(0, size) for _ in range(rng.randint(0, 3))), size]

    def cuts(operation: Operation, whole: Rectangle) -> Iterable[Rectangle]:
        del operation
        rows = edges(whole.rows)
        for top, bottom in pairwise(rows):
            columns = edges(whole.columns)
            for left, right in pairwise(columns):
                yield Rectangle(top, bottom, left, right)

    return cuts


def without_chains(program: Program, *, backwards: bool) -> Program:
    while chains := [n for n, op in enumerate(program.operations) if isinstance(op.kind, Chain)]:
        order = right_to_left if backwards else left_to_right
        count = len(program.operations[chains[0]].operands)
        program = expand_chain(program, chains[0], order(count))
    return program


# Values


@settings(max_examples=300)
@given(made=values(HERE), seed=st.integers(0, 2**32), backwards=st.booleans())
def test_random_programs_are_numpys_in_whatever_pieces(
    made: list[Any], seed: int, backwards: bool
) -> None:
    wanted = made[-3:]
    lowered = lower([value.lazy.node for value in wanted])
    found = {name: held.array for name, held in lowered.held.items()}
    if lowered.program is not None:
        program = without_chains(lowered.program, backwards=backwards)
        with np.errstate(all="ignore"):
            found |= evaluate(np, program, dict(found), cut_by(seed))
    for value, name in zip(wanted, lowered.outputs, strict=True):
        value.check(np.asarray(found[name]).reshape(value.array.shape))


def test_numpys_functions_make_lazy_matrices() -> None:
    x, y = RNG.standard_normal((4, 4)), RNG.standard_normal((4, 4))
    lazy = HERE.put(x)
    pairs = [
        (np.matmul(lazy, y), x @ y),
        (y @ lazy, y @ x),
        (np.add(y, lazy), y + x),
        (y - lazy, y - x),
        (np.float64(3) * lazy, 3 * x),
        (1 / (lazy * lazy + 1), 1 / (x * x + 1)),
        (np.negative(lazy), -x),
        (np.exp(lazy), np.exp(x)),
        (np.sum(lazy, axis=0), x.sum(axis=0)),
        (np.mean(lazy), x.mean()),
        (np.transpose(lazy), x.T),
        (np.dot(lazy, y[0]), x @ y[0]),
        (np.linalg.multi_dot([lazy, y, x]), x @ y @ x),
    ]
    for found, expected in pairs:
        assert isinstance(found, Lazy)
        value = found.compute(where="local")
        assert np.shape(value) == expected.shape
        assert np.allclose(value, expected, rtol=1e-12)
    with pytest.raises(TypeError, match="sort"):
        np.sort(lazy)
    with pytest.raises(TypeError):
        np.add.reduce(lazy)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "bfloat16", "complex64"])
def test_numbers_take_the_dtype_of_the_array_beside_them(dtype: str) -> None:
    import ml_dtypes

    x = np.ones((2, 2), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    lazy = HERE.put(x)
    for found, expected in ((lazy * 2, x * 2), (lazy + 2.5, x + 2.5), (2 - lazy, 2 - x)):
        assert found.dtype == expected.dtype
        assert np.array_equal(found.compute(where="local"), expected)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5)])
def test_an_ellipsis_stands_for_the_dimensions_that_are_not_named(shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal(shape)
    lazy = HERE.put(x)
    indices: list[Any] = [(..., 0), (0, ...), (..., slice(1, 3)), (slice(1, 3), ...), ..., ()]
    for index in indices:
        if len(shape) or index in (..., ()):
            found = lazy[index].compute(where="local")
            assert np.array_equal(found, x[index])
            assert np.shape(found) == np.shape(x[index])


def test_sums_of_tall_matrices_are_cut() -> None:
    x = np.linspace(-1, 1, 9000 * 3).reshape(9000, 3).astype("float16")
    lazy = HERE.put(x)
    assert len(kinds(lazy.sum(axis=0))) == 2
    found = lazy.sum(axis=0).compute(where="local")
    assert found.dtype == np.float16
    assert np.allclose(found, x.astype(float).sum(axis=0), rtol=1e-3, atol=1e-3)
    assert np.allclose(lazy.mean(axis=0).compute(where="local"), 0, atol=1e-3)


def test_what_was_put_is_a_copy() -> None:
    x = np.zeros((2, 3))
    lazy = HERE.put(x)
    x += 1
    found = lazy.compute(where="local")
    assert not found.any()
    found += 1
    assert not lazy.compute(where="local").any()


def test_matrices_of_other_libraries_and_layouts(tmp_path: Any) -> None:
    x = np.asfortranarray(RNG.standard_normal((3, 5)))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(HERE.put(x).compute(where="local"), x)
    assert np.array_equal(HERE.put(str(tmp_path / "x.npy")).compute(where="local"), x)
    assert kinds(HERE.put(x) @ HERE.put(x).T) == [Gemm(transpose_a=True)]
    assert HERE.put([[1, 2], [3, 4]]).dtype == np.int64
    assert HERE.put(3.5).shape == ()


# Errors


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: put(3, 4) @ put(5, 6), "inner sizes 4 and 5 differ"),
        (lambda: put(3, 4) + put(3, 5), "cannot be broadcast"),
        (lambda: put(3, 4) @ 2.0, "needs 1 or 2 dimensions"),
        (lambda: HERE.put(np.ones((2, 2), bool)) - np.ones((2, 2), bool), "does not subtract"),
        (lambda: HERE.put(np.ones((2, 2), "int32")).gelu(), "gelu needs a real float"),
        (lambda: put(2, 2).gelu("exact"), "it may be none, tanh"),
        (lambda: put(3, 4).sum(axis=2), "there are 2 dimensions"),
        (lambda: put(3, 4)[::2], "step 2"),
        (lambda: put(3, 4)[7], "index 7 is out of bounds"),
        (lambda: put(3, 4)[0, 0, 0], "3 indices for 2 dimensions"),
        (lambda: put(3, 4)[[0, 1]], "it may be an integer or a slice"),  # type: ignore[index]
        (lambda: put(3, 4)[True], "and no mask"),
        (lambda: put(3, 4)[..., ...], "2 times; it may have it once"),
        (lambda: put(3, 4)[..., 0, 0, 0], "3 indices for 2 dimensions"),
        (lambda: put(3, 4)["a":], "slice indices must be integers"),
        (lambda: put(3, 4)[::0], "step cannot be zero"),
        (lambda: put(3, 4).sum(axis=(0, 1)), "it must be one whole number"),  # type: ignore[arg-type]
        (lambda: put(3, 4).softmax(1.0), "it must be one whole number"),  # type: ignore[arg-type]
        (lambda: put(3, 4).astype("flout"), "dtype is 'flout'"),
        (lambda: np.sum(put(3, 4), dtype="float32"), "takes a, axis, keepdims: .*'dtype'"),
        (lambda: np.transpose(put(3, 4), (1, 0)), "transpose of a lazy matrix takes a: too many"),
        (lambda: np.linalg.multi_dot([put(3, 4), put(4), put(3, 4)]), "M2 has 1 dimensions"),
        (lambda: np.linalg.multi_dot([put(3, 4)]), "a chain has 2 at least"),
        (lambda: HERE.put(np.ones((2, 2), "int8")) * 1000, "1000 is no int8"),
        (lambda: HERE.put(np.ones((2, 2, 2))), "3 dimensions"),
        (lambda: put(2, 2) + np.array([[None]]), "dtype"),
        (lambda: put(2, 2) + Offline().put(1.0), "two clients"),
        (lambda: bool(put(2, 2)), "no truth value"),
    ],
)
def test_what_is_wrong_is_said_as_it_is_written_with_the_line(write: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        write()
    line = write.__code__.co_firstlineno
    assert re.search(rf"\({re.escape(__file__)}, line {line}\)$", str(caught.value))


def test_programs_are_bounded() -> None:
    x = put(2, 2)
    for _ in range(MAX_OPERATIONS + 1):
        x = -x
    with pytest.raises(InvalidInput, match=f"it may have 1 to {MAX_OPERATIONS}"):
        HERE.compute(x, where="local")
    for value in (np.ones((2, 2)), None):
        with pytest.raises(InvalidInput, match="is no expression"):
            HERE.compute(value, where="local")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="nothing to compute"):
        HERE.compute()


def test_lazy_matrices_are_not_iterated() -> None:
    with pytest.raises(TypeError):
        list(put(2, 2))  # type: ignore[call-overload]


# Programs


def test_layers_are_one_operation_each() -> None:
    x, w, v, b = put(8, 4), put(4, 5), put(5, 3), put(5)
    found = kinds(((x @ w + b).relu() @ v).tanh())
    assert found == [Gemm(activation=Activation.RELU), Gemm(activation=Activation.TANH)]
    assert kinds(b + x @ w) == [Gemm()]
    assert kinds(x.T @ x) == [Gemm(transpose_a=True)]


def test_what_others_need_stays_by_itself() -> None:
    x, w, b = put(8, 4), put(4, 5), put(5)
    product = x @ w
    assert len(kinds((product + b).relu(), product)) == 3
    assert len(kinds((product + b) * product)) == 3


def test_common_parts_are_computed_once() -> None:
    x, w = put(8, 4), put(4, 8)
    assert len(kinds((x @ w).relu() + (x @ w).relu(), (x @ w).relu())) == 2
    assert len(kinds(x * 2.0, x * 2.0)) == 1
    lowered = lower([(x * 2.0 + 2.0).node])
    assert len(lowered.held) == 2


def test_chains_are_taken_together_where_nobody_needs_what_is_between() -> None:
    a, b, c, d = put(2, 3), put(3, 4), put(5, 4), put(5, 2)
    assert kinds(a @ b @ c.T @ d) == [Chain((2,))]
    assert kinds(a @ (b @ (c.T @ d))) == [Chain((2,))]
    between = a @ b
    assert kinds(between @ c.T @ d, between) == [Gemm(), Chain((1,))]
    assert kinds((a @ b @ c.T).relu())[0] == Chain((2,))


def test_a_long_chain_is_several() -> None:
    x = put(2, 2)
    product = x
    for _ in range(150):
        product = product @ x
    found = kinds(product)
    assert all(isinstance(kind, Chain) for kind in found)
    assert len(found) == 3


def test_operands_are_let_go_when_nobody_uses_them() -> None:
    client: Programs = Offline()
    x = client.put(np.ones(3))
    assert x.node.held is not None
    held = weakref.ref(x.node.held)
    y = x + 1
    del x
    gc.collect()
    assert held() is not None
    del y
    gc.collect()
    assert held() is None
