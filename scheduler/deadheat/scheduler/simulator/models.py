"""The speed points that a simulated agent's calibration finds: one rate for everything."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from deadheat.runtime.dtypes import BY_NAME
from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.planner.speed import SpeedPoint

#: Sides of the products that are "measured": small, cache-sized, large; the first is a thin one.
_SIDES: Final = (32, 128, 1024)


@lru_cache(maxsize=1024)
def speed_points(speed_flops: float) -> tuple[SpeedPoint, ...]:
    """The same speed for every shape and dtype."""
    shapes = (GemmShape(side, side, side, dtype) for dtype in BY_NAME for side in _SIDES)
    return tuple(SpeedPoint(shape, shape.flops / speed_flops) for shape in shapes)
