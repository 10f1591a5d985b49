"""After a restart: what is there is adopted, what is gone is made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.records.test_records import committed

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.machine import NodeState, SubtaskState
from deadheat.scheduler.core.nodes import LOST_AFTER_S
from deadheat.scheduler.core.restore import Matrices, restore
from deadheat.scheduler.records import database
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.reading import Reader

KEPT = Matrices(frozenset({"result1"}))


def restarted(before: Pool, path: Path, matrices: Matrices = KEPT) -> Pool:
    """A new scheduler on what the old one committed."""
    clock = Clock(1_700_000_000.0)
    database.migrate(path)
    committed(path, before.committed, clock)
    reader = Reader(database.open_engine(path, writes=False), clock)
    after = Pool()
    after.now = before.now + 1.0
    found = restore(after.core.world, after.now, reader.nodes(), reader.unfinished_jobs(), matrices)
    for effect in found:
        if isinstance(effect, effects.Commit):
            after.committed += effect.changes
        elif answer := after._answer(effect):
            answer()
        else:
            after.sent.append(effect)
    return after


@pytest.fixture
def before() -> Pool:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    pool.submit()
    pool.pass_time(0.5)
    return pool


def hold(pool: Pool, node: str, *, finished: bool = False) -> tuple[events.HeldSubtask, ...]:
    job = pool.jobs["j1"]
    return tuple(
        events.HeldSubtask(s.id, finished) for s in job.subtasks.values() if s.node == node
    )


def test_agents_that_come_back_go_on_with_what_they_hold(before: Pool, tmp_path: Path) -> None:
    after = restarted(before, tmp_path / "db")
    job = after.jobs["j1"]
    check_cover(job)
    assert after.nodes["a"].state is NodeState.SUSPECT
    after.join("a", cpus=frozenset({0}), held=hold(after, "a"))
    after.join("b", cpus=frozenset({1}), held=hold(after, "b", finished=True))
    assert after.take_sent(effects.SendAssign) == []
    for node in "ab":
        after.finish(after.on(job, node))
    assert state_of(job) == "done"


def test_an_agent_that_does_not_come_back_is_replaced(before: Pool, tmp_path: Path) -> None:
    after = restarted(before, tmp_path / "db")
    job = after.jobs["j1"]
    after.join("a", cpus=frozenset({0}), held=hold(after, "a"))
    for _ in range(int(LOST_AFTER_S) + 1):
        after.pass_time(1.0)
        after.sample("a")
    assert after.nodes["b"].state is NodeState.LOST
    check_cover(job)
    assert {subtask.node for subtask in after.active(job)} == {"a"}


def test_a_result_that_is_gone_is_made_again_whole(before: Pool, tmp_path: Path) -> None:
    before.finish(before.on(before.jobs["j1"], "a"))
    after = restarted(before, tmp_path / "db", Matrices())
    job = after.jobs["j1"]
    assert all(s.state is SubtaskState.SUPERSEDED for s in job.subtasks.values())
    after.join("a", cpus=frozenset({0}), held=hold(after, "a", finished=True))
    check_cover(job)
    assert sum(subtask.area for subtask in after.active(job)) == 4096 * 4096


def test_what_was_done_before_the_restart_stays_done(before: Pool, tmp_path: Path) -> None:
    before.finish(before.on(before.jobs["j1"], "a"))
    after = restarted(before, tmp_path / "db")
    job = after.jobs["j1"]
    check_cover(job)
    after.join("b", cpus=frozenset({1}), held=hold(after, "b"))
    after.finish(after.on(job, "b"))
    assert state_of(job) == "done"
    assert job.computed_s is not None


def test_a_queued_job_is_queued_again(tmp_path: Path) -> None:
    before = Pool()
    before.submit(timeout_s=60.0)
    after = restarted(before, tmp_path / "db")
    assert state_of(after.jobs["j1"]) == "queued"
    after.pass_time(59.5)
    assert state_of(after.jobs["j1"]) == "failed"


def test_a_drained_node_stays_drained(before: Pool, tmp_path: Path) -> None:
    before.feed(events.DrainAsked("b", "maintenance"))
    after = restarted(before, tmp_path / "db")
    after.join("b", cpus=frozenset({1}), held=hold(after, "b"))
    assert state_of(after.nodes["b"]) == "draining"


def test_the_same_request_is_the_same_job_after_a_restart(before: Pool, tmp_path: Path) -> None:
    after = restarted(before, tmp_path / "db")
    assert after.core.world.requests == {"r1": "j1"}
