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
from collections.abc import Sequence
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
    """A device that has work of the step, or could have."""

    device: str
    subtasks: tuple[Subtask, ...]
    #: Elements a second.
    rate: float
    #: When it could begin something new if it had nothing of this step.
    free_s: float
    #: What it has of this step, in seconds of its own work, the running panel counted as it is now.
    busy_s: float

    @property
    def left(self) -> float:
        return self.busy_s * self.rate

    @property
    def finish_s(self) -> float:
        """Seconds from now until it is dry."""
        return self.free_s + self.busy_s


def plan_next_check(world: World, job: Job) -> None:
    """Wakes the core shortly before the first device of a job runs dry.

    A moment that is over already is not waited for again: then the next report decides.
    """
    if not _may_rebalance(job):
        return
    active = [s for s in job.subtasks.values() if s.state.is_active]
    first_s = min((s.expected_finish_s for s in active), default=math.inf)
    when_s = max(first_s - LEAD_S, job.rebalance_after_s)
    if job.releasing:
        when_s = max(job.releasing.values())
    if not world.now < when_s < math.inf:
        return
    # One timer a job: an earlier one that is under way will plan the next.
    is_waiting = world.now < job.rebalance_check_s <= when_s + LEAD_S / 2
    if not is_waiting:
        job.rebalance_check_s = when_s
        world.wake_at(when_s, "rebalance", job.id)


def expire_answers(world: World, job: Job) -> None:
    """Whoever has not answered by now is hung: it is not waited for, nor asked again before it
    has shown that it lives."""
    for subtask_id, until_s in list(job.releasing.items()):
        if world.now >= until_s:
            del job.releasing[subtask_id]
            job.subtasks[subtask_id].is_unresponsive = True


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
    left = sum(runner.left for runner in runners)
    ready_s = np.array([runner.free_s for runner in runners])
    unit_s = np.array([1.0 / runner.rate for runner in runners])
    common_s = level(left, ready_s, unit_s, np.full(len(runners), np.inf))
    gain_s = max(runner.finish_s for runner in runners) - common_s
    total_s = world.now - (job.started_s or world.now) + common_s
    if gain_s < max(MIN_GAIN_S, MIN_GAIN_SHARE * total_s):
        return
    for runner, keep_s in zip(runners, common_s - ready_s):
        surplus = runner.left - max(0.0, float(keep_s)) * runner.rate
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
        if subtask.is_unresponsive:
            continue
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
        rate = flops / per_element
        free_s = world.devices[device.id].ready_s(world.now, without_job=job.id)
        if not any(subtask.state is SubtaskState.RUNNING for subtask in own):
            free_s += LAUNCH_S
        found.append(_Runner(device.id, own, rate, free_s, _busy_s(own, rate, world.now)))
    return found


def _busy_s(own: Sequence[Subtask], rate: float, now: float) -> float:
    """Running sub-tasks end when they are expected to; those that wait take their whole time."""
    running = [s for s in own if s.state is SubtaskState.RUNNING]
    waiting = [s for s in own if s.state is SubtaskState.ASSIGNED]
    until_s = max((s.expected_finish_s for s in running), default=now)
    return max(0.0, until_s - now) + sum(s.area for s in waiting) / rate
