"""A sub-task on a simulated device, from its assignment to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from deadheat.runtime.programs import Rectangle, work_shape
from deadheat.scheduler.core.effects import SendAssign
from deadheat.scheduler.core.events import Progress
from deadheat.scheduler.simulator.panels import ANY_HEIGHT, Layout, Sizes

BlockKey = tuple[str, Rectangle]


class Phase(Enum):
    FETCHING = "fetching"
    READY = "ready"
    DELIVERING = "delivering"


@dataclass(eq=False, slots=True)
class Task:
    """`order` is its rank, then its arrival. Panels count from its rectangle's first row."""

    id: str
    assign: SendAssign
    order: tuple[float, int]
    rectangle: Rectangle
    flops_per_element: float
    #: How large a panel may be, and the highest band.
    sizes: Sizes
    highest: int = ANY_HEIGHT
    #: Rows of its rectangle whose operands are here.
    rows_here: int = ANY_HEIGHT
    phase: Phase = Phase.FETCHING
    layout: Layout = Layout((), (0,))
    #: Idle seconds of the device up to the end of each panel, noise included; 0 comes first.
    efforts: Sequence[float] = (0.0,)
    #: Panels that are done, as far as they are booked.
    done: int = 0
    released: list[Rectangle] = field(default_factory=list)
    #: Operand blocks that it is the first to need here.
    fetched: Sequence[BlockKey] = ()
    started_s: float | None = None
    told_s: float = -math.inf
    at_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    transfer_s: float = 0.0
    #: Of its result: area and whole rows that are on their way or there, and rows that are there.
    area_sent: int = 0
    rows_sent: int = 0
    rows_delivered: int = 0

    def __lt__(self, other: Task) -> bool:
        return self.order < other.order

    @property
    def is_computed(self) -> bool:
        return self.done >= len(self.layout.panels)

    @property
    def area_done(self) -> int:
        return self.layout.areas[self.done]

    @property
    def available(self) -> int:
        """Panels that can be computed: the operands of their rows are here."""
        return self.layout.count_within(self.rows_here)

    def progress(self, now: float, *, delivers: bool) -> Progress:
        """What its agent says of it; rows that have to be delivered do not count before."""
        top = self.rectangle.row_start
        area = self.layout.areas[self.done]
        return Progress(
            self.id,
            top + (self.rows_delivered if delivers else self.layout.row_done(self.done)),
            area,
            now if self.started_s is None else self.started_s,
            self.at_s or now,
            self.cpu_s,
            self.wall_s,
            area * self.flops_per_element,
        )


@dataclass(eq=False, slots=True)
class Move:
    """Bytes on their way to or from the store, for one sub-task."""

    task: Task
    size_bytes: float
    #: When it has come, all rows below this one are here; or, of a result, there.
    rows: int
    is_result: bool = False
    moved_s: float = 0.0
    begun_s: float = 0.0


def flops_per_element(assign: SendAssign) -> float:
    """The work in one element of an operation's result."""
    types = {operand.name: operand.type for operand in assign.operands}
    shape = work_shape(assign.operation, types)
    return shape.with_rows(1).flops / shape.columns


def is_mapped(assign: SendAssign) -> bool:
    """Whether anything of it lies in the store."""
    return bool(assign.result_id) or any(source.inline is None for source in assign.operands)
