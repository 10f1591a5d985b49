"""Availability: the fraction of a device's idle speed that it would give us now.

It is not 1 - utilization. A core on which one other thread runs all the time is 100 % busy and
still gives a newcomer half; while we run ourselves, the kernel counts how long our threads ran
and how long they waited for a core, and that is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: An observation loses half of its weight in this time.
HALF_LIFE_S: Final = 0.7
#: The share of a window in which our threads wanted a core, from which on the kernel's figures
#: of run and wait say more than those of everybody's load.
ACTIVE_SHARE: Final = 0.25
#: Nothing is ever planned on less: even beside many others a runnable thread gets something.
MIN_AVAILABILITY: Final = 0.02
#: Load, in cores, that is housekeeping rather than somebody's work.
NEGLIGIBLE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation of a device; fractions are of the whole device over the window."""

    at_s: float
    window_s: float
    busy: float
    own: float
    foreign: float
    steal: float = 0.0
    #: Threads of others that want the device's cores.
    foreign_runnable: float = 0.0
    #: Thread-seconds that ours ran, and waited for a core.
    run_s: float = 0.0
    wait_s: float = 0.0
    threads: int = 1
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Availability:
    """Mean and standard deviation over the recent samples, and when the newest was made."""

    mean: float
    deviation: float
    observed_s: float


def of_sample(sample: Sample) -> float:
    """What one sample says, 0 to 1."""
    wanted_s = sample.run_s + sample.wait_s
    if wanted_s >= ACTIVE_SHARE * sample.window_s * sample.threads:
        return max(MIN_AVAILABILITY, min(1.0, sample.run_s / wanted_s))
    free = 1.0 - sample.foreign - sample.steal
    # Within one group of tasks the kernel shares evenly: n of ours against m on C cores get
    # n * min(1, C / (n + m)), here with one thread of ours for each core of the device. A load
    # needs as many threads as it has cores full, whether they were seen runnable or not.
    cores_full = math.ceil(sample.foreign * sample.threads - NEGLIGIBLE)
    others = max(sample.foreign_runnable, cores_full)
    fair = sample.threads / (sample.threads + others)
    return max(MIN_AVAILABILITY, min(1.0, max(free, fair * (1.0 - sample.steal))))


def estimate(samples: Sequence[Sample], now: float) -> Availability:
    """The weighted view of recent samples; a device that was never seen is thought to be free."""
    known = [sample for sample in samples if sample.is_known]
    if not known:
        return Availability(1.0, 0.0, -math.inf)
    weights = [0.5 ** (max(0.0, now - sample.at_s) / HALF_LIFE_S) for sample in known]
    total = sum(weights)
    if total <= 0.0:  # All are so old that their weights underflow: the newest is the best guess.
        newest = max(known, key=lambda sample: sample.at_s)
        return Availability(of_sample(newest), 0.0, newest.at_s)
    values = [of_sample(sample) for sample in known]
    mean = sum(w * v for w, v in zip(weights, values)) / total
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values)) / total
    return Availability(mean, math.sqrt(variance), max(sample.at_s for sample in known))
