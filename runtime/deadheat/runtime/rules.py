"""What each kind of operation asks of its operands: their types, the blocks it reads, its work.

Rules of this file: one function for each question, each a match over all kinds, so that a new
kind is not forgotten anywhere (the type checker says where it is missing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

from deadheat.runtime import batches, convolving, descents, elementwise, segments
from deadheat.runtime.dtypes import element_type
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operand_checks import (
    check_bias,
    check_epilogue,
    check_inner,
    check_one_dtype,
    check_precision,
)
from deadheat.runtime.operations import (
    Activation,
    Batched,
    Binary,
    Cast,
    Chain,
    Descent,
    Gemm,
    GemmShape,
    Kind,
    Op,
    Operation,
    Segment,
    Slice,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
)
from deadheat.runtime.rectangles import MatrixType, Rectangle
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    Pooling,
    PoolingBack,
    Windowed,
)

#: The orders of a chain are searched in time that grows with the cube of its length.
MAX_CHAIN: Final = 64
#: Each term is one more pass over memory; a K-split has as many terms as there are devices.
MAX_TERMS: Final = 1_024

Types = Mapping[str, MatrixType]


# Types


def result_type(operation: Operation, types: Types) -> MatrixType:
    """The type of the result; raises InvalidInput for operands that do not fit."""
    given = [types[name] for name in operation.operands]
    match operation.kind:
        case Gemm() as kind:
            return _gemm_type(operation, kind, given)
        case Batched() as kind:
            return _batched_type(operation, kind, given)
        case Sum() as kind:
            return _sum_type(operation, kind, given)
        case Chain() as kind:
            return _chain_type(operation, kind, given)
        case Segment() as kind:
            return segments.result_type(operation, kind, types)
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack() as kind:
            return convolving.result_type(operation, kind, given)
        case Descent() as kind:
            return descents.result_type(operation, kind, given)
        case kind:
            return elementwise.result_type(operation, kind, given)


def _gemm_type(operation: Operation, kind: Gemm, given: Sequence[MatrixType]) -> MatrixType:
    names = operation.operands
    if len(given) not in (2, 3):
        raise InvalidInput(f"{operation.result!r}: a product has 2 or 3 operands, not {len(given)}")
    a = given[0].transposed() if kind.transpose_a else given[0]
    b = given[1].transposed() if kind.transpose_b else given[1]
    check_inner(names[0], a, names[1], b)
    check_one_dtype(operation, given)
    if len(given) == 3:
        check_bias(names[2], given[2], b.columns)
    check_epilogue(kind.alpha, kind.activation, a.element)
    check_precision(kind.precision, a.dtype, f"{operation.result!r}: ")
    if kind.inner is not None and not 0 <= kind.inner[0] <= kind.inner[1] <= a.columns:
        start, stop = kind.inner
        raise InvalidInput(
            f"{operation.result!r}: inner [{start}, {stop}) is not inside [0, {a.columns})",
            field="inner",
        )
    dtype = kind.out_dtype or a.dtype
    if dtype not in (a.dtype, a.element.compute):
        raise InvalidInput(
            f"{operation.result!r}: out_dtype is {dtype!r}; products of {a.dtype} are summed in "
            f"{a.element.compute}",
            field="out_dtype",
        )
    return MatrixType(a.rows, b.columns, dtype)


def _batched_type(operation: Operation, kind: Batched, given: Sequence[MatrixType]) -> MatrixType:
    rows = batches.result_rows(operation, kind, given)
    check_one_dtype(operation, given)
    if len(given) == 3:
        check_bias(operation.operands[2], given[2], given[1].columns)
    check_epilogue(kind.gemm.alpha, kind.gemm.activation, given[0].element)
    check_precision(kind.gemm.precision, given[0].dtype, f"{operation.result!r}: ")
    return MatrixType(rows, given[1].columns, given[0].dtype)


def _sum_type(operation: Operation, kind: Sum, given: Sequence[MatrixType]) -> MatrixType:
    terms = given[:-1] if kind.bias else given
    if not 0 < len(terms) <= MAX_TERMS:
        raise InvalidInput(
            f"{operation.result!r}: a sum has 1 to {MAX_TERMS} terms, not {len(terms)}"
        )
    first = terms[0]
    for name, matrix in zip(operation.operands, terms):
        if matrix != first:
            raise InvalidInput(
                f"terms of {operation.result!r} must be of one type: "
                f"{operation.operands[0]!r} is {first} and {name!r} is {matrix}"
            )
    dtype = kind.dtype or first.dtype
    if dtype != first.dtype and element_type(dtype).compute != first.dtype:
        raise InvalidInput(
            f"{operation.result!r}: dtype is {dtype!r}, which is not summed in {first.dtype}",
            field="dtype",
        )
    if kind.bias:
        name, bias = operation.operands[-1], given[-1]
        check_bias(name, bias, first.columns)
        if bias.dtype != dtype:
            raise InvalidInput(f"bias {name!r} is {bias.dtype}; the result is {dtype}")
    check_epilogue(kind.alpha, kind.activation, element_type(dtype))
    return MatrixType(first.rows, first.columns, dtype)


def _chain_type(operation: Operation, kind: Chain, given: Sequence[MatrixType]) -> MatrixType:
    names, count = operation.operands, len(given)
    if not 2 <= count <= MAX_CHAIN:
        raise InvalidInput(
            f"{operation.result!r}: a chain has 2 to {MAX_CHAIN} operands, not {count}"
        )
    if any(not 0 <= index < count for index in kind.transposed) or (
        list(kind.transposed) != sorted(set(kind.transposed))
    ):
        raise InvalidInput(
            f"{operation.result!r}: transposed is {list(kind.transposed)[:MAX_CHAIN]}; it lists "
            f"positions from 0 to {count - 1}, ascending",
            field="transposed",
        )
    read = _as_read(kind, given)
    for left, right, a, b in zip(names, names[1:], read, read[1:]):
        check_inner(left, a, right, b)
    check_one_dtype(operation, given)
    check_precision(kind.precision, read[0].dtype, f"{operation.result!r}: ")
    return MatrixType(read[0].rows, read[-1].columns, read[0].dtype)


def _as_read(kind: Chain, given: Sequence[MatrixType]) -> list[MatrixType]:
    return [m.transposed() if i in kind.transposed else m for i, m in enumerate(given)]


def is_symmetric(operation: Operation) -> bool:
    """Whether the result is its own transpose: a matrix by its own transpose, and an epilogue that
    treats all elements alike. Half of it says all (BLAS has syrk for it).

    Also of complex matrices, since nothing is conjugated, and of any window of the inner size.
    """
    kind = operation.kind
    return (
        isinstance(kind, Gemm)
        and len(operation.operands) == 2
        and operation.operands[0] == operation.operands[1]
        and kind.transpose_a != kind.transpose_b
    )


# Blocks


def needed_blocks(
    operation: Operation, types: Types, rectangle: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    """The part of each operand that `rectangle` of the operation's result needs, in the order of
    the operands; an operand that is used twice comes twice."""
    names = operation.operands
    columns = (rectangle.column_start, rectangle.column_stop)
    match operation.kind:
        case Gemm() as kind:
            yield from _gemm_blocks(operation, kind, types, rectangle)
            if len(names) == 3:
                yield names[2], Rectangle(0, 1, *columns)
        case Batched() as kind:
            yield from batches.needed_blocks(operation, kind, types, rectangle)
        case Sum() as kind:
            for name in names[:-1] if kind.bias else names:
                yield name, rectangle
            if kind.bias:
                yield names[-1], Rectangle(0, 1, *columns)
        case Chain():
            # Before it is rewritten: what any order reads at least.
            for name in names:
                yield name, types[name].whole()
        case Segment() as kind:
            needs = segments.needs(kind, segments.all_types(kind, types), rectangle)
            for name in names:
                yield name, needs[name]
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack() as kind:
            yield from convolving.needed_blocks(operation, kind, types, rectangle)
        case Descent() as kind:
            yield from descents.needed_blocks(operation, kind, types)
        case kind:
            yield from elementwise.needed_blocks(operation, kind, types, rectangle)


def needed_bytes(operation: Operation, types: Types, rectangle: Rectangle) -> int:
    """Bytes of that part of each operand, and of the rectangle itself."""
    blocks = [*needed_blocks(operation, types, rectangle), (operation.result, rectangle)]
    return sum(block.area * types[name].element.itemsize for name, block in blocks)


def read_by_rows(operation: Operation, types: Types) -> tuple[bool, ...]:
    """For each operand, whether a row of the result needs only the same row of it. Of such a one
    the first rows are enough to begin with."""
    count = len(operation.operands)
    match operation.kind:
        case Gemm(transpose_a=is_transposed):
            return (not is_transposed, *[False] * (count - 1))
        case Batched() as kind:
            return batches.read_by_rows(operation, kind)
        case Sum(bias=has_bias):
            return (*[True] * (count - 1), not has_bias)
        case Unary() | Cast() | Softmax() | SumAlong(axis=1):
            return (True,)
        case Binary():
            # A side that has one row is repeated, unless there are no more rows.
            heights = [types[name].rows for name in operation.operands]
            return tuple(height == max(heights) for height in heights)
        case Chain() | SumAlong() | Transpose() | Slice() | Descent():
            return (False,) * count
        case Segment() as kind:
            return segments.read_by_rows(operation, kind, types)
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack() as kind:
            return convolving.read_by_rows(operation, kind)
        case kind:
            assert_never(kind)


def is_row_local(operation: Operation) -> bool:
    """Whether a row of the result needs, of each operand, the same row or what all rows need: such
    operations may follow one another on the same rows without a barrier. A segment is made of such
    ones, but is not joined again."""
    match operation.kind:
        case Gemm(transpose_a=is_transposed):
            return not is_transposed
        case Sum() | Unary() | Binary() | Cast() | Softmax():
            return True
        case SumAlong(axis=axis):
            return axis == 1
        case Convolve() | ConvolveBack() | Pooling() | PoolingBack():
            return True
        case Batched() | ConvolveWeights():
            return False
        case Chain() | Transpose() | Slice() | Segment() | Descent():
            return False
        case kind:
            assert_never(kind)


def is_in_whole_rows(kind: Kind) -> bool:
    """Whether a part of a row costs as much as all of it, so that nobody should be given one."""
    return isinstance(kind, Segment | Windowed)


def is_in_samples(kind: Kind) -> bool:
    """Whether each row is much work for itself, as convolutions multiply sample by sample."""
    if isinstance(kind, Segment):
        return any(is_in_samples(one.kind) for one in kind.operations)
    return isinstance(kind, Windowed)


def _gemm_blocks(
    operation: Operation, kind: Gemm, types: Types, rectangle: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    a, b = operation.operands[:2]
    inner = kind.inner or (0, types[a].rows if kind.transpose_a else types[a].columns)
    rows = (rectangle.row_start, rectangle.row_stop)
    columns = (rectangle.column_start, rectangle.column_stop)
    yield a, Rectangle(*inner, *rows) if kind.transpose_a else Rectangle(*rows, *inner)
    yield b, Rectangle(*columns, *inner) if kind.transpose_b else Rectangle(*inner, *columns)


# Work


def work_shape(operation: Operation, types: Types) -> GemmShape:
    """The shape by which a device's speed for this operation is looked up; its `flops` is the
    work (of a chain, about: it becomes several products)."""
    result = result_type(operation, types)
    first = types[operation.operands[0]]
    match operation.kind:
        case Gemm() as kind:
            inner = first.rows if kind.transpose_a else first.columns
            if kind.inner is not None:
                inner = kind.inner[1] - kind.inner[0]
            op = Op.of(kind.precision)
            return GemmShape(result.rows, inner, result.columns, first.dtype, op)
        case Batched() as kind:
            return batches.work_shape(operation, kind, [types[n] for n in operation.operands])
        case Sum() as kind:
            passes = len(operation.operands) - 1 + _epilogue_passes(kind)
            return GemmShape(result.rows, max(1, passes), result.columns, first.dtype, Op.SUM)
        case Chain(precision=precision):
            area, op = result.rows * result.columns, Op.of(precision)
            inner = -(-_chain_steps(operation, types) // area) if area else 0
            return GemmShape(result.rows, inner, result.columns, first.dtype, op)
        case Segment() as kind:
            known = segments.all_types(kind, types)
            shapes = [work_shape(one, known) for one in kind.operations]
            parts = tuple(part for shape in shapes for part in shape.parts or (shape,))
            return GemmShape(result.rows, 1, result.columns, result.dtype, parts=parts)
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack() as kind:
            return convolving.work_shape(kind, [types[n] for n in operation.operands], result)
        case Descent() as kind:
            return descents.work_shape(kind, first, result)
        case kind:
            passes = elementwise.passes(kind, first)
            return GemmShape(result.rows, passes, result.columns, first.dtype, Op.SUM)


def work_flops(operation: Operation, types: Types) -> float:
    """The work of an operation; of a chain, that of the order with the fewest operations."""
    if isinstance(operation.kind, Chain):
        steps = _chain_steps(operation, types)
        return float(steps) * types[operation.operands[0]].element.flops_per_step
    return work_shape(operation, types).flops


def _epilogue_passes(kind: Sum) -> int:
    """Operations for each element besides additions; the bias is an operand, and counted so."""
    return (kind.alpha != 1.0) + (kind.activation is not Activation.NONE)


def _chain_steps(operation: Operation, types: Types) -> int:
    assert isinstance(operation.kind, Chain)
    read = _as_read(operation.kind, [types[name] for name in operation.operands])
    return fewest_steps([read[0].rows, *(matrix.columns for matrix in read)])


def fewest_steps(sizes: Sequence[int]) -> int:
    """Multiply-adds of the best order of a chain whose i-th matrix is sizes[i] x sizes[i + 1].

    The textbook dynamic programme over intervals, O(n^3) (Godbole 1973; Cormen et al.,
    "Introduction to Algorithms", 14.2).

    >>> fewest_steps([10, 100, 5, 50])
    7500
    """
    count = len(sizes) - 1
    best = [[0] * count for _ in range(count)]
    for length in range(2, count + 1):
        for i in range(count - length + 1):
            j = i + length - 1
            best[i][j] = min(
                best[i][k] + best[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1]
                for k in range(i, j)
            )
    return best[0][-1]
