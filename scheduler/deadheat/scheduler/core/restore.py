"""After a restart: the world as the database and the store remember it.

Nodes come back as silent ones: those that register again in time are adopted with what they still
hold, the others are lost like any other node. A state of a training that is sealed is complete,
also where its sub-tasks count as active: their ends were not recorded (see epochs.py), and their
agents tell of them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from deadheat.runtime.programs import Rectangle, needed_bytes, uncovered
from deadheat.scheduler.core import jobs, planning, subtasks
from deadheat.scheduler.core.effects import Effect, JobRow, PlacementRow
from deadheat.scheduler.core.events import DeviceFacts
from deadheat.scheduler.core.lineage import unfinished
from deadheat.scheduler.core.machine import JobState, NodeState, SubtaskState
from deadheat.scheduler.core.nodes import LOST_AFTER_S
from deadheat.scheduler.core.state import Device, Gap, Job, Node, Step, Subtask
from deadheat.scheduler.core.steps import Steps
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.history import SpeedHistory
from deadheat.scheduler.planner.plan import Placement
from deadheat.scheduler.planner.wholes import is_whole


@dataclass(frozen=True, slots=True)
class RestoredNode:
    name: str
    instance: str
    host: str
    version: str
    state: NodeState
    devices: Sequence[DeviceFacts]
    histories: Mapping[str, SpeedHistory]


@dataclass(frozen=True, slots=True)
class RestoredPlacement:
    row: PlacementRow
    state: SubtaskState
    start_s: float | None
    finish_s: float | None
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class RestoredJob:
    row: JobRow
    state: JobState
    started_at_s: float | None
    values: Mapping[str, float | int | None]
    plans: Sequence[tuple[Mapping[str, object], str]]
    placements: Sequence[RestoredPlacement]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Which matrices the store still has."""

    present: AbstractSet[str] = field(default_factory=frozenset)
    sealed: AbstractSet[str] = field(default_factory=frozenset)


def restore(
    world: World,
    now: float,
    found_nodes: Sequence[RestoredNode],
    found_jobs: Sequence[RestoredJob],
    matrices: Matrices,
) -> list[Effect]:
    """Fills an empty world; returns what has to be done to go on."""
    world.now = now
    for node in found_nodes:
        _restore_node(world, node)
    for job in found_jobs:
        _restore_job(world, job, matrices)
    jobs.advance_all(world)
    return world.take_effects()


def _restore_node(world: World, found: RestoredNode) -> None:
    alive = found.state in (NodeState.UP, NodeState.SUSPECT)
    node = Node(
        name=found.name,
        instance=found.instance,
        host=found.host,
        cpus=frozenset(),
        shares_cpus=True,
        shares_memory=False,
        version=found.version,
        state=NodeState.SUSPECT if alive else found.state,
        heard_s=world.now,
        is_connected=False,
        lost_at_s=world.now + LOST_AFTER_S,
    )
    for facts in found.devices:
        history = found.histories[facts.id]
        node.devices[facts.id] = Device(facts, node.name, history, facts.memory_bytes)
    world.nodes[node.name] = node
    world.by_host.setdefault(node.host, set()).add(node.name)
    world.devices |= node.devices
    if node.state is NodeState.DRAINING:
        world.draining.add(node.name)
    world.wake_at(node.lost_at_s, "node", node.name)


def _restore_job(world: World, found: RestoredJob, matrices: Matrices) -> None:
    row, values = found.row, found.values
    world.serial += 1
    job = Job(
        id=row.id,
        request_id=row.request_id,
        user=row.user,
        kind=row.kind,
        program=row.program,
        policy=row.policy,
        serial=world.serial,
        submitted_s=row.submitted_s,
        steps=Steps.of(row.program, row.result_ids),
        state=found.state,
        started_s=found.started_at_s,
        plans=len(found.plans),
        plan_documents=[document for document, _ in found.plans],
        plan_texts=[text for _, text in found.plans],
        cause="the scheduler has started again",
        planning_s=float(values.get("planning_s") or 0.0),
        resplits=int(values.get("resplits") or 0),
        pool_flops=float(values.get("pool_flops") or 0.0),
        predicted_makespan_s=values.get("predicted_makespan_s"),
        bytes_lower_bound=int(values.get("bytes_lower_bound") or 0),
    )
    jobs.enter(world, job)
    # Of what is gone only that is made again which somebody still needs.
    settled = _settled(job, found, matrices)
    for step in job.steps:
        step.is_made = step.result_id in matrices.present
        # Such a state of a training was used and given up.
        is_gone = step.index in settled and not step.is_made
        step.is_dropped = is_gone and is_whole(step.operation)
    for placement in found.placements:
        _restore_placement(world, job, placement, matrices, placement.row.operation in settled)
    for step in job.steps:
        _restore_step(job, step, settled)
    if job.policy.timeout_s is not None:
        world.wake_at(job.submitted_s + job.policy.timeout_s, "job", job.id)
    planning.make_results(world, job)
    planning.drop_spent(world, job, job.steps)


def _settled(job: Job, found: RestoredJob, matrices: Matrices) -> AbstractSet[int]:
    """The operations that are complete, and those that were, are lost, and nobody needs."""
    present, complete = set(), set()
    done_of: dict[int, list[Rectangle]] = {}
    for one in found.placements:
        if one.state is SubtaskState.DONE:
            done_of.setdefault(one.row.operation, []).append(one.row.rectangle)
    for step in job.steps:
        name = step.operation.result
        done = done_of.get(step.index, [])
        if step.result_id in matrices.present:
            present.add(name)
            was_complete = step.result_id in matrices.sealed
        else:
            was_complete = bool(step.result_id) and not uncovered(step.type.whole(), done)
        if was_complete:
            complete.add(name)
    open_ = unfinished(job.program, present, complete)
    return {step.index for step in job.steps if step.operation.result not in open_}


def _restore_placement(
    world: World, job: Job, found: RestoredPlacement, matrices: Matrices, is_settled: bool
) -> None:
    row, step = found.row, job.steps[found.row.operation]
    state = found.state
    kept = is_settled or step.result_id in matrices.present
    if not kept and state in (SubtaskState.DONE, SubtaskState.ASSIGNED, SubtaskState.RUNNING):
        state = SubtaskState.SUPERSEDED  # Its rows are gone with the matrix they were in.
    started_s = job.started_s or 0.0
    subtask = Subtask(
        id=row.id,
        job=job.id,
        operation=row.operation,
        pieces=(row.rectangle,),
        node=row.node,
        device=row.device,
        attempt=row.attempt,
        deaths=row.deaths,
        plan=row.plan,
        placement=Placement(
            operation=row.operation,
            rectangle=row.rectangle,
            device=row.device,
            predicted_start_s=row.predicted_start_s,
            predicted_finish_s=row.predicted_finish_s,
            predicted_bytes_in=row.predicted_bytes,
            predicted_bytes_out=0,
            availability=row.availability,
            speed_flops=row.speed_flops,
        ),
        planned_at_s=started_s,
        memory_bytes=needed_bytes(step.operation, job.program.types, row.rectangle),
        rank=job.rank,
        state=state,
        row_done=row.rectangle.row_start,
        expected_finish_s=started_s + row.predicted_finish_s,
        bytes_in=found.bytes_in,
        bytes_out=found.bytes_out,
    )
    if owner := job.subtasks.get(row.id.removesuffix("+")):
        # The second piece of a sub-task that was restored just before.
        owner.pieces = (*owner.pieces, row.rectangle)
        owner.area_done = owner.area if owner.state is SubtaskState.DONE else 0
        return
    job.subtasks[subtask.id] = subtask
    step.parts.append(subtask)
    if state is SubtaskState.DONE:
        subtask.row_done, subtask.area_done = row.rectangle.row_stop, row.rectangle.area
        subtask.started_s = None if found.start_s is None else started_s + found.start_s
        subtask.finished_s = None if found.finish_s is None else started_s + found.finish_s
        job.computed_s = max(job.computed_s or 0.0, subtask.finished_s or 0.0)
    elif state.is_active:
        step.active += 1
        world.subtasks[subtask.id] = job.active[subtask.id] = subtask
        world.devices[row.device].active[subtask.id] = subtask
    if state is not found.state:
        world.commit(*subtasks.changes(job, subtask))


def _restore_step(job: Job, step: Step, settled: AbstractSet[int]) -> None:
    own = step.parts
    taken = [
        piece
        for subtask in own
        if subtask.state is SubtaskState.DONE or subtask.state.is_active
        for piece in subtask.pieces
    ]
    attempt = max((subtask.attempt for subtask in own), default=0) + 1
    step.gaps = [Gap(piece, attempt) for piece in uncovered(step.type.whole(), taken)]
    if step.result_id and step.index in settled:
        step.gaps = []
        job.note_done(step)
