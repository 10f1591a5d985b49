"""Gradients are those of the autograd package, to rounding, under every cut: of each layer, of each
loss, and of whole networks.

The reference is written here in autograd's NumPy, layer by layer, by other ways than ours (windows
by slices and einsum); rectangles are forced at random, with and without segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.client.test_lazy import HERE, cut_by
from tests.conftest import TWO_AGENTS

from deadheat.client import Client, LocalCluster, nn
from deadheat.client.lowering import lower
from deadheat.client.nn.losses import LOSSES
from deadheat.client.nn.parameters import matrix_of
from deadheat.client.nn.passes import backward, forward
from deadheat.client.ordering import without_chains
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import Gemm, Program
from deadheat.scheduler.planner.joining import joined, segments
from deadheat.scheduler.planner.rewriting import split_inner

anp: Any = pytest.importorskip("autograd.numpy")
autograd: Any = pytest.importorskip("autograd")
special: Any = pytest.importorskip("autograd.scipy.special")

Array = np.ndarray[Any, Any]
LIMIT: Final = 1e-10
#: What the planner may make of a program before it cuts it.
HOW: Final = ("as it is", "joined", "split", "split and joined")


def softmax(x: Any) -> Any:
    e = anp.exp(x - anp.max(x, axis=1, keepdims=True))
    return e / anp.sum(e, axis=1, keepdims=True)


FUNCTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "none": lambda x: x,
    "relu": lambda x: anp.maximum(x, 0),
    "tanh": anp.tanh,
    "sigmoid": lambda x: 1 / (1 + anp.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + anp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))
    ),
    "softmax": softmax,
}


def views(layer: Any, x: Any, fill: float) -> list[tuple[int, int, Any]]:
    """For each element of a kernel, what it sees at all places."""
    (k, m), (s, t), (p, q) = layer.kernel_size, layer.stride, layer.padding
    n, c, height, width = x.shape
    rows, columns = (height + 2 * p - k) // s + 1, (width + 2 * q - m) // t + 1
    above, beside = np.full((n, c, p, width), fill), np.full((n, c, height + 2 * p, q), fill)
    x = anp.concatenate([above, x, above], axis=2)
    x = anp.concatenate([beside, x, beside], axis=3)
    return [
        (i, j, x[:, :, i : i + s * (rows - 1) + 1 : s, j : j + t * (columns - 1) + 1 : t])
        for i in range(k)
        for j in range(m)
    ]


def autograds(network: nn.Sequential, parameters: list[Any], x: Any) -> Any:
    left = iter(parameters)
    for layer in network:
        match layer:
            case nn.Linear():
                x = anp.dot(x, next(left))
                x = x if layer.bias is None else x + next(left)
            case nn.Conv2d():
                w = next(left)
                x = sum(
                    anp.einsum("nchw,oc->nohw", seen, w[:, :, i, j])
                    for i, j, seen in views(layer, x, 0)
                )
                x = x if layer.bias is None else x + anp.reshape(next(left), (1, -1, 1, 1))
            case nn.MaxPool2d():
                x = anp.max(anp.stack([seen for *_, seen in views(layer, x, -np.inf)]), axis=0)
            case nn.AvgPool2d():
                x = anp.mean(anp.stack([seen for *_, seen in views(layer, x, 0)]), axis=0)
            case nn.Activation():
                x = FUNCTIONS[layer.name](x)
            case nn.Flatten():
                x = anp.reshape(x, (x.shape[0], -1))
            case nn.Unflatten():
                x = anp.reshape(x, (-1, *layer.image))
    return x


def loss_of(network: nn.Sequential, loss: str, parameters: list[Any], x: Array, y: Array) -> Any:
    made = autograds(network, parameters, x)
    if loss == "mse":
        return anp.mean((anp.reshape(made, (len(x), -1)) - y) ** 2)
    return -anp.mean(anp.log(softmax(made)[np.arange(len(y)), y]))


def expected(network: nn.Sequential, loss: str, x: Array, y: Array) -> list[Array]:
    given = [np.array(array) for array in network.parameters]
    made = autograd.grad(lambda parameters: loss_of(network, loss, parameters, x, y))(given)
    return [np.asarray(one) for one in made]


def check(network: nn.Sequential, found: list[Array], wanted: list[Array]) -> None:
    for gradient, reference, array in zip(found, wanted, network.parameters, strict=True):
        assert gradient.size == array.size
        gap = np.abs(gradient.reshape(array.shape) - reference).max()
        assert gap <= LIMIT * np.abs(reference).max()


def split(program: Program) -> Program:
    """Every product in two parts along its inner dimension, which are added."""
    for number in range(len(program.operations) - 1, -1, -1):
        operation = program.operations[number]
        if isinstance(operation.kind, Gemm):
            inner = program.shape_of(operation).inner
            program = split_inner(program, number, [(0, inner // 2), (inner // 2, inner)])
    return program


def in_pieces(
    network: nn.Sequential, loss: str, x: Array, y: Array, seed: int, *, how: str
) -> list[Array]:
    """Gradients, each operation made in rectangles that nobody would choose."""
    chosen = LOSSES[loss]
    targets = chosen.targets(network, y, len(x))
    parameters = [HERE.put(matrix_of(array)) for array in network.parameters]
    steps = forward(network, HERE.put(x.reshape(len(x), -1)), parameters)
    gradient = chosen.gradient(steps[-1].after, HERE.put(chosen.goal(targets, network)))
    made = backward(steps, gradient)
    lowered = lower([one.node for one in made])
    assert lowered.program is not None
    program = without_chains(lowered.program)
    if "split" in how:
        program = split(program)
    if "joined" in how:
        program = joined(program, segments(program))
    operands = {name: held.array for name, held in lowered.held.items()}
    found = evaluate(np, program, operands, cut_by(seed))
    return [found[name] for name in lowered.outputs]


def randomly_biased(network: nn.Sequential, rng: np.random.Generator) -> nn.Sequential:
    for layer in network.weighted:
        if layer.bias is not None:
            layer.bias = rng.standard_normal(layer.bias.shape)
    return network


def dense(activation: Any, rng: np.random.Generator) -> nn.Sequential:
    made = nn.MLP([6, 5, 4, 3], activation, dtype="float64", seed=rng)
    return randomly_biased(made, rng)


OPTIONS: Final[dict[str, Any]] = {"dtype": "float64", "seed": 5}
IMAGES: Final[Mapping[str, Callable[[], nn.Sequential]]] = {
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 6, 5)), nn.Conv2d(2, 3, 3, **OPTIONS), nn.Flatten()
    ),
    "strides and padding": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 6, 5)),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), bias=False, **OPTIONS),
        "gelu",
        nn.Conv2d(3, 2, 2, padding=1, **OPTIONS),
        nn.Flatten(),
    ),
    "max pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6, 5)),
        nn.Conv2d(1, 3, 1, **OPTIONS),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Flatten(),
    ),
    "mean pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6, 5)),
        nn.Conv2d(1, 3, 1, **OPTIONS),
        nn.AvgPool2d((3, 2), padding=(1, 1)),
        nn.Flatten(),
    ),
    "a whole network": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 9, 9)),
        nn.Conv2d(2, 4, 3, padding=1, **OPTIONS),
        "relu",
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, **OPTIONS),
        "tanh",
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5, 4, **OPTIONS),
        "sigmoid",
        nn.Linear(4, 3, bias=False, **OPTIONS),
    ),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", list(FUNCTIONS))
@settings(max_examples=12)
@given(st.integers(0, 2**32), st.sampled_from(HOW))
@example(seed=1, how="split and joined")
def test_each_activation_and_loss_under_every_cut(
    activation: str, loss: str, seed: int, how: str
) -> None:
    rng = np.random.default_rng(seed)
    network = dense(activation, rng)
    x = rng.standard_normal((11, 6))
    y = rng.integers(0, 3, 11) if loss == "cross_entropy" else rng.standard_normal((11, 3))
    found = in_pieces(network, loss, x, y, seed, how=how)
    check(network, found, expected(network, loss, x, y))


@pytest.mark.parametrize("which", list(IMAGES))
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(HOW), st.sampled_from(["cross_entropy", "mse"]))
@example(seed=1, how="split and joined", loss="cross_entropy")
def test_convolutions_and_pooling_under_every_cut(
    which: str, seed: int, how: str, loss: str
) -> None:
    rng = np.random.default_rng(seed)
    network = randomly_biased(IMAGES[which](), rng)
    x = rng.standard_normal((19, network.inputs))  # Three blocks of samples, the last one short.
    count = network.outputs
    y = rng.integers(0, count, 19) if loss == "cross_entropy" else rng.standard_normal((19, count))
    found = in_pieces(network, loss, x, y, seed, how=how)
    check(network, found, expected(network, loss, x, y))


@pytest.fixture(scope="module")
def two_agents() -> Any:
    with LocalCluster(TWO_AGENTS) as cluster, Client(cluster.address) as client:
        yield client


@pytest.mark.parametrize("cut", ["balanced", "equal", "peak", "one-minus-utilization"])
@pytest.mark.parametrize("which", ["dense", "a whole network"])
def test_whole_networks_on_a_cluster(two_agents: Client, which: str, cut: Any) -> None:
    rng = np.random.default_rng(7)
    network = dense("gelu", rng) if which == "dense" else IMAGES[which]()
    x, y = rng.standard_normal((150, network.inputs)), rng.integers(0, 3, 150)
    found = two_agents.gradients(network, x, y, cut=cut)
    assert np.isclose(
        found.loss, loss_of(network, "cross_entropy", list(network.parameters), x, y), rtol=1e-12
    )
    check(network, list(found.parameters), expected(network, "cross_entropy", x, y))
    assert [one.shape for one in found.parameters] == [one.shape for one in network.parameters]
