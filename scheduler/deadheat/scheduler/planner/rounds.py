"""Rounds: work that the memories do not hold at once is given out as far as they do now.

A rectangle of h x w elements needs `h * row + w * column + h * w * cell` bytes of its device (for a
product `row` and `column` are its inner dimension in bytes, `cell` an element of the result). Each
device that has room gets one rectangle, as large as its memory allows and about square: then the
fewest bytes travel for each element, `row / w + column / h`. What is left is planned when a device
has room again, so a device works through as many rectangles as it takes.

Rules of this file: nobody gets more than its part of all that is left if all were to finish
together, those counted in that are busy now; so the last round is balanced like any other work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Operation, Program, Rectangle, uncovered
from deadheat.scheduler.planner.filling import GRAIN, Filled, costed
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import LEAST_S
from deadheat.scheduler.planner.pool import Flags, Floats, Integers, Pool
from deadheat.scheduler.planner.pricing import Prices, price
from deadheat.scheduler.planner.selecting import selected

#: A device waits until so much of its memory is free: in less, rectangles become so small that what
#: travels for them costs more than the wait.
ROOM_SHARE: Final = 0.5
#: A strip, which leaves fewer pieces behind, may fetch so many times what a square would.
STRIP_TRAFFIC: Final = 1.25


def next_round(
    program: Program,
    operation: Operation,
    pieces: Sequence[Rectangle],
    pool: Pool,
    policy: Policy,
) -> tuple[Prices, list[Filled]]:
    """One rectangle for each device that has room for one, of the pieces from the first on; pieces
    of which nothing is given out are not in the answer.

    Raises LimitReached if no memory holds the smallest part that is worth sending.
    """
    whole = price(program, operation, program.types[operation.result].whole(), pool)
    able = _is_able(operation, whole)
    has_room = able & (pool.free_bytes >= ROOM_SHARE * pool.memory_bytes)
    total = sum(piece.area for piece in pieces)
    # Whoever has no room, and nothing to do that would end, is not waited for.
    caps = np.where(able & (has_room | (pool.ready_s > 0.0)), total, 0)
    if not caps.any():
        return whole, []
    rates, unit_s = _unit_s(whole, total)
    areas = selected(total, whole.start_s, unit_s, caps, policy)
    areas = np.where(has_room, areas, 0)
    tiles = _carved(whole.memory_bytes, pieces, areas, pool)
    heights, widths = np.zeros(len(pool)), np.zeros(len(pool))
    for number, _, tile in tiles:
        heights[number], widths[number] = tile.rows, tile.columns
    whole = whole.shared_port(heights, widths)
    ready_s = np.array(whole.start_s, copy=True)
    found = []
    for index, piece in enumerate(pieces):
        cuts = [(number, tile) for number, source, tile in tiles if source == index]
        if cuts:
            found.append(costed(whole, rates, piece, cuts, ready_s))
    return whole, found


def _is_able(operation: Operation, prices: Prices) -> Flags:
    """Which devices hold at least a grain of the result when nothing else is in their memory."""
    row, column, cell = prices.memory_bytes
    height, width = min(GRAIN, prices.shape.rows), min(GRAIN, prices.shape.columns)
    needed = int(height * row + width * column + height * width * cell)
    able: Flags = prices.pool.memory_bytes >= needed
    if not able.any():
        biggest = int(np.argmax(prices.pool.memory_bytes))
        raise LimitReached(
            f"{height} x {width} elements of {operation.result}, the least that is sent, need "
            f"{needed} bytes with their operands, more memory than any device has; the largest, "
            f"{prices.pool.ids[biggest]}, has {int(prices.pool.memory_bytes[biggest])} bytes",
            field="memory",
        )
    return able


def _unit_s(prices: Prices, total: int) -> tuple[Floats, Floats]:
    """Speeds for squares of about the size that comes of it, and each device's seconds for an
    element in one."""
    count = len(prices.pool)
    shape = prices.shape
    fitting = np.sqrt(np.maximum(1, prices.area_that_fits(total)).astype(np.float64))
    side = np.minimum(fitting, max(1.0, (total / count) ** 0.5))
    heights, widths = np.minimum(side, shape.rows), np.minimum(side, shape.columns)
    rates = prices.rates(heights, widths)
    cell_s, compute_s = prices.cell_s(rates)
    edges = prices.row_bytes / widths + prices.column_bytes / heights
    move_s = cell_s + edges / prices.bandwidth
    both_s = np.where(prices.pool.overlaps, np.maximum(move_s, compute_s), move_s + compute_s)
    return rates, np.maximum(both_s, LEAST_S)


def _carved(
    sizes: tuple[float, float, float],
    pieces: Sequence[Rectangle],
    areas: Integers,
    pool: Pool,
) -> list[tuple[int, int, Rectangle]]:
    """A rectangle for each device with an area, as (device, number of its piece, rectangle).

    Always the upper left corner of the first piece: what is beside it needs the same rows, which
    the device may still have when it comes back for more.
    """
    open_ = sorted((piece, index) for index, piece in enumerate(pieces) if piece.area)
    found = []
    for number in np.lexsort((-pool.free_bytes, pool.ready_s)).tolist():
        if not areas[number] or not open_:
            continue
        piece, index = open_[0]
        tile = _Room(*sizes, float(pool.free_bytes[number])).tile(piece, int(areas[number]))
        if tile is None:
            continue
        found.append((number, index, tile))
        rest = [(left, index) for left in uncovered(piece, [tile])]
        open_ = sorted([*open_[1:], *rest])
    return found


@dataclass(frozen=True)
class _Room:
    """What one device's memory holds: bytes for a row, a column, an element, and those free."""

    row: float
    column: float
    cell: float
    free: float

    def tile(self, piece: Rectangle, area: int) -> Rectangle | None:
        """The upper left corner of a piece: about so much of it, if there is room for that; None
        if there is not even for a grain."""
        rows, columns = piece.rows, piece.columns
        if not self._holds(min(GRAIN, rows), min(GRAIN, columns)):
            return None
        area = min(area, piece.area)
        side, wanted = int(self._side()), max(1, math.isqrt(area))
        height = _extent(rows, wanted, side if side < wanted else self._rows_for(1))
        square = height, _extent(columns, -(-area // height), self._columns_for(height))
        strips = (
            (_extent(rows, -(-area // columns), self._rows_for(columns)), columns),
            (rows, _extent(columns, -(-area // rows), self._columns_for(rows))),
        )
        best, least = square, self._traffic(*square) * STRIP_TRAFFIC
        for strip in strips:
            if min(strip) > 0 and self._holds(*strip) and self._traffic(*strip) < least:
                best, least = strip, self._traffic(*strip)
        height, width = best
        if min(best) <= 0 or not self._holds(*best):
            height, width = min(GRAIN, rows), min(GRAIN, columns)
        return replace(
            piece,
            row_stop=piece.row_start + height,
            column_stop=piece.column_start + width,
        )

    def _holds(self, rows: int, columns: int) -> bool:
        return rows * self.row + columns * self.column + rows * columns * self.cell <= self.free

    def _side(self) -> float:
        """Of the largest square: cell * side^2 + (row + column) * side = free."""
        half = (self.row + self.column) / 2
        return self.free / (half + math.sqrt(half * half + self.cell * self.free))

    def _rows_for(self, columns: int) -> int:
        return int((self.free - columns * self.column) // (self.row + columns * self.cell))

    def _columns_for(self, rows: int) -> int:
        return int((self.free - rows * self.row) // (self.column + rows * self.cell))

    def _traffic(self, rows: int, columns: int) -> float:
        """Bytes for each element."""
        return self.row / max(1, columns) + self.column / max(1, rows)


def _extent(length: int, wanted: int, most: int) -> int:
    """How many of `length` rows or columns to take. Where memory binds, even parts of all, so that
    no sliver is left for the end; else what is wanted, in grains."""
    if min(wanted, most) >= length:
        return length
    if most < wanted:
        if most <= 0:
            return 0
        even = -(-length // -(-length // most))
        return min(length, _up(even)) if _up(even) <= most else even
    taken = min(_up(wanted), most)
    return length if length - taken < GRAIN and length <= most else min(taken, length)


def _up(value: int) -> int:
    return -(-value // GRAIN) * GRAIN
