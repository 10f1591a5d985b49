"""Stacks of matrices, as NumPy's matmul takes them, as matrices of two dimensions.

Rules of this file: batch dimensions are broadcast as NumPy has it. A stack lies in memory as the
rows of all its matrices, one below the other. Where B is one matrix for all of A's, the whole is
one product of two matrices; else it is a product for each matrix of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deadheat.runtime.errors import InvalidInput

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stacks:
    """Operands of two dimensions, the batches that lie in them (None if it is one product), and
    NumPy's shape of the result."""

    a: Array
    b: Array
    batches: tuple[tuple[int, ...], tuple[int, ...]] | None
    result_shape: tuple[int, ...]


def stacked(a: Array, b: Array) -> Stacks:
    """Two operands of which one has more than two dimensions, and the other one at least; raises
    InvalidInput for what NumPy would not multiply."""
    left = a[np.newaxis] if a.ndim == 1 else a
    right = b[:, np.newaxis] if b.ndim == 1 else b
    (rows, inner), (height, columns) = left.shape[-2:], right.shape[-2:]
    if inner != height:
        raise InvalidInput(
            f"A is {dimensions(a)} and B is {dimensions(b)}: inner sizes {inner} and {height} "
            "differ",
            field="B",
        )
    a_batch, b_batch = left.shape[:-2], right.shape[:-2]
    try:
        batch = np.broadcast_shapes(a_batch, b_batch)
    except ValueError:
        raise InvalidInput(
            f"A is {dimensions(a)} and B is {dimensions(b)}: batches {a_batch} and {b_batch} "
            "cannot be broadcast to one",
            field="B",
        ) from None
    shape = (*batch, *([rows] if a.ndim > 1 else []), *([columns] if b.ndim > 1 else []))
    return Stacks(
        left.reshape(math.prod(a_batch) * rows, inner),
        right.reshape(math.prod(b_batch) * height, columns),
        None if math.prod(b_batch) == 1 else (a_batch, b_batch),
        shape,
    )


def dimensions(array: Array) -> str:
    return " x ".join(str(length) for length in array.shape) or "a scalar"
