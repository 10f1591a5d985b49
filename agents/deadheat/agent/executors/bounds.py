"""How large the panels of a device may be, and how small: a core's are not a GPU's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """`max_side` and `min_side` are of a square panel; nothing is larger, and only the last of the
    work is smaller. A panel cannot be stopped, so its flops and its seconds are bounded too. Panels
    of segments are bands of whole rows, of at most `max_band_bytes` and at least `last_rows`."""

    max_side: int
    min_side: int
    #: A panel may be smaller than `min_side` if it is that much work all the same.
    min_panel_flops: float
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
    #: Rows of the left operand that a band of a card waits for, and columns of the right one that
    #: the first panels do: bytes of them, and bytes of each row.
    band_copy_bytes: int
    strip_row_bytes: int
    #: Whether panels are smaller where those before took unlike times (adaptive factoring).
    is_adaptive: bool
    #: Of a card: how fast operands come to it, and how many of them it keeps. 0 where they are.
    link_bytes_per_s: float = 0.0
    resident_bytes: int = 0


#: The largest panel. Of the best rate 1024 x 1024 reaches 97 %, this 99 % (measured on x86 with
#: OpenBLAS for float64 and float32, inner sizes 2048 to 8192), if the next two bounds let it.
MAX_SIDE: Final = 2048
#: The smallest: 256 x 256 reaches 86 to 92 %, and comes only with the last per cent of the work.
MIN_SIDE: Final = 256
#: Of the last ones each is a thread's time: 256 x 256 takes a core 15 ms at an inner size of 8192,
#: but 60 ms at 32768, by which cores that helped a GPU for 1.4 s were late. This is enough.
MIN_PANEL_FLOPS: Final = 1e9
#: A panel is the unit that cannot be stopped or given away: its work is bounded too, also where the
#: device is thought to be fast. With 4e10, float32 at an inner size of 8192 loses 5 % (one AVX-512
#: core: 0.90 of the best rate in panels of 1536 x 1536, 0.95 in 2048 x 2048, which take 0.39 s).
MAX_PANEL_FLOPS: Final = 8e10
#: Nor does a panel take longer than this on a device that is slow, or that others use.
MAX_PANEL_S: Final = 0.4
#: Panels that are left for each thread when sizes begin to fall. With 8 a quarter of a product
#: of 4096 x 4096 is done in panels below 512 x 512, which costs 4 % of its time; with 3 a tenth.
PANELS_LEFT: Final = 3
#: The last of the work, in panels of at most so much of a thread's share: how far apart threads end
#: is about a panel.
LAST_PART: Final = 0.05
LAST_PANEL: Final = 0.01
#: Of a segment each panel is a band of whole rows. What its operations make of one is to stay in a
#: core's part of the cache, if MIN_SIDE rows do: BLAS packs all of B anew for each band.
MAX_BAND_BYTES: Final = 4 << 20
#: The lowest band of a segment, when there are not enough rows left for higher ones.
LAST_ROWS: Final = 64
#: What suits a core. Others differ in sizes, not in the way of cutting.
CORES: Final = Bounds(
    max_side=MAX_SIDE,
    min_side=MIN_SIDE,
    min_panel_flops=MIN_PANEL_FLOPS,
    side_step=1,
    max_panel_flops=MAX_PANEL_FLOPS,
    max_panel_s=MAX_PANEL_S,
    max_band_bytes=MAX_BAND_BYTES,
    last_rows=LAST_ROWS,
    panels_left=PANELS_LEFT,
    last_part=LAST_PART,
    last_panel=LAST_PANEL,
    first_height=MAX_SIDE,
    first_panel_s=MAX_PANEL_S,
    first_width=MAX_SIDE**2,
    band_copy_bytes=0,
    strip_row_bytes=0,
    is_adaptive=True,
)
#: Panels that are in flight on a card at once, each with its stream. Operands come in the order in
#: which panels asked for them: while one is computed and one copied out, those of the next two are
#: on their way. With more, the threads wait for the interpreter (8: 1 ms of 24).
STREAMS: Final = 4
#: What suits a card. Measured on an H200 at an inner size of 16384: float32 reaches 93 % of its
#: best rate in panels of 4096 x 4096 and in others of that area, 85 % in 2048 x 2048, 72 % in
#: 1024 x 1024. Streams are no cores, of which one may be slow: a panel takes long that waits for
#: copies, and at the end it only has to be out soon. The seconds are those of a panel beside other
#: streams'. What else is here of the first band is for matrices that do not fit on the card.
CARDS: Final = Bounds(
    max_side=4096,
    min_side=2048,
    min_panel_flops=math.inf,
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
    band_copy_bytes=128 << 20,
    strip_row_bytes=8 << 10,
    is_adaptive=False,
)
