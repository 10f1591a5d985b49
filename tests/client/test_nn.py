"""Networks as values: what they are made of, and what is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from deadheat.client import InvalidInput, Offline, nn

RNG = np.random.default_rng(3)


def test_sizes_make_layers_with_activations_between() -> None:
    network = nn.MLP([784, 256, 10], activations="relu", seed=1)
    assert [repr(layer) for layer in network] == ["Linear 784 x 256", "relu", "Linear 256 x 10"]
    assert (network.inputs, network.outputs) == (784, 10)
    assert network.dtype == np.float32
    assert [array.shape for array in network.parameters] == [(784, 256), (256,), (256, 10), (10,)]
    limit = np.sqrt(6 / (784 + 256))
    assert 0.99 * limit < np.abs(network.linear[0].weight).max() <= limit


def test_a_seed_draws_the_same_weights_again() -> None:
    first, second, third = (nn.MLP([5, 4, 3], seed=seed).parameters for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not np.array_equal(first[0], third[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", np.float64])
def test_networks_have_one_dtype(dtype: Any) -> None:
    network = nn.MLP([3, 2], dtype=dtype)
    expected = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    assert {array.dtype for array in network.parameters} == {expected}


def test_parameters_may_be_given_as_pairs_arrays_and_files(tmp_path: Path) -> None:
    w, b, v = RNG.standard_normal((4, 3)), RNG.standard_normal(3), RNG.standard_normal((3, 2))
    np.save(tmp_path / "w.npy", w)
    np.save(tmp_path / "b.npy", b)
    for pair in ((w, b), [w, b], (tmp_path / "w.npy", str(tmp_path / "b.npy"))):
        network = nn.MLP([pair, v], ["tanh", "softmax"])
        assert [repr(layer) for layer in network] == [
            "Linear 4 x 3",
            "tanh",
            "Linear 3 x 2",
            "softmax",
        ]
        assert all(np.array_equal(a, b) for a, b in zip(network.parameters, (w, b, v)))


def test_parameters_are_copies_that_cannot_change_in_place() -> None:
    w = np.ones((2, 2))
    layer = nn.Linear.of(w, np.zeros(2))
    w[0, 0] = 5
    assert layer.weight[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0, 0] = 5
    layer.weight = 2 * np.ones((2, 2))
    assert layer.weight[0, 0] == 2
    with pytest.raises(InvalidInput, match=r"weight is \(3, 2\) float64; in Linear 2 x 2 it is"):
        layer.weight = np.ones((3, 2))
    with pytest.raises(InvalidInput, match="has no bias"):
        nn.Linear(2, 2, bias=False).bias = np.ones(2)


def with_nan() -> Any:
    weight = np.ones((3, 2))
    weight[2, 1] = np.nan
    return weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MLP([4]), "layers has 1 sizes; it takes two at least"),
        (lambda: nn.MLP([4, 0]), r"layers\[1\] is 0; it must be a whole number from 1 to"),
        (lambda: nn.MLP([4, -2, 2]), r"layers\[1\] is -2"),
        (lambda: nn.Linear(True, 2), "inputs is True"),
        (lambda: nn.Linear(2.5, 2), "inputs is 2.5"),  # type: ignore[arg-type]
        (lambda: nn.MLP("abc"), "layers is a str"),
        (lambda: nn.MLP([4, 2], dtype="int32"), "dtype has dtype int32; networks are computed in"),
        (lambda: nn.MLP([4, 2], dtype="nonsense"), "dtype has dtype nonsense"),
        (lambda: nn.MLP([4, 2], seed=-1), "seed is -1"),
        (lambda: nn.MLP([4, 2], "swish"), "swish"),
        (lambda: nn.MLP([4, 3, 2], ["relu"] * 4), "activations has 4 names; there are 2 layers"),
        (
            lambda: nn.MLP([np.ones((4, 3)), np.ones((2, 2))]),
            r"layer 2 \(Linear 2 x 2\) takes 2 columns, but layer 0 \(Linear 4 x 3\) makes 3",
        ),
        (
            lambda: nn.MLP([np.ones((4, 3)), np.ones((3, 2), np.float32)]),
            r"layer 2 \(Linear 3 x 2\) is float32, but layer 0 \(Linear 4 x 3\) is float64",
        ),
        (
            lambda: nn.MLP([(np.ones((4, 3)), np.ones(4))]),
            "layer 0 bias has 4 elements, but its weight is 4 x 3",
        ),
        (
            lambda: nn.MLP([(np.ones((4, 3)), np.ones(3, np.float32))]),
            "layer 0 bias is float32, but its weight is float64",
        ),
        (
            lambda: nn.MLP([np.ones((4, 3)), with_nan()]),
            r"layer 2 weight\[2, 1\] is nan; it must be a finite number",
        ),
        (lambda: nn.MLP([np.ones((4, 3), int)]), "layer 0 weight has dtype int64"),
        (lambda: nn.MLP([np.ones((4, 3), complex)]), "layer 0 weight has dtype complex128"),
        (lambda: nn.MLP([np.ones(4)]), r"layer 0 weight has 1 dimensions \(4,\); it must have 2"),
        (lambda: nn.MLP([np.ones((4, 3))], seed=1), "seed is for sizes"),
        (lambda: nn.MLP([np.ones((4, 3))], dtype="float32"), "is float64, but dtype is float32"),
        (lambda: nn.MLP([np.ones((0, 3))]), "layer 0 inputs is 0"),
        (lambda: nn.Sequential("relu"), "needs a Linear layer"),
        (lambda: nn.Sequential(nn.Linear(2, 2), "swish"), "layer 1 is 'swish'; an activation may"),
        (lambda: nn.Sequential(nn.Linear(2, 2), np.tanh), "layer 1 is a ufunc; it may be Linear"),  # type: ignore[arg-type]
        (lambda: nn.Activation("swish"), "activation is 'swish'; it may be"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_with_layer_and_value(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((5, 3)), r"X is 5 x 3, but layer 0 \(Linear 4 x 3\) takes 4 columns"),
        (np.ones(3), "X is 3, but layer 0"),
        (np.float64(3), "X is a scalar, but layer 0"),
        (np.ones((5, 2, 2)), r"X is 5 x 2 x 2, but .* begin the network with nn.Flatten\(\)"),
        (np.ones((5, 4), complex), "X is complex128; networks are computed in float16"),
        (np.array([["a"] * 4]), "X has dtype <U1"),
        (np.array([[0, 1, np.inf, 3.0]]), r"X\[0, 2\] is inf; it must be a finite number"),
        (np.full((1, 4), np.nan, np.float16), r"X\[0, 0\] is nan"),
    ],
)
def test_samples_that_do_not_fit_are_refused(x: Any, message: str) -> None:
    network = nn.MLP([4, 3, 2], dtype="float64")
    with pytest.raises(InvalidInput, match=message):
        Offline().forward(network, x, where="local")


def test_nan_far_down_is_found_where_it_is() -> None:
    x = np.zeros((3 << 20, 1), np.float32)
    x[(2 << 20) + 5] = np.nan
    with pytest.raises(InvalidInput, match=rf"X\[{(2 << 20) + 5}, 0\] is nan"):
        Offline().forward(nn.MLP([1, 1]), x, where="local")


def test_nan_propagates_if_it_may() -> None:
    x = np.array([[1.0, np.nan], [1, 2]])
    found = Offline().forward(nn.MLP([2, 3]), x, where="local", check_finite=False)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_only_networks_are_computed() -> None:
    with pytest.raises(InvalidInput, match=r"network is a list; it must be an nn.MLP"):
        Offline().forward([np.ones((2, 2))], np.ones((2, 2)), where="local")  # type: ignore[arg-type]
