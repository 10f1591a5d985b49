"""Work that the memories do not hold at once: rounds of it, until all is done exactly once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.planner.builders import GIGABIT, device, problem, product
from tests.scheduler.planner.test_operations import KINDS
from tests.scheduler.planner.test_operations import program as built

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Gemm, Kind, Program, Rectangle, needed_bytes, uncovered
from deadheat.scheduler.planner.inputs import Device, PlanningInput, Policy, Pool, Work
from deadheat.scheduler.planner.plan import Placement, Plan
from deadheat.scheduler.planner.planner import plan

MIB = 1 << 20
#: Operands of a product whose first is read transposed.
LYING = ((600, 1200), (600, 900))


def needed(program: Program, rectangle: Rectangle) -> int:
    return needed_bytes(program.operations[0], program.types, rectangle)


class Workers:
    """Devices that work at what they are given, one thing after the other, and have no room for
    more than they have."""

    def __init__(self, program: Program, devices: list[Device]) -> None:
        self.program = program
        self.devices = {one.id: one for one in devices}
        self.open = [program.types["C"].whole()]
        self.active: list[Placement] = []
        self.done: list[Placement] = []
        self.now = 0.0
        self.plans = 0

    def used_bytes(self, device_id: str) -> int:
        return sum(needed(self.program, p.rectangle) for p in self.active if p.device == device_id)

    def pool(self) -> Pool:
        found = []
        for id_, one in self.devices.items():
            ends = [p.predicted_finish_s for p in self.active if p.device == id_]
            ready_s = max([one.ready_s, *(end - self.now for end in ends)])
            free = one.memory_bytes - self.used_bytes(id_)
            found.append(replace(one, ready_s=ready_s, free_bytes=free))
        return Pool.of(found)

    def plan(self) -> Plan:
        self.plans += 1
        works = tuple(Work(0, piece) for piece in self.open)
        made = plan(PlanningInput(self.program, works, self.pool(), Policy()), now=self.now)
        planned = {step.rectangle for step in made.steps}
        self.open = [piece for piece in self.open if piece not in planned]
        for step in made.steps:
            self.open += step.left
            self.active += [
                replace(one, predicted_finish_s=self.now + one.predicted_finish_s)
                for one in step.placements
            ]
        assert made.left_area == sum(piece.area for piece in self.open)
        for id_, one in self.devices.items():
            assert self.used_bytes(id_) <= one.memory_bytes or one.link.is_local
        return made

    def end_one(self) -> None:
        first = min(self.active, key=lambda one: one.predicted_finish_s)
        self.active.remove(first)
        self.done.append(first)
        self.now = max(self.now, first.predicted_finish_s)

    def work(self) -> None:
        while self.open or self.active:
            if self.open:
                self.plan()
                assert self.active, "nobody has anything to do, and some is left"
            self.end_one()


memories = st.sampled_from([1 * MIB, 2 * MIB, 5 * MIB, 24 * MIB, 1 << 40])
sizes = st.integers(1, 1500)


@settings(deadline=None)
@given(
    st.lists(st.tuples(memories, st.floats(5.0, 200.0)), min_size=1, max_size=4),
    sizes,
    sizes,
    sizes,
)
def test_every_element_is_given_out_once_and_nobody_gets_more_than_fits(
    drawn: list[tuple[int, float]], m: int, k: int, n: int
) -> None:
    devices = [
        device(f"d{number}", speed, link=GIGABIT, memory_bytes=memory)
        for number, (memory, speed) in enumerate(drawn)
    ]
    workers = Workers(product(m, k, n), devices)
    workers.work()
    pieces = [placement.rectangle for placement in workers.done]
    assert uncovered(workers.program.types["C"].whole(), pieces) == []
    assert sum(piece.area for piece in pieces) == m * n


def test_rectangles_fill_the_memory_and_are_about_square() -> None:
    far = device("far", link=GIGABIT, memory_bytes=24 * MIB)
    workers = Workers(product(2896, 2896, 2896), [far])
    (first,) = workers.plan().placements
    assert needed(workers.program, first.rectangle) > 0.8 * 24 * MIB
    assert 0.8 < first.rectangle.rows / first.rectangle.columns < 1.25
    workers.work()
    # Nobody could do with fewer than squares that fill the memory; and no sliver is left over.
    side = 24 * MIB / (2896 * 8 + np.sqrt((2896 * 8) ** 2 + 8 * 24 * MIB))
    assert len(workers.done) <= 1.3 * (2896 / side) ** 2
    assert min(placement.rectangle.area for placement in workers.done) > 0.5 * side**2


def test_the_last_round_is_shared_by_all_so_that_they_finish_together() -> None:
    devices = [
        device(name, speed, link=GIGABIT, memory_bytes=24 * MIB)
        for name, speed in (("a", 100.0), ("b", 50.0))
    ]
    workers = Workers(product(4096, 2048, 4096), devices)
    workers.work()
    ends = {p.device: p.predicted_finish_s for p in workers.done}
    # What is left then is a part of one rectangle of the slower: re-balancing sees to that.
    longest_s = max(p.predicted_finish_s - p.predicted_start_s for p in workers.done)
    assert abs(ends["a/cpu"] - ends["b/cpu"]) < longest_s


def test_a_second_operand_that_fits_into_no_memory_is_cut_by_columns_too() -> None:
    far = device("far", link=GIGABIT, memory_bytes=24 * MIB)
    workers = Workers(product(64, 2048, 8192), [far])  # B has 128 MiB.
    workers.work()
    assert {p.rectangle.rows for p in workers.done} == {64}
    assert len(workers.done) <= 8


def test_what_fits_free_memories_waits_for_them() -> None:
    busy = device("far", link=GIGABIT, memory_bytes=24 * MIB, free_bytes=1 * MIB, ready_s=2.0)
    small = plan(problem(product(64, 64, 64), [busy]), now=0.0)
    assert small.left_area == 0
    large = plan(problem(product(512, 1024, 512), [busy]), now=0.0)
    assert (large.steps, large.left_area) == ((), 512 * 512)


def test_whoever_has_room_gets_his_part_and_leaves_the_rest_to_those_who_are_busy() -> None:
    free = device("a", link=GIGABIT, memory_bytes=24 * MIB)
    busy = device("b", link=GIGABIT, memory_bytes=24 * MIB, free_bytes=0, ready_s=0.01)
    found = plan(problem(product(1024, 512, 1024), [free, busy]), now=0.0)
    (given_,) = found.placements
    assert given_.device == "a/cpu"
    assert 0.3 < found.left_area / 1024**2 < 0.6


def test_not_even_a_grain_fits_is_an_error_that_says_how_much_is_missing() -> None:
    far = device("far", link=GIGABIT, memory_bytes=24 * MIB)
    words = r"16 x 16 elements of C, .* need 33556480 bytes .* far/cpu, has 25165824 bytes"
    with pytest.raises(LimitReached, match=words):
        plan(problem(product(2000, 1 << 17, 2000), [far]), now=0.0)


@pytest.mark.parametrize("mib", [2, 5])
@pytest.mark.parametrize(("kind", "shapes"), [*KINDS, (Gemm(transpose_a=True), LYING)], ids=str)
def test_every_kind_of_operation_is_worked_within_memory(
    kind: Kind, shapes: tuple[tuple[int, int], ...], mib: int
) -> None:
    far = [device(name, link=GIGABIT, memory_bytes=mib * MIB) for name in ("a", "b")]
    workers = Workers(built(kind, shapes), far)
    workers.work()
    pieces = [placement.rectangle for placement in workers.done]
    whole = workers.program.types["C"].whole()
    assert uncovered(whole, pieces) == []
    assert sum(piece.area for piece in pieces) == whole.area
