"""What only cores compute."""

from __future__ import annotations

from deadheat.runtime.operations import Descent
from deadheat.runtime.programs import Kind, Segment
from deadheat.runtime.windows import Windowed


def only_on_cores(kind: Kind) -> list[str]:
    """Names of the kinds in it that no card computes: epochs are pieces for cores, and windows are
    laid out in pieces that suit a core's cache. None for most."""
    if isinstance(kind, Segment):
        return sorted({name for one in kind.operations for name in only_on_cores(one.kind)})
    return [type(kind).__name__] if isinstance(kind, Descent | Windowed) else []
