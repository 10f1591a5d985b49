"""What an agent says of its machine, between the core's values and protobuf messages.

Nobody plans with these: they are shown to people, so they are passed on as they came, but for what
is not a number.
"""

from __future__ import annotations

import math
from typing import Any, Final

from deadheat.runtime.figures import numbers
from deadheat.scheduler.core.events import MAX_PROBLEM, HostFacts
from deadheat.v1 import cluster_pb2 as pb

_PLAIN: Final = numbers(pb.HostSample, may_be_absent=False)
_OPTIONAL: Final = numbers(pb.HostSample, may_be_absent=True)


def from_wire(message: pb.HostSample) -> HostFacts:
    """Negative figures, and those that are no numbers, are 0, or None where they may be absent."""
    known: dict[str, Any] = {name: _number(getattr(message, name)) or 0 for name in _PLAIN}
    known |= {name: _optional(message, name) for name in _OPTIONAL}
    return HostFacts(**known, problem=message.problem[:MAX_PROBLEM])


def to_wire(facts: HostFacts) -> pb.HostSample:
    known: dict[str, Any] = {name: getattr(facts, name) for name in (*_PLAIN, *_OPTIONAL)}
    return pb.HostSample(**known, problem=facts.problem)


def _optional(message: Any, name: str) -> float | None:
    return _number(getattr(message, name)) if message.HasField(name) else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) and value >= 0 else None
