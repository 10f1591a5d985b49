"""Amdahl's law on unlike devices: how serial a run was."""

from __future__ import annotations

from collections.abc import Sequence


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
    speed_up = flops / max(used) / makespan_s
    fraction = (1 / speed_up - 1 / processors) / (1 - 1 / processors)
    return min(1.0, max(0.0, fraction))
