"""How large the panels of a device may be, and how small: a core's are not a GPU's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """`max_side` and `min_side` are of a square panel; nothing is larger, and only the last of the
    work is smaller. A panel cannot be stopped, so its flops and its seconds are bounded too. Panels
    of segments are bands of whole rows, of at most `max_band_bytes` and at least `last_rows`."""

    max_side: int
    min_side: int
    max_panel_flops: float
    max_panel_s: float
    max_band_bytes: int
    last_rows: int


#: Panels that are in flight on a card at once, each with its stream: while one is copied in, one
#: is computed, and one is copied out.
STREAMS: Final = 3
#: What suits a card. The first panel waits for its operands, so a panel is not as large as could
#: be: at n = 16384 in float32 a card of 50 TFLOP/s would compute one of 4096 x 4096 in 11 ms, in
#: which the next one's 256 MiB come at 25 GB/s. (Reckoned, not measured.) Below 1024 x 1024 a large
#: card is not full. The seconds are those of a panel that shares the card with the other streams'.
CARDS: Final = Bounds(
    max_side=4096,
    min_side=1024,
    max_panel_flops=4e13,
    max_panel_s=0.05 * STREAMS,
    max_band_bytes=256 << 20,
    last_rows=256,
)
