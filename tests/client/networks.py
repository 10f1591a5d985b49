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
            case nn.Activation():
                x = FUNCTIONS[layer.name](x)
            case nn.Flatten():
                x = x.reshape(len(x), -1)
    return x


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
        answer = await client._connection.matrices.List(request, timeout=rpc.CALL_TIMEOUT_S)
        return {matrix.id for matrix in answer.matrices}

    return client._call(ask())
