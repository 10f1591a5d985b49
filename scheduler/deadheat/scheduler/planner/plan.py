"""A plan: an immutable value that says which rectangle goes to which device, when it should start
and finish there, and why. It is so complete that whoever carries it out has no choice left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deadheat.runtime.programs import Rectangle
from deadheat.runtime.units import format_bytes, format_flops, format_seconds


@dataclass(frozen=True, slots=True)
class Placement:
    """One sub-task: seconds count from the moment of planning."""

    operation: int
    rectangle: Rectangle
    device: str
    predicted_start_s: float
    predicted_finish_s: float
    predicted_bytes_in: int
    predicted_bytes_out: int
    #: What it was planned with.
    availability: float
    speed_flops: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a device got its share of one piece of work: the numbers that decided."""

    device: str
    node: str
    kind: str
    share: float
    availability: float
    bias: float
    speed_flops: float
    ready_s: float
    transfer_s: float
    compute_s: float
    finish_s: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """What another choice would have cost, by the same model."""

    name: str
    makespan_s: float


@dataclass(frozen=True)
class Step:
    """The cut of one piece of work."""

    operation: int
    rectangle: Rectangle
    cut: str
    placements: Sequence[Placement]
    reasons: Sequence[Reason]
    left_out: Sequence[LeftOut]
    alternatives: Sequence[Alternative]
    makespan_s: float


@dataclass(frozen=True)
class Plan:
    steps: Sequence[Step]
    makespan_s: float
    #: Sum of the available speeds of all devices that might have been used, in flops a second.
    pool_flops: float
    bytes_lower_bound: int

    @property
    def placements(self) -> Sequence[Placement]:
        return [placement for step in self.steps for placement in step.placements]

    def as_dict(self) -> Mapping[str, object]:
        """For `explain --json`."""
        return {
            "makespan_s": self.makespan_s,
            "pool_flops": self.pool_flops,
            "bytes_lower_bound": self.bytes_lower_bound,
            "steps": [_step_dict(step) for step in self.steps],
        }

    def __str__(self) -> str:
        return "\n\n".join(_step_text(step) for step in self.steps)


def _step_dict(step: Step) -> Mapping[str, object]:
    return {
        "operation": step.operation,
        "rectangle": str(step.rectangle),
        "cut": step.cut,
        "makespan_s": step.makespan_s,
        "devices": [
            {name: getattr(reason, name) for name in Reason.__slots__} for reason in step.reasons
        ],
        "left_out": [{"device": out.device, "reason": out.reason} for out in step.left_out],
        "alternatives": [
            {"name": other.name, "makespan_s": other.makespan_s} for other in step.alternatives
        ],
    }


def _step_text(step: Step) -> str:
    predicted = format_seconds(step.makespan_s)
    lines = [f"operation {step.operation} {step.rectangle} by {step.cut}, predicted {predicted}"]
    for reason, placement in zip(step.reasons, step.placements, strict=True):
        lines.append(
            f"  {reason.device:<20} {reason.share:6.1%} of the rows {placement.rectangle}: "
            f"{format_flops(reason.speed_flops)} x {reason.availability:.2f} available, "
            f"ready in {format_seconds(reason.ready_s)}, moves "
            f"{format_bytes(placement.predicted_bytes_in + placement.predicted_bytes_out)} in "
            f"{format_seconds(reason.transfer_s)}, computes {format_seconds(reason.compute_s)}, "
            f"finishes at {format_seconds(reason.finish_s)}"
        )
    lines += [f"  {out.device:<20} left out: {out.reason}" for out in step.left_out]
    lines += [
        f"  instead, {other.name}: {format_seconds(other.makespan_s)}"
        for other in step.alternatives
    ]
    return "\n".join(lines)
