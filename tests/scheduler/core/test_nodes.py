"""Nodes in the core: silence, loss, return, drain, refusal."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import HOST, Pool, check_cover, state_of

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.learning import MAX_HELD
from deadheat.scheduler.core.machine import NodeState, SubtaskState
from deadheat.scheduler.core.nodes import LOST_AFTER_S, RECONNECT_GRACE_S, SUSPECT_AFTER_S
from deadheat.scheduler.planner.availability import Sample


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    return pool


def keep_alive(pool: Pool, seconds: float, *names: str) -> None:
    for _ in range(int(seconds)):
        pool.pass_time(1.0)
        for name in names:
            pool.sample(name)


def test_silence_makes_suspect_then_lost_and_frees_the_work(pool: Pool) -> None:
    job = pool.submit()
    keep_alive(pool, SUSPECT_AFTER_S, "a")
    pool.pass_time(0.1)
    assert state_of(pool.nodes["b"]) == "suspect"
    keep_alive(pool, LOST_AFTER_S - SUSPECT_AFTER_S, "a")
    assert state_of(pool.nodes["b"]) == "lost"
    assert {subtask.node for subtask in pool.active(job)} == {"a"}
    assert max(subtask.attempt for subtask in pool.active(job)) == 2
    check_cover(job)


def test_a_broken_stream_is_forgiven_for_a_moment(pool: Pool) -> None:
    job = pool.submit()
    held = tuple(events.HeldSubtask(s.id, False) for s in pool.active(job) if s.node == "b")
    pool.feed(events.SessionBroken("b", "1"))
    assert state_of(pool.nodes["b"]) == "suspect"
    pool.pass_time(RECONNECT_GRACE_S / 2)
    pool.take_sent(effects.SendAssign)
    pool.join("b", instance="1", cpus=frozenset({1}), held=held)
    assert state_of(pool.nodes["b"]) == "up"
    # It still has its work: nothing is sent again.
    assert pool.take_sent(effects.SendAssign) == []
    check_cover(job)


def test_what_was_lost_on_the_way_is_sent_again(pool: Pool) -> None:
    pool.submit()
    pool.take_sent(effects.SendAssign)
    pool.feed(events.SessionBroken("b", "1"))
    pool.join("b", instance="1", cpus=frozenset({1}))
    (again,) = pool.take_sent(effects.SendAssign)
    assert again.node == "b"


def test_a_killed_agent_is_lost_soon_and_its_delivered_rows_stay(pool: Pool) -> None:
    job = pool.submit()
    subtask = pool.on(job, "b")
    pool.pass_time(0.5)
    pool.progress(subtask, subtask.area // 2, took_s=0.5)
    pool.feed(events.SessionBroken("b", "1"))
    pool.pass_time(RECONNECT_GRACE_S + 0.1)
    assert state_of(pool.nodes["b"]) == "lost"
    assert subtask.state is SubtaskState.DONE
    assert subtask.area == pytest.approx(subtask.rectangle.area / 2, rel=0.01)
    check_cover(job)
    while rest := pool.active(job):
        pool.finish(rest[0])
    assert state_of(job) == "done"


def test_a_new_process_of_the_same_name_has_lost_the_old_ones_work(pool: Pool) -> None:
    job = pool.submit()
    old = pool.on(job, "b")
    pool.feed(events.SessionBroken("b", "1"))
    pool.join("b", instance="2", cpus=frozenset({1}))
    assert old.state is SubtaskState.SUPERSEDED
    check_cover(job)
    # The old process's result, should it still come, is not wanted.
    made = events.Progress(old.id, old.rectangle.row_stop, old.area, 100.0, 100.0)
    pool.feed(events.SubtaskFinished("b", made, 100.0))
    check_cover(job)


def test_agents_do_not_share_cores_unless_both_say_so(pool: Pool) -> None:
    pool.join("c", cpus=frozenset({0, 5}))
    (refusal,) = pool.take_sent(effects.RefuseNode)
    assert "agent 'a' on this host has cores [0] already" in refusal.error.message
    pool.join("d", cpus=frozenset({0}), host="another")
    assert pool.take_sent(effects.RefuseNode) == []


@pytest.mark.parametrize(("host", "where"), [("another", "another host"), (HOST, "this host")])
def test_one_name_is_one_agent_that_lives(pool: Pool, host: str, where: str) -> None:
    pool.join("a", instance="9", host=host, cpus=frozenset({0}))
    (refusal,) = pool.take_sent(effects.RefuseNode)
    assert f"connected from {where}" in refusal.error.message
    assert pool.nodes["a"].instance == "1"


def test_a_drained_node_finishes_and_gets_nothing_new(pool: Pool) -> None:
    job = pool.submit()
    pool.feed(events.DrainAsked("b", "maintenance"))
    assert state_of(pool.nodes["b"]) == "draining"
    pool.finish(pool.on(job, "b"))
    assert state_of(pool.nodes["b"]) == "drained"
    pool.finish(pool.on(job, "a"))
    second = pool.submit()
    assert {subtask.node for subtask in pool.active(second)} == {"a"}
    assert "drained (maintenance)" in second.plan_texts[-1]
    pool.feed(events.ResumeAsked("b"))
    third = pool.submit()
    assert "b" in {subtask.node for subtask in pool.active(third)}


def test_draining_an_unknown_node_is_refused(pool: Pool) -> None:
    pool.feed(events.DrainAsked("nobody", ""))
    (reply,) = pool.take_sent(effects.ReplyFailure)
    assert reply.failure.message == "there is no node 'nobody'"


def test_if_most_nodes_fall_silent_at_once_we_suspect_ourselves() -> None:
    pool = Pool()
    for k in range(10):
        pool.join(f"n{k}")
    pool.pass_time(LOST_AFTER_S + 2)
    states = [node.state for node in pool.nodes.values()]
    assert NodeState.LOST not in states
    for k in range(10):
        pool.sample(f"n{k}")
    assert all(node.state is NodeState.UP for node in pool.nodes.values())


def test_work_that_kills_three_nodes_kills_no_fourth() -> None:
    pool = Pool()
    for k in range(5):
        pool.join(f"n{k}")
    job = pool.submit(700, 4096, 4096)
    for _ in range(3):
        victim = max(pool.active(job), key=lambda subtask: subtask.deaths)
        pool.fail(victim, "executor_died")
        check_cover(job)
    assert state_of(job) == "failed"
    assert job.failure is not None
    assert "failed on 3 devices in turn; the last: it broke" in job.failure.message


def test_an_agent_that_leaves_in_order_did_not_die_of_its_work(pool: Pool) -> None:
    job = pool.submit()
    subtask = pool.on(job, "b")
    pool.progress(subtask, 1, took_s=0.1)
    pool.feed(events.NodeLeft("b", "1", "stopped"))
    assert all(other.deaths == 0 for other in pool.active(job))
    check_cover(job)


@pytest.mark.parametrize("code", ["invalid_input", "conflict", "data_lost"])
def test_what_another_device_would_meet_as_well_fails_at_once(pool: Pool, code: str) -> None:
    job = pool.submit()
    pool.fail(pool.on(job, "a"), code)
    assert state_of(job) == "failed"


def test_samples_that_cannot_be_are_dropped_or_clamped(pool: Pool) -> None:
    device = pool.core.world.devices["a/cpu"]
    nan = float("nan")
    for bad in (
        Sample(pool.now, 1.0, nan, 0.0, 0.0),
        Sample(pool.now + 100, 1.0, 0.1, 0.0, 0.1),
        Sample(pool.now - 1000, 1.0, 0.1, 0.0, 0.1),
        Sample(pool.now, 0.0, 0.1, 0.0, 0.1),
    ):
        pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", bad, 1)]))
    assert len(device.samples) == 0
    wild = Sample(pool.now, 1.0, 1.7, -3.0, 2.0, foreign_runnable=-4)
    pool.feed(events.NodeSampled("a", [events.DeviceSampled("a/cpu", wild, -1)]))
    (kept,) = device.samples
    assert (kept.busy, kept.own, kept.foreign, kept.foreign_runnable) == (1.0, 0.0, 1.0, 0.0)
    assert device.memory_free_bytes == 0


def test_a_matrix_that_a_far_device_has_is_not_paid_for_again() -> None:
    pool = Pool()
    pool.join("far", host="elsewhere")
    job = pool.submit(2048, 2048, 2048)
    before = pool.on(job, "far").placement
    pool.finish(pool.on(job, "far"))

    def hold(*ids: str) -> None:
        sample = Sample(pool.now, 1.0, 0.0, 0.0, 0.0)
        device = events.DeviceSampled("far/cpu", sample, 1 << 34, ids)
        pool.feed(events.NodeSampled("far", [device]))

    hold("mb", *(f"other{k}" for k in range(1000)))
    assert len(pool.nodes["far"].devices["far/cpu"].held) == MAX_HELD
    second = pool.submit(2048, 2048, 2048)
    after = pool.on(second, "far").placement
    rows = after.rectangle.rows
    assert before.predicted_bytes_in == (before.rectangle.rows + 2048) * 2048 * 8
    assert after.predicted_bytes_in == rows * 2048 * 8
    # An agent that was started anew has nothing.
    pool.feed(events.SessionBroken("far", "1"))
    pool.join("far", host="elsewhere", instance="2")
    assert pool.nodes["far"].devices["far/cpu"].held == frozenset()
