"""Epochs that several devices share: they are worked by all of them, or anew.

Rules of this file: no part of such an epoch counts before all have ended well. When one is lost,
fails, or is given back, the others are cancelled, what was done is worth nothing, and the epoch is
open again as a whole, from the state before.
"""

from __future__ import annotations

from deadheat.scheduler.core import subtasks
from deadheat.scheduler.core.effects import NotifyJob, SendCancel
from deadheat.scheduler.core.machine import SUBTASK, SubtaskEvent, SubtaskState
from deadheat.scheduler.core.state import Gap, Job, Step
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.wholes import is_whole


def keep_whole(world: World, job: Job) -> None:
    """Opens every epoch again of which a part has no device any more."""
    for step in job.steps:
        if step.gaps and not step.is_done and is_whole(step.operation):
            _open_again(world, job, step)


def _open_again(world: World, job: Job, step: Step) -> None:
    rest = [
        subtask
        for subtask in job.subtasks.values()
        if subtask.operation == step.index
        and (subtask.state.is_active or subtask.state is SubtaskState.DONE)
    ]
    if not rest:
        return
    cancelled: dict[str, list[str]] = {}
    for subtask in rest:
        if subtask.state.is_active:
            cancelled.setdefault(subtask.node, []).append(subtask.id)
            subtasks.forget(world, subtask)
            job.releasing.pop(subtask.id, None)
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.SUPERSEDE)
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
