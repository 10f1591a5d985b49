"""One panel of one operation, written against the array namespace of its operands.

A namespace is NumPy, or what speaks like it. It may bring three things of its own: `product(a, b,
out, precision)`, which multiplies operands as they are stored, at least so exactly, and sums them
in the type of `out`; `rounds`, the types of less precision that `out` may be of all the same, since
what is summed is rounded to it once; and `block_bytes`, the size of the blocks in which it likes
long operations to be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, assert_never

from deadheat.runtime import batches, descending, segments
from deadheat.runtime.convolving_kernels import windowed_panel
from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import (
    Activation,
    Batched,
    Binary,
    BinaryFunction,
    Cast,
    Chain,
    Descent,
    Gemm,
    MatrixType,
    Operation,
    Rectangle,
    Segment,
    Slice,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
    needed_blocks,
)
from deadheat.runtime.scratch import Scratch
from deadheat.runtime.special import erf
from deadheat.runtime.windows import Convolve, ConvolveBack, ConvolveWeights, Pooling, PoolingBack

Array = Any

#: Rows of a sum are finished in blocks of this size, which stay in a core's cache between one term
#: and the next (measured on large matrices of float64: 4 terms in 9.4 ms rather than 10.7; blocks
#: of 64 KiB lose that again, to the calls).
SUM_BLOCK_BYTES: Final = 1 << 20


_ACTIVATIONS: Final = {
    UnaryFunction.TANH: Activation.TANH,
    UnaryFunction.RELU: Activation.RELU,
    UnaryFunction.GELU: Activation.GELU,
    UnaryFunction.GELU_TANH: Activation.GELU_TANH,
    UnaryFunction.SIGMOID: Activation.SIGMOID,
}
_UFUNCS: Final = {
    BinaryFunction.ADD: "add",
    BinaryFunction.SUBTRACT: "subtract",
    BinaryFunction.MULTIPLY: "multiply",
    BinaryFunction.DIVIDE: "true_divide",
}


def compute_panel(
    xp: Any,
    operation: Operation,
    types: Mapping[str, MatrixType],
    rectangle: Rectangle,
    parts: Sequence[Array],
    out: Array,
) -> None:
    """`rectangle` of an operation's result, into `out`. `parts` are what `needed_blocks` says, in
    its order, as they are stored; `types` are those of the whole operands."""
    kind = operation.kind
    match kind:
        case Gemm():
            a = parts[0].T if kind.transpose_a else parts[0]
            b = parts[1].T if kind.transpose_b else parts[1]
            dtype = types[operation.operands[0]].dtype
            gemm_panel(xp, kind, dtype, a, b, parts[2] if len(parts) == 3 else None, out)
        case Batched():
            _batched(xp, operation, kind, types, rectangle, parts, out)
        case Sum():
            terms, bias = (parts[:-1], parts[-1]) if kind.bias else (parts, None)
            sum_panel(xp, kind, types[operation.operands[0]].dtype, terms, bias, out)
        case Chain():
            raise TypeError("a chain is rewritten into products before it is assigned")
        case Unary(function):
            _unary(xp, function, parts[0], out)
        case Binary(function):
            _binary(xp, function, parts[0], parts[1], out)
        case Cast() | Slice():
            out[...] = parts[0].astype(out.dtype, copy=False)
        case Transpose():
            out[...] = parts[0].T
        case Softmax():
            columns = slice(rectangle.column_start, rectangle.column_stop)
            _softmax(xp, parts[0], columns, out)
        case SumAlong():
            _sum_along(xp, kind, types[operation.operands[0]].dtype, parts[0], out)
        case Segment():
            given = dict(zip(operation.operands, parts, strict=True))
            _segment(xp, kind, segments.all_types(kind, types), rectangle, given, out)
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack():
            windowed_panel(xp, kind, types[operation.operands[0]].dtype, rectangle, parts, out)
        case Descent():
            descending.run(xp, kind, parts, out)
        case _:
            assert_never(kind)


def gemm_panel(
    xp: Any, kind: Gemm, dtype: str, a: Array, b: Array, bias: Array | None, out: Array
) -> None:
    """`out[...] = activation(alpha * a @ b + bias)` for one panel.

    `a` is m x k and `b` is k x n, both of `dtype`, transposed and cut already (as views); `bias`
    is 1 x n or None; `out` is m x n. float16 and bfloat16 are multiplied and summed in float32,
    and rounded once if `out` is not float32.
    """
    compute = numpy_dtype(element_type(dtype).compute)
    bias = None if bias is None else bias.astype(compute, copy=False)
    is_plain = bias is None and kind.alpha == 1.0 and kind.activation is Activation.NONE
    rounds = out.dtype.name == dtype and dtype in getattr(xp, "rounds", ())
    is_direct = compute == out.dtype or (is_plain and rounds)
    wide = out if is_direct else xp.empty(out.shape, compute)
    if product := getattr(xp, "product", None):
        product(a, b, wide, kind.precision)
    else:
        # Without a copy where they are of that type already. All digits are always precise enough.
        xp.matmul(a.astype(compute, copy=False), b.astype(compute, copy=False), out=wide)
    _finish(xp, kind, wide, bias)
    if wide is not out:
        out[...] = wide.astype(out.dtype)


def _batched(
    xp: Any,
    operation: Operation,
    kind: Batched,
    types: Mapping[str, MatrixType],
    rectangle: Rectangle,
    parts: Sequence[Array],
    out: Array,
) -> None:
    """One product after the other, of which the panel may have some rows."""
    given = [types[name] for name in operation.operands]
    batch, each = batches.broadcast(kind), batches.sizes(operation, kind, given)
    needed = [part for _, part in needed_blocks(operation, types, rectangle)]
    a_top, b_top = needed[0].row_start, needed[1].row_start
    bias = parts[2] if len(parts) == 3 else None
    for span in batches.spans(each, rectangle.row_start, rectangle.row_stop):
        number = span.column_start
        top = batches.source(number, batch, kind.a_batch) * each.rows - a_top
        a = parts[0][top + span.row_start : top + span.row_stop]
        top = batches.source(number, batch, kind.b_batch) * each.inner - b_top
        b = parts[1][top : top + each.inner]
        top = number * each.rows - rectangle.row_start
        made = out[top + span.row_start : top + span.row_stop]
        gemm_panel(xp, kind.gemm, given[0].dtype, a, b, bias, made)


def sum_panel(
    xp: Any, kind: Sum, dtype: str, terms: Sequence[Array], bias: Array | None, out: Array
) -> None:
    """`out[...] = activation(alpha * (terms[0] + ... ) + bias)` for one panel.

    `terms` are m x n, all of `dtype`, added in their order in its accumulation type; `bias` is
    1 x n or None; `out` is m x n and rounded to once. Sums of bool are "or", as in NumPy.
    """
    compute = numpy_dtype(element_type(dtype).compute)
    bias = None if bias is None else bias.astype(compute, copy=False)
    for block in _row_blocks(xp, out, compute.itemsize):
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


def _row_blocks(xp: Any, array: Array, itemsize: int | None = None) -> Iterator[slice]:
    """Rows of a matrix, as many at a time as a core's cache keeps from one pass to the next."""
    row_bytes = array.shape[1] * (itemsize or array.dtype.itemsize)
    rows = max(1, getattr(xp, "block_bytes", SUM_BLOCK_BYTES) // max(1, row_bytes))
    for start in range(0, array.shape[0], rows):
        yield slice(start, start + rows)


def _unary(xp: Any, function: UnaryFunction, x: Array, out: Array) -> None:
    """`out[...] = function(x)`, rounded once from the accumulation type."""
    for block in _row_blocks(xp, out):
        _unary_block(xp, function, x[block], out[block])


def _unary_block(xp: Any, function: UnaryFunction, x: Array, out: Array) -> None:
    if out.dtype.kind in "biu":
        if function is UnaryFunction.NEGATIVE:
            xp.negative(x, out=out)
        else:
            xp.maximum(x, xp.zeros((), x.dtype), out=out)
        return
    compute = numpy_dtype(element_type(out.dtype.name).compute)
    wide = x.astype(compute)  # A copy, to work in.
    if function is UnaryFunction.NEGATIVE:
        xp.negative(wide, out=wide)
    elif function is UnaryFunction.EXP:
        xp.exp(wide, out=wide)
    else:
        _activate(xp, _ACTIVATIONS[function], wide)
    out[...] = wide.astype(out.dtype, copy=False)


def _binary(xp: Any, function: BinaryFunction, a: Array, b: Array, out: Array) -> None:
    """`out[...] = function(a, b)` in the result's type; either may be broadcast."""
    ufunc = getattr(xp, _UFUNCS[function])
    for block in _row_blocks(xp, out):
        x = (a if a.shape[0] == 1 else a[block]).astype(out.dtype, copy=False)
        y = (b if b.shape[0] == 1 else b[block]).astype(out.dtype, copy=False)
        ufunc(x, y, out=out[block])


def _softmax(xp: Any, x: Array, columns: slice, out: Array) -> None:
    """`x` are whole rows, of which `out` gets some columns."""
    compute = numpy_dtype(element_type(out.dtype.name).compute)
    for block in _row_blocks(xp, x):
        wide = x[block].astype(compute)
        wide -= wide.max(axis=1, keepdims=True)
        xp.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
        out[block] = wide[:, columns].astype(out.dtype, copy=False)


def _sum_along(xp: Any, kind: SumAlong, dtype: str, x: Array, out: Array) -> None:
    element = element_type(dtype)
    compute = out.dtype if element.is_exact else numpy_dtype(element.compute)
    if kind.axis == 1:
        out[...] = xp.sum(x, axis=1, keepdims=True, dtype=compute).astype(out.dtype, copy=False)
        return
    height = kind.block or max(1, x.shape[0])
    for row in range(out.shape[0]):
        block = x[row * height : (row + 1) * height]
        out[row] = xp.sum(block, axis=0, dtype=compute).astype(out.dtype, copy=False)


def _segment(
    xp: Any,
    kind: Segment,
    types: Mapping[str, MatrixType],
    rectangle: Rectangle,
    held: dict[str, Array],
    out: Array,
) -> None:
    """One operation after the other, each on what the later ones need of it. `held` are the
    operands' parts at first; what an operation made goes as soon as nothing needs it any more, and
    its memory serves a later one, so that no more is touched than the rows of one band need."""
    scratch = Scratch(xp)
    needs = segments.needs(kind, types, rectangle)
    last_use = {name: at for at, one in enumerate(kind.operations) for name in one.operands}
    for at, one in enumerate(kind.operations):
        wanted = needs[one.result]
        made = out
        if one is not kind.operations[-1]:
            dtype = numpy_dtype(types[one.result].dtype)
            made = scratch.take(wanted.rows, wanted.columns, dtype)
        parts = [
            _within(held[name], needs[name], part)
            for name, part in needed_blocks(one, types, wanted)
        ]
        compute_panel(xp, one, types, wanted, parts, made)
        held[one.result] = made
        for name in {*one.operands}:
            if last_use[name] == at:
                scratch.give(held.pop(name))


def _within(array: Array, held: Rectangle, part: Rectangle) -> Array:
    """A part of what is held, as a view."""
    top, left = held.row_start, held.column_start
    rows = slice(part.row_start - top, part.row_stop - top)
    return array[rows, part.column_start - left : part.column_stop - left]


def _finish(xp: Any, kind: Gemm | Sum, out: Array, bias: Array | None) -> None:
    """The epilogue, in place while the panel is still in the cache."""
    if kind.alpha != 1.0:
        out *= out.dtype.type(kind.alpha)
    if bias is not None:
        out += bias
    _activate(xp, kind.activation, out)


def _activate(xp: Any, activation: Activation, out: Array) -> None:
    """In place."""
    match activation:
        case Activation.NONE:
            pass
        case Activation.RELU:
            xp.maximum(out, 0, out=out)  # NaN stays NaN, as in NumPy.
        case Activation.TANH:
            xp.tanh(out, out=out)
        case Activation.SIGMOID:
            out[...] = _sigmoid(xp, out)
        case Activation.GELU:
            out[...] = out * 0.5 * (1 + erf(xp)(out * 0.5**0.5))
        case Activation.GELU_TANH:
            # With a power for the cube the whole would take six times as long (measured).
            inner = (2 / xp.pi) ** 0.5 * (out + 0.044715 * (out * out * out))
            out[...] = 0.5 * out * (1 + xp.tanh(inner))


def _sigmoid(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow, through tanh."""
    return 0.5 * (1 + xp.tanh(0.5 * x))
