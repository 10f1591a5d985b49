"""Carries out what the core decides: commits first, then everything else, in order.

A *turn* is one event and all that follows from it at once. Its changes are committed together;
its other effects happen when they are durable, and never before those of the turn before it. But
room for results is made meanwhile: nobody sees it, and what no job holds is given back when the
scheduler starts again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from deadheat.runtime import errors, logs
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.admission import StoreLimits
from deadheat.scheduler.core.core import Core
from deadheat.scheduler.planner.inputs import PlanningInput
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.planner import plan
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.writer import Writer
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.scheduler.service.watchers import Watchers

T = TypeVar("T")

log = logs.get("shell")

#: A planning problem up to this size (devices times pieces of work) is solved on the spot, in well
#: under a millisecond; a larger one in a thread, so that no heartbeat waits for it.
INLINE_PLANNING: Final = 64


class Outbox(Protocol):
    """Where messages to agents go; unknown nodes are ignored, they will register again."""

    def send(self, effect: effects.Effect) -> None: ...


@dataclass(eq=False)
class Turn:
    """An event on its way to being durable."""

    after: list[effects.Effect] = field(default_factory=list)
    failure: events.Failure | None = None
    is_committed: bool = False
    committed: asyncio.Future[None] | None = None


class Shell:
    """One per daemon, on its event loop."""

    def __init__(
        self, core: Core, writer: Writer, clock: Clock, store: StoreLink, outbox: Outbox
    ) -> None:
        self.core = core
        self.writer = writer
        self.clock = clock
        self.watchers = Watchers()
        self._store = store
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Turn] = deque()
        self._ending: set[str] = set()
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def store_limits(self) -> StoreLimits:
        return self._store.limits

    def feed(self, event: events.Event, at_s: float | None = None) -> Turn:
        """Applies an event now (or as of `at_s`); what follows is under way when it returns."""
        now = self.clock.now() if at_s is None else at_s
        return self._start_turn(self.core.handle(event, now), now)

    async def settle(self, event: events.Event) -> None:
        """Applies an event and waits until it is durable; raises what the core refused it with."""
        turn = self.feed(event)
        if turn.failure:
            raise errors.from_code(turn.failure.code, turn.failure.message)
        if not turn.is_committed:
            turn.committed = self._loop.create_future()
            await turn.committed

    async def commit(self, *changes: effects.Change) -> None:
        """Records what the core knows nothing of; returns when it is durable."""
        done: asyncio.Future[None] = self._loop.create_future()

        def is_done() -> None:
            if not done.done():
                done.set_result(None)

        self.writer.submit(changes, lambda: self._loop.call_soon_threadsafe(is_done))
        await done

    def is_ending(self, job: str) -> bool:
        """Whether its end is decided but not durable yet: nobody may hear of it."""
        return job in self._ending

    def resume(self, found: list[effects.Effect]) -> None:
        """Goes on where a scheduler before us stopped."""
        self._start_turn(found, self.clock.now())

    async def plan_aside(self, solve: Callable[[float], T]) -> T:
        """Runs `solve(now)` in the planner's thread, behind the plans that wait there."""
        return await self._loop.run_in_executor(self._planner, solve, self.clock.now())

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._planner.shutdown(wait=False, cancel_futures=True)

    # Turns

    def _start_turn(self, found: list[effects.Effect], now: float) -> Turn:
        turn = Turn()
        changes: list[effects.Change] = []
        queue = deque(found)
        waits_for_room = False
        while queue:
            match queue.popleft():
                case effects.Commit(more):
                    changes.extend(more)
                case effects.MakePlan() as wanted if _is_small(wanted.given):
                    if waits_for_room:
                        self._spawn(self._plan_meanwhile(wanted))
                    else:
                        # Its consequences belong to this turn: a small job costs one commit.
                        queue.extend(self.core.handle(_planned(wanted, now), now))
                case effects.MakeResults() as effect:
                    self._perform(effect)
                    waits_for_room = True
                case effects.ReplyFailure(failure):
                    turn.failure = failure
                case effects.ReleaseJob(job) as effect:
                    self._ending.add(job)
                    turn.after.append(effect)
                case effect:
                    turn.after.append(effect)
        self._arm_timer()
        if changes:
            self._pending.append(turn)
            self.writer.submit(changes, lambda: self._loop.call_soon_threadsafe(self._on_committed))
        elif self._pending:
            self._pending.append(turn)
            turn.is_committed = True
        else:
            turn.is_committed = True
            self._perform_all(turn)
        return turn

    def _on_committed(self) -> None:
        """The writer commits in order: the oldest turn that waits is durable now."""
        turn = self._pending.popleft()
        turn.is_committed = True
        self._finish(turn)
        while self._pending and self._pending[0].is_committed:
            self._finish(self._pending.popleft())

    def _finish(self, turn: Turn) -> None:
        if turn.committed and not turn.committed.done():
            turn.committed.set_result(None)
        self._perform_all(turn)

    def _perform_all(self, turn: Turn) -> None:
        for effect in turn.after:
            self._perform(effect)

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.NotifyJob(job):
                self.watchers.notify(job)
            case effects.MakePlan():
                self._spawn(self._plan(effect))
            case effects.MakeResults():
                self._spawn(self._make_results(effect))
            case effects.SealResult():
                self._spawn(self._seal(effect))
            case effects.FindMatrices():
                self._spawn(self._find(effect))
            case effects.DropMatrices(matrix_ids):
                self._spawn(self._quietly(self._store.delete(matrix_ids)))
            case effects.ReleaseJob(job, give_up):
                self._ending.discard(job)
                if self._has_matrices(job):
                    self._spawn(self._quietly(self._store.release(job, give_up)))
            case _:
                self._outbox.send(effect)

    def _has_matrices(self, job_id: str) -> bool:
        """Whether the store keeps anything for a job; one that travels inline it never knew."""
        job = self.core.world.jobs.get(job_id)
        if job is None:
            return True
        if job.model:  # Its operands are the model's.
            return False
        return any(operand.inline is None for operand in job.program.operands) or any(
            step.result_id for step in job.steps
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Effects that come back as events

    async def _plan(self, wanted: effects.MakePlan) -> None:
        made = await self._loop.run_in_executor(self._planner, _planned, wanted, self.clock.now())
        self.feed(made)

    async def _plan_meanwhile(self, wanted: effects.MakePlan) -> None:
        """Plans on the spot when the store has been asked for room and the writer for a commit:
        both take about as long."""
        await asyncio.sleep(0.0)  # In this turn of the loop the call to the store leaves.
        self.feed(_planned(wanted, self.clock.now()))

    async def _make_results(self, wanted: effects.MakeResults) -> None:
        made = self._store.make_results(wanted.job, wanted.matrices)
        failure = await _failure_of(made)
        self.feed(events.ResultsMade(wanted.job, wanted.matrix_ids, failure))

    async def _seal(self, wanted: effects.SealResult) -> None:
        sealed = self._store.seal(wanted.matrix_id, wanted.check_ids)
        failure = await _failure_of(sealed)
        self.feed(events.ResultSealed(wanted.job, wanted.operation, failure, wanted.matrix_id))

    async def _find(self, wanted: effects.FindMatrices) -> None:
        try:
            missing = await self._store.missing(wanted.matrix_ids)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must go on.
            self.feed(events.MatricesFound(wanted.job, failure=_failure(error)))
        else:
            self.feed(events.MatricesFound(wanted.job, missing))

    @staticmethod
    async def _quietly(work: Coroutine[Any, Any, None]) -> None:
        """For what may fail without harm: the next start of the scheduler tidies up."""
        if failure := await _failure_of(work):
            log.warning(failure.message, extra=logs.keys("store", code=failure.code))

    def _arm_timer(self) -> None:
        due_s = self.core.next_deadline_s()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            delay_s = max(0.0, due_s - self.clock.now())
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self.feed(events.Ticked())


def _is_small(given: PlanningInput) -> bool:
    # What may be joined is priced whole.
    count = len(given.program.operations) if given.may_join else len(given.work)
    return len(given.pool) * count <= INLINE_PLANNING


def _planned(wanted: effects.MakePlan, now: float) -> events.PlanMade:
    started_s = time.perf_counter()
    outcome: Plan | events.Failure
    try:
        outcome = plan(wanted.given, now=now)
    except Exception as error:  # noqa: BLE001 - whatever it is, the job must hear of it.
        outcome = _failure(error)
    return events.PlanMade(wanted.job, wanted.ticket, outcome, time.perf_counter() - started_s)


async def _failure_of(work: Coroutine[Any, Any, None]) -> events.Failure | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - whatever it is, the job must hear of it.
        return _failure(error)
    return None


def _failure(error: Exception) -> events.Failure:
    """What a job hears; of what is none of our errors its traceback is in the log."""
    if isinstance(error, errors.DeadheatError):
        return events.Failure(error.code, error.message)
    log.error("an effect failed", exc_info=error, extra=logs.keys("effect"))
    name = type(error).__name__
    return events.Failure(errors.DeadheatError.code, f"{name} in the scheduler; see its log")


Translate = Callable[[float], float]
