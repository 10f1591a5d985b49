"""Epochs among several devices: whether it pays, who takes part, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.core.test_trainings import training
from tests.scheduler.planner.builders import GIGABIT, device

from deadheat.runtime import descents
from deadheat.runtime.programs import Descent, uncovered
from deadheat.scheduler.planner import shared
from deadheat.scheduler.planner.inputs import Device, Link, PlanningInput, Policy, Pool, Work
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.planner import plan


def planned(
    devices: Sequence[Device],
    batch_size: int = 25_000,
    *,
    rows: int = 100_000,
    may_share: bool = True,
) -> Plan:
    program = training(1, rows, batch_size)
    work = Work(0, program.types["s1"].whole(), may_share=may_share)
    made = plan(PlanningInput(program, (work,), Pool.of(devices), Policy()), now=0.0)
    (step,) = made.steps
    assert uncovered(work.rectangle, [p.rectangle for p in made.placements]) == []
    kind = program.operations[0].kind
    assert isinstance(kind, Descent)
    # Behind the parameters a state is not cut.
    starts = [p.rectangle.column_start for p in made.placements]
    assert all(start < descents.parameters(kind) for start in starts)
    assert not step.left
    return made


def near(name: str, gflops: float = 50.0, **changes: object) -> Device:
    return device(name, gflops, meets="here", **changes)


def share(made: Plan, name: str) -> float:
    (step,) = made.steps
    found = [reason.share for reason in step.reasons() if reason.node == name]
    return found[0] if found else 0.0


def test_parts_are_by_what_each_could_do_now() -> None:
    made = planned([near("a", 40.0), near("b", 60.0), near("c", 100.0, availability=0.2)])
    for name, expected in (("a", 40.0), ("b", 60.0), ("c", 20.0)):
        assert share(made, name) == pytest.approx(expected / 120, rel=0.01)
    (step,) = made.steps
    assert len(set(step.finish_s.tolist())) == 1
    assert np.ptp(step.compute_s) <= 1e-3 * step.compute_s.max()
    text = str(made)
    assert "an epoch, shared: of each batch's rows each device takes its part" in text
    assert "of which gradients take" in text
    assert "with a/cpu at its root" in text
    assert "instead, b/cpu alone: " in text


def test_a_step_that_is_too_small_is_one_devices_and_that_is_said() -> None:
    made = planned([near("a", 40.0), near("b", 60.0)], batch_size=50, rows=1000)
    (step,) = made.steps
    assert step.cut == "epoch"
    assert share(made, "b") == 1.0
    assert "its steps are too small to share: with a/cpu, b/cpu each would take " in str(made)
    assert "of which their gradients' way takes " in str(made)
    assert "instead, shared by 2 devices: " in str(made)
    assert "too small to share" in str(made.as_dict()["steps"])


def test_who_cannot_exchange_gradients_has_no_part() -> None:
    assert len(planned([near("a"), near("b"), device("deaf", 80.0)]).placements) == 2
    # Each of these could with others, but not with one another.
    made = planned([near("a"), device("b", 60.0, meets="there")])
    assert share(made, "b") == 1.0
    assert "no two devices that hold all of it can exchange gradients" in str(made)
    # Nor whoever has no memory for all of it.
    small = near("small", 90.0, link=GIGABIT, memory_bytes=1 << 20)
    assert len(planned([near("a"), near("b"), small]).placements) == 2


def test_what_has_failed_shared_is_given_to_one() -> None:
    made = planned([near("a"), near("b", 60.0)], may_share=False)
    assert share(made, "b") == 1.0
    assert "it has failed where it was shared" in str(made)


def test_a_slow_device_or_a_slow_link_is_left_out() -> None:
    made = planned([near("a"), near("b"), near("snail", 0.5)])
    assert share(made, "snail") == 0.0
    slow = Link(is_local=False, bandwidth_bytes_per_s=1e6, latency_s=0.05)
    made = planned([near("a"), near("b"), near("modem", 50.0, link=slow)])
    assert share(made, "modem") == 0.0


def test_gradients_of_one_host_stay_in_its_memory_and_others_do_not() -> None:
    """The same devices on the store's host, and behind links faster than chunks are made."""
    link = Link(is_local=False, bandwidth_bytes_per_s=1e12, latency_s=0.0)
    held = frozenset({"X", "y"})
    seconds = []
    for how in ({}, {"link": link, "holds": held}):
        devices = [near("a", **how), near("b", **how)]  # type: ignore[arg-type]
        seconds.append(planned(devices, batch_size=10_000).makespan_s)
    program = training(1, 100_000, 10_000)
    kind = program.operations[0].kind
    assert isinstance(kind, Descent)
    gradient = descents.parameters(kind) * program.types["s1"].element.itemsize
    saved_s = gradient / shared.CHUNKS_BYTES_PER_S - gradient / shared.NEAR_BYTES_PER_S
    assert seconds[1] - seconds[0] >= 10 * saved_s * 0.99


def test_fast_links_are_near_the_root() -> None:
    links = {"slow": 2e8, "fast": 1e9, "middle": 5e8}
    devices = [
        near(
            name,
            link=Link(is_local=False, bandwidth_bytes_per_s=rate, latency_s=1e-4),
            holds=frozenset({"X", "y"}),
        )
        for name, rate in links.items()
    ]
    made = planned([*devices, near("store")], batch_size=100_000, rows=1_000_000)
    assert [p.device for p in made.placements] == [
        f"{name}/cpu" for name in ("store", "fast", "middle", "slow")
    ]


def test_memory_counts_all_operands_for_everybody() -> None:
    program = training(1, 100_000, 25_000)
    devices = [near("a", link=GIGABIT), near("b", link=GIGABIT)]
    (step,) = planned(devices).steps
    whole = sum(program.types[name].size_bytes for name in ("X", "y", "s0"))
    if len(step.used) == 2:
        assert (step.memory_bytes(program) > whole).all()
    tight = [replace(one, free_bytes=1 << 20) for one in devices]
    work = Work(0, program.types["s1"].whole())
    made = plan(PlanningInput(program, (work,), Pool.of(tight), Policy()), now=0.0)
    assert made.steps == ()
    assert made.left_area == work.rectangle.area


@settings(deadline=None, max_examples=60)
@given(
    speeds=st.lists(st.floats(1.0, 200.0), min_size=1, max_size=20),
    free=st.lists(st.floats(0.05, 1.0), min_size=20, max_size=20),
    batch=st.integers(1, 60_000),
    rows=st.integers(1, 100_000),
)
def test_sharing_is_never_predicted_to_be_slower(
    speeds: list[float], free: list[float], batch: int, rows: int
) -> None:
    devices = [
        near(f"n{number:02}", gflops, availability=share)
        for number, (gflops, share) in enumerate(zip(speeds, free))
    ]
    made = planned(devices, batch, rows=rows)
    alone = planned(devices, batch, rows=rows, may_share=False)
    assert made.makespan_s <= alone.makespan_s
    assert made == planned(list(reversed(devices)), batch, rows=rows)
