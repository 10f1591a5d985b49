"""Availability: the fraction of a device's idle speed that it would give us.

It is not 1 - utilization. A core on which one other thread runs all the time is 100 % busy and
still gives a newcomer half; while we run ourselves, the kernel counts how long our threads ran
and how long they waited for a core, and that is the answer.

What one sample says is `of_sample`. What they say together, about now and about the time that a
plan covers, is in forecast.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

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
    #: What the agent's control groups may use at most, all levels considered.
    quota: float = 1.0
    #: What the weights of control groups and threads would give us if we ran now, beside those who
    #: run; None where nobody looked.
    fair_share: float | None = None
    #: A GPU's figures are a prior and no more: NVML counts the time in which some kernel ran,
    #: however few of the multiprocessors it used (nvmlUtilization_t).
    is_prior: bool = False


def of_sample(sample: Sample) -> float:
    """What one sample says, MIN_AVAILABILITY to 1."""
    wanted_s = sample.run_s + sample.wait_s
    if wanted_s > 0.0 and wanted_s >= ACTIVE_SHARE * sample.window_s * sample.threads:
        found = sample.run_s / wanted_s
    else:
        found = _if_we_ran(sample)
    # The smaller of the two, not their product: a thread that its quota stops stays runnable, so
    # that the wait for the next period is in `wait_s` already.
    return max(MIN_AVAILABILITY, min(1.0, sample.quota, found))


def _if_we_ran(sample: Sample) -> float:
    """What others leave over, or what the kernel's fairness gives us if that is more."""
    free = 1.0 - sample.foreign - sample.steal
    fair = _even_share(sample) if sample.fair_share is None else sample.fair_share
    return max(free, fair * (1.0 - sample.steal))


def _even_share(sample: Sample) -> float:
    """Within one group of tasks the kernel shares evenly: n threads of ours against m on C cores
    get n * min(1, C / (n + m)), here with one thread of ours for each core of the device. A load
    needs as many threads as it has cores full, whether they were seen runnable or not."""
    cores_full = math.ceil(sample.foreign * sample.threads - NEGLIGIBLE)
    others = max(sample.foreign_runnable, cores_full)
    return sample.threads / (sample.threads + others)
