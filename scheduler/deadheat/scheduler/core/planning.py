"""Planning, as the core sees it: what is asked of the planner, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from deadheat.runtime.programs import Program
from deadheat.scheduler.core import rebalance, snapshot, subtasks
from deadheat.scheduler.core.effects import (
    Change,
    DropMatrices,
    JobChange,
    MakePlan,
    MakeResults,
    NotifyJob,
    PlanRow,
    ProgramChange,
)
from deadheat.scheduler.core.machine import JOB, JobEvent, JobState
from deadheat.scheduler.core.queueing import rank_of
from deadheat.scheduler.core.state import Job, Step
from deadheat.scheduler.core.steps import Steps
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.inputs import PlanningInput, Policy, Work
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.wholes import is_whole

NO_AGENT: Final = "waiting: no agent is connected"
NO_MEMORY: Final = "waiting: the agents' memory is in use"


def make_results(world: World, job: Job) -> None:
    """Asks for room for results. States of a training are many, and each is spent when the next is
    there, so of these only the next one."""

    def is_due(step: Step) -> bool:
        if not step.result_id or step.is_made or step.is_done:
            return False
        return not is_whole(step.operation) or job.steps.is_ready(step)

    # Once all others were asked for, only a state can be due, and one that is due is live.
    due = [step for step in (job.steps.live if job.steps.has_rooms else job.steps) if is_due(step)]
    job.steps.has_rooms = True
    for step in due:
        step.is_made = True
    # What can be computed at once does not wait for room for the rest.
    ask_for_rooms(world, job, [step for step in due if job.steps.is_ready(step)])
    ask_for_rooms(world, job, [step for step in due if not job.steps.is_ready(step)])


def ask_for_rooms(world: World, job: Job, steps: Sequence[Step]) -> None:
    if steps:
        job.rooms_awaited.update(step.result_id for step in steps)
        world.emit(MakeResults(job.id, [(step.result_id, step.type) for step in steps]))


def has_rooms(job: Job, plan: Plan) -> bool:
    """Whether the store has made room for all that a plan's sub-tasks write."""
    return all(job.steps[made.operation].result_id not in job.rooms_awaited for made in plan.steps)


def drop_spent(world: World, job: Job, steps: Iterable[Step]) -> None:
    """Of some steps, drops states of a training that all have used who read them, unless somebody
    has asked for them."""
    spent = [
        step
        for step in steps
        if is_whole(step.operation)
        and step.is_done
        and not step.is_dropped
        and step.operation.result not in job.program.results
        and not job.steps.is_read(step)
    ]
    for one in spent:
        one.is_dropped = True
    if spent:
        world.emit(DropMatrices([one.result_id for one in spent]))


def request(world: World, job: Job, work: Sequence[Work]) -> None:
    pool, excluded = snapshot.pool(world, job, {item.operation for item in work})
    if not len(pool):
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
    world.planning = job.id
    job.planning_ticket += 1
    job.released_before = world.released
    given = PlanningInput(
        job.program,
        tuple(work),
        pool,
        Policy(job.policy.cut),
        excluded,
        may_rewrite=job.plans == 0,
        may_join=job.joins_first,
        apart=job.apart,
    )
    world.emit(MakePlan(job.id, job.planning_ticket, given))


def is_usable(world: World, device_id: str) -> bool:
    device = world.devices.get(device_id)
    return device is not None and not device.yields and world.nodes[device.node].is_usable


def is_possible(world: World, plan: Plan) -> bool:
    """Whether all its devices can be used still."""
    return all(is_usable(world, device) for device in plan.devices)


def drop_plan(world: World, job: Job) -> None:
    """A plan that was made, or is being made, does not hold any more."""
    job.planning_ticket += 1
    job.is_planning, job.pending_plan = False, None
    world.pending.pop(job.id, None)


def wait_for_memory(world: World, job: Job, plan: Plan) -> None:
    """Some of it fits into no memory now: it is planned again when sub-tasks have ended."""
    world.waiting_memory.add(job.id)
    world.retried = job.released_before  # Some may have while this plan was made.
    if plan.steps:
        return
    if job.state is JobState.QUEUED:
        job.started_s = None
    if not job.active:
        job.note = NO_MEMORY
        world.emit(NotifyJob(job.id))


def hurry(world: World, job: Job) -> None:
    """The job goes before all others of its priority."""
    job.is_urgent = True
    job.rank = rank_of(job.policy.priority, world.queue.hurry(job.id))


def rewrite(world: World, job: Job, plan: Plan, program: Program) -> None:
    """Other operations that come to the same take the place of those that were submitted."""
    before = job.steps.made_by
    ids = [
        before[operation.result].result_id
        if operation.result in before
        else _intermediate_id(job, index)
        for index, operation in enumerate(program.operations)
    ]
    numbers = {operation.result: index for index, operation in enumerate(program.operations)}
    # What is meant for some devices only is joined with nothing, so it keeps its name.
    groups = {
        numbers[job.steps[index].operation.result]: devices for index, devices in job.groups.items()
    }
    same = {step.operation for step in job.steps}
    job.apart |= {made.result for made in program.operations if made not in same}
    job.program, job.groups = program, {**groups, **plan.groups}
    job.steps = Steps.of(program, ids)
    document = _note_plan(world, job, plan, world.now)
    world.commit(
        ProgramChange(job.id, program, ids),
        PlanRow(job.id, job.plans, world.now, document, job.plan_texts[-1]),
    )
    for step in job.steps:
        step.is_made = step.operation.result in before and before[step.operation.result].is_made
    if not job.joins_first:
        make_results(world, job)


def _intermediate_id(job: Job, index: int) -> str:
    """An id for a matrix that nobody asked for. Such matrices are kept in the store even where what
    was asked for travels inline: several together would not fit into a message."""
    return f"{job.id}-{index}"


def carry_out(world: World, job: Job) -> None:
    """The plan becomes sub-tasks: committed first, then sent."""
    plan, job.pending_plan = job.pending_plan, None
    world.pending.pop(job.id, None)
    assert plan is not None
    assert job.started_s is not None
    planned_at_s = job.pending_since_s
    changes: list[Change] = []
    if job.state is JobState.QUEUED:
        job.state = JOB.next(job.state, JobEvent.START)
    document = _note_plan(world, job, plan, planned_at_s)
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
    changes.append(PlanRow(job.id, job.plans, planned_at_s, document, job.plan_texts[-1]))
    assigned = subtasks.create(world, job, plan, planned_at_s)
    changes += [subtasks.row(job, subtask) for subtask in assigned]
    world.commit(*changes)
    for subtask in assigned:
        world.emit(subtasks.assignment(world, job, subtask))
    world.emit(NotifyJob(job.id))
    ends = (subtask.expected_finish_s for subtask in assigned)
    job.next_dry_s = min((job.next_dry_s, *ends))
    rebalance.plan_next_check(world, job)


def _new_lower_bound(job: Job, plan: Plan) -> int:
    """Bytes that cannot be done without, of what is planned for the first time: for parts that go
    from one device to another they are in an earlier plan."""
    first = {
        (made.operation, gap.rectangle)
        for made in plan.steps
        for gap in job.steps[made.operation].gaps
        if gap.attempt == 1
    }
    return sum(
        made.bytes_lower_bound for made in plan.steps if (made.operation, made.rectangle) in first
    )


def _note_plan(world: World, job: Job, plan: Plan, planned_at_s: float) -> Mapping[str, object]:
    """Keeps what the plan promised and why; returns it as a document."""
    assert job.started_s is not None
    job.plans += 1
    job.pool_flops = max(job.pool_flops, plan.pool_flops)
    world.pool_flops = plan.pool_flops or world.pool_flops
    job.bytes_lower_bound += _new_lower_bound(job, plan)
    at_s = planned_at_s - job.started_s
    is_first_look = plan.program is not None and job.estimated_s is None and job.joins_first
    if job.predicted_makespan_s is None and not is_first_look:
        # What later plans predict is in them; the promise was made first.
        whole_s = plan.makespan_s if job.estimated_s is None else job.estimated_s
        job.predicted_makespan_s = at_s + max(whole_s, plan.makespan_s)
    document = {"at_s": at_s, "cause": job.cause, **plan.as_dict()}
    title = f"plan {job.plans}, {at_s:.2f} s after the start: {job.cause}"
    job.plan_texts.append(f"{title}\n{plan}")
    job.plan_documents.append(document)
    job.cause = "what was left to do"
    return document
