"""What a pool's threads take their work from: the panels of a product, the pieces of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from deadheat.runtime.programs import Rectangle


class Source(Protocol):
    """Pure bookkeeping under the pool's lock. A piece of work is the source's own."""

    @property
    def rectangle(self) -> Rectangle: ...

    @property
    def area_done(self) -> int: ...

    @property
    def row_done(self) -> int: ...

    @property
    def is_done(self) -> bool: ...

    def take(self) -> Any: ...

    def work_of(self, panel: Any, /) -> float: ...

    def mirror_of(self, panel: Any, /) -> Rectangle | None: ...

    def finish(self, panel: Any, wall_s: float, /) -> None: ...

    def halve(self, panel: Any, /) -> bool: ...

    def arrived(self, row: int, /) -> None: ...

    def release(self, keep_area: int, /) -> Sequence[Rectangle]: ...
