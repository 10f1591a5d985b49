"""Speed models: the seconds a device needs for a product when nobody else uses it.

A model is a set of measured points. Between points of one dtype and shape class the time is
interpolated on logarithms of flops and seconds, beyond them the rate of the nearest is kept; a
bigger product is never predicted to be faster. This is the functional performance model of
Lastovetsky and Reddy ("Data partitioning with a functional performance model of heterogeneous
processors", 2007), by shape class because a thin product never reaches a square one's rate.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import groupby
from typing import Final

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.programs import GemmShape, Op

#: Products with a side below this are bound by memory rather than by arithmetic.
THIN_SIDE: Final = 64
#: Before anything is measured: a slow device that one sub-task will correct.
UNKNOWN_FLOPS: Final = 1e9
#: A device that claims more is not believed; the fastest accelerators do a few 1e15.
MAX_FLOPS: Final = 1e17
#: Where a dtype was not measured: another whose rate, times this, is a fair first guess.
_RELATED: Final[Mapping[str, tuple[str, float]]] = {
    "float16": ("float32", 0.8),
    "bfloat16": ("float32", 0.8),
    "float32": ("float64", 2.0),
    "complex64": ("float32", 0.9),
    "complex128": ("float64", 0.9),
}


class ShapeClass(Enum):
    SQUARE = "square"
    THIN = "thin"
    SUM = "sum"

    @staticmethod
    def of(shape: GemmShape) -> ShapeClass:
        if shape.op is Op.SUM:
            return ShapeClass.SUM
        thin = min(shape.rows, shape.inner, shape.columns) < THIN_SIDE
        return ShapeClass.THIN if thin else ShapeClass.SQUARE


@dataclass(frozen=True, slots=True)
class SpeedPoint:
    """One measurement on the whole device, as if nobody else had used it."""

    shape: GemmShape
    seconds: float

    @property
    def flops_rate(self) -> float:
        return self.shape.flops / self.seconds


@dataclass(frozen=True, slots=True)
class _Curve:
    """Seconds against flops, both as logarithms, both rising."""

    log_flops: tuple[float, ...]
    log_seconds: tuple[float, ...]

    @staticmethod
    def through(points: Iterable[SpeedPoint]) -> _Curve:
        logs = sorted((math.log(p.shape.flops), math.log(p.seconds)) for p in points)
        xs: list[float] = []
        ys: list[float] = []
        for x, group in groupby(logs, key=lambda point: point[0]):
            seconds = [y for _, y in group]
            xs.append(x)
            # Rising: time is never less for more work, whatever noise said.
            ys.append(max(sum(seconds) / len(seconds), ys[-1] if ys else -math.inf))
        return _Curve(tuple(xs), tuple(ys))

    def seconds(self, flops: float) -> float:
        x, xs, ys = math.log(flops), self.log_flops, self.log_seconds
        if x <= xs[0]:
            return math.exp(ys[0] + x - xs[0])
        if x >= xs[-1]:
            return math.exp(ys[-1] + x - xs[-1])
        right = bisect_left(xs, x)
        share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
        return math.exp(ys[right - 1] + share * (ys[right] - ys[right - 1]))


@dataclass(frozen=True)
class SpeedModel:
    """All that was measured of one device. Equal models may be shared by many devices."""

    points: tuple[SpeedPoint, ...] = ()

    @cached_property
    def _curves(self) -> Mapping[tuple[str, ShapeClass], _Curve]:
        good = [point for point in self.points if _is_sane(point)]

        def key(point: SpeedPoint) -> tuple[str, str]:
            return point.shape.dtype, ShapeClass.of(point.shape).value

        grouped = groupby(sorted(good, key=key), key=key)
        return {
            (dtype, ShapeClass(name)): _Curve.through(points) for (dtype, name), points in grouped
        }

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({dtype for dtype, _ in self._curves}))

    def seconds(self, shape: GemmShape) -> float:
        """Predicted seconds for a product on the whole idle device; 0 for an empty one."""
        if shape.flops <= 0:
            return 0.0
        curve, factor = self._curve(shape)
        if curve is None:
            return shape.flops / UNKNOWN_FLOPS
        return curve.seconds(shape.flops) / factor

    def flops_rate(self, shape: GemmShape) -> float:
        seconds = self.seconds(shape)
        return shape.flops / seconds if seconds else 0.0

    def peak_flops(self, dtype: str) -> float | None:
        """The best rate measured for products of a dtype; None where it was not measured."""
        products = (p for p in self.points if p.shape.op is Op.PRODUCT)
        rates = [p.flops_rate for p in products if p.shape.dtype == dtype and _is_sane(p)]
        return max(rates, default=None)

    def _curve(self, shape: GemmShape) -> tuple[_Curve | None, float]:
        """The nearest curve there is, and what its rate is to be multiplied by."""
        dtype, factor = shape.dtype, 1.0
        wanted = ShapeClass.of(shape)
        # The rate of a product says nothing of a sum's, nor the other way.
        products = (wanted, ShapeClass.SQUARE, ShapeClass.THIN)
        usable = (wanted,) if wanted is ShapeClass.SUM else products
        while True:
            for shape_class in usable:
                if curve := self._curves.get((dtype, shape_class)):
                    return curve, factor
            if dtype not in _RELATED:
                return None, 1.0
            dtype, ratio = _RELATED[dtype]
            factor *= ratio


def _is_sane(point: SpeedPoint) -> bool:
    """Whether a claimed measurement can be one (a false agent may send anything)."""
    shape = point.shape
    positive = min(shape.rows, shape.inner, shape.columns) > 0
    finite = math.isfinite(point.seconds) and point.seconds > 0
    return positive and finite and point.flops_rate <= MAX_FLOPS and bool(element_type(shape.dtype))
