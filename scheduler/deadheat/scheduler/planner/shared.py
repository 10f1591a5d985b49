"""An epoch of training among several devices: who takes part, and what of every batch each takes.

Each step waits for all of them, and for their gradients on the way through a tree and back. So
parts are in proportion to the speeds at which devices could work now, the slowest fetch holds up
all, and what a step pays for the exchange is the same whatever it computes: long ones are worth it.

    finish = latest start + flops / sum of speeds + steps * exchange + the slowest result
    exchange = levels * (hop + 2 * latency) + busiest link's gradients / its bandwidth + move

Rules of this file: the members of a step are in the order of the tree, those with the fastest links
first, since the root and who is near it send most (`Share` in the wire contract).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from deadheat.runtime import descents
from deadheat.runtime.programs import Descent, MatrixType
from deadheat.scheduler.planner.balance import apportioned
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import Cutting
from deadheat.scheduler.planner.pool import Floats, Integers, ordered
from deadheat.scheduler.planner.pricing import Costs, Prices

SHAPE: Final = "shared epoch"
#: Devices of one epoch at most: gradients take longer with each level of the tree.
MAX_MEMBERS: Final = 16
#: From an executor through two agents to another one and back, whatever the size (measured).
HOP_S: Final = 0.0015
#: Gradients of two agents of one host, added in their memory, and the sum put there (measured).
NEAR_BYTES_PER_S: Final = 9.0e8
#: As chunks, up and down, however fast the link is (measured).
CHUNKS_BYTES_PER_S: Final = 3.0e8
#: Everybody moves all parameters; one device alone moves each when it has it in hand (measured).
MOVED_BYTES_PER_S: Final = 1.5e9


@dataclass(frozen=True, eq=False)
class Shared:
    """A way to share an epoch, and what a step of it costs."""

    cutting: Cutting
    step_s: float
    exchange_s: float


def best(
    prices: Prices, policy: Policy, kind: Descent, samples: MatrixType, state: MatrixType
) -> Shared | None:
    """The fastest way to share an epoch, be it slower than one device; None where no two devices
    that hold what it needs can exchange gradients. Those who would end it first alone are taken
    first, as many as it pays."""
    found: Shared | None = None
    pool = prices.pool
    fits = prices.rows_that_fit(np.full(len(pool), float(state.columns))) >= state.rows
    fetch_s = state.columns * prices.column_bytes / prices.bandwidth
    alone_s = prices.start_s + fetch_s
    alone_s += prices.shape.flops / pool.effective(pool.rates(prices.shape))
    for place in sorted({place for place in pool.meets if place}):
        here = np.array([meets == place for meets in pool.meets], dtype=np.bool_) & fits
        chosen = [n for n in ordered(alone_s).tolist() if here[n]][:MAX_MEMBERS]
        for count in range(2, min(len(chosen), descents.parameters(kind)) + 1):
            members = np.array(sorted(chosen[:count]), dtype=np.int64)
            made = _among(prices, policy, kind, samples, state, members)
            if found is None or made.cutting.total_s < found.cutting.total_s:
                found = made
    return found


def _among(
    prices: Prices,
    policy: Policy,
    kind: Descent,
    samples: MatrixType,
    state: MatrixType,
    members: Integers,
) -> Shared:
    """By these devices, by their numbers in rising order."""
    count, heights, widths = len(members), np.zeros(len(prices.pool)), np.zeros(len(prices.pool))
    heights[members], widths[members] = state.rows, state.columns
    prices = prices.shared_port(heights, widths)
    members = _by_links(prices, members)
    pool = prices.pool
    batch = min(kind.batch_size, samples.rows)
    steps = -(-samples.rows // batch)
    # Of fewer rows a product is slower.
    shape = descents.work_shape(replace(kind, batch_size=max(1, batch // count)), samples, state)
    rates = pool.rates(shape)[members]
    speeds = pool.effective(pool.rates(shape))[members]
    sizes = apportioned(descents.parameters(kind) - count, speeds) + 1
    stops = np.cumsum(sizes)
    starts = stops - sizes
    compute_s = prices.shape.flops * sizes / sizes.sum() / speeds
    stops[-1] = state.columns
    out = (stops - starts) * state.rows * prices.out_bytes[members]
    into = state.columns * prices.column_bytes[members]
    gradient = float(descents.parameters(kind) * state.element.itemsize)
    exchange_s = _exchange_s(prices, members, gradient)
    far = ~pool.is_local[members]
    sent = np.where(far, steps * gradient, 0.0)
    fetch_s, deliver_s = (each / prices.bandwidth[members] for each in (into, out))
    begin_s = float((prices.start_s[members] + fetch_s).max())
    all_s = begin_s + float(compute_s.max()) + steps * exchange_s + float(deliver_s.max())
    columns = np.stack([np.zeros(count, np.int64), np.full(count, state.rows), starts, stops], 1)
    costs = Costs(
        np.full(count, all_s),
        fetch_s + deliver_s,
        compute_s,
        (into + sent).astype(np.int64),
        (out + sent).astype(np.int64),
    )
    cutting = Cutting(
        SHAPE,
        members,
        columns.astype(np.int64),
        costs,
        all_s,
        all_s + policy.subtask_cost_s * count,
        rates,
        prices.bandwidth,
    )
    return Shared(cutting, float(compute_s.max()) / steps + exchange_s, exchange_s)


def _by_links(prices: Prices, members: Integers) -> Integers:
    """Members as they stand in the tree: those of the store's host, then those with fast links."""
    speeds = np.where(prices.pool.is_local, np.inf, prices.pool.bandwidth_bytes_per_s)[members]
    found: Integers = members[np.argsort(-speeds, kind="stable")]
    return found


def _exchange_s(prices: Prices, members: Integers, gradient_bytes: float) -> float:
    """Seconds of a step in which nobody computes gradients."""
    pool, count = prices.pool, len(members)
    levels = count.bit_length() - 1
    near = pool.is_local[members]
    latency_s = float(np.where(near, 0.0, pool.latency_s[members]).max())
    # Among some that are far, those on the store's host have to do with them, too.
    here = NEAR_BYTES_PER_S if near.all() else CHUNKS_BYTES_PER_S
    there = np.minimum(CHUNKS_BYTES_PER_S, pool.bandwidth_bytes_per_s[members])
    links: Floats = np.where(near, here, there)
    # The member n has as many children as there are of 2 n + 1 and 2 n + 2, and all but the root
    # have a parent; what goes up and what comes down go at the same time.
    numbers = np.arange(count)
    carried = np.clip(count - 1 - 2 * numbers, 0, 2) + (numbers > 0)
    busiest_s = float((carried * gradient_bytes / links).max())
    return levels * (HOP_S + 2 * latency_s) + busiest_s + gradient_bytes / MOVED_BYTES_PER_S
