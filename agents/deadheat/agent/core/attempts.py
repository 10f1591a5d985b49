"""Sub-tasks that this agent holds, from assignment until the scheduler has committed their end.

Rules of this file: no I/O, no clock; each method takes what happened and returns what to do. What
was finished is kept until the scheduler says that it may be forgotten, so that a break of the
session, or a restart of the scheduler, loses nothing. Results that have to be delivered go in runs
of whole rows while later ones are computed, one run at a time, and count when they are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from deadheat.runtime import wire
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.programs import Rectangle, uncovered
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import types_pb2

#: Rows are delivered while others are computed when they are so many bytes together; fewer would
#: cost a round trip for little.
DELIVERY_BYTES: Final = 4 << 20


class Phase(Enum):
    FETCHING = "fetching"
    RUNNING = "running"
    DELIVERING = "delivering"
    SETTLING = "settling"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the operands of a sub-task, and room for its result."""

    assign: pb.Assign


@dataclass(frozen=True, slots=True)
class Run:
    subtask: str


@dataclass(frozen=True, slots=True)
class StopRun:
    """End it at its next cancel point, and whatever is fetched and delivered for it."""

    subtask: str


@dataclass(frozen=True, slots=True)
class ShrinkRun:
    subtask: str
    keep_area: int


@dataclass(frozen=True, slots=True)
class TrimFetch:
    """Operands of rows from this one on are not needed any more."""

    subtask: str
    row_stop: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send these parts of the result to where they belong, then say so (`rows_delivered`)."""

    subtask: str
    pieces: tuple[Rectangle, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Blocks of this sub-task are not needed any more, as soon as nothing writes them."""

    subtask: str


@dataclass(frozen=True, slots=True)
class Report:
    message: pb.AgentServiceSessionRequest


Effect = Fetch | Run | StopRun | ShrinkRun | TrimFetch | Deliver | Drop | Report


@dataclass(slots=True)
class _Held:
    assign: pb.Assign
    rectangle: Rectangle
    phase: Phase = Phase.FETCHING
    #: Whole rows below this one are computed and where they belong.
    row_done: int = 0
    #: Whole rows below this one are computed; and where the run of rows that is being delivered
    #: ends, if one is.
    row_computed: int = 0
    row_sending: int | None = None
    progress: pb.SubtaskProgress | None = None
    #: What was given back of the rectangle.
    released: list[Rectangle] = field(default_factory=list)
    #: What the executor said at its end, while the result is delivered.
    finished: pb.Finished | None = None
    #: The last word on it, repeated until it is settled.
    report: pb.AgentServiceSessionRequest | None = None

    @property
    def row_kept(self) -> int | None:
        """How far its result is there, whatever becomes of the rest."""
        return self.row_done if self.assign.result_matrix_id else None

    def undelivered(self, row_stop: int) -> tuple[Rectangle, ...]:
        return tuple(uncovered(self.rectangle.with_rows(self.row_done, row_stop), self.released))


class Attempts:
    """All that the agent holds."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def unfinished(self) -> list[str]:
        return [id_ for id_, held in self._held.items() if held.phase is not Phase.SETTLING]

    def unfinished_on(self, device: str) -> list[str]:
        return [id_ for id_ in self.unfinished if self._held[id_].assign.device == device]

    def assign_of(self, subtask: str) -> pb.Assign | None:
        held = self._held.get(subtask)
        return held.assign if held else None

    # From the scheduler

    def assigned(self, assign: pb.Assign) -> list[Effect]:
        if assign.subtask_id in self._held:
            return []  # Sent again after a break; we have it.
        result = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        rectangle = wire.rectangle_from_wire(assign.rectangle, within=result, field="rectangle")
        held = _Held(
            assign, rectangle, row_done=rectangle.row_start, row_computed=rectangle.row_start
        )
        self._held[assign.subtask_id] = held
        return [Fetch(assign)]

    def cancelled(self, subtasks: Iterable[str]) -> list[Effect]:
        found = [(subtask, self._held.pop(subtask, None)) for subtask in subtasks]
        return [
            StopRun(subtask) if held.phase is Phase.RUNNING else Drop(subtask)
            for subtask, held in found
            if held
        ]

    def resize(self, subtask: str, keep_area: int) -> list[Effect]:
        held = self._held.get(subtask)
        if held is None:
            return []
        if held.phase is Phase.RUNNING:
            return [ShrinkRun(subtask, keep_area)]
        if held.phase is not Phase.FETCHING:
            return [_resized(subtask, [])]
        whole = held.rectangle
        keep_rows = -(-max(0, keep_area) // max(1, whole.columns))
        row = min(whole.row_stop, whole.row_start + keep_rows)
        if row == whole.row_stop:
            return [_resized(subtask, [])]
        released = whole.with_rows(row, whole.row_stop)
        held.released.append(released)
        held.rectangle = whole.with_rows(whole.row_start, row)
        held.assign.rectangle.row_stop = row
        effects: list[Effect] = [_resized(subtask, [released])]
        if row == whole.row_start:
            del self._held[subtask]
            effects.append(Drop(subtask))
        return effects

    def give_back(self, subtask: str) -> list[Effect]:
        """What was not started is the scheduler's again. A result that travels inline is whole or
        nothing, and it is small: one that runs, ends."""
        held = self._held.get(subtask)
        if held and held.phase is Phase.RUNNING and not held.assign.result_matrix_id:
            return []
        return self.resize(subtask, 0)

    def settled(self, subtasks: Iterable[str]) -> None:
        for subtask in subtasks:
            held = self._held.get(subtask)
            if held and held.phase is Phase.SETTLING:
                del self._held[subtask]

    def for_registration(self) -> list[pb.HeldSubtask]:
        return [
            pb.HeldSubtask(
                subtask_id=subtask,
                attempt=held.assign.attempt,
                finished=held.phase is Phase.SETTLING,
            )
            for subtask, held in self._held.items()
        ]

    def session_opened(self) -> list[Effect]:
        """What has to be said, or done, again after a break."""
        effects: list[Effect] = []
        for subtask, held in self._held.items():
            if held.released:
                # Before any end: what was given up while nobody listened is in nobody's hands, and
                # must not be taken for done. (That it is told twice changes nothing.)
                effects.append(_resized(subtask, held.released))
            if held.report:
                effects.append(Report(held.report))
            else:
                effects += self._deliver_more(subtask, held)
        return effects

    # From here

    def fetched(self, subtask: str) -> list[Effect]:
        held = self._held.get(subtask)
        if held is None or held.phase is not Phase.FETCHING:
            return [Drop(subtask)]
        held.phase = Phase.RUNNING
        return [Run(subtask)]

    def shrunk(self, resized: pb.Resized) -> list[Effect]:
        """The executor has given something up."""
        held = self._held.get(resized.subtask_id)
        if held is None:
            return []
        result = wire.matrix_type_from_wire(held.assign.result_type, field="result_type")
        held.released += [
            wire.rectangle_from_wire(piece, within=result, field="released")
            for piece in resized.released
        ]
        kept = uncovered(held.rectangle, held.released)
        row_stop = max((piece.row_stop for piece in kept), default=held.rectangle.row_start)
        told = Report(pb.AgentServiceSessionRequest(resized=resized))
        return [told, TrimFetch(resized.subtask_id, row_stop)]

    def progressed(
        self, progress: pb.SubtaskProgress, *, must_deliver: bool = False
    ) -> list[Effect]:
        """Rows are computed. If they have to be delivered, they count when they are."""
        held = self._held.get(progress.subtask_id)
        if held is None or held.phase is not Phase.RUNNING:
            return []
        if not must_deliver:
            held.row_done = progress.row_done
            return [_progressed(progress)]
        held.row_computed = progress.row_done
        held.progress = progress
        progress.row_done = held.row_done
        return [_progressed(progress), *self._deliver_more(progress.subtask_id, held)]

    def computed(self, finished: pb.Finished, *, must_deliver: bool) -> list[Effect]:
        """All rows are computed. They count as finished when they are where they belong."""
        subtask = finished.progress.subtask_id
        held = self._held.get(subtask)
        if held is None or held.phase is not Phase.RUNNING:
            return []
        held.finished = finished
        if not must_deliver:
            return self.delivered(subtask, finished)
        held.phase = Phase.DELIVERING
        return self._deliver_more(subtask, held)

    def _deliver_more(self, subtask: str, held: _Held) -> list[Effect]:
        """The next run of rows to deliver, if none is under way and enough are computed."""
        if held.row_sending is not None:
            return []
        if held.phase is Phase.DELIVERING:
            assert held.finished is not None
            pieces = held.undelivered(held.rectangle.row_stop)
            if not pieces:
                return self.delivered(subtask, held.finished)
            held.row_sending = held.rectangle.row_stop
            return [Deliver(subtask, pieces)]
        if held.phase is not Phase.RUNNING or held.row_computed <= held.row_done:
            return []
        pieces = held.undelivered(held.row_computed)
        result = wire.matrix_type_from_wire(held.assign.result_type, field="result_type")
        if sum(piece.area for piece in pieces) * result.element.itemsize < DELIVERY_BYTES:
            return []
        held.row_sending = held.row_computed
        return [Deliver(subtask, pieces)]

    def rows_delivered(self, subtask: str) -> list[Effect]:
        """The last Deliver has been carried out."""
        held = self._held.get(subtask)
        if held is None or held.row_sending is None:
            return []
        held.row_done, held.row_sending = held.row_sending, None
        effects: list[Effect] = []
        if held.progress and held.phase is Phase.RUNNING:
            held.progress.row_done = held.row_done
            effects.append(_progressed(held.progress))
        return [*effects, *self._deliver_more(subtask, held)]

    def delivery_broke(self, subtask: str) -> None:
        """The last Deliver could not be carried out now; it is tried again on the next occasion."""
        if held := self._held.get(subtask):
            held.row_sending = None

    def delivered(self, subtask: str, finished: pb.Finished) -> list[Effect]:
        held = self._held.get(subtask)
        if held is None:
            return [Drop(subtask)]
        held.phase = Phase.SETTLING
        held.report = pb.AgentServiceSessionRequest(finished=finished)
        return [Report(held.report), Drop(subtask)]

    def row_kept(self, subtask: str) -> int | None:
        held = self._held.get(subtask)
        return held.row_kept if held else None

    def finished_of(self, subtask: str) -> pb.Finished | None:
        held = self._held.get(subtask)
        return held.finished if held else None

    def failed(
        self, subtask: str, code: str, message: str, *, row_done: int | None, died: bool = False
    ) -> list[Effect]:
        held = self._held.get(subtask)
        if held is None or held.phase is Phase.SETTLING:
            return []
        was_running = held.phase is Phase.RUNNING
        failed = pb.Failed(
            subtask_id=subtask,
            failure=types_pb2.Failure(code=code, message=message),
            executor_died=died,
            row_done=held.assign.rectangle.row_start if row_done is None else row_done,
        )
        held.phase = Phase.SETTLING
        held.report = pb.AgentServiceSessionRequest(failed=failed)
        # A running one's blocks are dropped when the executor says that it is done with them.
        drop: list[Effect] = [] if was_running else [Drop(subtask)]
        return [Report(held.report), *drop]

    def given_up(self, subtask: str, error: DeadheatError) -> list[Effect]:
        """Its operands cannot be fetched or its result not be delivered, at whatever stage."""
        held = self._held.get(subtask)
        if held is None:
            return []
        was_running = held.phase is Phase.RUNNING
        effects = self.failed(subtask, error.code, error.message, row_done=held.row_kept)
        return [*effects, StopRun(subtask)] if was_running else effects

    def executor_died(self, reason: str, device: str | None = None) -> list[Effect]:
        """Whatever ran in it is gone; rows that it had reported are good. It is that of `device`,
        or the only one."""
        effects: list[Effect] = []
        for subtask, held in list(self._held.items()):
            if held.phase is Phase.RUNNING and device in (None, held.assign.device):
                message = f"the executor died: {reason}"
                effects += self.failed(
                    subtask, "executor_died", message, row_done=held.row_kept, died=True
                )
                effects.append(Drop(subtask))
        return effects


def _progressed(progress: pb.SubtaskProgress) -> Report:
    told = pb.Progress(subtasks=[progress])  # A copy.
    return Report(pb.AgentServiceSessionRequest(progress=told))


def _resized(subtask: str, released: list[Rectangle]) -> Report:
    pieces = [wire.rectangle_to_wire(piece) for piece in released]
    resized = pb.Resized(subtask_id=subtask, released=pieces)
    return Report(pb.AgentServiceSessionRequest(resized=resized))
