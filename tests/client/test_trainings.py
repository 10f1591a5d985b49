"""Training on a real cluster: gradients to rounding, steps as NumPy takes them, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pytest
from scipy import special
from tests.client.networks import numpys, stored
from tests.waiting import wait_until

from deadheat.client import Client, InvalidInput, LocalCluster, Offline, nn
from deadheat.client.nn.losses import Epoch

Array = np.ndarray[Any, Any]
#: So small that its square is nothing: a complex step of it tells a derivative to rounding.
TINY: Final = 1e-100


def softmax(x: Array) -> Array:
    e = np.exp(x - x.real.max(axis=1, keepdims=True))
    made: Array = e / e.sum(axis=1, keepdims=True)
    return made


#: For complex numbers too, which NumPy's and SciPy's own are not all.
ANALYTIC: Final[Mapping[str, Callable[[Array], Array]]] = {
    "relu": lambda x: np.where(x.real > 0, x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softmax": softmax,
}


@pytest.fixture(scope="module")
def shared(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.address) as connected:
        yield connected


def loss_of(network: nn.Sequential, parameters: Sequence[Array], x: Array, y: Array) -> Any:
    """The loss for (complex) parameters: of labels cross_entropy, else mse."""
    left = iter(parameters)
    for layer in network:
        match layer:
            case nn.Linear():
                x = x @ next(left)
                x = x if layer.bias is None else x + next(left)
            case nn.Activation():
                x = ANALYTIC[layer.name](x)
    if y.dtype.kind == "i":
        return -np.log(softmax(x)[np.arange(len(y)), y]).mean()
    return ((x - y) ** 2).mean()


def derivatives(network: nn.Sequential, x: Array, y: Array) -> list[Array]:
    """By complex steps, one parameter after the other: nobody's rules of derivation."""
    complex_ones = [array.astype(complex) for array in network.parameters]
    found = []
    for array in complex_ones:
        made = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] += TINY * 1j
            made[index] = loss_of(network, complex_ones, x, y).imag / TINY
            array[index] = before
        found.append(made)
    return found


def task(
    activation: str, loss: str, rows: int = 40, dtype: str = "float64"
) -> tuple[nn.MLP, Array, Array]:
    rng = np.random.default_rng(29)
    network = nn.MLP([6, 5, 4, 3], activation, dtype=dtype, seed=rng)
    for layer in network.linear:
        layer.bias = rng.standard_normal(layer.outputs).astype(dtype)
    x = rng.standard_normal((rows, 6)).astype(dtype)
    y = rng.integers(0, 3, rows) if loss == "cross_entropy" else rng.standard_normal((rows, 3))
    return network, x, y


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", list(ANALYTIC))
def test_gradients_are_exact(shared: Client, activation: str, loss: Any) -> None:
    network, x, y = task(activation, loss)
    found = shared.gradients(network, x, y, loss=loss)
    assert np.isclose(found.loss, loss_of(network, network.parameters, x, y).real, rtol=1e-12)
    for gradient, expected in zip(found.parameters, derivatives(network, x, y), strict=True):
        assert gradient.shape == expected.shape
        assert np.abs(gradient - expected).max() <= 1e-10 * np.abs(expected).max()


def test_gelu_has_its_derivative_at_zero_too() -> None:
    network = nn.MLP([np.ones((1, 1)), np.ones((1, 1))], "gelu")
    for value in (0.0, -0.0, 1e-300, -40.0, 40.0):
        x, y = np.array([[value]]), np.array([[1.0]])
        found = Offline().gradients(network, x, y, loss="mse")
        expected = derivatives(network, x, y)
        assert np.allclose(np.ravel(found.parameters), np.ravel(expected), atol=1e-15)


@pytest.mark.parametrize("cut", ["balanced", "equal", "peak", "one-minus-utilization"])
def test_gradients_are_the_same_whatever_the_cut(shared: Client, cut: Any) -> None:
    rng = np.random.default_rng(31)
    network = nn.MLP([200, 150, 10], "tanh", dtype="float64", seed=1)
    x, y = rng.standard_normal((3000, 200)), rng.integers(0, 10, 3000)
    here = shared.gradients(network, x, y, where="local")
    found = shared.gradients(network, x, y, cut=cut)
    assert np.isclose(found.loss, here.loss, rtol=1e-12)
    for a, b in zip(found.parameters, here.parameters, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * np.abs(b).max()


def numpys_training(
    network: nn.MLP, x: Array, y: Array, *, epochs: int, batch: int, rate: float, momentum: float
) -> tuple[list[Array], list[float]]:
    """Two layers of tanh and cross-entropy by hand, in one process."""
    rng = np.random.default_rng(7)
    p = [array.copy() for array in network.parameters]
    v = [np.zeros_like(array) for array in p]
    losses = []
    for _ in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            a, labels = x[rows], y[rows]
            h = np.tanh(a @ p[0] + p[1])
            s = softmax(h @ p[2] + p[3])
            total -= float(np.log(s[np.arange(len(rows)), labels]).sum())
            g = s.copy()
            g[np.arange(len(rows)), labels] -= 1
            g /= len(rows)
            b = (g @ p[2].T) * (1 - h * h)
            for n, gradient in enumerate((a.T @ b, b.sum(0), h.T @ g, g.sum(0))):
                v[n] = momentum * v[n] + gradient
                p[n] = p[n] - rate * v[n]
        losses.append(total / len(x))
    return p, losses


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("where", ["cluster", "local"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_takes_numpys_steps(
    shared: Client, where: Any, momentum: float, share: bool
) -> None:
    rng = np.random.default_rng(37)
    network = nn.MLP([300, 130, 5], "tanh", dtype="float64", seed=3)
    x, y = rng.standard_normal((500, 300)), rng.integers(0, 5, 500)
    options: dict[str, Any] = {"epochs": 2, "momentum": momentum}
    expected, losses = numpys_training(network, x, y, batch=200, rate=0.1, **options)
    seen: list[Epoch] = []
    report = shared.train(
        network, x, y, batch_size=200, learning_rate=0.1, seed=7, where=where,
        on_epoch=seen.append, share=share, **options,
    )  # fmt: skip
    for found, array in zip(network.parameters, expected, strict=True):
        assert np.abs(found - array).max() <= 1e-11 * np.abs(array).max()
    assert np.allclose(report.losses, losses, rtol=1e-11)
    assert [epoch.steps for epoch in report.epochs] == [3, 3]
    assert list(report.epochs) == seen
    assert report.seconds > 0
    assert report.as_dict()["epochs"][1]["loss"] == report.losses[1]


def test_steps_are_jobs_of_their_kind(shared: Client) -> None:
    network, x, y = task("relu", "mse", dtype="float32")
    shared.train(network, x, y, epochs=1, loss="mse")
    assert network.dtype == np.float32
    assert shared.job("last").report().kind == "train"


def test_training_leaves_nothing_behind(cluster: LocalCluster) -> None:
    rng = np.random.default_rng(41)
    network = nn.MLP([400, 300, 5], seed=3)
    with Client(cluster.address) as client:
        before = stored(client)

        def settled(_: Epoch) -> None:
            wait_until(lambda: len(stored(client) - before) == 2, "only a weight and its v to stay")

        client.train(
            network, rng.standard_normal((200, 400)), rng.integers(0, 5, 200), epochs=3,
            batch_size=100, momentum=0.5, on_epoch=settled, share=True,
        )  # fmt: skip
        wait_until(lambda: stored(client) <= before, "all of it to be given up")


def test_training_on_digits_learns_them() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    network = nn.MLP([64, 64, 10], seed=1)
    client = Offline()
    report = client.train(
        network, x / 16, y, epochs=30, batch_size=64, learning_rate=0.05, momentum=0.9, seed=1,
        where="local",
    )  # fmt: skip
    assert report.losses[-1] < 0.05
    assert report.losses[0] > 1
    found = numpys(network, (x / 16).astype("float32")).argmax(axis=1)
    assert (found == y).mean() > 0.98


def test_a_loss_that_runs_away_stops_and_keeps_the_last_good_parameters() -> None:
    network, x, y = task("relu", "mse")
    kept: list[list[Array]] = [[array.copy() for array in network.parameters]]

    def keep(_: Epoch) -> None:
        kept.append([array.copy() for array in network.parameters])

    with pytest.raises(InvalidInput, match=r"learning_rate 100 is too large; the network's param"):
        Offline().train(
            network, x, y, epochs=50, learning_rate=100, loss="mse", batch_size=7, on_epoch=keep
        )
    assert all(np.array_equal(a, b) for a, b in zip(network.parameters, kept[-1], strict=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"y": np.array([0, 1, 3])},
            r"y\[2\] is 3; labels go from 0 to 2, since the network has 3",
        ),
        ({"y": np.array([0, -1, 1])}, r"y\[1\] is -1"),
        ({"y": np.array([0, 1])}, "y has 2 rows, but X has 3"),
        ({"y": np.array([0.0, 1, 2])}, r"y is float64 of shape \(3,\); for cross_entropy it has"),
        ({"y": np.zeros((3, 2)), "loss": "mse"}, r"y is float64 of shape \(3, 2\); for mse it has"),
        ({"y": np.full((3, 3), np.nan), "loss": "mse"}, r"y\[0, 0\] is nan"),
        ({"loss": "hinge"}, "loss is 'hinge'; it may be cross_entropy, mse"),
        ({"x": np.full((3, 6), np.inf)}, r"X\[0, 0\] is inf"),
        (
            {"x": np.full((3, 6), 1e39)},
            r"X\[0, 0\] is 1e\+39; the network is float32, which goes up",
        ),
        (
            {"y": np.full((3, 3), -1e39), "loss": "mse"},
            r"y\[0, 0\] is -1e\+39; the network is float",
        ),
        ({"x": np.ones((3, 5))}, r"X is 3 x 5, but layer 0 \(Linear 6 x 5\) takes 6 columns"),
        ({"x": np.ones((0, 6)), "y": np.zeros(0, int)}, "it must have a row at least"),
        ({"x": np.ones(6)}, r"X has shape \(6,\)"),
        ({"epochs": 0}, "epochs is 0; it must be a whole number above 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0; it goes from 0 up to 1"),
        ({"network": nn.MLP([6, 3], dtype="float16")}, "is float16; float32 and float64 are train"),
        ({"network": nn.MLP([6, 3], ["softmax"])}, "ends with softmax, and cross_entropy has one"),
        ({"network": "mlp"}, "network is a str"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    _, x, _ = task("relu", "cross_entropy", rows=3)
    network = nn.MLP([6, 5, 3], seed=1)
    given = {"network": network, "x": x, "y": np.array([0, 1, 2]), "epochs": 1, **changed}
    with pytest.raises(InvalidInput, match=message):
        Offline().train(given.pop("network"), given.pop("x"), given.pop("y"), **given)
