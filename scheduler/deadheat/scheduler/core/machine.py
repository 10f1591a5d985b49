"""State machines as tables: what is not in the table is illegal, raises, and changes nothing.

`docs/design/states.md` is generated from these tables (`python -m tools.draw_states`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from deadheat.runtime.errors import DeadheatError

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


class IllegalTransition(DeadheatError):
    """An event came in a state that does not allow it."""

    code = "illegal_transition"


@dataclass(frozen=True)
class Machine(Generic[State, Event]):
    """The legal transitions of one kind of thing."""

    name: str
    table: Mapping[tuple[State, Event], State]

    def next(self, state: State, event: Event) -> State:
        try:
            return self.table[state, event]
        except KeyError:
            raise IllegalTransition(
                f"{self.name}: event {event.value!r} is illegal in state {state.value!r}"
            ) from None

    def allows(self, state: State, event: Event) -> bool:
        return (state, event) in self.table


class NodeState(Enum):
    UP = "up"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    DRAINED = "drained"


class NodeEvent(Enum):
    REGISTERED = "registered"
    HEARD = "heard"
    SILENT = "silent"
    EXPIRED = "expired"
    LEFT = "left"
    DRAIN = "drain"
    EMPTIED = "emptied"
    RESUME = "resume"


_N, _NE = NodeState, NodeEvent
NODE: Machine[NodeState, NodeEvent] = Machine(
    "node",
    {
        (_N.UP, _NE.REGISTERED): _N.UP,
        (_N.SUSPECT, _NE.REGISTERED): _N.UP,
        (_N.LOST, _NE.REGISTERED): _N.UP,
        # An operator's drain outlives the agent's restart.
        (_N.DRAINING, _NE.REGISTERED): _N.DRAINING,
        (_N.DRAINED, _NE.REGISTERED): _N.DRAINED,
        (_N.UP, _NE.HEARD): _N.UP,
        (_N.SUSPECT, _NE.HEARD): _N.UP,
        (_N.DRAINING, _NE.HEARD): _N.DRAINING,
        (_N.DRAINED, _NE.HEARD): _N.DRAINED,
        (_N.UP, _NE.SILENT): _N.SUSPECT,
        (_N.UP, _NE.EXPIRED): _N.LOST,
        (_N.SUSPECT, _NE.EXPIRED): _N.LOST,
        (_N.DRAINING, _NE.EXPIRED): _N.DRAINED,
        (_N.DRAINED, _NE.EXPIRED): _N.DRAINED,
        (_N.UP, _NE.LEFT): _N.LOST,
        (_N.SUSPECT, _NE.LEFT): _N.LOST,
        (_N.DRAINING, _NE.LEFT): _N.DRAINED,
        (_N.DRAINED, _NE.LEFT): _N.DRAINED,
        (_N.UP, _NE.DRAIN): _N.DRAINING,
        (_N.SUSPECT, _NE.DRAIN): _N.DRAINING,
        (_N.LOST, _NE.DRAIN): _N.DRAINED,
        (_N.DRAINING, _NE.DRAIN): _N.DRAINING,
        (_N.DRAINED, _NE.DRAIN): _N.DRAINED,
        (_N.DRAINING, _NE.EMPTIED): _N.DRAINED,
        (_N.UP, _NE.RESUME): _N.UP,
        (_N.SUSPECT, _NE.RESUME): _N.SUSPECT,
        (_N.LOST, _NE.RESUME): _N.LOST,
        # Whether it is there will be seen: silence makes it suspect again.
        (_N.DRAINING, _NE.RESUME): _N.UP,
        (_N.DRAINED, _NE.RESUME): _N.UP,
    },
)


class JobState(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class JobEvent(Enum):
    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


_J, _JE = JobState, JobEvent
JOB: Machine[JobState, JobEvent] = Machine(
    "job",
    {
        (_J.QUEUED, _JE.START): _J.RUNNING,
        (_J.QUEUED, _JE.FAIL): _J.FAILED,
        (_J.QUEUED, _JE.CANCEL): _J.CANCELLED,
        (_J.RUNNING, _JE.FINISH): _J.DONE,
        (_J.RUNNING, _JE.FAIL): _J.FAILED,
        (_J.RUNNING, _JE.CANCEL): _J.CANCELLED,
        # Cancelling what has ended is not an error; it changes nothing.
        (_J.DONE, _JE.CANCEL): _J.DONE,
        (_J.FAILED, _JE.CANCEL): _J.FAILED,
        (_J.CANCELLED, _JE.CANCEL): _J.CANCELLED,
    },
)


class SubtaskState(Enum):
    ASSIGNED = "assigned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"

    @property
    def is_active(self) -> bool:
        return self in (SubtaskState.ASSIGNED, SubtaskState.RUNNING)


class SubtaskEvent(Enum):
    PROGRESS = "progress"
    FINISH = "finish"
    FAIL = "fail"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"


_S, _SE = SubtaskState, SubtaskEvent
SUBTASK: Machine[SubtaskState, SubtaskEvent] = Machine(
    "sub-task",
    {
        (_S.ASSIGNED, _SE.PROGRESS): _S.RUNNING,
        (_S.RUNNING, _SE.PROGRESS): _S.RUNNING,
        (_S.ASSIGNED, _SE.FINISH): _S.DONE,
        (_S.RUNNING, _SE.FINISH): _S.DONE,
        (_S.ASSIGNED, _SE.FAIL): _S.FAILED,
        (_S.RUNNING, _SE.FAIL): _S.FAILED,
        (_S.ASSIGNED, _SE.SUPERSEDE): _S.SUPERSEDED,
        (_S.RUNNING, _SE.SUPERSEDE): _S.SUPERSEDED,
        # What it has made was lost with the store.
        (_S.DONE, _SE.SUPERSEDE): _S.SUPERSEDED,
        (_S.ASSIGNED, _SE.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _SE.CANCEL): _S.CANCELLED,
    },
)
