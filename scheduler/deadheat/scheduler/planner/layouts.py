"""Layouts: which device gets which rectangle of a piece of work, and what that costs.

Rules of this file: a layout says what it really costs, its whole rows and columns and each device's
own speed counted; which layouts are tried is said elsewhere (`strips`, `columns`, `cutting`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.pool import Floats, Integers
from deadheat.scheduler.planner.pricing import Costs, Prices

#: The least work is never nothing: an empty product costs no time, but a division by it must not.
LEAST_S: Final = 1e-12


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


def fits(prices: Prices, made: Cutting) -> bool:
    """Whether every device's memory holds its part: a baseline's need not."""
    return not len(misfits(prices, made))


def misfits(prices: Prices, made: Cutting) -> Integers:
    """The devices whose memory does not hold their rectangle and its operands."""
    bounds = made.bounds
    room = prices.rows_that_fit((bounds[:, 3] - bounds[:, 2]).astype(np.float64), made.used)
    found: Integers = made.used[bounds[:, 1] - bounds[:, 0] > room]
    return found


def strips(prices: Prices, policy: Policy, shares: Integers) -> Cutting:
    used = np.flatnonzero(shares)
    stops = np.cumsum(shares[used])
    zeros = np.zeros_like(stops)
    bounds = np.stack([stops - shares[used], stops, zeros, zeros + prices.shape.columns], axis=1)
    return finished("rows", prices, policy, used, bounds)


def no_room(prices: Prices, what: str, units: int) -> LimitReached:
    biggest = int(np.argmax(prices.pool.memory_bytes))
    return LimitReached(
        f"{units} {what} need more memory than all devices together have; the largest, "
        f"{prices.pool.ids[biggest]}, has {int(prices.pool.memory_bytes[biggest])} bytes",
        field="memory",
    )
