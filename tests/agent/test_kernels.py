"""Kernels: NumPy's product, element by element, within what rounding explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deadheat.agent.executors.kernels import gemm_panel
from deadheat.runtime.dtypes import BY_NAME, numpy_dtype
from deadheat.runtime.programs import Activation, Gemm

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


@pytest.mark.parametrize("dtype", sorted(BY_NAME))
def test_products_equal_numpys(dtype: str) -> None:
    a, b, _ = operands(dtype)
    found = computed(Gemm(), dtype, a, b)
    element = BY_NAME[dtype]
    if element.is_exact:
        assert np.array_equal(found, a @ b)
        return
    wide = "complex128" if dtype.startswith("complex") else "float64"
    exact = a.astype(wide) @ b.astype(wide)
    accumulated = float(np.finfo(element.compute).eps)
    bound = a.shape[1] * accumulated * (np.abs(a.astype(wide)) @ np.abs(b.astype(wide)))
    if element.compute != dtype:
        once = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        bound = bound + np.abs(exact) * once
    assert (np.abs(found.astype(wide) - exact) <= bound).all()


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
