"""Operands, and whether a product of them is right: no ratio counts whose result is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SAMPLED_ROWS = 8


def operands(
    rows: int, inner: int | None = None, columns: int | None = None, dtype: str = "float64"
) -> tuple[Array, Array]:
    """Normal numbers, the same for the same sizes; square unless it says otherwise."""
    rng = np.random.default_rng(rows)
    inner, columns = inner or rows, columns or rows
    kind: Any = np.dtype(dtype)
    left = rng.standard_normal((rows, inner), kind)
    return left, rng.standard_normal((inner, columns), kind)


class Checker:
    """Freivalds' check, where a wrong element shows in the product with a vector, and some rows
    against NumPy's, element by element. What is expected is computed once."""

    def __init__(self, a: Array, b: Array) -> None:
        inner = a.shape[1]
        eps = float(np.finfo(a.dtype).eps)
        rng = np.random.default_rng(3)
        self._shape = a.shape[0], b.shape[1]
        self._x = rng.standard_normal(b.shape[1])
        self._expected = a @ (b @ self._x)
        magnitude = np.abs(b)
        # Rounding errors add up like the root of their number, most of the time.
        scale = np.abs(a) @ (magnitude @ np.abs(self._x))
        self._most = 2 * eps * math.sqrt(inner) * scale
        self._rows = np.unique(np.r_[0, rng.integers(0, a.shape[0], SAMPLED_ROWS), len(a) - 1])
        some = a[self._rows].astype(np.float64)
        self._some = some @ b
        self._most_some = inner * eps * (np.abs(some) @ magnitude)

    def __call__(self, product: Array) -> None:
        assert product.shape == self._shape
        wrong = "a wrong product"
        assert (np.abs(product @ self._x - self._expected) <= self._most).all(), wrong
        assert (np.abs(product[self._rows] - self._some) <= self._most_some).all(), wrong
