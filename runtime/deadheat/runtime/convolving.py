"""The rules of convolutions and pooling: `rules` asks, with the same questions for all kinds.

Rules of this file: all but the adjoint by weights go row by row, a row being a sample. Any
rectangle of a result may be asked for, but what is needed is whole samples: a cut in columns makes
such an operation slow, and not wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import GemmShape, Op, Operation
from deadheat.runtime.rectangles import MatrixType, Rectangle
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
    Windowed,
)

Types = Mapping[str, MatrixType]


# Types


def result_type(operation: Operation, kind: Windowed, given: Sequence[MatrixType]) -> MatrixType:
    """The type of the result; raises InvalidInput for operands that do not fit."""
    name, window = operation.result, kind.window
    window.check(repr(name))
    counts = (2, 3) if isinstance(kind, Convolve) else (operand_count(kind),)
    if len(given) not in counts:
        what = type(kind).__name__.lower()
        wanted = " or ".join(str(count) for count in counts)
        raise InvalidInput(f"{name!r}: {what} has {wanted} operands, not {len(given)}")
    dtypes = {matrix.dtype for matrix in given}
    if len(dtypes) > 1 or not given[0].element.is_float:
        named = ", ".join(f"{n!r} {m.dtype}" for n, m in zip(operation.operands, given))
        raise InvalidInput(f"operands of {name!r} must be of one real float type: {named}")
    first, dtype = given[0], given[0].dtype
    match kind:
        case Convolve():
            _check_columns(operation, 0, first, window.inputs)
            outputs = _outputs(operation, given[1], window)
            if len(given) == 3:
                _check_row(operation, 2, given[2], outputs)
            return MatrixType(first.rows, outputs * window.places, dtype)
        case ConvolveBack():
            outputs = _outputs(operation, given[1], window)
            _check_columns(operation, 0, first, outputs * window.places)
            return MatrixType(first.rows, window.inputs, dtype)
        case ConvolveWeights(block=block, bias=has_bias):
            if block < 1:
                raise InvalidInput(f"{name!r}: block is {block}; it may be 1 or more")
            _check_columns(operation, 0, first, window.inputs)
            _check_same_rows(operation, given)
            outputs, rest = divmod(given[1].columns, window.places)
            if rest or not outputs:
                raise InvalidInput(
                    f"{operation.operands[1]!r} has {given[1].columns} columns, which are no "
                    f"multiple of {window.places} places"
                )
            return MatrixType(-(-first.rows // block), outputs * (window.depth + has_bias), dtype)
        case Pooling():
            check_border(repr(name), window)
            _check_columns(operation, 0, first, window.inputs)
            return MatrixType(first.rows, kind.outputs, dtype)
        case PoolingBack():
            check_border(repr(name), window)
            _check_columns(operation, len(given) - 1, given[-1], window.channels * window.places)
            if len(given) == 2:
                _check_columns(operation, 0, first, window.inputs)
                _check_same_rows(operation, given)
            return MatrixType(first.rows, window.inputs, dtype)
        case other:
            assert_never(other)


def operand_count(kind: Windowed) -> int:
    """How many operands there are, without a bias."""
    is_alone = isinstance(kind, Pooling | PoolingBack) and not _needs_samples(kind)
    return 1 if is_alone else 2


def _needs_samples(kind: Pooling | PoolingBack) -> bool:
    return isinstance(kind, PoolingBack) and kind.function is PoolFunction.MAX


def check_border(name: str, window: Window) -> None:
    """A window that lies in the border alone has no largest element."""
    if not all(border < side for border, side in zip(window.padding, window.kernel)):
        raise InvalidInput(
            f"{name}: padding {window.padding} must be less than the kernel, {window.kernel}",
            field="padding",
        )


def _check_columns(operation: Operation, at: int, matrix: MatrixType, columns: int) -> None:
    if matrix.columns != columns:
        raise InvalidInput(
            f"{operation.result!r}: {operation.operands[at]!r} has {matrix.columns} columns; "
            f"it must have {columns}"
        )


def _check_row(operation: Operation, at: int, matrix: MatrixType, columns: int) -> None:
    if (matrix.rows, matrix.columns) != (1, columns):
        raise InvalidInput(
            f"{operation.result!r}: {operation.operands[at]!r} is {matrix.rows} x "
            f"{matrix.columns}; it must be 1 x {columns}"
        )


def _check_same_rows(operation: Operation, given: Sequence[MatrixType]) -> None:
    if given[0].rows != given[1].rows:
        left, right = operation.operands
        raise InvalidInput(
            f"{left!r} has {given[0].rows} rows and {right!r} {given[1].rows}; they must be equal"
        )


def _outputs(operation: Operation, weights: MatrixType, window: Window) -> int:
    """Channels that weights make; raises InvalidInput where they are not whole."""
    outputs, rest = divmod(weights.columns, window.depth)
    if weights.rows != 1 or rest or not outputs:
        raise InvalidInput(
            f"{operation.result!r}: weights {operation.operands[1]!r} are {weights.rows} x "
            f"{weights.columns}; they must be one row of a multiple of {window.depth}"
        )
    return outputs


# Blocks


def needed_blocks(
    operation: Operation, kind: Windowed, types: Types, r: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    """The part of each operand that a rectangle of the result needs."""
    rows = (r.row_start, r.row_stop)
    by_rows = read_by_rows(operation, kind)
    if isinstance(kind, ConvolveWeights):
        last = types[operation.operands[0]].rows
        rows = (min(last, rows[0] * kind.block), min(last, rows[1] * kind.block))
        by_rows = (True, True)
    for name, is_by_rows in zip(operation.operands, by_rows, strict=True):
        whole = types[name].whole()
        yield name, whole.with_rows(*rows) if is_by_rows else whole


def read_by_rows(operation: Operation, kind: Windowed) -> tuple[bool, ...]:
    """For each operand, whether a row of the result needs only the same row of it."""
    count = len(operation.operands)
    match kind:
        case Convolve() | ConvolveBack():
            return (True, *[False] * (count - 1))
        case ConvolveWeights():
            return (False,) * count
        case Pooling() | PoolingBack():
            return (True,) * count
        case other:
            assert_never(other)


# Work


def passes(kind: Pooling | PoolingBack) -> int:
    """Additions (as `elementwise` counts them) for each element that a window sees: measured 1.9,
    4 and 18 of float32."""
    if isinstance(kind, Pooling):
        return 2
    return 18 if kind.function is PoolFunction.MAX else 4


def work_shape(kind: Windowed, given: Sequence[MatrixType], result: MatrixType) -> GemmShape:
    """The product that a convolution is, and the windows that are laid out for it (or added up
    again); of pooling, the windows alone. Whoever makes a row makes all of it, so these have
    parts, as segments do: they are cut in rows only.

    Columns are those of what is there at once: windows are laid out for a few samples only, so the
    elements of a window are counted along the inner dimension.
    """
    window, rows, dtype = kind.window, result.rows, given[0].dtype
    seen, samples = window.channels * window.places, 1
    match kind:
        case Convolve():
            product = GemmShape(rows, window.depth, result.columns, dtype)
        case ConvolveBack():
            outputs = given[0].columns // window.places
            product = GemmShape(rows, outputs * window.area, seen, dtype)
        case ConvolveWeights(block=block):
            samples = min(block, max(1, given[0].rows))
            product = GemmShape(rows, samples * window.places, result.columns, dtype)
        case Pooling() | PoolingBack():
            each = GemmShape(rows, window.area * passes(kind), seen, dtype, Op.SUM)
            return GemmShape(rows, 1, result.columns, dtype, Op.SUM, parts=(each,))
        case other:
            assert_never(other)
    laid_out = GemmShape(rows, samples * window.area, seen, dtype, Op.SUM)
    return GemmShape(rows, 1, result.columns, dtype, parts=(product, laid_out))
