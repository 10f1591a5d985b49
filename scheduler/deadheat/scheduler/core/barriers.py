"""Barriers of a job: where devices had to wait for one another, how long, and what was predicted.

A barrier is the end of an operation that others wait for. What a device waits there is the time
from the end of its own part to its next work for the job: until the others are done, until the
result is sealed, and until what comes next is planned, sent and begun. Rules of this file: pure,
and from the records of sub-tasks alone, so that an old job tells as much as one of now.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from deadheat.scheduler.core.machine import SubtaskState
from deadheat.scheduler.core.report import PlacementReport
from deadheat.scheduler.planner.segmenting import BARRIER_S


@dataclass(frozen=True, slots=True)
class Barrier:
    """Seconds that a device waited after one operation, on the average over those who had a part in
    it. Predicted: how far apart they were to end, and what sealing, planning and sending take."""

    after: str
    predicted_wait_s: float
    wait_s: float
    devices: int

    def as_dict(self) -> Mapping[str, object]:
        return asdict(self)


def barriers(placements: Sequence[PlacementReport]) -> list[Barrier]:
    """Each barrier but the last, in the order in which they were reached."""
    by_device: dict[str, list[PlacementReport]] = {}
    for placement in placements:
        if placement.state is SubtaskState.DONE and placement.start_s is not None:
            by_device.setdefault(placement.device, []).append(placement)
    waited: dict[str, list[float]] = {}
    reached_s: dict[str, float] = {}
    for own in by_device.values():
        own.sort(key=lambda placement: placement.start_s or 0.0)
        ended_s = 0.0
        for before, after in pairwise(own):
            ended_s = max(ended_s, before.finish_s or 0.0)
            if before.operation != after.operation and after.start_s is not None:
                waited.setdefault(before.operation, []).append(max(0.0, after.start_s - ended_s))
                latest_s = reached_s.get(before.operation, 0.0)
                reached_s[before.operation] = max(latest_s, ended_s)
    predicted_s = _predicted(placements)
    return [
        Barrier(name, predicted_s[name], statistics.fmean(waited[name]), len(waited[name]))
        for name in sorted(waited, key=lambda name: reached_s[name])
    ]


def _predicted(placements: Sequence[PlacementReport]) -> Mapping[str, float]:
    """How long a device was to wait after each operation, by the plans that assigned it."""
    ends: dict[str, dict[str, float]] = {}
    for placement in placements:
        own = ends.setdefault(placement.operation, {})
        latest_s = own.get(placement.device, 0.0)
        own[placement.device] = max(latest_s, placement.predicted_finish_s)
    return {
        name: max(own.values()) - statistics.fmean(own.values()) + BARRIER_S
        for name, own in ends.items()
    }
