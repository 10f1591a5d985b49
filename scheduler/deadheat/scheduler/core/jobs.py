"""Jobs: from submission through plans to results, one step of the program after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deadheat.runtime.errors import JobCancelled, JobFailed, TimedOut
from deadheat.runtime.programs import Operation
from deadheat.scheduler.core import events, rebalance, report, snapshot, subtasks
from deadheat.scheduler.core.effects import (
    Change,
    EventRow,
    JobChange,
    JobRow,
    MakePlan,
    MakeResults,
    NotifyJob,
    PlanRow,
    ReleaseJob,
    ResultBytes,
    SealResult,
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
from deadheat.scheduler.core.state import Gap, Job, Step, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.inputs import PlanningInput, Policy, Work
from deadheat.scheduler.planner.plan import Plan

#: Jobs that have not ended; one more is refused (the shell checks before it submits).
MAX_OPEN_JOBS: Final = 10_000
#: A piece of work that took so many executors or nodes down with it takes no more.
MAX_DEATHS: Final = 3
NO_AGENT: Final = "waiting: no agent is connected"


def on_submitted(world: World, event: events.JobSubmitted) -> None:
    world.serial += 1
    job = Job(
        id=event.job,
        request_id=event.request_id,
        user=event.user,
        kind=event.kind,
        program=event.program,
        policy=event.policy,
        serial=world.serial,
        submitted_s=world.now,
        steps=[
            new_step(event, index, operation)
            for index, operation in enumerate(event.program.operations)
        ],
    )
    world.jobs[job.id] = job
    world.requests[job.request_id] = job.id
    world.commit(
        JobRow(
            job.id,
            job.request_id,
            job.user,
            job.kind,
            job.program,
            job.policy,
            job.submitted_s,
            event.result_ids,
        ),
        EventRow(world.now, "job_submitted", job=job.id),
    )
    if job.policy.timeout_s is not None:
        world.wake_at(world.now + job.policy.timeout_s, "job", job.id)
    make_results(world, job)
    advance(world, job)


def new_step(event: events.JobSubmitted, index: int, operation: Operation) -> Step:
    matrix = event.program.types[operation.result]
    whole = matrix.whole()
    result_id = event.result_ids[index]
    return Step(
        index=index,
        operation=operation,
        type=matrix,
        result_id=result_id,
        gaps=[Gap(whole)] if whole.area else [],
        inline=None if result_id else bytearray(matrix.size_bytes),
    )


def make_results(world: World, job: Job) -> None:
    matrices = [(step.result_id, step.type) for step in job.steps if step.result_id]
    if matrices:
        job.results_ready = False
        world.emit(MakeResults(job.id, matrices))


def advance_all(world: World) -> None:
    """The pool has changed: whoever waits for it is looked at again, oldest first."""
    for job in list(world.jobs.values()):
        advance(world, job)


def advance(world: World, job: Job) -> None:
    """Takes a job as far as it goes now: completes steps, plans what is assigned to nobody."""
    if job.state.is_final or job.is_planning or job.pending_plan or job.releasing:
        return
    for step in job.steps:
        if step.is_complete and not step.is_done and _is_ready(job, step):
            _complete_step(world, job, step)
    if all(step.is_done for step in job.steps):
        _finish(world, job)
        return
    work = [
        Work(step.index, gap.rectangle)
        for step in job.steps
        if not step.is_done and _is_ready(job, step)
        for gap in step.gaps
    ]
    if work:
        _request_plan(world, job, work)


def _is_ready(job: Job, step: Step) -> bool:
    """Whether everything that the step reads is there."""
    made_by = {other.operation.result: other for other in job.steps}
    return all(name not in made_by or made_by[name].is_done for name in step.operation.operands)


def _request_plan(world: World, job: Job, work: Sequence[Work]) -> None:
    devices, excluded = snapshot.pool(world, job, {item.operation for item in work})
    if not devices:
        note = NO_AGENT
        if excluded:
            note = "waiting: " + "; ".join(f"{device}: {why}" for device, why in excluded[:3])
        if note != job.note:
            job.note = note
            world.emit(NotifyJob(job.id))
        return
    job.note = ""
    if job.started_s is None:
        job.started_s = world.now
    job.is_planning = True
    job.planning_ticket += 1
    given = PlanningInput(job.program, tuple(work), devices, Policy(job.policy.cut), excluded)
    world.emit(MakePlan(job.id, job.planning_ticket, given))


def on_plan_made(world: World, event: events.PlanMade) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final or event.ticket != job.planning_ticket:
        return
    job.is_planning = False
    job.planning_s += event.planning_s
    if isinstance(event.outcome, events.Failure):
        fail(world, job, event.outcome)
        return
    if any(not _is_usable(world, p.device) for p in event.outcome.placements):
        advance(world, job)  # A device went while the plan was made.
        return
    job.pending_plan, job.pending_since_s = event.outcome, world.now
    if job.results_ready:
        _carry_out(world, job)


def _is_usable(world: World, device_id: str) -> bool:
    device = world.devices.get(device_id)
    return device is not None and world.nodes[device.node].is_usable


def on_results_made(world: World, event: events.ResultsMade) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final:
        return
    if event.failure:
        fail(world, job, event.failure)
        return
    job.results_ready = True
    if job.pending_plan:
        _carry_out(world, job)
    else:
        advance(world, job)


def _carry_out(world: World, job: Job) -> None:
    """The plan becomes sub-tasks: committed first, then sent."""
    plan, job.pending_plan = job.pending_plan, None
    assert plan is not None
    assert job.started_s is not None
    planned_at_s = job.pending_since_s
    changes: list[Change] = []
    if job.state is JobState.QUEUED:
        job.state = JOB.next(job.state, JobEvent.START)
    job.plans += 1
    _note_plan(job, plan, planned_at_s)
    changes.append(
        JobChange(
            job.id,
            {
                "state": job.state.value,
                "started_at_s": job.started_s,
                "predicted_makespan_s": job.predicted_makespan_s,
                "resplits": job.resplits,
                "pool_flops": job.pool_flops,
                "bytes_lower_bound": job.bytes_lower_bound,
                "planning_s": job.planning_s,
            },
        )
    )
    changes.append(PlanRow(job.id, job.plans, planned_at_s, plan.as_dict(), str(plan)))
    assigned = subtasks.create(world, job, plan, planned_at_s)
    changes += [subtasks.row(job, subtask) for subtask in assigned]
    world.commit(*changes)
    for subtask in assigned:
        world.emit(subtasks.assignment(world, job, subtask))
    world.emit(NotifyJob(job.id))
    rebalance.plan_next_check(world, job)
    advance(world, job)


def _note_plan(job: Job, plan: Plan, planned_at_s: float) -> None:
    assert job.started_s is not None
    job.pool_flops = max(job.pool_flops, plan.pool_flops)
    job.bytes_lower_bound += plan.bytes_lower_bound
    ends_s = planned_at_s - job.started_s + plan.makespan_s
    if job.plans == 1:  # What later plans predict is in them; the promise was made first.
        job.predicted_makespan_s = ends_s
    job.plan_text += ("\n\n" if job.plan_text else "") + f"plan {job.plans}\n{plan}"
    job.plan_document.append(plan.as_dict())


def _complete_step(world: World, job: Job, step: Step) -> None:
    if step.is_sealing:
        return
    if not step.result_id:
        step.is_done = True
        return
    if not job.results_ready:
        return
    step.is_sealing = True
    world.emit(SealResult(job.id, step.index, step.result_id, _operand_ids(job, step)))


def _operand_ids(job: Job, step: Step) -> list[str]:
    """Operands that came from the store: users' files among them are checked for change."""
    sources = job.program.sources
    found = [sources[name].matrix_id for name in step.operation.operands if name in sources]
    return sorted({matrix_id for matrix_id in found if matrix_id})


def on_result_sealed(world: World, event: events.ResultSealed) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final:
        return
    if event.failure:
        fail(world, job, event.failure)
        return
    job.steps[event.operation].is_done = True
    advance(world, job)


def _finish(world: World, job: Job) -> None:
    if job.state is JobState.QUEUED:  # Nothing to compute: an empty result.
        job.started_s = world.now
        job.state = JOB.next(job.state, JobEvent.START)
    job.state = JOB.next(job.state, JobEvent.FINISH)
    job.finished_s = world.now
    results: list[Change] = [
        ResultBytes(job.id, step.operation.result, bytes(step.inline))
        for step in job.steps
        if step.inline is not None and step.operation.result in job.program.results
    ]
    unwanted = [
        step.result_id
        for step in job.steps
        if step.result_id and step.operation.result not in job.program.results
    ]
    _end(world, job, results, unwanted)


def fail(world: World, job: Job, failure: events.Failure) -> None:
    """Ends a job that cannot be completed, and everything that still runs for it."""
    if job.state.is_final:
        return
    job.state = JOB.next(job.state, JobEvent.FAIL)
    _stop(world, job, failure)


def on_cancel(world: World, event: events.CancelAsked) -> None:
    job = world.jobs.get(event.job)
    if job is None:
        return
    was_final = job.state.is_final
    job.state = JOB.next(job.state, JobEvent.CANCEL)
    if not was_final:
        _stop(world, job, events.Failure(JobCancelled.code, "cancelled by its user"))


def check_timeout(world: World, job_id: str) -> None:
    job = world.jobs.get(job_id)
    if job is None or job.state.is_final:
        return
    waiting = f" ({job.note})" if job.note else ""
    message = f"not finished within {job.policy.timeout_s:g} s{waiting}"
    fail(world, job, events.Failure(TimedOut.code, message))


def check_balance(world: World, job_id: str) -> None:
    """Somebody is about to run dry, or has not answered in time."""
    job = world.jobs.get(job_id)
    if job is None or job.state.is_final or world.now < job.rebalance_check_s:
        return
    rebalance.expire_answers(world, job)
    advance(world, job)
    rebalance.consider(world, job)


def _stop(world: World, job: Job, failure: events.Failure) -> None:
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
    _end(world, job, changes, [step.result_id for step in job.steps if step.result_id])
    for node, ids in cancelled.items():
        world.emit(SendCancel(node, ids))


def _end(world: World, job: Job, changes: Sequence[Change], give_up: Sequence[str]) -> None:
    world.commit(
        *changes,
        JobChange(job.id, report.final_values(job)),
        EventRow(world.now, f"job_{job.state.value}", job=job.id),
    )
    world.emit(NotifyJob(job.id), ReleaseJob(job.id, give_up))
    world.remember_ended(job)


def abandon(world: World, subtask: Subtask, why: str, *, died: bool, failed: bool = False) -> None:
    """A sub-task whose device is lost or gave up: rows that are delivered stay, the rest is open.

    After MAX_DEATHS of them the job fails: the work itself must be what kills.
    """
    job = world.jobs[subtask.job]
    was_running = subtask.state is SubtaskState.RUNNING
    first = subtask.pieces[0]
    delivered = first.with_rows(first.row_start, max(first.row_start, subtask.row_done))
    is_inline = job.steps[subtask.operation].inline is not None
    if delivered.area and not is_inline:
        rest = subtasks.keep_only(subtask, [delivered])
        subtask.state = SUBTASK.next(subtask.state, SubtaskEvent.FINISH)
        subtask.area_done = delivered.area
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
        subtasks.reopen(world, subtask, rest, deaths)
