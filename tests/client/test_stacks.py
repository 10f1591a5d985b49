"""Stacks of matrices: NumPy's batch dimensions, here, on the cluster and in whatever pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.test_lazy import cut_by

from deadheat.client import Client, InvalidInput, Offline, arrays
from deadheat.runtime import wire
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import (
    Activation,
    Batched,
    Gemm,
    MatrixType,
    Operand,
    Operation,
    Program,
    gemm_program,
    read_by_rows,
)

Array = np.ndarray[Any, Any]


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Array, Array]:
    """Two operands that NumPy multiplies, of one to four dimensions."""
    m, k, n = (draw(st.integers(0, 4)) for _ in range(3))
    batch = draw(st.lists(st.integers(0, 3), max_size=2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def operand(rows: int, columns: int, vector: int) -> Array:
        if draw(st.booleans()) and draw(st.booleans()):
            return rng.standard_normal(vector)
        left = draw(st.integers(0, len(batch)))
        own = [draw(st.sampled_from((1, length))) for length in batch[left:]]
        made = rng.standard_normal((*own, rows, columns))
        if draw(st.booleans()):
            made = np.swapaxes(np.ascontiguousarray(np.swapaxes(made, -1, -2)), -1, -2)
        return made

    return operand(m, k, k), operand(k, n, k)


@settings(max_examples=300)
@given(stacks(), st.integers(0, 2**32), st.sampled_from(["float64", "float32", "int64", "float16"]))
def test_products_of_stacks_are_numpys_in_whatever_pieces(
    pair: tuple[Array, Array], seed: int, dtype: str
) -> None:
    a, b = ((10 * one).astype(dtype) for one in pair)
    wide = np.matmul(a.astype("float64"), b.astype("float64"))
    limit = {"float64": 1e-12, "float32": 1e-4, "int64": 0, "float16": 2e-3}[dtype]

    def check(found: Any) -> None:
        assert (np.shape(found), found.dtype) == (wide.shape, np.matmul(a, b).dtype)
        scale = np.matmul(np.abs(a).astype("float64"), np.abs(b).astype("float64"))
        assert (np.abs(found - wide) <= limit * scale).all()

    check(Offline().matmul(a, b, where="local"))
    checked = arrays.product(a, b)
    program = gemm_program(checked.placeholders(), checked.kind(Gemm()))
    given = {source.name: np.ascontiguousarray(source.array) for source in checked.sources}
    made = evaluate(np, program, given, cut_by(seed))["C"]
    check(np.asarray(made).reshape(checked.result_shape)[()])


def test_a_stack_and_one_matrix_are_one_product() -> None:
    a, b = np.ones((3, 2, 4, 5)), np.ones((5, 6))
    assert arrays.product(a, b).batches is None
    assert arrays.product(a, b[np.newaxis]).batches is None
    assert arrays.product(a, np.ones(5)).batches is None
    assert arrays.product(a, np.ones((2, 5, 6))).batches == ((3, 2), (2,))
    assert arrays.product(np.ones(5), np.ones((2, 5, 6))).batches == ((), (2,))


def test_a_stack_is_one_job_with_an_epilogue(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((4, 1, 70, 50)), rng.standard_normal((3, 50, 60))
    bias = rng.standard_normal(60)
    job = client.submit_matmul(a, b, bias=bias, alpha=2.0, activation="relu")
    found = job.result(timeout=60)
    expected = np.maximum(2 * (a @ b) + bias, 0)
    assert found.shape == (4, 3, 70, 60)
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    report = job.report()
    assert report.kind == "matmul"
    assert len({placement["operation"] for placement in report.placements}) == 1
    np.save(tmp_path / "a.npy", a)
    assert np.allclose(client.matmul(tmp_path / "a.npy", b, where="cluster"), a @ b, rtol=1e-12)
    row = client.matmul(a[0, 0, 0], b, where="cluster")
    assert row.shape == (3, 60)
    assert np.allclose(row, a[0, 0, 0] @ b, rtol=1e-12)
    here = client.matmul(a, b, bias=bias, alpha=2.0, activation="relu", where="local")
    assert np.allclose(here, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((2, 3, 4), (2, 3, 4), "A is 2 x 3 x 4 and B is 2 x 3 x 4: inner sizes 4 and 3 differ"),
        ((2, 3, 4), (3, 4, 5), r"batches \(2,\) and \(3,\) cannot be broadcast"),
        ((2, 3, 4), (3,), "inner sizes 4 and 3 differ"),
        ((2, 3, 4), (), "B is a scalar"),
        ((), (2, 3, 4), "A is a scalar"),
    ],
)
def test_what_numpy_would_refuse_is_refused(
    a: tuple[int, ...], b: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        arrays.product(np.ones(a), np.ones(b))
    with pytest.raises(InvalidInput, match="bias is 4"):
        arrays.product(np.ones((2, 3, 4)), np.ones((2, 4, 5)), np.ones(4))
    with pytest.raises(InvalidInput, match="A has dtype object"):
        arrays.product(np.full((2, 3, 4), None), np.ones((2, 4, 5)))


def batched(kind: Batched, *shapes: tuple[int, int]) -> Program:
    operands = tuple(
        Operand(name, MatrixType(*shape, "float64"), name) for name, shape in zip("abc", shapes)
    )
    names = tuple(operand.name for operand in operands)
    return Program(operands, (Operation("y", names, kind),), ("y",))


@pytest.mark.parametrize(
    ("kind", "shapes", "words"),
    [
        (Batched(Gemm(), (2,), (3,)), [(4, 5), (15, 2)], "cannot be broadcast to one: 2 and 3"),
        (Batched(Gemm(), (2,), (2,)), [(5, 5), (10, 2)], "'a' has 5 rows, which are not 2 matri"),
        (Batched(Gemm(), (2,), (2,)), [(4, 5), (8, 2)], "inner sizes 5 and 4 differ"),
        (Batched(Gemm(), (-2,), (2,)), [(4, 5), (10, 2)], "cannot be broadcast|rows"),
        (Batched(Gemm(transpose_a=True), (2,), (2,)), [(4, 5), (10, 2)], "as they lie there"),
        (Batched(Gemm(), (2,), (2,)), [(4, 5)], "2 or 3 operands, not 1"),
        (Batched(Gemm(), (2,), (2,)), [(4, 5), (10, 2), (2, 2)], "it must be 1 x 2"),
        (Batched(Gemm(), (1,) * 70, (2,)), [(4, 5), (10, 2)], "70 batch dimensions"),
        (Batched(Gemm(), (1 << 30, 1), (1 << 30,)), [(0, 5), (0, 2)], "is of more than"),
    ],
)
def test_what_came_by_wire_is_checked(
    kind: Batched, shapes: list[tuple[int, int]], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        batched(kind, *shapes)


def test_stacks_survive_the_wire_and_know_what_they_read() -> None:
    gemm = Gemm(alpha=2.0, activation=Activation.TANH)
    kind = Batched(gemm, (3, 1), (2,))
    program = batched(kind, (12, 5), (10, 2))
    (operation,) = program.operations
    assert wire.operation_from_wire(wire.operation_to_wire(operation)) == operation
    assert read_by_rows(operation, program.types) == (False, False)
    assert program.flops == 6 * 2 * 4 * 5 * 2
    other = batched(Batched(gemm, (2,), (2,)), (8, 5), (10, 2))
    (own,) = other.operations
    assert read_by_rows(own, other.types) == (True, False)
