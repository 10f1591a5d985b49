"""Convolutions, pooling and stacks of matrices: priced, and cut among devices in whole samples."""

from __future__ import annotations

import pytest
from tests.scheduler.planner.builders import GIGABIT, device, problem
from tests.scheduler.planner.test_operations import program

from deadheat.runtime.programs import Batched, Gemm, Kind, needed_blocks, uncovered
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
)
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.planner import plan

WINDOW = Window(8, 16, 16, (3, 3), padding=(1, 1))
POOLED = Window(8, 16, 16, (2, 2), (2, 2))
WEIGHTS = 16 * WINDOW.depth
IN, OUT, POOLS = WINDOW.inputs, 16 * WINDOW.places, 8 * POOLED.places
KINDS: list[tuple[Kind, tuple[tuple[int, int], ...]]] = [
    (Convolve(WINDOW), ((4000, IN), (1, WEIGHTS))),
    (Convolve(WINDOW), ((4000, IN), (1, WEIGHTS), (1, 16))),
    (ConvolveBack(WINDOW), ((4000, OUT), (1, WEIGHTS))),
    (ConvolveWeights(WINDOW, 8), ((4000, IN), (4000, OUT))),
    (ConvolveWeights(WINDOW, 4000, bias=True), ((4000, IN), (4000, OUT))),
    (Pooling(POOLED, PoolFunction.MAX), ((4000, IN),)),
    (PoolingBack(POOLED, PoolFunction.MAX), ((4000, IN), (4000, POOLS))),
    (PoolingBack(POOLED, PoolFunction.MEAN), ((4000, POOLS),)),
]
STACKS: list[tuple[Kind, tuple[tuple[int, int], ...]]] = [
    (Batched(Gemm(), (40,), (40,)), ((40 * 900, 300), (40 * 300, 200))),
    (Batched(Gemm(), (), (40,)), ((900, 300), (40 * 300, 200), (1, 200))),
]


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize(("kind", "shapes"), KINDS + STACKS, ids=str)
def test_every_kind_is_cut_into_all_of_its_result(
    kind: Kind, shapes: tuple[tuple[int, int], ...], cut: Cut
) -> None:
    built = program(kind, shapes)
    devices = [device("a", 2.0), device("b", 3.0), device("far", 1.0, link=GIGABIT)]
    made = plan(problem(built, devices, cut, min_subtask_s=0.0), now=0.0)
    whole = built.types["C"].whole()
    rectangles = [placement.rectangle for placement in made.placements]
    assert not uncovered(whole, rectangles)
    assert sum(rectangle.area for rectangle in rectangles) == whole.area
    is_stack = isinstance(kind, Batched)
    assert is_stack or all(rectangle.columns == whole.columns for rectangle in rectangles)
    for placement in made.placements:
        blocks = needed_blocks(built.operations[0], built.types, placement.rectangle)
        total = sum(block.area * 8 for _, block in blocks)
        if placement.device != "far/cpu":
            assert placement.predicted_bytes_in == 0
        elif not is_stack:  # Of a stack a device may need a part of its first and last matrix.
            assert placement.predicted_bytes_in == pytest.approx(total, abs=8)


def test_devices_share_samples_by_speed() -> None:
    built = program(*KINDS[0])
    devices = [device("a", 1.0), device("b", 2.0)]
    made = plan(problem(built, devices), now=0.0)
    rows = {placement.device: placement.rectangle.rows for placement in made.placements}
    assert rows["b/cpu"] == pytest.approx(2 * rows["a/cpu"], rel=0.05)
