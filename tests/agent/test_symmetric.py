"""A matrix by its own transpose: half is computed, half is copied, and all of it is right."""

from __future__ import annotations

import queue
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.agent.executors.panels import Panel, Panels
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.runtime.programs import (
    Activation,
    Gemm,
    GemmShape,
    MatrixType,
    Operation,
    Rectangle,
    is_symmetric,
    uncovered,
)
from deadheat.v1 import local_pb2

RNG = np.random.default_rng(17)


def panels(rectangle: Rectangle, *, inner: int = 4096, threads: int = 1) -> Panels:
    shape = GemmShape(rectangle.rows, inner, rectangle.columns, "float64")
    return Panels(rectangle, shape, threads, is_symmetric=True)


@given(
    start=st.integers(0, 900),
    rows=st.integers(1, 3000),
    columns=st.integers(1, 3500),
    running=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_what_is_copied_has_been_computed_here(
    start: int, rows: int, columns: int, running: int, seed: int
) -> None:
    rectangle = Rectangle(start, start + rows, 0, columns)
    made, chance = panels(rectangle, threads=running), random.Random(seed)
    open_, done = list[Panel](), list[Rectangle]()
    while True:
        panel = made.take() if len(open_) < running else None
        if panel:
            if image := made.mirror_of(panel):
                assert not uncovered(image, done)
                r = panel.rectangle
                assert image == Rectangle(r.column_start, r.column_stop, r.row_start, r.row_stop)
            open_.append(panel)
        elif open_:
            panel = open_.pop(chance.randrange(len(open_)))
            made.finish(panel, 0.1)
            done.append(panel.rectangle)
            if chance.random() < 0.05:
                made.release(chance.randrange(rectangle.area))
        else:
            break
    assert made.is_done


def test_half_of_a_square_is_copied() -> None:
    made, copied = panels(Rectangle(0, 8192, 0, 8192), inner=8192), 0
    computed = 0.0
    while panel := made.take():
        if made.mirror_of(panel):
            copied += panel.rectangle.area
        else:
            computed += made.work_of(panel)
        made.finish(panel, 0.1)
    assert copied > 0.4 * 8192**2
    assert computed < 0.53 * made.shape.flops


@pytest.mark.parametrize(
    ("kind", "operands", "expected"),
    [
        (Gemm(transpose_b=True), ("A", "A"), True),
        (Gemm(transpose_a=True, alpha=2.0, activation=Activation.RELU), ("A", "A"), True),
        (Gemm(transpose_b=True, inner=(0, 3)), ("A", "A"), True),
        (Gemm(), ("A", "A"), False),
        (Gemm(transpose_a=True, transpose_b=True), ("A", "A"), False),
        (Gemm(transpose_b=True), ("A", "B"), False),
        (Gemm(transpose_b=True), ("A", "A", "bias"), False),
    ],
)
def test_a_bias_or_another_matrix_makes_it_unlike_its_transpose(
    kind: Gemm, operands: tuple[str, ...], expected: bool
) -> None:
    assert is_symmetric(Operation("C", operands, kind)) is expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "int32", "float16"])
@pytest.mark.parametrize("transposed", ["first", "second"])
@pytest.mark.parametrize("rows", [(0, 700), (200, 700)])
def test_products_are_numpys(dtype: str, transposed: str, rows: tuple[int, int]) -> None:
    a: Any = RNG.integers(-3, 4, (700, 90)).astype(dtype)
    if dtype == "complex128":
        a += 1j * RNG.integers(-3, 4, (700, 90))
    stored = np.ascontiguousarray(a.T) if transposed == "first" else a
    kind = Gemm(transpose_a=transposed == "first", transpose_b=transposed == "second")
    operation = Operation("C", ("A", "A"), kind)
    whole = Rectangle(0, stored.shape[0], 0, stored.shape[1])
    rectangle = Rectangle(*rows, 0, 700)
    result = Block(np.zeros((rectangle.rows, 700), dtype), rectangle)
    task = Task(
        id="s",
        rank=0.0,
        operation=operation,
        types={"A": MatrixType(stored.shape[0], stored.shape[1], dtype)},
        operands=[Block(stored, whole), Block(stored, whole)],
        result=result,
        panels=Panels(
            rectangle,
            GemmShape(rectangle.rows, 90, 700, dtype),
            2,
            is_symmetric=is_symmetric(operation),
        ),
        is_inline=False,
    )
    told: queue.Queue[local_pb2.ExecutorEvent] = queue.Queue()
    Pool(2, told.put).add(task)
    while (event := told.get(timeout=30)).WhichOneof("event") != "finished":
        assert event.WhichOneof("event") == "progress"
    assert np.array_equal(result.array, (a @ a.T)[slice(*rows)])
    assert isinstance(task.panels, Panels)
    assert event.finished.progress.flops < task.panels.shape.flops
