"""Re-balancing: late, seldom, and only when it pays."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.planner.availability import Sample


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    return pool


def run_until_a_is_dry(
    pool: Pool, b_speed: float, resplits: int = 0
) -> tuple[Job, Subtask, Subtask, float]:
    """Both start together; b is slower than planned by this factor."""
    job = pool.submit(8192, 8192, 8192)
    job.resplits = resplits
    a, b = pool.on(job, "a"), pool.on(job, "b")
    planned_s = a.placement.predicted_finish_s
    for tenth in range(1, 10):
        pool.pass_time(planned_s / 10)
        took_s = planned_s * tenth / 10
        pool.progress(a, a.rectangle.area * tenth // 10, took_s=took_s)
        pool.progress(b, int(b.rectangle.area * tenth / 10 * b_speed), took_s=took_s)
    pool.pass_time(planned_s / 10 - 0.01)
    return job, a, b, planned_s


def test_drift_moves_nothing_before_somebody_is_about_to_run_dry(pool: Pool) -> None:
    job = pool.submit(8192, 8192, 8192)
    a, b = pool.on(job, "a"), pool.on(job, "b")
    pool.pass_time(2.0)
    pool.progress(a, a.rectangle.area // 4, took_s=2.0)
    pool.progress(b, b.rectangle.area // 16, took_s=2.0)
    assert pool.take_sent(effects.SendResize) == []


def test_the_straggler_gives_up_what_the_other_can_do_sooner(pool: Pool) -> None:
    job, _, b, planned_s = run_until_a_is_dry(pool, 0.5)
    (request,) = pool.take_sent(effects.SendResize)
    assert request.node == "b"
    released = pool.give_up(request)
    check_cover(job)
    # b does half as much a second as a, so it keeps a third of what was left.
    left = b.rectangle.area // 2
    assert sum(piece.area for piece in released) == pytest.approx(left * 2 / 3, rel=0.1)
    more = [s for s in pool.active(job) if s.node == "a" and s.attempt == 2]
    assert sum(s.area for s in more) == pytest.approx(sum(r.area for r in released), rel=0.05)
    ends = [s.expected_finish_s for s in pool.active(job) if s.attempt == 2 or s.node == "b"]
    assert max(ends) - min(ends) < 0.03 * planned_s


def test_who_has_all_columns_already_does_not_fetch_them_for_what_it_is_given() -> None:
    gains = {}
    for held in ((), ("mb",)):
        pool = Pool()
        for name in ("a", "b"):
            pool.join(name, host=f"host of {name}")
            pool.nodes[name].devices[f"{name}/cpu"].bandwidth_bytes_per_s = 1.25e8
        sample = Sample(pool.now, 1.0, 0.0, 0.0, 0.0)
        pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", sample, 1 << 34, held)]))
        run_until_a_is_dry(pool, 0.8)
        gains[held] = bool(pool.take_sent(effects.SendResize))
    # For a row of what b has left, 8192 columns of B would have to come to a.
    assert gains == {(): False, ("mb",): True}


def test_what_is_moved_a_second_time_is_not_due_a_second_time() -> None:
    pool = Pool()
    for name in ("a", "b"):
        pool.join(name, host=f"host of {name}")
    sample = Sample(pool.now, 1.0, 0.0, 0.0, 0.0)
    pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", sample, 1 << 34, ("mb",))]))
    job, *_ = run_until_a_is_dry(pool, 0.5)
    due_bytes = job.bytes_lower_bound
    # All of A and of the result, and of B as much as two near-square parts need.
    assert due_bytes > 2 * 8192 * 8192 * 8
    (request,) = pool.take_sent(effects.SendResize)
    assert pool.give_up(request)
    assert job.plans == 2
    assert job.bytes_lower_bound == due_bytes


def test_a_little_drift_is_not_worth_the_messages(pool: Pool) -> None:
    run_until_a_is_dry(pool, 0.99)
    assert pool.take_sent(effects.SendResize) == []


@pytest.mark.parametrize(
    ("b_speed", "before", "moves"), [(0.96, 2, True), (0.96, 3, False), (0.5, 3, True)]
)
def test_after_three_re_balances_only_a_clear_gain_moves_anything(
    pool: Pool, b_speed: float, before: int, moves: bool
) -> None:
    run_until_a_is_dry(pool, b_speed, before)
    assert bool(pool.take_sent(effects.SendResize)) is moves


def test_a_device_that_joins_gets_its_part_of_what_was_not_started(pool: Pool) -> None:
    job = pool.submit(8192, 8192, 8192)
    a, b = pool.on(job, "a"), pool.on(job, "b")
    pool.pass_time(1.0)
    pool.progress(a, a.rectangle.area // 10, took_s=1.0)
    pool.progress(b, b.rectangle.area // 10, took_s=1.0)
    pool.join("c", 100.0)
    pool.pass_time(0.2)
    pool.progress(a, a.rectangle.area // 8, took_s=1.2)
    requests = pool.take_sent(effects.SendResize)
    assert {request.node for request in requests} == {"a", "b"}
    for request in requests:
        pool.give_up(request)
    check_cover(job)
    assert any(subtask.node == "c" for subtask in pool.active(job))
    assert job.resplits == 1


def test_a_hung_device_does_not_hold_up_what_others_gave(pool: Pool) -> None:
    pool.join("c")
    job = pool.submit(8192, 8192, 8192)
    a, b, c = (pool.on(job, name) for name in "abc")
    planned_s = a.placement.predicted_finish_s
    for tenth in range(1, 10):
        pool.pass_time(planned_s / 10)
        took_s = planned_s * tenth / 10
        pool.progress(a, a.rectangle.area * tenth // 10, took_s=took_s)
        for slow in (b, c):
            pool.progress(slow, slow.rectangle.area * tenth // 20, took_s=took_s)
    pool.pass_time(planned_s / 10 - 0.01)
    requests = pool.take_sent(effects.SendResize)
    assert len(requests) == 2
    answered, silent = requests
    pool.give_up(answered)
    assert job.releasing.keys() == {silent.subtask}
    pool.pass_time(0.5)
    for name in "abc":
        pool.sample(name)
    pool.pass_time(2.0)
    assert not job.releasing
    assert job.steps[0].gaps == []
    check_cover(job)


def test_a_job_ends_exactly_whatever_moved(pool: Pool) -> None:
    job, a, *_ = run_until_a_is_dry(pool, 0.3)
    pool.finish(a)
    while not job.state.is_final:
        for request in pool.take_sent(effects.SendResize):
            pool.give_up(request)
        pool.pass_time(0.1)
        for subtask in pool.active(job):
            pool.finish(subtask)
        check_cover(job)
    assert state_of(job) == "done"
