"""Jobs that the agents' memories do not hold: in rounds, waiting for one another, never stuck."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.core.harness import Pool, check_cover, state_of

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.planning import NO_MEMORY
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.planner.availability import Sample

MIB = 1 << 20


def far_pool(*names: str, memory_bytes: int = 24 * MIB) -> Pool:
    pool = Pool()
    for name in names:
        pool.join(name, host=f"host of {name}", memory_bytes=memory_bytes)
    return pool


def all_active(pool: Pool) -> list[Subtask]:
    return list(pool.core.world.subtasks.values())


def check_memory(pool: Pool) -> None:
    for device in pool.core.world.devices.values():
        assert device.assigned_bytes <= device.facts.memory_bytes


def work(pool: Pool, job: Job) -> int:
    """Ends sub-tasks, the first expected first, until the job has none; returns how many."""
    count = 0
    while active := all_active(pool):
        if job.state.is_final:
            break
        first = min(active, key=lambda subtask: subtask.expected_finish_s)
        pool.now = max(pool.now, first.expected_finish_s)
        pool.finish(first, took_s=max(0.001, first.planned_s))
        count += 1
        check_cover(job)
        check_memory(pool)
    return count


def test_a_job_is_worked_in_more_sub_tasks_than_there_are_devices() -> None:
    pool = far_pool("a", "b")
    job = pool.submit(2896, 2896, 2896)
    assert state_of(job) == "running"
    assert len(pool.active(job)) == 2
    assert work(pool, job) > 20
    assert state_of(job) == "done"
    assert not pool.core.world.waiting_memory


def test_nothing_is_given_back_for_others_while_more_waits_for_memory() -> None:
    pool = far_pool("a", "b")
    job = pool.submit(2896, 2896, 2896)
    slow = pool.on(job, "b")
    pool.now = slow.expected_finish_s
    pool.progress(slow, slow.area // 4, took_s=1.0)
    pool.pass_time(5.0)
    assert pool.take_sent(effects.SendResize) == []


def test_a_job_that_finds_the_memory_in_use_waits_and_then_runs() -> None:
    pool = far_pool("a")
    first = pool.submit(1024, 1024, 1024)
    second = pool.submit(1024, 1024, 1024)
    assert (state_of(first), state_of(second)) == ("running", "queued")
    assert (second.note, second.started_s) == (NO_MEMORY, None)
    work(pool, first)
    assert (state_of(first), state_of(second)) == ("done", "running")
    assert second.note == ""
    work(pool, second)
    assert state_of(second) == "done"


def test_memory_that_others_took_of_the_machine_is_not_counted_on_until_they_give_it_back() -> None:
    pool = far_pool("a")

    def say(short_bytes: int) -> None:
        sample = Sample(pool.now, 1.0, 0.0, 0.0, 0.0)
        one = events.DeviceSampled("a/cpu", sample, 0, memory_short_bytes=short_bytes)
        pool.feed(events.NodeSampled("a", [one]))

    say(24 * MIB - 1000)
    job = pool.submit(1000, 1000, 1000)
    assert not pool.active(job)
    assert job.note == NO_MEMORY
    say(12 * MIB)
    (subtask,) = pool.active(job)
    assert subtask.memory_bytes <= 12 * MIB
    say(0)
    work(pool, job)
    assert state_of(job) == "done"


def test_memory_of_a_cancelled_job_is_for_those_who_wait() -> None:
    pool = far_pool("a")
    first, second = pool.submit(1024, 1024, 1024), pool.submit(1024, 1024, 1024)
    pool.feed(events.CancelAsked(first.id))
    assert state_of(second) == "running"


def test_of_those_who_wait_the_first_in_rank_goes_first() -> None:
    pool = far_pool("a")
    first = pool.submit(1024, 1024, 1024)
    low = pool.submit(1024, 1024, 1024, priority=-1)
    high = pool.submit(1024, 1024, 1024, priority=1)
    work(pool, first)
    assert (state_of(low), state_of(high)) == ("queued", "running")


def test_a_sub_task_that_ends_while_a_plan_is_made_is_not_overlooked() -> None:
    pool = far_pool("a")
    first = pool.submit(1024, 1024, 1024)
    pool.holds_back = {effects.MakePlan}
    second = pool.submit(1024, 1024, 1024)
    pool.finish(pool.on(first, "a"))
    pool.release_answers()
    assert state_of(second) == "running"


def test_what_a_lost_agent_had_is_made_by_the_others_in_rounds() -> None:
    pool = far_pool("a", "b")
    job = pool.submit(2048, 2048, 2048)
    pool.feed(events.NodeLeft("b", "1", "stopped"))
    check_cover(job)
    work(pool, job)
    assert state_of(job) == "done"


def test_an_agent_that_joins_takes_part_at_once() -> None:
    pool = far_pool("a")
    job = pool.submit(2896, 2896, 2896)
    pool.join("b", host="another", memory_bytes=24 * MIB)
    assert {subtask.node for subtask in pool.active(job)} == {"a", "b"}
    work(pool, job)
    assert state_of(job) == "done"


def test_memory_is_not_promised_twice_while_a_result_waits_for_room() -> None:
    pool = far_pool("a")
    pool.holds_back = {effects.MakeResults}
    jobs = [pool.submit(1024, 1024, 1024) for _ in range(2)]
    pool.release_answers()
    check_memory(pool)
    for job in jobs:
        work(pool, job)
    assert [state_of(job) for job in jobs] == ["done", "done"]


@settings(deadline=None)
@given(
    st.lists(st.integers(4, 24), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=4),
    st.lists(st.sampled_from(["end", "end", "end", "fail", "leave", "give"]), max_size=40),
    st.randoms(use_true_random=False),
)
def test_whatever_ends_fails_or_leaves_every_job_is_done_within_memory(
    memories: list[int], sizes: list[tuple[int, int]], happenings: list[str], chance: Random
) -> None:
    pool = Pool()
    for number, mib in enumerate(memories):
        pool.join(f"n{number}", host=f"h{number}", memory_bytes=mib * MIB)
    jobs = [pool.submit(side, inner, side) for side, inner in sizes]
    for what in [*happenings, *["end"] * 10_000]:
        active = all_active(pool)
        if not active:
            break
        one = chance.choice(active)
        pool.pass_time(0.01)
        for node in list(pool.nodes):
            pool.sample(node)
        if what == "fail" and one.deaths == 0:
            pool.fail(one)
        elif what == "give":
            pool.progress(one, one.area // 2, took_s=0.01)
        elif what == "leave" and len(memories) > 1:
            number = int(one.node[1:])
            pool.feed(events.NodeLeft(one.node, "1", "stopped"))
            pool.join(one.node, host=f"h{number}", memory_bytes=memories[number] * MIB)
        else:
            pool.finish(one)
        for request in pool.take_sent(effects.SendResize):
            if request.subtask in pool.core.world.subtasks:
                pool.give_up(request)
        check_memory(pool)
        for job in jobs:
            check_cover(job)
    assert [state_of(job) for job in jobs] == ["done"] * len(jobs)
