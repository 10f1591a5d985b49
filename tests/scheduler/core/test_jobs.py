"""Jobs in the core: planned, committed before sent, finished, cancelled, refused."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.planner.builders import product

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.core.report import report_of
from deadheat.scheduler.planner.inputs import Cut


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    return pool


def test_a_job_is_cut_sent_finished_and_sealed(pool: Pool) -> None:
    job = pool.submit()
    assert state_of(job) == "running"
    assert {assign.node for assign in pool.take_sent(effects.SendAssign)} == {"a", "b"}
    for node in ("a", "b"):
        pool.finish(pool.on(job, node))
        check_cover(job)
    assert state_of(job) == "done"
    assert pool.take_sent(effects.ReleaseJob) == [effects.ReleaseJob(job.id, [])]


def test_nothing_is_sent_before_it_is_committed() -> None:
    pool = Pool()
    pool.join("a")
    found = pool.core.handle(
        events.JobSubmitted("j", "r", "u", "matmul", product(64, 64, 64), events.JobPolicy(), [""]),
        100.0,
    )
    (planning,) = (effect for effect in found if isinstance(effect, effects.MakePlan))
    from deadheat.scheduler.planner.planner import plan

    made = plan(planning.given, now=100.0)
    effects_ = pool.core.handle(events.PlanMade("j", planning.ticket, made, 0.0), 100.0)
    kinds = [type(effect) for effect in effects_]
    assert kinds.index(effects.Commit) < kinds.index(effects.SendAssign)
    (commit,) = (effect for effect in effects_ if isinstance(effect, effects.Commit))
    rows = {change.id for change in commit.changes if isinstance(change, effects.PlacementRow)}
    sent = {effect.subtask for effect in effects_ if isinstance(effect, effects.SendAssign)}
    assert rows == sent


def test_assignments_wait_until_there_is_room_for_the_result(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit()
    assert pool.take_sent(effects.SendAssign) == []
    pool.release_answers()
    assert len(pool.take_sent(effects.SendAssign)) == 2
    assert state_of(job) == "running"


def test_a_device_that_goes_while_room_is_made_gets_nothing(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit()
    pool.feed(events.NodeLeft("b", "1", "killed"))
    pool.release_answers()
    (assigned,) = pool.take_sent(effects.SendAssign)
    assert assigned.node == "a"
    pool.finish(pool.core.world.subtasks[assigned.subtask])
    assert state_of(job) == "done"


def test_no_room_for_the_result_fails_the_job_with_the_stores_words(pool: Pool) -> None:
    pool.holds_back = {effects.MakeResults}
    job = pool.submit()
    failure = events.Failure("limit_reached", "8 GiB needed, 1 GiB there")
    pool.feed(events.ResultsMade(job.id, [], failure))
    assert (job.state, job.failure) == (JobState.FAILED, failure)


def test_without_agents_a_job_waits_says_so_and_goes_on_when_one_comes() -> None:
    pool = Pool()
    job = pool.submit()
    assert state_of(job) == "queued"
    assert job.note == "waiting: no agent is connected"
    pool.join("late")
    assert state_of(job) == "running"
    assert job.note == ""


def test_a_time_limit_ends_a_job_that_waits() -> None:
    pool = Pool()
    job = pool.submit(timeout_s=5.0)
    pool.pass_time(4.9)
    assert state_of(job) == "queued"
    pool.pass_time(0.2)
    assert state_of(job) == "failed"
    assert job.failure is not None
    assert job.failure.code == "timed_out"
    assert "no agent is connected" in job.failure.message


def test_cancelling_stops_everybody_and_gives_the_result_up(pool: Pool) -> None:
    job = pool.submit()
    pool.feed(events.CancelAsked(job.id))
    assert state_of(job) == "cancelled"
    assert {cancel.node for cancel in pool.take_sent(effects.SendCancel)} == {"a", "b"}
    assert pool.take_sent(effects.ReleaseJob) == [effects.ReleaseJob(job.id, ["result1"])]
    pool.feed(events.CancelAsked(job.id))  # Twice is once.
    assert state_of(job) == "cancelled"


def test_a_plan_that_comes_too_late_is_not_carried_out(pool: Pool) -> None:
    pool.holds_back = {effects.MakePlan}
    job = pool.submit()
    pool.feed(events.CancelAsked(job.id))
    pool.release_answers()
    assert state_of(job) == "cancelled"
    assert pool.take_sent(effects.SendAssign) == []


def test_a_plan_for_a_device_that_is_gone_is_made_again(pool: Pool) -> None:
    pool.holds_back = {effects.MakePlan}
    job = pool.submit()
    pool.feed(events.NodeLeft("b", "1", "stopped"))
    pool.release_answers()
    assert {assign.node for assign in pool.take_sent(effects.SendAssign)} == {"a"}
    check_cover(job)


def test_an_empty_result_needs_nobody(pool: Pool) -> None:
    job = pool.submit(0, 5, 7, inline=True)
    assert state_of(job) == "done"
    assert job.steps[0].inline == bytearray()


def test_small_results_come_inline_and_are_put_together(pool: Pool) -> None:
    job = pool.submit(2000, 2000, 8, inline=True)
    for subtask in pool.active(job):
        pool.finish(subtask)
    assert state_of(job) == "done"
    assert job.steps[0].inline is not None
    assert len(job.steps[0].inline) == 2000 * 8 * 8


def test_too_few_inline_bytes_fail_the_job_rather_than_make_a_wrong_matrix(pool: Pool) -> None:
    job = pool.submit(500, 2000, 8, inline=True)
    subtask = pool.active(job)[0]
    made = events.Progress(subtask.id, 500, subtask.area, 100.0, 100.0)
    pool.feed(events.SubtaskFinished(subtask.node, made, 100.0, inline=b"short"))
    assert state_of(job) == "failed"
    assert job.failure is not None
    assert job.failure.code == "data_lost"


def test_a_second_job_starts_where_the_first_ends_on_each_device(pool: Pool) -> None:
    pool.submit()
    second = pool.submit()
    for subtask in pool.active(second):
        assert subtask.placement.predicted_start_s > 1.0
    finishes = [subtask.placement.predicted_finish_s for subtask in pool.active(second)]
    assert max(finishes) == pytest.approx(min(finishes), rel=0.01)


def test_the_report_keeps_the_promise_beside_what_happened(pool: Pool) -> None:
    job = pool.submit()
    pool.pass_time(1.5)
    pool.finish(pool.on(job, "a"), took_s=1.4)
    pool.pass_time(0.1)
    pool.finish(pool.on(job, "b"), took_s=1.5)
    report = report_of(job, {"a/cpu": "cpu"})
    assert report.makespan_s == pytest.approx(1.6)
    assert report.finish_spread == pytest.approx(0.1 / 1.6)
    assert report.predicted_makespan_s == pytest.approx(1.375, rel=0.01)
    assert report.efficiency == pytest.approx(1.374 / 1.6, rel=0.01)
    assert sum(device.share for device in report.devices) == pytest.approx(1.0)
    assert report.serial_s is not None


def test_baselines_are_never_rebalanced(pool: Pool) -> None:
    job = pool.submit(cut=Cut.EQUAL)
    pool.pass_time(1.0)
    pool.finish(pool.on(job, "a"))
    assert pool.take_sent(effects.SendResize) == []
