"""Epochs that several devices share: all of them end well, or all begin anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scheduler.core.harness import Pool, check_cover, state_of
from tests.scheduler.core.test_restore import restarted
from tests.scheduler.core.test_trainings import training

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.rectangles import uncovered
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.restore import Matrices
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.planner.inputs import Cut

SPEEDS = {"a": 40.0, "b": 60.0, "c": 20.0}


@pytest.fixture
def pool() -> Pool:
    found = Pool()
    for number, (name, gflops) in enumerate(SPEEDS.items()):
        found.join(name, gflops=gflops, peer_address=f"127.0.0.1:{7000 + number}")
    return found


def finish_all(pool: Pool, job: Job) -> None:
    for subtask in pool.active(job):
        pool.finish(subtask, took_s=2.0)


def test_each_device_gets_a_part_by_its_speed_and_is_told_of_the_others(pool: Pool) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    for number in range(3):
        assigned = {one.node: one for one in pool.take_sent(effects.SendAssign)}
        assert set(assigned) == set(SPEEDS)
        whole = job.steps[number].type.whole()
        for name, one in assigned.items():
            share = one.rectangle.columns / whole.columns
            assert share == pytest.approx(SPEEDS[name] / sum(SPEEDS.values()), rel=0.01)
            assert one.rectangle.rows == whole.rows
            assert [source.name for source in one.operands] == ["X", "y", "order", f"s{number}"]
            assert all(s.rectangle.columns == s.type.columns for s in one.operands)
        shares = [one.share for one in assigned.values() if one.share]
        assert sorted(one.member for one in shares) == [0, 1, 2]
        assert len({(one.exchange, one.addresses) for one in shares}) == 1
        for one in assigned.values():
            assert one.share
            assert one.share.addresses[one.share.member] == pool.nodes[one.node].peer_address
        check_cover(job)
        finish_all(pool, job)
    assert state_of(job) == "done"
    # One row for each device and epoch.
    assert len(job.subtasks) == 9
    assert "an epoch, shared: of each batch's rows each device takes its part" in job.plan_texts[0]


@pytest.mark.parametrize("cut", [cut for cut in Cut if cut is not Cut.BALANCED])
def test_baselines_share_no_epoch(pool: Pool, cut: Cut) -> None:
    job = pool.submit(program=training(batch_size=25_000), cut=cut)
    (assigned,) = pool.take_sent(effects.SendAssign)
    assert assigned.share is None
    assert assigned.rectangle == job.steps[0].type.whole()


def test_devices_that_others_do_not_reach_have_no_part(pool: Pool) -> None:
    pool.join("silent", gflops=70.0)
    pool.join("elsewhere", gflops=70.0, host="other", peer_address="127.0.0.1:9")
    job = pool.submit(program=training(batch_size=25_000))
    assert {one.node for one in pool.take_sent(effects.SendAssign)} == set(SPEEDS)
    check_cover(job)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_where_one_is_lost_all_begin_anew_from_the_state_before(pool: Pool, done: int) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    finish_all(pool, job)
    pool.take_sent(effects.SendAssign)
    first, second, lost = pool.active(job)
    for subtask in (first, second)[:done]:
        pool.finish(subtask, took_s=1.0)
    pool.progress(lost, 1000, took_s=1.0)
    node = pool.nodes[lost.node]
    pool.feed(events.NodeLeft(lost.node, node.instance, "stopped"))
    cancelled = {one for sent in pool.take_sent(effects.SendCancel) for one in sent.subtasks}
    assert cancelled == {one.id for one in (first, second)[done:]}
    assert {state_of(one) for one in (first, second, lost)} == {"superseded"}
    again = pool.take_sent(effects.SendAssign)
    assert {one.node for one in again} == set(SPEEDS) - {lost.node}
    assert {one.attempt for one in again} == {2}
    assert {one.operands[3].matrix_id for one in again} == {"result1"}
    assert len({one.share.exchange for one in again if one.share} - {first.id}) == 1
    check_cover(job)
    finish_all(pool, job)
    finish_all(pool, job)
    assert state_of(job) == "done"


def test_where_one_fails_twice_one_device_works_it_alone(pool: Pool) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    for attempt in (1, 2):
        active = pool.active(job)
        assert [one.attempt for one in active] == [attempt] * 3
        pool.fail(active[1], "unavailable")
        assert {state_of(one) for one in active} == {"failed", "superseded"}
    (alone,) = pool.active(job)
    assert alone.rectangle == job.steps[0].type.whole()
    assert "it has failed where it was shared, so one device works it" in job.plan_texts[-1]
    pool.finish(alone)
    assert len(pool.active(job)) == 3  # The next one is shared again.


def test_what_others_would_meet_as_well_fails_the_training_and_ends_all(pool: Pool) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    finish_all(pool, job)
    active = pool.active(job)
    pool.fail(active[0], InvalidInput.code)
    assert state_of(job) == "failed"
    cancelled = {one for sent in pool.take_sent(effects.SendCancel) for one in sent.subtasks}
    assert cancelled >= {one.id for one in active[1:]}
    assert job.checkpoint is job.steps[0]


def test_a_part_that_is_given_back_before_it_began_opens_the_whole_epoch(pool: Pool) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    active = pool.active(job)
    given = active[2]
    pool.feed(events.SubtaskResized(given.node, given.id, [given.rectangle]))
    assert {state_of(one) for one in active} == {"superseded"}
    assert [one.attempt for one in pool.active(job)] == [2, 2, 2]
    check_cover(job)


@pytest.mark.parametrize("ending", ["cancel", "timeout"])
def test_cancelling_and_time_limits_end_all_members(pool: Pool, ending: str) -> None:
    job = pool.submit(program=training(batch_size=25_000), timeout_s=3600.0)
    active = pool.active(job)
    if ending == "cancel":
        pool.feed(events.CancelAsked(job.id))
    else:
        for _ in range(3601):
            pool.pass_time(1.0)
            for name in SPEEDS:
                pool.sample(name)
    assert state_of(job) == ("cancelled" if ending == "cancel" else "failed")
    cancelled = {one for sent in pool.take_sent(effects.SendCancel) for one in sent.subtasks}
    assert cancelled == {one.id for one in active}


def test_an_assignment_that_is_sent_again_says_the_same(pool: Pool) -> None:
    pool.submit(program=training(batch_size=25_000))
    before = {one.node: one for one in pool.take_sent(effects.SendAssign)}
    pool.join("b", gflops=60.0, peer_address="127.0.0.1:7001", cpus=pool.nodes["b"].cpus)
    (again,) = pool.take_sent(effects.SendAssign)
    assert again.share == before["b"].share
    assert again.rectangle == before["b"].rectangle


@pytest.mark.parametrize("comes_back", [True, False])
def test_after_a_restart_members_go_on_or_begin_anew_together(
    pool: Pool, tmp_path: Path, comes_back: bool
) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    finish_all(pool, job)
    held = {one.node: one.id for one in pool.active(job)}
    pool.finish(pool.on(job, "a"))
    there = Matrices(frozenset({"result1", "result1-1"}), frozenset({"result1"}))
    after = restarted(pool, tmp_path / "db", there)
    again = after.jobs["j1"]
    check_cover(again)
    # That one had ended, the agents know: none was told that it is settled.
    assert len(after.active(again)) == 3
    back = ("a", "b", "c") if comes_back else ("b",)
    for name in back:
        kept = (events.HeldSubtask(held[name], is_finished=name == "a"),)
        after.join(name, gflops=SPEEDS[name], held=kept, peer_address="127.0.0.1:1")
    assert after.take_sent(effects.SendSettled) == []
    if comes_back:
        assert after.take_sent(effects.SendAssign) == []
        finish_all(after, again)
        assert again.steps[1].is_done
        return
    for _ in range(12):
        after.pass_time(1.0)
        after.sample("b")
    assert not any(
        uncovered(again.steps[1].type.whole(), [one.rectangle]) for one in after.active(again)
    )
    (assigned,) = after.take_sent(effects.SendAssign)
    assert (assigned.node, assigned.attempt, assigned.share) == ("b", 2, None)
    check_cover(again)


def changes_of(pool: Pool) -> list[effects.Change]:
    found, pool.committed = pool.committed, []
    return found


def settled(pool: Pool) -> set[str]:
    return {one for sent in pool.take_sent(effects.SendSettled) for one in sent.subtasks}


def test_nothing_is_recorded_or_settled_before_all_have_ended_and_the_next_is_planned(
    pool: Pool,
) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    ended = pool.active(job)
    changes_of(pool)
    pool.holds_back = {effects.SealResult, effects.MakeResults}
    for subtask in ended:
        pool.finish(subtask)
        # Whoever says it again, or comes back with it, is not told to forget it.
        pool.finish(subtask)
        node = pool.nodes[subtask.node]
        held = (events.HeldSubtask(subtask.id, is_finished=True),)
        pool.join(
            node.name,
            gflops=SPEEDS[node.name],
            cpus=node.cpus,
            held=held,
            peer_address=node.peer_address,
        )
        assert settled(pool) == set()
    (seal,) = pool.held_back
    pool.held_back = []
    seal()
    (room,) = pool.held_back
    pool.held_back = []
    assert settled(pool) == set()
    recorded = changes_of(pool)
    assert not any(isinstance(one, effects.PlacementChange) for one in recorded)
    room()
    assert settled(pool) == {one.id for one in ended}
    kinds = [type(one) for one in changes_of(pool)]
    assert kinds.count(effects.PlacementChange) == kinds.count(effects.PlacementRow) == 3
    assert kinds.count(effects.PlanRow) == 1


@pytest.mark.parametrize("ending", ["lost", "cancel", "none left", "store"])
def test_held_ends_are_recorded_whatever_becomes_of_the_epoch(pool: Pool, ending: str) -> None:
    job = pool.submit(program=training(batch_size=25_000))
    pool.holds_back = {effects.SealResult}
    members = pool.active(job)
    count = 3 if ending in ("none left", "store") else 2
    for subtask in members[:count]:
        pool.finish(subtask)
    changes_of(pool)
    match ending:
        case "lost":
            pool.fail(members[2], "unavailable")
        case "cancel":
            pool.feed(events.CancelAsked(job.id))
        case "none left":
            for node in list(pool.nodes.values()):
                pool.feed(events.NodeLeft(node.name, node.instance, "stopped"))
            assert settled(pool) == set()
        case "store":
            pool.lost = {"result1"}
    pool.release_answers()
    assert settled(pool) >= {one.id for one in members[:count]}
    last = {one.id: one.values for one in changes_of(pool) if type(one) is effects.PlacementChange}
    was_in_vain = ending in ("lost", "store")
    for subtask in members[:count]:
        assert last[subtask.id]["state"] == ("superseded" if was_in_vain else "done")
    assert pool.core.world.unrecorded == {}


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_state_that_was_sealed_before_its_ends_were_recorded_counts(
    pool: Pool, tmp_path: Path, epochs: int, comes_back: bool
) -> None:
    job = pool.submit(program=training(epochs, batch_size=25_000))
    held = {one.node: one.id for one in pool.active(job)}
    before = list(pool.committed)
    finish_all(pool, job)
    pool.committed = before
    after = restarted(pool, tmp_path / "db", Matrices(frozenset({"result1"}), {"result1"}))
    again = after.jobs["j1"]
    assert again.steps[0].is_done
    assert state_of(again) == "running"  # Its report lacks what the agents have to say.
    for name in ("a", "b") if comes_back else ():
        kept = (events.HeldSubtask(held[name], is_finished=True),)
        after.join(name, gflops=SPEEDS[name], held=kept, peer_address="127.0.0.1:1")
        after.finish(again.subtasks[held[name]], took_s=2.0)
    assert settled(after) == ({held["a"], held["b"]} if comes_back else set())
    for _ in range(15):
        after.pass_time(1.0)
        for name in after.nodes:
            after.sample(name)
    first = [one for one in again.subtasks.values() if one.operation == 0]
    assert {state_of(one) for one in first} == {"done"}
    assert len(first) == 3
    # When one has ended whose agent is gone, nobody knows.
    known = {one.node for one in first if one.finished_s is not None}
    assert known == ({"a", "b"} if comes_back else set())
    if epochs == 1:
        assert state_of(again) == "done"
    elif comes_back:
        assert {one.operation for one in after.active(again)} == {1}
