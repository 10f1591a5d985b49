"""One panel of one operation, written against the array namespace of its operands."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import Activation, Gemm, Sum

Array = Any

#: Rows of a sum are finished in blocks of this size, which stay in a core's cache between one term
#: and the next (measured on large matrices of float64: 4 terms in 9.4 ms rather than 10.7; blocks
#: of 64 KiB lose that again, to the calls).
SUM_BLOCK_BYTES: Final = 1 << 20


def gemm_panel(
    xp: ModuleType, kind: Gemm, dtype: str, a: Array, b: Array, bias: Array | None, out: Array
) -> None:
    """`out[...] = activation(alpha * a @ b + bias)` for one panel.

    `a` is m x k and `b` is k x n, both of `dtype`, transposed and cut already (as views); `bias`
    is 1 x n or None; `out` is m x n. float16 and bfloat16 are multiplied and summed in float32,
    and rounded once if `out` is not float32.
    """
    compute = numpy_dtype(element_type(dtype).compute)
    # Without a copy where they are of that type already.
    a, b = a.astype(compute, copy=False), b.astype(compute, copy=False)
    bias = None if bias is None else bias.astype(compute, copy=False)
    if compute == out.dtype:
        xp.matmul(a, b, out=out)
        _finish(xp, kind, out, bias)
        return
    wide = xp.matmul(a, b)
    _finish(xp, kind, wide, bias)
    out[...] = wide.astype(out.dtype)


def sum_panel(
    xp: ModuleType, kind: Sum, dtype: str, terms: Sequence[Array], bias: Array | None, out: Array
) -> None:
    """`out[...] = activation(alpha * (terms[0] + ... ) + bias)` for one panel.

    `terms` are m x n, all of `dtype`, added in their order in its accumulation type; `bias` is
    1 x n or None; `out` is m x n and rounded to once. Sums of bool are "or", as in NumPy.
    """
    compute = numpy_dtype(element_type(dtype).compute)
    bias = None if bias is None else bias.astype(compute, copy=False)
    rows = max(1, SUM_BLOCK_BYTES // max(1, out.shape[1] * compute.itemsize))
    for start in range(0, out.shape[0], rows):
        block = slice(start, start + rows)
        made = out[block]
        wide = made if made.dtype == compute else xp.empty(made.shape, compute)
        parts = [term[block].astype(compute, copy=False) for term in terms]
        if len(parts) == 1:
            wide[...] = parts[0]
        for index in range(1, len(parts)):
            xp.add(wide if index > 1 else parts[0], parts[index], out=wide)
        _finish(xp, kind, wide, bias)
        if wide is not made:
            made[...] = wide.astype(made.dtype)


def _finish(xp: ModuleType, kind: Gemm | Sum, out: Array, bias: Array | None) -> None:
    """The epilogue, in place while the panel is still in the cache."""
    if kind.alpha != 1.0:
        out *= out.dtype.type(kind.alpha)
    if bias is not None:
        out += bias
    match kind.activation:
        case Activation.NONE:
            pass
        case Activation.RELU:
            xp.maximum(out, 0, out=out)  # NaN stays NaN, as in NumPy.
        case Activation.TANH:
            xp.tanh(out, out=out)
        case Activation.SIGMOID:
            out[...] = _sigmoid(xp, out)
        case Activation.GELU:
            out[...] = out * 0.5 * (1 + _erf(xp)(out * 0.5**0.5))
        case Activation.GELU_TANH:
            inner = (2 / xp.pi) ** 0.5 * (out + 0.044715 * out**3)
            out[...] = 0.5 * out * (1 + xp.tanh(inner))


def _sigmoid(xp: ModuleType, x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow, through tanh."""
    return 0.5 * (1 + xp.tanh(0.5 * x))


def _erf(xp: ModuleType) -> Any:
    """The error function for this namespace; NumPy has none, SciPy's is exact to rounding."""
    if xp.__name__ == "cupy":
        from cupyx.scipy import special
    else:
        from scipy import special
    return special.erf
