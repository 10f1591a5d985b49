"""Epochs that devices share: one device's steps whatever the parts, and alike everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_descents import SMALL, by_hand, epoch, operands

from deadheat.runtime import descending, descents
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Dense, Descent, LayerFunction, Loss
from deadheat.runtime.shared_descending import Part, SharedPass

Array = np.ndarray[Any, Any]


def cuts(columns: int, parameters: int, weights: list[float]) -> list[tuple[int, int]]:
    """Columns of a state in parts; behind the parameters it is not cut."""
    edges = [int(parameters * at) for at in np.cumsum([0.0, *weights]) / sum(weights)]
    edges[-1] = columns
    return list(pairwise(edges))


def work_until_given(made: SharedPass) -> float:
    """Works all that can be without the others; returns the flops."""
    flops = 0.0
    while made.pieces:
        for piece in made.pieces:
            made.do(piece)
            flops += piece.flops
        made.proceed()
    return flops


def shared_epoch(
    kind: Descent,
    parts: list[Array],
    edges: list[tuple[int, int]],
    threads: int = 1,
    look: Callable[[Array, list[SharedPass]], None] = lambda total, members: None,
) -> tuple[Array, list[SharedPass]]:
    """By a device for each edge; the state that they have written, and what each has. At each step
    somebody may look at the sum of all gradients, before anybody moves by it."""
    x, y, order, state = parts
    given_parts = (x, y, order[kind.epoch : kind.epoch + 1], state)
    out, count = np.full_like(state, np.nan), descents.parameters(kind)
    members = []
    for start, stop in edges:
        part, total = Part(start, stop, count), np.empty(count, state.dtype)
        work = descending.Work.of(np, kind, x)
        own = np.full_like(state, np.nan)
        made = SharedPass(
            np, kind, given_parts, own, threads, work, part, out[:, start:stop], total
        )
        made.begin()
        members.append(made)
    flops = [0.0] * len(members)
    while not members[0].is_over:
        flops = [so_far + work_until_given(one) for so_far, one in zip(flops, members)]
        if members[0].is_over:
            break
        total = sum(one.work.gradient for one in members)
        given = [one.given for one in members]
        assert {one.step for one in given if one} == {members[0].steps}
        loss = sum(one.loss for one in given if one)
        look(total, members)
        for one in members:
            one.total[:] = total
            one.taken(loss)
            one.proceed()
    # Others may yet be sent it.
    assert all(np.array_equal(one.total, total, equal_nan=True) for one in members)
    for one, done in zip(members, flops):
        assert np.isclose(done, one.flops)
        one.record(1.5, 0.25, 0.125)
    return out, members


def check_state(made: Array, expected: Array, count: int, tolerance: float) -> None:
    """States after one epoch: parameters and loss up to rounding, and what else is recorded."""
    difference = np.abs(made[:, :count] - expected[:, :count]).max()
    assert difference <= tolerance * max(1.0, np.abs(expected[:, :count]).max())
    (ours,), (theirs,) = (descents.records(count, state) for state in (made, expected))
    assert np.isclose(ours[0], theirs[0], rtol=tolerance)
    assert ours[1:] == theirs[1:]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=2, max_size=4),
    function=st.sampled_from([LayerFunction.TANH, LayerFunction.GELU, LayerFunction.SIGMOID]),
    rows=st.integers(1, 300),
    batch=st.integers(1, 400),
    momentum=st.sampled_from([0.0, 0.9]),
    loss=st.sampled_from(list(Loss)),
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_it_comes_to_what_one_device_makes_whatever_the_parts(
    sizes: list[int],
    function: LayerFunction,
    rows: int,
    batch: int,
    momentum: float,
    loss: Loss,
    weights: list[float],
    threads: int,
    seed: int,
) -> None:
    layers: list[Dense | LayerFunction] = []
    for a, b in pairwise(sizes):
        layers += [Dense(a, b), function]
    kind = Descent(tuple(layers[:-1]), loss, max(batch, rows // 10), 0.05, momentum, 0, 1)
    parts = operands(kind, rows, seed=seed)
    count, columns = descents.parameters(kind), parts[3].shape[1]
    before = parts[3].copy()
    made, members = shared_epoch(kind, parts, cuts(columns, count, weights), threads)
    assert np.array_equal(parts[3], before)
    expected = epoch(kind, parts, threads)
    check_state(made, expected, count, 1e-12)
    for one in members:  # All have the same weights, to the last bit.
        assert np.array_equal(one.out[:, :count], made[:, :count])


def test_it_takes_numpys_steps() -> None:
    kind = replace(SMALL, batch_size=5)
    parts = operands(kind, 23)
    count = descents.parameters(kind)
    made, _ = shared_epoch(kind, parts, cuts(parts[3].shape[1], count, [0.15, 0.6, 0.25]))
    expected, mean = by_hand(kind, parts)
    assert np.abs(made[0, :count] - expected).max() <= 1e-13
    assert np.isclose(descents.records(count, made)[0][0], mean)


@given(
    count=st.integers(0, 5000),
    parameters=st.integers(5, 10_000),
    weights=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=9),
)
def test_each_row_of_a_batch_has_one_part(
    count: int, parameters: int, weights: list[float]
) -> None:
    edges = cuts(parameters + 40, parameters, weights)
    rows = [Part(start, stop, parameters).rows(count) for start, stop in edges]
    assert [first for first, _ in rows] == [0, *(last for _, last in rows[:-1])]
    assert rows[-1][1] == count


def test_all_stop_at_the_same_step_where_the_loss_runs_away() -> None:
    kind = replace(SMALL, layers=(Dense(7, 3),), loss=Loss.MEAN_SQUARES, learning_rate=1e200)
    parts = operands(kind, 23)
    with np.errstate(all="ignore"):
        with pytest.raises(InvalidInput, match="the loss is inf in step 2 of epoch 1") as alone:
            epoch(kind, parts)
        with pytest.raises(InvalidInput) as together:
            shared_epoch(kind, parts, cuts(parts[3].shape[1], 24, [0.5, 0.5]))
    assert together.value.message == alone.value.message
