"""Carries out what `core.attempts` decides: prepares, runs, delivers, reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, assert_never

from deadheat.agent.blocks import Blocks, Prepared
from deadheat.agent.core import attempts
from deadheat.agent.core.attempts import Attempts
from deadheat.agent.exchanges import Exchanges
from deadheat.agent.exchanging import Exchange
from deadheat.agent.executors.link import ExecutorLink
from deadheat.runtime import logs
from deadheat.runtime.errors import DeadheatError, Unavailable
from deadheat.runtime.patience import patiently
from deadheat.runtime.programs import Rectangle
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import local_pb2

log = logs.get("subtasks")

Tell = Callable[[pb.AgentServiceSessionRequest], None]


class Subtasks:
    """All sub-tasks of this agent, on its event loop. `tell` sends to the scheduler if it is
    there; what must not be lost is told again when it is back."""

    def __init__(self, blocks: Blocks, tell: Tell, exchanges: Exchanges | None = None) -> None:
        self._attempts = Attempts()
        #: Of gradients; without them no epoch can be shared.
        self._exchanges = exchanges
        self._exchanging: dict[str, Exchange] = {}
        self._blocks = blocks
        self._tell = tell
        #: By device. One that has none does not compute, now.
        self._executors: dict[str, ExecutorLink] = {}
        #: Which has a sub-task, until it has let go of its blocks.
        self._running: dict[str, ExecutorLink] = {}
        self._prepared: dict[str, Prepared] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._delivering: dict[str, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._yielding: set[str] = set()
        #: Whether there ever was a sub-task here.
        self.has_worked = False
        self.on_calibrated: Callable[[pb.SpeedPoints], None] | None = None

    def attach(self, device: str, executor: ExecutorLink) -> None:
        self._executors[device] = executor

    def detach(self, device: str) -> None:
        """What comes for this device from now on fails; what ran there has died."""
        self._executors.pop(device, None)

    @property
    def held(self) -> list[pb.HeldSubtask]:
        return self._attempts.for_registration()

    # From the scheduler

    def assigned(self, assign: pb.Assign) -> None:
        self.has_worked = True
        self._do(self._attempts.assigned(assign))
        if assign.device in self._yielding:
            # It was on its way when the scheduler heard that this device gives way.
            self._do(self._attempts.give_back(assign.subtask_id))

    def cancelled(self, subtasks: Iterable[str]) -> None:
        self._do(self._attempts.cancelled(subtasks))

    def resize(self, message: pb.Resize) -> None:
        self._do(self._attempts.resize(message.subtask_id, message.keep_area))

    def settled(self, subtasks: Iterable[str]) -> None:
        self._attempts.settled(subtasks)

    def session_opened(self) -> None:
        self._do(self._attempts.session_opened())

    # From the executor

    def on_executor_event(self, event: local_pb2.ExecutorEvent) -> None:
        match event.WhichOneof("event"):
            case "progress":
                must_deliver = self._delivers(event.progress.subtask_id)
                self._do(self._attempts.progressed(event.progress, must_deliver=must_deliver))
            case "finished":
                self._on_computed(event.finished)
            case "failed":
                self._on_failed(event.failed)
            case "resized":
                self._do(self._attempts.shrunk(event.resized))
            case "gradient":
                if exchange := self._exchanging.get(event.gradient.subtask_id):
                    exchange.give(event.gradient.step, event.gradient.loss)
            case "released":
                self._on_released(event.released.subtask_id)
            case "calibrated":
                if self.on_calibrated:
                    self.on_calibrated(event.calibrated)

    def _delivers(self, subtask: str) -> bool:
        """Whether its rows have to be streamed before they count."""
        prepared = self._prepared.get(subtask)
        return prepared is not None and prepared.result_memory is not None

    def _on_failed(self, found: pb.Failed) -> None:
        subtask, failure = found.subtask_id, found.failure
        kept = self._attempts.row_kept(subtask) if self._delivers(subtask) else found.row_done
        self._stop_moving(subtask)
        self._do(self._attempts.failed(subtask, failure.code, failure.message, row_done=kept))

    def _on_computed(self, computed: local_pb2.ExecutorFinished) -> None:
        subtask = computed.progress.subtask_id
        prepared = self._prepared.get(subtask)
        finished = pb.Finished(
            progress=computed.progress, finished_s=computed.finished_s, inline=computed.inline
        )
        if prepared:
            prepared.report(finished)
        if fetching := self._fetching.pop(subtask, None):
            fetching.cancel()  # Whatever it waits for is not needed.
        self._do(self._attempts.computed(finished, must_deliver=self._delivers(subtask)))

    def on_executor_died(self, device: str, reason: str) -> None:
        self._do(self._attempts.executor_died(reason, device))
        # Its mappings died with it: nothing is written any more.
        executor, unfinished = self._executors.get(device), self._attempts.unfinished
        ran = [one for one, link in self._running.items() if link is executor]
        for subtask in [one for one in ran if one not in unfinished]:
            self._close(subtask)

    def _on_released(self, subtask: str) -> None:
        """The executor does not touch the blocks any more."""
        if subtask not in self._delivering and subtask not in self._attempts.unfinished:
            self._close(subtask)

    # Effects

    def _do(self, effects: Iterable[attempts.Effect]) -> None:
        for effect in effects:
            match effect:
                case attempts.Fetch(assign):
                    self._spawn(self._fetching, assign.subtask_id, self._fetch(assign))
                case attempts.Run(subtask):
                    self._run(subtask)
                case attempts.StopRun(subtask):
                    self._stop_moving(subtask)
                    cancel = pb.CancelSubtasks(subtask_ids=[subtask])
                    self._send(subtask, local_pb2.ExecutorRequest(cancel=cancel))
                case attempts.ShrinkRun(subtask, keep_area):
                    resize = pb.Resize(subtask_id=subtask, keep_area=keep_area)
                    self._send(subtask, local_pb2.ExecutorRequest(resize=resize))
                case attempts.TrimFetch(subtask, row_stop):
                    if prepared := self._prepared.get(subtask):
                        prepared.trim(row_stop)
                case attempts.Deliver(subtask, pieces):
                    self._spawn(self._delivering, subtask, self._deliver(subtask, pieces))
                case attempts.Drop(subtask):
                    self._drop(subtask)
                case attempts.Report(message):
                    self._tell(message)
                case _:
                    assert_never(effect)
        if not self._attempts.unfinished:
            self._idle.set()

    def _send(self, subtask: str, request: local_pb2.ExecutorRequest) -> None:
        if executor := self._running.get(subtask):
            executor.send(request)

    def _spawn(self, among: dict[str, asyncio.Task[None]], subtask: str, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        among[subtask] = task

        def ended(_: asyncio.Task[None]) -> None:
            if among.get(subtask) is task:
                del among[subtask]

        task.add_done_callback(ended)

    def _stop_moving(self, subtask: str) -> None:
        """Nothing is fetched, exchanged or delivered for it any more."""
        self._stop_exchanging(subtask)
        for among in (self._fetching, self._delivering):
            task = among.pop(subtask, None)
            if task and task is not asyncio.current_task():
                task.cancel()

    def _stop_exchanging(self, subtask: str) -> None:
        if exchange := self._exchanging.pop(subtask, None):
            assert self._exchanges is not None
            self._exchanges.close(exchange)

    async def _fetch(self, assign: pb.Assign) -> None:
        subtask = assign.subtask_id
        try:
            prepared = self._prepared[subtask] = await self._prepare(assign)
            prepared.trim(assign.rectangle.row_stop)
            if assign.HasField("share"):
                self._exchange(assign, prepared)
            row = prepared.row_here
            self._do(self._attempts.fetched(subtask))
            if subtask not in self._prepared:
                return  # Cancelled meanwhile.
            while row is not None and await prepared.wait_beyond(row):
                row = prepared.row_here or 0
                arrived = local_pb2.RowsArrived(subtask_id=subtask, row_stop=row)
                self._send(subtask, local_pb2.ExecutorRequest(rows_arrived=arrived))
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt is at its end.
            self._give_up(subtask, error)

    def _exchange(self, assign: pb.Assign, prepared: Prepared) -> None:
        """Joins those that share an epoch with it. Others may be waiting already."""
        subtask = assign.subtask_id
        if self._exchanges is None or prepared.exchange_memory is None:
            raise Unavailable("no gradients are exchanged here")

        def summed(step: int, loss: float) -> None:
            made = local_pb2.Gradient(subtask_id=subtask, step=step, loss=loss)
            self._send(subtask, local_pb2.ExecutorRequest(summed=made))

        self._exchanging[subtask] = self._exchanges.open(
            assign, prepared.exchange_memory, summed, lambda error: self._give_up(subtask, error)
        )

    async def _prepare(self, assign: pb.Assign) -> Prepared:
        try:
            return await self._blocks.prepare(assign)
        except Unavailable:
            # While the store is away (killed and started again, or the scheduler's too) work waits.
            prepared: Prepared = await patiently()(self._blocks.prepare, assign)
            return prepared

    def _run(self, subtask: str) -> None:
        prepared, assign = self._prepared[subtask], self._attempts.assign_of(subtask)
        assert assign is not None
        executor = self._executors.get(assign.device)
        if executor is None:
            # It was on its way when the scheduler heard that nothing computes here any more.
            message = f"{assign.device} has no executor"
            kept = self._attempts.row_kept(subtask)
            self._do(
                self._attempts.failed(subtask, "executor_died", message, row_done=kept, died=True)
            )
            self._stop_moving(subtask)
            self._close(subtask)
            return
        self._running[subtask] = executor
        slim = pb.Assign()
        slim.CopyFrom(assign)
        for block in slim.operands:
            block.ClearField("inline")  # They travel in the mapped blocks.
        run = local_pb2.RunSubtask(
            assign=slim,
            operands=prepared.operands,
            result=prepared.result,
            row_stop=prepared.row_here,
        )
        if prepared.exchange_memory is not None:
            run.exchange_bytes = prepared.exchange_memory.size_bytes
        executor.send(local_pb2.ExecutorRequest(run=run), prepared.descriptors)
        prepared.close_descriptors()

    async def _deliver(self, subtask: str, pieces: tuple[Rectangle, ...]) -> None:
        assign = self._attempts.assign_of(subtask)
        prepared = self._prepared.get(subtask)
        if assign is None or prepared is None:
            return
        try:
            # With the store of the moment each time: one that was killed is another one now.
            async for attempt in patiently():
                with attempt:
                    await self._blocks.deliver(assign, prepared, pieces)
        except Unavailable as error:
            self._attempts.delivery_broke(subtask)
            log.warning(
                f"a result waits for the store: {error}",
                extra=logs.keys("deliver", subtask=subtask),
            )
            return  # Tried again when the session is opened anew, or further rows are computed.
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt is at its end.
            self._give_up(subtask, error)
            return
        if finished := self._attempts.finished_of(subtask):
            prepared.report(finished)
            finished.finished_s = time.monotonic()
        self._delivering.pop(subtask, None)
        self._do(self._attempts.rows_delivered(subtask))

    def _give_up(self, subtask: str, error: Exception) -> None:
        """Its blocks cannot be moved. An attempt that nobody ends would hang until this node is
        lost, so also what nobody foresaw ends it."""
        if not isinstance(error, DeadheatError):
            log.error(
                "moving blocks failed", exc_info=error, extra=logs.keys("blocks", subtask=subtask)
            )
            error = DeadheatError(f"moving blocks: {type(error).__name__}: {error}")
        self._do(self._attempts.given_up(subtask, error))

    def _drop(self, subtask: str) -> None:
        """Blocks go at once if no executor has them; else when it says that it is done."""
        self._stop_moving(subtask)
        prepared = self._prepared.get(subtask)
        if prepared and (prepared.descriptors or prepared.result_memory is not None):
            self._close(subtask)

    def _close(self, subtask: str) -> None:
        self._stop_exchanging(subtask)
        self._running.pop(subtask, None)
        if prepared := self._prepared.pop(subtask, None):
            prepared.close()

    def set_yielding(self, device: str, *, is_yielding: bool) -> None:
        """A device that gives way ends its sub-tasks at their next cancel points."""
        if not is_yielding:
            self._yielding.discard(device)
            return
        self._yielding.add(device)
        for subtask in self._attempts.unfinished_on(device):
            self._do(self._attempts.give_back(subtask))

    # The end

    async def give_back(self, budget_s: float) -> None:
        """Ends each sub-task at its next cancel point and gives the rest back."""
        for subtask in self._attempts.unfinished:
            self._do(self._attempts.give_back(subtask))
        self._idle.clear()
        if self._attempts.unfinished:
            try:
                await asyncio.wait_for(self._idle.wait(), budget_s)
            except TimeoutError:
                log.warning("gave up waiting for panels to end", extra=logs.keys("stop"))
        # What has not ended by now is the scheduler's again when it hears our goodbye.
        for task in (*self._fetching.values(), *self._delivering.values()):
            task.cancel()
