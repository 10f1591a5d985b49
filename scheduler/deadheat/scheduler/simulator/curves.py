"""What a device has to give over time, as rising functions that can be read both ways.

Loads, stops and slowdowns of a scenario are known from its start, so a device's work needs no
event when they change: when a panel ends is read off the inverse of the work function.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from deadheat.scheduler.simulator.scenario import DeviceSpec, Fault, FaultKind, Sharing


class Curve:
    """The integral of a step function from second 0: `rates[i]` holds from `times_s[i]` on."""

    __slots__ = ("rates", "sums", "times_s")

    def __init__(self, times_s: Sequence[float], rates: Sequence[float]) -> None:
        self.times_s = list(times_s)
        self.rates = list(rates)
        self.sums = [0.0]
        for index in range(1, len(self.times_s)):
            lasted_s = self.times_s[index] - self.times_s[index - 1]
            self.sums.append(self.sums[-1] + lasted_s * self.rates[index - 1])

    def rate(self, at_s: float) -> float:
        return self.rates[max(0, bisect_right(self.times_s, at_s) - 1)]

    def at(self, at_s: float) -> float:
        """The integral up to a moment."""
        index = max(0, bisect_right(self.times_s, at_s) - 1)
        return self.sums[index] + (at_s - self.times_s[index]) * self.rates[index]

    def when(self, reached: float) -> float:
        """The first moment at which the integral is so much; infinity if it never is."""
        index = max(0, bisect_left(self.sums, reached) - 1)
        missing = reached - self.sums[index]
        if missing <= 0.0:
            return self.times_s[index]
        rate = self.rates[index]
        return self.times_s[index] + missing / rate if rate > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Supply:
    """Three functions of one device: `effort`, seconds of its idle speed that we get; `cpu`,
    seconds of processor time that we get (a slow device's counters show no less); `foreign`, the
    load of others, at most the whole device."""

    effort: Curve
    cpu: Curve
    foreign: Curve
    #: Others' load itself, which for FAIR may be more than the device.
    load: Curve


def share_of(load: float, sharing: Sharing) -> float:
    """The share of a one-thread device that we get beside others' load."""
    if sharing is Sharing.TAKEN:
        return 1.0 - load
    return max(1.0 - load, 1.0 / (1.0 + math.ceil(load)))


def supply_of(device: DeviceSpec, faults: Sequence[Fault]) -> Supply:
    """`faults` are this device's, in order of time. That it is lost is no part of it: who is lost
    does not compute, whatever its functions say."""
    changes: list[tuple[float, float | Fault]] = [*device.foreign]
    changes += [(fault.at_s, fault) for fault in faults]
    changes.sort(key=lambda change: change[0])
    load, factor, is_stopped = 0.0, 1.0, False
    times_s, rows = [0.0], [(1.0, 1.0, 0.0, 0.0)]
    for at_s, change in changes:
        match change:
            case Fault(kind=FaultKind.SLOW):
                factor = change.factor
            case Fault(kind=FaultKind.STOPPED):
                is_stopped = True
            case Fault(kind=FaultKind.BACK):
                factor, is_stopped = 1.0, False
            case Fault():
                pass
            case _:
                load = change
        share = 0.0 if is_stopped else share_of(load, device.sharing)
        row = (share * factor, share, min(1.0, load), load)
        if at_s == times_s[-1]:
            rows[-1] = row
        else:
            times_s.append(at_s)
            rows.append(row)
    effort, cpu, foreign, loads = (Curve(times_s, column) for column in zip(*rows))
    return Supply(effort, cpu, foreign, loads)
