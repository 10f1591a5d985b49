"""Sub-tasks: assigned, watched, finished, shrunk, lost. Rows that nobody has become gaps again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from deadheat.runtime.programs import (
    Rectangle,
    merged,
    needed_blocks,
    needed_bytes,
    uncovered,
)
from deadheat.scheduler.core import shares, sharing
from deadheat.scheduler.core.effects import (
    Change,
    OperandSource,
    PlacementChange,
    PlacementPiece,
    PlacementRow,
    SendAssign,
)
from deadheat.scheduler.core.state import Gap, Job, Step, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.plan import Placement, Plan

#: Progress of a sub-task is told at most so often; and of all together at most so often a second,
#: so that a large pool does not drown the scheduler.
PROGRESS_S: Final = 0.1
PROGRESS_PER_S: Final = 2000.0


def create(world: World, job: Job, plan: Plan, planned_at_s: float) -> list[Subtask]:
    """Fills gaps with the plan's placements."""
    created: list[Subtask] = []
    filled: dict[int, set[Rectangle]] = {}
    for made in plan.steps:
        filled.setdefault(made.operation, set()).add(made.rectangle)
    open_: dict[tuple[int, Rectangle], Gap] = {}
    for number, rectangles in filled.items():
        step = job.steps[number]
        open_ |= {(number, gap.rectangle): gap for gap in step.gaps}
        step.gaps = [gap for gap in step.gaps if gap.rectangle not in rectangles]
    for made in plan.steps:
        step = job.steps[made.operation]
        gap = open_[made.operation, made.rectangle]
        step.gaps += [Gap(rest, gap.attempt, gap.deaths) for rest in made.left]
        created += [
            _create_one(world, job, step, gap, placement, planned_at_s)
            for placement in made.placements
        ]
    return created


def _create_one(
    world: World, job: Job, step: Step, gap: Gap, placement: Placement, planned_at_s: float
) -> Subtask:
    device = world.devices[placement.device]
    subtask = Subtask(
        id=f"{job.id}-{len(job.subtasks) + 1}",
        job=job.id,
        operation=placement.operation,
        pieces=(placement.rectangle,),
        node=device.node,
        device=placement.device,
        attempt=gap.attempt,
        deaths=gap.deaths,
        plan=job.plans,
        placement=placement,
        planned_at_s=planned_at_s,
        memory_bytes=needed_bytes(step.operation, job.program.types, placement.rectangle),
        rank=job.rank,
        row_done=placement.rectangle.row_start,
        expected_finish_s=planned_at_s + placement.predicted_finish_s,
    )
    for other in device.active.values():
        if other.rank > subtask.rank:  # It goes first: whoever waits or runs there ends later.
            other.expected_finish_s += subtask.planned_s
    job.subtasks[subtask.id] = job.active[subtask.id] = subtask
    step.parts.append(subtask)
    world.subtasks[subtask.id] = subtask
    device.active[subtask.id] = subtask
    step.active += 1
    return subtask


def assignment(world: World, job: Job, subtask: Subtask) -> SendAssign:
    step = job.steps[subtask.operation]
    types = job.program.types
    blocks = needed_blocks(step.operation, types, subtask.rectangle)
    placement = subtask.placement
    return SendAssign(
        node=subtask.node,
        subtask=subtask.id,
        job=job.id,
        attempt=subtask.attempt,
        device=subtask.device,
        operation=step.operation,
        operands=[_source(world, job, subtask, name, block) for name, block in blocks],
        result_type=step.type,
        rectangle=subtask.rectangle,
        result_id=step.result_id,
        rank=subtask.rank,
        predicted_s=placement.predicted_finish_s - placement.predicted_start_s,
        progress_s=max(PROGRESS_S, len(world.devices) / PROGRESS_PER_S),
        share=shares.share_of(world, job, subtask),
    )


def _source(world: World, job: Job, subtask: Subtask, name: str, block: Rectangle) -> OperandSource:
    if operand := job.program.sources.get(name):
        matrix_id, inline = operand.matrix_id, operand.inline
    else:
        step = job.steps.made_by[name]
        matrix_id = step.result_id
        inline = bytes(step.inline) if step.inline is not None else None
    peers: tuple[str, ...] = ()
    if inline is None:
        peers = sharing.peers(world, job, world.nodes[subtask.node], matrix_id, block)
    return OperandSource(name, job.program.types[name], block, matrix_id, inline, peers)


def row(job: Job, subtask: Subtask, number: int = 0) -> PlacementRow:
    """The record of a sub-task's assignment, for one of its pieces."""
    assert job.started_s is not None
    placement = subtask.placement
    return PlacementRow(
        id=subtask.id + "+" * number,
        job=job.id,
        operation=subtask.operation,
        operation_name=job.steps[subtask.operation].operation.result,
        plan=subtask.plan,
        rectangle=subtask.pieces[number],
        node=subtask.node,
        device=subtask.device,
        attempt=subtask.attempt,
        deaths=subtask.deaths,
        availability=placement.availability,
        speed_flops=placement.speed_flops,
        predicted_start_s=subtask.predicted_start_s - job.started_s,
        predicted_finish_s=subtask.predicted_finish_s - job.started_s,
        predicted_bytes=placement.predicted_bytes_in + placement.predicted_bytes_out,
    )


def changes(job: Job, subtask: Subtask) -> list[Change]:
    """What a sub-task has become, for the database."""
    found: list[Change] = []
    for number, piece in enumerate(subtask.pieces):
        values = _values(job, subtask, piece)
        if number:
            found.append(PlacementPiece(row(job, subtask, number), values))
        else:
            found.append(PlacementChange(subtask.id, values))
    return found


def _values(job: Job, subtask: Subtask, piece: Rectangle) -> dict[str, object]:
    start = job.started_s or 0.0
    is_first = piece == subtask.pieces[0]
    return {
        "state": subtask.state.value,
        "row_start": piece.row_start,
        "row_stop": piece.row_stop,
        "column_start": piece.column_start,
        "column_stop": piece.column_stop,
        "start_s": None if subtask.started_s is None else subtask.started_s - start,
        "finish_s": None if subtask.finished_s is None else subtask.finished_s - start,
        "flops": job.flops_of(subtask.operation, piece.area),
        # What cannot be told apart between pieces is recorded with the first.
        "cpu_s": subtask.cpu_s if is_first else 0.0,
        "bytes_in": subtask.bytes_in if is_first else 0,
        "bytes_out": subtask.bytes_out if is_first else 0,
    }


def keep_only(subtask: Subtask, pieces: Iterable[Rectangle]) -> list[Rectangle]:
    """Shrinks a sub-task to some parts of what it has; returns the rest."""
    kept = merged(pieces)
    rest = [left for piece in subtask.pieces for left in uncovered(piece, kept)]
    subtask.pieces = kept
    return rest


def forget(world: World, subtask: Subtask) -> None:
    """It is not active any more: nobody waits for it, and its memory is free."""
    world.subtasks.pop(subtask.id, None)
    world.released += 1
    job = world.jobs[subtask.job]
    job.active.pop(subtask.id, None)
    job.steps[subtask.operation].active -= 1
    if device := world.devices.get(subtask.device):
        device.active.pop(subtask.id, None)


def reopen(world: World, subtask: Subtask, open_: Iterable[Rectangle], deaths: int) -> None:
    """Parts of a sub-task that somebody else has to make now."""
    step = world.jobs[subtask.job].steps[subtask.operation]
    step.gaps += [Gap(piece, subtask.attempt + 1, deaths) for piece in merged(open_)]
