"""Networks from PyTorch. Where it is not installed, modules stand in that have the attributes which
are read, under the name by which the real ones are imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import util
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.client.networks import numpys

from deadheat.client import InvalidInput, Offline, Unavailable, nn

RNG = np.random.default_rng(19)


class Tensor:
    """A tensor that tells what was asked of it."""

    def __init__(self, array: Any, dtype: str = "") -> None:
        self.array = np.asarray(array)
        self.dtype = f"torch.{dtype or self.array.dtype}"

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.array.astype(np.float32))

    def numpy(self) -> Any:
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


class Module:
    def __init__(self, *children: Any, **attributes: Any) -> None:
        self._children = children
        vars(self).update(attributes)

    def named_children(self) -> Iterator[tuple[str, Any]]:
        return ((str(number), child) for number, child in enumerate(self._children))


class Linear(Module):
    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype: str = "") -> None:
        drawn = RNG.standard_normal((outputs, inputs)).astype(np.float32)
        self.weight = Tensor(drawn.astype(ml_dtypes.bfloat16) if dtype else drawn, dtype)
        self.bias = Tensor(RNG.standard_normal(outputs).astype(np.float32)) if bias else None


NAMES = ["Sequential", "ReLU", "GELU", "Tanh", "Sigmoid", "Softmax", "Flatten", "Dropout"]
NAMES += ["Identity", "MaxPool2d", "AvgPool2d", "Unflatten", "LSTM"]


class Conv2d(Module):
    def __init__(self, *shape: int, bias: bool = True, **attributes: Any) -> None:
        usual = {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros", "stride": (1, 1)}
        super().__init__(**{**usual, "padding": (0, 0), **attributes})
        self.weight = Tensor(RNG.standard_normal(shape).astype(np.float32))
        self.bias = Tensor(RNG.standard_normal(shape[0]).astype(np.float32)) if bias else None


MAX = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
MAX |= {"return_indices": False}
MEAN = {"kernel_size": (2, 1), "stride": (1, 2), "padding": (1, 0), "ceil_mode": False}
MEAN |= {"divisor_override": None, "count_include_pad": True}


@pytest.fixture
def torch_nn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    kinds = {name: type(name, (Module,), {}) for name in NAMES}
    module: Any = ModuleType("torch")
    module.nn = SimpleNamespace(**kinds, Linear=Linear, Conv2d=Conv2d)
    monkeypatch.setitem(sys.modules, "torch", module)
    found: SimpleNamespace = module.nn
    return found


def test_a_sequential_becomes_the_same_network(torch_nn: Any) -> None:
    first, second = torch_nn.Linear(12, 6), torch_nn.Linear(6, 3, bias=False)
    module = torch_nn.Sequential(
        torch_nn.Flatten(start_dim=1, end_dim=-1),
        torch_nn.Sequential(first, torch_nn.GELU(approximate="tanh"), torch_nn.Dropout()),
        second,
        torch_nn.Identity(),
        torch_nn.Softmax(dim=-1),
    )
    network = nn.from_torch(module)
    assert repr(network) == (
        "<Sequential Flatten, Linear 12 x 6, gelu_tanh, Linear 6 x 3, softmax, float32>"
    )
    assert np.array_equal(network.linear[0].weight, first.weight.array.T)
    assert first.bias is not None
    assert np.array_equal(network.parameters[1], first.bias.array)
    x = RNG.standard_normal((5, 3, 4)).astype(np.float32)
    found = Offline().forward(network, x, where="local")
    assert np.allclose(found, numpys(network, x), atol=1e-6)


def test_each_activation_is_known(torch_nn: Any) -> None:
    kinds = [
        torch_nn.ReLU(),
        torch_nn.Tanh(),
        torch_nn.Sigmoid(),
        torch_nn.GELU(approximate="none"),
    ]
    network = nn.from_torch(torch_nn.Sequential(torch_nn.Linear(3, 3), *kinds))
    assert [repr(layer) for layer in network][1:] == ["relu", "tanh", "sigmoid", "gelu"]


def test_layers_for_images_have_torchs_sizes(torch_nn: Any) -> None:
    convolution = torch_nn.Conv2d(4, 2, 3, 3, stride=(2, 1), padding=(1, 0))
    network = nn.from_torch(
        torch_nn.Sequential(
            torch_nn.Unflatten(dim=1, unflattened_size=(2, 8, 9)),
            convolution,
            torch_nn.MaxPool2d(**MAX),
            torch_nn.AvgPool2d(**MEAN),
            torch_nn.Conv2d(1, 4, 1, 1, bias=False),
        )
    )
    assert [repr(layer) for layer in network] == [
        "Unflatten 2 x 8 x 9",
        "Conv2d 2 to 4, 3 x 3, stride 2 x 1, padding 1 x 0",
        "MaxPool2d 2 x 2",
        "AvgPool2d 2 x 1, stride 1 x 2, padding 1 x 0",
        "Conv2d 4 to 1, 1 x 1",
    ]
    assert np.array_equal(network.parameters[0], convolution.weight.array)
    assert network.made == (1, 3, 2)


def test_bfloat16_stays_what_it_is(torch_nn: Any) -> None:
    layer = torch_nn.Linear(3, 2, bias=False, dtype="bfloat16")
    network = nn.from_torch(torch_nn.Sequential(layer))
    assert network.dtype == ml_dtypes.bfloat16
    assert network.linear[0].weight.tobytes() == layer.weight.array.T.tobytes()


def test_what_is_not_known_is_refused_by_its_place(torch_nn: Any) -> None:
    class Special(torch_nn.ReLU):  # type: ignore[misc]
        """It may compute anything."""

    bad = [
        (torch_nn.LSTM(), "module 1.1 is a LSTM; it may be Sequential, Linear, Conv2d"),
        (torch_nn.Conv2d(2, 1, 3, 3, groups=2), "module 1.1 has groups 2; it may be 1"),
        (torch_nn.Conv2d(2, 1, 3, 3, dilation=(2, 1)), r"module 1.1 has dilation \(2, 1\)"),
        (torch_nn.Conv2d(2, 1, 3, 3, padding="same"), "module 1.1 has padding 'same'"),
        (torch_nn.Conv2d(2, 1, 3, 3, padding_mode="circular"), "has padding_mode 'circular'"),
        (torch_nn.MaxPool2d(**{**MAX, "ceil_mode": True}), "module 1.1 has ceil_mode True"),
        (torch_nn.MaxPool2d(**{**MAX, "dilation": 2}), "module 1.1 has dilation 2; it may be 1"),
        (torch_nn.AvgPool2d(**{**MEAN, "count_include_pad": False}), "has count_include_pad Fal"),
        (torch_nn.Unflatten(dim=0, unflattened_size=(1, 2, 2)), "module 1.1: dim is 0"),
        (Special(), "module 1.1 is a Special"),
        (torch_nn.Softmax(dim=0), "module 1.1 is a Softmax along dim 0"),
        (torch_nn.GELU(approximate="fast"), "module 1.1 has approximate 'fast'"),
        (torch_nn.Flatten(start_dim=0, end_dim=-1), "module 1.1 flattens dimensions 0 to -1"),
    ]
    for child, message in bad:
        inner = torch_nn.Sequential(torch_nn.Tanh(), child)
        with pytest.raises(InvalidInput, match=message):
            nn.from_torch(torch_nn.Sequential(torch_nn.Linear(2, 2), inner))
    with pytest.raises(InvalidInput, match=r"module is a Linear; it must be a torch.nn.Sequential"):
        nn.from_torch(torch_nn.Linear(2, 2))
    spoiled = torch_nn.Linear(2, 2)
    spoiled.weight.array[1, 0] = np.inf
    with pytest.raises(InvalidInput, match=r"module 0 weight\[0, 1\] is inf"):
        nn.from_torch(torch_nn.Sequential(spoiled))


def test_lists_in_lists_have_a_bound(torch_nn: Any) -> None:
    module = torch_nn.Sequential(torch_nn.Linear(2, 2))
    for _ in range(30):
        module = torch_nn.Sequential(module)
    with pytest.raises(InvalidInput, match="is more than 16 Sequentials deep"):
        nn.from_torch(module)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unavailable, match=r"pip install 'deadheat\[torch\]'"):
        nn.from_torch(object())


@pytest.mark.skipif(util.find_spec("torch") is None, reason="torch is not installed")
def test_the_real_one_computes_the_same() -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]

    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 6), torch.nn.GELU(), torch.nn.Linear(6, 3)
    )
    x = RNG.standard_normal((5, 3, 4)).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    found = Offline().forward(nn.from_torch(module), x, where="local")
    assert np.allclose(found, expected, atol=1e-5)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=(2, 1), padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, stride=2, padding=1),
        torch.nn.Conv2d(6, 4, (2, 3), bias=False),
        torch.nn.Tanh(),
        torch.nn.AvgPool2d(2, padding=1),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(5),
    ).double()
    images = torch.from_numpy(RNG.standard_normal((6, 3, 16, 15))).requires_grad_()
    labels = RNG.integers(0, 5, 6)
    out = module(images)
    torch.nn.functional.cross_entropy(out, torch.from_numpy(labels)).backward()
    network = nn.from_torch(module)
    here, x = Offline(), images.detach().numpy()
    assert np.allclose(here.forward(network, x, where="local"), out.detach().numpy(), rtol=1e-10)
    gradients = here.gradients(network, x, labels).parameters
    for gradient, parameter in zip(gradients, module.parameters(), strict=True):
        wanted = parameter.grad.numpy()
        wanted = wanted.T if wanted.ndim == 2 else wanted
        assert np.abs(gradient - wanted).max() <= 1e-10 * np.abs(wanted).max()
