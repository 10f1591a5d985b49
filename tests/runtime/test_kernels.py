"""Kernels: NumPy's product, element by element, within what rounding explains."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deadheat.runtime.dtypes import BY_NAME, numpy_dtype
from deadheat.runtime.kernels import SUM_BLOCK_BYTES, gemm_panel, sum_panel
from deadheat.runtime.programs import Activation, Gemm, Sum

Array = np.ndarray[Any, Any]


def operands(dtype: str, m: int = 33, k: int = 70, n: int = 29) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(5)
    found = numpy_dtype(dtype)
    if BY_NAME[dtype].is_exact:
        low, high = (0, 2) if dtype == "bool" else (0, 9)
        a: Array = rng.integers(low, high, (m, k))
        b: Array = rng.integers(low, high, (k, n))
    else:
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        if dtype.startswith("complex"):
            a, b = a + 1j * rng.standard_normal((m, k)), b - 2j * rng.standard_normal((k, n))
    return a.astype(found), b.astype(found), np.empty((m, n), found)


def computed(kind: Gemm, dtype: str, a: Array, b: Array, bias: Array | None = None) -> Array:
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    gemm_panel(np, kind, dtype, a, b, bias, out)
    return out


def _wide(array: Array) -> Array:
    return array.astype("complex128" if array.dtype.kind == "c" else "float64")


def error(found: Array, a: Array, b: Array) -> Array:
    difference: Array = _wide(found) - _wide(a) @ _wide(b)
    return difference


def bound(dtype: str, a: Array, b: Array) -> Array:
    """K * eps * (|A| @ |B|) with eps of the accumulation type, plus one rounding."""
    element = BY_NAME[dtype]
    accumulated = float(np.finfo(element.compute).eps)
    found: Array = a.shape[1] * accumulated * (np.abs(_wide(a)) @ np.abs(_wide(b)))
    if element.compute != dtype:
        once = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        found = found + np.abs(_wide(a) @ _wide(b)) * once
    return found


@pytest.mark.parametrize("dtype", sorted(BY_NAME))
def test_products_equal_numpys(dtype: str) -> None:
    a, b, _ = operands(dtype)
    found = computed(Gemm(), dtype, a, b)
    element = BY_NAME[dtype]
    if element.is_exact:
        assert np.array_equal(found, a @ b)
        return
    assert (np.abs(error(found, a, b)) <= bound(dtype, a, b)).all()


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_epilogues_are_what_their_names_say(activation: Activation, dtype: str) -> None:
    from scipy import special

    a, b, _ = operands(dtype)
    bias = np.linspace(-1, 1, b.shape[1]).astype(a.dtype).reshape(1, -1)
    found = computed(Gemm(alpha=0.25, activation=activation), dtype, a, b, bias)
    x = 0.25 * (a.astype(float) @ b.astype(float)) + bias.astype(float)
    expected = {
        Activation.NONE: x,
        Activation.RELU: np.maximum(x, 0),
        Activation.TANH: np.tanh(x),
        Activation.SIGMOID: 1 / (1 + np.exp(-x)),
        Activation.GELU: x * special.ndtr(x),
        Activation.GELU_TANH: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }[activation]
    tolerance = {"float64": 1e-13, "float32": 1e-4, "float16": 2e-2}[dtype]
    assert np.allclose(found.astype(float), expected, rtol=tolerance, atol=tolerance)


def test_nan_and_infinity_propagate() -> None:
    a, b, _ = operands("float64")
    a[3, 4], b[5, 6] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        found, expected = computed(Gemm(), "float64", a, b), a @ b
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(np.isinf(found), np.isinf(expected))
    relu = computed(Gemm(activation=Activation.RELU), "float64", a, b)
    assert np.isnan(relu[3]).all()


def test_half_precision_is_rounded_once() -> None:
    """2048 ones and one more: in float16 alone the sum would stop at 2048."""
    a, b = np.ones((1, 2050), np.float16), np.ones((2050, 1), np.float16)
    assert computed(Gemm(), "float16", a, b)[0, 0] == 2050


def split(
    kind: Sum, dtype: str, a: Array, b: Array, cuts: list[int], bias: Array | None = None
) -> Array:
    """A product as the planner splits it along K: parts in the accumulation type, then a sum."""
    wide = BY_NAME[dtype].compute
    parts = []
    for start, stop in pairwise(cuts):
        part = np.empty((a.shape[0], b.shape[1]), wide)
        gemm_panel(np, Gemm(), dtype, a[:, start:stop], b[start:stop], None, part)
        parts.append(part)
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    sum_panel(np, kind, wide, parts, bias, out)
    return out


@pytest.mark.parametrize("dtype", sorted(BY_NAME))
def test_a_product_split_along_k_is_numpys(dtype: str) -> None:
    a, b, _ = operands(dtype)
    found = split(Sum(), dtype, a, b, [0, 1, 20, 69, 70])
    if BY_NAME[dtype].is_exact:
        assert np.array_equal(found, a @ b)
    else:
        assert (np.abs(error(found, a, b)) <= bound(dtype, a, b)).all()


def test_parts_of_half_precision_are_not_rounded_before_they_are_added() -> None:
    """Two parts of 1 + 2^-11, which float16 cannot hold: rounded first, both tails are lost."""
    tails = np.array([[1.0, 2.0**-11, 1.0, 2.0**-11]], np.float16)
    ones = np.ones((4, 1), np.float16)
    once = np.float16(2 + 2.0**-10)
    assert split(Sum(), "float16", tails, ones, [0, 2, 4])[0, 0] == once
    single = np.empty((1, 1), np.float32)
    gemm_panel(np, Gemm(out_dtype="float32"), "float16", tails[:, :2], ones[:2], None, single)
    assert single[0, 0] == 1 + 2.0**-11


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_epilogues_move_from_a_product_to_the_sum_of_its_parts(
    activation: Activation, dtype: str
) -> None:
    a, b, _ = operands(dtype)
    bias = np.linspace(-1, 1, b.shape[1]).astype(a.dtype).reshape(1, -1)
    whole = computed(Gemm(alpha=0.25, activation=activation), dtype, a, b, bias)
    kind = Sum(bias=True, alpha=0.25, activation=activation, dtype=dtype)
    found = split(kind, dtype, a, b, [0, 30, 70], bias)
    tolerance = {"float64": 1e-13, "float32": 1e-4, "float16": 2e-3}[dtype]
    assert np.allclose(found.astype(float), whole.astype(float), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", sorted(BY_NAME))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_sums_are_numpys(dtype: str, count: int) -> None:
    terms = [operands(dtype, m=33 + i, k=70)[0][i : 33 + i] for i in range(count)]
    out = np.empty(terms[0].shape, terms[0].dtype)
    sum_panel(np, Sum(), dtype, terms, None, out)
    wide = BY_NAME[dtype].compute
    expected = terms[0].astype(wide)
    for term in terms[1:]:
        expected = expected + term.astype(wide)
    assert np.array_equal(out, expected.astype(out.dtype))


def test_sums_wider_and_longer_than_a_block_are_whole() -> None:
    columns = SUM_BLOCK_BYTES // 8 // 5  # Five rows fit in a block; seventeen do not.
    terms = [np.full((17, columns), float(i)) for i in range(1, 4)]
    out = np.full((17, columns), np.nan)
    sum_panel(np, Sum(), "float64", terms, None, out)
    assert (out == 6).all()
    wide = [np.ones((2, SUM_BLOCK_BYTES))] * 2
    out = np.empty((2, SUM_BLOCK_BYTES))
    sum_panel(np, Sum(), "float64", wide, None, out)
    assert (out == 2).all()
    nothing = np.empty((0, 5))
    sum_panel(np, Sum(), "float64", [nothing, nothing], None, np.empty((0, 5)))
