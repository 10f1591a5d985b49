"""What agents report of their sub-tasks: progress, ends, failures, rows given back."""

from __future__ import annotations

from typing import Final

from deadheat.runtime.errors import Conflict, DataLost, InvalidInput, NotFound
from deadheat.runtime.programs import MatrixType, Rectangle, uncovered
from deadheat.scheduler.core import (
    endings,
    epochs,
    events,
    jobs,
    learning,
    lineage,
    nodes,
    rebalance,
    subtasks,
)
from deadheat.scheduler.core.effects import EventRow, NotifyJob, SendCancel, SendSettled
from deadheat.scheduler.core.machine import SUBTASK, SubtaskEvent
from deadheat.scheduler.core.state import Job, Mark, Step, Subtask
from deadheat.scheduler.core.world import World

#: Failures that another device would meet as well.
_FINAL_CODES: Final = frozenset({InvalidInput.code, Conflict.code, DataLost.code})


def _ours(world: World, node: str, subtask_id: str) -> Subtask | None:
    """The active sub-task, if it is this node's; a stale report gets None."""
    nodes.hear(world, node)
    subtask = world.subtasks.get(subtask_id)
    return subtask if subtask and subtask.node == node else None


def on_progress(world: World, event: events.SubtasksProgressed) -> None:
    stale = []
    touched: set[str] = set()
    for progress in event.progress:
        subtask = _ours(world, event.node, progress.subtask)
        if subtask is None:
            stale.append(progress.subtask)
            continue
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.PROGRESS)
        _note_progress(world, subtask, progress)
        rebalance.note(world, world.jobs[subtask.job], subtask)
        touched.add(subtask.job)
    if stale:
        world.emit(SendCancel(event.node, stale))
    for job in sorted(touched):
        rebalance.consider(world, world.jobs[job])
        world.emit(NotifyJob(job))


def _note_progress(world: World, subtask: Subtask, progress: events.Progress) -> None:
    if subtask.started_s is None:
        subtask.marks.append(Mark(progress.started_s, 0, 0.0))
    subtask.started_s = progress.started_s
    subtask.is_unresponsive = False
    subtask.row_done = max(subtask.row_done, min(progress.row_done, subtask.rectangle.row_stop))
    subtask.area_done = max(subtask.area_done, min(progress.area_done, subtask.area))
    subtask.cpu_s, subtask.flops = progress.cpu_s, progress.flops
    if subtask.marks and progress.area_done > subtask.marks[-1].area:
        subtask.marks.append(Mark(progress.at_s, progress.area_done, progress.wall_s))
    subtask.update_expectation(world.devices[subtask.device].facts.threads, world.now)


def on_finished(world: World, event: events.SubtaskFinished) -> None:
    subtask = _ours(world, event.node, event.progress.subtask)
    if subtask is None:
        # A repeated report, or a stale attempt: either way the agent may forget it, unless its end
        # is not recorded yet.
        if event.progress.subtask not in world.unrecorded:
            world.emit(SendSettled(event.node, [event.progress.subtask]))
        return
    job = world.jobs[subtask.job]
    step = job.steps[subtask.operation]
    state = SUBTASK.next(subtask.state, SubtaskEvent.FINISH)
    if step.inline is not None and not _is_inline_complete(step, subtask, event.inline):
        failure = events.Failure(DataLost.code, f"sub-task {subtask.id} sent too few bytes")
        endings.fail(world, job, failure)
        return
    subtask.state = state
    _note_progress(world, subtask, event.progress)
    subtask.row_done = subtask.pieces[-1].row_stop
    subtask.area_done = subtask.area
    subtask.finished_s = event.finished_s
    subtask.bytes_in, subtask.bytes_out = event.bytes_in, event.bytes_out
    if step.inline is not None:
        place_block(step.inline, step.type, subtask.rectangle, event.inline)
    learning.learn(world, job, subtask, event)
    job.computed_s = max(job.computed_s or 0.0, event.finished_s)
    subtasks.forget(world, subtask)
    epochs.note_end(world, job, subtask)
    world.emit(NotifyJob(job.id))
    _given_up(world, job, subtask)
    jobs.advance(world, job)
    rebalance.consider(world, job)


def _is_inline_complete(step: Step, subtask: Subtask, data: bytes) -> bool:
    return len(data) == subtask.area * step.type.element.itemsize


def place_block(buffer: bytearray, matrix: MatrixType, rectangle: Rectangle, data: bytes) -> None:
    """Copies a rectangle's rows to where they belong in a row-major matrix."""
    itemsize, width = matrix.element.itemsize, rectangle.columns * matrix.element.itemsize
    if rectangle.columns == matrix.columns:
        start = rectangle.row_start * matrix.row_bytes
        buffer[start : start + len(data)] = data
        return
    for index in range(rectangle.rows):
        row_start = (rectangle.row_start + index) * matrix.row_bytes
        start = row_start + rectangle.column_start * itemsize
        buffer[start : start + width] = data[index * width : (index + 1) * width]


def on_failed(world: World, event: events.SubtaskFailed) -> None:
    subtask = _ours(world, event.node, event.subtask)
    world.emit(SendSettled(event.node, [event.subtask]))
    if subtask is None:
        return
    subtask.row_done = max(subtask.row_done, min(event.row_done, subtask.rectangle.row_stop))
    world.jobs[subtask.job].releasing.pop(subtask.id, None)
    world.commit(
        EventRow(
            world.now,
            "subtask_failed",
            subtask.job,
            event.node,
            f"{subtask.id}: {event.failure.code}: {event.failure.message}",
        )
    )
    job = world.jobs[subtask.job]
    if event.failure.code in _FINAL_CODES:
        endings.fail(world, job, event.failure)
        return
    # Whether it died or only failed: three times is a property of the work, not of the device.
    endings.abandon(world, subtask, event.failure.message, died=True, failed=True)
    if event.failure.code == NotFound.code:
        lineage.suspect(world, job)
    jobs.advance(world, job)


def on_resized(world: World, event: events.SubtaskResized) -> None:
    subtask = _ours(world, event.node, event.subtask)
    if subtask is None:
        return
    job = world.jobs[subtask.job]
    subtask.is_unresponsive = False
    released = [piece for piece in event.released if piece.area]
    kept = [left for piece in subtask.pieces for left in uncovered(piece, released)]
    if kept and released:
        subtasks.reopen(world, subtask, subtasks.keep_only(subtask, kept), subtask.deaths)
        subtask.update_expectation(world.devices[subtask.device].facts.threads, world.now)
    elif released:
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.SUPERSEDE)
        subtasks.forget(world, subtask)
        subtasks.reopen(world, subtask, subtask.pieces, subtask.deaths)
    if released:
        job.resplits += int(job.is_first_release)
        job.is_first_release = False
        world.commit(*subtasks.changes(job, subtask))
    else:
        subtask.firm_at = subtask.area_done
    _given_up(world, job, subtask)
    jobs.advance(world, job)


def _given_up(world: World, job: Job, subtask: Subtask) -> None:
    """An answer that a re-balance waited for, or an end that makes it needless."""
    job.releasing.pop(subtask.id, None)
    rebalance.plan_next_check(world, job)
