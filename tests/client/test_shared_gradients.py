"""Gradients that devices make together are those of the autograd package, to rounding, however
unequal their parts of a batch are, and move parameters as one device alone would.

In epochs each device works a part of every batch's rows. Where a training is shared step by step, a
step's operations are cut into the devices' rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.client.test_gradients import (
    FUNCTIONS,
    IMAGES,
    LIMIT,
    Array,
    check,
    expected,
    loss_of,
    randomly_biased,
)
from tests.client.test_lazy import HERE
from tests.runtime.test_descents import epoch
from tests.runtime.test_shared_descents import shared_epoch

from deadheat.client import nn
from deadheat.client.epochs import assign
from deadheat.client.lazy import Lazy
from deadheat.client.lowering import lower
from deadheat.client.nn.descent import Far, Rule
from deadheat.client.nn.losses import LOSSES
from deadheat.client.nn.parameters import matrix_of
from deadheat.client.nn.passes import backward, forward
from deadheat.client.nn.states import descent_of, orders, packed, unpacked
from deadheat.client.ordering import without_chains
from deadheat.runtime import descents
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.operations import Operation
from deadheat.runtime.rectangles import Rectangle
from deadheat.runtime.shared_descending import Part, SharedPass
from deadheat.scheduler.planner.joining import joined, segments

RATE: Final = 0.05
#: Rows of a batch that each device works: some none, some one.
SHARES: Final = st.lists(st.integers(0, 5), min_size=2, max_size=5).filter(any)


def mlp(activation: Any, rng: np.random.Generator, *, bias: bool = True) -> nn.Sequential:
    options: dict[str, Any] = {"bias": bias, "dtype": "float64", "seed": rng}
    made = nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 9, **options),
        activation,
        nn.Linear(9, 7, **options),
        activation,
        nn.Linear(7, 3, dtype="float64", seed=rng),
    )
    return randomly_biased(made, rng)


def columns(shares: list[int], count: int, width: int) -> list[tuple[int, int]]:
    """The parts of a state whose devices work so many rows each of a whole batch."""
    batch, edges = sum(shares), [0]
    for row in accumulate(shares):
        edges.append(max(edges[-1] + 1, -(-row * count // batch)))
    edges[-1] = width
    made = list(pairwise(edges))
    rows = [Part(*edge, count).rows(batch) for edge in made]
    if count >= batch * len(shares):  # Else some cannot have as few as they are to.
        assert [stop - start for start, stop in rows] == shares
    return made


def targets(rng: np.random.Generator, loss: str, rows: int, outputs: int) -> Array:
    labels: Array = rng.integers(0, outputs, rows)
    return labels if loss == "cross_entropy" else rng.standard_normal((rows, outputs))


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("activation", list(FUNCTIONS))
@settings(max_examples=15, deadline=None)
@given(
    shares=SHARES,
    batches=st.integers(0, 2),
    rest=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.9]),
    bias=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
@example(shares=[1, 5], batches=1, rest=1, momentum=0.9, bias=True, threads=1, seed=1)
@example(shares=[5, 1, 5], batches=2, rest=1, momentum=0.0, bias=False, threads=2, seed=2)
@example(shares=[0, 4, 0, 1], batches=1, rest=2, momentum=0.9, bias=True, threads=1, seed=3)
def test_an_epoch_that_devices_share(
    activation: str,
    loss: Any,
    shares: list[int],
    batches: int,
    rest: int,
    momentum: float,
    bias: bool,
    threads: int,
    seed: int,
) -> None:
    """Of the last batch, which is smaller, some have no row."""
    rng = np.random.default_rng(seed)
    network = mlp(activation, rng, bias=bias)
    batch = sum(shares)
    rows = batches * batch + min(rest, batch)
    check_shared(network, loss, shares, rows, momentum, threads, rng)


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("which", list(IMAGES))
@settings(max_examples=15, deadline=None)
@given(
    shares=SHARES,
    batches=st.integers(0, 2),
    rest=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.9]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
@example(shares=[1, 5], batches=1, rest=1, momentum=0.9, threads=2, seed=1)
@example(shares=[0, 4, 0, 1], batches=1, rest=2, momentum=0.9, threads=1, seed=3)
def test_an_epoch_of_images_that_devices_share(
    which: str,
    loss: Any,
    shares: list[int],
    batches: int,
    rest: int,
    momentum: float,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    network = randomly_biased(IMAGES[which](), rng)
    rows = batches * sum(shares) + min(rest, sum(shares))
    check_shared(network, loss, shares, rows, momentum, threads, rng)


def check_shared(
    network: nn.Sequential,
    loss: Any,
    shares: list[int],
    rows: int,
    momentum: float,
    threads: int,
    rng: np.random.Generator,
) -> None:
    """An epoch on random samples: at each step the sum of all gradients is autograd's."""
    batch = sum(shares)
    kind = descent_of(network, loss, Rule(RATE, momentum), epochs=1, batch_size=batch)
    x = rng.standard_normal((rows, network.inputs))
    y = targets(rng, loss, rows, network.outputs)
    order, state = orders(rng, 1, rows), packed(network, kind)
    parts = [x, y.reshape(rows, -1), order, state]
    count, step = descents.parameters(kind), 0

    def look(total: Array, members: list[SharedPass]) -> None:
        nonlocal step
        chosen = order[0, step * batch : (step + 1) * batch]
        # The first step moves from the state before, and is the first to write.
        states = [one.out if step else state for one in members]
        for one in states:
            assert np.array_equal(one[:, :count], states[0][:, :count])
        assign(network, unpacked(network, states[0]))
        gradients = list(unpacked(network, total.reshape(1, -1)))
        check(network, gradients, expected(network, loss, x[chosen], y[chosen]))
        step += 1

    edges = columns(shares, count, state.shape[1])
    found, _ = shared_epoch(kind, parts, edges, threads, look)
    assert step == -(-rows // batch)
    alone = epoch(kind, parts, threads)
    for row, right in zip(found[:, :count], alone[:, :count], strict=True):
        assert np.abs(row - right).max() <= LIMIT * np.abs(right).max()
    ours, theirs = (descents.records(count, one)[0][0] for one in (found, alone))
    assert np.isclose(ours, theirs, rtol=LIMIT)


def by_rows(shares: list[int]) -> Any:
    """Each result cut into as many blocks of rows as there are devices, of these shares."""

    def cuts(operation: Operation, whole: Rectangle) -> Iterable[Rectangle]:
        del operation
        edges = [0, *accumulate(shares)]
        stops = [whole.rows * edge // edges[-1] for edge in edges]
        return [whole.with_rows(start, stop) for start, stop in pairwise(stops)]

    return cuts


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("which", list(IMAGES))
@settings(max_examples=12, deadline=None)
@given(
    shares=SHARES,
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 2**32),
    in_segments=st.booleans(),
)
@example(shares=[1, 5], momentum=0.9, seed=1, in_segments=True)
@example(shares=[5, 0, 1], momentum=0.9, seed=2, in_segments=False)
def test_a_step_of_images_that_devices_share(
    which: str, loss: Any, shares: list[int], momentum: float, seed: int, *, in_segments: bool
) -> None:
    rng = np.random.default_rng(seed)
    network = randomly_biased(IMAGES[which](), rng)
    rows = sum(shares)
    assume(rows > 1)
    x = rng.standard_normal((rows, network.inputs))
    y = targets(rng, loss, rows, network.outputs)
    chosen, rule = LOSSES[loss], Rule(RATE, momentum)
    velocities = [rng.standard_normal(array.shape) for array in network.parameters]
    # Whatever their size, as if they were too large to travel with each job.
    far = [_far(array, rule, v) for array, v in zip(network.parameters, velocities)]
    steps = forward(network, HERE.put(x.reshape(rows, -1)), [one.value for one in far])
    goal = HERE.put(chosen.goal(chosen.targets(network, y, rows), network))
    gradients = backward(steps, chosen.gradient(steps[-1].after, goal))
    moved = [one.wanted(gradient)[0] for one, gradient in zip(far, gradients, strict=True)]
    found = _made([*gradients, *moved], shares, in_segments=in_segments)
    count = len(gradients)
    right = expected(network, loss, x, y)
    check(network, found[:count], right)
    for array, v, g, new in zip(network.parameters, velocities, right, found[count:], strict=True):
        move = v * momentum + g if momentum else g
        wanted = array - RATE * move
        assert np.abs(new.reshape(array.shape) - wanted).max() <= LIMIT * np.abs(wanted).max()
    assert np.isfinite(loss_of(network, loss, list(network.parameters), x, y))


def _far(array: Array, rule: Rule, velocity: Array) -> Far:
    made = Far(HERE.put(matrix_of(array)), rule)
    if rule.momentum:
        made.take(iter([made.value, HERE.put(matrix_of(velocity))]))
    return made


def _made(wanted: list[Lazy], shares: list[int], *, in_segments: bool) -> list[Array]:
    lowered = lower([one.node for one in wanted])
    assert lowered.program is not None
    program = without_chains(lowered.program)
    if in_segments:
        program = joined(program, segments(program))
    operands = {name: held.array for name, held in lowered.held.items()}
    found = evaluate(np, program, operands, by_rows(shares))
    return [found[name] for name in lowered.outputs]
