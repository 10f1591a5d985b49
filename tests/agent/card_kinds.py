"""All kinds of operations that a card computes, and operands for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.programs import (
    Activation,
    Batched,
    Binary,
    BinaryFunction,
    Cast,
    Gemm,
    Operation,
    Segment,
    Softmax,
    Sum,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
)

RNG = np.random.default_rng(5)


def given(dtype: str, rows: int, columns: int) -> Any:
    if element_type(dtype).is_exact:
        return RNG.integers(0, 2 if dtype == "bool" else 100, (rows, columns)).astype(dtype)
    made = RNG.standard_normal((rows, columns)) + 1j * RNG.standard_normal((rows, columns))
    return (made if "complex" in dtype else made.real).astype(numpy_dtype(dtype))


X, Y, ROW = given("float32", 150, 90), given("float32", 90, 130), given("float32", 1, 130)
SEGMENT = Segment(
    (
        Operation("H", ("A", "B"), Gemm(activation=Activation.RELU)),
        Operation("T", ("H",), Unary(UnaryFunction.TANH)),
        Operation("C", ("T", "V"), Gemm()),
    )
)
#: With a border and steps, and without.
WINDOW = Window(2, 9, 8, (3, 2), (2, 1), (1, 1))
BARE = Window(1, 6, 6, (3, 3))
IMAGES, KERNELS = given("float32", 70, WINDOW.inputs), given("float32", 1, 5 * WINDOW.depth)
SEEN = given("float32", 70, 5 * WINDOW.places)
POOLED = given("float32", 70, WINDOW.channels * WINDOW.places)
IMAGE_LAYERS = Segment(
    (
        Operation("H", ("A", "B", "V"), Convolve(WINDOW)),
        Operation("T", ("H",), Unary(UnaryFunction.RELU)),
        Operation(
            "C",
            ("T",),
            Pooling(Window(5, WINDOW.out_height, WINDOW.out_width, (2, 2)), PoolFunction.MAX),
        ),
    )
)
BF = [given("bfloat16", 150, 90), given("bfloat16", 150, 90)]


KINDS: list[tuple[Any, list[Any]]] = [
    (Gemm(alpha=0.5, activation=Activation.GELU_TANH), [X, Y, ROW]),
    (Gemm(inner=(17, 60)), [X, Y]),
    (Gemm(inner=(30, 30)), [X, Y]),
    (Gemm(out_dtype="float32"), [X.astype(np.float16), Y.astype(np.float16)]),
    (Batched(Gemm(), (3,), (3,)), [X, given("float32", 270, 130)]),
    (Batched(Gemm(), (2, 3), (3,)), [BF[0], given("bfloat16", 270, 40)]),
    (Sum(bias=True, activation=Activation.SIGMOID), [X @ Y, X @ Y, X @ Y, ROW]),
    (Unary(UnaryFunction.EXP), [X]),
    (Unary(UnaryFunction.NEGATIVE), [given("int16", 60, 80)]),
    (Unary(UnaryFunction.RELU), [given("int8", 60, 80)]),
    (Binary(BinaryFunction.DIVIDE), [X @ Y, ROW + 9]),
    (Binary(BinaryFunction.ADD), [given("int32", 60, 80), given("float32", 60, 1)]),
    (Binary(BinaryFunction.MULTIPLY), BF),
    (Cast("bfloat16"), [X]),
    (Softmax(), [X]),
    (SumAlong(axis=1), [X]),
    (SumAlong(axis=0, block=40), [given("int8", 150, 60)]),
    (Transpose(), [X]),
    (SEGMENT, [X, Y, given("float32", 130, 40)]),
    (Convolve(WINDOW), [IMAGES, KERNELS]),
    (Convolve(WINDOW), [IMAGES.astype(np.float16), KERNELS.astype(np.float16)]),
    (Convolve(BARE), [given("float64", 70, BARE.inputs), given("float64", 1, 3 * BARE.depth)]),
    (ConvolveBack(WINDOW), [SEEN, KERNELS]),
    (ConvolveWeights(WINDOW, 8, bias=True), [IMAGES, SEEN]),
    (Pooling(WINDOW, PoolFunction.MAX), [IMAGES]),
    (Pooling(WINDOW, PoolFunction.MEAN), [IMAGES]),
    (PoolingBack(WINDOW, PoolFunction.MAX), [IMAGES, POOLED]),
    (PoolingBack(WINDOW, PoolFunction.MEAN), [POOLED]),
    (IMAGE_LAYERS, [IMAGES, KERNELS, given("float32", 1, 5)]),
]
