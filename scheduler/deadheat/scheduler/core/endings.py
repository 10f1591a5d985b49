"""How jobs and sub-tasks end: done, failed, cancelled, abandoned by their device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from deadheat.runtime.errors import JobFailed
from deadheat.runtime.programs import UNSENT, Program, Rectangle
from deadheat.scheduler.core import events, rebalance, report, subtasks
from deadheat.scheduler.core.effects import (
    Change,
    EventRow,
    JobChange,
    NotifyJob,
    ReleaseJob,
    ResultBytes,
    SendCancel,
)
from deadheat.scheduler.core.machine import (
    JOB,
    SUBTASK,
    JobEvent,
    JobState,
    SubtaskEvent,
    SubtaskState,
)
from deadheat.scheduler.core.state import Job, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.wholes import is_whole

#: A piece of work that took so many executors or nodes down with it takes no more.
MAX_DEATHS: Final = 3


def finish(world: World, job: Job) -> None:
    if job.state is JobState.QUEUED:  # Nothing to compute: an empty result.
        job.started_s = world.now
        job.state = JOB.next(job.state, JobEvent.START)
    job.state = JOB.next(job.state, JobEvent.FINISH)
    job.finished_s = world.now
    # Who called a model is there, or will call again: its rows are not kept.
    kept = [] if job.model else job.steps
    results: list[Change] = [
        ResultBytes(job.id, step.operation.result, bytes(step.inline))
        for step in kept
        if step.inline is not None and step.operation.result in job.program.results
    ]
    unwanted = [
        step.result_id
        for step in job.steps
        if step.result_id
        and not step.is_dropped
        and step.operation.result not in job.program.results
    ]
    _end(world, job, results, unwanted)


def fail(world: World, job: Job, failure: events.Failure) -> None:
    """Ends a job that cannot be completed, and everything that still runs for it."""
    if job.state.is_final:
        return
    job.state = JOB.next(job.state, JobEvent.FAIL)
    stop(world, job, failure)


def stop(world: World, job: Job, failure: events.Failure) -> None:
    job.failure = failure
    job.finished_s = world.now
    changes: list[Change] = []
    cancelled: dict[str, list[str]] = {}
    for subtask in list(job.subtasks.values()):
        if subtask.state.is_active:
            subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.CANCEL)
            cancelled.setdefault(subtask.node, []).append(subtask.id)
            changes += subtasks.changes(job, subtask)
            subtasks.forget(world, subtask)
    # The last good state of a training stays, like a result.
    kept = job.checkpoint
    unwanted = [s.result_id for s in job.steps if s.is_made and not s.is_dropped and s is not kept]
    _end(world, job, changes, unwanted)
    for node, ids in cancelled.items():
        world.emit(SendCancel(node, ids))


def _end(world: World, job: Job, changes: Sequence[Change], give_up: Sequence[str]) -> None:
    values = report.final_values(job)
    if any(operand.inline is not None for operand in job.program.operands):
        job.program = _without_bytes(job.program)
        if not job.model:  # Of those no bytes are on record.
            values["program"] = job.program
    world.commit(
        *changes,
        JobChange(job.id, values),
        EventRow(world.now, f"job_{job.state.value}", job=job.id),
    )
    world.emit(NotifyJob(job.id), ReleaseJob(job.id, give_up))
    world.remember_ended(job)
    for other in world.open.values():  # Devices are free that were not.
        if other.state is JobState.RUNNING:
            rebalance.look_anew(world, other)


def _without_bytes(program: Program) -> Program:
    """The program without what travelled inside: hundreds of ended jobs are remembered, and a
    million are on record."""
    operands = tuple(
        operand if operand.inline is None else replace(operand, inline=None, matrix_id=UNSENT)
        for operand in program.operands
    )
    return Program(operands, program.operations, program.results)


def abandon(world: World, subtask: Subtask, why: str, *, died: bool, failed: bool = False) -> None:
    """A sub-task whose device is lost or gave up: rows that are delivered stay, the rest is open.

    After MAX_DEATHS of them the job fails: the work itself must be what kills.
    """
    job = world.jobs[subtask.job]
    was_running = subtask.state is SubtaskState.RUNNING
    done = subtask.row_done
    delivered = [
        piece.with_rows(piece.row_start, min(piece.row_stop, done))
        for piece in subtask.pieces
        if piece.row_start < done
    ]
    step = job.steps[subtask.operation]
    may_keep = step.inline is None and not is_whole(step.operation)
    if step.is_done:
        # It had ended, but the scheduler before us died before it had recorded that. When, is gone
        # with the agent.
        rest: list[Rectangle] = []
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.FINISH)
        subtask.area_done = subtask.area
        died = failed = False
    elif delivered and may_keep:
        rest = subtasks.keep_only(subtask, delivered)
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.FINISH)
        subtask.area_done = subtask.area
        subtask.finished_s = subtask.marks[-1].at_s if subtask.marks else world.now
        job.computed_s = max(job.computed_s or 0.0, subtask.finished_s)
    else:
        rest = list(subtask.pieces)
        ending = SubtaskEvent.FAIL if failed else SubtaskEvent.SUPERSEDE
        subtask.state = SUBTASK.next(subtask.state, ending)
    subtasks.forget(world, subtask)
    job.releasing.pop(subtask.id, None)
    deaths = subtask.deaths + (1 if died and (was_running or failed) else 0)
    world.commit(*subtasks.changes(job, subtask))
    world.emit(NotifyJob(job.id))
    if deaths >= MAX_DEATHS:
        message = f"{rest[0]} failed on {deaths} devices in turn; the last: {why}"
        fail(world, job, events.Failure(JobFailed.code, message))
        return
    if rest:
        job.resplits += 1
        job.cause = f"{subtask.device} has given up: {why}"
        subtasks.reopen(world, subtask, rest, deaths)
