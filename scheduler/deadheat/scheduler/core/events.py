"""What can happen to the scheduler. Times are the scheduler's monotonic seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from deadheat.runtime.programs import Program, Rectangle
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.speed import SpeedPoint


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class JobPolicy:
    cut: Cut = Cut.BALANCED
    timeout_s: float | None = None
    is_power_durable: bool = False
    priority: int = 0


#: So much of what an agent says of a device's trouble is kept.
MAX_PROBLEM: Final = 256


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    id: str
    kind: str
    model: str
    threads: int
    memory_bytes: int
    points: Sequence[SpeedPoint] = ()
    #: Why it takes no work now; empty when it does.
    yields: str = ""
    #: Of a GPU, or of a part of one, what its driver calls it; empty where that is not known.
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class HeldSubtask:
    """A sub-task that an agent still has after a break of the session."""

    id: str
    is_finished: bool


# From agents


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    node: str
    instance: str
    host: str
    cpus: frozenset[int]
    shares_cpus: bool
    shares_memory: bool
    version: str
    devices: Sequence[DeviceFacts]
    held: Sequence[HeldSubtask] = ()
    #: Of its way to the store, where it knows them; 0 where it does not.
    bandwidth_bytes_per_s: float = 0.0
    latency_s: float = 0.0
    #: Where it serves blocks to other agents; empty: nowhere.
    peer_address: str = ""
    #: It is told when there is nothing to do.
    is_once: bool = False


@dataclass(frozen=True, slots=True)
class DeviceAppeared:
    """A device that was not there when its node registered."""

    node: str
    facts: DeviceFacts


@dataclass(frozen=True, slots=True)
class DeviceYields:
    """A device gives way to its machine's owner, or, without a reason, takes work again."""

    node: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a GPU's driver says besides; None where it does not say it."""

    memory_busy: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    clock_hz: float | None = None
    clock_max_hz: float | None = None
    throttle: tuple[str, ...] = ()
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_lanes: int | None = None
    pcie_in_bytes_per_s: float | None = None
    pcie_out_bytes_per_s: float | None = None
    processes: int = 0
    memory_used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceSampled:
    device: str
    sample: Sample
    memory_free_bytes: int
    #: Ids of matrices that it has whole.
    held: Sequence[str] = ()
    gpu: GpuFacts | None = None
    #: How much less than its own limit leaves free the machine has now.
    memory_short_bytes: int = 0
    #: Why its figures are unknown; empty when they are known.
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A machine as its agent sees it: memory, pressure, disks, network. None: unknown."""

    load_1m: float = 0.0
    memory_total_bytes: int = 0
    memory_available_bytes: int = 0
    memory_own_bytes: int = 0
    disk_read_bytes_per_s: float = 0.0
    disk_write_bytes_per_s: float = 0.0
    network_in_bytes_per_s: float = 0.0
    network_out_bytes_per_s: float = 0.0
    pressure_cpu: float | None = None
    pressure_memory: float | None = None
    pressure_io: float | None = None
    memory_limit_bytes: int | None = None
    throttled: float | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    #: What ought to be there and is not; empty if all is.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NodeSampled:
    node: str
    devices: Sequence[DeviceSampled]
    #: Of its machine, if the agent said so this time.
    host: HostFacts | None = None


@dataclass(frozen=True, slots=True)
class SpeedMeasured:
    """What a device can do now; or, without points, why it does nothing."""

    node: str
    device: str
    points: Sequence[SpeedPoint]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SessionBroken:
    """The stream ended without a goodbye."""

    node: str
    instance: str


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """The agent said goodbye."""

    node: str
    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sub-task is: rows below `row_done` are in the result, `area_done` elements are
    computed, the newest panel ended `at_s`. Seconds of panels are summed over threads."""

    subtask: str
    row_done: int
    area_done: int
    started_s: float
    at_s: float
    cpu_s: float = 0.0
    wall_s: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class SubtasksProgressed:
    node: str
    progress: Sequence[Progress]


@dataclass(frozen=True, slots=True)
class SubtaskFinished:
    node: str
    progress: Progress
    finished_s: float
    bytes_in: int = 0
    bytes_out: int = 0
    transfer_s: float = 0.0
    inline: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class SubtaskFailed:
    node: str
    subtask: str
    failure: Failure
    executor_died: bool
    row_done: int


@dataclass(frozen=True, slots=True)
class SubtaskResized:
    """The agent will not touch these parts any more."""

    node: str
    subtask: str
    released: Sequence[Rectangle]


# From users and operators


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    job: str
    request_id: str
    user: str
    kind: str
    program: Program
    policy: JobPolicy
    #: Ids for results that are too large to travel inline, by operation; empty for inline ones.
    result_ids: Sequence[str]
    #: What an estimate of all operations came to before it was admitted; plans are made of those
    #: that can begin, and say nothing of the others.
    estimated_s: float | None = None
    #: The model whose calls it computes (see `effects.JobRow`).
    model: str = ""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    job: str


@dataclass(frozen=True, slots=True)
class DrainAsked:
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    node: str


# From the shell: what came of effects, and time


@dataclass(frozen=True, slots=True)
class PlanMade:
    job: str
    ticket: int
    outcome: Plan | Failure
    planning_s: float


@dataclass(frozen=True, slots=True)
class ResultsMade:
    """The store has room for these results of a job, or says why not."""

    job: str
    matrix_ids: Sequence[str]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ResultSealed:
    job: str
    operation: int
    failure: Failure | None = None
    #: The one that was to be sealed; it may have been lost, and be another one now.
    matrix_id: str = ""


@dataclass(frozen=True, slots=True)
class StoreRestarted:
    """The store has started anew, after it was killed."""


@dataclass(frozen=True, slots=True)
class MatricesFound:
    """What the store has of a job's matrices: all but those that are missing. It may not answer."""

    job: str
    missing: Sequence[str] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed; some deadline may be over."""


Event = (
    NodeRegistered
    | DeviceAppeared
    | DeviceYields
    | NodeSampled
    | SpeedMeasured
    | SessionBroken
    | NodeLeft
    | SubtasksProgressed
    | SubtaskFinished
    | SubtaskFailed
    | SubtaskResized
    | JobSubmitted
    | CancelAsked
    | DrainAsked
    | ResumeAsked
    | PlanMade
    | ResultsMade
    | ResultSealed
    | StoreRestarted
    | MatricesFound
    | Ticked
)
