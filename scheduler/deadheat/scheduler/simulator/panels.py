"""A sub-task's panels as the agent's executor would cut them, for one thread.

The same rules as the executor's (bands of whole rows, a third of what is left, from 2048 x 2048
down to 256 x 256 or little work, limits on work and time), but laid down at once: one thread takes
panels in their order, so nothing of it depends on time until a part is given away.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from deadheat.runtime.programs import Rectangle

MAX_AREA: Final = 2048 * 2048
MIN_SIDE: Final = 256
MIN_AREA: Final = MIN_SIDE**2
MIN_PANEL_FLOPS: Final = 1e9
MAX_PANEL_FLOPS: Final = 8e10
MAX_PANEL_S: Final = 0.4
PANELS_LEFT: Final = 3
LAST_PART: Final = 0.05
LAST_PANEL: Final = 0.01
GRAIN: Final = 16
#: A sub-task of more is simulated in larger panels: memory and time of a simulation are bounded.
MAX_PANELS: Final = 4096
#: Rows that are enough to begin with, and for bands as low as that, while others arrive.
FIRST_ROWS: Final = 256
#: Higher than any band.
ANY_HEIGHT: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows from `top` to `bottom` of its sub-task, columns up to `right` (from where the one
    before in its band ended)."""

    top: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Layout:
    """Panels in their order, and the area before each and in all."""

    panels: Sequence[Panel]
    areas: Sequence[int]

    @cached_property
    def sizes(self) -> npt.NDArray[np.float64]:
        """The area of each panel."""
        return np.diff(np.asarray(self.areas, dtype=np.float64))

    def count_within(self, rows: int) -> int:
        """Panels that need no row from `rows` on."""
        return bisect_right(self.panels, rows, key=lambda panel: panel.bottom)

    def row_done(self, count: int) -> int:
        """Whole rows below this one are computed when `count` panels are."""
        if count < len(self.panels):
            return self.panels[count].top
        return self.panels[-1].bottom if self.panels else 0


class Sizes(NamedTuple):
    """Areas between which panels are, but for the last."""

    most: float
    least: float


def sizes_of(flops_per_element: float, area: int, predicted_s: float) -> Sizes:
    flops = max(1.0, flops_per_element)
    planned = MAX_PANEL_S * area / max(predicted_s, 1e-9)
    most = max(min(MAX_AREA, MAX_PANEL_FLOPS / flops, planned), area / MAX_PANELS)
    return Sizes(most, min(most, MIN_AREA, MIN_PANEL_FLOPS / flops))


@lru_cache(maxsize=4096)
def lay_out(rows: int, columns: int, sizes: Sizes, highest: int = ANY_HEIGHT) -> Layout:
    """The panels of a whole rectangle, in bands no higher than `highest`."""
    return _lay_out(0, 0, 0, 0, rows, columns, rows * columns, sizes, highest)


def _lay_out(
    top: int,
    bottom: int,
    left: int,
    stop: int,
    row_stop: int,
    columns: int,
    area: int,
    sizes: Sizes,
    highest: int,
) -> Layout:
    """What is left of a band (from `left` to `stop`), and the rows below it. `area` is that of the
    sub-task as it was assigned."""
    panels: list[Panel] = []
    areas: list[int] = [0]
    while True:
        height = bottom - top
        while left < stop:
            rest = stop - left
            side = _side((row_stop - bottom) * columns + rest * height, area, sizes)
            width = _up(max(1, side * side // height))
            count = max(1, round(rest / width))
            width = min(rest, _up(-(-rest // count)))
            left += width
            panels.append(Panel(top, bottom, left))
            areas.append(width * height)
        rows_left = row_stop - bottom
        if rows_left <= 0:
            return Layout(panels, list(accumulate(areas)))
        side = _side(rows_left * columns, area, sizes)
        height = min(rows_left, _up(max(min(side, rows_left // 2), min(MIN_SIDE, side))))
        if rows_left - height < MIN_SIDE // 2:
            height = rows_left
        height = min(height, highest)
        top, bottom, left, stop = bottom, bottom + height, 0, columns


def release(
    layout: Layout,
    started: int,
    keep_area: int,
    home: Rectangle,
    sizes: Sizes,
    highest: int = ANY_HEIGHT,
) -> tuple[list[Rectangle], Layout]:
    """Gives up what was not started beyond the first `keep_area` elements; returns it, and the
    panels that remain. The first `started` panels of `home` can only be kept."""
    columns = home.columns
    row_stop = layout.panels[-1].bottom if layout.panels else 0
    top = bottom = right = stop = 0
    if started:
        band = layout.panels[started - 1]
        top, bottom, right = band.top, band.bottom, band.right
        stop = right
        for panel in layout.panels[started:]:
            if panel.top != top:
                break
            stop = panel.right
    released: list[Rectangle] = []
    height, rest = bottom - top, stop - right
    keep = max(0, keep_area - layout.areas[started])
    cut = stop
    if rest and keep < rest * height:
        cut = min(stop, right + _up(-(-keep // height)))
        if cut < stop:
            released.append(
                Rectangle(
                    home.row_start + top,
                    home.row_start + bottom,
                    home.column_start + cut,
                    home.column_start + stop,
                )
            )
    keep = max(0, keep - rest * height)
    row = min(row_stop, bottom + _up(-(-keep // max(1, columns))))
    if row < row_stop:
        released.append(home.with_rows(home.row_start + row, home.row_start + row_stop))
    if not released:
        return released, layout
    tail = _lay_out(top, bottom, right, cut, row, columns, home.area, sizes, highest)
    before = layout.areas[started]
    return released, Layout(
        [*layout.panels[:started], *tail.panels],
        [*layout.areas[:started], *(before + area for area in tail.areas)],
    )


def _side(area_left: int, area: int, sizes: Sizes) -> int:
    """The side of a square panel that suits what is left."""
    share = area_left / PANELS_LEFT
    if area_left <= LAST_PART * area:
        share = min(share, LAST_PANEL * area)
    return max(GRAIN, int(min(sizes.most, max(share, sizes.least)) ** 0.5))


def _up(size: int) -> int:
    return -(-size // GRAIN) * GRAIN
