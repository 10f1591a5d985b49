"""Jobs: from submission through plans to results, one step of the program after the other."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from deadheat.runtime.errors import JobCancelled, NotFound, TimedOut
from deadheat.scheduler.core import admission, endings, epochs, events, lineage, planning, rebalance
from deadheat.scheduler.core.effects import (
    EventRow,
    JobRow,
    SealResult,
)
from deadheat.scheduler.core.machine import (
    JOB,
    JobEvent,
)
from deadheat.scheduler.core.queueing import rank_of
from deadheat.scheduler.core.state import Job, Step
from deadheat.scheduler.core.steps import Steps
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.inputs import Cut, Work
from deadheat.scheduler.planner.plan import Plan

#: So many of those that wait for memory are looked at when some is free, the first in rank first:
#: each look is a plan. Those behind them wait for them, too.
MAX_RETRIED: Final = 16


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
        estimated_s=event.estimated_s,
        steps=Steps.of(event.program, event.result_ids),
        model=event.model,
    )
    enter(world, job)
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
            event.model,
        ),
        EventRow(world.now, "job_submitted", job=job.id),
    )
    if job.policy.timeout_s is not None:
        world.wake_at(world.now + job.policy.timeout_s, "job", job.id)
    # An empty result is complete before anything is planned, and needs its room at once.
    has_work = len(job.steps) > 1 and all(step.gaps for step in job.steps)
    job.joins_first = has_work and job.policy.cut is Cut.BALANCED
    if not job.joins_first:
        planning.make_results(world, job)
    advance(world, job)


def enter(world: World, job: Job) -> None:
    """A job joins those that have not ended, and gets its place among them."""
    world.jobs[job.id] = job
    world.open[job.id] = job
    world.untold |= world.passing
    world.requests[job.request_id] = job.id
    job.cost_s = job.program.flops / max(1.0, world.pool_flops or _peak_flops(world, job))
    tag = world.queue.enter(job.id, job.user, job.cost_s, world.now)
    job.rank = rank_of(job.policy.priority, tag)


def _peak_flops(world: World, job: Job) -> float:
    """What all devices have to give for a job's first dtype, before any plan has told better."""
    dtype = job.steps[0].type.dtype
    return sum(device.model.peak_flops(dtype) or 0.0 for device in world.devices.values())


def advance_all(world: World) -> None:
    """The pool has changed: whoever waits for it is looked at again, the first in rank first."""
    world.waiting_memory.clear()
    for job in sorted(world.open.values(), key=lambda job: (job.rank, job.serial)):
        advance(world, job)
        rebalance.look_anew(world, job)


def retry_waiting(world: World) -> None:
    """Sub-tasks have ended: whoever waits for memory is planned again, the first in rank first."""
    if not world.waiting_memory or world.retried == world.released:
        return
    world.retried = world.released
    waiting = (world.open[name] for name in world.waiting_memory if name in world.open)
    for job in sorted(waiting, key=lambda job: (job.rank, job.serial))[:MAX_RETRIED]:
        world.waiting_memory.discard(job.id)
        if job.plans:
            job.cause = "memory is free for more of it"
        advance(world, job)


def advance(world: World, job: Job) -> None:
    """Takes a job as far as it goes now: completes steps, plans what is assigned to nobody."""
    if job.state.is_final or job.is_planning or job.pending_plan or job.releasing:
        return
    if job.is_looking:
        return
    epochs.keep_whole(world, job)
    _complete_steps(world, job)
    if not job.joins_first:
        planning.make_results(world, job)
    # After a restart a sealed state may have sub-tasks of whose ends the agents have yet to tell.
    live = job.steps.live
    if not live and not job.active:
        endings.finish(world, job)
        return
    work = [
        Work(
            step.index,
            gap.rectangle,
            job.groups.get(step.index, frozenset()),
            may_share=gap.deaths < endings.MAX_DEATHS - 1,
        )
        for step in live
        if step.gaps and job.steps.is_ready(step)
        for gap in step.gaps
    ]
    if job.id in world.waiting_memory:
        return
    if work and world.planning:
        world.awaiting_plan.add(job.id)
    elif work:
        planning.request(world, job, work)


def on_plan_made(world: World, event: events.PlanMade) -> None:
    if world.planning == event.job:
        world.planning = ""
    _take_plan(world, event)
    while world.awaiting_plan and not world.planning:
        waiting = [world.open[name] for name in world.awaiting_plan if name in world.open]
        if not waiting:
            world.awaiting_plan.clear()
            return
        first = min(waiting, key=lambda job: (job.rank, job.serial))
        world.awaiting_plan.discard(first.id)
        advance(world, first)


def _take_plan(world: World, event: events.PlanMade) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final or event.ticket != job.planning_ticket:
        return
    job.is_planning = False
    job.planning_s += event.planning_s
    if isinstance(event.outcome, events.Failure):
        endings.fail(world, job, event.outcome)
        return
    plan = event.outcome
    if not planning.is_possible(world, plan):
        advance(world, job)  # A device went while the plan was made.
        return
    refusal = None
    if job.plans == 0:
        predicted_s = world.now + plan.makespan_s - job.submitted_s
        refusal = admission.time_refusal(job.policy, predicted_s)
    if refusal and job.is_urgent:
        endings.fail(world, job, refusal)
    elif refusal:
        planning.hurry(world, job)
        advance(world, job)
    elif plan.program is not None:
        planning.rewrite(world, job, plan, plan.program)
        advance(world, job)
    else:
        if plan.left_area:
            planning.wait_for_memory(world, job, plan)
        if plan.steps:
            _accept(world, job, plan)


def _accept(world: World, job: Job, plan: Plan) -> None:
    job.pending_plan, job.pending_since_s = plan, world.now
    world.pending[job.id] = job
    if job.joins_first:
        job.joins_first = False
        planning.make_results(world, job)
    if planning.has_rooms(job, plan):
        planning.carry_out(world, job)
        advance(world, job)


def on_results_made(world: World, event: events.ResultsMade) -> None:
    job = world.jobs.get(event.job)
    if job is None or job.state.is_final:
        return
    if event.failure:
        endings.fail(world, job, event.failure)
        return
    job.rooms_awaited.difference_update(event.matrix_ids)
    if (plan := job.pending_plan) and planning.has_rooms(job, plan):
        if planning.is_possible(world, plan):
            planning.carry_out(world, job)
        else:  # A device went while room was made; the store took its time.
            planning.drop_plan(world, job)
    advance(world, job)


def _complete_steps(world: World, job: Job) -> None:
    """Ends those of which nothing is open, and what was only waiting for them: empty results."""
    # Numbers in ascending order are a heap.
    numbers = [one.index for one in job.steps.live if one.is_complete and not one.is_sealing]
    while numbers:
        step = job.steps[heappop(numbers)]
        if not job.steps.is_ready(step):
            continue
        if not step.result_id:
            for reader in job.note_done(step):
                if reader.is_complete:
                    heappush(numbers, reader.index)
        elif step.result_id not in job.rooms_awaited and not job.joins_first:
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
    step = job.steps[event.operation]
    if event.matrix_id and event.matrix_id != step.result_id:
        return  # It was lost meanwhile, and is made again.
    if event.failure and event.failure.code == NotFound.code:
        step.is_sealing = False
        lineage.suspect(world, job)
        return
    if event.failure:
        endings.fail(world, job, event.failure)
        return
    job.note_done(step)
    planning.drop_spent(world, job, [*job.steps.makers(step), step])
    advance(world, job)
    rebalance.look_anew(world, job)  # Whoever made it might help with another operation.


def on_cancel(world: World, event: events.CancelAsked) -> None:
    job = world.jobs.get(event.job)
    if job is None:
        return
    was_final = job.state.is_final
    job.state = JOB.next(job.state, JobEvent.CANCEL)
    if not was_final:
        endings.stop(world, job, events.Failure(JobCancelled.code, "cancelled by its user"))


def check_timeout(world: World, job_id: str) -> None:
    job = world.jobs.get(job_id)
    if job is None or job.state.is_final:
        return
    waiting = f" ({job.note})" if job.note else ""
    message = f"not finished within {job.policy.timeout_s:g} s{waiting}"
    endings.fail(world, job, events.Failure(TimedOut.code, message))


def check_balance(world: World, job_id: str) -> None:
    """Somebody is about to run dry, or has not answered in time."""
    job = world.jobs.get(job_id)
    if job is None or job.state.is_final or world.now < job.rebalance_check_s:
        return
    rebalance.expire_answers(world, job)
    advance(world, job)
    rebalance.consider(world, job)
