"""Programs and rectangles to and from protobuf; everything that came by wire is checked here."""

from __future__ import annotations

from typing import Final, assert_never

from deadheat.runtime import dtypes
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    UNSENT,
    Activation,
    Chain,
    Gemm,
    Kind,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
    Sum,
)
from deadheat.v1 import types_pb2 as pb

_ACTIVATIONS: Final = {
    Activation.NONE: pb.ACTIVATION_UNSPECIFIED,
    Activation.RELU: pb.ACTIVATION_RELU,
    Activation.GELU: pb.ACTIVATION_GELU,
    Activation.GELU_TANH: pb.ACTIVATION_GELU_TANH,
    Activation.TANH: pb.ACTIVATION_TANH,
    Activation.SIGMOID: pb.ACTIVATION_SIGMOID,
}
_ACTIVATIONS_BACK: Final[dict[int, Activation]] = {
    wire: activation for activation, wire in _ACTIVATIONS.items()
}
_KINDS: Final = tuple(kind.name for kind in pb.Operation.DESCRIPTOR.oneofs_by_name["kind"].fields)


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


def operation_to_wire(operation: Operation) -> pb.Operation:
    message = pb.Operation(result=operation.result, operands=operation.operands)
    match operation.kind:
        case Gemm() as kind:
            message.gemm.CopyFrom(_gemm_to_wire(kind))
        case Sum() as kind:
            message.sum.CopyFrom(_sum_to_wire(kind))
        case Chain() as kind:
            message.chain.CopyFrom(pb.Chain(transposed=kind.transposed))
        case kind:
            assert_never(kind)
    return message


def operation_from_wire(message: pb.Operation) -> Operation:
    kind: Kind
    match message.WhichOneof("kind"):
        case "gemm":
            kind = _gemm_from_wire(message.gemm)
        case "sum":
            kind = _sum_from_wire(message.sum)
        case "chain":
            kind = Chain(tuple(message.chain.transposed))
        case _:
            raise InvalidInput(
                f"operation {message.result!r} is of a kind this version does not know; "
                f"it knows {', '.join(_KINDS)}",
                field="kind",
            )
    return Operation(message.result, tuple(message.operands), kind)


def _gemm_to_wire(kind: Gemm) -> pb.Gemm:
    message = pb.Gemm(
        transpose_a=kind.transpose_a,
        transpose_b=kind.transpose_b,
        activation=_ACTIVATIONS[kind.activation],
        out_data_type=_dtype_to_wire(kind.out_dtype),
    )
    if kind.alpha != 1.0:
        message.alpha = kind.alpha
    if kind.inner is not None:
        message.inner.start, message.inner.stop = kind.inner
        message.inner.SetInParent()  # Also when both are 0.
    return message


def _gemm_from_wire(message: pb.Gemm) -> Gemm:
    return Gemm(
        transpose_a=message.transpose_a,
        transpose_b=message.transpose_b,
        alpha=message.alpha if message.HasField("alpha") else 1.0,
        activation=_activation(message.activation),
        inner=(message.inner.start, message.inner.stop) if message.HasField("inner") else None,
        out_dtype=_dtype_from_wire(message.out_data_type, field="out_dtype"),
    )


def _sum_to_wire(kind: Sum) -> pb.Sum:
    message = pb.Sum(
        bias=kind.bias,
        activation=_ACTIVATIONS[kind.activation],
        data_type=_dtype_to_wire(kind.dtype),
    )
    if kind.alpha != 1.0:
        message.alpha = kind.alpha
    return message


def _sum_from_wire(message: pb.Sum) -> Sum:
    return Sum(
        bias=message.bias,
        alpha=message.alpha if message.HasField("alpha") else 1.0,
        activation=_activation(message.activation),
        dtype=_dtype_from_wire(message.data_type, field="dtype"),
    )


def _activation(value: int) -> Activation:
    if value not in _ACTIVATIONS_BACK:
        raise InvalidInput(f"activation {value} is unknown", field="activation")
    return _ACTIVATIONS_BACK[value]


def _dtype_to_wire(name: str | None) -> pb.DataType.ValueType:
    return pb.DATA_TYPE_UNSPECIFIED if name is None else dtypes.element_type(name).wire


def _dtype_from_wire(value: int, *, field: str) -> str | None:
    return None if value == pb.DATA_TYPE_UNSPECIFIED else dtypes.from_wire(value, field=field).name


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
