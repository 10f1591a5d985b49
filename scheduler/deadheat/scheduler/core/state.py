"""What the core remembers: nodes, devices, jobs, sub-tasks."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from deadheat.runtime.programs import Descent, MatrixType, Operation, Program, Rectangle
from deadheat.scheduler.core.events import DeviceFacts, Failure, GpuFacts, HostFacts, JobPolicy
from deadheat.scheduler.core.machine import JobState, NodeState, SubtaskState
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.planner.forecast import Availability, AvailabilityState
from deadheat.scheduler.planner.history import SpeedHistory
from deadheat.scheduler.planner.plan import Placement, Plan
from deadheat.scheduler.planner.speed import SpeedModel

if TYPE_CHECKING:
    from deadheat.scheduler.core.steps import Steps

#: Samples kept for each device: a few half-lives at four a second.
SAMPLES_KEPT: Final = 32
#: Until a transfer was measured: 1 Gbit/s Ethernet.
UNKNOWN_BANDWIDTH_BYTES_PER_S: Final = 1.18e8
UNKNOWN_LATENCY_S: Final = 0.001
#: Sending an assignment and starting it.
LAUNCH_S: Final = 0.001
#: Weight of a new observation in running averages.
SMOOTHING: Final = 0.5
#: Panel ends remembered for each sub-task, and the time over which they tell its rate.
MARKS_KEPT: Final = 64
RATE_WINDOW_S: Final = 1.0


@dataclass(slots=True)
class Device:
    facts: DeviceFacts
    node: str
    history: SpeedHistory
    memory_free_bytes: int
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    seen: AvailabilityState = field(default_factory=AvailabilityState)
    #: Samples that were dropped or had to be clamped, by reason, and when that was last told.
    bad_samples: Counter[str] = field(default_factory=Counter)
    bad_told_s: dict[str, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float = UNKNOWN_BANDWIDTH_BYTES_PER_S
    #: Of its way to the store; 0 where it is not known.
    latency_s: float = 0.0
    active: dict[str, Subtask] = field(default_factory=dict)
    #: Ids of matrices that it has whole, as it last said.
    held: frozenset[str] = frozenset()
    #: Why it takes no work now; empty when it does.
    yields: str = ""
    #: Of a GPU, what its driver last said.
    gpu: GpuFacts | None = None
    #: How much less memory its machine has now than the device's own limit leaves free.
    memory_short_bytes: int = 0
    #: Why its figures are unknown; empty when they are known.
    unknown: str = ""
    #: Roll-up of samples since the last one was recorded.
    rolled_up: list[tuple[Sample, float]] = field(default_factory=list)
    #: When the history was recorded, and whether it has changed since.
    recorded_s: float = -math.inf
    is_unrecorded: bool = False
    #: Why it has no speeds, if its agent says.
    problem: str = ""

    @property
    def model(self) -> SpeedModel:
        return self.history.model

    @property
    def bias(self) -> float:
        return self.history.bias

    def availability(self, now: float, horizon_s: float = 0.0) -> Availability:
        """What to expect of it from now until a horizon; constant time."""
        return self.seen.at(now, horizon_s)

    def ready_s(self, now: float, *, rank: float = math.inf, without_job: str = "") -> float:
        """Seconds until it has done what goes before work of this rank (but for one job's part)."""
        threads = self.facts.threads
        return sum(
            subtask.remaining_s(threads, now)
            for subtask in self.active.values()
            if subtask.rank <= rank and subtask.job != without_job
        )

    @property
    def assigned_bytes(self) -> int:
        """Memory that what it was given needs until it has said that it is done: unlike a sample,
        this is true at every moment. What was taken from a sub-task is still counted, since the
        device keeps its blocks whole."""
        return sum(subtask.memory_bytes for subtask in self.active.values())

    def learn_bandwidth(self, size_bytes: int, seconds: float) -> None:
        if size_bytes >= 1 << 20 and seconds > 0:
            rate = size_bytes / seconds
            self.bandwidth_bytes_per_s += SMOOTHING * (rate - self.bandwidth_bytes_per_s)


@dataclass(slots=True)
class Node:
    name: str
    instance: str
    host: str
    cpus: frozenset[int]
    shares_cpus: bool
    shares_memory: bool
    version: str
    state: NodeState
    heard_s: float
    is_connected: bool
    #: When it is given up if it is not heard of; sooner after a broken connection.
    lost_at_s: float
    drain_reason: str = ""
    #: Where it serves blocks to other agents; empty: nowhere.
    peer_address: str = ""
    devices: dict[str, Device] = field(default_factory=dict)
    #: Of its machine, what its agent last said.
    machine: HostFacts | None = None

    @property
    def is_usable(self) -> bool:
        return self.state is NodeState.UP and self.is_connected

    def active(self) -> list[Subtask]:
        return [subtask for device in self.devices.values() for subtask in device.active.values()]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a sub-task was when one of its panels ended."""

    at_s: float
    area: int
    wall_s: float


@dataclass(slots=True)
class Subtask:
    """A part of one operation on one device. Predictions are moments, not durations.

    It is assigned as one rectangle. What it has after giving some away are its `pieces`: whole
    rows, and perhaps the left part of one more band of rows.
    """

    id: str
    job: str
    operation: int
    pieces: tuple[Rectangle, ...]
    node: str
    device: str
    attempt: int
    deaths: int
    plan: int
    placement: Placement
    planned_at_s: float
    #: What its operands and its part of the result need where they are streamed to.
    memory_bytes: int
    #: Smaller runs first on a device.
    rank: float = 0.0
    state: SubtaskState = SubtaskState.ASSIGNED
    row_done: int = 0
    area_done: int = 0
    started_s: float | None = None
    finished_s: float | None = None
    expected_finish_s: float = 0.0
    #: It did not answer when it was asked to give something up, and has not reported since.
    is_unresponsive: bool = False
    #: How far it was when it had nothing to give up; until it is further it is not asked again.
    firm_at: int = -1
    marks: deque[Mark] = field(default_factory=lambda: deque(maxlen=MARKS_KEPT))
    cpu_s: float = 0.0
    flops: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def rectangle(self) -> Rectangle:
        """What it was assigned."""
        return self.placement.rectangle

    @property
    def area(self) -> int:
        return sum(piece.area for piece in self.pieces)

    @property
    def left_area(self) -> int:
        return max(0, self.area - self.area_done)

    @property
    def predicted_start_s(self) -> float:
        return self.planned_at_s + self.placement.predicted_start_s

    @property
    def predicted_finish_s(self) -> float:
        return self.planned_at_s + self.placement.predicted_finish_s

    def rate(self, threads: int, now: float) -> float | None:
        """Elements a second, from the panels of about the last second; None before there are any.

        A device that has ended no panel for longer than a panel takes is slower than it was.
        """
        if len(self.marks) < 2:
            return None
        new, old = self.marks[-1], self.marks[0]
        for mark in self.marks:
            if new.at_s - mark.at_s < RATE_WINDOW_S:
                break
            old = mark
        area, wall_s = new.area - old.area, new.wall_s - old.wall_s
        if area <= 0 or wall_s <= 0:
            return None
        rate = area / wall_s * threads
        panel = self.marks[-1].area - self.marks[-2].area
        silent_s = now - new.at_s
        return min(rate, panel / silent_s) if silent_s > 0 and panel else rate

    @property
    def planned_s(self) -> float:
        """The seconds that its plan gave to what it still has of its rectangle."""
        planned_s = self.placement.predicted_finish_s - self.placement.predicted_start_s
        return planned_s * self.area / max(1, self.placement.rectangle.area)

    def remaining_s(self, threads: int, now: float) -> float:
        """Seconds of its device that it still needs."""
        if rate := self.rate(threads, now):
            since_s = now - self.marks[-1].at_s
            return max(0.0, self.left_area / rate - since_s)
        if self.started_s is not None:
            return max(0.0, self.started_s + self.planned_s - now)
        return self.planned_s

    def update_expectation(self, threads: int, now: float) -> None:
        if rate := self.rate(threads, now):
            last_s = self.marks[-1].at_s
            self.expected_finish_s = max(now, last_s + self.left_area / rate)
        elif self.started_s is not None:
            # It has begun when it has begun, not when the plan said.
            self.expected_finish_s = max(now, self.started_s + self.planned_s)


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of a result that is assigned to nobody."""

    rectangle: Rectangle
    attempt: int = 1
    deaths: int = 0


@dataclass(slots=True)
class Step:
    """One operation of a job on its way."""

    index: int
    operation: Operation
    type: MatrixType
    #: Where the result lies in the store; empty for one that travels inline.
    result_id: str
    gaps: list[Gap]
    active: int = 0
    #: All sub-tasks that were ever assigned a part of it.
    parts: list[Subtask] = field(default_factory=list)
    #: Its room in the store was asked for.
    is_made: bool = False
    is_sealing: bool = False
    is_done: bool = False
    #: How often the store has lost its result.
    losses: int = 0
    #: It was made and used, and is not there any more.
    is_dropped: bool = False
    inline: bytearray | None = None

    @property
    def is_complete(self) -> bool:
        return not self.gaps and not self.active


@dataclass(slots=True)
class Job:
    id: str
    request_id: str
    user: str
    kind: str
    program: Program
    policy: JobPolicy
    #: Order of arrival.
    serial: int
    submitted_s: float
    steps: Steps
    #: The model whose calls it computes: nothing of it is kept but its record.
    model: str = ""
    #: Whose sub-tasks go first on a device (see queueing.py).
    rank: float = 0.0
    #: About how long it takes if it has the pool for itself: the horizon of forecasts for it.
    cost_s: float = 0.0
    #: It goes before all others of its priority, since it would miss its time limit otherwise.
    is_urgent: bool = False
    #: Operations that are meant for some devices only.
    groups: Mapping[int, frozenset[str]] = field(default_factory=dict)
    #: Its operations may be joined to segments. Room for its results is made when that is decided,
    #: since most of them are then made nowhere.
    joins_first: bool = False
    #: Results of operations that were decided on already, and are not joined.
    apart: frozenset[str] = frozenset()
    state: JobState = JobState.QUEUED
    note: str = ""
    failure: Failure | None = None
    started_s: float | None = None
    finished_s: float | None = None
    #: The last sub-task's finish; what follows (sealing) is collection.
    computed_s: float | None = None
    #: Results for which the store was asked to make room and has not said that it did, by their ids
    #: there. Nobody who would write them is told to before.
    rooms_awaited: set[str] = field(default_factory=set)
    planning_ticket: int = 0
    #: How many sub-tasks had ended when the plan at hand was asked for (see `World.released`).
    released_before: int = 0
    is_planning: bool = False
    #: The store was asked which of its matrices it has.
    is_looking: bool = False
    pending_plan: Plan | None = None
    pending_since_s: float = 0.0
    plans: int = 0
    #: What `explain` tells: one entry for each plan.
    plan_texts: list[str] = field(default_factory=list)
    plan_documents: list[Mapping[str, object]] = field(default_factory=list)
    planning_s: float = 0.0
    #: What the next plan is made for.
    cause: str = "the first plan"
    #: The earliest expected finish of its sub-tasks, or an earlier moment.
    next_dry_s: float = math.inf
    #: Re-balances so far; not before `rebalance_after_s`; sub-tasks asked to give something up.
    resplits: int = 0
    #: Of the re-balance under way nothing has been given up yet.
    is_first_release: bool = False
    rebalance_after_s: float = 0.0
    rebalance_check_s: float = math.inf
    releasing: dict[str, float] = field(default_factory=dict)
    pool_flops: float = 0.0
    predicted_makespan_s: float | None = None
    #: Of all operations together, as it was estimated before the first plan.
    estimated_s: float | None = None
    bytes_lower_bound: int = 0
    subtasks: dict[str, Subtask] = field(default_factory=dict)
    #: Those of them that are assigned or run.
    active: dict[str, Subtask] = field(default_factory=dict)
    #: Nodes to which blocks of a matrix were given lately (see sharing.py).
    receivers: dict[str, deque[tuple[str, Rectangle]]] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of the flops that is done, 0 to 1."""
        if self.state is JobState.DONE:
            return 1.0
        total = self.program.flops
        done = self.steps.done_flops + sum(
            self.flops_of(step.index, min(subtask.area_done, subtask.area))
            for step in self.steps.live
            for subtask in step.parts
            if subtask.state in (SubtaskState.RUNNING, SubtaskState.DONE)
        )
        return min(1.0, done / total) if total else 0.0

    @property
    def checkpoint(self) -> Step | None:
        """The newest state of a training that is complete."""
        for index in range(self.steps.reached - 1, -1, -1):
            step = self.steps[index]
            if isinstance(step.operation.kind, Descent) and step.is_done and not step.is_dropped:
                return step
        return None

    def note_done(self, step: Step) -> list[Step]:
        """A step's result is there; returns the steps that were waiting for nothing else."""
        return self.steps.note_done(step, self.flops_of(step.index, step.type.whole().area))

    def note_lost(self, step: Step) -> None:
        """A step's result has to be made again, or made on."""
        self.steps.note_lost(step, self.flops_of(step.index, step.type.whole().area))

    def flops_of(self, operation: int, area: int) -> float:
        """The work in so many elements of an operation's result."""
        shape = self.program.shape_of(self.steps[operation].operation)
        whole = shape.rows * shape.columns
        return shape.flops * area / whole if whole else 0.0

    def expected_finish_s(self) -> float | None:
        return max((one.expected_finish_s for one in self.active.values()), default=None)
