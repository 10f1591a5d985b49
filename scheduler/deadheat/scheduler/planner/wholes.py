"""Work that is whole or nothing: an epoch of training, by one device or by several together.

Its steps follow one another, each needs all weights that the one before moved, and these stay where
they are. So nothing of it is given away, and it counts when all of it is done. It is priced on
every device as a whole, and for several that exchange gradients in each step (`shared`). Whichever
is predicted to end first is taken, but a few percent are not worth that more can fail.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Descent, Operation, Program
from deadheat.runtime.units import format_seconds
from deadheat.scheduler.planner import shared
from deadheat.scheduler.planner.inputs import Cut, Policy
from deadheat.scheduler.planner.layouts import Cutting
from deadheat.scheduler.planner.plan import Alternative
from deadheat.scheduler.planner.pool import joined
from deadheat.scheduler.planner.pricing import Prices
from deadheat.scheduler.planner.shared import Shared
from deadheat.scheduler.planner.strips import single

SHAPE: Final = "epoch"
#: What sharing has to save: every device more is one that can hold up the others.
SHARING_GAIN: Final = 0.1


@dataclass(frozen=True, eq=False)
class Whole:
    """How a whole piece of work is made, why so, and what the other way would have cost."""

    cutting: Cutting
    note: str = ""
    alternatives: tuple[Alternative, ...] = ()


def is_whole(operation: Operation) -> bool:
    """Whether an operation's result is whole or nothing."""
    return isinstance(operation.kind, Descent)


def decided(
    prices: Prices, policy: Policy, program: Program, operation: Operation, *, may_share: bool
) -> Whole:
    """By the device that would end first, or by several; raises LimitReached if no memory of any
    holds it."""
    alone = single(prices, policy)
    if alone is None:
        raise _no_room(prices)
    alone = replace(alone, shape=SHAPE)
    if policy.cut is not Cut.BALANCED or len(prices.pool) < 2:
        return Whole(alone)
    if not may_share:
        return Whole(alone, "it has failed where it was shared, so one device works it")
    kind, state = operation.kind, program.types[operation.result]
    samples = program.types[operation.operands[0]]
    assert isinstance(kind, Descent)
    several = shared.best(prices, policy, kind, samples, state)
    if several is None:
        return Whole(
            alone,
            "no two devices that hold all of it can exchange gradients, so it is not shared "
            "(setting: peers)",
        )
    return _chosen(alone, several, prices)


def _chosen(alone: Cutting, several: Shared, prices: Prices) -> Whole:
    made = several.cutting
    names = [prices.pool.ids[number] for number in made.used.tolist()]
    step, exchange = format_seconds(several.step_s), format_seconds(several.exchange_s)
    if made.total_s > (1.0 - SHARING_GAIN) * alone.total_s:
        note = (
            f"its steps are too small to share: with {joined(names)} each would take {step}, of "
            f"which their gradients' way takes {exchange}"
        )
        other = Alternative(f"shared by {len(names)} devices", made.makespan_s)
        return Whole(alone, note, (other,))
    note = (
        f"each step takes {step}, of which gradients take {exchange} on their way through a tree "
        f"with {names[0]} at its root"
    )
    device = prices.pool.ids[int(alone.used[0])]
    return Whole(made, note, (Alternative(f"{device} alone", alone.makespan_s),))


def _no_room(prices: Prices) -> LimitReached:
    row, column, cell = prices.memory_bytes
    rows, columns = prices.shape.rows, prices.shape.columns
    needed = int(rows * row + columns * column + rows * columns * cell)
    biggest = int(prices.pool.memory_bytes.argmax())
    return LimitReached(
        f"an epoch needs {needed} bytes on one device; the largest, "
        f"{prices.pool.ids[biggest]}, has {int(prices.pool.memory_bytes[biggest])}",
        field="memory",
    )
