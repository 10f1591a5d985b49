"""What a GPU's driver says of it, between the core's values and protobuf messages.

Nobody plans with these: they are shown to people, so they are passed on as they came, but for what
is not a number, and within bounds.
"""

from __future__ import annotations

import math
from typing import Any, Final

from deadheat.runtime.figures import numbers
from deadheat.scheduler.core.events import GpuFacts
from deadheat.v1 import cluster_pb2 as pb

#: Reasons that a driver may give for low clocks, and letters of one.
MAX_REASONS: Final = 16
MAX_LETTERS: Final = 64

_OPTIONAL: Final = numbers(pb.GpuSample, may_be_absent=True)


def from_wire(message: pb.GpuSample) -> GpuFacts:
    known = {name: _number(message, name) for name in _OPTIONAL}
    return GpuFacts(
        **known,
        throttle=tuple(reason[:MAX_LETTERS] for reason in message.throttle[:MAX_REASONS]),
        processes=max(0, message.processes),
        memory_used_bytes=max(0, message.memory_used_bytes),
    )


def to_wire(facts: GpuFacts) -> pb.GpuSample:
    return pb.GpuSample(
        **{name: getattr(facts, name) for name in _OPTIONAL},
        throttle=facts.throttle,
        processes=facts.processes,
        memory_used_bytes=facts.memory_used_bytes,
    )


def _number(message: Any, name: str) -> Any:
    found = getattr(message, name) if message.HasField(name) else None
    return found if found is not None and math.isfinite(found) else None
