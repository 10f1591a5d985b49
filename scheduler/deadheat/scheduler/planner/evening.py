"""Evening out: a layout of columns whose rectangles all finish together, transfers counted.

Areas that balance devices before they are laid out are right only for the rectangles they were
priced with; a far device that comes to lie in a wider column fetches more. So once the layout is
chosen, its heights and widths are solved for. In a column of width w, device i finishes h rows at
a_i + b_i * h, with a_i = start + w * (seconds to fetch a column's operand) and b_i the same for a
row and its w elements (the larger of moving and computing them where these overlap): linear, so
all end at T(w) = (rows + sum a_i / b_i) / sum 1 / b_i. Widths that make T the same for every column
are found by Newton's method, each step a water-filling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.scheduler.planner.balance import level
from deadheat.scheduler.planner.layouts import LEAST_S
from deadheat.scheduler.planner.pool import Flags, Floats, Integers
from deadheat.scheduler.planner.pricing import Prices

#: Newton's method converges at once where transfers are small, and in three steps elsewhere.
STEPS: Final = 4
#: Devices that start after their column has ended are left out, and then perhaps more of them.
DROPS: Final = 4
#: The relative step of the numeric derivative.
_NUDGE: Final = 0.01


@dataclass(frozen=True, eq=False)
class _Columns:
    """A layout's devices column by column; `first` is where each column begins."""

    rows: int
    first: Integers
    column: Integers
    start_s: Floats
    column_s: Floats
    row_s: Floats
    move_s: Floats
    compute_s: Floats
    overlaps: Flags

    def solved(self, widths: Floats) -> tuple[Floats, Floats]:
        """When each column ends, and the heights of its rectangles, for such widths."""
        wide = widths[self.column]
        ready_s = self.start_s + wide * self.column_s
        along_s, compute_s = self.row_s + wide * self.move_s, wide * self.compute_s
        unit_s = np.where(self.overlaps, np.maximum(along_s, compute_s), along_s + compute_s)
        unit_s = np.maximum(unit_s, LEAST_S)
        rate = 1.0 / unit_s
        for _ in range(DROPS):
            rates = np.add.reduceat(rate, self.first)
            ends_s = (self.rows + np.add.reduceat(ready_s * rate, self.first)) / rates
            is_late = (ready_s >= ends_s[self.column]) & (rate > 0.0)
            if not is_late.any():
                break
            rate = np.where(is_late, 0.0, rate)
        heights: Floats = np.maximum(0.0, ends_s[self.column] - ready_s) * rate
        return ends_s, heights


def evened(
    prices: Prices, rates: Floats, order: Integers, counts: Integers, widths: Floats
) -> Floats:
    """Areas of the devices in `order`, column by column, that make them all finish together; 0
    for those that could not begin in time. `rates` are the devices' idle speeds."""
    total = float(prices.shape.columns)
    bandwidth = prices.bandwidth[order]
    move_s, compute_s = prices.cell_s(rates)
    found = _Columns(
        rows=prices.shape.rows,
        first=np.cumsum(counts) - counts,
        column=np.repeat(np.arange(len(counts)), counts),
        start_s=prices.start_s[order],
        column_s=prices.column_bytes[order] / bandwidth,
        row_s=prices.row_bytes[order] / bandwidth,
        move_s=move_s[order],
        compute_s=compute_s[order],
        overlaps=prices.pool.overlaps[order],
    )
    for _ in range(STEPS):
        ends_s, _ = found.solved(widths)
        slope = (found.solved(widths * (1.0 + _NUDGE))[0] - ends_s) / (_NUDGE * widths)
        slope = np.maximum(slope, 1e-15)
        ready_s = ends_s - slope * widths
        common_s = level(total, ready_s, slope)
        widths = np.maximum(1.0, (common_s - ready_s) / slope)
        widths *= total / widths.sum()
    _, heights = found.solved(widths)
    areas: Floats = heights * widths[found.column]
    return areas
