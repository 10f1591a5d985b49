"""The panels of a product on a card, whose operands come over a link while it computes.

A panel waits for rows of the left operand and columns of the right one, and the card for panels. So
where all fits on the card, it is done in one of two ways:

- *Bands*, where copying takes about as long as computing (tensor cores): all of the right operand
  comes first, then the left one in bands of whole rows, each of which is computed while the next
  one comes. All copies are runs without gaps, and what is left after the last of them is a band.
- *Strips*, where computing takes longer: the first band is as high as the columns of the next strip
  need to come while one is computed, so that the card waits for its first rows and columns only.
  Then come bands, for which all columns are there.

Measured on an H200 behind PCIe 5, n = 16384: float16 (12 ms of computing, 20 ms of copies) takes
24 ms in bands and 27 in strips, TF32 (23 and 41 ms) 48 and 61; float32 (163 and 41 ms) 177 in
strips, and 184 in squares.
"""

from __future__ import annotations

import math
from typing import Final

from deadheat.agent.executors.panels import GRAIN, Band, Panels
from deadheat.runtime.dtypes import element_type

#: A product goes in bands if it is to take at most so many times as long as its operands' copies.
COPY_BOUND: Final = 1.7
#: Copies of columns have gaps, and results go out meanwhile (32 to 44 GB/s of 54 there).
STRIP_SHARE: Final = 0.6
#: The first band of all is half a full one, since nothing is computed before it is there, and so
#: are the last ones, behind which nothing is. Where there are few in all it is this part of them.
FEW_BANDS: Final = 8
#: Bands of more rows than this have multiples of it.
STEP: Final = 64


class CardPanels(Panels):
    """As `Panels`, for products that fit on the card; others are cut as on cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, bounds = self.shape, self.bounds
        itemsize = element_type(shape.dtype).itemsize
        self._row_bytes = max(1, shape.inner * itemsize)
        operand_bytes = (self.rectangle.rows + self.rectangle.columns) * self._row_bytes
        self._is_whole = (
            shape.op.is_product
            and not shape.parts
            and not self.is_in_whole_rows
            and bounds.link_bytes_per_s > 0.0
            and operand_bytes <= bounds.resident_bytes
        )
        self._is_in_bands = self._is_whole and (
            0.0 < self.predicted_s <= COPY_BOUND * operand_bytes / bounds.link_bytes_per_s
        )
        self._strip_columns = max(1, bounds.strip_row_bytes // itemsize)

    def _height(self, left: int) -> int:
        if not self._is_whole:
            return super()._height(left)
        columns, full = max(1, self.rectangle.columns), self.bounds.max_side**2
        if not self._bands and not self._is_in_bands:
            rows = self._first_height
        else:
            half = max(self.bounds.min_side**2, min(full // 2, self.rectangle.area // FEW_BANDS))
            is_full = self._bands and left * columns >= 2 * full
            rows = int(min(full if is_full else half, self._most_area())) // columns
            rows = min(rows, self.bounds.band_copy_bytes // self._row_bytes)
        rows = max(GRAIN, rows)
        return min(left, rows if rows < STEP else -(-rows // STEP) * STEP)

    @property
    def _first_height(self) -> int:
        """Rows of which a strip takes as long to compute as the next one to come, but not long."""
        bounds, element_s = self.bounds, self.predicted_s / max(1, self.rectangle.area)
        if element_s <= 0.0:
            return bounds.first_height // 2
        strip_s = self._row_bytes / (STRIP_SHARE * bounds.link_bytes_per_s)
        balanced = math.ceil(strip_s / element_s / bounds.side_step) * bounds.side_step
        soon = int(bounds.first_panel_s / element_s / self._strip_columns)
        return min(max(bounds.min_side, balanced), bounds.first_height, soon)

    @property
    def _sliver(self) -> int:
        if not self._is_whole:
            return super()._sliver
        last = self._bands[-1] if self._bands else None
        return (last.row_stop - last.row_start) // 2 if last else 0

    def _width(self, band: Band) -> int:
        if not self._is_whole:
            return super()._width(band)
        rest = self._column_stop - self._column
        if self._is_in_bands or len(self._bands) > 1:
            return rest
        # Several strips of nearly one width rather than full ones and a sliver.
        return min(rest, -(-rest // max(1, round(rest / self._strip_columns))))
