"""Networks of images: what NumPy makes of them, on a cluster and here; trained; and refused by the
layer's name where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.client.networks import numpys, stored
from tests.waiting import wait_until

from deadheat.client import Client, InvalidInput, LocalCluster, Offline, nn

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(43)
HERE = Offline()


def network(dtype: str = "float64", channels: int = 2) -> nn.Sequential:
    options: dict[str, Any] = {"dtype": dtype, "seed": 9}
    made = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, **options),
        "relu",
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, **options),
        "tanh",
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(8 * 2 * 2, 5, **options),
    )
    for layer in made.weighted:
        layer.bias = RNG.standard_normal(layer.bias.shape).astype(dtype)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_forward_pass_is_numpys_and_one_segment(client: Client, dtype: str) -> None:
    made = network(dtype)
    x = RNG.standard_normal((400, 2, 16, 16)).astype(dtype)
    expected = numpys(made, x)
    job = client.submit_forward(made, x)
    found = job.result(timeout=120)
    assert found.shape == (400, 5)
    assert found.dtype == np.dtype(dtype)
    assert np.allclose(found, expected, rtol=1e-3 if dtype == "float32" else 1e-9, atol=1e-4)
    assert len({placement["operation"] for placement in job.report().placements}) == 1
    assert "one barrier stays, after" in job.explain()
    assert np.allclose(client.forward(made, x, where="local"), found, rtol=1e-5, atol=1e-5)


def test_images_may_come_out_and_rows_may_go_in(client: Client) -> None:
    made = nn.Sequential(nn.Conv2d(2, 3, 3, dtype="float64", seed=1), "sigmoid", nn.MaxPool2d(2))
    x = RNG.standard_normal((20, 2, 9, 11))
    expected = numpys(made, x)
    for where in ("cluster", "local"):
        found = client.forward(made, x, where=where)
        assert found.shape == expected.shape == (20, 3, 3, 4)
        assert np.allclose(found, expected, rtol=1e-12)
    rows = nn.Sequential(nn.Unflatten(1, (2, 9, 11)), *made.layers)
    assert rows.inputs == 2 * 9 * 11
    assert rows.made == (3, 3, 4)
    for given in (x, x.reshape(20, -1), client.put(x.reshape(20, -1))):
        assert np.allclose(client.forward(rows, given), expected, rtol=1e-12)
    flat = nn.Sequential(*rows.layers, nn.Flatten(), nn.Linear(36, 2, dtype="float64", seed=1))
    one = client.forward(flat, x[0].reshape(-1))
    assert np.allclose(one, numpys(flat, x[:1].reshape(1, -1))[0], rtol=1e-12)


def test_integers_are_images_too() -> None:
    made, x = network("float32"), RNG.integers(0, 255, (3, 2, 16, 16), dtype=np.uint8)
    found = HERE.forward(made, x, where="local")
    assert found.dtype == np.float32
    assert np.allclose(found, numpys(made, x.astype("float64")), rtol=1e-3)


def test_training_takes_numpys_steps_and_leaves_nothing_behind(cluster: LocalCluster) -> None:
    x, y = RNG.standard_normal((90, 2, 16, 16)), RNG.integers(0, 5, 90)
    here, there = network(), network()
    for one, other in zip(here.weighted, there.weighted):
        one.bias = other.bias
    options: dict[str, Any] = {"epochs": 2, "batch_size": 40, "learning_rate": 0.1}
    options |= {"momentum": 0.9, "seed": 3}
    with Client(cluster.address) as client:
        before = stored(client)
        found = client.train(there, x, y, **options)
        assert client.job("last").report().kind == "train"
        wait_until(lambda: stored(client) <= before, "all of it to be given up")
    expected = HERE.train(here, x, y, where="local", share=True, **options)
    assert np.allclose(found.losses, expected.losses, rtol=1e-11)
    for a, b in zip(there.parameters, here.parameters, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-11 * np.abs(b).max()


def test_large_weights_stay_on_the_cluster(client: Client) -> None:
    made = nn.Sequential(
        nn.Conv2d(32, 64, 5, dtype="float64", seed=1), nn.Flatten(),
        nn.Linear(64 * 4, 3, dtype="float64", seed=2),
    )  # fmt: skip
    x, y = RNG.standard_normal((24, 32, 6, 6)), RNG.integers(0, 3, 24)
    before = [array.copy() for array in made.parameters]
    gradients = client.gradients(made, x, y, where="local").parameters
    client.train(made, x, y, epochs=1, batch_size=24, learning_rate=0.5, share=True)
    for after, start, gradient in zip(made.parameters, before, gradients, strict=True):
        assert np.allclose(after, start - 0.5 * gradient, rtol=1e-10, atol=1e-12)


def test_a_convolutional_network_learns_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    made = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, seed=1), "relu", nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 10, seed=2),
    )  # fmt: skip
    rows = x[:1200] / 16
    report = HERE.train(
        made, rows, y[:1200], epochs=20, batch_size=64, learning_rate=0.05, momentum=0.9, seed=1,
        where="local",
    )  # fmt: skip
    assert report.losses[-1] < 0.1
    found = HERE.forward(made, (x[1200:] / 16).astype("float32"), where="local").argmax(axis=1)
    assert (found == y[1200:]).mean() > 0.9


def test_parameters_are_read_only_and_of_torchs_shapes() -> None:
    layer = nn.Conv2d(3, 8, (5, 2), seed=1)
    assert layer.weight.shape == (8, 3, 5, 2)
    limit = np.sqrt(6 / ((3 + 8) * 10))
    assert 0.9 * limit < np.abs(layer.weight).max() <= limit
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0] = 1
    layer.weight = 2 * layer.weight
    with pytest.raises(InvalidInput, match=r"weight is \(8, 3, 5, 1\) float32; in Conv2d 3 to 8"):
        layer.weight = layer.weight[..., :1]
    assert nn.Conv2d(3, 8, 2, bias=False).bias is None
    assert (nn.MaxPool2d(3).stride, nn.AvgPool2d(3, 1).stride) == ((3, 3), (1, 1))


CONV = nn.Conv2d(2, 4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 2, 3), "in_channels is 0; it must be a whole number from 1 to"),
        (lambda: nn.Conv2d(2, 2, (3, 3, 3)), r"kernel_size is \(3, 3, 3\); it must be one number"),
        (lambda: nn.Conv2d(2, 2, 3, stride=0), "stride is 0"),
        (lambda: nn.Conv2d(2, 2, 3, padding=-1), "padding is -1; it must be a whole number from 0"),
        (lambda: nn.Conv2d(2, 2, 3, dtype="int8"), "dtype has dtype int8"),
        (lambda: nn.Conv2d.of(np.ones((2, 2))), "Conv2d weight has 2 dimensions"),
        (lambda: nn.Conv2d.of(np.ones((2, 1, 1, 1)), np.ones(3)), "bias has 3 elements, but its w"),
        (lambda: nn.MaxPool2d(3, padding=2), "padding is 2; it may be half of the kernel, 3"),
        (lambda: nn.Unflatten(0, (1, 2, 2)), "dim is 0"),
        (lambda: nn.Unflatten(1, (1, 2)), "it must be channels, height, width"),
        (lambda: nn.Unflatten(1, 4), "it must be channels, height, width"),  # type: ignore[arg-type]
        (lambda: nn.Sequential(nn.MaxPool2d(2)), "needs a Linear layer, or a Conv2d"),
        (
            lambda: nn.Sequential(CONV, nn.Conv2d(3, 4, 3)),
            r"layer 1 \(Conv2d 3 to 4, 3 x 3\) takes 3 channels, but gets 4",
        ),
        (
            lambda: nn.Sequential(CONV, nn.Linear(4, 2)),
            r"layer 1 \(Linear 4 x 2\) takes rows of 4, but gets images; put nn.Flatten\(\) before",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 2), CONV),
            r"layer 1 \(Conv2d .*\) takes images, but gets rows; put nn.Unflatten",
        ),
        (lambda: nn.Sequential(nn.Flatten(), CONV), "layer 1 .* takes images, but gets rows"),
        (lambda: nn.Sequential(CONV, "softmax"), r"layer 1 \(softmax\) goes along rows"),
        (
            lambda: nn.Sequential(CONV, nn.Conv2d(4, 4, 3, dtype="float64")),
            "layer 1 .* is float64, but layer 0 .* is float32; a network has one dtype",
        ),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 9)), CONV),
            r"layer 1 \(Conv2d 2 to 4, 3 x 3\): kernel 3 x 3 does not fit into an image of 2 x 9",
        ),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (2, 5, 5)), CONV, nn.Flatten(), nn.Linear(8, 2)),
            r"layer 3 \(Linear 8 x 2\) takes 8 columns, but gets 36",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 17), nn.Unflatten(1, (2, 3, 3)), CONV),
            r"layer 1 \(Unflatten 2 x 3 x 3\) takes 18 columns, but gets 17",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((5, 3)), r"X is 5 x 3, but layer 0 \(Conv2d 2 to 6, .*\) takes n x channels x"),
        (np.ones((5, 3, 16, 16)), r"layer 0 \(Conv2d 2 to 6.*\) takes 2 channels, but gets 3"),
        (np.ones((5, 2, 12, 16)), r"layer 7 \(Linear 32 x 5\) takes 32 columns, but gets 16"),
        (np.ones((5, 2, 2, 2)), r"layer 3 \(Conv2d 6 to 8.*\): kernel 3 x 3 does not fit"),
        (np.full((1, 2, 16, 16), np.nan), r"X\[0, 0, 0, 0\] is nan|X\[0, 0\] is nan"),
        (np.ones((1, 2, 16, 16), complex), "X is complex128"),
        (HERE.put(np.ones((5, 512))), "X is a lazy matrix, 5 x 512, but layer 0"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_the_layers_name(x: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        HERE.forward(network(), x, where="local")


def test_what_depends_on_the_images_size_is_said() -> None:
    made = nn.Sequential(CONV, nn.Flatten())
    with pytest.raises(InvalidInput, match=r"takes images, n x channels x height x width"):
        _ = made.inputs
    with pytest.raises(InvalidInput, match=r"depends on the size of its images; begin it with"):
        _ = made.outputs
    x = np.ones((4, 2, 5, 5), np.float32)
    found = HERE.gradients(made, x, np.array([0, 1, 2, 35]))
    assert found.parameters[0].shape == CONV.weight.shape
    with pytest.raises(InvalidInput, match=r"y\[3\] is 36; labels go from 0 to 35"):
        HERE.gradients(made, x, np.array([0, 1, 2, 36]))
    with pytest.raises(InvalidInput, match="softmax goes along rows"):
        HERE.forward(nn.Sequential(CONV), x, softmax=True, where="local")
