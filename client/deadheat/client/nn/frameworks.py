"""Networks from other frameworks: their attributes are read, and none of their code is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.images import AvgPool2d, Conv2d, Layer, MaxPool2d, Unflatten, pair
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import InvalidInput, Unavailable

#: A network is a list of layers: lists in lists are taken, but not without bound.
MAX_DEPTH: Final = 16


def from_torch(module: Any) -> Sequential:
    """A copy of a `torch.nn.Sequential`, as it is when it evaluates.

    It may have Linear, Conv2d (one group, no dilation, zeros as padding), MaxPool2d, AvgPool2d,
    ReLU, GELU, Tanh, Sigmoid, Softmax along the last axis, Flatten of all axes but the first,
    Unflatten into images, Dropout and Identity (which do nothing then), and Sequentials of these.
    Weights of Linear are transposed: ours are inputs x outputs.

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


def _conv2d(child: Any, name: str) -> list[Layer]:
    _check(child, name, {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros"})
    if isinstance(child.padding, str):
        raise InvalidInput(f"{name} has padding {child.padding!r}; it must be said in numbers")
    weight, bias = _array(child.weight), None if child.bias is None else _array(child.bias)
    sizes = {"stride": child.stride, "padding": child.padding}
    return [Conv2d.of(weight, bias, name=name, **sizes)]


def _max_pool(child: Any, name: str) -> list[Layer]:
    _check(child, name, {"ceil_mode": False, "return_indices": False})
    if pair(child.dilation, name) != (1, 1):
        raise InvalidInput(f"{name} has dilation {child.dilation!r}; it may be 1")
    return [MaxPool2d(child.kernel_size, child.stride, child.padding)]


def _avg_pool(child: Any, name: str) -> list[Layer]:
    wanted = {"ceil_mode": False, "divisor_override": None}
    if pair(child.padding, name, least=0) != (0, 0):
        wanted["count_include_pad"] = True
    _check(child, name, wanted)
    return [AvgPool2d(child.kernel_size, child.stride, child.padding)]


def _unflatten(child: Any, name: str) -> list[Layer]:
    try:
        return [Unflatten(child.dim, tuple(child.unflattened_size))]
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.message}", field=name) from None


def _check(child: Any, name: str, wanted: Mapping[str, Any]) -> None:
    for attribute, value in wanted.items():
        has = getattr(child, attribute)
        if has != value:
            raise InvalidInput(f"{name} has {attribute} {has!r}; it may be {value!r}", field=name)


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
    "Conv2d": _conv2d,
    "MaxPool2d": _max_pool,
    "AvgPool2d": _avg_pool,
    "Unflatten": _unflatten,
    "ReLU": lambda child, name: [Activation("relu")],  # noqa: ARG005 - as the others.
    "GELU": _gelu,
    "Tanh": lambda child, name: [Activation("tanh")],  # noqa: ARG005 - as the others.
    "Sigmoid": lambda child, name: [Activation("sigmoid")],  # noqa: ARG005 - as the others.
    "Softmax": _softmax,
    "Flatten": _flatten,
    "Dropout": _nothing,
    "Identity": _nothing,
}
