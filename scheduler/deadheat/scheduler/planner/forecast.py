"""Forecasts: what a device's samples say about the time that a plan covers.

Two averages are kept of each device, a fast one for now and a slow one for how it usually is. The
load of a machine returns to its mean slowly and noisily, so the forecast starts at the fast average
and relaxes toward the slow one, with a deviation that grows on the way: the conditional mean and
variance of an Ornstein-Uhlenbeck process. Short windows beside long ones come from the Network
Weather Service (Wolski, Spring and Hayes 1999), the deviation beside the mean from Kubernetes'
Trimaran (LoadVariationRiskBalancing).

With x = 2^-(t / RELAX_HALF_LIFE_S) at a time t after the newest sample, and trust in that sample
that halves every STALE_HALF_LIFE_S once it is older than STALE_AFTER_S,

    mean(t)     = slow + trust * x * (fast - slow)
    variance(t) = (trust * x)^2 * fast_variance + (1 - (trust * x)^2) * slow_variance
                  + (1 - trust)^2 * UNKNOWN_DEVIATION^2

and the mean over a horizon h is that of `mean(t)` from now to now + h; the variance is that at its
end. A device that was never seen is thought to be free.

The weights of exponential smoothing relative to each other do not depend on when one asks, so the
state changes with a sample only, in constant time, and so is every question answered. The numbers
of many devices can be asked at once, as arrays (`forecast_many`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from deadheat.scheduler.planner.availability import MIN_AVAILABILITY, Sample, of_sample

#: An observation loses half of its weight in this time.
HALF_LIFE_S: Final = 0.7
#: The same for how a device usually is: longer than a job's phases, shorter than somebody's day.
SLOW_HALF_LIFE_S: Final = 30.0
#: The time in which load is half as far from its mean as it was. Long, because load is strongly
#: autocorrelated (Dinda 1999): over ten seconds the forecast still is the fast average by 97 %.
RELAX_HALF_LIFE_S: Final = 120.0
#: For how long a sample stands that was made no later than the one before it (it came late, or
#: twice): for a little, since it is not known to be worthless.
LATE_COVERS_S: Final = 0.05
#: Agents tell something every second; from here on a sample says less and less about now.
STALE_AFTER_S: Final = 3.0
STALE_HALF_LIFE_S: Final = 10.0
#: Of a fraction about which nothing is known, 0 to 1: the deviation of the uniform distribution.
UNKNOWN_DEVIATION: Final = 12**-0.5
#: The least deviation of a device whose samples are only a prior (Sample.is_prior), until the
#: stopwatch has said what they mean.
PRIOR_DEVIATION: Final = 0.25
#: Below this, what a prior says to be taken is too little to say how true it is.
MIN_TAKEN: Final = 0.05
#: How much more than it says may be taken: others' kernels can wait for memory with ours.
MAX_TRUTH: Final = 2.0
#: Weight of one stopwatch reading.
TRUTH_WEIGHT: Final = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Availability:
    """Expected mean and standard deviation, and when the newest sample was made."""

    mean: float
    deviation: float
    observed_s: float


@dataclass(slots=True)
class _Average:
    """Exponentially weighted mean and variance. `weight` approaches 1: the sums are divided by it,
    so that the first samples do not weigh as if they had always been there."""

    half_life_s: float
    weight: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, value: float, passed_s: float, covers_s: float) -> None:
        """A value that stands for the last `covers_s`, `passed_s` after the one before."""
        old = self.weight * 2.0 ** -(passed_s / self.half_life_s)
        new = -math.expm1(-covers_s / self.half_life_s * math.log(2.0))
        self.weight = old + new
        if self.weight <= 0.0:  # So short that nothing is left of it.
            self.mean, self.weight = value, new
            return
        share, apart = new / self.weight, value - self.mean
        self.mean += share * apart
        # West 1979, for weights that fade.
        self.variance = (1.0 - share) * (self.variance + share * apart * apart)


class AvailabilityState:
    """What the samples of one device come to. `add` when one arrives, `at` whenever asked."""

    __slots__ = ("_checked", "_fast", "_slow", "_truth", "is_prior", "observed_s")

    def __init__(self) -> None:
        self._fast, self._slow = _Average(HALF_LIFE_S), _Average(SLOW_HALF_LIFE_S)
        #: When the newest sample was made; minus infinity before there is one.
        self.observed_s = -math.inf
        self.is_prior = False
        #: How much of what a prior says to be taken is, and how often that was found out.
        self._truth, self._checked = 1.0, 0

    def add(self, sample: Sample) -> None:
        """Takes a sample in, if anything is known in it."""
        if not sample.is_known:
            return
        value = of_sample(sample)
        passed_s = max(0.0, sample.at_s - self.observed_s)
        # What happened in a gap between two windows nobody saw.
        covers_s = min(passed_s or LATE_COVERS_S, sample.window_s)
        self._fast.add(value, passed_s, covers_s)
        self._slow.add(value, passed_s, covers_s)
        self.observed_s = max(self.observed_s, sample.at_s)
        self.is_prior = sample.is_prior

    def check(self, delivered: float) -> None:
        """Corrects a prior by what a stopwatch found: the share of its idle speed that the device
        delivered just now. The stopwatch wins, and of the prior remains what it says of changes: a
        device that NVML calls busy, and that delivered 95 %, will be free when NVML calls it
        idle, and not nearly twice as fast."""
        taken = 1.0 - self._fast.mean
        if not self.is_prior or taken < MIN_TAKEN or not math.isfinite(delivered):
            return
        truth = min(MAX_TRUTH, max(0.0, (1.0 - delivered) / taken))
        self._truth += TRUTH_WEIGHT * (truth - self._truth)
        self._checked += 1

    def _true(self, mean: float) -> float:
        return max(MIN_AVAILABILITY, 1.0 - self._truth * (1.0 - mean)) if self._checked else mean

    @property
    def fast_mean(self) -> float:
        return self._true(self._fast.mean) if self.is_observed else 1.0

    @property
    def slow_mean(self) -> float:
        return self._true(self._slow.mean) if self.is_observed else 1.0

    @property
    def fast_variance(self) -> float:
        return self._fast.variance * self._truth**2

    @property
    def slow_variance(self) -> float:
        return self._slow.variance * self._truth**2

    @property
    def is_observed(self) -> bool:
        return self.observed_s > -math.inf

    def at(self, now: float, horizon_s: float = 0.0) -> Availability:
        """The forecast for [now, now + horizon_s]."""
        if not self.is_observed:
            return Availability(1.0, UNKNOWN_DEVIATION, -math.inf)
        age_s = max(0.0, now - self.observed_s)
        trust, relaxed, relaxed_end = _fading(age_s, horizon_s)
        fast, slow, unknown = self._fast, self._slow, (1.0 - trust) * UNKNOWN_DEVIATION
        mean = slow.mean + trust * relaxed * (fast.mean - slow.mean)
        kept = (trust * relaxed_end) ** 2
        variance = kept * fast.variance + (1.0 - kept) * slow.variance
        if self.is_prior:
            mean, variance = self._true(mean), variance * self._truth**2
            unknown = max(unknown, PRIOR_DEVIATION / (1 + self._checked))
        return Availability(mean, math.sqrt(variance + unknown * unknown), self.observed_s)


def _fading(age_s: float, horizon_s: float) -> tuple[float, float, float]:
    """The trust in the newest sample, and x of the formula as a mean over the horizon and at its
    end."""
    stale_s = age_s - STALE_AFTER_S
    trust = 1.0 if stale_s <= 0.0 else 2.0 ** -(stale_s / STALE_HALF_LIFE_S)
    now = 2.0 ** -(age_s / RELAX_HALF_LIFE_S)
    steps = horizon_s / RELAX_HALF_LIFE_S * math.log(2.0)
    if steps <= 0.0:
        return trust, now, now
    return trust, now * -math.expm1(-steps) / steps, now * math.exp(-steps)


def forecast(samples: Iterable[Sample], now: float, horizon_s: float = 0.0) -> Availability:
    """The forecast from samples in the order of their arrival."""
    state = AvailabilityState()
    for sample in samples:
        state.add(sample)
    return state.at(now, horizon_s)


def forecast_many(
    fast_mean: Floats,
    slow_mean: Floats,
    fast_variance: Floats,
    slow_variance: Floats,
    observed_s: Floats,
    now: float,
    horizon_s: float = 0.0,
) -> tuple[Floats, Floats]:
    """Means and deviations of many devices, from their states' numbers (priors not widened)."""
    age_s = np.maximum(0.0, now - observed_s)
    is_observed = np.isfinite(observed_s)
    trust = np.exp2(-np.maximum(0.0, age_s - STALE_AFTER_S) / STALE_HALF_LIFE_S)
    relaxed = np.exp2(-age_s / RELAX_HALF_LIFE_S)
    # Over the horizon all of them fade alike.
    _, mean_share, end_share = _fading(0.0, horizon_s)
    mean = slow_mean + trust * relaxed * mean_share * (fast_mean - slow_mean)
    kept = (trust * relaxed * end_share) ** 2
    unknown = ((1.0 - trust) * UNKNOWN_DEVIATION) ** 2
    variance = kept * fast_variance + (1.0 - kept) * slow_variance + unknown
    deviation = np.where(is_observed, np.sqrt(variance), UNKNOWN_DEVIATION)
    return np.where(is_observed, mean, 1.0), deviation
