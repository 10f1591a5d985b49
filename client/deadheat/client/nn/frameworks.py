"""Networks from other frameworks: their attributes are read, and none of their code is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.layers import Activation, Flatten, Layer, Linear
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import InvalidInput, Unavailable

#: A network is a list of layers: lists in lists are taken, but not without bound.
MAX_DEPTH: Final = 16


def from_torch(module: Any) -> Sequential:
    """A copy of a `torch.nn.Sequential`, as it is when it evaluates.

    It may have Linear, ReLU, GELU, Tanh, Sigmoid, Softmax along the last axis, Flatten of all axes
    but the first, Dropout and Identity (which do nothing then), and Sequentials of these. Weights
    are transposed: ours are inputs x outputs.

    Raises:
        InvalidInput: It is no Sequential, or has another kind of module (also a subclass of one of
            these, which may compute something else); the message names it by its position.
        Unavailable: The package torch is missing.

    """
    try:
        torch_nn = import_module("torch").nn
    except ImportError:
        raise Unavailable("the package torch is missing: pip install 'deadheat[torch]'") from None
    if type(module) is not torch_nn.Sequential:
        raise InvalidInput(f"module is a {type(module).__name__}; it must be a torch.nn.Sequential")
    return Sequential(*_layers(module, torch_nn, ""))


def _layers(module: Any, torch_nn: Any, prefix: str) -> list[Layer]:
    if prefix.count(".") > MAX_DEPTH:
        raise InvalidInput(f"module {prefix[:-1]} is more than {MAX_DEPTH} Sequentials deep")
    made: list[Layer] = []
    for name, child in module.named_children():
        if type(child) is torch_nn.Sequential:
            made += _layers(child, torch_nn, f"{prefix}{name}.")
        else:
            made += _read(child, torch_nn, f"module {prefix}{name}")
    return made


def _read(child: Any, torch_nn: Any, name: str) -> list[Layer]:
    for kind, read in _READERS.items():
        if type(child) is getattr(torch_nn, kind):
            return read(child, name)
    raise InvalidInput(
        f"{name} is a {type(child).__name__}; it may be Sequential, {', '.join(_READERS)}",
        field=name,
    )


def _linear(child: Any, name: str) -> list[Layer]:
    weight, bias = _array(child.weight), child.bias
    return [Linear.of(weight.T, None if bias is None else _array(bias), name=name)]


def _array(tensor: Any) -> Array:
    """A tensor of any device; bfloat16, which torch cannot give to NumPy, by way of float32."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return np.asarray(tensor.numpy())
    wide: Array = np.asarray(tensor.float().numpy())
    return wide.astype(numpy_dtype("bfloat16"))


def _gelu(child: Any, name: str) -> list[Layer]:
    if child.approximate not in ("none", "tanh"):
        raise InvalidInput(f"{name} has approximate {child.approximate!r}; it may be none, tanh")
    return [Activation("gelu_tanh" if child.approximate == "tanh" else "gelu")]


def _softmax(child: Any, name: str) -> list[Layer]:
    if child.dim not in (1, -1):
        raise InvalidInput(f"{name} is a Softmax along dim {child.dim}; it may be 1, -1")
    return [Activation("softmax")]


def _flatten(child: Any, name: str) -> list[Layer]:
    if (child.start_dim, child.end_dim) != (1, -1):
        raise InvalidInput(
            f"{name} flattens dimensions {child.start_dim} to {child.end_dim}; it may be 1 to -1"
        )
    return [Flatten()]


def _nothing(child: Any, name: str) -> list[Layer]:
    del child, name
    return []


_READERS: Final[Mapping[str, Callable[[Any, str], list[Layer]]]] = {
    "Linear": _linear,
    "ReLU": lambda child, name: [Activation("relu")],  # noqa: ARG005 - as the others.
    "GELU": _gelu,
    "Tanh": lambda child, name: [Activation("tanh")],  # noqa: ARG005 - as the others.
    "Sigmoid": lambda child, name: [Activation("sigmoid")],  # noqa: ARG005 - as the others.
    "Softmax": _softmax,
    "Flatten": _flatten,
    "Dropout": _nothing,
    "Identity": _nothing,
}
