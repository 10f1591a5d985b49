"""Selecting: water-filling, without those who cost more than they bring."""

from __future__ import annotations

from typing import Final

import numpy as np

from deadheat.scheduler.planner.balance import balance
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import LEAST_S
from deadheat.scheduler.planner.pool import Floats, Integers, ordered

#: A piece of less than this part of the largest, which saves the others less than so many times the
#: shortest sub-task, is left out: such a device is far slower than predicted as soon as its panels
#: are few, and a job that is so short is over before anybody can take it back. (A core beside an
#: H200: 0.1 % of a product of 0.2 s took it 1 s. Sixteen: 2 % of 1.4 s made it 4 % longer.)
SLIVER: Final = 0.03
SLIVER_SUBTASKS: Final = 25.0


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
    """Drops devices whose piece is not worth sending, worst half at a time, then the rest."""
    left = np.where(shares > 0, caps, 0)
    while True:
        # Small for its device, and for the others too: a fast one may save much in no time.
        rate = np.where(shares > 0, 1.0 / unit_s, 0.0)
        others_s = shares / np.maximum(rate.sum() - rate, LEAST_S)
        small = np.maximum(shares * unit_s, others_s) < policy.min_subtask_s
        slivers_s = SLIVER_SUBTASKS * policy.min_subtask_s
        small |= (shares < SLIVER * shares.max()) & (others_s < slivers_s)
        crumbs = np.flatnonzero((shares > 0) & small)
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
