"""How long devices waited at barriers, from what is recorded of sub-tasks."""

from __future__ import annotations

import pytest

from deadheat.runtime.programs import Rectangle
from deadheat.scheduler.core.barriers import barriers
from deadheat.scheduler.core.machine import SubtaskState
from deadheat.scheduler.core.report import PlacementReport
from deadheat.scheduler.planner.segmenting import BARRIER_S


def placement(
    operation: str,
    device: str,
    start_s: float,
    finish_s: float,
    predicted_finish_s: float = 0.0,
    state: SubtaskState = SubtaskState.DONE,
) -> PlacementReport:
    return PlacementReport(
        operation=operation,
        rectangle=Rectangle(0, 1, 0, 1),
        node=device,
        device=device,
        attempt=1,
        state=state,
        availability=1.0,
        speed_flops=1.0,
        predicted_start_s=0.0,
        predicted_finish_s=predicted_finish_s,
        start_s=start_s,
        finish_s=finish_s,
        flops=1.0,
        bytes_in=0,
        bytes_out=0,
    )


def test_a_barrier_is_what_devices_wait_until_their_next_work() -> None:
    found = barriers(
        [
            placement("first", "a", 0.0, 1.0, 1.0),
            placement("first", "b", 0.0, 2.0, 1.5),
            placement("second", "a", 2.5, 3.0, 3.0),
            placement("second", "b", 2.5, 3.0, 3.0),
        ]
    )
    (one,) = found
    assert (one.after, one.devices) == ("first", 2)
    assert one.wait_s == pytest.approx((1.5 + 0.5) / 2)
    assert one.predicted_wait_s == pytest.approx(0.25 + BARRIER_S)


def test_several_parts_of_one_operation_are_no_barrier() -> None:
    parts = [placement("only", "a", 0.0, 1.0), placement("only", "a", 1.5, 2.0)]
    assert barriers(parts) == []


def test_work_that_overlaps_waits_for_nobody() -> None:
    (one,) = barriers([placement("p", "a", 0.0, 2.0), placement("q", "a", 1.0, 3.0)])
    assert one.wait_s == 0.0


def test_what_never_ended_is_left_out() -> None:
    gone = placement("p", "a", 0.0, 1.0, state=SubtaskState.SUPERSEDED)
    assert barriers([gone, placement("q", "a", 5.0, 6.0)]) == []


def test_barriers_come_in_the_order_in_which_they_were_reached() -> None:
    found = barriers(
        [
            placement("c", "a", 4.0, 5.0),
            placement("b", "a", 2.0, 3.0),
            placement("a", "a", 0.0, 1.0),
        ]
    )
    assert [one.after for one in found] == ["a", "b"]
