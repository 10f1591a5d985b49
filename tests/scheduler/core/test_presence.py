"""Devices that give way or come late, and nodes that only pass by."""

from __future__ import annotations

import pytest
from tests.scheduler.core.harness import HOST, Pool, check_cover, state_of
from tests.scheduler.planner.builders import model

from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.events import DeviceFacts
from deadheat.scheduler.core.presence import MAX_DEVICES
from deadheat.scheduler.core.state import Subtask

WHY = "others use 80% of it, above 50%"


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    return pool


def give_way(pool: Pool, name: str, reason: str = WHY) -> None:
    pool.feed(events.DeviceYields(name, f"{name}/cpu", reason))


def give_back(pool: Pool, subtask: Subtask) -> None:
    """As an agent does by itself: everything that it has not reported as done."""
    whole = subtask.pieces[0]
    row = whole.row_start + -(-subtask.area_done // whole.columns)
    released = [whole.with_rows(row, whole.row_stop)]
    pool.feed(events.SubtaskResized(subtask.node, subtask.id, released))


def test_what_a_device_gives_back_goes_to_others_and_it_gets_nothing_new(pool: Pool) -> None:
    job = pool.submit()
    given = pool.on(job, "b")
    pool.pass_time(0.2)
    pool.progress(given, given.area // 4, took_s=0.2)
    give_way(pool, "b")
    assert state_of(pool.nodes["b"]) == "up"
    give_back(pool, given)
    check_cover(job)
    assert {subtask.node for subtask in pool.active(job) if subtask is not given} == {"a"}
    assert f"left out: it gives way ({WHY})" in job.plan_texts[-1]
    pool.finish(given)
    while rest := pool.active(job):
        pool.finish(rest[0])
    assert state_of(job) == "done"
    second = pool.submit()
    assert {subtask.node for subtask in pool.active(second)} == {"a"}


def test_one_that_takes_work_again_gets_some_at_once(pool: Pool) -> None:
    give_way(pool, "a")
    give_way(pool, "b")
    job = pool.submit()
    assert job.note == f"waiting: a/cpu: it gives way ({WHY}); b/cpu: it gives way ({WHY})"
    give_way(pool, "b", "")
    assert {subtask.node for subtask in pool.active(job)} == {"b"}


def test_a_plan_that_was_made_meanwhile_is_not_carried_out(pool: Pool) -> None:
    pool.holds_back.add(effects.MakePlan)
    job = pool.submit()
    give_way(pool, "b")
    pool.release_answers()
    assert {subtask.node for subtask in pool.active(job)} == {"a"}


def test_a_node_that_registers_again_says_whether_it_gives_way(pool: Pool) -> None:
    pool.feed(events.SessionBroken("b", "1"))
    facts = DeviceFacts("b/cpu", "cpu", "test", 1, 1 << 34, model(50.0).points, yields=WHY)
    registered = events.NodeRegistered("b", "1", HOST, frozenset({1}), False, True, "test", [facts])
    pool.feed(registered)
    job = pool.submit()
    assert {subtask.node for subtask in pool.active(job)} == {"a"}
    give_way(pool, "b", "")
    assert pool.core.world.devices["b/cpu"].yields == ""


def test_each_turn_is_an_event_that_is_kept(pool: Pool) -> None:
    for reason in (WHY, WHY, "", ""):
        give_way(pool, "b", reason)
    kept = [
        (row.kind, row.detail)
        for row in pool.committed
        if isinstance(row, effects.EventRow) and row.kind.startswith("device_")
    ]
    assert kept == [("device_yields", f"b/cpu: {WHY}"), ("device_resumed", "b/cpu")]


def test_nobody_speaks_for_the_devices_of_others(pool: Pool) -> None:
    pool.feed(events.DeviceYields("a", "b/cpu", WHY))
    assert pool.core.world.devices["b/cpu"].yields == ""
    facts = DeviceFacts("b/cpu", "cpu", "test", 64, 1 << 34, model(5000.0).points)
    pool.feed(events.DeviceAppeared("a", facts))
    assert pool.core.world.devices["b/cpu"].node == "b"
    assert set(pool.nodes["a"].devices) == {"a/cpu"}


def test_a_device_that_appears_late_works_like_any_other(pool: Pool) -> None:
    job = pool.submit()
    facts = DeviceFacts("b/gpu0", "gpu", "test", 1, 1 << 34, model(500.0).points)
    pool.feed(events.DeviceAppeared("b", facts))
    assert any(isinstance(row, effects.DeviceRow) and row.facts is facts for row in pool.committed)
    second = pool.submit()
    used = {s.device for one in (job, second) for s in pool.active(one)}
    assert "b/gpu0" in used
    # Told again after a break it is the same one.
    device = pool.core.world.devices["b/gpu0"]
    pool.feed(events.DeviceAppeared("b", facts))
    assert pool.core.world.devices["b/gpu0"] is device


def test_a_node_has_only_so_many_devices(pool: Pool) -> None:
    for number in range(MAX_DEVICES + 3):
        facts = DeviceFacts(f"b/gpu{number}", "gpu", "test", 1, 1 << 34)
        pool.feed(events.DeviceAppeared("b", facts))
    assert len(pool.nodes["b"].devices) == MAX_DEVICES


def test_who_passes_by_is_told_whenever_there_is_nothing_to_do(pool: Pool) -> None:
    first = pool.submit()
    facts = DeviceFacts("c/cpu", "cpu", "test", 1, 1 << 34, model(50.0).points)
    pool.feed(
        events.NodeRegistered(
            "c", "1", HOST, frozenset({7}), False, True, "test", [facts], is_once=True
        )
    )
    second = pool.submit()
    for job in (first, second):
        assert pool.take_sent(effects.SendNothingToDo) == []
        while rest := pool.active(job):
            pool.finish(rest[0])
    assert pool.take_sent(effects.SendNothingToDo) == [effects.SendNothingToDo("c")]
    pool.sample("c")
    assert pool.take_sent(effects.SendNothingToDo) == []
    third = pool.submit()
    pool.feed(events.CancelAsked(third.id))
    assert pool.take_sent(effects.SendNothingToDo) == [effects.SendNothingToDo("c")]
    pool.feed(events.NodeLeft("c", "1", "stopped"))
    pool.feed(events.CancelAsked(pool.submit().id))
    assert pool.take_sent(effects.SendNothingToDo) == []


def test_to_hear_twice_of_what_was_given_back_changes_nothing(pool: Pool) -> None:
    job = pool.submit()
    given = pool.on(job, "b")
    pool.pass_time(0.2)
    pool.progress(given, given.area // 4, took_s=0.2)
    give_way(pool, "b")
    whole = given.pieces[0]
    row = whole.row_start + -(-given.area_done // whole.columns)
    released = [whole.with_rows(row, whole.row_stop)]
    for _ in range(2):
        pool.feed(events.SubtaskResized("b", given.id, released))
    check_cover(job)
    assert list(given.pieces) == [whole.with_rows(whole.row_start, row)]
    pool.finish(given)
    pool.feed(events.SubtaskResized("b", given.id, released))
    check_cover(job)
    while rest := pool.active(job):
        pool.finish(rest[0])
    assert state_of(job) == "done"
