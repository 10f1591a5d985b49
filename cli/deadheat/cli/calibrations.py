"""Calibrations for people: a row for each thing that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from deadheat.agent.calibrating import QUIET
from deadheat.agent.calibration import Fingerprint, Measured
from deadheat.runtime.dtypes import BY_WIRE
from deadheat.runtime.units import format_flops, format_seconds
from deadheat.v1 import agent_pb2 as pb

_SUMMED_UP: Final = ("float64", "float32", "tf32")
_WHAT: Final = {pb.SPEED_OP_SUM: "sum", pb.SPEED_OP_TF32_PRODUCT: "product in TF32"}


def title(fingerprint: Fingerprint) -> str:
    if fingerprint.kind == "gpu":  # The library's name begins with the card's.
        return fingerprint.library
    threads = "thread" if fingerprint.threads == 1 else "threads"
    return f"{fingerprint.cpu_model}, {fingerprint.threads} {threads}, {fingerprint.library}"


def flops(point: pb.SpeedPoint) -> float:
    """Of a product multiplications and additions, of a sum its operations, a second."""
    steps = 1.0 if point.op == pb.SPEED_OP_SUM else 2.0
    return steps * point.rows * point.inner * point.columns / point.seconds


def table(points: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for one in points:
        point = one.point
        rows.append(
            [
                BY_WIRE[point.data_type].name,
                _WHAT.get(point.op, "product"),
                f"{point.rows} x {point.inner} x {point.columns}",
                format_seconds(point.seconds),
                format_flops(flops(point)),
                f"{one.foreign:.2f}",
            ]
        )
    return ["TYPE", "WHAT", "SHAPE", "TIME", "RATE", "FOREIGN"], rows


def document(fingerprint: Fingerprint, points: Sequence[Measured]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "kind": fingerprint.kind,
        "cpu_model": fingerprint.cpu_model or None,
        "threads": fingerprint.threads,
        "library": fingerprint.library,
        "points": [
            {
                "dtype": BY_WIRE[one.point.data_type].name,
                "op": _WHAT.get(one.point.op, "product"),
                "shape": [one.point.rows, one.point.inner, one.point.columns],
                "seconds": one.point.seconds,
                "flops": flops(one.point),
                "foreign": one.foreign,
            }
            for one in points
        ],
    }


def summary(points: Sequence[Measured]) -> str:
    """In a line: the best rates of the usual types, and how much of it was measured in noise."""
    best: dict[str, float] = {}
    for one in points:
        if one.point.op != pb.SPEED_OP_SUM and one.point.seconds > 0:
            name = BY_WIRE[one.point.data_type].name
            name = "tf32" if one.point.op == pb.SPEED_OP_TF32_PRODUCT else name
            best[name] = max(best.get(name, 0.0), flops(one.point))
    rates = [f"{name} {format_flops(best[name])}" for name in _SUMMED_UP if name in best]
    noisy = sum(one.foreign > QUIET for one in points)
    if noisy:
        rates.append(f"{noisy} of {len(points)} points measured while others were busy")
    return ", ".join(rates) or "nothing measured yet"
