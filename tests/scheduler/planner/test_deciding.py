"""Rewriting is decided by predicted seconds: only what is clearly better is chosen."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.planner.builders import GIGABIT, LOCAL, chain, device, model, problem, product

from deadheat.runtime.programs import Gemm, Sum
from deadheat.scheduler.planner.deciding import SPLIT_GAIN, decided
from deadheat.scheduler.planner.inputs import Device, PlanningInput, Policy, Pool, Work
from deadheat.scheduler.planner.planner import plan


@st.composite
def pools(draw: st.DrawFn) -> list[Device]:
    return [
        device(
            f"d{number}",
            draw(st.floats(5.0, 200.0)),
            availability=draw(st.floats(0.1, 1.0)),
            link=draw(st.sampled_from([LOCAL, GIGABIT])),
        )
        for number in range(draw(st.integers(1, 8)))
    ]


small = st.integers(16, 600)


@settings(deadline=None)
@given(pools(), small, st.integers(1, 400_000), small)
def test_a_product_is_split_along_its_inner_dimension_only_where_that_is_clearly_sooner(
    devices: list[Device], m: int, k: int, n: int
) -> None:
    given_problem = replace(problem(product(m, k, n), devices), may_rewrite=True)
    found = decided(given_problem)
    if found is None:
        return
    whole = plan(replace(given_problem, may_rewrite=False), now=0.0)
    used = len(whole.steps[0].used)
    whole_s = whole.makespan_s + Policy().subtask_cost_s * used
    assert found.makespan_s <= (1.0 - SPLIT_GAIN) * whole_s * (1.0 + 1e-9)
    assert found.program is not None
    *parts, total = found.program.operations
    windows = [part.kind.inner for part in parts if isinstance(part.kind, Gemm)]
    edges = [edge for window in windows if window for edge in window]
    assert edges[0] == 0
    assert edges[-1] == k
    assert edges[1:-1:2] == edges[2:-1:2]
    assert isinstance(total.kind, Sum)
    assert set(found.groups) == set(range(len(parts)))
    assert decided(given_problem) == found


def test_what_may_not_change_its_order_of_summation_is_not_split() -> None:
    devices = [device("here"), device("there", link=GIGABIT)]
    deep = replace(problem(product(256, 200_000, 256), devices), may_rewrite=True)
    assert decided(deep) is not None
    assert decided(replace(deep, policy=Policy(may_split_inner=False))) is None
    assert decided(replace(deep, may_rewrite=False)) is None
    models = [replace(one, model=model(50.0, "int64")) for one in devices]
    exact = problem(product(256, 200_000, 256, "int64"), models)
    assert decided(replace(exact, may_rewrite=True)) is None


@settings(deadline=None)
@given(pools(), st.lists(st.integers(1, 6_000), min_size=3, max_size=8))
def test_a_chain_is_never_worse_than_the_usual_orders_in_sequence(
    devices: list[Device], sizes: list[int]
) -> None:
    program = chain(sizes)
    work = Work(0, program.types["C"].whole())
    given_problem = PlanningInput(program, (work,), Pool.of(devices), may_rewrite=True)
    found = decided(given_problem)
    assert found is not None
    assert found.order is not None
    assert found.program is not None
    fewest, *_ = found.order.alternatives
    assert fewest.name.startswith("fewest operations")
    for other in found.order.alternatives:
        assert other.makespan_s is not None
        assert found.makespan_s <= other.makespan_s * (1.0 + 1e-9)
    assert len(found.program.operations) == len(sizes) - 2
    assert found.program.types["C"] == program.types["C"]
    # Sides that run at the same time have no device in common.
    groups = list(found.groups.values())
    assert all(group <= set(given_problem.pool.ids) for group in groups)
    assert decided(given_problem) == found
