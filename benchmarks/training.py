"""Training as one job against plain NumPy: how good, and how fast.

On scikit-learn's digits the accuracy is compared with that of its `MLPClassifier` with the same
sizes, rule and number of epochs; both see the same samples, in orders of their own. The time is
that of a 784-1024-1024-10 network against a loop that a user would write, with the same update rule
and a threaded BLAS, on the machine's two cores: idle, and with a hog pinned to one of them. Both
take the same steps, which is checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measuring import REPEATS, Figure, LeftOut, alternate, hog, summary, two_cores
from benchmarks.versus import NOTICED_S
from deadheat.client import Client, LocalCluster, nn

SIZES = (784, 1024, 1024, 10)
BATCH = 2048
RATE, MOMENTUM, SEED = 0.05, 0.9, 1
#: How far apart parameters may be after an epoch, of the largest: sums in other orders, in float32.
SAME = 1e-3
DIGITS: dict[str, Any] = {"batch_size": 64, "learning_rate": 0.05, "momentum": 0.9, "seed": 1}
DIGITS_EPOCHS = 40

Array = np.ndarray[Any, Any]


def run(
    *,
    samples: int = 20_000,
    epochs: int = 10,
    hog_epochs: int = 10,
    repeats: int = REPEATS,
    with_targets: bool = True,
) -> Iterator[Figure]:
    with LocalCluster() as cluster, Client(cluster.address) as client:
        yield from _accuracy(client)
        x, y = _data(samples)
        _check_same_steps(client, x, y)
        case = f"{epochs} epochs of {samples} samples, idle"
        yield from _times(client, x, y, epochs, repeats, case, 1.15 * with_targets)
        with hog(two_cores()[1]):
            time.sleep(NOTICED_S)
            case = f"{hog_epochs} epochs of {samples} samples, hog"
            yield from _times(client, x, y, hog_epochs, repeats, case, 1.0 * with_targets)


def _accuracy(client: Client) -> Iterator[Figure]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise LeftOut("scikit-learn is not installed") from None
    images, labels = load_digits(return_X_y=True)
    x, held, y, right = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    ours, theirs = [], []
    for seed in range(3):
        network = nn.MLP([64, 64, 10], seed=seed)
        client.train(network, x, y, epochs=DIGITS_EPOCHS, **{**DIGITS, "seed": seed})
        found = client.forward(network, held.astype("float32")).argmax(axis=1)
        ours.append(float((found == right).mean()))
        model = MLPClassifier(
            (64,), solver="sgd", batch_size=DIGITS["batch_size"], alpha=0.0,
            learning_rate_init=DIGITS["learning_rate"], momentum=DIGITS["momentum"],
            nesterovs_momentum=False, max_iter=DIGITS_EPOCHS, tol=0.0, n_iter_no_change=1000,
            random_state=seed,
        )  # fmt: skip
        theirs.append(float(model.fit(x, y).score(held, right)))
    case = "digits"
    yield summary(case, "accuracy", ours)
    yield summary(case, "accuracy of MLPClassifier", theirs)
    behind = [100 * (b - a) for a, b in zip(ours, theirs)]
    yield summary(case, "behind MLPClassifier", behind, "points", target=1.0)


def _data(samples: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(SEED)
    return rng.standard_normal((samples, SIZES[0])).astype("float32"), rng.integers(0, 10, samples)


def _times(
    client: Client, x: Array, y: Array, epochs: int, repeats: int, case: str, target: float
) -> Iterator[Figure]:
    waiting: list[float] = []
    spread: list[float] = []

    def ours() -> None:
        report = client.train(
            nn.MLP(SIZES, seed=SEED), x, y, epochs=epochs, batch_size=BATCH, learning_rate=RATE,
            momentum=MOMENTUM, seed=SEED,
        )  # fmt: skip
        waiting.extend(epoch.waiting or 0.0 for epoch in report.epochs)
        spread.extend(epoch.spread or 0.0 for epoch in report.epochs)

    def numpys() -> None:
        with threadpool_limits(2):
            plain(nn.MLP(SIZES, seed=SEED).parameters, x, y, epochs)

    ours()
    mine, theirs = alternate(ours, numpys, repeats=repeats)
    ratios = [a / b for a, b in zip(mine, theirs)]
    yield summary(case, "ours / NumPy with two threads", ratios, target=target or None)
    yield summary(case, "ours", mine, "s")
    yield summary(case, "NumPy", theirs, "s")
    yield summary(case, "share of time between steps", waiting)
    yield summary(case, "spread of a step", spread)


def _check_same_steps(client: Client, x: Array, y: Array) -> None:
    network = nn.MLP(SIZES, seed=SEED)
    expected = plain(network.parameters, x[:BATCH], y[:BATCH], 1)
    client.train(
        network, x[:BATCH], y[:BATCH], epochs=1, batch_size=BATCH, learning_rate=RATE,
        momentum=MOMENTUM, seed=SEED,
    )  # fmt: skip
    for found, right in zip(network.parameters, expected, strict=True):
        assert np.abs(found - right).max() <= SAME * np.abs(right).max()


def plain(given: Sequence[Array], x: Array, y: Array, epochs: int) -> list[Array]:
    """The same training in NumPy, as anybody would write it, in place where that is simple."""
    p = [np.array(array) for array in given]
    v = [np.zeros_like(array) for array in p]
    rng = np.random.default_rng(SEED)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            came = [x[rows]]
            for layer in range(0, len(p), 2):
                z = came[-1] @ p[layer]
                z += p[layer + 1]
                came.append(np.maximum(z, 0, out=z) if layer + 2 < len(p) else z)
            g = came[-1]
            g -= g.max(axis=1, keepdims=True)
            np.exp(g, out=g)
            g /= g.sum(axis=1, keepdims=True)
            g[np.arange(len(rows)), y[rows]] -= 1
            g /= len(rows)
            for layer in range(len(p) - 2, -1, -2):
                below = came[layer // 2]
                back = (g @ p[layer].T) * (below > 0) if layer else g
                for n, gradient in ((layer, below.T @ g), (layer + 1, g.sum(axis=0))):
                    v[n] *= MOMENTUM
                    v[n] += gradient
                    p[n] -= RATE * v[n]
                g = back
    return p
