"""Convolutions and pooling to and from protobuf; `convolving` checks what came by wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, assert_never

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Convolution
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
from deadheat.v1 import types_pb2 as pb

_FUNCTIONS: Final = {
    function: pb.PoolFunction.Value(f"POOL_FUNCTION_{function.name}") for function in PoolFunction
}
_FUNCTIONS_BACK: Final[dict[int, PoolFunction]] = {
    wire: function for function, wire in _FUNCTIONS.items()
}


def layer_to_wire(layer: Convolution | Pooling) -> pb.TrainedLayer:
    window = _to_wire(layer.window)
    if isinstance(layer, Pooling):
        pooling = pb.Pooling(window=window, function=_FUNCTIONS[layer.function])
        return pb.TrainedLayer(pooling=pooling)
    made = pb.ConvolutionLayer(window=window, channels=layer.channels, bias=layer.bias)
    return pb.TrainedLayer(convolution=made)


def convolution_from_wire(message: pb.ConvolutionLayer) -> Convolution:
    return Convolution(_from_wire(message.window), message.channels, message.bias)


def pooling_from_wire(message: pb.Pooling) -> Pooling:
    """Raises InvalidInput for a function that only a newer version knows."""
    return Pooling(_from_wire(message.window), _function(message.function))


def windowed_to_wire(kind: Windowed, message: pb.Operation) -> None:
    """Says in a message of which kind it is."""
    window = _to_wire(kind.window)
    match kind:
        case Convolve():
            message.convolve.window.CopyFrom(window)
        case ConvolveBack():
            message.convolve_back.window.CopyFrom(window)
        case ConvolveWeights(block=block, bias=has_bias):
            made = pb.ConvolveWeights(window=window, block=block, bias=has_bias)
            message.convolve_weights.CopyFrom(made)
        case Pooling(function=function):
            message.pooling.CopyFrom(pb.Pooling(window=window, function=_FUNCTIONS[function]))
        case PoolingBack(function=function):
            back = pb.PoolingBack(window=window, function=_FUNCTIONS[function])
            message.pooling_back.CopyFrom(back)
        case other:
            assert_never(other)


def _weights(message: pb.ConvolveWeights) -> ConvolveWeights:
    return ConvolveWeights(_from_wire(message.window), message.block, message.bias)


def _to_wire(window: Window) -> pb.Window:
    return pb.Window(
        channels=window.channels,
        height=window.height,
        width=window.width,
        kernel_height=window.kernel[0],
        kernel_width=window.kernel[1],
        stride_rows=window.stride[0],
        stride_columns=window.stride[1],
        padding_rows=window.padding[0],
        padding_columns=window.padding[1],
    )


def _from_wire(message: pb.Window) -> Window:
    return Window(
        message.channels,
        message.height,
        message.width,
        (message.kernel_height, message.kernel_width),
        (message.stride_rows, message.stride_columns),
        (message.padding_rows, message.padding_columns),
    )


def _function(value: int) -> PoolFunction:
    if value not in _FUNCTIONS_BACK:
        raise InvalidInput(f"pool function {value} is unknown to this version", field="function")
    return _FUNCTIONS_BACK[value]


#: What a message of each kind is read by.
READERS: Final[Mapping[str, Callable[[pb.Operation], Windowed]]] = {
    "convolve": lambda message: Convolve(_from_wire(message.convolve.window)),
    "convolve_back": lambda message: ConvolveBack(_from_wire(message.convolve_back.window)),
    "convolve_weights": lambda message: _weights(message.convolve_weights),
    "pooling": lambda message: pooling_from_wire(message.pooling),
    "pooling_back": lambda message: PoolingBack(
        _from_wire(message.pooling_back.window), _function(message.pooling_back.function)
    ),
}
