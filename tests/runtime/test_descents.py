"""Epochs: the same steps whatever the cuts, states to go on from, and what is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadheat.runtime import descending, descents
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import Dense, Descent, LayerFunction, Loss, Operation
from deadheat.runtime.rectangles import MatrixType
from deadheat.runtime.rules import needed_blocks, result_type, work_flops
from deadheat.runtime.wire_operations import operation_from_wire, operation_to_wire

Array = np.ndarray[Any, Any]

SMALL = Descent(
    (Dense(7, 5), LayerFunction.TANH, Dense(5, 3, bias=False)),
    Loss.CROSS_ENTROPY,
    batch_size=4,
    learning_rate=0.1,
    momentum=0.5,
    epoch=0,
    epochs=2,
)


def operands(kind: Descent, rows: int, dtype: str = "float64", seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    inputs = next(one.inputs for one in kind.layers if not isinstance(one, LayerFunction))
    x = rng.standard_normal((rows, inputs)).astype(dtype)
    outputs = descents.outputs(kind)
    y: Array = rng.integers(0, outputs, (rows, 1))
    if kind.loss is Loss.MEAN_SQUARES:
        y = rng.standard_normal((rows, outputs)).astype(dtype)
    order = np.array([rng.permutation(rows) for _ in range(kind.epochs)], descents.ORDER_DTYPE)
    matrix = descents.state_type(kind, dtype)
    state = np.zeros((matrix.rows, matrix.columns), dtype)
    count = descents.parameters(kind)
    state[0, :count] = rng.uniform(-0.3, 0.3, count)
    return [x, y, order, state]


def epoch(
    kind: Descent, parts: list[Array], threads: int = 1, shuffled: int | None = None
) -> Array:
    """The state behind an epoch; the pieces of each phase may come in any order."""
    x, y, order, state = parts
    row = order[kind.epoch : kind.epoch + 1]
    out = np.full_like(state, np.nan)
    work = descending.Work.of(np, kind, x)
    made = descending.Pass(np, kind, (x, y, row, state), out, threads, work)
    made.begin()
    flops = 0.0
    while made.pieces:
        pieces = list(made.pieces)
        if shuffled is not None:
            random.Random(shuffled).shuffle(pieces)
        for piece in pieces:
            made.do(piece)
            flops += piece.flops
        made.proceed()
    made.record(1.5, 0.25, 0.125)
    assert np.isclose(flops, made.flops)
    return out


def by_hand(kind: Descent, parts: list[Array]) -> tuple[Array, float]:
    """One epoch of tanh layers in plain NumPy: parameters, and the mean loss."""
    x, y, order, state = parts
    weights = [
        (
            state[0, at : at + one.inputs * one.outputs].reshape(one.weight).copy(),
            state[0, bias : bias + one.outputs].copy() if one.bias else None,
        )
        for one, at, bias in descents.places(kind)
    ]
    velocity: list[Any] = [[0.0, 0.0] for _ in weights]
    total = 0.0
    for start in range(0, len(x), kind.batch_size):
        rows = order[kind.epoch, start : start + kind.batch_size]
        came = [x[rows]]
        for number, (weight, bias) in enumerate(weights):
            z = came[-1] @ weight
            z = z if bias is None else z + bias
            came.append(np.tanh(z) if number < len(weights) - 1 else z)
        if kind.loss is Loss.CROSS_ENTROPY:
            e = np.exp(came[-1] - came[-1].max(axis=1, keepdims=True))
            g = e / e.sum(axis=1, keepdims=True)
            total -= float(np.log(g[np.arange(len(rows)), y[rows, 0]]).sum())
            g[np.arange(len(rows)), y[rows, 0]] -= 1
            g /= len(rows)
        else:
            g = came[-1] - y[rows]
            total += float((g**2).mean()) * len(rows)
            g *= 2 / g.size
        for number in range(len(weights) - 1, -1, -1):
            weight, bias = weights[number]
            back = g @ weight.T
            for which, array in enumerate((weight, bias)):
                if array is None:
                    continue
                gradient = g.sum(axis=0) if which else came[number].T @ g
                v = velocity[number][which] = kind.momentum * velocity[number][which] + gradient
                np.subtract(array, kind.learning_rate * v, out=array)
            g = back * (1 - came[number] ** 2) if number else back
    flat = [array.ravel() for pair in weights for array in pair if array is not None]
    return np.concatenate(flat), total / len(x)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 150), min_size=2, max_size=4),
    rows=st.integers(1, 700),
    batch=st.integers(1, 800),
    momentum=st.sampled_from([0.0, 0.9]),
    loss=st.sampled_from(list(Loss)),
    biases=st.integers(0, 15),
    threads=st.integers(1, 5),
    order=st.integers(0, 99),
)
def test_an_epoch_is_numpys_whatever_the_cuts_and_their_order(
    sizes: list[int],
    rows: int,
    batch: int,
    momentum: float,
    loss: Loss,
    biases: int,
    threads: int,
    order: int,
) -> None:
    layers: list[Dense | LayerFunction] = []
    for number, (a, b) in enumerate(pairwise(sizes)):
        layers += [Dense(a, b, bool(biases >> number & 1)), LayerFunction.TANH]
    kind = Descent(tuple(layers[:-1]), loss, max(batch, rows // 20), 0.05, momentum, 0, 1)
    parts = operands(kind, rows, seed=order)
    before = parts[3].copy()
    made = epoch(kind, parts, threads, shuffled=order)
    assert np.array_equal(parts[3], before)
    expected, mean = by_hand(kind, parts)
    count = descents.parameters(kind)
    assert np.abs(made[0, :count] - expected).max() <= 1e-11 * max(1.0, np.abs(expected).max())
    (record,) = descents.records(count, made)
    assert np.isclose(record[0], mean, rtol=1e-10)
    steps = -(-rows // kind.batch_size)
    assert record[1:] == (1.5, float(steps), 0.25, 0.125)
    # To the last bit: neither the order of pieces nor chance decides anything.
    assert np.array_equal(made, epoch(kind, parts, threads, shuffled=order + 1), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_is_all_that_the_next_epoch_needs(dtype: str) -> None:
    parts = operands(SMALL, 10, dtype)
    middle = epoch(SMALL, parts)
    second = replace(SMALL, epoch=1)
    end = epoch(second, [*parts[:3], middle])
    first, last = descents.records(descents.parameters(SMALL), end)
    assert first == descents.records(descents.parameters(SMALL), middle)[0]
    assert last[0] != first[0]
    assert (end[1] != middle[1])[: descents.parameters(SMALL)].all()  # The velocities go on.


def test_an_operation_travels_as_it_is() -> None:
    kind = replace(SMALL, layers=(*SMALL.layers, *LayerFunction), loss=Loss.MEAN_SQUARES, epoch=1)
    operation = Operation("s2", ("X", "y", "order", "s1"), kind)
    assert operation_from_wire(operation_to_wire(operation)) == operation


def types(kind: Descent = SMALL, rows: int = 10) -> dict[str, MatrixType]:
    names = ("X", "y", "order", "s0")
    arrays = operands(kind, rows)
    return {n: MatrixType(*a.shape, a.dtype.name) for n, a in zip(names, arrays)}  # type: ignore[call-arg]


def test_only_this_epochs_order_is_read() -> None:
    known = types()
    operation = Operation("s2", tuple(known), replace(SMALL, epoch=1))
    known["s2"] = result_type(operation, known)
    blocks = dict(needed_blocks(operation, known, known["s2"].whole()))
    assert (blocks["order"].row_start, blocks["order"].row_stop) == (1, 2)
    assert blocks["X"] == known["X"].whole()
    # 3 steps of at most 4 rows: two ways through the first layer, three through the second.
    assert work_flops(operation, known) == 3 * 2 * 4 * (2 * 35 + 3 * 15)


@pytest.mark.parametrize(
    ("changed", "other", "message"),
    [
        ({"epoch": 2}, {}, "epoch 2 of 2; there may be 1 to 10000"),
        ({"batch_size": 0}, {}, "batch_size is 0"),
        ({"learning_rate": float("inf")}, {}, "learning_rate is inf"),
        ({"momentum": 1.0}, {}, "momentum is 1.0"),
        ({"layers": ()}, {}, "there are 0 layers"),
        ({"layers": (Dense(6, 3),)}, {}, "layer 0 is 6 x 3, but what comes to it has 7 columns"),
        ({"momentum": 0.0}, {}, "'s0' is 2 x 65 float64; for this training it must be 1 x 65"),
        ({}, {"y": MatrixType(10, 2, "int64")}, "'y' is 10 x 2 int64; for this training it must"),
        ({}, {"order": MatrixType(2, 9, "uint32")}, "'order' is 2 x 9 uint32"),
        ({}, {"X": MatrixType(10, 7, "float16")}, "samples are float16; float32 and float64 train"),
        ({}, {"X": MatrixType(0, 7, "float64")}, "there are no samples"),
        (
            {"batch_size": 1 << 40},
            {"X": MatrixType(1 << 30, 7, "float64")},
            "makes 1975.* bytes; the limit is 8589934592, so take a smaller batch_size",
        ),
    ],
)
def test_operands_that_do_not_fit_are_refused(
    changed: dict[str, Any], other: dict[str, MatrixType], message: str
) -> None:
    known = {**types(), **other}
    with pytest.raises(InvalidInput, match=message):
        result_type(Operation("s1", tuple(types()), replace(SMALL, **changed)), known)


def test_values_that_name_nothing_are_refused_before_anything_is_read() -> None:
    for index, value, message in (
        (1, 3, "label 3 is out of"),
        (1, -1, "label -1"),
        (2, 10, "sample 10"),
    ):
        parts = operands(SMALL, 10)
        parts[index][0, 0] = value
        with pytest.raises(InvalidInput, match=message):
            epoch(SMALL, parts)


def test_a_loss_that_is_none_says_where() -> None:
    parts = operands(SMALL, 10)
    parts[0][parts[2][0, 5]] = np.nan
    with (
        np.errstate(all="ignore"),
        pytest.raises(InvalidInput, match="nan in step 2 of epoch 1: lea"),
    ):
        epoch(SMALL, parts)
    # One step, whose loss is as it was before it.
    kind = replace(SMALL, learning_rate=1e308, momentum=0.0, loss=Loss.MEAN_SQUARES)
    parts = operands(kind, 3)
    parts[1] *= 1e10
    with np.errstate(all="ignore"), pytest.raises(InvalidInput, match="not finite after epoch 1"):
        epoch(kind, parts)
