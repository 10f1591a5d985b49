"""What operands of products and sums have to be, checked one by one; each raises InvalidInput that
names operand, value and limit."""

from __future__ import annotations

from collections.abc import Sequence

from deadheat.runtime.dtypes import ElementType
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Activation, Operation, Precision
from deadheat.runtime.rectangles import MatrixType


def check_inner(left: str, a: MatrixType, right: str, b: MatrixType) -> None:
    if a.columns != b.rows:
        raise InvalidInput(
            f"{left!r} is {a.rows} x {a.columns} and {right!r} is {b.rows} x {b.columns}: "
            f"inner sizes {a.columns} and {b.rows} differ"
        )


def check_one_dtype(operation: Operation, given: Sequence[MatrixType]) -> None:
    if len({matrix.dtype for matrix in given}) > 1:
        named = zip(operation.operands, given)
        dtypes = ", ".join(f"{name!r} {matrix.dtype}" for name, matrix in named)
        raise InvalidInput(f"operands of {operation.result!r} must share one dtype: {dtypes}")


def check_bias(name: str, bias: MatrixType, columns: int) -> None:
    if (bias.rows, bias.columns) != (1, columns):
        raise InvalidInput(
            f"bias {name!r} is {bias.rows} x {bias.columns}; it must be 1 x {columns}"
        )


def check_epilogue(alpha: float, activation: Activation, element: ElementType) -> None:
    if alpha != 1.0 and element.is_exact:
        raise InvalidInput(f"alpha is {alpha}; products of {element.name} take alpha = 1 only")
    if activation is not Activation.NONE and not element.is_float:
        raise InvalidInput(f"activation {activation.value} needs a real float, not {element.name}")


def check_precision(precision: Precision, dtype: str, where: str = "") -> None:
    """Raises InvalidInput for products of a type that has only one precision."""
    if precision is not Precision.STRICT and dtype != "float32":
        raise InvalidInput(
            f"{where}precision is {precision.value!r}, which only products of float32 can have, "
            f"not those of {dtype}; leave it out, or cast the operands",
            field="precision",
        )
