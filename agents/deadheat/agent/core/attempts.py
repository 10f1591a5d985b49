"""Sub-tasks that this agent holds, from assignment until the scheduler has committed their end.

Rules of this file: no I/O, no clock; each method takes what happened and returns what to do. What
was finished is kept until the scheduler says that it may be forgotten, so that a break of the
session, or a restart of the scheduler, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from deadheat.runtime import wire
from deadheat.runtime.programs import Rectangle, uncovered
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import types_pb2


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
    subtask: str


@dataclass(frozen=True, slots=True)
class ShrinkRun:
    subtask: str
    keep_area: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send these parts of the result to where they belong."""

    subtask: str
    pieces: tuple[Rectangle, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Blocks of this sub-task are not needed any more, as soon as nothing writes them."""

    subtask: str


@dataclass(frozen=True, slots=True)
class Report:
    message: pb.AgentServiceSessionRequest


Effect = Fetch | Run | StopRun | ShrinkRun | Deliver | Drop | Report


@dataclass(slots=True)
class _Held:
    assign: pb.Assign
    rectangle: Rectangle
    phase: Phase = Phase.FETCHING
    row_done: int = 0
    #: What was given back of the rectangle.
    released: list[Rectangle] = field(default_factory=list)
    #: What the executor said at its end, while the result is delivered.
    finished: pb.Finished | None = None
    #: The last word on it, repeated until it is settled.
    report: pb.AgentServiceSessionRequest | None = None

    @property
    def pieces(self) -> tuple[Rectangle, ...]:
        return tuple(uncovered(self.rectangle, self.released))


class Attempts:
    """All that the agent holds."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def unfinished(self) -> list[str]:
        return [id_ for id_, held in self._held.items() if held.phase is not Phase.SETTLING]

    def assign_of(self, subtask: str) -> pb.Assign | None:
        held = self._held.get(subtask)
        return held.assign if held else None

    # From the scheduler

    def assigned(self, assign: pb.Assign) -> list[Effect]:
        if assign.subtask_id in self._held:
            return []  # Sent again after a break; we have it.
        result = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        rectangle = wire.rectangle_from_wire(assign.rectangle, within=result, field="rectangle")
        held = _Held(assign, rectangle, row_done=rectangle.row_start)
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
        held.rectangle = whole.with_rows(whole.row_start, row)
        held.assign.rectangle.row_stop = row
        effects: list[Effect] = [_resized(subtask, [released])]
        if row == whole.row_start:
            del self._held[subtask]
            effects.append(Drop(subtask))
        return effects

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
            if held.report:
                effects.append(Report(held.report))
            elif held.phase is Phase.DELIVERING:
                effects.append(Deliver(subtask, held.pieces))
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
        return [Report(pb.AgentServiceSessionRequest(resized=resized))]

    def progressed(self, progress: pb.SubtaskProgress) -> list[Effect]:
        held = self._held.get(progress.subtask_id)
        if held is None or held.phase is not Phase.RUNNING:
            return []
        held.row_done = progress.row_done
        return [Report(pb.AgentServiceSessionRequest(progress=pb.Progress(subtasks=[progress])))]

    def computed(self, finished: pb.Finished, *, must_deliver: bool) -> list[Effect]:
        """All rows are computed. They count as finished when they are where they belong."""
        subtask = finished.progress.subtask_id
        held = self._held.get(subtask)
        if held is None:
            return []
        held.finished = finished
        if must_deliver:
            held.phase = Phase.DELIVERING
            return [Deliver(subtask, held.pieces)]
        return self.delivered(subtask, finished)

    def delivered(self, subtask: str, finished: pb.Finished) -> list[Effect]:
        held = self._held.get(subtask)
        if held is None:
            return [Drop(subtask)]
        held.phase = Phase.SETTLING
        held.report = pb.AgentServiceSessionRequest(finished=finished)
        return [Report(held.report), Drop(subtask)]

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

    def executor_died(self, reason: str) -> list[Effect]:
        """Whatever ran in it is gone; rows that it had reported are good."""
        effects: list[Effect] = []
        for subtask, held in list(self._held.items()):
            if held.phase is Phase.RUNNING:
                message = f"the executor died: {reason}"
                kept = held.row_done if held.assign.result_matrix_id else None
                effects += self.failed(subtask, "executor_died", message, row_done=kept, died=True)
                effects.append(Drop(subtask))
        return effects


def _resized(subtask: str, released: list[Rectangle]) -> Report:
    pieces = [wire.rectangle_to_wire(piece) for piece in released]
    resized = pb.Resized(subtask_id=subtask, released=pieces)
    return Report(pb.AgentServiceSessionRequest(resized=resized))
