"""`plan()`: numbered steps from a snapshot to a plan.

(0) An operation that stands for several (a chain, a product worth cutting along its inner
dimension) is first rewritten as them. Then, for each piece of work in turn: (1) price every device,
(2) cut it in every shape that is sensible, water-filling each, (3) take the one that ends first, or
the best single device, (4) say what was not chosen and why, and pass each device's finish on as its
ready time for the next piece. What the memories do not hold at once is given out as far as they do
(`rounds`); the rest is for a later plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deadheat.runtime.errors import LimitReached, Unavailable
from deadheat.runtime.programs import Program
from deadheat.scheduler.planner import cutting, rounds, shapes, wholes
from deadheat.scheduler.planner.amdahl import CurvePoint, speed_up_curve
from deadheat.scheduler.planner.balance import apportioned
from deadheat.scheduler.planner.deciding import decided
from deadheat.scheduler.planner.filling import Filled, fill
from deadheat.scheduler.planner.inputs import Cut, PlanningInput, Policy, Work
from deadheat.scheduler.planner.layouts import Cutting, fits
from deadheat.scheduler.planner.plan import NOBODY, Alternative, Plan, Step, Unused
from deadheat.scheduler.planner.pool import Floats, Integers, Pool, ordered
from deadheat.scheduler.planner.pricing import Prices, price
from deadheat.scheduler.planner.strips import single, weighted_rows


def plan(given: PlanningInput, *, now: float) -> Plan:
    """Plans all of `given.work`; times in the result count from `now`.

    Raises Unavailable without devices and LimitReached if not even a small part of some result
    fits any device. What fits only later is left out, and said in `left_area`.
    """
    del now  # Snapshots carry ages, not dates; the caller stamps the plan.
    if not len(given.pool):
        raise Unavailable("no device may be used for this job")
    if rewritten := decided(given):
        return rewritten
    pool = given.pool
    steps: list[Step] = []
    pool_flops = 0.0
    left_area = 0
    for works in _together(given):
        made, available_flops = _steps(given, works, pool)
        steps += made
        pool_flops = max(pool_flops, available_flops)
        left_area += sum(work.rectangle.area for work in works) - sum(
            step.given_area for step in made
        )
        pool = _after(given.program, pool, made)
    makespan_s = max((step.makespan_s for step in steps), default=0.0)
    bound = sum(step.bytes_lower_bound for step in steps)
    return Plan(tuple(steps), makespan_s, pool_flops, bound, left_area=left_area)


def _together(given: PlanningInput) -> list[list[Work]]:
    """Pieces of one operation for the same devices are given out together; a baseline's are not."""
    if given.policy.cut is not Cut.BALANCED:
        return [[work] for work in given.work]
    found: dict[tuple[int, frozenset[str]], list[Work]] = {}
    for work in given.work:
        found.setdefault((work.operation, work.devices), []).append(work)
    return list(found.values())


def _steps(given: PlanningInput, works: Sequence[Work], pool: Pool) -> tuple[list[Step], float]:
    """Pieces of one operation: all at once if the memories hold them, else a round of them.

    They are cut by what the memories hold when they are free. Only if a part does not fit into what
    is free now, its device waits for it, and the others get what they should have then.
    """
    if wholes.is_whole(given.program.operations[works[0].operation]):
        return _whole_step(given, works[0], pool)
    try:
        if len(works) == 1:
            made = _plan_step(given, works[0], pool)
        else:
            made = _fill_steps(given, works, pool)
    except LimitReached:
        return _round_steps(given, works, pool)
    if given.policy.cut is Cut.BALANCED:
        needed = _needed_bytes(given.program, pool, made[0])
        if bool((needed > pool.free_bytes).any()):
            return _round_steps(given, works, pool)
    return made


def _whole_step(given: PlanningInput, work: Work, pool: Pool) -> tuple[list[Step], float]:
    """All of a piece of work for one device, or for nobody while its memory is in use."""
    made, available_flops = _plan_step(given, work, pool)
    needed = _needed_bytes(given.program, pool, made)
    return ([] if bool((needed > pool.free_bytes).any()) else made), available_flops


def _fill_steps(
    given: PlanningInput, works: Sequence[Work], pool: Pool
) -> tuple[list[Step], float]:
    """A step for each of several left-over pieces, given out together."""
    operation = given.program.operations[works[0].operation]
    pool = _allowed(works[0], pool)
    pieces = [work.rectangle for work in works]
    prices, carved = fill(given.program, operation, pieces, pool, given.policy)
    return _filled_steps(works[0].operation, "pieces", prices, carved)


def _round_steps(
    given: PlanningInput, works: Sequence[Work], pool: Pool
) -> tuple[list[Step], float]:
    """A step for each piece of which the memories hold something now."""
    operation = given.program.operations[works[0].operation]
    pool = _allowed(works[0], pool)
    pieces = [work.rectangle for work in works]
    prices, carved = rounds.next_round(given.program, operation, pieces, pool, given.policy)
    return _filled_steps(works[0].operation, "round", prices, carved)


def _filled_steps(
    operation: int, cut: str, prices: Prices, carved: Sequence[Filled]
) -> tuple[list[Step], float]:
    pool = prices.pool
    found = []
    for filled in carved:
        costs = filled.costs
        found.append(
            Step(
                operation=operation,
                rectangle=filled.rectangle,
                cut=cut,
                pool=pool,
                used=filled.used,
                bounds=filled.bounds,
                transfer_s=costs.transfer_s,
                compute_s=costs.compute_s,
                finish_s=costs.finish_s,
                bytes_in=costs.bytes_in,
                bytes_out=costs.bytes_out,
                speed_flops=filled.rates,
                unused=NOBODY,
                excluded=(),
                alternatives=(),
                curve=(),
                knee=0,
                makespan_s=float(costs.finish_s.max(initial=0.0)),
                bytes_lower_bound=_lower_bound(prices, filled.used, filled.bounds),
            )
        )
    return found, float((pool.rates(prices.shape) * pool.availability).sum())


def _after(program: Program, pool: Pool, steps: Sequence[Step]) -> Pool:
    """The pool when the steps' work has been given out."""
    ready_s = np.array(pool.ready_s, copy=True)
    for step in steps:
        np.maximum.at(ready_s, _numbers(pool, step), step.finish_s)
    free_bytes = np.maximum(0, pool.free_bytes - _needed_bytes(program, pool, steps))
    return pool.with_ready(ready_s).with_free(free_bytes)


def _numbers(pool: Pool, step: Step) -> Integers:
    """The numbers in the pool of those that a step uses: it may know only some of the devices."""
    if len(step.pool) == len(pool):
        return step.used
    ids = [step.pool.ids[device] for device in step.used.tolist()]
    return np.array([pool.number_of[id_] for id_ in ids], dtype=np.int64)


def _needed_bytes(program: Program, pool: Pool, steps: Sequence[Step]) -> Integers:
    """Memory of each device that its parts need."""
    needed = np.zeros(len(pool), dtype=np.int64)
    for step in steps:
        np.add.at(needed, _numbers(pool, step), step.memory_bytes(program))
    # Who maps the store's memory needs none of its own.
    return np.where(pool.is_local, 0, needed)


def _allowed(work: Work, pool: Pool) -> Pool:
    """The devices that a piece of work is meant for; all, where none of them is there."""
    if not work.devices:
        return pool
    chosen = [number for number, id_ in enumerate(pool.ids) if id_ in work.devices]
    return pool.take(np.array(chosen, dtype=np.int64)) if chosen else pool


def _plan_step(given: PlanningInput, work: Work, pool: Pool) -> tuple[list[Step], float]:
    program, policy = given.program, given.policy
    operation = program.operations[work.operation]
    pool = _allowed(work, pool)
    prices = price(program, operation, work.rectangle, pool)
    idle = pool.rates(prices.shape)
    whole = None
    if wholes.is_whole(operation):
        whole = wholes.decided(prices, policy, program, operation, may_share=work.may_share)
    tried = [whole.cutting] if whole else _tried(prices, policy, idle)
    chosen = tried[0]
    curve, knee = ((), 0) if whole else _speed_up(prices, policy, idle)
    is_chosen = whole is not None or policy.cut is Cut.BALANCED
    step = Step(
        operation=work.operation,
        rectangle=work.rectangle,
        cut=chosen.shape if is_chosen else policy.cut.value,
        pool=pool,
        used=chosen.used,
        bounds=_placed(chosen.bounds, work),
        transfer_s=chosen.costs.transfer_s,
        compute_s=chosen.costs.compute_s,
        finish_s=chosen.costs.finish_s,
        bytes_in=chosen.costs.bytes_in,
        bytes_out=chosen.costs.bytes_out,
        speed_flops=chosen.rates,
        unused=_unused(prices, chosen),
        excluded=tuple(given.excluded),
        alternatives=whole.alternatives if whole else _alternatives(prices, policy, tried),
        curve=curve,
        knee=knee,
        makespan_s=chosen.makespan_s,
        bytes_lower_bound=_lower_bound(prices, chosen.used, chosen.bounds),
        note=whole.note if whole else "",
    )
    return [step], float((idle * pool.availability).sum())


def _placed(bounds: Integers, work: Work) -> Integers:
    corner = work.rectangle
    shift = (corner.row_start, corner.row_start, corner.column_start, corner.column_start)
    return bounds + np.array(shift, dtype=np.int64)


def _tried(prices: Prices, policy: Policy, idle: Floats) -> list[Cutting]:
    """Every cut that was tried, the chosen one first."""
    if policy.cut is not Cut.BALANCED:
        return [weighted_rows(prices, policy, _weights(policy.cut, prices, idle))]
    return cutting.tried(prices, policy)


def _weights(cut: Cut, prices: Prices, idle: Floats) -> Floats:
    if cut is Cut.EQUAL:
        return np.ones(len(prices.pool), dtype=np.float64)
    if cut is Cut.PEAK:
        return idle
    return np.multiply(idle, np.maximum(0.01, 1.0 - prices.pool.busy))


@dataclass(frozen=True)
class _Names:
    rows: str = "strips of rows"
    columns: str = "columns of rectangles"
    single: str = "the best single device"
    equal: str = "the same rows for everybody"


def _alternatives(
    prices: Prices, policy: Policy, tried: Sequence[Cutting]
) -> tuple[Alternative, ...]:
    """What else could have been done, and how long that would have taken by the same model."""
    names = _Names()
    alone = next((cut for cut in tried if len(cut.used) == 1), None)
    found = [
        Alternative(names.rows if cut.shape == "rows" else names.columns, cut.makespan_s)
        for cut in tried[1:]
        if cut is not alone
    ]
    if policy.cut is Cut.BALANCED:
        best = alone or single(prices, policy)
        found.append(Alternative(names.single, best.makespan_s if best else None))
        equal = weighted_rows(prices, policy, np.ones(len(prices.pool)))
        is_possible = fits(prices, equal)
        found.append(Alternative(names.equal, equal.makespan_s if is_possible else None))
        if half := _half(prices, policy, tried[0]):
            found.append(half)
    return tuple(found)


def _half(prices: Prices, policy: Policy, chosen: Cutting) -> Alternative | None:
    """The same with the better half of the devices, in strips."""
    count = len(chosen.used)
    if count < 3:
        return None
    area = (chosen.bounds[:, 1] - chosen.bounds[:, 0]) * (chosen.bounds[:, 3] - chosen.bounds[:, 2])
    better = chosen.used[ordered(-area.astype(np.float64))[: -(-count // 2)]]
    weights = np.zeros(len(prices.pool))
    rates = prices.pool.effective(prices.pool.rates(prices.shape))
    weights[better] = rates[better]
    shares = apportioned(prices.shape.rows, weights)
    made = weighted_rows(prices, policy, np.maximum(shares, 0.0))
    name = f"only the {len(better)} devices with the largest shares"
    return Alternative(name, made.makespan_s if fits(prices, made) else None)


def _unused(prices: Prices, chosen: Cutting) -> Unused:
    """Those that got nothing, and the numbers that say why."""
    flags = np.ones(len(prices.pool), dtype=np.bool_)
    flags[chosen.used] = False
    numbers = np.flatnonzero(flags)
    widths = np.full(len(numbers), float(prices.shape.columns))
    fits = prices.rows_that_fit(widths, numbers) > 0
    fetch_s = prices.shape.columns * prices.column_bytes[numbers] / chosen.bandwidth[numbers]
    return Unused(numbers, fits, prices.start_s[numbers], fetch_s, chosen.makespan_s)


def _speed_up(prices: Prices, policy: Policy, idle: Floats) -> tuple[tuple[CurvePoint, ...], int]:
    flops = prices.flops_per_element * prices.shape.rows * prices.shape.columns
    speeds = prices.pool.effective(idle)
    return speed_up_curve(flops, prices.start_s, speeds, policy.subtask_cost_s)


def _lower_bound(prices: Prices, used: Integers, bounds: Integers) -> int:
    """Bytes that no tiling into these areas can do without: squares of operands, all results."""
    far = ~prices.pool.is_local[used]
    if not far.any():
        return 0
    heights = (bounds[:, 1] - bounds[:, 0])[far]
    widths = (bounds[:, 3] - bounds[:, 2])[far]
    areas = (heights * widths).astype(np.float64)
    half = shapes.least_half_perimeters(areas, prices.shape.rows, prices.shape.columns)
    operand = min(prices.memory_bytes[0], prices.memory_bytes[1])
    out = float(prices.out_bytes[used][far].max())
    return int(half * operand + areas.sum() * out)
