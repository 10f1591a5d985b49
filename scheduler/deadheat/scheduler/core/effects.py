"""What the shell has to do. Everything in a `Commit` is durable before any later effect is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.programs import MatrixType, Operation, Program, Rectangle
from deadheat.scheduler.core.events import DeviceFacts, Failure, JobPolicy
from deadheat.scheduler.planner.history import SpeedHistory
from deadheat.scheduler.planner.inputs import PlanningInput

# Rows for the database


@dataclass(frozen=True, slots=True)
class NodeRow:
    name: str
    instance: str
    host: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class DeviceRow:
    node: str
    facts: DeviceFacts


@dataclass(frozen=True, slots=True)
class SpeedRows:
    """All that is known of a device's speed, in place of what was recorded before."""

    device: str
    history: SpeedHistory


@dataclass(frozen=True, slots=True)
class SampleRow:
    """Samples of one device, rolled up over a window that ended at `at_s`."""

    device: str
    at_s: float
    window_s: float
    busy: float
    own: float
    foreign: float
    availability: float
    availability_low: float


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    request_id: str
    user: str
    kind: str
    program: Program
    policy: JobPolicy
    submitted_s: float
    result_ids: Sequence[str]
    #: The model whose calls it computes; it is not begun again after a restart, and its rows are
    #: not kept. Empty: none.
    model: str = ""


@dataclass(frozen=True, slots=True)
class ProgramChange:
    """Other operations that come to the same: they replace those that were submitted."""

    id: str
    program: Program
    result_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class JobChange:
    """New values for columns of a job: seconds that end in `_at_s` are moments, and a program is
    what is left of it on record."""

    id: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ResultBytes:
    """A small result, kept with the job."""

    job: str
    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PlanRow:
    job: str
    serial: int
    made_at_s: float
    document: Mapping[str, object]
    text: str


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """A sub-task's assignment. Seconds count from the job's start."""

    id: str
    job: str
    operation: int
    operation_name: str
    plan: int
    rectangle: Rectangle
    node: str
    device: str
    attempt: int
    deaths: int
    availability: float
    speed_flops: float
    predicted_start_s: float
    predicted_finish_s: float
    predicted_bytes: int


@dataclass(frozen=True, slots=True)
class PlacementChange:
    id: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PlacementPiece:
    """The second rectangle of a sub-task that gave away a part of a band: a row of its own."""

    row: PlacementRow
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EventRow:
    at_s: float
    kind: str
    job: str = ""
    node: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version of a model. Documents are JSON, as they were given."""

    id: str
    name: str
    version: int
    request_id: str
    user: str
    created_s: float
    size_bytes: int
    layers: str
    parameters: Sequence[Mapping[str, object]]
    #: The forward pass, serialized; None where it cannot be served.
    program: bytes | None
    samples: str
    metadata: str
    data_hash: str
    code_version: str
    training: str


@dataclass(frozen=True, slots=True)
class ModelsDeleted:
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Prune:
    """What is older than it is kept: seconds before `now_s` (see records/retention.py)."""

    now_s: float


@dataclass(frozen=True, slots=True)
class PruneServed:
    """Jobs that computed calls of models, but for the newest."""


Change = (
    NodeRow
    | DeviceRow
    | SpeedRows
    | SampleRow
    | JobRow
    | ProgramChange
    | JobChange
    | ResultBytes
    | PlanRow
    | PlacementRow
    | PlacementChange
    | PlacementPiece
    | EventRow
    | ModelRow
    | ModelsDeleted
    | Prune
    | PruneServed
)


# Effects


@dataclass(frozen=True, slots=True)
class Commit:
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class MakePlan:
    job: str
    ticket: int
    given: PlanningInput


@dataclass(frozen=True, slots=True)
class MakeResults:
    """Reserve room in the store for the results of a job, held by it."""

    job: str
    matrices: Sequence[tuple[str, MatrixType]]

    @property
    def matrix_ids(self) -> list[str]:
        return [matrix_id for matrix_id, _ in self.matrices]


@dataclass(frozen=True, slots=True)
class SealResult:
    """All rows of an operation's result are there. Operands that are users' files are checked."""

    job: str
    operation: int
    matrix_id: str
    check_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class FindMatrices:
    """Something of a job was not found in the store: which of its matrices are there?"""

    job: str
    matrix_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ReleaseJob:
    """The job needs its matrices no more; `give_up` names results that nobody will want."""

    job: str
    give_up: Sequence[str]


@dataclass(frozen=True, slots=True)
class DropMatrices:
    """Nobody needs these any more, though their job goes on."""

    matrix_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class OperandSource:
    name: str
    type: MatrixType
    rectangle: Rectangle
    matrix_id: str = ""
    inline: bytes | None = field(default=None, repr=False)
    #: Addresses of agents that may have it (see sharing.py).
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """A sub-task's place among those that share an epoch (see the wire contract)."""

    exchange: str
    member: int
    #: Of all members' agents, in their order.
    addresses: tuple[str, ...]
    patience_s: float


@dataclass(frozen=True, slots=True)
class SendAssign:
    node: str
    subtask: str
    job: str
    attempt: int
    device: str
    operation: Operation
    operands: Sequence[OperandSource]
    result_type: MatrixType
    rectangle: Rectangle
    result_id: str
    rank: float
    predicted_s: float
    #: Progress is told at most so often, so that a large pool does not drown the scheduler.
    progress_s: float = 0.1
    share: Share | None = None


@dataclass(frozen=True, slots=True)
class SendCancel:
    node: str
    subtasks: Sequence[str]


@dataclass(frozen=True, slots=True)
class SendResize:
    node: str
    subtask: str
    keep_area: int


@dataclass(frozen=True, slots=True)
class SendSettled:
    node: str
    subtasks: Sequence[str]


@dataclass(frozen=True, slots=True)
class SendDrain:
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class SendNothingToDo:
    """No job is open."""

    node: str


@dataclass(frozen=True, slots=True)
class AcceptNode:
    node: str
    instance: str


@dataclass(frozen=True, slots=True)
class RefuseNode:
    node: str
    instance: str
    error: DeadheatError


@dataclass(frozen=True, slots=True)
class NotifyJob:
    """Something about the job is new to those who watch it."""

    job: str


@dataclass(frozen=True, slots=True)
class ReplyFailure:
    """The event itself was refused; nothing has changed."""

    failure: Failure


Effect = (
    Commit
    | MakePlan
    | MakeResults
    | SealResult
    | FindMatrices
    | DropMatrices
    | ReleaseJob
    | SendAssign
    | SendCancel
    | SendResize
    | SendSettled
    | SendDrain
    | SendNothingToDo
    | AcceptNode
    | RefuseNode
    | NotifyJob
    | ReplyFailure
)
