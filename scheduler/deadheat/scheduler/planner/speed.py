"""Speed models: the seconds a device needs for a product when nobody else uses it.

A model is a set of measured points. Between points of one kind (operation, dtype, shape class) the
time is interpolated on logarithms of flops and seconds, beyond them the rate of the nearest is
kept; a bigger product is never predicted to be faster. This is the functional performance model of
Lastovetsky and Reddy ("Data partitioning with a functional performance model of heterogeneous
processors", 2007), by shape class because a thin product never reaches a square one's rate.

A model is a value: equal points are equal models, and what one remembers of its own answers never
changes them. How points are refined by real sub-tasks is in history.py.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import chain, groupby
from typing import Final

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.programs import GemmShape, Op

#: Products with a side below this are bound by memory rather than by arithmetic.
THIN_SIDE: Final = 64
#: Before anything is measured: a slow device that one sub-task will correct.
UNKNOWN_FLOPS: Final = 1e9
#: A device that claims more is not believed; the fastest accelerators do a few 1e15.
MAX_FLOPS: Final = 1e17
#: Points kept for each kind: over the twelve decades of useful sizes that is one for each factor
#: of six, and a curve's slope changes more slowly.
MAX_POINTS: Final = 16
#: Answers that a model remembers: a job asks every device about a few shapes, many times.
MAX_REMEMBERED: Final = 64
#: Models that are shared by devices with equal points.
MAX_SHARED_MODELS: Final = 4096
#: Where a dtype was not measured: another whose rate, times this, is a fair first guess.
_RELATED: Final[Mapping[str, tuple[str, float]]] = {
    "float16": ("float32", 0.8),
    "bfloat16": ("float32", 0.8),
    "float32": ("float64", 2.0),
    "complex64": ("float32", 0.9),
    "complex128": ("float64", 0.9),
}
#: And where an operation was not: a device that knows nothing of TF32 computes in float32, and one
#: that does is no slower.
_PLAIN: Final = {Op.TF32_PRODUCT: Op.PRODUCT}


class ShapeClass(StrEnum):
    SQUARE = "square"
    THIN = "thin"

    @staticmethod
    def of(shape: GemmShape) -> ShapeClass:
        thin = min(shape.rows, shape.inner, shape.columns) < THIN_SIDE
        return ShapeClass.THIN if thin else ShapeClass.SQUARE


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What has one curve: measurements of one kind say something about one another."""

    op: Op
    dtype: str
    shape_class: ShapeClass

    @staticmethod
    def of(shape: GemmShape) -> Kind:
        return Kind(shape.op, shape.dtype, ShapeClass.of(shape))


@dataclass(frozen=True, slots=True)
class SpeedPoint:
    """One measurement on the whole device, as if nobody else had used it."""

    shape: GemmShape
    seconds: float

    @property
    def kind(self) -> Kind:
        return Kind.of(self.shape)

    @property
    def flops_rate(self) -> float:
        return self.shape.flops / self.seconds

    @property
    def is_sane(self) -> bool:
        """Whether a claimed measurement can be one (a false agent may send anything)."""
        shape = self.shape
        if min(shape.rows, shape.inner, shape.columns) <= 0:
            return False
        is_time = math.isfinite(self.seconds) and self.seconds > 0
        return is_time and self.flops_rate <= MAX_FLOPS and bool(element_type(shape.dtype))


@dataclass(frozen=True, slots=True)
class _Curve:
    """Seconds against flops, both as logarithms, both rising."""

    log_flops: tuple[float, ...]
    log_seconds: tuple[float, ...]

    @staticmethod
    def through(points: Iterable[SpeedPoint]) -> _Curve:
        logs = sorted((math.log(p.shape.flops), math.log(p.seconds)) for p in points)
        xs: list[float] = []
        means: list[float] = []
        weights: list[int] = []
        for x, group in groupby(logs, key=lambda point: point[0]):
            seconds = [y for _, y in group]
            xs.append(x)
            means.append(sum(seconds) / len(seconds))
            weights.append(len(seconds))
        return _Curve(tuple(xs), _rising(means, weights))

    def seconds(self, flops: float) -> float:
        x, xs, ys = math.log(flops), self.log_flops, self.log_seconds
        if x <= xs[0]:
            return math.exp(ys[0] + x - xs[0])
        if x >= xs[-1]:
            return math.exp(ys[-1] + x - xs[-1])
        right = bisect_left(xs, x)
        share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
        return math.exp(ys[right - 1] + share * (ys[right] - ys[right - 1]))


def _rising(values: Iterable[float], weights: Iterable[int]) -> tuple[float, ...]:
    """The nearest rising sequence, by pooling adjacent violators (Ayer et al. 1955).

    A running maximum would rise as well, but one point that came out too slow would then lift
    every larger one.
    """
    pools: list[tuple[float, int, int]] = []  # Mean, weight, number of values.
    for value, weight in zip(values, weights):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] >= mean:
            before, its_weight, its_count = pools.pop()
            mean = (before * its_weight + mean * total) / (its_weight + total)
            total, count = total + its_weight, count + its_count
        pools.append((mean, total, count))
    return tuple(mean for mean, _, count in pools for _ in range(count))


@dataclass(frozen=True)
class SpeedModel:
    """All that was measured of one device. Equal models may be shared by many devices."""

    points: tuple[SpeedPoint, ...] = ()

    @staticmethod
    def of_claims(points: Iterable[SpeedPoint]) -> SpeedModel:
        """The believable ones of somebody's claims, no more of a kind than are kept; equal claims
        get the same object, so that a pool of equal devices has one model."""
        return _shared(tuple(points))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.points)

    @cached_property
    def _remembered(self) -> dict[GemmShape, float]:
        return {}

    @cached_property
    def by_kind(self) -> Mapping[Kind, tuple[SpeedPoint, ...]]:
        """Its believable points."""
        good = sorted((p for p in self.points if p.is_sane), key=lambda point: point.kind)
        return {kind: tuple(points) for kind, points in groupby(good, key=lambda p: p.kind)}

    def with_kind(self, kind: Kind, points: tuple[SpeedPoint, ...]) -> SpeedModel:
        """Other points for one kind; what was worked out for the others is taken over, since this
        happens with every sub-task that ends."""
        by_kind = {**self.by_kind, kind: points}
        model = SpeedModel(tuple(chain.from_iterable(by_kind.values())))
        model.__dict__["by_kind"] = by_kind
        model.__dict__["_curves"] = {**self._curves, kind: _Curve.through(points)}
        return model

    @cached_property
    def _curves(self) -> Mapping[Kind, _Curve]:
        return {kind: _Curve.through(points) for kind, points in self.by_kind.items()}

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({kind.dtype for kind in self._curves}))

    def seconds(self, shape: GemmShape) -> float:
        """Predicted seconds for a product on the whole idle device; 0 for an empty one."""
        found = self._remembered.get(shape)
        if found is None:
            found = self._seconds(shape)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[shape] = found
        return found

    def _seconds(self, shape: GemmShape) -> float:
        flops = shape.flops
        if flops <= 0:
            return 0.0
        if shape.parts:
            return max(1, shape.times) * sum(self.seconds(part) for part in shape.sized_parts)
        curve, factor = self._curve(shape)
        if curve is None:
            return flops / UNKNOWN_FLOPS
        return curve.seconds(flops) / factor

    def flops_rate(self, shape: GemmShape) -> float:
        seconds = self.seconds(shape)
        return shape.flops / seconds if seconds else 0.0

    def peak_flops(self, dtype: str) -> float | None:
        """The best rate measured for products of a dtype; None where it was not measured."""
        kinds = [
            points
            for kind, points in self.by_kind.items()
            if kind.dtype == dtype and kind.op is Op.PRODUCT
        ]
        return max((point.flops_rate for points in kinds for point in points), default=None)

    def _curve(self, shape: GemmShape) -> tuple[_Curve | None, float]:
        """The nearest curve there is, and what its rate is to be multiplied by."""
        op, dtype, factor = shape.op, shape.dtype, 1.0
        wanted = ShapeClass.of(shape)
        while True:
            for shape_class in (wanted, *ShapeClass):
                if curve := self._curves.get(Kind(op, dtype, shape_class)):
                    return curve, factor
            if plain := _PLAIN.get(op):
                op = plain
                continue
            if dtype not in _RELATED:
                return None, 1.0
            dtype, ratio = _RELATED[dtype]
            factor *= ratio


@lru_cache(maxsize=MAX_SHARED_MODELS)
def _shared(points: tuple[SpeedPoint, ...]) -> SpeedModel:
    kept: set[SpeedPoint] = set()
    for found in SpeedModel(points).by_kind.values():
        by_size = sorted(found, key=lambda point: point.shape.flops)
        kept.update(by_size[:: -(-len(found) // MAX_POINTS)])
    return SpeedModel(tuple(point for point in points if point in kept))
