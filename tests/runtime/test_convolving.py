"""Convolutions and pooling: what plain loops make of them, in whatever pieces; their adjoints are
told by inner products, <f(x), g> = <x, f*(g)>, for any x and g."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_elementwise import made, program

from deadheat.runtime import convolving_kernels, wire
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import (
    Kind,
    MatrixType,
    Operand,
    Operation,
    Program,
    Rectangle,
    Segment,
    needed_blocks,
    read_by_rows,
)
from deadheat.runtime.windows import (
    MAX_WINDOW,
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
)
from deadheat.scheduler.planner.joining import joined, segments

Array = np.ndarray[Any, Any]


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, side - 1)) for side in kernel)
    height = draw(st.integers(max(1, kernel[0] - 2 * padding[0]), 8))
    width = draw(st.integers(max(1, kernel[1] - 2 * padding[1]), 7))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return Window(draw(st.integers(1, 3)), height, width, kernel, stride, (padding[0], padding[1]))


def looked_at(window: Window, x: Array, fill: float) -> Array:
    """n x channels x out height x out width x kernel, by plain loops."""
    image = x.reshape(-1, window.channels, window.height, window.width)
    (p, q), (s, t), (k, m) = window.padding, window.stride, window.kernel
    bordered = np.pad(image, ((0, 0), (0, 0), (p, p), (q, q)), constant_values=fill)
    found = np.empty((*image.shape[:2], window.out_height, window.out_width, k, m))
    for i in range(window.out_height):
        for j in range(window.out_width):
            found[:, :, i, j] = bordered[:, :, i * s : i * s + k, j * t : j * t + m]
    return found


def convolved(window: Window, x: Array, w: Array, bias: Array | None = None) -> Array:
    weights = w.reshape(-1, window.channels, *window.kernel)
    found = np.einsum("ncijkm,ockm->noij", looked_at(window, x, 0), weights)
    found = found if bias is None else found + bias.reshape(1, -1, 1, 1)
    made: Array = found.reshape(len(x), -1)
    return made


@settings(max_examples=150)
@given(
    windows(),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 2**32),
    st.booleans(),
    st.floats(0, 1),
)
def test_a_convolution_and_its_adjoints(
    window: Window, rows: int, outputs: int, seed: int, is_narrow: bool, cut: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, window.inputs))
    w = rng.standard_normal((1, outputs * window.depth))
    bias = rng.standard_normal((1, outputs))
    g = rng.standard_normal((rows, outputs * window.places))
    before = convolving_kernels.LAID_OUT_BYTES
    # So little that a sample's windows are laid out in parts.
    convolving_kernels.LAID_OUT_BYTES = 256 if is_narrow else before  # type: ignore[misc]
    try:
        y = made(Convolve(window), x, w)
        assert np.allclose(y, convolved(window, x, w), rtol=1e-12, atol=1e-12)
        biased = made(Convolve(window), x, w, bias)
        assert np.allclose(biased, convolved(window, x, w, bias), rtol=1e-12, atol=1e-12)
        back = made(ConvolveBack(window), g, w)
        parts = made(ConvolveWeights(window, 4), x, g)
        more = made(ConvolveWeights(window, 4, bias=True), x, g)
        whole = np.full((window.depth, outputs), np.nan)
        at = int((window.depth - 1) * cut)
        for start, stop in {(0, at or window.depth), (at, window.depth)}:
            convolving_kernels.weight_rows(np, window, x, g, start, stop, whole[start:stop])
    finally:
        convolving_kernels.LAID_OUT_BYTES = before  # type: ignore[misc]
    assert parts.shape[0] == -(-rows // 4)
    assert np.array_equal(more[:, : parts.shape[1]], parts)
    sums = g.reshape(rows, outputs, -1).sum(axis=(0, 2))
    assert np.allclose(more[:, parts.shape[1] :].sum(axis=0), sums, rtol=1e-10, atol=1e-12)
    total = parts.sum(axis=0).reshape(outputs, window.depth)
    assert np.allclose(whole.T, total, rtol=1e-10, atol=1e-12)
    inner = np.vdot(y, g)
    assert np.isclose(inner, np.vdot(x, back), rtol=1e-10, atol=1e-10)
    assert np.isclose(inner, np.vdot(w, parts.sum(axis=0)), rtol=1e-10, atol=1e-10)


@settings(max_examples=150)
@given(windows(), st.integers(1, 9), st.integers(0, 2**32))
def test_pooling_and_its_adjoints(window: Window, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, window.inputs))
    g = rng.standard_normal((rows, window.channels * window.places))
    means = looked_at(window, x, 0).mean(axis=(4, 5)).reshape(rows, -1)
    assert np.allclose(made(Pooling(window, PoolFunction.MEAN), x), means, rtol=1e-12, atol=1e-12)
    back = made(PoolingBack(window, PoolFunction.MEAN), g)
    assert np.isclose(np.vdot(means, g), np.vdot(x, back), rtol=1e-10, atol=1e-10)
    largest = looked_at(window, x, -np.inf).max(axis=(4, 5)).reshape(rows, -1)
    assert np.array_equal(made(Pooling(window, PoolFunction.MAX), x), largest)
    # Where no two elements are equal, the maximum is linear around x.
    back = made(PoolingBack(window, PoolFunction.MAX), x, g)
    assert np.isclose(np.vdot(largest, g), np.vdot(x, back), rtol=1e-10, atol=1e-10)


def test_the_first_of_equal_elements_has_the_gradient_and_nan_is_the_largest() -> None:
    window = Window(1, 2, 2, (2, 2))
    x = np.array([[1.0, 3, 3, 2], [1, np.nan, 5, np.nan]])
    g = np.array([[7.0], [9.0]])
    found = evaluate(np, program(PoolingBack(window, PoolFunction.MAX), x, g), {"x0": x, "x1": g})[
        "y"
    ]
    assert found.tolist() == [[0, 7, 0, 0], [0, 9, 0, 0]]
    y = evaluate(np, program(Pooling(window, PoolFunction.MAX), x), {"x0": x})["y"]
    assert y[0, 0] == 3
    assert np.isnan(y[1, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_short_floats_are_summed_in_float32_and_rounded_once(dtype: str) -> None:
    rng = np.random.default_rng(3)
    window = Window(8, 9, 9, (3, 3), padding=(1, 1))
    x = rng.standard_normal((5, window.inputs)).astype(numpy_dtype(dtype))
    w = rng.standard_normal((1, 4 * window.depth)).astype(numpy_dtype(dtype))
    found = made(Convolve(window), x, w)
    expected = convolved(window, x.astype(float), w.astype(float))
    assert found.dtype == x.dtype
    eps = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-5}[dtype]
    assert (np.abs(found.astype(float) - expected) <= eps * np.abs(expected).max()).all()


WINDOW = Window(2, 5, 5, (3, 3), (2, 2), (1, 1))
KINDS: list[Kind] = [
    Convolve(WINDOW),
    ConvolveBack(WINDOW),
    ConvolveWeights(WINDOW, 7),
    ConvolveWeights(WINDOW, 7, bias=True),
    *(Pooling(WINDOW, function) for function in PoolFunction),
    *(PoolingBack(WINDOW, function) for function in PoolFunction),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kinds_survive_the_wire(kind: Kind) -> None:
    operation = Operation("y", ("a", "b"), kind)
    assert wire.operation_from_wire(wire.operation_to_wire(operation)) == operation


def network() -> Program:
    """Convolution, pooling, and a gradient back to the samples."""
    pooled = Window(3, 3, 3, (2, 2))
    types = {
        "x": MatrixType(40, WINDOW.inputs, "float64"),
        "w": MatrixType(1, 3 * WINDOW.depth, "float64"),
        "b": MatrixType(1, 3, "float64"),
    }
    operations = (
        Operation("c", ("x", "w", "b"), Convolve(WINDOW)),
        Operation("p", ("c",), Pooling(pooled, PoolFunction.MAX)),
        Operation("q", ("c", "p"), PoolingBack(pooled, PoolFunction.MAX)),
        Operation("y", ("q", "w"), ConvolveBack(WINDOW)),
    )
    operands = tuple(Operand(name, matrix, name) for name, matrix in types.items())
    return Program(operands, operations, ("y",))


def test_they_are_one_segment_that_needs_its_rows_and_all_weights() -> None:
    whole = network()
    (found,) = segments(whole)
    assert found == (0, 1, 2, 3)
    one = joined(whole, [found])
    (operation,) = one.operations
    assert isinstance(operation.kind, Segment)
    assert read_by_rows(operation, one.types) == (True, False, False)
    needed = dict(needed_blocks(operation, one.types, Rectangle(10, 12, 3, 4)))
    assert needed["x"] == Rectangle(10, 12, 0, WINDOW.inputs)
    assert needed["w"] == one.types["w"].whole()
    assert wire.operation_from_wire(wire.operation_to_wire(operation)) == operation
    shape = one.shape_of(operation)
    assert all(not part.parts for part in shape.parts)
    assert np.isclose(shape.flops, whole.flops)
    rng = np.random.default_rng(5)
    given = {name: rng.standard_normal((m.rows, m.columns)) for name, m in whole.types.items()}
    given = {name: given[name] for name in whole.sources}
    apart = evaluate(np, whole, given)["y"]
    rows = evaluate(np, one, given, lambda _, r: [r.with_rows(0, 7), r.with_rows(7, 40)])["y"]
    assert np.array_equal(apart, rows)


def test_the_work_is_that_of_the_products() -> None:
    program_ = network()
    convolution = program_.operations[0]
    product, laid_out = program_.shape_of(convolution).parts
    assert product.flops == 2 * 40 * WINDOW.depth * 3 * WINDOW.places
    assert laid_out.flops == 40 * WINDOW.depth * WINDOW.places


def big(kernel: tuple[int, int] = (3, 3), **changed: Any) -> Window:
    return replace(WINDOW, kernel=kernel, **changed)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Convolve(WINDOW), [(4, 49), (1, 18)], "'x0' has 49 columns; it must have 50"),
        (Convolve(WINDOW), [(4, 50), (1, 17)], "one row of a multiple of 18"),
        (Convolve(WINDOW), [(4, 50), (2, 18)], "one row of a multiple of 18"),
        (Convolve(WINDOW), [(4, 50), (1, 36), (1, 3)], "'x2' is 1 x 3; it must be 1 x 2"),
        (Convolve(WINDOW), [(4, 50)], "convolve has 2 or 3 operands, not 1"),
        (ConvolveBack(WINDOW), [(4, 50), (1, 18)], "'x0' has 50 columns; it must have 9"),
        (ConvolveWeights(WINDOW, 0), [(4, 50), (4, 9)], "block is 0"),
        (ConvolveWeights(WINDOW, 2), [(4, 50), (3, 9)], "4 rows and 'x1' 3; they must be equal"),
        (ConvolveWeights(WINDOW, 2), [(4, 50), (4, 8)], "no multiple of 9 places"),
        (Pooling(WINDOW, PoolFunction.MAX), [(4, 49)], "'x0' has 49 columns"),
        (Pooling(big((1, 1)), PoolFunction.MAX), [(4, 50)], "must be less than the kernel"),
        (PoolingBack(WINDOW, PoolFunction.MAX), [(4, 50)], "poolingback has 2 operands, not 1"),
        (PoolingBack(WINDOW, PoolFunction.MEAN), [(4, 50)], "'x0' has 50 columns; it must have 18"),
        (Convolve(big((9, 3))), [(4, 50), (1, 54)], "kernel 9 x 3 does not fit into an image of 5"),
        (Convolve(big(stride=(0, 1))), [(4, 50), (1, 18)], "stride is 0 x 1; sizes go from 1"),
        (Convolve(big(channels=-1)), [(4, 50), (1, 18)], "image is -1 x 5 x 5"),
        (Convolve(big(padding=(-1, 0))), [(4, 50), (1, 18)], "padding is -1 x 0; it goes from 0"),
        (
            Convolve(big((257, 256), padding=(200, 200))),
            [(4, 50), (1, 18)],
            f"has 65792 elements; the limit is {MAX_WINDOW}",
        ),
    ],
)
def test_what_does_not_fit_is_refused(kind: Kind, given: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        program(kind, *(np.zeros(shape) for shape in given))


def test_dtypes_are_one_real_float() -> None:
    for dtypes in (("float32", "float64"), ("int32", "int32"), ("complex128", "complex128")):
        with pytest.raises(InvalidInput, match="must be of one real float type"):
            program(Convolve(WINDOW), np.zeros((4, 50), dtypes[0]), np.zeros((1, 18), dtypes[1]))
