"""Columns of rectangles: where operands travel, or strips would be too low."""

from __future__ import annotations

from typing import Final

import numpy as np

from deadheat.scheduler.planner import shapes
from deadheat.scheduler.planner.evening import evened
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import LEAST_S, Cutting, finished, fits, misfits
from deadheat.scheduler.planner.pool import Flags, Floats, Integers
from deadheat.scheduler.planner.pricing import Prices
from deadheat.scheduler.planner.selecting import selected

#: Rectangles and what is fetched for them depend on one another: rounds in which they settle, where
#: nothing travels, where something does, and more of them where memories bind.
NEAR_ROUNDS: Final = 2
FAR_ROUNDS: Final = 6
TIGHT_ROUNDS: Final = 3
#: To finish together, which is promised, may cost so much by the prediction: whole rows and columns
#: decide about as much.
EVEN_LOSS: Final = 0.01
#: What got nothing in a round is thought of with sides so much shorter in the next.
SHRINK: Final = 0.5


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
    # A small memory may take its area as a square, but not as the rectangle that it comes to.
    has_room = np.ones(count, dtype=np.bool_)
    rounds = FAR_ROUNDS if prices.is_far else NEAR_ROUNDS
    for _ in range(rounds + TIGHT_ROUNDS * _is_tight(prices)):
        rates = prices.rates(heights, widths)
        made = _columns_round(prices, policy, heights, widths, rates, has_room)
        if made is None:
            break
        if len(crowded := misfits(prices, made)):
            has_room[crowded] = False
            continue
        if prices.is_far:
            better = _evened(prices, policy, made)
            hardly_later_s = made.total_s * (1.0 + EVEN_LOSS)
            if better and fits(prices, better) and better.total_s <= hardly_later_s:
                made = better
        if chosen is None or made.total_s < chosen.total_s:
            chosen = made
        used = made.used
        heights, widths = np.array(heights, copy=True), np.array(widths, copy=True)
        heights[used] = made.bounds[:, 1] - made.bounds[:, 0]
        widths[used] = made.bounds[:, 3] - made.bounds[:, 2]
        got = np.zeros(count)
        got[used] = heights[used]
        # Who got nothing, since what it would have fetched was too much, might get less.
        idle = got == 0.0
        heights[idle] *= SHRINK
        widths[idle] *= SHRINK
        prices = prices.shared_port(got, widths)
    return chosen


def _is_tight(prices: Prices) -> bool:
    whole = prices.shape.rows * prices.shape.columns
    return bool((prices.area_that_fits(whole) < whole).any())


def _evened(prices: Prices, policy: Policy, chosen: Cutting) -> Cutting | None:
    """The same layout with the heights and widths at which all finish together."""
    count = len(prices.pool)
    heights, widths = np.zeros(count), np.zeros(count)
    heights[chosen.used] = chosen.bounds[:, 1] - chosen.bounds[:, 0]
    widths[chosen.used] = chosen.bounds[:, 3] - chosen.bounds[:, 2]
    prices = prices.shared_port(heights, widths)
    by_column = np.lexsort((chosen.bounds[:, 0], chosen.bounds[:, 2]))
    order = chosen.used[by_column]
    _, first, counts = np.unique(chosen.bounds[by_column, 2], return_index=True, return_counts=True)
    rates = prices.rates(heights, widths)
    areas = evened(prices, rates, order, counts, widths[order][first])
    stays = areas >= 1.0
    left = np.add.reduceat(stays.astype(np.int64), first)
    return _laid_out(prices, policy, order[stays], left[left > 0], areas[stays])


def _columns_round(
    prices: Prices,
    policy: Policy,
    heights: Floats,
    widths: Floats,
    rates: Floats,
    has_room: Flags,
) -> Cutting | None:
    height, width = prices.shape.rows, prices.shape.columns
    rows_s = heights * prices.row_bytes / prices.bandwidth
    move_s, compute_s = prices.cell_s(rates)
    # Rows come while others are computed: their seconds are spread over the area.
    along_s = move_s + rows_s / np.maximum(1.0, heights * widths)
    overlaps = prices.pool.overlaps
    both_s = np.where(overlaps, np.maximum(along_s, compute_s), move_s + compute_s)
    fetch_s = widths * prices.column_bytes / prices.bandwidth + np.where(overlaps, 0.0, rows_s)
    caps = np.where(has_room, prices.area_that_fits(height * width), 0)
    if float(caps.sum(dtype=np.float64)) < height * width:
        return None
    ready_s, unit_s = prices.start_s + fetch_s, np.maximum(both_s, LEAST_S)
    shares = selected(height * width, ready_s, unit_s, caps, policy)
    used = np.flatnonzero(shares)
    areas = shares[used].astype(np.float64)
    order, counts = shapes.columns(areas, height, width)
    return _laid_out(prices, policy, used[order], counts, areas[order])


def _laid_out(
    prices: Prices, policy: Policy, devices: Integers, counts: Integers, areas: Floats
) -> Cutting | None:
    """Devices column by column with about these areas; None if some would have no row."""
    if not len(devices):
        return None
    in_place = np.arange(len(devices))
    layout = shapes.snapped(in_place, counts, areas, prices.shape.rows, prices.shape.columns)
    if layout is None:
        return None
    by_number = np.argsort(devices)
    return finished("columns", prices, policy, devices[by_number], layout.bounds()[by_number])
