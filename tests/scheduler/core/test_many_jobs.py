"""Many jobs on one pool: who goes first, who is refused, and that queues are counted."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of

from deadheat.scheduler.core import effects
from deadheat.scheduler.core.state import Job


@pytest.fixture
def pool() -> Pool:
    made = Pool()
    made.join("a")
    made.join("b")
    return made


def rank(pool: Pool, job: Job) -> float:
    return min(subtask.rank for subtask in pool.active(job))


def finish(pool: Pool, job: Job) -> None:
    while rest := pool.active(job):
        pool.finish(rest[0])


def test_a_small_job_goes_before_a_big_one_that_is_under_way(pool: Pool) -> None:
    big = pool.submit(16384, 16384, 16384)
    pool.pass_time(1.0)
    small = pool.submit(2048, 2048, 2048, user="somebody else")
    own = pool.submit(2048, 2048, 2048)
    assert rank(pool, small) < rank(pool, big)
    assert rank(pool, own) < rank(pool, big)
    # It is not planned to wait for the big one.
    assert max(s.expected_finish_s for s in pool.active(small)) < pool.now + 1.0


def test_a_flood_of_one_user_does_not_keep_another_waiting(pool: Pool) -> None:
    flood = [pool.submit(4096, 4096, 4096, user="flood") for _ in range(8)]
    other = pool.submit(4096, 4096, 4096, user="other")
    before = [job for job in flood if rank(pool, job) < rank(pool, other)]
    assert len(before) <= 1


def test_a_big_job_is_not_starved_by_small_ones(pool: Pool) -> None:
    big = pool.submit(8192, 8192, 8192)
    late = None
    for _ in range(40):
        pool.pass_time(0.5)
        for name in "ab":
            pool.sample(name)
        late = pool.submit(3000, 3000, 3000, user="others")
        finish(pool, late)
    late = pool.submit(3000, 3000, 3000, user="others")
    assert rank(pool, big) < rank(pool, late)


def test_priority_is_above_size_and_order(pool: Pool) -> None:
    first = pool.submit(2048, 2048, 2048)
    urgent = pool.submit(8192, 8192, 8192, priority=1)
    idle = pool.submit(1024, 1024, 1024, priority=-1)
    assert rank(pool, urgent) < rank(pool, first) < rank(pool, idle)


def test_a_second_jobs_pieces_also_finish_together_behind_the_first(pool: Pool) -> None:
    pool.submit(4096, 4096, 4096, priority=1)
    second = pool.submit(4096, 4096, 4096)
    alone_s = 2 * 4096**3 / 100e9
    ends = [subtask.predicted_finish_s - pool.now for subtask in pool.active(second)]
    assert ends == [pytest.approx(2 * alone_s, rel=0.02)] * 2


def test_a_job_that_would_miss_its_limit_goes_first_if_that_helps(pool: Pool) -> None:
    big = pool.submit(8192, 8192, 8192)
    alone_s = 2 * 8192**3 / 100e9
    urgent = pool.submit(8192, 8192, 8192, timeout_s=1.3 * alone_s, user="other")
    assert urgent.is_urgent
    assert rank(pool, urgent) < rank(pool, big)
    assert state_of(urgent) == "running"


def test_a_job_that_cannot_meet_its_limit_is_refused_with_the_predicted_time(pool: Pool) -> None:
    alone_s = 2 * 8192**3 / 100e9
    hopeless = pool.submit(8192, 8192, 8192, timeout_s=0.5 * alone_s)
    assert state_of(hopeless) == "failed"
    assert hopeless.failure is not None
    assert hopeless.failure.code == "timed_out"
    assert "it would take 11" in hopeless.failure.message
    assert f"not finished within {0.5 * alone_s:g} s" in hopeless.failure.message
    assert pool.take_sent(effects.SendAssign) == []


def test_many_small_jobs_spread_over_equal_devices(pool: Pool) -> None:
    for name in "cdefgh":
        pool.join(name)
    jobs = [pool.submit(1500, 1500, 1500) for _ in range(48)]
    work = dict.fromkeys("abcdefgh", 0.0)
    for job in jobs:
        for subtask in pool.active(job):
            work[subtask.node] += job.flops_of(0, subtask.area)
    assert max(work.values()) <= 1.1 * min(work.values())
    for job in jobs:
        check_cover(job)


@pytest.mark.parametrize("answer", [effects.MakePlan, effects.MakeResults])
def test_jobs_that_come_at_once_do_not_all_go_to_the_same_device(
    pool: Pool, answer: type[effects.Effect]
) -> None:
    for name in "cdefgh":
        pool.join(name)
    pool.holds_back = {answer}
    jobs = [pool.submit(128, 1024, 128) for _ in range(8)]
    while pool.held_back:
        held, pool.held_back = pool.held_back, []
        for give in held:
            give()
    nodes = {subtask.node for job in jobs for subtask in pool.active(job)}
    assert nodes == set("abcdefgh")
    assert pool.core.world.pending == {}
    assert not pool.core.world.planning
