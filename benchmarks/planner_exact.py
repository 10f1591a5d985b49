"""Balance against a linear programme and against brute force; traffic against its lower bound."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.optimize import linprog

from benchmarks.measuring import Figure, summary
from deadheat.scheduler.planner import shapes
from deadheat.scheduler.planner.balance import balance, level
from deadheat.scheduler.planner.pool import Floats

CASE = "planner, exact"
SEED = 20
#: Random pools for the linear programme; half of them with memory caps.
PROGRAMMES = 60
SMALL_CASES = 2_000
#: Random sets of areas for each number of devices, on a result of this many rows and columns.
LAYOUTS = 200
SIDE = 16_384


def run() -> Iterator[Figure]:
    rng = np.random.default_rng(SEED)
    errors = [_error_of_level(rng, has_caps=number % 2 == 0) for number in range(PROGRAMMES)]
    name = f"level against HiGHS, worst of {PROGRAMMES}, seed {SEED}"
    yield Figure(CASE, name, max(errors), "", 1e-6)
    equal = sum(_is_best(rng, has_caps=number % 2 == 0) for number in range(SMALL_CASES))
    name = "integer cuts equal to brute force"
    yield Figure(CASE, name, float(equal), f"/{SMALL_CASES}", float(SMALL_CASES), at_least=True)
    for count in (4, 8, 16, 64):
        ratios = [_traffic_ratio(rng, count) for _ in range(LAYOUTS)]
        found = summary(CASE, f"traffic / lower bound, {count} devices, mean", ratios)
        yield Figure(
            CASE, found.name, float(np.mean(ratios)), "", 1.05, low=found.low, high=found.high
        )


def _error_of_level(rng: np.random.Generator, *, has_caps: bool) -> float:
    """The relative difference between our common finish and the linear programme's.

    That a device which is ready too late may stay out is no linear constraint, but who is used is
    always some number of those ready first: so a programme for each such number, and the least.
    """
    count = int(rng.integers(1, 25))
    ready_s = np.sort(rng.uniform(0.0, 3.0, count))
    unit_s = np.exp(rng.uniform(0.0, np.log(100.0), count))
    caps = rng.uniform(0.02, 1.0, count) if has_caps else np.full(count, np.inf)
    # All work is one unit, so that the solver's absolute tolerances mean something.
    caps[0] = max(caps[0], 1.0 - float(caps[1:].sum()))
    ours = level(1.0, ready_s, unit_s, caps)
    best = min(_programme(ready_s[:k], unit_s[:k], caps[:k]) for k in range(1, count + 1))
    return abs(ours / best - 1.0)


def _programme(ready_s: Floats, unit_s: Floats, caps: Floats) -> float:
    """min T with sum x = 1, ready + unit * x <= T, 0 <= x <= cap; infinity if nothing fits."""
    count = len(ready_s)
    found = linprog(
        [*([0.0] * count), 1.0],
        A_ub=np.hstack([np.diag(unit_s), -np.ones((count, 1))]),
        b_ub=-ready_s,
        A_eq=[[*([1.0] * count), 0.0]],
        b_eq=[1.0],
        bounds=[*((0.0, None if np.isinf(cap) else cap) for cap in caps), (0.0, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return float(found.fun) if found.status == 0 else float("inf")


def _is_best(rng: np.random.Generator, *, has_caps: bool) -> bool:
    """Whether no other way of giving out a few units has an earlier last finish."""
    count, units = int(rng.integers(1, 5)), int(rng.integers(1, 11))
    ready_s, unit_s = rng.uniform(0.0, 10.0, count), rng.uniform(0.01, 10.0, count)
    caps = rng.integers(0, units + 1, count) if has_caps else np.full(count, units)
    caps[0] = max(caps[0], units - int(caps[1:].sum()))
    ways = np.array(list(itertools.product(*(range(int(cap) + 1) for cap in caps))))
    ways = ways[ways.sum(axis=1) == units]
    ends_s = np.where(ways > 0, ready_s + unit_s * ways, 0.0).max(axis=1)
    found = balance(units, ready_s, unit_s, caps if has_caps else None)
    is_whole = int(found.shares.sum()) == units and bool((found.shares <= caps).all())
    return is_whole and found.makespan_s == float(ends_s.min())


def _traffic_ratio(rng: np.random.Generator, count: int) -> float:
    areas = rng.uniform(1.0, 10.0, count)
    areas *= SIDE * SIDE / areas.sum()
    layout = shapes.snapped(*shapes.columns(areas, SIDE, SIDE), areas, SIDE, SIDE)
    assert layout is not None
    made = shapes.half_perimeters(layout.heights, layout.widths[layout.column_of])
    return made / shapes.least_half_perimeters(areas, SIDE, SIDE)
