"""Lineage: matrices of a job that are lost are made again from what is left, and only those that
somebody still needs.

What operations make lies in the store, so that no agent's end takes it along. The store can lose
it: it was killed, and a file of it is gone, or cut short. Whoever asks for it then hears that there
is no such matrix, and the scheduler asks the store what it still has. Meanwhile nothing of the job
is assigned.

Rules of this file: a lost matrix is made again whole and under another id, so that no device takes
what it still has of the old one for a part of the new one. One that nobody will read stays lost. A
user's operand cannot be made again: the job fails. So it does when one matrix is lost MAX_DEATHS
times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from deadheat.runtime.errors import DataLost
from deadheat.runtime.programs import Program
from deadheat.scheduler.core import endings, events, jobs, planning, subtasks
from deadheat.scheduler.core.effects import (
    Change,
    EventRow,
    FindMatrices,
    NotifyJob,
    ProgramChange,
    SendCancel,
)
from deadheat.scheduler.core.machine import SUBTASK, SubtaskEvent, SubtaskState
from deadheat.scheduler.core.state import Gap, Job, Step, Subtask
from deadheat.scheduler.core.world import World


def on_store_restarted(world: World, event: events.StoreRestarted) -> None:
    """It may have come back with less than it had."""
    del event
    for job in list(world.open.values()):
        suspect(world, job)


def suspect(world: World, job: Job) -> None:
    """Something that the job reads or writes was not found: the store is asked what it has."""
    # Before there is room for its results nothing can be missing of them.
    if job.state.is_final or job.is_looking or job.rooms_awaited or job.joins_first:
        return
    job.is_looking = True
    asked = {step.result_id for step in job.steps} | _operand_ids(job).keys()
    world.emit(FindMatrices(job.id, sorted(asked - {""})))


def on_matrices_found(world: World, event: events.MatricesFound) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final:
        return
    job.is_looking = False
    if event.failure is None:
        _mend(world, job, frozenset(event.missing))
    jobs.advance(world, job)


def _mend(world: World, job: Job, missing: Collection[str]) -> None:
    ids = {step.operation.result: step.result_id for step in job.steps}
    intact = {name for name, id_ in ids.items() if id_ not in missing}
    complete = {step.operation.result for step in job.steps if step.is_done}
    open_ = unfinished(job.program, intact, complete)
    operands = _operand_ids(job)
    for step in job.steps:
        for name in step.operation.operands if step.operation.result in open_ else ():
            source = job.program.sources.get(name)
            if source and source.matrix_id in missing:
                lost_one = operands[source.matrix_id]
                message = f"operand lost: {lost_one!r} is not in the store any more"
                endings.fail(world, job, events.Failure(DataLost.code, message))
                return
    lost = [s for s in job.steps if s.operation.result in open_ and s.result_id in missing]
    if lost:
        _make_again(world, job, lost)


def unfinished(
    program: Program, intact: Collection[str], complete: Collection[str]
) -> frozenset[str]:
    """The results that have to be made, or made on: those that were never complete, and of the lost
    ones those that the user wants, or an unfinished one reads.

    >>> from deadheat.runtime.programs import Gemm, MatrixType, Operand, Operation
    >>> x = Operand("x", MatrixType(9, 9, "float64"), "x")
    >>> steps = [Operation(to, (of, of), Gemm()) for of, to in ("xa", "ab", "bc", "cd")]
    >>> program = Program((x,), tuple(steps), ("d",))
    >>> sorted(unfinished(program, {"b", "c", "d"}, {"a", "b", "c"}))
    ['d']
    >>> sorted(unfinished(program, {"a", "d"}, {"a", "b", "c"}))
    ['b', 'c', 'd']
    """
    found: set[str] = set()
    needed = set(program.results)
    for operation in reversed(program.operations):
        name = operation.result
        if name not in complete or (name not in intact and name in needed):
            found.add(name)
            needed.update(operation.operands)
    return frozenset(found)


def _make_again(world: World, job: Job, lost: Sequence[Step]) -> None:
    names = {step.operation.result for step in lost}
    changes: list[Change] = []
    for step in lost:
        step.losses += 1
        if step.losses >= endings.MAX_DEATHS:
            message = f"operand lost: {step.operation.result!r} was lost {step.losses} times"
            endings.fail(world, job, events.Failure(DataLost.code, message))
            return
        detail = f"{step.operation.result}: {step.result_id}"
        changes.append(EventRow(world.now, "matrix_lost", job=job.id, detail=detail))
    cancelled: dict[str, list[str]] = {}
    for subtask in list(job.subtasks.values()):
        operation = job.steps[subtask.operation].operation
        is_of_lost = operation.result in names
        # Who has begun to read has it mapped. Who has not would not find it.
        is_early = subtask.state is SubtaskState.ASSIGNED and bool(names & {*operation.operands})
        if subtask.state.is_active and (is_of_lost or is_early):
            cancelled.setdefault(subtask.node, []).append(subtask.id)
            _withdraw(world, job, subtask)
        elif subtask.state is SubtaskState.DONE and is_of_lost:
            subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.SUPERSEDE)
        else:
            continue
        changes += subtasks.changes(job, subtask)
    for step in lost:
        own = [one.attempt for one in step.parts]
        step.gaps = [Gap(step.type.whole(), max(own, default=0) + 1)]
        job.note_lost(step)
        step.result_id = _another(step.result_id)
    ids = [step.result_id for step in job.steps]
    planning.drop_plan(world, job)  # One that is on its way knows the old ones.
    job.cause = f"{', '.join(sorted(names))} was lost with the store, and is made again"
    world.commit(*changes, ProgramChange(job.id, job.program, ids))
    for node, withdrawn in cancelled.items():
        world.emit(SendCancel(node, withdrawn))
    world.emit(NotifyJob(job.id))
    planning.ask_for_rooms(world, job, lost)


def _another(matrix_id: str) -> str:
    """
    >>> _another("m-7"), _another("m-7-again1")
    ('m-7-again1', 'm-7-again2')
    """
    first, _, number = matrix_id.partition("-again")
    return f"{first}-again{int(number or 0) + 1}"


def _withdraw(world: World, job: Job, subtask: Subtask) -> None:
    """A sub-task that cannot succeed is given to somebody else later. It has not died."""
    subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.SUPERSEDE)
    subtasks.forget(world, subtask)
    job.releasing.pop(subtask.id, None)
    subtasks.reopen(world, subtask, subtask.pieces, subtask.deaths)


def _operand_ids(job: Job) -> Mapping[str, str]:
    """Names of the users' operands that are in the store, by their ids."""
    return {one.matrix_id: one.name for one in job.program.operands if one.inline is None}
