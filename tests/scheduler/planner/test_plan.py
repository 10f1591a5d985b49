"""Plans: complete, equal for equal input, readable, within memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.planner.builders import GIGABIT, device, problem, product

from deadheat.runtime.errors import LimitReached, Unavailable
from deadheat.runtime.programs import uncovered
from deadheat.scheduler.planner.inputs import Cut, Device
from deadheat.scheduler.planner.planner import plan

GOLDEN = """\
4096 x 4096 elements of operation 0, cut into strips of rows; predicted to take 1.87 s
  laptop/cpu  gets  13.6% (rows 0:556): 20.0 GFLOP/s when idle, 50% of it free, \
computes 1.87 s, finishes at 1.87 s
  shared/cpu  gets  34.0% (rows 556:1948): 50.0 GFLOP/s when idle, 50% of it free, \
computes 1.87 s, finishes at 1.87 s
  ws/cpu      gets  52.4% (rows 1948:4096): 50.0 GFLOP/s when idle, 100% of it free, \
busy with earlier work for 427.0 ms, computes 1.44 s, finishes at 1.87 s
  gone/cpu    left out: its node is lost
  late/cpu    left out: it could not start before 9.00 s; all is done at 1.87 s
  instead, the best single device: 3.18 s, 1.7 times as long
  instead, the same rows for everybody: 9.69 s, 5.2 times as long
  instead, only the 2 devices with the largest shares: 2.26 s, 1.2 times as long
  speed-up over the fastest device alone, as predicted: 1.00 with 1, 1.50 with 2, 1.70 with 3"""


def test_a_plan_reads_like_a_table() -> None:
    devices = [
        device("ws", 50.0, ready_s=0.427),
        device("shared", 50.0, availability=0.5),
        device("laptop", 20.0, availability=0.5),
        device("late", 50.0, ready_s=9.0),
    ]
    excluded = [("gone/cpu", "its node is lost")]
    found = plan(problem(product(4096, 4096, 4096), devices, excluded=excluded), now=0.0)
    assert str(found) == GOLDEN
    json.dumps(found.as_dict(), allow_nan=False)


def test_busy_core_gets_the_smaller_share() -> None:
    devices = [device("free"), device("shared", availability=0.5)]
    free, shared = plan(problem(product(3000, 3000, 3000), devices), now=0.0).placements
    assert free.rectangle.rows == pytest.approx(2 * shared.rectangle.rows, abs=2)
    assert free.predicted_finish_s == pytest.approx(shared.predicted_finish_s, rel=0.01)


def test_a_slow_device_is_left_out_of_a_short_job_and_not_of_a_long_one() -> None:
    """It would save the fast one 2 ms of 0.2 s, and could not be corrected if it were late."""
    devices = [device("card", 50_000.0), device("core", 500.0)]
    short = plan(problem(product(16384, 16384, 16384), devices), now=0.0)
    assert [one.device for one in short.placements] == ["card/cpu"]
    assert "core/cpu  left out" in str(short)
    long = plan(problem(product(65536, 65536, 65536), devices), now=0.0)
    assert {one.device for one in long.placements} == {"card/cpu", "core/cpu"}
    # Many equal devices are each a small part of a job.
    equal = [device(f"w{number}") for number in range(60)]
    assert len(plan(problem(product(8192, 8192, 8192), equal), now=0.0).placements) == 60


def test_far_devices_pay_for_their_operands() -> None:
    devices = [device("here"), device("there", link=GIGABIT)]
    here, there = plan(problem(product(4096, 4096, 4096), devices), now=0.0).placements
    assert there.rectangle.rows < here.rectangle.rows
    assert there.predicted_bytes_in == (4096 * 4096 + there.rectangle.rows * 4096) * 8
    assert there.predicted_bytes_out == there.rectangle.rows * 4096 * 8
    # What it holds already it does not need to get.
    cached = device("there", link=GIGABIT, holds=frozenset({"mb"}))
    _, with_cache = plan(problem(product(4096, 4096, 4096), [devices[0], cached]), now=0).placements
    assert with_cache.rectangle.rows > there.rectangle.rows


def test_a_small_job_is_not_cut_into_crumbs() -> None:
    devices = [device(f"d{k}") for k in range(16)]
    placements = plan(problem(product(128, 128, 128), devices), now=0.0).placements
    assert len(placements) == 1


def test_a_slow_device_with_no_room_is_left_out_with_the_reason() -> None:
    tiny = device("tiny", link=GIGABIT, memory_bytes=1000)
    step = plan(problem(product(512, 512, 512), [device("ws"), tiny]), now=0.0).steps[0]
    assert [(out.device, out.reason) for out in step.left_out()] == [
        ("tiny/cpu", "its memory does not hold the operands")
    ]


def test_what_no_device_can_hold_is_refused_with_the_numbers() -> None:
    devices = [device("tiny", link=GIGABIT, memory_bytes=1000)]
    with pytest.raises(LimitReached, match="tiny/cpu, has 1000 bytes"):
        plan(problem(product(512, 512, 512), devices), now=0.0)
    with pytest.raises(Unavailable):
        plan(problem(product(512, 512, 512), []), now=0.0)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (Cut.EQUAL, [500, 500]),
        (Cut.PEAK, [800, 200]),
        (Cut.ONE_MINUS_UTILIZATION, [444, 556]),
    ],
)
def test_baselines_are_what_their_names_say(cut: Cut, expected: list[int]) -> None:
    devices = [device("a", 80.0, busy=0.8, availability=0.5), device("b", 20.0, busy=0.0)]
    placements = plan(problem(product(1000, 1000, 1000), devices, cut), now=0.0).placements
    assert [placement.rectangle.rows for placement in placements] == expected


def test_what_a_device_does_right_now_is_believed_before_its_model() -> None:
    devices = [device("a"), device("b", measured_flops=12.5e9)]
    a, b = plan(problem(product(1000, 1000, 1000), devices), now=0.0).placements
    assert a.rectangle.rows == pytest.approx(4 * b.rectangle.rows, abs=4)


devices_drawn = st.lists(
    st.builds(
        lambda k, speed, free, ready, far, memory: device(
            f"d{k}",
            speed,
            availability=free,
            ready_s=ready,
            link=GIGABIT if far else device("x").link,
            memory_bytes=memory,
        ),
        st.integers(0, 1000),
        st.floats(1, 500),
        st.floats(0.02, 1),
        st.floats(0, 5),
        st.booleans(),
        st.integers(0, 1 << 30),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda d: d.id,
)
lengths = st.integers(1, 3000)


@given(devices_drawn, lengths, lengths, lengths, st.sampled_from(Cut))
def test_every_plan_covers_the_result_once_and_keeps_memory(
    devices: list[Device], m: int, k: int, n: int, cut: Cut
) -> None:
    given_problem = problem(product(m, k, n), devices, cut)
    try:
        found = plan(given_problem, now=0.0)
    except LimitReached:
        return
    assert plan(given_problem, now=0.0) == found
    if found.left_area:
        return  # The rest follows when memory is free again: see `test_rounds`.
    whole = given_problem.program.types["C"].whole()
    rectangles = [placement.rectangle for placement in found.placements]
    assert uncovered(whole, rectangles) == []
    assert sum(rectangle.area for rectangle in rectangles) == whole.area
    assert found.makespan_s == pytest.approx(
        max(placement.predicted_finish_s for placement in found.placements)
    )
    if cut is Cut.BALANCED:
        by_id = {d.id: d for d in devices}
        for placement in found.placements:
            rows, columns = placement.rectangle.rows, placement.rectangle.columns
            needed = (rows * k + k * columns + rows * columns) * 8
            assert needed <= by_id[placement.device].memory_bytes
    named = {p.device for p in found.placements} | {o.device for o in found.steps[0].left_out()}
    assert named == {d.id for d in devices}


@given(devices_drawn, lengths, lengths, lengths)
def test_the_order_of_the_pool_does_not_matter(
    devices: list[Device], m: int, k: int, n: int
) -> None:
    try:
        found = plan(problem(product(m, k, n), devices), now=0.0)
    except LimitReached:
        return
    assert plan(problem(product(m, k, n), devices[::-1]), now=0.0) == found
