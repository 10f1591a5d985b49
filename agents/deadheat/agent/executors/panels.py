"""A sub-task as a stream of panels, large ones first and small ones at the end.

Rules of this file: pure bookkeeping under its caller's lock. Work goes in bands of whole rows from
the top, each band in panels from the left, and sizes are chosen when a band or a panel starts: a
third of what is left for each thread, within bounds, or less where panels of one size take unlike
times (adaptive factoring). So all threads end together, and at any moment what has not been
started is one run (the rest of the band, and the rows below) of which any part can be given back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from deadheat.agent.executors.bounds import CORES, Bounds
from deadheat.runtime.dtypes import element_type
from deadheat.runtime.programs import GemmShape, Rectangle, uncovered

#: Panels that have to have ended before their variance says something.
MIN_PANELS: Final = 4
#: Cuts and bands are multiples of this, which suits every BLAS kernel.
GRAIN: Final = 16


@dataclass(slots=True)
class Band:
    """Rows that are cut into panels together."""

    row_start: int
    row_stop: int
    #: Panels that are running.
    open: int = 0
    #: All of its columns have been started (or given away).
    is_issued: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    rectangle: Rectangle
    band: int


@dataclass(slots=True)
class _Pace:
    """Mean and variance of the seconds that an element takes, from panels (Welford's sums)."""

    count: int = 0
    mean_s: float = 0.0
    squares: float = 0.0
    area: float = 0.0

    def add(self, area: int, seconds: float) -> None:
        each_s = seconds / area
        self.count += 1
        before = each_s - self.mean_s
        self.mean_s += before / self.count
        self.squares += before * (each_s - self.mean_s)
        self.area += area

    def chunk(self, area_left: float, threads: int) -> float:
        """Elements for one thread's next panel by adaptive factoring, for threads of one pace:

            D = P * sigma^2 / mu,  T = mu / P
            chunk = (D + 2 T R - sqrt(D^2 + 4 D T R)) / (2 mu)

        (Banicescu and Liu, "Adaptive factoring", 2000). mu and sigma are of one element; a panel
        of n elements that vary independently varies by sigma * sqrt(n). Even panels (sigma = 0)
        may be as large as R / P.
        """
        if self.count < MIN_PANELS or self.mean_s <= 0.0:
            return math.inf
        variance = self.squares / (self.count - 1) * (self.area / self.count)
        d, t = threads * variance / self.mean_s, self.mean_s / threads
        twice = d + 2 * t * area_left - math.sqrt(d * d + 4 * d * t * area_left)
        return twice / (2 * self.mean_s)


@dataclass
class Panels:
    """The panels of one sub-task. `shape` is its product, for the work of an element."""

    rectangle: Rectangle
    shape: GemmShape
    threads: int
    #: What the plan gives it; 0 if it does not say.
    predicted_s: float = 0.0
    #: The result is its own transpose: what has been computed across its diagonal can be copied.
    is_symmetric: bool = False
    #: Rows from here on lack operands that are on their way; None when all are there.
    row_arrived: int | None = None
    #: A panel is all of its band: a column of the result needs all columns of what is before.
    is_in_whole_rows: bool = False
    #: Bands of whole rows are multiples of so many rows.
    row_grain: int = GRAIN
    #: How large panels may be, and how small.
    bounds: Bounds = CORES
    #: Elements that have been computed.
    area_done: int = field(init=False, default=0)
    #: Rows from here on belong to somebody else now.
    row_stop: int = field(init=False)
    _bands: list[Band] = field(init=False, default_factory=list)
    _area_taken: int = field(init=False, default=0)
    _column: int = field(init=False, default=0)
    _column_stop: int = field(init=False, default=0)
    _returned: deque[Panel] = field(init=False, default_factory=deque)
    _first_open: int = field(init=False, default=0)
    _pace: _Pace = field(init=False, default_factory=_Pace)
    _finished: list[Rectangle] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.row_stop = self.rectangle.row_stop
        self._column = self._column_stop = self.rectangle.column_stop

    # Taking and finishing

    def take(self) -> Panel | None:
        """The next panel to compute; None when all that can be have been taken."""
        if self._returned:
            panel = self._returned.popleft()
            self._bands[panel.band].open += 1
            return panel
        if self._column >= self._column_stop and not self._start_band():
            return None
        band = self._bands[-1]
        stop = self._column + self._width(band)
        if self.is_symmetric:
            # Left of the diagonal all has its mirror image above; on it BLAS does half the work.
            for edge in (band.row_start, band.row_stop):
                if self._column < edge < stop:
                    stop = edge
        panel = Panel(
            Rectangle(band.row_start, band.row_stop, self._column, stop), len(self._bands) - 1
        )
        self._column = stop
        self._area_taken += panel.rectangle.area
        band.open += 1
        band.is_issued = stop >= self._column_stop
        return panel

    def finish(self, panel: Panel, seconds: float = 0.0) -> None:
        self._bands[panel.band].open -= 1
        self.area_done += panel.rectangle.area
        if self.is_symmetric:
            self._finished.append(panel.rectangle)
        if seconds > 0.0:
            self._pace.add(panel.rectangle.area, seconds)

    def work_of(self, panel: Panel) -> float:
        """The flops of a panel; NumPy computes half of one on the diagonal (syrk)."""
        r = panel.rectangle
        flops = replace(self.shape, rows=r.rows, columns=r.columns).flops
        is_diagonal = (r.row_start, r.row_stop) == (r.column_start, r.column_stop)
        return flops / 2 if self.is_symmetric and is_diagonal else flops

    def mirror_of(self, panel: Panel) -> Rectangle | None:
        """Where the transposed values of a panel are in this very sub-task, all computed: copying
        them takes next to nothing. None where there is nothing to copy.

        Rows above a panel are never given away any more, and no panel is computed for another
        sub-task: who owns which element is as it was planned.
        """
        r, whole = panel.rectangle, self.rectangle
        image = Rectangle(r.column_start, r.column_stop, r.row_start, r.row_stop)
        is_inside = (
            whole.row_start <= image.row_start
            and image.row_stop <= r.row_start
            and whole.column_start <= image.column_start
            and image.column_stop <= whole.column_stop
        )
        if not self.is_symmetric or not is_inside or uncovered(image, self._finished):
            return None
        return image

    def halve(self, panel: Panel) -> bool:
        """Puts a panel back as two of half its columns, or of half its rows if it is higher than
        wide (it did not fit in memory); False when it is too small for that."""
        r = panel.rectangle
        if self.is_in_whole_rows or r.rows > r.columns:
            return self._halve_rows(panel)
        if r.columns < 2:
            return False
        middle = (r.column_start + r.column_stop) // 2
        self._bands[panel.band].open -= 1
        for start, stop in ((r.column_start, middle), (middle, r.column_stop)):
            half = Rectangle(r.row_start, r.row_stop, start, stop)
            self._returned.append(Panel(half, panel.band))
        return True

    def _halve_rows(self, panel: Panel) -> bool:
        r = panel.rectangle
        if r.rows < 2:
            return False
        middle = (r.row_start + r.row_stop) // 2
        self._bands[panel.band].open -= 1
        for start, stop in ((r.row_start, middle), (middle, r.row_stop)):
            self._returned.append(Panel(r.with_rows(start, stop), panel.band))
        return True

    @property
    def row_done(self) -> int:
        """Whole rows below this one are computed."""
        returned = {panel.band for panel in self._returned}
        while self._first_open < len(self._bands):
            band = self._bands[self._first_open]
            if band.open or not band.is_issued or self._first_open in returned:
                return band.row_start
            self._first_open += 1
        return self._bands[-1].row_stop if self._bands else self.rectangle.row_start

    @property
    def is_done(self) -> bool:
        """Whether everything that was not given away is computed."""
        issued = self._column >= self._column_stop and self._next_row() >= self.row_stop
        return issued and not self._returned and not any(band.open for band in self._bands)

    def arrived(self, row: int) -> None:
        """Operands of all rows below this one are there."""
        if self.row_arrived is not None:
            self.row_arrived = max(self.row_arrived, row)

    # Giving away

    def release(self, keep_area: int) -> list[Rectangle]:
        """Gives up what was not started beyond the first `keep_area` elements; returns it."""
        r, released = self.rectangle, []
        top = self._next_row()
        rest = self._column_stop - self._column
        rows = self._bands[-1].row_stop - self._bands[-1].row_start if self._bands else 0
        # What is done or running can only be kept.
        keep = max(0, keep_area - self._area_taken)
        if rest and keep < rest * rows:
            cut = min(self._column_stop, self._column + _up(-(-keep // rows)))
            if cut < self._column_stop:
                band = self._bands[-1]
                piece = Rectangle(band.row_start, band.row_stop, cut, self._column_stop)
                released.append(piece)
                self._column_stop = cut
                band.is_issued = self._column >= cut
        keep = max(0, keep - rest * rows)
        row = min(self.row_stop, top + self._up_rows(-(-keep // max(1, r.columns))))
        if row < self.row_stop:
            released.append(r.with_rows(row, self.row_stop))
            self.row_stop = row
        return released

    # Sizes

    def _next_row(self) -> int:
        return self._bands[-1].row_stop if self._bands else self.rectangle.row_start

    def _start_band(self) -> bool:
        start = self._next_row()
        left = self.row_stop - start
        if left <= 0:
            return False
        height = self._height(left)
        if left - height < self._sliver:
            height = left  # Rather a higher band than a sliver after it, which would be slow.
        if self.row_arrived is not None and self.row_arrived - start < height:
            # Rather a lower band than a wait, but none so low that it is slow for its size.
            here = self.row_arrived - start
            if here < min(height, self.bounds.min_side if self.row_grain == GRAIN else GRAIN):
                return False
            height = here // self.row_grain * self.row_grain
        self._bands.append(Band(start, start + height))
        self._column = self.rectangle.column_start
        self._column_stop = self.rectangle.column_stop
        return True

    def _height(self, left: int) -> int:
        """Rows of the next band, with so many left."""
        if self.is_in_whole_rows:
            return self._rows(left)
        side = self._side(left * self.rectangle.columns)
        # Not much higher than the panels at its end will want to be: half of what is left.
        return min(left, _up(max(min(side, left // 2), min(self.bounds.min_side, side))))

    @property
    def _sliver(self) -> int:
        """Fewer rows than this are no band of their own."""
        return (self._last_rows if self.is_in_whole_rows else self.bounds.min_side) // 2

    def _width(self, band: Band) -> int:
        height, rest = band.row_stop - band.row_start, self._column_stop - self._column
        if self.is_in_whole_rows:
            return rest
        left = (self.row_stop - band.row_stop) * self.rectangle.columns + rest * height
        side = self._side(left)
        width = _up(max(1, side * side // height))
        if len(self._bands) == 1:
            width = min(width, self.bounds.first_width)
        # Several panels of nearly one width rather than full ones and a sliver.
        count = max(1, round(rest / width))
        return min(rest, _up(-(-rest // count)))

    def _rows(self, left: int) -> int:
        """The height of a band that is one panel, with so many rows left."""
        columns = max(1, self.rectangle.columns)
        flops = self.shape.with_rows(1).flops
        widest = max(
            part.columns * element_type(part.dtype).itemsize
            for part in (self.shape, *self.shape.parts)
        )
        most = min(
            self.bounds.max_band_bytes / max(1, widest),
            self.bounds.max_panel_flops / max(1.0, flops),
            self.bounds.max_panel_s / (self._element_s * columns),
        )
        share = self._share(left * columns) / columns
        least = (
            self.bounds.min_side
            if left > 2 * self.bounds.min_side * self.threads
            else self.bounds.last_rows
        )
        # A row may be so much work that few of them take long.
        least = min(least, max(GRAIN, int(4 * most)))
        if self.row_grain < GRAIN:  # No BLAS is slow for few of them.
            least = self.row_grain
        return min(left, self._up_rows(max(least, int(min(most, share)))))

    @property
    def _last_rows(self) -> int:
        return self.bounds.last_rows if self.row_grain == GRAIN else self.row_grain

    def _up_rows(self, rows: int) -> int:
        return -(-rows // self.row_grain) * self.row_grain

    @property
    def _element_s(self) -> float:
        """Seconds that an element takes one thread: as measured, before that as planned."""
        planned_s = self.predicted_s * self.threads / max(1, self.rectangle.area)
        return max(self._pace.mean_s, planned_s if self._pace.count < MIN_PANELS else 0.0, 1e-15)

    def _share(self, area_left: int) -> float:
        """Elements for one thread's next panel, with so many left."""
        share = area_left / (self.bounds.panels_left * self.threads)
        if self.bounds.is_adaptive:
            share = min(share, self._pace.chunk(area_left, self.threads))
        return share

    def _most_area(self) -> float:
        """Elements of the largest panel that may be next."""
        flops = self.shape.flops / max(1, self.shape.rows * self.shape.columns)
        # What lies across the diagonal is copied, and the more, the smaller panels on it are.
        halves = 2.0 if self.is_symmetric else 1.0
        bounds = self.bounds
        most_s, longest = bounds.first_panel_s, bounds.first_height
        if self._bands:
            most_s, longest = bounds.max_panel_s, bounds.max_side
        return min(
            longest**2,
            bounds.max_panel_flops / halves / max(1.0, flops),
            most_s / self._element_s,
        )

    def _side(self, area_left: int) -> int:
        """The side of a square panel that suits what is left."""
        bounds, most, share = self.bounds, self._most_area(), self._share(area_left)
        flops = self.shape.flops / max(1, self.shape.rows * self.shape.columns)
        if area_left <= bounds.last_part * self.rectangle.area:
            share = min(share, bounds.last_panel * self.rectangle.area / self.threads)
        least = min(most, bounds.min_side**2, bounds.min_panel_flops / max(1.0, flops))
        side = int(min(most, max(share, least)) ** 0.5)
        if side > bounds.min_side:
            side = max(bounds.min_side, side // bounds.side_step * bounds.side_step)
        return max(GRAIN, side)


def _up(size: int) -> int:
    return -(-size // GRAIN) * GRAIN
