"""Calibrations for people: a row for each thing that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deadheat.agent.calibrating import QUIET
from deadheat.agent.calibration import Fingerprint, Measured
from deadheat.runtime.dtypes import BY_WIRE
from deadheat.runtime.units import format_flops, format_seconds
from deadheat.v1 import agent_pb2 as pb


def title(fingerprint: Fingerprint) -> str:
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
                "sum" if point.op == pb.SPEED_OP_SUM else "product",
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
        "cpu_model": fingerprint.cpu_model,
        "threads": fingerprint.threads,
        "library": fingerprint.library,
        "points": [
            {
                "dtype": BY_WIRE[one.point.data_type].name,
                "op": "sum" if one.point.op == pb.SPEED_OP_SUM else "product",
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
            best[name] = max(best.get(name, 0.0), flops(one.point))
    rates = [
        f"{name} {format_flops(best[name])}" for name in ("float64", "float32") if name in best
    ]
    noisy = sum(one.foreign > QUIET for one in points)
    if noisy:
        rates.append(f"{noisy} of {len(points)} points measured while others were busy")
    return ", ".join(rates) or "nothing measured yet"
