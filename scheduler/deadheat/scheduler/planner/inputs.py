"""What the planner is told. Everything here is a snapshot: it was true when it was observed, may
have changed since, and a plan must survive that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from deadheat.runtime.programs import Program, Rectangle
from deadheat.scheduler.planner.pool import Device, Link, Pool

__all__ = ["Cut", "Device", "Link", "PlanningInput", "Policy", "Pool", "Work"]

#: A cut finer than this is not worth its messages: seconds of work below which a device is left
#: out (unless nobody else could do it).
MIN_SUBTASK_S: Final = 0.002
#: What one more sub-task costs the job serially: its rows in the database, its messages, its part
#: of every decision. A device that brings less than this is not added (the knee).
SUBTASK_COST_S: Final = 0.0002


class Cut(Enum):
    """How results are cut; all but BALANCED are baselines to be compared with."""

    BALANCED = "balanced"
    EQUAL = "equal"
    PEAK = "peak"
    ONE_MINUS_UTILIZATION = "one-minus-utilization"


@dataclass(frozen=True, slots=True)
class Work:
    """A rectangle of one operation's result that has to be made, perhaps by some devices only."""

    operation: int
    rectangle: Rectangle
    #: Ids of devices; empty for all. Where none of them is there any more, all may do it.
    devices: frozenset[str] = frozenset()
    #: Whether several may share what is whole or nothing.
    may_share: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    cut: Cut = Cut.BALANCED
    min_subtask_s: float = MIN_SUBTASK_S
    subtask_cost_s: float = SUBTASK_COST_S
    #: Whether a product may be cut along its inner dimension, which changes the order of summation.
    may_split_inner: bool = True


@dataclass(frozen=True)
class PlanningInput:
    """One planning problem: what to make, of which program, on which devices, by which rules."""

    program: Program
    work: Sequence[Work]
    pool: Pool
    policy: Policy = field(default_factory=Policy)
    #: Devices that are there but may not be used, and why.
    excluded: Sequence[tuple[str, str]] = ()
    #: Whether operations may still be replaced by others that come to the same (nothing has been
    #: assigned yet).
    may_rewrite: bool = False
    #: Whether operations may still be joined to segments, but for those that make these results.
    may_join: bool = False
    apart: frozenset[str] = frozenset()
