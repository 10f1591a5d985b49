"""Epochs of images: the same steps whatever the cuts and the parts, and descriptions refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_convolving import windows
from tests.runtime.test_descents import epoch, operands
from tests.runtime.test_shared_descents import check_state, cuts, shared_epoch

from deadheat.runtime import convolving_kernels, descending, descents
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import (
    Convolution,
    Dense,
    Descent,
    LayerFunction,
    Loss,
    Operation,
    TrainedLayer,
)
from deadheat.runtime.rectangles import MatrixType
from deadheat.runtime.rules import result_type, work_flops, work_shape
from deadheat.runtime.windows import PoolFunction, Pooling, Window
from deadheat.runtime.wire_operations import operation_from_wire, operation_to_wire
from deadheat.v1 import types_pb2 as pb

#: Without derivatives that jump: where they do, rounding decides.
SMOOTH = (LayerFunction.TANH, LayerFunction.GELU, LayerFunction.SIGMOID)
WINDOW = Window(2, 6, 5, (3, 2), (1, 1), (1, 0))
POOLED = Window(3, 6, 4, (2, 2), (2, 2))
#: With a border that is larger than all memory; the result is not.
BORDERED = Window(2, 6, 5, (1, 1), (1 << 30, 1 << 30), (1 << 30, 1 << 30))
IMAGES = Descent(
    (
        Convolution(WINDOW, 3),
        LayerFunction.TANH,
        Pooling(POOLED, PoolFunction.MAX),
        Dense(18, 4),
    ),
    Loss.CROSS_ENTROPY,
    batch_size=4,
    learning_rate=0.1,
    momentum=0.5,
    epoch=0,
    epochs=2,
)


@st.composite
def networks(draw: st.DrawFn) -> tuple[TrainedLayer, ...]:
    """Some layers for images, among them a convolution, and perhaps a dense one behind them."""
    window = draw(windows())
    layers: list[TrainedLayer] = []
    if draw(st.booleans()):
        layers.append(draw(st.sampled_from(SMOOTH)))
    if draw(st.booleans()):
        layers.append(Pooling(window, PoolFunction.MEAN))
        window = Window(window.channels, window.out_height, window.out_width, (1, 1))
    channels = draw(st.integers(1, 4))
    layers.append(Convolution(window, channels, draw(st.booleans())))
    height, width = window.out_height, window.out_width
    for _ in range(draw(st.integers(0, 3))):
        kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
        padding = (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        window = Window(channels, height, width, kernel, stride, padding)
        match draw(st.sampled_from(["convolution", "pooling", "function"])):
            case "convolution":
                channels = draw(st.integers(1, 4))
                layers.append(Convolution(window, channels, draw(st.booleans())))
            case "pooling":
                layers.append(Pooling(window, draw(st.sampled_from(list(PoolFunction)))))
            case _:
                layers.append(draw(st.sampled_from(SMOOTH)))
                continue
        height, width = window.out_height, window.out_width
    if draw(st.booleans()):
        layers.append(Dense(channels * height * width, draw(st.integers(1, 5))))
    return tuple(layers)


@settings(deadline=None, max_examples=100)
@given(
    layers=networks(),
    rows=st.integers(1, 40),
    batch=st.integers(1, 50),
    momentum=st.sampled_from([0.0, 0.9]),
    loss=st.sampled_from(list(Loss)),
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4),
    threads=st.integers(1, 4),
    is_narrow=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_comes_to_what_one_thread_makes_whatever_the_cuts_and_the_parts(
    layers: tuple[TrainedLayer, ...],
    rows: int,
    batch: int,
    momentum: float,
    loss: Loss,
    weights: list[float],
    threads: int,
    is_narrow: bool,
    seed: int,
) -> None:
    kind = Descent(layers, loss, max(batch, rows // 8), 0.05, momentum, 0, 1)
    parts = operands(kind, rows, seed=seed)
    before, laid_out = parts[3].copy(), convolving_kernels.LAID_OUT_BYTES
    expected = epoch(kind, parts)
    count, columns = descents.parameters(kind), parts[3].shape[1]
    weights = weights[: max(1, count)]
    # So little that a sample's windows are laid out in parts.
    convolving_kernels.LAID_OUT_BYTES = 256 if is_narrow else laid_out  # type: ignore[misc]
    try:
        found = epoch(kind, parts, threads, shuffled=seed)
        again = epoch(kind, parts, threads, shuffled=seed + 1)
        shared, _ = shared_epoch(kind, parts, cuts(columns, count, weights), threads)
    finally:
        convolving_kernels.LAID_OUT_BYTES = laid_out  # type: ignore[misc]
    assert np.array_equal(parts[3], before)
    assert np.array_equal(found, again, equal_nan=True)
    for made in (found, shared):
        check_state(made, expected, count, 1e-11)


def types(kind: Descent = IMAGES, rows: int = 12) -> dict[str, MatrixType]:
    made = descents.state_type(kind, "float64")
    return {
        "X": MatrixType(rows, WINDOW.inputs, "float64"),
        "y": MatrixType(rows, 1, "int64"),
        "order": MatrixType(kind.epochs, rows, "uint32"),
        "s0": made,
    }


def test_what_is_worked_is_what_is_priced() -> None:
    known = types()
    operation = Operation("s1", tuple(known), IMAGES)
    known["s1"] = result_type(operation, known)
    parts = operands(IMAGES, 12)
    made = descending.Pass(
        np, IMAGES, parts, np.empty_like(parts[3]), 2, descending.Work.of(np, IMAGES, parts[0])
    )
    made.begin()
    assert made.flops == work_flops(operation, known)
    # Three products of a convolution's windows, but that of the samples' gradient; of the dense
    # layer all. Then what is added: windows that are laid out twice, and pooling there and back.
    products = 2 * 4 * (2 * WINDOW.depth * 3 * WINDOW.places + 3 * 18 * 4)
    added = 4 * (2 * 6 * 2 * WINDOW.places + 18 * 4 * (2 + 18))
    assert work_shape(operation, known).flops == 3 * (products + added)


def test_all_layers_travel_as_they_are() -> None:
    more = (*IMAGES.layers, Pooling(WINDOW, PoolFunction.MEAN), Convolution(WINDOW, 5, bias=False))
    operation = Operation("s2", ("X", "y", "order", "s1"), replace(IMAGES, layers=more))
    assert operation_from_wire(operation_to_wire(operation)) == operation


def test_layers_and_functions_of_newer_versions_are_refused() -> None:
    message = operation_to_wire(Operation("s1", ("X", "y", "order", "s0"), IMAGES))
    message.descent.layers[2].pooling.function = 77  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="pool function 77 is unknown"):
        operation_from_wire(message)
    message.descent.layers[2].CopyFrom(pb.TrainedLayer())
    with pytest.raises(InvalidInput, match="a layer is of a kind this version does not know"):
        operation_from_wire(message)


def changed(number: int, layer: Any) -> Descent:
    layers = list(IMAGES.layers)
    layers[number] = layer
    return replace(IMAGES, layers=tuple(layers))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            changed(0, Convolution(replace(WINDOW, height=5), 3)),
            "'s1': layer 0 makes 3 channels of 2 x 5 x 5, but what comes to it has 60 columns",
        ),
        (changed(0, Convolution(WINDOW, 0)), "'s1': layer 0 makes 0 channels of 2 x 6 x 5"),
        (changed(0, Convolution(WINDOW, -3)), "'s1': layer 0 makes -3 channels"),
        (
            changed(0, Convolution(replace(WINDOW, kernel=(9, 2)), 3)),
            "'s1': layer 0: kernel 9 x 2 does not fit into an image of 6 x 5 with padding 1 x 0",
        ),
        (changed(0, Convolution(replace(WINDOW, stride=(0, 1)), 3)), "layer 0: stride is 0 x 1"),
        (
            changed(0, Convolution(replace(WINDOW, kernel=(1 << 10, 1 << 10)), 3)),
            "layer 0: kernel 1024 x 1024 has 1048576 elements; the limit is 65536",
        ),
        (
            changed(0, Convolution(WINDOW, 4)),
            "'s1': layer 2 takes 3 x 6 x 4, but what comes to it has 96 columns",
        ),
        (
            changed(2, Pooling(replace(POOLED, padding=(2, 0)), PoolFunction.MAX)),
            r"'s1': layer 2: padding \(2, 0\) must be less than the kernel, \(2, 2\)",
        ),
        (changed(3, Dense(17, 4)), "'s1': layer 3 is 17 x 4, but what comes to it has 18 columns"),
        (
            replace(IMAGES, layers=(Convolution(BORDERED, 1),), momentum=0.0),
            r"a step on 4 rows makes \d+ bytes; the limit is 8589934592",
        ),
        (replace(IMAGES, layers=(Pooling(WINDOW, PoolFunction.MEAN),)), "one with parameters"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(kind: Descent, message: str) -> None:
    known = types()
    with pytest.raises(InvalidInput, match=message):
        result_type(Operation("s1", tuple(known), kind), known)


def test_labels_are_those_of_the_last_layer_that_has_a_size() -> None:
    kind = replace(IMAGES, layers=(*IMAGES.layers[:3], LayerFunction.SIGMOID))
    parts = operands(kind, 8)
    parts[1][3, 0] = 18
    with pytest.raises(InvalidInput, match="label 18 is out of range; labels go from 0 to 17"):
        epoch(kind, parts)


def test_a_part_without_rows_has_a_gradient_of_nothing() -> None:
    parts = operands(IMAGES, 5)
    count = descents.parameters(IMAGES)
    seen = list[bool]()

    def look(_: Any, members: list[Any]) -> None:
        seen.append(bool(members[0].work.gradient.any()))

    # Of the second batch, of one row, the first device has none.
    shared_epoch(IMAGES, parts, [(0, count - 2), (count - 2, parts[3].shape[1])], look=look)
    assert seen == [True, False]
