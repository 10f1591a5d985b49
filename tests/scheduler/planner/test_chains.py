"""The chain planner: as good as trying every order, never worse than the usual ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MAX_CHAIN
from deadheat.runtime.rules import fewest_steps
from deadheat.scheduler.planner.chains import (
    ChainPlan,
    Cost,
    RatesCost,
    fewest_operations,
    plan_chain,
)
from deadheat.scheduler.planner.orders import Leaf, Order, Pair, products

#: Halves, and a quarter with three quarters: groups 1 to 4 beside the whole pool.
SPLITS = ((1, 2), (3, 4))
chains = st.lists(st.integers(1, 5_000), min_size=3, max_size=7)
long_chains = st.lists(st.integers(1, 5_000), min_size=3, max_size=12)


@dataclass(frozen=True)
class CrookedCost:
    """Rates that depend on the shape, as real ones do, so that fewer operations may take longer."""

    scale: float = 1.0

    def product_s(self, rows: int, inner: int, columns: int, group: int) -> float:
        rate = 1e9 * (1.0, 0.5, 0.5, 0.25, 0.75)[group]
        thin = 1.0 + 200.0 / min(rows, inner, columns)
        return self.scale * (1e-3 + float(rows) * inner * columns * thin / rate)


costs = st.one_of(
    st.just(CrookedCost()),
    st.builds(
        lambda rate, launch, minimum: RatesCost(
            (rate, rate / 2, rate / 2, rate / 4, rate * 3 / 4), launch, minimum
        ),
        st.floats(1e6, 1e12),
        st.floats(0, 0.1),
        st.floats(0, 0.5),
    ),
)


def every_order(start: int, stop: int) -> Iterator[Order]:
    if stop - start == 1:
        yield Leaf(start)
    for middle in range(start + 1, stop):
        for left in every_order(start, middle):
            for right in every_order(middle, stop):
                yield Pair(left, right)


def in_sequence(order: Order, sizes: Sequence[int], cost: Cost, group: int = 0) -> float:
    if isinstance(order, Leaf):
        return 0.0
    sides_s = in_sequence(order.left, sizes, cost, group) + in_sequence(
        order.right, sizes, cost, group
    )
    shape = (sizes[order.start], sizes[order.right.start], sizes[order.stop])
    return sides_s + cost.product_s(*shape, group)


def at_best(i: int, j: int, sizes: Sequence[int], cost: Cost) -> float:
    """The recurrence itself, tried without a table."""
    found = [0.0] if i == j else []
    for k in range(i, j):
        sides = [at_best(i, k, sizes, cost) + at_best(k + 1, j, sizes, cost)]
        if i < k and k + 1 < j:
            for g, h in (*SPLITS, *((h, g) for g, h in SPLITS)):
                left_s = min(in_sequence(o, sizes, cost, g) for o in every_order(i, k + 1))
                right_s = min(in_sequence(o, sizes, cost, h) for o in every_order(k + 1, j + 1))
                sides.append(max(left_s, right_s))
        found.append(min(sides) + cost.product_s(sizes[i], sizes[k + 1], sizes[j + 1], 0))
    return min(found)


@given(chains, costs)
def test_in_sequence_it_is_the_best_of_all_orders(sizes: list[int], cost: Cost) -> None:
    plan = plan_chain(sizes, cost)
    best = min(in_sequence(order, sizes, cost) for order in every_order(0, len(sizes) - 1))
    assert plan.predicted_s == best
    assert in_sequence(plan.order, sizes, cost) == best


@given(st.lists(st.integers(1, 5_000), min_size=5, max_size=7), costs)
def test_with_sides_at_once_it_is_the_best_of_all_choices(sizes: list[int], cost: Cost) -> None:
    assert plan_chain(sizes, cost, SPLITS).predicted_s == at_best(0, len(sizes) - 2, sizes, cost)


@given(long_chains, costs)
def test_it_is_never_worse_than_the_usual_orders_in_sequence(sizes: list[int], cost: Cost) -> None:
    plan = plan_chain(sizes, cost, SPLITS)
    assert [other.name for other in plan.alternatives] == [
        "fewest operations, in sequence",
        "left to right",
        "right to left",
    ]
    for other in plan.alternatives:
        assert plan.predicted_s <= other.predicted_s == in_sequence(other.order, sizes, cost)
    assert plan.predicted_s <= plan_chain(sizes, cost).predicted_s


@given(long_chains, costs)
def test_the_products_are_those_of_the_order_and_none_starts_before_its_sides_are_done(
    sizes: list[int], cost: Cost
) -> None:
    plan = plan_chain(sizes, cost, SPLITS)
    assert [(p.start, p.stop) for p in plan.products] == [
        (pair.start, pair.stop) for pair in products(plan.order)
    ]
    done_s = {(p.start, p.stop): p.finish_s for p in plan.products}
    for pair, product in zip(products(plan.order), plan.products):
        for side in (pair.left, pair.right):
            assert done_s.get((side.start, side.stop), 0.0) <= product.start_s * (1 + 1e-9)
        shape = (sizes[pair.start], sizes[pair.right.start], sizes[pair.stop])
        took_s = product.finish_s - product.start_s
        assert took_s == pytest.approx(cost.product_s(*shape, product.group), abs=1e-9)
    assert plan.products[-1].finish_s == pytest.approx(plan.predicted_s)
    assert no_two_at_once_share_a_device(plan)


def no_two_at_once_share_a_device(plan: ChainPlan) -> bool:
    for index, first in enumerate(plan.products):
        for second in plan.products[:index]:
            apart_s = max(first.start_s, second.start_s) - min(first.finish_s, second.finish_s)
            overlap = apart_s < -1e-9 * plan.predicted_s - 1e-12
            groups = (first.group, second.group)
            if overlap and groups not in SPLITS and groups[::-1] not in SPLITS:
                return False
    return True


@given(long_chains, st.integers(-20, 20))
def test_the_same_plan_when_all_times_are_multiplied(sizes: list[int], power: int) -> None:
    plan = plan_chain(sizes, CrookedCost(), SPLITS)
    scaled = plan_chain(sizes, CrookedCost(2.0**power), SPLITS)
    assert scaled.order == plan.order
    assert scaled.predicted_s == plan.predicted_s * 2.0**power
    assert [p.group for p in scaled.products] == [p.group for p in plan.products]
    assert plan_chain(sizes, CrookedCost(), SPLITS) == plan


@given(st.lists(st.integers(1, 2_000), min_size=3, max_size=9))
def test_fewest_operations_are_fewest(sizes: list[int]) -> None:
    steps = sum(
        sizes[pair.start] * sizes[pair.right.start] * sizes[pair.stop]
        for pair in products(fewest_operations(sizes))
    )
    assert steps == fewest_steps(sizes)


class FlatCost:
    """A tenth of the rate for few rows, as where memory and not arithmetic is the bound."""

    def product_s(self, rows: int, inner: int, columns: int, group: int) -> float:
        return rows * inner * columns / (1e9 if rows >= 64 else 1e8)


def test_fewer_operations_are_not_always_faster() -> None:
    plan = plan_chain([32, 300, 300, 300], FlatCost())
    fewest = plan.alternatives[0]
    assert str(plan.order) == "(M1 (M2 M3))"
    assert str(fewest.order) == "((M1 M2) M3)"
    assert plan.predicted_s < fewest.predicted_s


def test_two_heavy_halves_that_cannot_use_the_pool_run_at_once() -> None:
    """A product takes at least a second, however many devices there are: each half takes a second
    on half of the pool too."""
    cost = RatesCost((4e9, 2e9, 2e9, 1e9, 3e9), minimum_s=1.0)
    plan = plan_chain([1000, 1000, 1000, 1000, 1000], cost, SPLITS)
    assert str(plan) == (
        "((M1 M2) (M3 M4)) in 2.00 s\n"
        "  M1..M2: on group 1, 0.0 ms to 1.00 s\n"
        "  M3..M4: on group 2, 0.0 ms to 1.00 s\n"
        "  M1..M4: on all devices, 1.00 s to 2.00 s, its sides at the same time\n"
        "  fewest operations, in sequence: (M1 (M2 (M3 M4))) in 3.00 s\n"
        "  left to right: (((M1 M2) M3) M4) in 3.00 s\n"
        "  right to left: (M1 (M2 (M3 M4))) in 3.00 s"
    )
    assert plan.group_of(0, 2) == 1
    assert plan.group_of(0, 4) == 0


def test_the_heavier_half_gets_the_faster_group() -> None:
    cost = RatesCost((4e9, 2e9, 2e9, 1e9, 3e9), launch_s=0.5)
    plan = plan_chain([1000, 3000, 1000, 1000, 1000], cost, SPLITS)
    assert (plan.group_of(0, 2), plan.group_of(2, 4)) == (4, 3)


def test_the_longest_chain_is_planned_and_a_longer_one_is_refused() -> None:
    sizes = [100 + (37 * index) % 91 for index in range(MAX_CHAIN + 1)]
    plan = plan_chain(sizes, CrookedCost(), SPLITS)
    assert len(plan.products) == MAX_CHAIN - 1
    with pytest.raises(InvalidInput, match=f"2 to {MAX_CHAIN} matrices"):
        plan_chain([*sizes, 5], CrookedCost())
    with pytest.raises(InvalidInput, match="not 1"):
        plan_chain([5, 5], CrookedCost())


def test_empty_matrices_make_a_plan_too() -> None:
    plan = plan_chain([5, 0, 7, 3], RatesCost((1e9,)))
    assert plan.predicted_s == 0.0
    assert len(plan.products) == 2
