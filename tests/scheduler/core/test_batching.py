"""Batching: every call in exactly one batch, in order, within the bounds that are stated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.core.batching import MAX_IN_FLIGHT, MAX_QUEUED, Batcher, Call

MAX_ROWS = 8

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, MAX_ROWS), st.floats(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 20), st.just(0.0)),
        st.tuples(st.just("end"), st.just(0), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(0, 2)),
    ),
    max_size=60,
)


class World:
    """A batcher as the service uses it: asked after each event, and when it says that it is due."""

    def __init__(self) -> None:
        self.batcher = Batcher(MAX_ROWS)
        self.now = 0.0
        self.calls: list[Call] = []
        self.left: set[int] = set()
        self.sent: list[list[Call]] = []
        self.open: list[list[Call]] = []

    def pump(self) -> None:
        while batch := self.batcher.take(self.now):
            self.sent.append(batch)
            self.open.append(batch)

    def wait(self, until_s: float) -> None:
        while (due_s := self.batcher.due_s()) <= until_s:
            self.now = max(self.now, due_s)
            self.pump()
        self.now = until_s

    def act(self, what: str, number: int, seconds: float) -> None:
        if what == "call":
            call = Call(len(self.calls), number, self.now + seconds)
            self.calls.append(call)
            self.batcher.add(call)
        elif what == "leave":
            if self.batcher.remove(number):
                self.left.add(number)
        elif what == "end" and self.open:
            self.open.pop(0)
            self.batcher.ended()
        elif what == "wait":
            self.wait(self.now + seconds)
        self.pump()

    def waiting(self) -> list[Call]:
        gone = self.left | {call.number for batch in self.sent for call in batch}
        return [call for call in self.calls if call.number not in gone]


@given(ACTIONS)
def test_each_call_is_in_one_batch_in_order_and_within_the_bounds(
    actions: list[tuple[str, int, float]],
) -> None:
    world = World()
    for action in actions:
        world.act(*action)
        assert len(world.open) == world.batcher.in_flight <= MAX_IN_FLIGHT
        if len(world.open) < MAX_IN_FLIGHT:
            # The bound: while there is a place, nobody waits for longer than that.
            assert all(call.due_s > world.now for call in world.waiting())
            assert sum(call.rows for call in world.waiting()) < MAX_ROWS
        assert len(world.batcher) == len(world.waiting())
    while world.open:
        world.act("end", 0, 0.0)
    world.wait(world.now + 10)
    while world.open:
        world.act("end", 0, 0.0)
        world.wait(world.now + 10)
    numbers = [call.number for batch in world.sent for call in batch]
    assert numbers == sorted(set(numbers))
    assert set(numbers) | world.left == {call.number for call in world.calls}
    assert not set(numbers) & world.left
    assert all(0 < sum(call.rows for call in batch) <= MAX_ROWS for batch in world.sent)
    assert world.batcher.is_idle


def test_a_call_that_finds_nobody_there_does_not_wait() -> None:
    batcher = Batcher(MAX_ROWS)
    for number in range(5):
        batcher.add(Call(number, 1, math.inf))
        assert [call.number for call in batcher.take(0.0)] == [number]
        batcher.ended()


def test_calls_wait_for_the_batch_that_is_under_way_and_go_together() -> None:
    batcher = Batcher(MAX_ROWS)
    batcher.add(Call(0, 1, 5.0))
    assert len(batcher.take(0.0)) == 1
    for number in (1, 2, 3):
        batcher.add(Call(number, 1, 5.0))
        assert batcher.take(1.0) == []
    batcher.ended()
    assert [call.number for call in batcher.take(1.0)] == [1, 2, 3]


def test_after_a_batch_of_several_a_call_waits_for_company_up_to_its_bound() -> None:
    batcher = Batcher(MAX_ROWS)
    for number in range(3):
        batcher.add(Call(number, 1, 0.0))
    assert len(batcher.take(0.0)) == 3
    batcher.ended()
    batcher.add(Call(3, 1, 7.0))
    assert batcher.take(6.9) == []
    assert batcher.due_s() == 7.0
    assert [call.number for call in batcher.take(7.0)] == [3]


def test_a_full_batch_goes_at_once_and_what_does_not_fit_goes_with_the_next() -> None:
    batcher = Batcher(MAX_ROWS)
    batcher.add(Call(0, 1, 9.0))
    batcher.take(0.0)
    batcher.add(Call(1, 5, 9.0))
    assert batcher.take(0.0) == []
    batcher.add(Call(2, 4, 9.0))
    assert [call.number for call in batcher.take(0.0)] == [1]


def test_one_call_too_many_is_refused_with_the_limit() -> None:
    batcher = Batcher(MAX_ROWS)
    for number in range(MAX_QUEUED):
        batcher.add(Call(number, 1, 9.0))
    with pytest.raises(LimitReached, match=f"busy: {MAX_QUEUED} calls"):
        batcher.add(Call(MAX_QUEUED, 1, 9.0))
    assert len(batcher.drop_all()) == MAX_QUEUED
    assert batcher.is_idle
