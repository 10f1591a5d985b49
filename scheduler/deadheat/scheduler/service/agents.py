"""AgentService: one stream for each agent; its reports become events, effects its orders."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc

from deadheat.runtime import logs, rpc
from deadheat.runtime.errors import Conflict, DeadheatError, InvalidInput, Unavailable
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.nodes import LOST_AFTER_S
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.service import convert
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import agent_pb2_grpc

log = logs.get("agents")

Context = grpc.aio.ServicerContext[Any, Any]
Response = pb.AgentServiceSessionResponse

#: Orders that wait for an agent that does not read; then its session is ended.
MAX_QUEUED: Final = 20_000
#: Messages over which the least delay is taken for the offset between two clocks.
OFFSET_WINDOW: Final = 64
#: How long an agent keeps what it said of a sub-task after that is durable here.
SETTLE_INTERVAL_S: Final = 0.02


class _Session:
    """One agent's stream."""

    def __init__(self, clock: Clock, registration: pb.Register) -> None:
        self._clock = clock
        self.node = registration.node
        self.instance = registration.instance
        self.threads = {device.id: max(1, device.threads) for device in registration.devices}
        self.orders: asyncio.Queue[Response | None] = asyncio.Queue(MAX_QUEUED)
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.said_goodbye = False
        self._offsets: deque[float] = deque(maxlen=OFFSET_WINDOW)

    def note_clock(self, sent_s: float) -> None:
        """The least of (received here - sent there) is the offset of the clocks, but for the
        shortest delay."""
        self._offsets.append(self._clock.now() - sent_s)

    def at(self, agent_s: float) -> float:
        """An agent's moment on our clock; never in the future."""
        return min(agent_s + min(self._offsets), self._clock.now())

    def order(self, message: Response) -> None:
        try:
            self.orders.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("an agent does not read", extra=logs.keys("session", node=self.node))
            self.end()

    def end(self) -> None:
        with suppress(asyncio.QueueFull):
            self.orders.put_nowait(None)
        if not self.accepted.done():
            self.accepted.set_exception(Unavailable("the scheduler is stopping"))


class AgentSessions:
    """All streams, by node: the newest of a node is the one that gets orders."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._settled: dict[str, list[str]] = {}
        self._store: StoreLink | None = None
        self.cluster_id = ""

    def attach(self, store: StoreLink, cluster_id: str) -> None:
        self._store, self.cluster_id = store, cluster_id

    def send(self, effect: effects.Effect) -> None:
        match effect:
            case effects.SendAssign(node=node):
                self._order(node, convert.assign(effect))
            case effects.SendCancel(node, subtasks):
                self._order(node, Response(cancel_subtasks=pb.CancelSubtasks(subtask_ids=subtasks)))
            case effects.SendResize(node, subtask, keep_area):
                resize = pb.Resize(subtask_id=subtask, keep_area=keep_area)
                self._order(node, Response(resize=resize))
            case effects.SendSettled(node, subtasks):
                self._settle(node, subtasks)
            case effects.SendDrain(node, reason):
                self._order(node, Response(drain=pb.Drain(reason=reason)))
            case effects.SendNothingToDo(node):
                self._order(node, Response(nothing_to_do=pb.NothingToDo()))
            case effects.AcceptNode(node, instance):
                self._accept(node, instance)
            case effects.RefuseNode(node, instance, error):
                self._refuse(node, instance, error)
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def _settle(self, node: str, subtasks: Sequence[str]) -> None:
        """Nobody waits for these: they go together, with one message for many small jobs."""
        if node in self._settled:
            self._settled[node] += subtasks
            return
        self._settled[node] = list(subtasks)
        asyncio.get_running_loop().call_later(SETTLE_INTERVAL_S, self._tell_settled, node)

    def _tell_settled(self, node: str) -> None:
        settled = pb.Settled(subtask_ids=self._settled.pop(node))
        self._order(node, Response(settled=settled))

    def _order(self, node: str, message: Response) -> None:
        if session := self._sessions.get(node):
            session.order(message)

    def _accept(self, node: str, instance: str) -> None:
        session = self._sessions.get(node)
        if session and session.instance == instance:
            session.order(self._registered())
            if not session.accepted.done():
                session.accepted.set_result(None)

    def _refuse(self, node: str, instance: str, error: DeadheatError) -> None:
        session = self._sessions.get(node)
        if session and session.instance == instance and not session.accepted.done():
            session.accepted.set_exception(error)

    def _registered(self) -> Response:
        assert self._store is not None
        return Response(
            registered=pb.Registered(
                cluster_id=self.cluster_id,
                store=self._store.endpoint,
                lease_s=LOST_AFTER_S,
                inline_limit_bytes=rpc.INLINE_LIMIT_BYTES,
            )
        )

    def announce_store(self) -> None:
        """The store has started anew: everybody learns where it is now."""
        for session in self._sessions.values():
            session.order(self._registered())

    def end_all(self) -> None:
        for session in self._sessions.values():
            session.end()

    def open(self, session: _Session) -> _Session | None:
        """Makes a session the node's; returns the one that it replaces."""
        before = self._sessions.get(session.node)
        self._sessions[session.node] = session
        return before

    def restore(self, session: _Session, before: _Session | None) -> None:
        """A refused registration leaves the session that was there in its place."""
        if self._sessions.get(session.node) is session:
            if before:
                self._sessions[session.node] = before
            else:
                del self._sessions[session.node]

    def close(self, session: _Session) -> bool:
        """Whether it still was the node's."""
        if self._sessions.get(session.node) is session:
            del self._sessions[session.node]
            return True
        return False


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    def __init__(self, shell: Shell, sessions: AgentSessions) -> None:
        self._shell = shell
        self._sessions = sessions

    async def Session(
        self, request_iterator: AsyncIterator[pb.AgentServiceSessionRequest], context: Context
    ) -> AsyncIterator[Response]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "register":
            raise InvalidInput("a session starts with Register", field="register")
        registered = convert.registration(first.register)
        session = _Session(self._shell.clock, first.register)
        session.note_clock(first.sent_s)
        before = self._sessions.open(session)
        self._shell.feed(registered)
        try:
            await session.accepted
        except DeadheatError:
            self._sessions.restore(session, before)
            raise
        if before:
            before.end()
        reading = asyncio.get_running_loop().create_task(self._read(request_iterator, session))
        try:
            while (message := await session.orders.get()) is not None:
                yield message
        finally:
            reading.cancel()
            if self._sessions.close(session) and not session.said_goodbye:
                self._shell.feed(events.SessionBroken(session.node, session.instance))

    async def _read(
        self, messages: AsyncIterator[pb.AgentServiceSessionRequest], session: _Session
    ) -> None:
        try:
            async for message in messages:
                session.note_clock(message.sent_s)
                if event := self._event(message, session):
                    self._shell.feed(event)
        except (DeadheatError, grpc.RpcError) as error:
            log.warning(
                f"a message was refused: {error}", extra=logs.keys("session", node=session.node)
            )
        finally:
            session.end()

    @staticmethod
    def _event(message: pb.AgentServiceSessionRequest, session: _Session) -> events.Event | None:
        node, at = session.node, session.at
        if event := AgentServicer._event_of_device(message, session):
            return event
        match message.WhichOneof("message"):
            case "progress":
                made = [convert.progress(one, at) for one in message.progress.subtasks]
                return events.SubtasksProgressed(node, made)
            case "finished":
                return convert.finished(node, message.finished, at)
            case "failed":
                return convert.failed(node, message.failed)
            case "resized":
                return convert.resized(node, message.resized)
            case "goodbye":
                session.said_goodbye = True
                return events.NodeLeft(node, session.instance, message.goodbye.reason[:256])
            case "register":
                raise Conflict("a session registers once", field="register")
            case _:
                return None  # A newer agent says something that we do not know yet.

    @staticmethod
    def _event_of_device(
        message: pb.AgentServiceSessionRequest, session: _Session
    ) -> events.Event | None:
        """What is said of devices rather than of work."""
        node = session.node
        match message.WhichOneof("message"):
            case "samples":
                return convert.sampled(node, message.samples, session.threads, session.at)
            case "speed_points":
                told = message.speed_points
                points = convert.speed_points(told.points)
                problem = told.problem[: events.MAX_PROBLEM]
                return events.SpeedMeasured(node, told.device, points, problem)
            case "yielding":
                reason = message.yielding.reason[: convert.MAX_REASON]
                return events.DeviceYields(node, message.yielding.device, reason)
            case "appeared":
                session.threads[message.appeared.id] = max(1, message.appeared.threads)
                return events.DeviceAppeared(node, convert.device_facts(message.appeared))
        return None
