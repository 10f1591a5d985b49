"""Filling: several left-over rectangles of one operation, given out together.

After a re-balance or a loss what nobody has is a heap of pieces. Cut each among all devices, they
would become a dust of sub-tasks; so the heap's whole area is water-filled once, and the pieces are
then carved in order until each device has its area. There are at most as many sub-tasks as pieces
and devices together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deadheat.runtime.programs import Operation, Program, Rectangle
from deadheat.scheduler.planner.inputs import Policy
from deadheat.scheduler.planner.layouts import no_room
from deadheat.scheduler.planner.pool import Floats, Integers, Pool
from deadheat.scheduler.planner.pricing import Costs, Prices, price
from deadheat.scheduler.planner.selecting import selected

#: Pieces are carved at multiples of this, which suits every BLAS kernel.
GRAIN = 16


@dataclass(frozen=True, eq=False)
class Filled:
    """One piece, carved: entry i of the arrays is what device `used[i]` of the pool gets of it."""

    rectangle: Rectangle
    used: Integers
    bounds: Integers
    costs: Costs
    rates: Floats


def fill(
    program: Program,
    operation: Operation,
    pieces: Sequence[Rectangle],
    pool: Pool,
    policy: Policy,
) -> tuple[Prices, list[Filled]]:
    """Gives out pieces so that all devices finish together; also tells the prices it was done by.
    Raises LimitReached if no memory holds them."""
    whole = price(program, operation, program.types[operation.result].whole(), pool)
    total = sum(piece.area for piece in pieces)
    # Pieces are cut across their longer side: whoever gets a part of one fetches what its short
    # side needs, and more with each unit of its long side.
    short = sum(piece.area * min(piece.rows, piece.columns) for piece in pieces) / max(1, total)
    even = max(1.0, total / len(pool))
    sides = np.full(len(pool), min(short, even**0.5))
    rates = whole.rates(sides, even / sides)
    wide = sum(piece.area for piece in pieces if piece.columns > piece.rows) / max(1, total)
    each = wide * whole.row_bytes + (1.0 - wide) * whole.column_bytes
    along = wide * whole.column_bytes + (1.0 - wide) * whole.row_bytes
    caps = whole.area_that_fits(total)
    if _by_rows(whole):
        sides = np.full(len(pool), float(whole.shape.columns))
        rates = whole.rates(even / sides, sides)
        each, along = whole.column_bytes, whole.row_bytes
        caps = np.minimum(total, whole.rows_that_fit(sides) * whole.shape.columns)
    fetch_s = sides * each / whole.bandwidth
    move_s = (along / sides + whole.cell_bytes + whole.out_bytes) / whole.bandwidth
    compute_s = whole.flops_per_element / pool.effective(rates)
    both_s = np.where(pool.overlaps, np.maximum(move_s, compute_s), move_s + compute_s)
    if float(caps.sum(dtype=np.float64)) < total:
        raise no_room(whole, "elements", total)
    areas = selected(total, whole.start_s + fetch_s, np.maximum(both_s, 1e-15), caps, policy)
    whole = whole.shared_port(areas / sides * (areas > 0), sides)
    return whole, _carve(whole, rates, pieces, areas)


def _by_rows(prices: Prices) -> bool:
    """Segments are cut in rows only: every column needs all that is before."""
    return bool(prices.shape.parts)


def _carve(
    prices: Prices, rates: Floats, pieces: Sequence[Rectangle], areas: Integers
) -> list[Filled]:
    """Walks along the pieces, largest first, and changes device when one has its area."""
    order = sorted(pieces, key=lambda piece: (-piece.area, piece))
    queue = [(number, int(areas[number])) for number in np.argsort(-areas, kind="stable").tolist()]
    queue = [(number, area) for number, area in queue if area > 0]
    at, wanted = 0, queue[0][1]
    ready_s = np.array(prices.start_s, copy=True)
    found = []
    for piece in order:
        cuts: list[tuple[int, Rectangle]] = []
        left = piece
        while left.area:
            number = queue[at][0]
            is_last = at == len(queue) - 1
            part, left = (
                (left, replace(left, row_start=left.row_stop))
                if is_last
                else _split(left, wanted, by_rows=_by_rows(prices))
            )
            if part.area:
                cuts.append((number, part))
                wanted -= part.area
            if not is_last and (left.area or wanted <= 0):
                at += 1
                wanted = queue[at][1] + min(0, wanted)
        found.append(costed(prices, rates, piece, cuts, ready_s))
    return found


def _split(piece: Rectangle, area: int, *, by_rows: bool) -> tuple[Rectangle, Rectangle]:
    """About so much of a piece along its longer side (or in rows), in grains, and the rest."""
    if by_rows or piece.rows >= piece.columns:
        rows = _grained(area / piece.columns, piece.rows)
        middle = piece.row_start + rows
        return piece.with_rows(piece.row_start, middle), piece.with_rows(middle, piece.row_stop)
    columns = _grained(area / piece.rows, piece.columns)
    middle = piece.column_start + columns
    return replace(piece, column_stop=middle), replace(piece, column_start=middle)


def _grained(exact: float, most: int) -> int:
    """The nearest multiple of a grain; what is hardly more than the piece is the whole piece."""
    if exact >= most - GRAIN / 2:
        return most
    grain = GRAIN if most >= 4 * GRAIN else 1
    return min(most, max(0, round(exact / grain)) * grain)


def costed(
    prices: Prices,
    rates: Floats,
    piece: Rectangle,
    cuts: Sequence[tuple[int, Rectangle]],
    ready_s: Floats,
) -> Filled:
    """What the parts of one piece cost; moves on when their devices are ready for more."""
    used = np.array([number for number, _ in cuts], dtype=np.int64)
    bounds = np.array(
        [(r.row_start, r.row_stop, r.column_start, r.column_stop) for _, r in cuts],
        dtype=np.int64,
    ).reshape(-1, 4)
    heights = (bounds[:, 1] - bounds[:, 0]).astype(np.float64)
    widths = (bounds[:, 3] - bounds[:, 2]).astype(np.float64)
    speeds = prices.pool.effective(rates)[used]
    costs = prices.of(used).costs_from(ready_s[used], heights, widths, speeds)
    ready_s[used] = costs.finish_s
    return Filled(piece, used, bounds, costs, rates[used])
