"""What only cores compute."""

from __future__ import annotations

from deadheat.runtime.operations import Descent, Kind


def only_on_cores(kind: Kind) -> list[str]:
    """Names of the kinds in it that no card computes: epochs are pieces for cores."""
    return [type(kind).__name__] if isinstance(kind, Descent) else []
