"""One panel of one operation, written against the array namespace of its operands."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import Activation, Gemm

Array = Any


def gemm_panel(
    xp: ModuleType, kind: Gemm, dtype: str, a: Array, b: Array, bias: Array | None, out: Array
) -> None:
    """`out[...] = activation(alpha * a @ b + bias)` for one panel.

    `a` is m x k and `b` is k x n, transposed already (as views); `bias` is 1 x n or None; `out`
    is m x n. float16 and bfloat16 are multiplied and summed in float32 and rounded once.
    """
    compute = numpy_dtype(element_type(dtype).compute)
    if compute == out.dtype:
        xp.matmul(a, b, out=out)
        _finish(xp, kind, out, bias)
        return
    wide = xp.matmul(a.astype(compute), b.astype(compute))
    _finish(xp, kind, wide, None if bias is None else bias.astype(compute))
    out[...] = wide.astype(out.dtype)


def _finish(xp: ModuleType, kind: Gemm, out: Array, bias: Array | None) -> None:
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
