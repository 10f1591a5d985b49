"""What real sub-tasks teach about a device's speed, on top of its calibration.

Rules of this file: values only. What comes in are *idle* seconds, those that the work would have
taken with the device to itself (processor time, not elapsed time), so that contention never gets
into the history; how much of the device is free is availability's business.

The rules against bad measurements are StarPU's (perfmodel_history.c, `STARPU_HISTORY_MAX_ERROR`):
the first measurement of a kind is dropped, since it also loads libraries and faults pages; one that
is off by more than half is counted but not averaged; when as many were off as not, what was known
is wrong, and the kind starts anew. The bias bridges the time until then.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Final

from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.planner.speed import MAX_POINTS, Kind, SpeedModel, SpeedPoint

#: A measurement further from what is known, relative to it, is an outlier (StarPU's 50 %).
MAX_ERROR: Final = 0.5
#: Shorter sub-tasks measure their own overhead.
MIN_MEASURED_S: Final = 1e-3
#: What a calibration counts for against real sub-tasks: its shapes are ours, not the user's.
CALIBRATION_SAMPLES: Final = 2
#: Old samples and outliers are halved at so many, or a long good history would take as long to
#: overturn when the machine changes.
MAX_SAMPLES: Final = 16
#: Weight of a measurement in the point it is nearest to, and in a new point, which before was only
#: interpolated.
NEAR_WEIGHT: Final = 0.25
NEW_WEIGHT: Final = 0.5
#: Work that differs by less than this factor shares a point.
NEAR_FACTOR: Final = 1.3
#: Weight of a measurement in the bias: it follows at once what the points follow slowly.
BIAS_WEIGHT: Final = 0.5
#: Sub-tasks of this length have half of that weight, shorter ones less: the slivers that a
#: re-balance leaves say more about cold caches than about the device.
SHORT_S: Final = 0.02
#: Beyond this a correction is no correction; outliers and flush see to the rest.
MIN_BIAS: Final = 0.25
MAX_BIAS: Final = 4.0


class Verdict(Enum):
    """What became of a measurement."""

    REFUSED = "refused"
    FIRST = "first"
    MIXED = "mixed"
    OUTLIER = "outlier"
    FLUSHED = "flushed"


@dataclass(frozen=True, slots=True)
class Count:
    """How far a kind's history is to be trusted."""

    samples: int = CALIBRATION_SAMPLES
    outliers: int = 0
    #: Outliers since the last good sample.
    in_a_row: int = 0

    def plus(self, *, outlier: bool) -> Count:
        samples, outliers = self.samples + (not outlier), self.outliers + outlier
        if max(samples, outliers) > MAX_SAMPLES:
            samples, outliers = samples // 2, outliers // 2
        return Count(samples, outliers, self.in_a_row + 1 if outlier else 0)


@dataclass(frozen=True, slots=True)
class SpeedHistory:
    """A device's speed as it is known now: `model * bias` is the rate to expect of it when idle."""

    model: SpeedModel = field(default_factory=SpeedModel)
    #: Which claims of the agent it started from; others make it worthless.
    calibration: str = ""
    bias: float = 1.0
    counts: Mapping[Kind, Count] = field(default_factory=dict)
    #: Kinds of which this executor has done one.
    warm: frozenset[Kind] = frozenset()

    @staticmethod
    def of_claims(points: Iterable[SpeedPoint]) -> SpeedHistory:
        claims = tuple(points)
        return SpeedHistory(SpeedModel.of_claims(claims), digest(claims))

    def expected_s(self, shape: GemmShape) -> float:
        return self.model.seconds(shape) / self.bias

    def after_start(self) -> SpeedHistory:
        """With a new executor, of which the first measurement of each kind says nothing again."""
        return replace(self, warm=frozenset())

    def learn(self, shape: GemmShape, idle_s: float) -> tuple[SpeedHistory, Verdict]:
        """With one more measurement: what the whole idle device needs for a shape."""
        if shape.parts:
            return self._learn_segment(shape, idle_s)
        point, kind = SpeedPoint(shape, idle_s), Kind.of(shape)
        if not point.is_sane or idle_s < MIN_MEASURED_S:
            return self, Verdict.REFUSED
        if kind not in self.warm:
            return replace(self, warm=self.warm | {kind}), Verdict.FIRST
        points = self.model.by_kind.get(kind)
        if points is None:
            return self._with(kind, (point,), Count(samples=1)), Verdict.MIXED
        known_s = self.model.seconds(shape)
        is_outlier = abs(idle_s - known_s) > MAX_ERROR * known_s
        count = self.counts.get(kind, Count()).plus(outlier=is_outlier)
        if is_outlier and count.outliers >= count.samples:
            fresh = self._with(kind, (point,), Count(samples=1))
            return replace(fresh, bias=1.0), Verdict.FLUSHED
        if is_outlier:
            # One is a hiccup; two are news, on which plans must not wait for the flush.
            bias = self.bias if count.in_a_row < 2 else _mixed(self.bias, known_s / idle_s, idle_s)
            return replace(self, bias=bias, counts={**self.counts, kind: count}), Verdict.OUTLIER
        mixed = self._with(kind, _mix(points, point, known_s), count)
        # Of what the bias should say now, the points have taken over a part.
        taken_over = known_s / mixed.model.seconds(shape)
        bias = _clamped(_mixed(self.bias, known_s / idle_s, idle_s) / taken_over)
        return replace(mixed, bias=bias), Verdict.MIXED

    def _learn_segment(self, shape: GemmShape, idle_s: float) -> tuple[SpeedHistory, Verdict]:
        """It tells nothing of any of its operations alone, but of the device as it is now."""
        kind = Kind.of(max(shape.parts, key=lambda part: part.flops))
        known_s = self.model.seconds(shape)
        if not math.isfinite(idle_s) or idle_s < MIN_MEASURED_S or known_s <= 0.0:
            return self, Verdict.REFUSED
        if kind not in self.warm:
            return replace(self, warm=self.warm | {kind}), Verdict.FIRST
        if abs(idle_s - known_s) > MAX_ERROR * known_s:
            return self, Verdict.OUTLIER
        return replace(self, bias=_mixed(self.bias, known_s / idle_s, idle_s)), Verdict.MIXED

    def _with(self, kind: Kind, points: tuple[SpeedPoint, ...], count: Count) -> SpeedHistory:
        counts = {**self.counts, kind: count}
        return replace(self, model=self.model.with_kind(kind, points), counts=counts)


def digest(points: Iterable[SpeedPoint]) -> str:
    """The same for the same claims: a calibration that was read from disk again is no news."""
    return _digest(tuple(points))


@lru_cache(maxsize=1024)
def _digest(points: tuple[SpeedPoint, ...]) -> str:
    return hashlib.sha256(repr(points).encode()).hexdigest()[:16]


def _mixed(bias: float, ratio: float, took_s: float) -> float:
    weight = BIAS_WEIGHT * took_s / (took_s + SHORT_S)
    return bias + weight * (_clamped(ratio) - bias)


def _clamped(bias: float) -> float:
    return min(MAX_BIAS, max(MIN_BIAS, bias))


def _mix(points: tuple[SpeedPoint, ...], new: SpeedPoint, known_s: float) -> tuple[SpeedPoint, ...]:
    """An exponentially weighted average of ratios, which for times is taken of logarithms."""
    ratio = new.seconds / known_s
    nearest = min(points, key=lambda point: _distance(point, new))
    if _distance(nearest, new) <= math.log(NEAR_FACTOR):
        moved = replace(nearest, seconds=nearest.seconds * ratio**NEAR_WEIGHT)
        return tuple(moved if point is nearest else point for point in points)
    added = (*points, replace(new, seconds=known_s * ratio**NEW_WEIGHT))
    return added if len(added) <= MAX_POINTS else _merged(added)


def _merged(points: tuple[SpeedPoint, ...]) -> tuple[SpeedPoint, ...]:
    """The two that are nearest to each other as one, at the mean of their rates."""
    ordered = sorted(points, key=lambda point: point.shape.flops)
    first, second = min(pairwise(ordered), key=lambda pair: _distance(*pair))
    rate = math.sqrt(first.flops_rate * second.flops_rate)
    one = replace(second, seconds=second.shape.flops / rate)
    return tuple(one if p is second else p for p in ordered if p is not first)


def _distance(one: SpeedPoint, other: SpeedPoint) -> float:
    return abs(math.log(one.shape.flops / other.shape.flops))
