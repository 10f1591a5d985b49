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
    #: Sides above `min_side` are multiples of this.
    side_step: int
    max_panel_flops: float
    max_panel_s: float
    max_band_bytes: int
    last_rows: int
    #: Panels that are left for each thread when sizes begin to fall.
    panels_left: float
    #: The last of the work, a part of it, goes in panels of at most so much of a thread's share.
    last_part: float
    last_panel: float
    #: The same of panels in the first band, which wait for most of the operands.
    first_height: int
    first_panel_s: float
    first_width: int
    #: Whether panels are smaller where those before took unlike times (adaptive factoring).
    is_adaptive: bool


#: Panels that are in flight on a card at once, each with its stream: while one is copied in, one
#: is computed, and one is copied out, the thread of a fourth makes the next one ready, in 0.5 ms.
STREAMS: Final = 4
#: What suits a card. Measured on an H200 at an inner size of 16384: float32 reaches 93 % of its
#: best rate in panels of 4096 x 4096, 85 % in 2048 x 2048, 72 % in 1024 x 1024; float16 72, 53 and
#: 29 %, but there copying takes longer than computing. A panel waits for its operands, so those of
#: the first band are narrow: of 4096 x 2048 in float32 the card computes one in 6 ms, in which the
#: columns of the next one come twice (in panels of 2048 x 2048 it waited for them, and lost 5 %).
#: And they are as high as half their seconds allow: what is computed while all columns of B come
#: need not be computed later, when only rows of A come, in which time float16 had too much to do.
#: Streams are no cores, of which one may be slow: a panel takes long that waits for copies, and at
#: the end it only has to be out soon. The seconds are those of a panel beside other streams'.
CARDS: Final = Bounds(
    max_side=4096,
    min_side=2048,
    side_step=1024,
    max_panel_flops=4e13,
    max_panel_s=0.1,
    max_band_bytes=256 << 20,
    last_rows=256,
    panels_left=0.5,
    last_part=0.0,
    last_panel=1.0,
    first_height=8192,
    first_panel_s=0.05,
    first_width=2048,
    is_adaptive=False,
)
