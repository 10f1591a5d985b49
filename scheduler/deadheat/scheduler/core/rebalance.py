"""Re-balancing in mid-run: what was not started moves to whoever would finish it first.

It happens when the first device is about to run dry, not when drift is first seen: all drift up
to then is mended at once, what drifts afterwards is a fraction of the little that is left, and
noise that cancels out moves nothing. So a job needs two or three re-balances, not one a second.

Rules of this file: devices are only asked to give up; what they did give up becomes gaps, and gaps
are planned like any other work. A device that joined, one that came back and one that was left
out are all the same: devices that are dry now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.scheduler.core import snapshot
from deadheat.scheduler.core.effects import NotifyJob, SendResize
from deadheat.scheduler.core.machine import JobState, SubtaskState
from deadheat.scheduler.core.state import LAUNCH_S, Job, Step, Subtask
from deadheat.scheduler.core.world import World
from deadheat.scheduler.planner.balance import level
from deadheat.scheduler.planner.inputs import Cut

#: A re-balance must save this share of the job's whole time, and this many seconds: less is
#: noise, or eaten by the messages it takes.
MIN_GAIN_SHARE: Final = 0.01
MIN_GAIN_S: Final = 0.015
#: How long before a device runs dry new work is looked for: an answer from a device that has to
#: give something up, a plan, a commit, an assignment.
LEAD_S: Final = 0.02
#: After a re-balance, at least this share of the job's time and so many seconds until the next.
COOL_DOWN_SHARE: Final = 0.02
COOL_DOWN_S: Final = 0.05
#: A device that does not answer in this time is hung; what others gave up is planned without it.
ANSWER_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Runner:
    """A device that has work of the step, or could have: elements left, elements a second."""

    device: str
    subtasks: tuple[Subtask, ...]
    rate: float
    free_s: float

    @property
    def left(self) -> int:
        return sum(subtask.left_area for subtask in self.subtasks)

    @property
    def finish_s(self) -> float:
        """Seconds from now until it is dry."""
        return self.free_s + self.left / self.rate


def plan_next_check(world: World, job: Job) -> None:
    """Wakes the core shortly before the first device of a job runs dry."""
    if not _may_rebalance(job):
        return
    active = [s for s in job.subtasks.values() if s.state.is_active]
    first_s = min((s.expected_finish_s for s in active), default=math.inf)
    when_s = max(first_s - LEAD_S, job.rebalance_after_s)
    if job.releasing:
        when_s = max(job.releasing.values())
    # One timer a job: an earlier one that is under way will plan the next.
    if when_s < job.rebalance_check_s - LEAD_S / 2 or job.rebalance_check_s <= world.now:
        job.rebalance_check_s = when_s
        if math.isfinite(when_s):
            world.wake_at(when_s, "rebalance", job.id)


def on_check_due(world: World, job_id: str) -> None:
    job = world.jobs.get(job_id)
    if job is None or world.now < job.rebalance_check_s:
        return
    job.rebalance_check_s = math.inf
    if job.releasing and world.now >= max(job.releasing.values()):
        job.releasing.clear()  # Whoever has not answered by now is hung, or gone.
    consider(world, job)


def consider(world: World, job: Job) -> None:
    """Re-balances a job if a device is about to run dry and moving work pays."""
    if _may_rebalance(job) and not job.releasing and world.now >= job.rebalance_after_s:
        for step in job.steps:
            if step.active and step.inline is None:
                _consider_step(world, job, step)
    plan_next_check(world, job)


def _may_rebalance(job: Job) -> bool:
    return (
        job.state is JobState.RUNNING
        and job.policy.cut is Cut.BALANCED
        and not job.is_planning
        and job.pending_plan is None
    )


def _consider_step(world: World, job: Job, step: Step) -> None:
    runners = _runners(world, job, step)
    if not runners or min(runner.finish_s for runner in runners) > LEAD_S:
        return
    left = float(sum(runner.left for runner in runners))
    ready_s = np.array([runner.free_s for runner in runners])
    unit_s = np.array([1.0 / runner.rate for runner in runners])
    common_s = level(left, ready_s, unit_s, np.full(len(runners), np.inf))
    gain_s = max(runner.finish_s for runner in runners) - common_s
    total_s = world.now - (job.started_s or world.now) + common_s
    if gain_s < max(MIN_GAIN_S, MIN_GAIN_SHARE * total_s):
        return
    for runner, keep_s in zip(runners, common_s - ready_s):
        surplus = runner.left - max(0.0, keep_s) * runner.rate
        if surplus > 0:
            _ask(world, job, runner, int(surplus))
    if job.releasing:
        job.resplits += 1
        job.rebalance_after_s = world.now + max(COOL_DOWN_S, COOL_DOWN_SHARE * total_s)
        world.emit(NotifyJob(job.id))


def _ask(world: World, job: Job, runner: _Runner, surplus: int) -> None:
    """Asks for the surplus, from the newest sub-task back: it is the one least begun."""
    for subtask in reversed(runner.subtasks):
        if surplus <= 0:
            return
        taken = min(surplus, subtask.left_area)
        surplus -= taken
        job.releasing[subtask.id] = world.now + ANSWER_LIMIT_S
        world.emit(SendResize(subtask.node, subtask.id, subtask.area - taken))


def _runners(world: World, job: Job, step: Step) -> list[_Runner]:
    devices, _ = snapshot.pool(world, job, {step.index})
    per_element = job.flops_of(step.index, 1)
    shape = job.program.shape_of(step.operation)
    found = []
    for device in devices:
        own = tuple(
            subtask
            for subtask in world.devices[device.id].active.values()
            if subtask.job == job.id and subtask.operation == step.index
        )
        modelled = device.model.flops_rate(shape) * device.bias * device.availability
        flops = device.measured_flops or modelled
        if flops <= 0 or per_element <= 0:
            continue
        free_s = world.devices[device.id].ready_s(world.now, without_job=job.id)
        if not any(subtask.state is SubtaskState.RUNNING for subtask in own):
            free_s += LAUNCH_S
        found.append(_Runner(device.id, own, flops / per_element, free_s))
    return found
