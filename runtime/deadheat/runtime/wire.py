"""Programs and rectangles to and from protobuf; everything that came by wire is checked here."""

from __future__ import annotations

from deadheat.runtime import dtypes
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import UNSENT, MatrixType, Operand, Program, Rectangle
from deadheat.runtime.wire_operations import (
    operation_from_wire,
    operation_to_wire,
    precision_from_wire,
    precision_to_wire,
)
from deadheat.v1 import types_pb2 as pb

__all__ = [
    "matrix_type_from_wire",
    "matrix_type_to_wire",
    "operand_from_wire",
    "operand_to_wire",
    "operation_from_wire",
    "operation_to_wire",
    "outline_from_wire",
    "outline_to_wire",
    "precision_from_wire",
    "precision_to_wire",
    "program_from_wire",
    "program_to_wire",
    "rectangle_from_wire",
    "rectangle_to_wire",
]


def matrix_type_to_wire(matrix: MatrixType) -> pb.MatrixType:
    return pb.MatrixType(rows=matrix.rows, columns=matrix.columns, data_type=matrix.element.wire)


def matrix_type_from_wire(message: pb.MatrixType, *, field: str) -> MatrixType:
    element = dtypes.from_wire(message.data_type, field=field)
    matrix = MatrixType(message.rows, message.columns, element.name)
    matrix.check(field)
    return matrix


def rectangle_to_wire(rectangle: Rectangle) -> pb.Rectangle:
    return pb.Rectangle(
        row_start=rectangle.row_start,
        row_stop=rectangle.row_stop,
        column_start=rectangle.column_start,
        column_stop=rectangle.column_stop,
    )


def rectangle_from_wire(message: pb.Rectangle, *, within: MatrixType, field: str) -> Rectangle:
    rectangle = Rectangle(
        message.row_start, message.row_stop, message.column_start, message.column_stop
    )
    if not rectangle.is_within(within):
        raise InvalidInput(f"{field} {rectangle} is not inside {within}", field=field)
    return rectangle


def operand_to_wire(operand: Operand) -> pb.Operand:
    message = pb.Operand(name=operand.name, type=matrix_type_to_wire(operand.type))
    if operand.inline is not None:
        message.inline = operand.inline
    else:
        message.matrix_id = operand.matrix_id
    return message


def operand_from_wire(message: pb.Operand) -> Operand:
    return Operand(
        name=message.name,
        type=matrix_type_from_wire(message.type, field=message.name or "operand"),
        matrix_id=message.matrix_id,
        inline=message.inline if message.WhichOneof("source") == "inline" else None,
    )


def program_to_wire(program: Program) -> pb.Program:
    return pb.Program(
        operands=[operand_to_wire(operand) for operand in program.operands],
        operations=[operation_to_wire(operation) for operation in program.operations],
        results=program.results,
    )


def program_from_wire(message: pb.Program) -> Program:
    """Raises InvalidInput for whatever is wrong with it."""
    return Program(
        operands=tuple(operand_from_wire(operand) for operand in message.operands),
        operations=tuple(operation_from_wire(operation) for operation in message.operations),
        results=tuple(message.results),
    )


def outline_from_wire(message: pb.Program) -> Program:
    """A program whose operands may come as types alone: to be planned, not to be run."""
    outline = pb.Program()
    outline.CopyFrom(message)
    for operand in outline.operands:
        if operand.WhichOneof("source") is None:
            operand.matrix_id = UNSENT
    return program_from_wire(outline)


def outline_to_wire(program: Program) -> pb.Program:
    """A program without its operands' bytes and ids."""
    outline = program_to_wire(program)
    for operand in outline.operands:
        operand.ClearField("source")
    return outline
