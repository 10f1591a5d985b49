"""Cutting: a piece of work in every shape that is sensible, the best one first."""

from __future__ import annotations

from typing import Final

from deadheat.runtime.errors import LimitReached
from deadheat.scheduler.planner.columns import columns
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import Cutting
from deadheat.scheduler.planner.pricing import Prices
from deadheat.scheduler.planner.strips import rows, single

#: Another shape than strips of rows has to be better by so much: strips are simplest.
SHAPE_GAIN: Final = 0.002
#: Strips lower than this are slow for every BLAS: then other shapes are looked at even where
#: nothing has to travel.
LOW_STRIP: Final = 256


def tried(prices: Prices, policy: Policy) -> list[Cutting]:
    """Every cut that is sensible, the best one first: strips of rows unless another is clearly
    better, but the single device if it is not worse.

    Raises LimitReached if the memories hold it in no shape.
    """
    try:
        by_rows = rows(prices, policy)
    except LimitReached:
        # Strips need all of the second operand; columns of rectangles may do with less.
        if by_columns := columns(prices, policy):
            return [by_columns]
        raise
    found = [by_rows]
    strip = prices.shape.rows / max(1, len(by_rows.used))
    may_be_columns = not prices.shape.parts  # Of a segment every column needs all that is before.
    several = prices.is_far or (len(by_rows.used) > 1 and strip < LOW_STRIP)
    if several and may_be_columns and len(prices.pool) > 1:
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
