"""Water-filling: shares of one job that all finish at the same moment, and earliest.

Each device finishes x units at T_i(x) = ready_i + unit_i * x, or has nothing to do. The best
common finish T fills every device up to it, like water over stones of different heights:
devices with ready_i >= T stay dry. Divisible load theory with release times (Cheng and Robertazzi
1988; Drozdowski and Lawenda 2008); the greedy rounding to integers is optimal for the latest
finish, since each unit goes where it ends first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.planner.pool import Floats, Integers, ordered

#: Halvings of an interval of time until the rest is a matter of single units.
BISECTIONS: Final = 40
#: Left-over units are laid out as arrays while there are at most so many candidates for each.
_CANDIDATES: Final = 4


@dataclass(frozen=True, slots=True)
class Balance:
    """Integer shares, when each device finishes (its ready time if it got none), and the latest
    finish of those that got some."""

    shares: Integers
    finish_s: Floats
    makespan_s: float


def level(units: float, ready_s: Floats, unit_s: Floats, caps: Floats | None = None) -> float:
    """The continuous optimum: the T at which the devices together have done `units`.

    Exact in O(p log p): the work done by T is piecewise linear with corners where a device starts
    (ready_s) and where it is full (ready_s + unit_s * cap).
    """
    rate = 1.0 / unit_s
    corners, slopes = ready_s, rate
    if caps is not None:
        bound = np.isfinite(caps)
        if bound.any():
            corners = np.concatenate([ready_s, (ready_s + unit_s * caps)[bound]])
            slopes = np.concatenate([rate, -rate[bound]])
    order = ordered(corners)
    corners, rates = corners[order], np.cumsum(slopes[order])
    done = np.concatenate([[0.0], np.cumsum(np.diff(corners) * rates[:-1])])
    # The last corner at which less than `units` was done; from there on at its rate.
    k = max(int(np.searchsorted(done, units, side="left")) - 1, 0)
    if rates[k] <= 0.0:
        return float(corners[k])
    return float(corners[k] + (units - done[k]) / rates[k])


def balance(units: int, ready_s: Floats, unit_s: Floats, caps: Integers | None = None) -> Balance:
    """Cuts `units` whole units; `caps` bounds what a device's memory takes.

    Raises LimitReached if all caps together are less than `units`.
    """
    limits = np.full(len(ready_s), np.inf) if caps is None else caps.astype(np.float64)
    if limits.sum() < units:
        raise LimitReached(f"{units} units to place, but all devices together hold {limits.sum()}")
    if units <= 0:
        return result_of(np.zeros(len(ready_s), dtype=np.int64), ready_s, unit_s)
    time_s = level(float(units), ready_s, unit_s, None if caps is None else limits)
    filled = np.clip((time_s - ready_s) / unit_s, 0.0, np.minimum(limits, units))
    # A hair below the level, so that floating point never rounds up to one unit too many.
    shares = np.floor(filled * (1.0 - 1e-12)).astype(np.int64)
    _give_out(units - int(shares.sum()), shares, ready_s, unit_s, limits)
    return result_of(shares, ready_s, unit_s)


def balance_curves(
    units: int, times_s: Callable[[Floats], Floats], count: int, caps: Integers
) -> Integers:
    """Cuts whole units among `count` devices whose time is any rising function of their share.

    `times_s(x)` gives each device's finish for x_i units, as arrays. Bisection on the common
    finish (Lastovetsky and Reddy 2007 bisect the slope of a line through their speed functions;
    with times that rise that is the same), each device's share at it by bisection of its own; what
    rounding leaves goes where it ends first, as in the linear case. Raises LimitReached as
    `balance` does.
    """
    if int(np.minimum(caps, units).sum()) < units:
        raise LimitReached(f"{units} units to place, but all devices together hold {caps.sum()}")

    def shares_by(finish_s: float) -> Integers:
        low, high = np.zeros(count, dtype=np.int64), np.minimum(caps, units).astype(np.int64)
        for _ in range(int(units).bit_length() + 1):
            middle = (low + high + 1) // 2
            fits = times_s(middle.astype(np.float64)) <= finish_s
            low, high = (
                np.where(fits, middle, low),
                np.where(fits, high, np.maximum(middle - 1, low)),
            )
        return low

    high = float(times_s(np.minimum(caps, units).astype(np.float64)).max())
    low = 0.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if shares_by(middle).sum() < units else (low, middle)
    shares = shares_by(low)
    for _ in range(units - int(shares.sum())):
        ends = np.where(shares < caps, times_s((shares + 1).astype(np.float64)), np.inf)
        shares[int(np.argmin(ends))] += 1
    return shares


def _give_out(left: int, shares: Integers, ready_s: Floats, unit_s: Floats, limits: Floats) -> None:
    """Each unit that rounding left goes where it ends first; of equal ends, to the first device."""
    if left <= 0:
        return
    open_ones = np.flatnonzero(shares < limits)
    ends = ready_s[open_ones] + unit_s[open_ones] * (shares[open_ones] + 1)
    if left < len(open_ones):
        # No unit given out ends later than the left-th earliest of the devices' next ones. Those
        # that end by then are all candidates; usually they are hardly more than are left.
        latest_s = np.partition(ends, left - 1)[left - 1]
        near = ends <= latest_s
        open_ones, ends = open_ones[near], ends[near]
        room = np.floor((latest_s - ends) / unit_s[open_ones]) + 1.0
        if room.sum() <= _CANDIDATES * (left + len(room)):
            _give_out_at_once(left, shares, open_ones, ends, unit_s, limits, room)
            return
    heap = list(zip(ends.tolist(), open_ones.tolist()))
    heapq.heapify(heap)
    for _ in range(left):
        end, device = heap[0]
        shares[device] += 1
        if shares[device] < limits[device]:
            heapq.heapreplace(heap, (end + float(unit_s[device]), device))
        else:
            heapq.heappop(heap)


def _give_out_at_once(
    left: int,
    shares: Integers,
    devices: Integers,
    ends: Floats,
    unit_s: Floats,
    limits: Floats,
    room: Floats,
) -> None:
    """All candidates as one array: for each device its next units, in order of their ends."""
    counts = np.minimum(room + 1.0, limits[devices] - shares[devices]).astype(np.int64)
    owner = np.repeat(devices, counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(ends, counts) + step * unit_s[owner]
    first = np.lexsort((owner, at))[:left]
    np.add.at(shares, owner[first], 1)


def weighted(units: int, weights: Floats, ready_s: Floats, unit_s: Floats) -> Balance:
    """Shares in proportion to given weights (the baselines), by largest remainder."""
    return result_of(apportioned(units, weights), ready_s, unit_s)


def apportioned(units: int, weights: Floats) -> Integers:
    """Whole units in proportion to weights, by largest remainder; of equal ones, the first."""
    exact: Floats = units * weights / weights.sum()
    shares: Integers = np.floor(exact).astype(np.int64)
    missing = units - int(shares.sum())
    shares[ordered(shares - exact)[:missing]] += 1
    return shares


def result_of(shares: Integers, ready_s: Floats, unit_s: Floats) -> Balance:
    finish_s: Floats = ready_s + unit_s * shares
    used = shares > 0
    return Balance(shares, finish_s, float(finish_s[used].max()) if used.any() else 0.0)
