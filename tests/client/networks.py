"""What NumPy makes of a network, layer by layer, and what a cluster stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from scipy import special

from deadheat.client import Client, nn
from deadheat.runtime import rpc
from deadheat.v1 import matrix_pb2

Array = np.ndarray[Any, Any]

FUNCTIONS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "softmax": lambda x: special.softmax(x, axis=-1),
}


def numpys(network: nn.Sequential, x: Array) -> Array:
    for layer in network:
        match layer:
            case nn.Linear():
                x = x @ layer.weight
                x = x if layer.bias is None else x + layer.bias
            case nn.Conv2d():
                x = np.einsum("ncijkm,ockm->noij", windows(layer, x, 0), layer.weight)
                x = x if layer.bias is None else x + layer.bias.reshape(-1, 1, 1)
            case nn.MaxPool2d():
                x = windows(layer, x, -np.inf).max(axis=(4, 5))
            case nn.AvgPool2d():
                x = windows(layer, x, 0).mean(axis=(4, 5))
            case nn.Activation():
                x = FUNCTIONS[layer.name](x)
            case nn.Flatten():
                x = x.reshape(len(x), -1)
            case nn.Unflatten():
                x = x.reshape(-1, *layer.image)
    return x


def windows(layer: Any, x: Array, fill: float) -> Array:
    """n x channels x rows x columns x kernel: what a layer sees of images, by NumPy's own views."""
    (p, q), (s, t) = layer.padding, layer.stride
    bordered = np.pad(x, ((0, 0), (0, 0), (p, p), (q, q)), constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(bordered, layer.kernel_size, axis=(2, 3))
    return seen[:, :, ::s, ::t]


def same(a: nn.Sequential, b: nn.Sequential) -> bool:
    """Whether two networks have the same layers and the very same parameters."""
    return [repr(layer) for layer in a] == [repr(layer) for layer in b] and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes()
        for x, y in zip(a.parameters, b.parameters, strict=True)
    )


def stored(client: Client) -> set[str]:
    """The ids of what is in the store now."""

    async def ask() -> set[str]:
        request = matrix_pb2.MatrixServiceListRequest()
        answer = await client._link.connection.matrices.List(request, timeout=rpc.CALL_TIMEOUT_S)
        return {matrix.id for matrix in answer.matrices}

    return client._link.call(ask())
