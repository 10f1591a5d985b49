"""Amdahl's law on unlike devices: how serial a run was, and how far more devices would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.scheduler.planner.balance import level
from deadheat.scheduler.planner.pool import Floats, ordered

#: Points of a predicted speed-up curve: enough for a picture, few enough for a report.
CURVE_POINTS: Final = 16


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """With the best so many devices: predicted makespan, and speed-up over the best one alone."""

    devices: int
    makespan_s: float
    speed_up: float


def effective_processors(speeds_flops: Sequence[float]) -> float:
    """The pool in units of its fastest device: sum of the speeds over the greatest."""
    return sum(speeds_flops) / max(speeds_flops)


def karp_flatt(flops: float, speeds_flops: Sequence[float], makespan_s: float) -> float | None:
    """The experimentally determined serial fraction e = (1/psi - 1/p) / (1 - 1/p).

    Karp and Flatt, "Measuring parallel processor performance" (1990), with p the effective
    processors and psi the speed-up over the fastest device alone. None where one device worked;
    0 to 1 otherwise (prediction errors can push it out, so it is clamped).
    """
    used = [speed for speed in speeds_flops if speed > 0]
    if len(used) < 2 or makespan_s <= 0 or flops <= 0:
        return None
    processors = effective_processors(used)
    if processors <= 1.0:
        return None
    speed_up = flops / max(used) / makespan_s
    fraction = (1 / speed_up - 1 / processors) / (1 - 1 / processors)
    return min(1.0, max(0.0, fraction))


def speed_up_curve(
    flops: float, ready_s: Floats, speeds_flops: Floats, subtask_cost_s: float
) -> tuple[tuple[CurvePoint, ...], int]:
    """The predicted speed-up against the number of devices, the fastest first, and its knee: the
    number past which another device costs more than it brings.

    With the first k devices all finish at T_k = (X + sum e_j * s_j) / sum s_j, and the job takes
    T_k + k * cost, as in `selecting.knee`. Devices that are ready only when the others finish are
    of no use, and not counted.
    """
    if not len(speeds_flops) or flops <= 0:
        return (), len(speeds_flops)
    useful = ready_s < level(flops, ready_s, 1.0 / speeds_flops)
    ready_s, speeds_flops = ready_s[useful], speeds_flops[useful]
    order = ordered(-speeds_flops)
    speeds = speeds_flops[order]
    finish_s = (flops + np.cumsum(ready_s[order] * speeds)) / np.cumsum(speeds)
    total_s = finish_s + subtask_cost_s * np.arange(1, len(finish_s) + 1)
    knee = int(np.argmin(total_s)) + 1
    count = len(order)
    marks = np.geomspace(1, count, min(count, CURVE_POINTS)).round().astype(np.int64)
    wanted = sorted({1, knee, count, *marks.tolist()})
    alone_s = float(total_s[0])
    return (
        tuple(
            CurvePoint(k, float(total_s[k - 1]), alone_s / float(total_s[k - 1])) for k in wanted
        ),
        knee,
    )
