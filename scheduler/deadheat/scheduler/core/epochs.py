"""Epochs of training: worked by all devices that share one, or anew; and recorded once.

Rules of this file: no part of such an epoch counts before all have ended well. When one is lost,
fails, or is given back, the others are cancelled, what was done is worth nothing, and the epoch is
open again as a whole, from the state before.

*One commit an epoch.* An end is held in memory until all have ended, the state is sealed, and the
next epoch is planned; then the ends and the next assignments are one transaction. Until then no
agent is told that its end is settled, so that all of them say it again to the next scheduler if
this one dies. That a state is complete, the store knows: its seal is durable by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from deadheat.scheduler.core import learning, subtasks
from deadheat.scheduler.core.effects import NotifyJob, SendCancel, SendSettled
from deadheat.scheduler.core.machine import SUBTASK, SubtaskEvent, SubtaskState
from deadheat.scheduler.core.state import Gap, Job, Step, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.wholes import is_whole


def keep_whole(world: World, job: Job) -> None:
    """Opens every epoch again of which a part has no device any more."""
    for step in job.steps.live:
        if not step.gaps or not is_whole(step.operation):
            continue
        rest = [one for one in step.parts if one.state.is_active or one.state is SubtaskState.DONE]
        if rest:
            _open_again(world, job, step, rest)


def _open_again(world: World, job: Job, step: Step, rest: Sequence[Subtask]) -> None:
    cancelled: dict[str, list[str]] = {}
    for subtask in rest:
        if subtask.state.is_active:
            cancelled.setdefault(subtask.node, []).append(subtask.id)
            subtasks.forget(world, subtask)
            job.releasing.pop(subtask.id, None)
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.SUPERSEDE)
        if subtask.id not in world.unrecorded:
            world.commit(*subtasks.changes(job, subtask))
    step.gaps = [
        Gap(
            step.type.whole(),
            max(gap.attempt for gap in step.gaps),
            max(gap.deaths for gap in step.gaps),
        )
    ]
    for node, ids in cancelled.items():
        world.emit(SendCancel(node, ids))
    world.emit(NotifyJob(job.id))


def note_end(world: World, job: Job, subtask: Subtask) -> None:
    """A sub-task has ended well: that is recorded at once, or with the others of its epoch."""
    if is_whole(job.steps[subtask.operation].operation):
        world.unrecorded[subtask.id] = (job, subtask)
    else:
        _record(world, job, subtask)


def record_ends(world: World) -> None:
    """Records the ends for which nothing is under way that they could be recorded with."""
    for job, subtask in list(world.unrecorded.values()):
        if not _waits(world, job, subtask):
            _record(world, job, subtask)


def _waits(world: World, job: Job, subtask: Subtask) -> bool:
    """Whether other members, the store or the planner are about to end what it is recorded with."""
    if subtask.state is not SubtaskState.DONE or job.state.is_final:
        return False
    is_planned_next = (
        job.is_planning or job.pending_plan is not None or job.id in world.awaiting_plan
    )
    return is_planned_next or not job.steps[subtask.operation].is_done


def _record(world: World, job: Job, subtask: Subtask) -> None:
    world.unrecorded.pop(subtask.id, None)
    world.commit(*subtasks.changes(job, subtask))
    if device := world.devices.get(subtask.device):
        learning.record_if_due(world, device)
    world.emit(SendSettled(subtask.node, [subtask.id]))
