"""A plan: an immutable value that says which rectangle goes to which device, when it should start
and finish there, and why. It is so complete that whoever carries it out has no choice left.

Rules of this file: a step keeps its placements as arrays, and makes objects of them only when they
are asked for; equal inputs give equal plans, so plans compare by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from deadheat.runtime import descents
from deadheat.runtime.programs import Descent, Program, Rectangle, merged, uncovered
from deadheat.runtime.units import format_seconds
from deadheat.scheduler.planner.amdahl import CurvePoint
from deadheat.scheduler.planner.pool import Flags, Floats, Integers, Pool
from deadheat.scheduler.planner.pricing import memory_sizes


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
    """What another choice would have cost, by the same model; not a number where it is impossible
    is written as None."""

    name: str
    makespan_s: float | None


@dataclass(frozen=True, eq=False)
class Unused:
    """The devices that got nothing: whether they have room, when they could start, and how long
    they would fetch what everybody needs."""

    numbers: Integers
    fits: Flags
    start_s: Floats
    fetch_s: Floats
    makespan_s: float

    def reason(self, entry: int) -> str:
        start_s, fetch_s = float(self.start_s[entry]), float(self.fetch_s[entry])
        if not self.fits[entry]:
            return "its memory does not hold the operands"
        finish = format_seconds(self.makespan_s)
        if start_s >= self.makespan_s:
            return f"it could not start before {format_seconds(start_s)}; all is done at {finish}"
        if start_s + fetch_s >= self.makespan_s:
            fetched = format_seconds(start_s + fetch_s)
            return f"it would not have its operands before {fetched}; all is done at {finish}"
        return "one more piece would cost more time than it saves"


_NONE: Final = np.zeros(0)
#: For pieces that are given out together with others: who got nothing is not said for each.
NOBODY: Final = Unused(_NONE.astype(np.int64), _NONE.astype(np.bool_), _NONE, _NONE, 0.0)


@dataclass(frozen=True, eq=False)
class Step:
    """The cut of one piece of work. Entry i of each array belongs to device `used[i]`."""

    operation: int
    rectangle: Rectangle
    #: "rows", "columns" (of rectangles), "pieces", "round", or a baseline's name.
    cut: str
    pool: Pool
    used: Integers
    #: Row start, row stop, column start, column stop.
    bounds: Integers
    transfer_s: Floats
    compute_s: Floats
    finish_s: Floats
    bytes_in: Integers
    bytes_out: Integers
    speed_flops: Floats
    unused: Unused
    excluded: tuple[tuple[str, str], ...]
    alternatives: tuple[Alternative, ...]
    curve: tuple[CurvePoint, ...]
    knee: int
    makespan_s: float
    bytes_lower_bound: int
    #: What else decided, for people.
    note: str = ""

    @cached_property
    def placements(self) -> tuple[Placement, ...]:
        pool, used = self.pool, self.used
        starts = (pool.ready_s + pool.launch_s)[used].tolist()
        return tuple(
            Placement(self.operation, Rectangle(*bounds), pool.ids[device], *numbers)
            for device, bounds, *numbers in zip(
                used.tolist(),
                self.bounds.tolist(),
                starts,
                self.finish_s.tolist(),
                self.bytes_in.tolist(),
                self.bytes_out.tolist(),
                pool.availability[used].tolist(),
                self.speed_flops.tolist(),
            )
        )

    @property
    def given_area(self) -> int:
        """Elements that somebody gets."""
        heights = self.bounds[:, 1] - self.bounds[:, 0]
        return int((heights * (self.bounds[:, 3] - self.bounds[:, 2])).sum())

    def memory_bytes(self, program: Program) -> Integers:
        """What each part needs of its device's memory, if that maps nothing of the store's."""
        row, column, cell = memory_sizes(program, program.operations[self.operation])
        heights = self.bounds[:, 1] - self.bounds[:, 0]
        widths = self.bounds[:, 3] - self.bounds[:, 2]
        sizes = heights * row + widths * column + heights * widths * cell
        if isinstance(kind := program.operations[self.operation].kind, Descent):
            # Everybody needs all operands, whatever its part.
            sizes = heights * row + self.rectangle.columns * column + heights * widths * cell
            if len(self.used) > 1:
                state = program.types[program.operations[self.operation].result]
                sizes = sizes + descents.shared_bytes(kind, state)
        found: Integers = sizes.astype(np.int64)
        return found

    @property
    def left(self) -> tuple[Rectangle, ...]:
        """What nobody gets yet, since the memories do not hold more now."""
        if (
            self.given_area == self.rectangle.area
        ):  # Of a large plan no object is made to find that out.
            return ()
        return merged(uncovered(self.rectangle, (p.rectangle for p in self.placements)))

    def reasons(self, limit: int | None = None) -> list[Reason]:
        """The numbers that decided, for the first `limit` devices."""
        found = []
        area = max(1, self.rectangle.area)
        for entry, device in enumerate(self.used[:limit].tolist()):
            row_start, row_stop, column_start, column_stop = self.bounds[entry].tolist()
            found.append(
                Reason(
                    device=self.pool.ids[device],
                    node=self.pool.nodes[device],
                    kind=self.pool.kinds[device],
                    share=(row_stop - row_start) * (column_stop - column_start) / area,
                    availability=float(self.pool.availability[device]),
                    bias=float(self.pool.bias[device]),
                    speed_flops=float(self.speed_flops[entry]),
                    ready_s=float(self.pool.ready_s[device]),
                    transfer_s=float(self.transfer_s[entry]),
                    compute_s=float(self.compute_s[entry]),
                    finish_s=float(self.finish_s[entry]),
                )
            )
        return found

    def left_out(self, limit: int | None = None) -> list[LeftOut]:
        found = [LeftOut(device, reason) for device, reason in self.excluded[:limit]]
        room = None if limit is None else max(0, limit - len(found))
        return found + [
            LeftOut(self.pool.ids[device], self.unused.reason(entry))
            for entry, device in enumerate(self.unused.numbers[:room].tolist())
        ]

    @property
    def left_out_count(self) -> int:
        return len(self.excluded) + len(self.unused.numbers)

    def _key(self) -> tuple[Any, ...]:
        arrays = (self.used, self.bounds, self.finish_s, self.bytes_in, self.bytes_out)
        return (
            self.operation,
            self.rectangle,
            self.cut,
            self.pool.ids,
            *(array.tobytes() for array in arrays),
            self.unused.numbers.tobytes(),
            self.excluded,
            self.alternatives,
            self.makespan_s,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.operation, self.rectangle, self.makespan_s))


@dataclass(frozen=True)
class Order:
    """How a program was rewritten before it was cut, and what other orders would have cost."""

    text: str
    makespan_s: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    makespan_s: float
    #: Sum of the available speeds of all devices that might have been used, in flops a second.
    pool_flops: float
    bytes_lower_bound: int
    #: Another program that comes to the same, and is to be planned instead.
    program: Program | None = None
    #: Operations that are meant for some devices only, with the ids of these.
    groups: Mapping[int, frozenset[str]] = field(default_factory=dict)
    order: Order | None = None
    #: Elements that nobody gets yet, since the memories do not hold more now.
    left_area: int = 0

    @property
    def placements(self) -> Sequence[Placement]:
        return [placement for step in self.steps for placement in step.placements]

    @property
    def devices(self) -> frozenset[str]:
        """Ids of all devices that get something."""
        return frozenset(
            step.pool.ids[device] for step in self.steps for device in step.used.tolist()
        )

    def as_dict(self) -> Mapping[str, object]:
        """For `explain --json`."""
        from deadheat.scheduler.planner.wording import plan_document

        return plan_document(self)

    def __str__(self) -> str:
        from deadheat.scheduler.planner.wording import plan_text

        return plan_text(self)
