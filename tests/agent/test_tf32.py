"""TF32 on a card: where a product asks for it and nowhere else, by a stub that rounds as cuBLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.agent import cards
from tests.agent.test_cuda import Bench, end_pools  # noqa: F401 - it is used by being here.

from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.namespace import Namespace
from deadheat.runtime.programs import (
    Activation,
    Batched,
    Gemm,
    Operation,
    Precision,
    Segment,
    Unary,
    UnaryFunction,
)

RNG = np.random.default_rng(3)
#: All a little above 1, which is what ten bits leave of them.
A, B = ((1 + RNG.integers(1, 4, (60, 80)) * 2.0**-13).astype(np.float32) for _ in range(2))
TF32 = Gemm(precision=Precision.TF32)


def tf32(array: Any) -> Any:
    """The nearest numbers with ten bits."""
    return (np.round(array.astype(np.float64) * 2**10) / 2**10).astype(np.float32)


IN_TF32 = tf32(A).astype(np.float64) @ tf32(B).T.astype(np.float64)
EXACT = A.astype(np.float64) @ B.T.astype(np.float64)


def test_the_two_can_be_told_apart() -> None:
    assert np.abs(EXACT - IN_TF32).min() > 0.01


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Gemm(), EXACT),
        (TF32, IN_TF32),
        (Batched(TF32, (2,), (2,)), None),
        (Gemm(activation=Activation.RELU, precision=Precision.TF32, inner=(0, 80)), IN_TF32),
    ],
    ids=["strict", "asked for", "a stack", "a part"],
)
def test_a_product_is_as_exact_as_it_was_asked_for(kind: Any, expected: Any) -> None:
    bench = Bench()
    arrays = [A, np.ascontiguousarray(B.T)]
    if expected is None:
        arrays = [np.vstack([A, A]), np.vstack([B.T, B.T])]
        expected = np.vstack([IN_TF32, IN_TF32])
    task = bench.task(Operation("C", ("A", "B"), kind), arrays)
    assert bench.run(task) == "finished"
    np.testing.assert_allclose(task.result.array, expected, rtol=1e-6)


def test_of_a_segment_each_product_has_its_own() -> None:
    steps = (
        Operation("H", ("A", "B"), TF32),
        Operation("T", ("H",), Unary(UnaryFunction.RELU)),
        Operation("C", ("T", "V"), Gemm()),
    )
    bench = Bench()
    operands = [A, np.ascontiguousarray(B.T), np.eye(60, dtype=np.float32)]
    task = bench.task(Operation("C", ("A", "B", "V"), Segment(steps)), operands)
    assert bench.run(task) == "finished"
    np.testing.assert_allclose(task.result.array, IN_TF32, rtol=1e-6)


def test_a_handle_that_somebody_set_to_tf32_is_set_back() -> None:
    cupy = cards.fresh()
    namespace = Namespace(Card(cupy))
    handle = cupy.cuda.device.get_cublas_handle()
    a, b, out = (cupy.zeros(shape, np.float32) for shape in ((60, 80), (80, 60), (60, 60)))
    a[...], b[...] = cupy._new(A), cupy._new(np.ascontiguousarray(B.T))
    for precision, expected in ((Precision.STRICT, EXACT), (Precision.TF32, IN_TF32)):
        cupy.cuda.cublas.setMathMode(handle, cupy.cuda.cublas.CUBLAS_TF32_TENSOR_OP_MATH)
        namespace.product(a, b, out, precision)
        np.testing.assert_allclose(cupy.asnumpy(out), expected, rtol=1e-6)
    assert cupy.cuda.cublas.getMathMode(handle) == cupy.cuda.cublas.CUBLAS_DEFAULT_MATH


@pytest.mark.parametrize("dtype", ["float64", "float16", "complex64"])
def test_other_types_are_not_touched(dtype: str) -> None:
    cupy = cards.fresh()
    namespace = Namespace(Card(cupy))
    a, b = (cupy._new(one.astype(dtype)) for one in (A, np.ascontiguousarray(B.T)))
    summed = {"float16": "float32"}.get(dtype, dtype)
    out = cupy.empty((60, 60), summed)
    namespace.product(a, b, out, Precision.TF32)
    expected = A.astype(dtype).astype("complex128") @ B.T.astype(dtype).astype("complex128")
    np.testing.assert_allclose(cupy.asnumpy(out), expected, rtol=1e-6)
