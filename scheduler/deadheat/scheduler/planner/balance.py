"""Water-filling: shares of one job that all finish at the same moment, and earliest.

Each device finishes x units at T_i(x) = ready_i + unit_i * x, or has nothing to do. The best
common finish T fills every device up to it, like water over stones of different heights:
devices with ready_i >= T stay dry. Divisible load theory with release times (Cheng and Robertazzi
1988; Drozdowski and Lawenda 2008); the greedy rounding to integers is optimal for the latest
finish, since each unit goes where it ends first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deadheat.runtime.errors import LimitReached

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Balance:
    """Integer shares, when each device finishes (its ready time if it got none), and the latest
    finish of those that got some."""

    shares: Integers
    finish_s: Floats
    makespan_s: float


def level(units: float, ready_s: Floats, unit_s: Floats, caps: Floats) -> float:
    """The continuous optimum: the T at which the devices together have done `units`.

    Exact in O(p log p): the work done by T is piecewise linear with corners where a device starts
    (ready_s) and where it is full (ready_s + unit_s * cap).
    """
    full_s = ready_s + unit_s * caps
    corners = np.concatenate([ready_s, full_s[np.isfinite(full_s)]])
    slopes = np.concatenate([1.0 / unit_s, -1.0 / unit_s[np.isfinite(full_s)]])
    order = np.argsort(corners, kind="stable")
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
        raise LimitReached(f"{units} rows to place, but all devices together hold {limits.sum()}")
    if units <= 0:
        return _result(np.zeros(len(ready_s), dtype=np.int64), ready_s, unit_s)
    time_s = level(float(units), ready_s, unit_s, limits)
    filled = np.clip((time_s - ready_s) / unit_s, 0.0, np.minimum(limits, units))
    # A hair below the level, so that floating point never rounds up to one unit too many.
    shares = np.floor(filled * (1.0 - 1e-12)).astype(np.int64)
    _give_out(units - int(shares.sum()), shares, ready_s, unit_s, limits)
    return _result(shares, ready_s, unit_s)


def _give_out(left: int, shares: Integers, ready_s: Floats, unit_s: Floats, limits: Floats) -> None:
    """Each unit that rounding left goes where it ends first."""
    if left <= 0:
        return
    open_ones = np.flatnonzero(shares < limits)
    ends = ready_s[open_ones] + unit_s[open_ones] * (shares[open_ones] + 1)
    heap = list(zip(ends.tolist(), open_ones.tolist()))
    heapq.heapify(heap)
    for _ in range(left):
        end, device = heap[0]
        shares[device] += 1
        if shares[device] < limits[device]:
            heapq.heapreplace(heap, (end + float(unit_s[device]), device))
        else:
            heapq.heappop(heap)


def weighted(units: int, weights: Floats, ready_s: Floats, unit_s: Floats) -> Balance:
    """Shares in proportion to given weights (the baselines), by largest remainder."""
    exact = units * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    missing = units - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return _result(shares, ready_s, unit_s)


def _result(shares: Integers, ready_s: Floats, unit_s: Floats) -> Balance:
    finish_s = ready_s + unit_s * shares
    used = shares > 0
    return Balance(shares, finish_s, float(finish_s[used].max()) if used.any() else 0.0)
