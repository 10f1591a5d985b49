"""What the planner is told. Everything here is a snapshot: it was true when it was observed, may
have changed since, and a plan must survive that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from deadheat.runtime.programs import Program, Rectangle
from deadheat.scheduler.planner.speed import SpeedModel

#: A cut finer than this is not worth its messages: seconds of work below which a device is left
#: out (unless nobody else could do it).
MIN_SUBTASK_S: Final = 0.002


class Cut(Enum):
    """How results are cut; all but BALANCED are baselines to be compared with."""

    BALANCED = "balanced"
    EQUAL = "equal"
    PEAK = "peak"
    ONE_MINUS_UTILIZATION = "one-minus-utilization"


@dataclass(frozen=True, slots=True)
class Link:
    """The way of blocks between a device and the store. On one host there is nothing to move."""

    is_local: bool
    bandwidth_bytes_per_s: float = float("inf")
    latency_s: float = 0.0

    def transfer_s(self, size_bytes: float) -> float:
        return 0.0 if self.is_local else size_bytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the planner sees it. Ratios are 0 to 1, seconds count from now."""

    id: str
    node: str
    kind: str
    model: SpeedModel
    #: The fraction of its idle speed that it would give us.
    availability: float
    #: Total utilization, ours included; only a baseline believes it.
    busy: float
    #: Measured over modelled idle speed.
    bias: float
    #: When it has done what it was given before.
    ready_s: float
    #: Sending it a sub-task and starting it there.
    launch_s: float
    memory_bytes: int
    link: Link
    #: What it does right now for the operation in question, instead of model and availability.
    measured_flops: float | None = None
    #: Ids of matrices that it has already, whole.
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Work:
    """A rectangle of one operation's result that has to be made."""

    operation: int
    rectangle: Rectangle


@dataclass(frozen=True, slots=True)
class Policy:
    cut: Cut = Cut.BALANCED
    min_subtask_s: float = MIN_SUBTASK_S


@dataclass(frozen=True)
class PlanningInput:
    """One planning problem: what to make, of which program, on which devices, by which rules."""

    program: Program
    work: Sequence[Work]
    devices: Sequence[Device]
    policy: Policy = field(default_factory=Policy)
    #: Devices that are there but may not be used, and why.
    excluded: Sequence[tuple[str, str]] = ()
