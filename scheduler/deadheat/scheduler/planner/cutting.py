"""Cuts: a piece of work laid out on devices, in each of the shapes that are tried.

Every function here answers with a `Cutting`: which devices, which rectangles, when each finishes.
The planner compares them by their last finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.planner import shapes
from deadheat.scheduler.planner.balance import apportioned, balance, balance_curves, level
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.pool import EXACT_DEVICES, Floats, Integers, ordered
from deadheat.scheduler.planner.pricing import Costs, Prices

#: A device's speed depends on its share, which depends on its speed: so many rounds suffice for
#: models that are nearly linear, and a model is not when a round still changes a speed by more.
ROUNDS: Final = 3
LINEAR: Final = 0.02
#: Makespans below this are not worth a search over curves.
CURVES_FROM_S: Final = 0.05
#: Another shape than strips of rows has to be better by so much: strips are simplest.
SHAPE_GAIN: Final = 0.002
#: Strips lower than this are slow for every BLAS: then other shapes are looked at even where
#: nothing has to travel.
LOW_STRIP: Final = 256
#: The least work is never nothing: an empty product costs no time, but a division by it must not.
_LEAST_S: Final = 1e-12


@dataclass(frozen=True, eq=False)
class Cutting:
    """Entry i of all arrays belongs to device `used[i]` (its number in the pool). `bounds` are row
    start and stop, column start and stop, from the corner of the piece of work."""

    shape: str
    used: Integers
    bounds: Integers
    costs: Costs
    makespan_s: float
    #: With the serial cost of its sub-tasks: what cuts are compared by.
    total_s: float
    rates: Floats
    bandwidth: Floats


def rows(prices: Prices, policy: Policy) -> Cutting:
    """Strips of rows: each device gets all of B. Raises LimitReached if no memory holds them."""
    count, width = len(prices.pool), float(prices.shape.columns)
    units = prices.shape.rows
    widths = np.full(count, width)
    caps = prices.rows_that_fit(widths)
    if float(caps.sum(dtype=np.float64)) < units:
        raise no_room(prices, "rows", units)
    even = np.full(count, max(1.0, units / count))
    rates = prices.rates(even, widths)
    shares = _affine_rows(prices, policy, rates, caps)
    for _ in range(ROUNDS - 1):
        given = np.where(shares > 0, shares, even).astype(np.float64)
        before, rates = rates, prices.rates(given, widths)
        moved = float(np.max(np.abs(rates / before - 1.0)[shares > 0], initial=0.0))
        if moved <= LINEAR and not prices.is_far:
            break
        prices = prices.shared_port(shares.astype(np.float64), widths)
        shares = _affine_rows(prices, policy, rates, caps)
    else:
        if moved > LINEAR or _has_overlap(prices):
            shares = _curved_rows(prices, shares, caps)
    return _strips(prices, policy, shares)


def _has_overlap(prices: Prices) -> bool:
    return bool((prices.pool.overlaps & ~prices.pool.is_local).any())


def _affine_rows(prices: Prices, policy: Policy, rates: Floats, caps: Integers) -> Integers:
    width = prices.shape.columns
    moved = prices.row_bytes + width * (prices.cell_bytes + prices.out_bytes)
    move_s = moved / prices.bandwidth
    compute_s = width * prices.flops_per_element / prices.pool.effective(rates)
    unit_s = np.where(prices.pool.overlaps, np.maximum(move_s, compute_s), move_s + compute_s)
    ready_s = prices.start_s + width * prices.column_bytes / prices.bandwidth
    return selected(prices.shape.rows, ready_s, np.maximum(unit_s, _LEAST_S), caps, policy)


def _curved_rows(prices: Prices, near: Integers, caps: Integers) -> Integers:
    """For speeds that depend on the share: bisection among the devices that are used."""
    used = np.flatnonzero(near)
    if len(used) > EXACT_DEVICES or len(used) < 2:
        return near
    part = prices.of(used)
    widths = np.full(len(used), float(prices.shape.columns))
    heights = near[used].astype(np.float64)
    rough_s = float(part.costs(heights, widths, part.rates(heights, widths)).finish_s.max())
    if rough_s < CURVES_FROM_S:
        return near
    grid = np.unique(np.geomspace(1, max(2, prices.shape.rows), 24).round())
    table = np.stack([part.rates(np.full(len(used), x), widths) for x in grid], axis=1)

    def times_s(shares: Floats) -> Floats:
        # Between points of the grid the speed is interpolated over the logarithm of the share.
        at = np.clip(np.searchsorted(grid, shares, side="right"), 1, len(grid) - 1)
        left, right = np.log(grid[at - 1]), np.log(grid[at])
        weight = np.clip((np.log(np.maximum(shares, 1.0)) - left) / (right - left), 0.0, 1.0)
        lines = np.arange(len(used))
        speeds = table[lines, at - 1] * (1 - weight) + table[lines, at] * weight
        return np.where(shares > 0, part.costs(shares, widths, speeds).finish_s, 0.0)

    found = np.zeros_like(near)
    found[used] = balance_curves(prices.shape.rows, times_s, len(used), caps[used])
    return found


def selected(
    units: int, ready_s: Floats, unit_s: Floats, caps: Integers, policy: Policy
) -> Integers:
    """Water-filling, without those who would bring less than they cost, nor crumbs."""
    full = balance(units, ready_s, unit_s, caps)
    chosen = knee(full.shares, ready_s, unit_s, caps, units, policy)
    if len(chosen) < np.count_nonzero(full.shares):
        limited = np.zeros_like(caps)
        limited[chosen] = caps[chosen]
        full = balance(units, ready_s, unit_s, limited)
    return _without_crumbs(units, ready_s, unit_s, caps, policy, full.shares)


def knee(
    shares: Integers, ready_s: Floats, unit_s: Floats, caps: Integers, units: int, policy: Policy
) -> Integers:
    """The devices worth having: adding one more would bring less than its sub-task costs.

    Devices in order of their shares; with the first k of them all finish at
    T_k = (X + sum e_j / w_j) / sum 1 / w_j, and the job takes T_k + k * cost.
    """
    used = np.flatnonzero(shares)
    order = used[ordered(-shares[used].astype(np.float64))]
    if len(order) < 2 or bool((shares[order] >= caps[order]).any()):
        return order
    rate = 1.0 / unit_s[order]
    finish_s = (units + np.cumsum(ready_s[order] * rate)) / np.cumsum(rate)
    total_s = finish_s + policy.subtask_cost_s * np.arange(1, len(order) + 1)
    return order[: int(np.argmin(total_s)) + 1]


def _without_crumbs(
    units: int,
    ready_s: Floats,
    unit_s: Floats,
    caps: Integers,
    policy: Policy,
    shares: Integers,
) -> Integers:
    """Drops devices whose piece is too small to send, worst half at a time, then the rest."""
    left = np.where(shares > 0, caps, 0)
    while True:
        busy_s = shares * unit_s
        crumbs = np.flatnonzero((shares > 0) & (busy_s < policy.min_subtask_s))
        used = int(np.count_nonzero(shares))
        if not len(crumbs) or used == 1:
            return shares
        latest_first = crumbs[ordered(-ready_s[crumbs])]
        dropped = latest_first[: max(1, len(crumbs) // 2)]
        if len(dropped) == used:
            dropped = dropped[:-1]
        left[dropped] = 0
        if int(left.sum()) < units:
            return shares
        shares = balance(units, ready_s, unit_s, left).shares


def tried(prices: Prices, policy: Policy) -> list[Cutting]:
    """Every cut that is sensible, the best one first: strips of rows unless another is clearly
    better, but the single device if it is not worse."""
    by_rows = rows(prices, policy)
    found = [by_rows]
    strip = prices.shape.rows / max(1, len(by_rows.used))
    if len(by_rows.used) > 1 and (prices.is_far or strip < LOW_STRIP):
        by_columns = columns(prices, policy)
        if by_columns:
            found.append(by_columns)
    alone = single(prices, policy)
    if alone and len(by_rows.used) > 1:
        found.append(alone)
    first = min(found, key=lambda cut: cut.total_s)
    if first.total_s > (1.0 - SHAPE_GAIN) * by_rows.total_s and first is not alone:
        first = by_rows
    return [first, *(cut for cut in found if cut is not first)]


def best(prices: Prices, policy: Policy) -> Cutting:
    return tried(prices, policy)[0]


def weighted_rows(prices: Prices, policy: Policy, weights: Floats) -> Cutting:
    """Strips of rows in proportion to weights, whatever comes of it: the baselines."""
    return _strips(prices, policy, apportioned(prices.shape.rows, weights))


def single(prices: Prices, policy: Policy) -> Cutting | None:
    """All of it on the device that would finish first alone; None if no memory holds it."""
    count = len(prices.pool)
    heights = np.full(count, float(prices.shape.rows))
    widths = np.full(count, float(prices.shape.columns))
    fits = prices.rows_that_fit(widths) >= prices.shape.rows
    if not fits.any():
        return None
    finish_s = prices.costs(heights, widths, prices.rates(heights, widths)).finish_s
    shares = np.zeros(count, dtype=np.int64)
    shares[int(np.argmin(np.where(fits, finish_s, np.inf)))] = prices.shape.rows
    return _strips(prices, policy, shares)


def _strips(prices: Prices, policy: Policy, shares: Integers) -> Cutting:
    used = np.flatnonzero(shares)
    stops = np.cumsum(shares[used])
    zeros = np.zeros_like(stops)
    bounds = np.stack([stops - shares[used], stops, zeros, zeros + prices.shape.columns], axis=1)
    return finished("rows", prices, policy, used, bounds)


def columns(prices: Prices, policy: Policy) -> Cutting | None:
    """Columns of rectangles; None where the result has too few rows or columns for them.

    Transfers depend on the rectangles and they on the transfers, so it goes in rounds: areas by
    water-filling with the last round's rectangles as what has to be fetched, then a layout of these
    areas. The best round counts.
    """
    height, width = prices.shape.rows, prices.shape.columns
    count, area = len(prices.pool), height * width
    if not area:
        return None
    side = np.full(count, np.sqrt(area / count))
    heights, widths = np.minimum(side, height), np.minimum(side, width)
    chosen: Cutting | None = None
    for _ in range(ROUNDS if prices.is_far else 2):
        rates = prices.rates(heights, widths)
        made = _columns_round(prices, policy, heights, widths, rates)
        if made is None:
            break
        if chosen is None or made.total_s < chosen.total_s:
            chosen = made
        used = made.used
        heights, widths = np.array(heights, copy=True), np.array(widths, copy=True)
        heights[used] = made.bounds[:, 1] - made.bounds[:, 0]
        widths[used] = made.bounds[:, 3] - made.bounds[:, 2]
        got = np.zeros(count)
        got[used] = heights[used]
        prices = prices.shared_port(got, widths)
    return chosen


def _columns_round(
    prices: Prices, policy: Policy, heights: Floats, widths: Floats, rates: Floats
) -> Cutting | None:
    height, width = prices.shape.rows, prices.shape.columns
    rows_s = heights * prices.row_bytes / prices.bandwidth
    move_s = (prices.cell_bytes + prices.out_bytes) / prices.bandwidth
    compute_s = prices.flops_per_element / prices.pool.effective(rates)
    # Rows come while others are computed: their seconds are spread over the area.
    along_s = move_s + rows_s / np.maximum(1.0, heights * widths)
    overlaps = prices.pool.overlaps
    both_s = np.where(overlaps, np.maximum(along_s, compute_s), move_s + compute_s)
    fetch_s = widths * prices.column_bytes / prices.bandwidth + np.where(overlaps, 0.0, rows_s)
    caps = prices.area_that_fits(height * width)
    if float(caps.sum(dtype=np.float64)) < height * width:
        return None
    ready_s, unit_s = prices.start_s + fetch_s, np.maximum(both_s, _LEAST_S)
    shares = selected(height * width, ready_s, unit_s, caps, policy)
    used = np.flatnonzero(shares)
    areas = shares[used].astype(np.float64)
    order, counts = shapes.columns(areas, height, width)
    layout = shapes.snapped(order, counts, areas, height, width)
    if layout is None:
        return None
    bounds = np.empty((len(used), 4), dtype=np.int64)
    bounds[layout.order] = layout.bounds()
    made = finished("columns", prices, policy, used, bounds)
    fits = prices.rows_that_fit((bounds[:, 3] - bounds[:, 2]).astype(np.float64), used)
    return made if bool((bounds[:, 1] - bounds[:, 0] <= fits).all()) else None


def finished(
    shape: str, prices: Prices, policy: Policy, used: Integers, bounds: Integers
) -> Cutting:
    """A layout with what it really costs, its whole units and each device's own speed counted."""
    count = len(prices.pool)
    heights, widths = np.zeros(count), np.zeros(count)
    heights[used] = bounds[:, 1] - bounds[:, 0]
    widths[used] = bounds[:, 3] - bounds[:, 2]
    prices = prices.shared_port(heights, widths)
    rates = prices.rates(heights, widths)
    all_costs = prices.costs(heights, widths, rates)
    costs = Costs(
        all_costs.finish_s[used],
        all_costs.transfer_s[used],
        all_costs.compute_s[used],
        all_costs.bytes_in[used],
        all_costs.bytes_out[used],
    )
    makespan_s = float(costs.finish_s.max()) if len(used) else 0.0
    total_s = makespan_s + policy.subtask_cost_s * len(used)
    return Cutting(shape, used, bounds, costs, makespan_s, total_s, rates[used], prices.bandwidth)


def ideal_finish_s(prices: Prices) -> float:
    """When the pool would finish if work were a fluid and nothing had to travel."""
    rates = prices.pool.effective(prices.pool.rates(prices.shape))
    flops = prices.flops_per_element * prices.shape.rows * prices.shape.columns
    return level(max(flops, 1.0), prices.pool.ready_s, 1.0 / rates)


def no_room(prices: Prices, what: str, units: int) -> LimitReached:
    biggest = int(np.argmax(prices.pool.memory_bytes))
    return LimitReached(
        f"{units} {what} need more memory than all devices together have; the largest, "
        f"{prices.pool.ids[biggest]}, has {int(prices.pool.memory_bytes[biggest])} bytes",
        field="memory",
    )
