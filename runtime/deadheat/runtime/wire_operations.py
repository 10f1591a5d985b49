"""Operations to and from protobuf; what came by wire is checked here, operands by `Program`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, assert_never

from google.protobuf.unknown_fields import UnknownFieldSet

from deadheat.runtime import dtypes, wire_windows
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Convolution, TrainedLayer
from deadheat.runtime.programs import (
    Activation,
    Batched,
    Binary,
    BinaryFunction,
    Cast,
    Chain,
    Dense,
    Descent,
    Gemm,
    Kind,
    LayerFunction,
    Loss,
    Operation,
    Precision,
    Rectangle,
    Segment,
    Slice,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    Pooling,
    PoolingBack,
)
from deadheat.runtime.wire_windows import windowed_to_wire
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
_UNARY: Final = {
    function: pb.UnaryFunction.Value(f"UNARY_FUNCTION_{function.name}")
    for function in UnaryFunction
}
_BINARY: Final = {
    function: pb.BinaryFunction.Value(f"BINARY_FUNCTION_{function.name}")
    for function in BinaryFunction
}
_FUNCTIONS: Final = {
    function: pb.LayerFunction.Value(f"LAYER_FUNCTION_{function.name}")
    for function in LayerFunction
}
_PRECISIONS: Final = {
    Precision.STRICT: pb.PRECISION_UNSPECIFIED,
    Precision.TF32: pb.PRECISION_TF32,
}
_PRECISIONS_BACK: Final[dict[int, Precision]] = {wire: one for one, wire in _PRECISIONS.items()}
_LOSSES: Final = {loss: pb.Loss.Value(f"LOSS_{loss.name}") for loss in Loss}
_FUNCTIONS_BACK: Final[dict[int, LayerFunction]] = {wire: one for one, wire in _FUNCTIONS.items()}
_LOSSES_BACK: Final[dict[int, Loss]] = {wire: loss for loss, wire in _LOSSES.items()}
_UNARY_BACK: Final[dict[int, UnaryFunction]] = {wire: name for name, wire in _UNARY.items()}
_BINARY_BACK: Final[dict[int, BinaryFunction]] = {wire: name for name, wire in _BINARY.items()}


def operation_to_wire(operation: Operation) -> pb.Operation:
    message = pb.Operation(result=operation.result, operands=operation.operands)
    match operation.kind:
        case Gemm() as kind:
            message.gemm.CopyFrom(_gemm_to_wire(kind))
        case Batched(gemm, a_batch, b_batch):
            message.batched.CopyFrom(
                pb.Batched(gemm=_gemm_to_wire(gemm), a_batch=a_batch, b_batch=b_batch)
            )
        case Sum() as kind:
            message.sum.CopyFrom(_sum_to_wire(kind))
        case Chain() as kind:
            message.chain.CopyFrom(
                pb.Chain(transposed=kind.transposed, precision=precision_to_wire(kind.precision))
            )
        case Unary() | Binary() | Cast() as kind:
            _elementwise_to_wire(kind, message)
        case Softmax():
            message.softmax.SetInParent()
        case SumAlong() as kind:
            message.sum_along.CopyFrom(
                pb.SumAlong(axis=kind.axis, block=kind.block, data_type=_dtype_to_wire(kind.dtype))
            )
        case Transpose():
            message.transpose.SetInParent()
        case Slice(rectangle=r):
            message.slice.rectangle.CopyFrom(
                pb.Rectangle(
                    row_start=r.row_start,
                    row_stop=r.row_stop,
                    column_start=r.column_start,
                    column_stop=r.column_stop,
                )
            )
        case Convolve() | ConvolveBack() | ConvolveWeights() | Pooling() | PoolingBack() as kind:
            windowed_to_wire(kind, message)
        case Segment(operations):
            message.segment.SetInParent()
            message.segment.steps.extend(_step_to_wire(one) for one in operations)
        case Descent() as kind:
            message.descent.CopyFrom(_descent_to_wire(kind))
        case kind:
            assert_never(kind)
    return message


def _elementwise_to_wire(kind: Unary | Binary | Cast, message: pb.Operation) -> None:
    match kind:
        case Unary(unary):
            message.unary.function = _UNARY[unary]
        case Binary(binary):
            message.binary.function = _BINARY[binary]
        case Cast(dtype):
            message.cast.data_type = dtypes.element_type(dtype).wire


def operation_from_wire(message: pb.Operation) -> Operation:
    """Raises InvalidInput that names a kind or function that only a newer version knows."""
    read = _READERS.get(message.WhichOneof("kind") or "")
    if read is None:
        unknown = UnknownFieldSet(message)
        numbers = [unknown[index].field_number for index in range(len(unknown))]
        which = f" (number {numbers[0]})" if numbers else ""
        raise InvalidInput(
            f"operation {message.result!r} is of a kind this version does not know{which}; "
            f"it knows {', '.join(_READERS)}",
            field="kind",
        )
    return Operation(message.result, tuple(message.operands), read(message))


T = TypeVar("T")


def _known(back: Mapping[int, T], value: int, what: str, *, field: str = "function") -> T:
    if value not in back:
        raise InvalidInput(f"{what} {value} is unknown to this version", field=field)
    return back[value]


def precision_to_wire(precision: Precision) -> pb.Precision.ValueType:
    return _PRECISIONS[precision]


def precision_from_wire(value: int) -> Precision:
    """Raises InvalidInput for one that only a newer version knows."""
    return _known(_PRECISIONS_BACK, value, "precision", field="precision")


def _gemm_to_wire(kind: Gemm) -> pb.Gemm:
    message = pb.Gemm(
        transpose_a=kind.transpose_a,
        transpose_b=kind.transpose_b,
        activation=_ACTIVATIONS[kind.activation],
        out_data_type=_dtype_to_wire(kind.out_dtype),
        precision=precision_to_wire(kind.precision),
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
        precision=precision_from_wire(message.precision),
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


def _sum_along_from_wire(message: pb.SumAlong) -> SumAlong:
    return SumAlong(
        axis=message.axis,
        block=message.block if message.HasField("block") else None,
        dtype=_dtype_from_wire(message.data_type, field="dtype"),
    )


def _slice_from_wire(message: pb.Slice) -> Slice:
    r = message.rectangle
    return Slice(Rectangle(r.row_start, r.row_stop, r.column_start, r.column_stop))


def _batched_from_wire(message: pb.Batched) -> Batched:
    return Batched(_gemm_from_wire(message.gemm), tuple(message.a_batch), tuple(message.b_batch))


def _descent_to_wire(kind: Descent) -> pb.Descent:
    return pb.Descent(
        layers=[_layer_to_wire(layer) for layer in kind.layers],
        loss=_LOSSES[kind.loss],
        batch_size=kind.batch_size,
        learning_rate=kind.learning_rate,
        momentum=kind.momentum,
        epoch=kind.epoch,
        epochs=kind.epochs,
    )


def _layer_to_wire(layer: TrainedLayer) -> pb.TrainedLayer:
    match layer:
        case LayerFunction():
            return pb.TrainedLayer(function=_FUNCTIONS[layer])
        case Dense(inputs, outputs, bias):
            return pb.TrainedLayer(dense=pb.DenseLayer(inputs=inputs, outputs=outputs, bias=bias))
        case Convolution() | Pooling():
            return wire_windows.layer_to_wire(layer)
        case _:
            assert_never(layer)


def _descent_from_wire(message: pb.Descent) -> Descent:
    return Descent(
        layers=tuple(_layer_from_wire(layer) for layer in message.layers),
        loss=_known(_LOSSES_BACK, message.loss, "loss"),
        batch_size=message.batch_size,
        learning_rate=message.learning_rate,
        momentum=message.momentum,
        epoch=message.epoch,
        epochs=message.epochs,
    )


def _layer_from_wire(message: pb.TrainedLayer) -> TrainedLayer:
    match message.WhichOneof("kind"):
        case "dense":
            return Dense(message.dense.inputs, message.dense.outputs, message.dense.bias)
        case "function":
            return _known(_FUNCTIONS_BACK, message.function, "layer function")
        case "convolution":
            return wire_windows.convolution_from_wire(message.convolution)
        case "pooling":
            return wire_windows.pooling_from_wire(message.pooling)
        case _:
            raise InvalidInput("a layer is of a kind this version does not know", field="layers")


def _step_to_wire(operation: Operation) -> pb.SegmentStep:
    whole = operation_to_wire(operation)
    step = pb.SegmentStep(result=whole.result, operands=whole.operands)
    name = whole.WhichOneof("kind")
    assert name is not None
    getattr(step, name).CopyFrom(getattr(whole, name))
    getattr(step, name).SetInParent()  # Also where it says nothing more.
    return step


def _segment_from_wire(message: pb.Segment) -> Segment:
    return Segment(tuple(_step_from_wire(step) for step in message.steps))


def _step_from_wire(step: pb.SegmentStep) -> Operation:
    whole = pb.Operation(result=step.result, operands=step.operands)
    # Only what a step can be is copied: what else came with it may be nested without end.
    if name := step.WhichOneof("kind"):
        getattr(whole, name).CopyFrom(getattr(step, name))
        getattr(whole, name).SetInParent()
    return operation_from_wire(whole)


_READERS: Final[Mapping[str, Callable[[pb.Operation], Kind]]] = {
    "gemm": lambda message: _gemm_from_wire(message.gemm),
    "sum": lambda message: _sum_from_wire(message.sum),
    "chain": lambda message: Chain(
        tuple(message.chain.transposed), precision_from_wire(message.chain.precision)
    ),
    "unary": lambda message: Unary(_known(_UNARY_BACK, message.unary.function, "unary function")),
    "binary": lambda message: Binary(
        _known(_BINARY_BACK, message.binary.function, "binary function")
    ),
    "cast": lambda message: Cast(dtypes.from_wire(message.cast.data_type, field="cast").name),
    "softmax": lambda _: Softmax(),
    "sum_along": lambda message: _sum_along_from_wire(message.sum_along),
    "transpose": lambda _: Transpose(),
    "slice": lambda message: _slice_from_wire(message.slice),
    "batched": lambda message: _batched_from_wire(message.batched),
    **wire_windows.READERS,
    "segment": lambda message: _segment_from_wire(message.segment),
    "descent": lambda message: _descent_from_wire(message.descent),
}
