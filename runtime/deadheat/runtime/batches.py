"""The rules of products of stacks of matrices: `rules` asks, with the same questions for all kinds.

Rules of this file: batch dimensions are NumPy's. A matrix of a stack is found by its number, that
of the result's batch; where one is used for several of them, it is there once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Batched, GemmShape, Op, Operation
from deadheat.runtime.rectangles import MatrixType, Rectangle

#: NumPy's limit of dimensions, without the two of the matrices.
MAX_BATCH_DIMENSIONS: Final = 62
#: Matrices in a stack.
MAX_BATCH: Final = 1 << 40

Types = Mapping[str, MatrixType]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of one product of a batch: m x k by k x n."""

    rows: int
    inner: int
    columns: int


def broadcast(kind: Batched) -> Shape:
    """The batch's shape; raises InvalidInput where NumPy would not broadcast the two."""
    a, b = kind.a_batch, kind.b_batch
    length = max(len(a), len(b))
    if length > MAX_BATCH_DIMENSIONS:
        raise InvalidInput(
            f"there are {length} batch dimensions; the limit is {MAX_BATCH_DIMENSIONS}"
        )
    made = []
    for one, other in zip(_padded(a, length), _padded(b, length), strict=True):
        if min(one, other) < 0 or (one != other and 1 not in (one, other)):
            raise InvalidInput(f"batches {a} and {b} cannot be broadcast to one: {one} and {other}")
        made.append(other if one == 1 else one)
    if math.prod(made) > MAX_BATCH:
        raise InvalidInput(f"the batch {tuple(made)} is of more than {MAX_BATCH} matrices")
    return tuple(made)


def _padded(shape: Shape, length: int) -> Shape:
    return (1,) * (length - len(shape)) + shape


def source(number: int, batch: Shape, own: Shape) -> int:
    """Which matrix of an operand's own batch is that of the result's batch.

    >>> [source(n, (2, 3), (3,)) for n in range(6)]
    [0, 1, 2, 0, 1, 2]
    """
    found, step = 0, 1
    for length, has in zip(reversed(batch), reversed(_padded(own, len(batch))), strict=True):
        number, at = divmod(number, length)
        if has > 1:
            found += at * step
        step *= has
    return found


def sizes(operation: Operation, kind: Batched, given: Sequence[MatrixType]) -> Sizes:
    """Sizes of each product; raises InvalidInput for operands that are no stacks of such."""
    if len(given) not in (2, 3):
        raise InvalidInput(
            f"{operation.result!r}: a batched product has 2 or 3 operands, not {len(given)}"
        )
    heights = []
    for name, matrix, own in zip(operation.operands, given, (kind.a_batch, kind.b_batch)):
        count = math.prod(own)
        if (matrix.rows % count if count else matrix.rows) != 0:
            raise InvalidInput(f"{name!r} has {matrix.rows} rows, which are not {count} matrices")
        heights.append(matrix.rows // count if count else 0)
    return Sizes(heights[0], given[0].columns, given[1].columns)


def result_rows(operation: Operation, kind: Batched, given: Sequence[MatrixType]) -> int:
    """Rows of the result; raises InvalidInput for batches that are not NumPy's."""
    batch, each = broadcast(kind), sizes(operation, kind, given)
    if kind.gemm.transpose_a or kind.gemm.transpose_b or kind.gemm.inner or kind.gemm.out_dtype:
        raise InvalidInput(f"{operation.result!r}: matrices of a batch are taken as they lie there")
    height = given[1].rows // math.prod(kind.b_batch) if math.prod(kind.b_batch) else each.inner
    if height != each.inner:
        left, right = operation.operands[:2]
        raise InvalidInput(
            f"matrices of {left!r} are {each.rows} x {each.inner} and of {right!r} {height} x "
            f"{each.columns}: inner sizes {each.inner} and {height} differ"
        )
    return math.prod(batch) * each.rows


def spans(each: Sizes, row_start: int, row_stop: int) -> Iterator[Rectangle]:
    """Rows of the result, matrix by matrix: for each its number in the batch (as a column), and
    the rows of it that are asked for."""
    for number in range(row_start // each.rows, -(-row_stop // each.rows)) if each.rows else ():
        top = number * each.rows
        start, stop = max(row_start, top) - top, min(row_stop, top + each.rows) - top
        yield Rectangle(start, stop, number, number + 1)


def needed_blocks(
    operation: Operation, kind: Batched, types: Types, r: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    """The rows of A from the first to the last that are read, the matrices of B likewise."""
    given = [types[name] for name in operation.operands]
    batch, each = broadcast(kind), sizes(operation, kind, given)
    a_rows: list[int] = []
    b_rows: list[int] = []
    for span in spans(each, r.row_start, r.row_stop):
        first = source(span.column_start, batch, kind.a_batch) * each.rows
        second = source(span.column_start, batch, kind.b_batch) * each.inner
        a_rows += [first + span.row_start, first + span.row_stop]
        b_rows += [second, second + each.inner]
    columns = (r.column_start, r.column_stop)
    names = operation.operands
    yield names[0], Rectangle(min(a_rows, default=0), max(a_rows, default=0), 0, each.inner)
    yield names[1], Rectangle(min(b_rows, default=0), max(b_rows, default=0), *columns)
    if len(names) == 3:
        yield names[2], Rectangle(0, 1, *columns)


def read_by_rows(operation: Operation, kind: Batched) -> tuple[bool, ...]:
    """For each operand, whether a row of the result needs only the same row of it: of A, where
    each of its matrices is used once."""
    is_own = math.prod(kind.a_batch) == math.prod(broadcast(kind))
    return (is_own, *[False] * (len(operation.operands) - 1))


def work_shape(operation: Operation, kind: Batched, given: Sequence[MatrixType]) -> GemmShape:
    each = sizes(operation, kind, given)
    rows, op = result_rows(operation, kind, given), Op.of(kind.gemm.precision)
    return GemmShape(rows, each.inner, each.columns, given[0].dtype, op)
