"""Giving way on a virtual clock: when, for how long, and what is told in which order."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.agent.core.yielding import (
    HOLD_S,
    RESUME_AFTER_S,
    RESUME_SHARE,
    Yielding,
    YieldPolicy,
)
from deadheat.agent.presence import LEAD_S, Presence
from deadheat.runtime.moments import parse_hours
from deadheat.v1 import agent_pb2 as pb

STEP_S = 0.25
NOON = 12 * 60


class Clock:
    """Looks four times a second, as the probes do."""

    def __init__(self, policy: YieldPolicy, *devices: str) -> None:
        self.yielding = Yielding(policy, devices or ("n/cpu",))
        self.now = 0.0
        self.minute = NOON

    def look(self, foreign: float | None, seconds: float, device: str = "n/cpu") -> list[str]:
        """What changed, in order."""
        changes = []
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            found = self.yielding.look(self.now, self.minute, {device: foreign})
            changes += list(found.values())
        return changes


def test_a_load_above_the_bound_counts_when_it_lasts() -> None:
    clock = Clock(YieldPolicy(above=0.5))
    assert clock.look(0.5, 10.0) == []
    assert clock.look(0.9, HOLD_S) == []
    assert clock.look(0.1, STEP_S) == []
    assert clock.look(0.9, HOLD_S) == []
    assert clock.look(0.9, STEP_S) == ["others use 90% of it, above 50%"]
    assert clock.yielding.reason("n/cpu")


def test_a_device_is_back_when_the_load_has_been_well_below_for_some_seconds() -> None:
    clock = Clock(YieldPolicy(above=0.5))
    clock.look(0.9, 2.0)
    # Between the two bounds nothing changes, however long.
    assert clock.look(0.5 * RESUME_SHARE + 0.01, 60.0) == []
    assert clock.look(0.1, RESUME_AFTER_S) == []
    assert clock.look(0.6, STEP_S) == []
    assert clock.look(0.1, RESUME_AFTER_S) == []
    assert clock.look(0.1, STEP_S) == [""]


def test_an_unknown_load_changes_nothing() -> None:
    clock = Clock(YieldPolicy(above=0.5))
    assert clock.look(None, 10.0) == []
    clock.look(0.9, 2.0)
    assert clock.look(None, 10.0) == []
    assert clock.yielding.reason("n/cpu")


def test_a_new_policy_holds_from_the_next_look_on() -> None:
    clock = Clock(YieldPolicy(above=0.5))
    clock.look(0.9, 2.0)
    clock.yielding.policy = YieldPolicy()
    assert clock.look(0.9, STEP_S) == [""]


def test_hours_are_for_all_devices_and_load_for_each() -> None:
    policy = YieldPolicy(0.5, parse_hours("08:00-11:00,22:00-06:00"))
    clock = Clock(policy, "n/cpu", "n/gpu0")
    clock.look(0.9, 2.0, "n/gpu0")
    assert list(clock.yielding.reasons) == ["n/gpu0"]
    clock.minute = 23 * 60
    assert clock.look(0.9, STEP_S, "n/gpu0") == ["these are its owner's hours, 22:00-06:00"] * 2
    clock.minute = NOON
    # The load has not gone meanwhile.
    clock.look(0.9, STEP_S, "n/gpu0")
    assert list(clock.yielding.reasons) == ["n/gpu0"]


def test_who_leaves_takes_no_work_whatever_the_load() -> None:
    clock = Clock(YieldPolicy())
    clock.yielding.leaving = "it is about to leave"
    assert clock.look(0.0, 5.0) == ["it is about to leave"]


@given(loads=st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=200))
def test_turns_are_never_faster_than_the_hysteresis_allows(loads: list[float | None]) -> None:
    clock = Clock(YieldPolicy(above=0.5))
    turns: list[tuple[float, str]] = []
    for load in loads:
        turns += [(clock.now, reason) for reason in clock.look(load, STEP_S)]
    for (before_s, _), (after_s, reason) in pairwise(turns):
        assert after_s - before_s >= (HOLD_S if reason else RESUME_AFTER_S)
    assert [bool(reason) for _, reason in turns] == [n % 2 == 0 for n in range(len(turns))]


class Agent:
    """A Presence with everything around it played by the test; `log` is what it did, in order."""

    def __init__(self, policy: YieldPolicy, *, once: bool = False, until_s: float | None = None):
        self.now, self.wall_s = 0.0, datetime(2026, 11, 25, 12).timestamp()  # noqa: DTZ001
        self.log: list[tuple[str, Any]] = []
        self.has_worked = False
        self.registration = pb.Register(node="n", once=once)
        self.registration.devices.add(id="n/cpu", kind="cpu")
        self.presence = Presence(
            policy,
            self.registration,
            self,  # type: ignore[arg-type]
            self._tell,
            lambda reason: self.log.append(("leave", reason)),
            until_s=until_s,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall_s,
        )

    def _tell(self, message: pb.AgentServiceSessionRequest) -> None:
        kind = message.WhichOneof("message")
        assert kind
        told = getattr(message, kind)
        self.log.append((kind, told.reason if kind == "yielding" else told.id))

    def set_yielding(self, device: str, *, is_yielding: bool) -> None:
        self.log.append(("give back" if is_yielding else "take", device))

    def pass_time(self, seconds: float, foreign: float = 0.0) -> list[tuple[str, Any]]:
        """What it does meanwhile."""
        self.log.clear()
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.wall_s += STEP_S
            self.presence.look({"n/cpu": foreign})
        return list(self.log)


def test_the_scheduler_hears_of_it_before_anything_is_given_back() -> None:
    agent = Agent(YieldPolicy(above=0.5))
    reason = "others use 80% of it, above 50%"
    assert agent.pass_time(2.0, 0.8) == [("yielding", reason), ("give back", "n/cpu")]
    assert agent.presence.note == f"gives way: {reason}"
    # Whoever registers again says so at once.
    assert agent.registration.devices[0].yields == reason
    agent.log.clear()
    agent.presence.session_opened()
    assert agent.log == [("yielding", reason)]
    assert agent.pass_time(10.0) == [("yielding", ""), ("take", "n/cpu")]
    assert agent.presence.note == ""


def test_a_device_that_appears_is_told_and_told_again_after_a_break() -> None:
    agent = Agent(YieldPolicy(above=0.5))
    agent.presence.appeared(pb.DeviceInfo(id="n/gpu0", kind="gpu"))
    assert agent.log == [("appeared", "n/gpu0")]
    assert [device.id for device in agent.registration.devices] == ["n/cpu", "n/gpu0"]
    agent.log.clear()
    agent.presence.session_opened()
    assert agent.log == [("appeared", "n/gpu0"), ("yielding", ""), ("yielding", "")]
    agent.pass_time(2.0, 0.9)
    assert agent.presence.note == "gives way: cpu: others use 90% of it, above 50%"


def test_it_begins_to_leave_in_time_and_once() -> None:
    agent = Agent(YieldPolicy(), until_s=datetime(2026, 11, 25, 12, 1).timestamp())  # noqa: DTZ001
    assert agent.pass_time(60.0 - LEAD_S - STEP_S) == []
    assert agent.pass_time(2.0) == [
        ("leave", "its time is over"),
        ("yielding", "it is about to leave"),
        ("give back", "n/cpu"),
    ]


@pytest.mark.parametrize(
    ("once", "has_worked", "leaves"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_who_came_once_leaves_when_it_has_worked(once: bool, has_worked: bool, leaves: int) -> None:
    agent = Agent(YieldPolicy(), once=once)
    agent.has_worked = has_worked
    agent.presence.nothing_to_do()
    assert agent.log == [("leave", "the work is done")] * leaves
