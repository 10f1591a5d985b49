"""Shapes: rectangles of given areas that tile a result, with little traffic.

A device that makes h x w of a result needs h rows of A and w columns of B, so traffic is the sum
of half-perimeters, and at best every rectangle is a square: 2 * sum(sqrt(area)). Finding the best
tiling is NP-complete; layouts of columns are near-optimal (PERI-SUM: Beaumont, Boudet, Rastello and
Robert, "Partitioning a square into rectangles", Algorithmica 2002). One column is a cut into strips
of rows, and one rectangle in each column a cut into strips of columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.scheduler.planner.balance import apportioned
from deadheat.scheduler.planner.pool import Floats, Integers, ordered

#: Up to so many rectangles the best number of columns is searched by dynamic programming; beyond,
#: only numbers near the square root are tried.
EXACT_RECTANGLES: Final = 64


@dataclass(frozen=True, eq=False)
class Layout:
    """Columns of rectangles: `order` lists devices column by column, from the top; `counts` says
    how many are in each column; `widths` of columns and `heights` of rectangles are whole."""

    order: Integers
    counts: Integers
    widths: Integers
    heights: Integers

    @property
    def column_of(self) -> Integers:
        """The column of each entry of `order`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def bounds(self) -> Integers:
        """Row start, row stop, column start, column stop of each entry of `order`."""
        column = self.column_of
        stops = np.cumsum(self.widths)
        below = np.cumsum(self.heights)
        first = np.cumsum(self.counts) - self.counts
        before = np.where(first > 0, below[first - 1], 0)
        row_stop = below - before[column]
        return np.stack(
            [row_stop - self.heights, row_stop, (stops - self.widths)[column], stops[column]],
            axis=1,
        )


def columns(areas: Floats, rows: int, width: int) -> tuple[Integers, Integers]:
    """Which devices share a column: (order, counts) for the least sum of half-perimeters.

    `areas` are positive, of any scale. The cost of a column with k rectangles and the share s of
    all area is k * s * width + rows (its rectangles' widths, and their heights, which stack up).
    """
    order = ordered(-areas)
    share = areas[order] / areas.sum()
    if len(areas) <= EXACT_RECTANGLES:
        counts = _best_columns(share, rows, width)
    else:
        counts = _near_square_columns(share, rows, width)
    return order, counts


def _best_columns(share: Floats, rows: int, width: int) -> Integers:
    """Dynamic programming over areas in falling order: f[c][i] = min over j of
    f[c-1][j] + (i - j) * (share of j..i); the columns' heights are added at the end."""
    count = len(share)
    before = np.concatenate([[0.0], np.cumsum(share)])
    index = np.arange(count + 1)
    # cost[j, i]: one column of the rectangles j to i - 1.
    cost = np.where(
        index[None, :] > index[:, None],
        (index[None, :] - index[:, None]) * (before[None, :] - before[:, None]),
        np.inf,
    )
    most = min(count, int(2 * np.sqrt(count * width / max(1, rows))) + 2)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    chosen: list[Integers] = []
    totals: list[float] = []
    for number in range(1, most + 1):
        reached = best[:, None] + cost
        origin = np.argmin(reached, axis=0)
        best = reached[origin, index]
        chosen.append(origin)
        totals.append(float(best[count]) * width + number * rows)
    number = int(np.argmin(totals)) + 1
    counts: list[int] = []
    end = count
    for level in range(number - 1, -1, -1):
        start = int(chosen[level][end])
        counts.append(end - start)
        end = start
    return np.array(counts[::-1], dtype=np.int64)


def _near_square_columns(share: Floats, rows: int, width: int) -> Integers:
    """For many rectangles: columns of equal sums of sqrt(area), so that squares would fill them,
    for the few numbers of columns near that at which they are squares."""
    sides = np.cumsum(np.sqrt(share))
    ideal = np.sqrt(len(share) * width / max(1, rows))
    best: tuple[float, Integers] | None = None
    for number in range(max(1, int(ideal) - 1), int(ideal) + 3):
        cuts = np.searchsorted(sides, sides[-1] * np.arange(1, number) / number)
        counts = np.diff(np.concatenate([[0], cuts, [len(share)]]))
        counts = counts[counts > 0]
        starts = np.cumsum(counts) - counts
        parts = np.add.reduceat(share, starts)
        total = float((counts * parts).sum()) * width + len(counts) * rows
        if best is None or total < best[0]:
            best = total, counts.astype(np.int64)
    assert best is not None
    return best[1]


def snapped(
    order: Integers, counts: Integers, areas: Floats, rows: int, width: int
) -> Layout | None:
    """Whole widths and heights for a layout; None if some rectangle would have no row or column.

    Each column's heights, and the widths of all, are rounded by largest remainder.
    """
    if int(counts.max()) > rows or len(counts) > width:
        return None
    starts = np.cumsum(counts) - counts
    inside = areas[order]
    per_column = np.add.reduceat(inside, starts)
    widths = apportioned(width, per_column)
    column = np.repeat(np.arange(len(counts)), counts)
    exact = rows * inside / per_column[column]
    heights = np.floor(exact).astype(np.int64)
    missing = rows - np.add.reduceat(heights, starts)
    # Within each column the largest remainders get the rows that rounding left.
    ranked = np.lexsort((heights - exact, column))
    position = np.arange(len(ranked)) - starts[column[ranked]]
    heights[ranked[position < missing[column[ranked]]]] += 1
    if not widths.all() or not heights.all():
        return None
    return Layout(order, counts, widths, heights)


def half_perimeters(heights: Integers, widths: Integers) -> int:
    return int(heights.sum() + widths.sum())


def least_half_perimeters(areas: Floats, rows: int, width: int) -> float:
    """No tiling of a rows x width result into these areas has a smaller sum of half-perimeters:
    squares, but for those that would be taller or wider than the result."""
    side = np.sqrt(areas)
    height = np.minimum(side, rows)
    height = np.maximum(height, areas / max(1, width))
    height = np.where(height > 0, height, 1.0)
    return float((height + areas / height)[areas > 0].sum())
