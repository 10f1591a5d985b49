"""Work that is not cut: an epoch of training goes to the device that would end it first, alone.

Its steps follow one another, each needs all weights that the one before moved, and these stay where
they are. So it is priced on every device as a whole, and those that are left out are told so.
"""

from __future__ import annotations

from dataclasses import replace

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Descent, Operation
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import Cutting
from deadheat.scheduler.planner.pricing import Prices
from deadheat.scheduler.planner.strips import single

SHAPE = "epoch"


def is_whole(operation: Operation) -> bool:
    """Whether an operation's result is made by one device only."""
    return isinstance(operation.kind, Descent)


def tried(prices: Prices, policy: Policy) -> list[Cutting]:
    """All of it on the device that would end first; raises LimitReached if no memory holds it."""
    alone = single(prices, policy)
    if alone is None:
        row, column, cell = prices.memory_bytes
        rows, columns = prices.shape.rows, prices.shape.columns
        needed = int(rows * row + columns * column + rows * columns * cell)
        biggest = int(prices.pool.memory_bytes.argmax())
        raise LimitReached(
            f"an epoch needs {needed} bytes on one device; the largest, "
            f"{prices.pool.ids[biggest]}, has {int(prices.pool.memory_bytes[biggest])}",
            field="memory",
        )
    return [replace(alone, shape=SHAPE)]
