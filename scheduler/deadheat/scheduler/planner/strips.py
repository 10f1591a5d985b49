"""Strips of rows: every device gets all columns, and so all of B."""

from __future__ import annotations

from typing import Final

import numpy as np

from deadheat.scheduler.planner.balance import apportioned, balance_curves
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import LEAST_S, Cutting, no_room, strips
from deadheat.scheduler.planner.pool import EXACT_DEVICES, Floats, Integers
from deadheat.scheduler.planner.pricing import Prices
from deadheat.scheduler.planner.selecting import selected

#: A device's speed depends on its share, which depends on its speed: so many rounds suffice for
#: models that are nearly linear, and a model is not when a round still changes a speed by more.
ROUNDS: Final = 3
LINEAR: Final = 0.02
#: Makespans below this are not worth a search over curves.
CURVES_FROM_S: Final = 0.05


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
    return strips(prices, policy, shares)


def _has_overlap(prices: Prices) -> bool:
    return bool((prices.pool.overlaps & ~prices.pool.is_local).any())


def _affine_rows(prices: Prices, policy: Policy, rates: Floats, caps: Integers) -> Integers:
    width = prices.shape.columns
    moved = prices.row_bytes + width * (prices.cell_bytes + prices.out_bytes)
    move_s = moved / prices.bandwidth
    compute_s = width * prices.flops_per_element / prices.pool.effective(rates)
    unit_s = np.where(prices.pool.overlaps, np.maximum(move_s, compute_s), move_s + compute_s)
    ready_s = prices.start_s + width * prices.column_bytes / prices.bandwidth
    return selected(prices.shape.rows, ready_s, np.maximum(unit_s, LEAST_S), caps, policy)


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


def weighted_rows(prices: Prices, policy: Policy, weights: Floats) -> Cutting:
    """Strips of rows in proportion to weights, whatever comes of it: the baselines."""
    return strips(prices, policy, apportioned(prices.shape.rows, weights))


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
    return strips(prices, policy, shares)
