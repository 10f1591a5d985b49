"""Re-balancing in mid-run: what was not started moves to whoever would finish it first.

It happens when the first device is about to run dry, not when drift is first seen: all drift up
to then is mended at once, what drifts afterwards is a fraction of the little that is left, and
noise that cancels out moves nothing. So a job needs two or three re-balances, not one a second.

Rules of this file: devices are only asked to give up; what they did give up becomes gaps, and gaps
are planned like any other work. A device that joined, one that came back and one that was left
out are all the same: devices that are dry now. A look at a pool costs time for each device, so a
large pool is looked at less often.
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
from deadheat.scheduler.planner.pool import Floats, Pool, joined
from deadheat.scheduler.planner.pricing import price
from deadheat.scheduler.planner.wholes import is_whole

#: A re-balance must save this share of the job's whole time, and this many seconds: less is
#: noise, or eaten by the messages it takes.
MIN_GAIN_SHARE: Final = 0.01
MIN_GAIN_S: Final = 0.015
#: Each re-balance leaves a fraction of the drift that it mends, so a few mend any one change. Where
#: loads are noise there is always a little more to mend: from this many on it must save more.
USUAL_REBALANCES: Final = 3
LATER_GAIN_SHARE: Final = 0.03
#: How long before a device runs dry new work is looked for: an answer from a device that has to
#: give something up, a plan, a commit, an assignment.
LEAD_S: Final = 0.02
#: After a re-balance, at least this share of the job's time and so many seconds until the next.
COOL_DOWN_SHARE: Final = 0.02
COOL_DOWN_S: Final = 0.05
#: A device that does not answer in this time is hung; what others gave up is planned without it.
ANSWER_LIMIT_S: Final = 2.0
#: After a look that moved nothing, the next one for this job waits so long for each device of the
#: pool: looking takes a few microseconds a device, so this keeps it below a tenth of the time.
LOOK_AGAIN_S: Final = 50e-6
#: And at least so long, while somebody is overdue: he fetches, or is stopped, and reports of him
#: are what changes anything.
OVERDUE_LOOK_S: Final = 0.25
#: Rounds in which what is fetched and what is given settle on one another.
ROUNDS: Final = 3
#: What takes its device less than this is not asked for: the answer would cost as much.
MIN_SURPLUS_S: Final = 0.005


@dataclass(frozen=True, eq=False)
class _Runners:
    """The devices that have work of a step, or could have. `rate` is elements a second, `free_s`
    when each could begin something new if it had nothing of this step, `busy_s` what it has of it,
    in seconds of its own work, the running panel counted as it is now."""

    pool: Pool
    own: list[tuple[Subtask, ...]]
    rate: Floats
    free_s: Floats
    busy_s: Floats
    #: Bytes for each row and for each column of new work, over the device's link, in seconds.
    row_s: Floats
    column_s: Floats

    @property
    def finish_s(self) -> Floats:
        """Seconds from now until each is dry."""
        found: Floats = self.free_s + self.busy_s
        return found

    def common_s(self) -> tuple[float, Floats]:
        """When all could finish together, and the moment from which each would work towards it.

        Whoever gets something new has to fetch what it needs and lacks: what is given up are the
        last rows of a wide strip, so that for each of its columns a receiver needs one of B,
        however few rows there are. How many depends on the common finish, so it goes in rounds.
        """
        left = self.busy_s * self.rate
        total, ready_s = float(left.sum()), self.free_s
        common_s = level(total, ready_s, 1.0 / self.rate)
        if not (self.row_s.any() or self.column_s.any()):
            return common_s, ready_s
        width = np.array([own[-1].rectangle.columns if own else 1 for own in self.own])
        for _ in range(ROUNDS):
            surplus = np.maximum(0.0, left - (common_s - ready_s) * self.rate)
            height = max(1.0, float((surplus * surplus / width).sum() / max(1.0, surplus.sum())))
            gets = np.maximum(0.0, (common_s - self.finish_s) * self.rate)
            fetch_s = height * self.row_s + gets / height * self.column_s
            ready_s = self.free_s + np.where(gets > 0, fetch_s, 0.0)
            common_s = level(total, ready_s, 1.0 / self.rate)
        return common_s, ready_s


def note(world: World, job: Job, subtask: Subtask) -> None:
    """A sub-task is expected to end at another moment than before."""
    if subtask.expected_finish_s < job.next_dry_s:
        job.next_dry_s = subtask.expected_finish_s
        plan_next_check(world, job)


def plan_next_check(world: World, job: Job) -> None:
    """Wakes the core shortly before the first device of a job runs dry.

    A moment that is over already is not waited for again: then the next report decides.
    """
    if not _may_rebalance(world, job):
        return
    when_s = max(job.next_dry_s - LEAD_S, job.rebalance_after_s)
    if job.releasing:
        when_s = max(job.releasing.values())
    if not world.now < when_s < math.inf:
        return
    # One timer a job: an earlier one that is under way will plan the next.
    is_waiting = world.now < job.rebalance_check_s <= when_s + LEAD_S / 2
    if not is_waiting:
        job.rebalance_check_s = when_s
        world.wake_at(when_s, "rebalance", job.id)


def look_anew(world: World, job: Job) -> None:
    """The pool has changed: somebody may be dry who was not there before."""
    job.next_dry_s = world.now
    plan_next_check(world, job)


def expire_answers(world: World, job: Job) -> None:
    """Whoever has not answered by now is hung: it is not waited for, nor asked again before it
    has shown that it lives."""
    for subtask_id, until_s in list(job.releasing.items()):
        if world.now >= until_s:
            del job.releasing[subtask_id]
            job.subtasks[subtask_id].is_unresponsive = True


def consider(world: World, job: Job) -> None:
    """Re-balances a job if a device is about to run dry and moving work pays."""
    is_due = world.now >= max(job.next_dry_s - LEAD_S, job.rebalance_after_s)
    if not _may_rebalance(world, job) or job.releasing or not is_due:
        return
    for step in job.steps.live:
        if step.active and step.inline is None and not is_whole(step.operation):
            _consider_step(world, job, step)
    ends = (subtask.expected_finish_s for subtask in job.active.values())
    job.next_dry_s = min(ends, default=math.inf)
    pause_s = max(LOOK_AGAIN_S * len(world.devices), LEAD_S / 4)
    if job.next_dry_s <= world.now:
        pause_s = max(pause_s, OVERDUE_LOOK_S)
    job.rebalance_after_s = max(job.rebalance_after_s, world.now + pause_s)
    plan_next_check(world, job)


def _may_rebalance(world: World, job: Job) -> bool:
    return (
        job.state is JobState.RUNNING
        and job.policy.cut is Cut.BALANCED
        and not job.is_planning
        and job.pending_plan is None
        # What waits for memory is more work for whoever is dry, as soon as he has room.
        and job.id not in world.waiting_memory
    )


def _consider_step(world: World, job: Job, step: Step) -> None:
    runners = _runners(world, job, step)
    if not len(runners.pool) or float(runners.finish_s.min()) > LEAD_S:
        return
    left = runners.busy_s * runners.rate
    common_s, ready_s = runners.common_s()
    slowest_s = float(runners.finish_s.max())
    total_s = _age_s(world, job) + common_s
    is_usual = job.resplits < USUAL_REBALANCES
    gain_share = MIN_GAIN_SHARE if is_usual else LATER_GAIN_SHARE
    if slowest_s - common_s < max(MIN_GAIN_S, gain_share * total_s):
        return
    surplus = left - np.maximum(0.0, common_s - ready_s) * runners.rate
    givers = np.flatnonzero(surplus >= MIN_SURPLUS_S * runners.rate).tolist()
    for number in givers:
        _ask(world, job, runners.own[number], int(surplus[number]))
    if job.releasing:
        job.is_first_release = True
        job.cause = _cause(world, job, runners, common_s, givers)
        job.rebalance_after_s = world.now + max(COOL_DOWN_S, COOL_DOWN_SHARE * total_s)
        world.emit(NotifyJob(job.id))


def _age_s(world: World, job: Job) -> float:
    return 0.0 if job.started_s is None else world.now - job.started_s


def _cause(world: World, job: Job, runners: _Runners, common_s: float, givers: list[int]) -> str:
    """For `explain`: who was late, and what the common finish can be."""
    age_s = _age_s(world, job)
    late_s = age_s + float(runners.finish_s.max())
    names = joined([runners.pool.ids[number] for number in givers])
    verb = "give" if len(givers) > 1 else "gives"
    return (
        f"re-balance {job.resplits + 1}: as it goes the last device would finish at "
        f"{late_s:.2f} s, while another is about to run dry; all together can finish at "
        f"{age_s + common_s:.2f} s, so {names} {verb} up what was not started"
    )


def _ask(world: World, job: Job, own: tuple[Subtask, ...], surplus: int) -> None:
    """Asks for the surplus, from the newest sub-task back: it is the one least begun."""
    for subtask in reversed(own):
        if surplus <= 0:
            return
        if subtask.is_unresponsive or subtask.firm_at == subtask.area_done:
            continue
        taken = min(surplus, subtask.left_area)
        surplus -= taken
        job.releasing[subtask.id] = world.now + ANSWER_LIMIT_S
        world.emit(SendResize(subtask.node, subtask.id, subtask.area - taken))


def _runners(world: World, job: Job, step: Step) -> _Runners:
    program = job.program
    pool, _ = snapshot.pool(world, job, {step.index}, without_own=True)
    per_element = max(job.flops_of(step.index, 1), 1e-300)
    rates = pool.effective(pool.rates(program.shape_of(step.operation)))
    rate = np.maximum(rates / per_element, 1e-9)
    own: list[tuple[Subtask, ...]] = []
    busy_s = np.zeros(len(pool))
    idle = np.zeros(len(pool))
    for number, id_ in enumerate(pool.ids):
        active = world.devices[id_].active
        mine = tuple(
            subtask
            for subtask in active.values()
            if subtask.job == job.id and subtask.operation == step.index
        )
        own.append(mine)
        if mine:
            threads = world.devices[id_].facts.threads
            busy_s[number] = _busy_s(mine, float(rate[number]), threads, world.now)
        if not any(subtask.state is SubtaskState.RUNNING for subtask in mine):
            idle[number] = LAUNCH_S
    whole = program.types[step.operation.result].whole()
    prices = price(program, step.operation, whole, pool)
    row_s, column_s = (each / prices.bandwidth for each in (prices.row_bytes, prices.column_bytes))
    return _Runners(pool, own, rate, pool.ready_s + idle, busy_s, row_s, column_s)


def _busy_s(own: tuple[Subtask, ...], rate: float, threads: int, now: float) -> float:
    """Running sub-tasks take what their panels say; those that wait take their whole time."""
    running_s = sum(s.remaining_s(threads, now) for s in own if s.state is SubtaskState.RUNNING)
    waiting = sum(s.area for s in own if s.state is SubtaskState.ASSIGNED)
    return running_s + waiting / rate
