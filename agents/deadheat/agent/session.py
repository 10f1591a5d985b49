"""The one stream to the scheduler: registers, reports, obeys, and comes back when it breaks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from deadheat.agent.blocks import Blocks
from deadheat.agent.service import PeerServer
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import logs, rpc
from deadheat.runtime.errors import TimedOut, Unavailable
from deadheat.runtime.settings import AgentSettings
from deadheat.store.descriptors import DescriptorClient
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import cluster_pb2
from deadheat.v1.agent_pb2_grpc import AgentServiceStub
from deadheat.v1.cluster_pb2_grpc import ClusterServiceStub
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

if TYPE_CHECKING:
    from deadheat.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from deadheat.v1.cluster_pb2_grpc import ClusterServiceAsyncStub

log = logs.get("session")

Request = pb.AgentServiceSessionRequest
Call = grpc.aio.StreamStreamCall[Request, pb.AgentServiceSessionResponse]

REGISTER_TIMEOUT_S: Final = 10.0
#: After a break the agent comes back within this time and some chance, so that a hundred agents
#: do not come all at once.
FIRST_RETRY_S: Final = 0.2
MAX_RETRY_S: Final = 5.0
#: A session that held so long was a good one: the next comes at once.
STEADY_S: Final = 10.0
#: Messages that wait while the scheduler does not read; samples are dropped first anyway.
MAX_QUEUED: Final = 10_000
#: Without a session something is tried all the time, and every try ends: this is well beyond the
#: longest of them and the longest pause.
STUCK_S: Final = 60.0


class Session:
    """Keeps a session with the scheduler for as long as the agent lives."""

    def __init__(
        self,
        settings: AgentSettings,
        registration: pb.Register,
        blocks: Blocks,
        on_shared: Callable[[int], None],
        serving: PeerServer | None = None,
    ) -> None:
        self._settings = settings
        self._registration = registration
        self._blocks = blocks
        self._on_shared = on_shared
        self._serving = serving
        self._subtasks: Subtasks | None = None
        self._queue: deque[Request] = deque()
        self._filled = asyncio.Event()
        self._is_open = False
        self._stopping = False
        self._endpoint = cluster_pb2.StoreEndpoint()
        self._data_channel: grpc.aio.Channel | None = None
        self.registered = asyncio.Event()
        self.on_opened: Callable[[], None] | None = None
        self.on_nothing_to_do: Callable[[], None] | None = None
        self._tried_s = time.monotonic()
        #: Why there was no session at the last try.
        self.problem = ""

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def stuck(self) -> str:
        """What a restart of this agent might mend; nothing while it tries, or talks."""
        silence_s = time.monotonic() - self._tried_s
        if self._is_open or silence_s < STUCK_S:
            return ""
        return f"no try to register for {silence_s:.0f} s"

    def attach(self, subtasks: Subtasks) -> None:
        self._subtasks = subtasks

    def tell(self, message: Request) -> None:
        """Sends if there is a session; without one the message is dropped (the core keeps what
        must not be)."""
        if not self._is_open:
            return
        if len(self._queue) >= MAX_QUEUED:
            log.warning("the scheduler does not read", extra=logs.keys("session"))
            self._queue.clear()
            self._is_open, self._tried_s = False, time.monotonic()
            return
        self._queue.append(message)
        self._filled.set()

    async def run(self) -> None:
        """Until `leave`, or until the scheduler refuses this agent (raises that error)."""
        address = self._settings.scheduler
        async with rpc.aio_channel(
            address, self._settings.tls, rpc.channel_options(address)
        ) as channel:
            breaks = 0
            while not self._stopping:
                call = await self._open(channel)
                opened_s = time.monotonic()
                await self._converse(call)
                if not self._stopping:
                    log.warning("the session broke, reconnecting", extra=logs.keys("session"))
                    steady = time.monotonic() - opened_s >= STEADY_S
                    breaks = 0 if steady else breaks + 1
                    await asyncio.sleep(retry_pause_s(breaks))

    async def _open(self, channel: grpc.aio.Channel) -> Call:
        retrying = AsyncRetrying(
            wait=wait_random_exponential(multiplier=FIRST_RETRY_S, max=MAX_RETRY_S),
            retry=retry_if_exception_type((Unavailable, TimedOut)),
            before_sleep=self._on_retry,
        )
        return await retrying(self._register, channel)

    def _on_retry(self, state: RetryCallState) -> None:
        self.problem = str(state.outcome.exception()) if state.outcome else ""
        # The first time loudly, then quietly: a scheduler may be away for long.
        level = log.warning if state.attempt_number == 1 else log.debug
        level(
            f"{self.problem}; trying again",
            extra=logs.keys("session", attempt=state.attempt_number),
        )

    async def _register(self, channel: grpc.aio.Channel) -> Call:
        cluster: ClusterServiceAsyncStub = ClusterServiceStub(channel)
        agent: AgentServiceAsyncStub = AgentServiceStub(channel)
        self._tried_s = time.monotonic()
        doing = f"registering with the scheduler at {self._settings.scheduler}"
        with rpc.translated(doing):
            found = await cluster.GetCluster(
                cluster_pb2.ClusterServiceGetClusterRequest(), timeout=REGISTER_TIMEOUT_S
            )
            await self._use_store(found.store)
            call: Call = agent.Session()
            message = Request(sent_s=time.monotonic(), register=self._registration)
            message.register.shares_memory = self._blocks.shared is not None
            if self._serving:
                message.register.peer_address = await self._serving.open()
            assert self._subtasks is not None
            message.register.held.extend(self._subtasks.held)
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await call.write(message)
                    first = await call.read()
            except TimeoutError:
                call.cancel()
                raise TimedOut(f"{doing}: no answer") from None
        if first is grpc.aio.EOF or not isinstance(first, pb.AgentServiceSessionResponse):
            with rpc.translated(doing):
                await call.wait_for_connection()
            raise Unavailable(f"{doing}: the stream ended")
        return call

    async def _converse(self, call: Call) -> None:
        assert self._subtasks is not None
        self._queue.clear()
        self._is_open, self.problem = True, ""
        self._subtasks.session_opened()
        if self.on_opened:
            self.on_opened()
        self.registered.set()
        log.info(
            f"registered with {self._settings.scheduler}",
            extra=logs.keys("registered", node=self._registration.node),
        )
        writing = asyncio.get_running_loop().create_task(self._write(call))
        try:
            # Not `async for`: gRPC wants one style of reading for each call.
            while isinstance(message := await call.read(), pb.AgentServiceSessionResponse):
                await self._obey(message)
        except grpc.RpcError as error:
            problem = rpc.from_rpc_error(error, doing="session")
            log.warning(str(problem), extra=logs.keys("session"))
        finally:
            self._is_open = False
            self._tried_s = time.monotonic()
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            call.cancel()

    async def _write(self, call: Call) -> None:
        """Stamps each message when it is sent, so that the scheduler can compare clocks."""
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while self._is_open or self._queue:
                self._filled.clear()
                while self._queue:
                    message = self._queue.popleft()
                    message.sent_s = time.monotonic()
                    await call.write(message)
                    if message.HasField("goodbye"):
                        await call.done_writing()
                        return
                await self._filled.wait()

    async def _obey(self, message: pb.AgentServiceSessionResponse) -> None:
        assert self._subtasks is not None
        match message.WhichOneof("message"):
            case "registered":
                await self._use_store(message.registered.store)
                self._subtasks.session_opened()
            case "assign":
                self._subtasks.assigned(message.assign)
            case "cancel_subtasks":
                self._subtasks.cancelled(message.cancel_subtasks.subtask_ids)
            case "resize":
                self._subtasks.resize(message.resize)
            case "settled":
                self._subtasks.settled(message.settled.subtask_ids)
            case "nothing_to_do":
                if self.on_nothing_to_do:
                    self.on_nothing_to_do()
            case "drain":
                reason = message.drain.reason or "no reason given"
                log.info(f"drained: {reason}", extra=logs.keys("drain"))

    async def _use_store(self, endpoint: cluster_pb2.StoreEndpoint) -> None:
        """Shares memory with the store if it is on this host, else streams."""
        if endpoint == self._endpoint:
            return
        self._endpoint = endpoint
        if self._blocks.shared:
            self._blocks.shared.close()
        if self._data_channel:
            await self._data_channel.close()
        try:
            self._blocks.shared = await asyncio.to_thread(
                DescriptorClient, endpoint.descriptor_socket, endpoint.ticket
            )
            self._on_shared(self._blocks.shared.socket_descriptor)
        except Unavailable:
            self._blocks.shared = None
        host = endpoint.host or rpc.split_address(self._settings.scheduler)[0]
        address = f"{host}:{endpoint.port}"
        self._data_channel = rpc.aio_channel(address, self._settings.tls, rpc.data_options(address))
        self._blocks.stub = MatrixServiceStub(self._data_channel)

    async def leave(self, reason: str) -> None:
        """Says goodbye after all that was said before, and ends `run`."""
        self._stopping = True
        self.tell(Request(goodbye=pb.Goodbye(reason=reason)))

    async def close(self) -> None:
        if self._serving:
            await self._serving.close()
        if self._data_channel:
            await self._data_channel.close()


def retry_pause_s(breaks: int) -> float:
    """The pause after so many sessions in a row that broke soon: somebody ends them on purpose,
    like another agent of the same name, which would otherwise fight this one without a pause."""
    longest_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(breaks, 10))
    return random.uniform(0.0, longest_s)  # noqa: S311 - to spread agents, not to keep secrets.
