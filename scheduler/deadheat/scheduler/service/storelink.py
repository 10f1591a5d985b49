"""The scheduler's store: a child process, started, watched, started again if it dies."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import grpc

from deadheat.runtime import logs, rpc, wire
from deadheat.runtime.children import Child
from deadheat.runtime.errors import ClusterError, DeadheatError, TimedOut, Unavailable
from deadheat.runtime.ids import new_id
from deadheat.runtime.patience import patiently
from deadheat.runtime.programs import MatrixType
from deadheat.runtime.settings import SchedulerSettings
from deadheat.scheduler.core.admission import StoreLimits
from deadheat.scheduler.core.restore import Matrices
from deadheat.v1 import cluster_pb2
from deadheat.v1 import matrix_pb2 as pb
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

log = logs.get("store")

START_TIMEOUT_S: Final = 15.0
#: Deaths of the store within this time after which the scheduler gives up and says so.
MAX_DEATHS: Final = 5
DEATHS_WINDOW_S: Final = 60.0
STOP_TIMEOUT_S: Final = 3.6

Request = TypeVar("Request")
Answer = TypeVar("Answer")
#: Of a stub, one of its methods.
Method = Callable[["MatrixServiceAsyncStub"], "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]"]


def holder_of(job: str) -> str:
    return f"job:{job}"


class StoreLink:
    """Keeps one store running and speaks to it over a Unix socket that only this user can open."""

    def __init__(self, settings: SchedulerSettings, on_restart: Callable[[], None]) -> None:
        self._settings = settings
        self._on_restart = on_restart
        self._child: Child | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: MatrixServiceAsyncStub | None = None
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._stopping = False
        self._closing: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.endpoint = cluster_pb2.StoreEndpoint()
        self.limits = StoreLimits(0, 0)

    async def start(self) -> None:
        settings = self._settings
        host = rpc.split_address(settings.listen)[0]
        arguments = [
            *("--state-dir", str(settings.state_dir)),
            *("--memory-dir", str(settings.memory_dir)),
            *("--listen", f"{host}:0"),
            *("--disk", str(settings.disk_bytes)),
        ]
        if settings.memory_bytes is not None:
            arguments += ["--memory", str(settings.memory_bytes)]
        if settings.tls:
            tls = settings.tls
            arguments += ["--tls", str(tls.certificate), str(tls.key), str(tls.authority)]
        if settings.ephemeral:
            arguments.append("--ephemeral")
        self._child = Child("deadheat.store", arguments)
        ready = await asyncio.to_thread(self._child.wait_ready, START_TIMEOUT_S)
        self.endpoint = cluster_pb2.StoreEndpoint(
            port=int(str(ready["port"])),
            descriptor_socket=str(ready["descriptor_socket"]),
            ticket=str(ready["ticket"]),
        )
        self.limits = StoreLimits(int(str(ready["memory_bytes"])), int(str(ready["disk_bytes"])))
        address = str(ready["control"])
        self._channel = rpc.aio_channel(address, None, rpc.channel_options(address))
        self._stub = MatrixServiceStub(self._channel)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    @property
    def stub(self) -> MatrixServiceAsyncStub:
        if self._stub is None:
            raise Unavailable("the store is not running")
        return self._stub

    async def watch(self) -> None:
        """Starts the store again when it dies; `failed` is set when that does not help."""
        while True:
            child = self._child
            assert child is not None
            code = await asyncio.to_thread(child.process.wait)
            if self._stopping:
                return
            self._deaths.append(time.monotonic())
            log.error(f"the store ended with code {code}", extra=logs.keys("store_died"))
            recent = len(self._deaths) == MAX_DEATHS
            if recent and self._deaths[-1] - self._deaths[0] < DEATHS_WINDOW_S:
                self.failed.set_exception(ClusterError(f"the store died {MAX_DEATHS} times"))
                return
            self._leave_channel()
            try:
                await self.start()
            except DeadheatError as error:
                self.failed.set_exception(error)
                return
            self._on_restart()

    def _leave_channel(self) -> None:
        """What is being asked through it ends by itself: closing would cancel it, and whoever waits
        for an answer would take that for his own end."""
        left, self._channel, self._stub = self._channel, None, None
        if left:
            closing = asyncio.get_running_loop().create_task(left.close(rpc.CALL_TIMEOUT_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        self._stopping = True
        if self._channel:
            await self._channel.close()
        if self._child:
            await asyncio.to_thread(self._child.stop, STOP_TIMEOUT_S)

    def abandon(self) -> None:
        """Our own parent is gone: the store learns at once that it is alone."""
        self._stopping = True
        if self._child:
            self._child.abandon()

    # What the scheduler asks of it

    async def _ask(self, doing: str, method: Method[Request, Answer], request: Request) -> Answer:
        """Asks the store. One that dies meanwhile is asked again when it is back: whatever the
        scheduler asks may be done twice."""
        async for attempt in patiently(TimedOut):
            with attempt, rpc.translated(doing):
                return await method(self.stub)(request, timeout=rpc.CALL_TIMEOUT_S)
        raise AssertionError("the last attempt returns or raises")

    async def hold(self, job: str, matrix_ids: Sequence[str]) -> list[pb.MatrixInfo]:
        """Keeps operands for a job; raises NotFound for one that is not there."""
        return await self.hold_for(holder_of(job), matrix_ids)

    async def hold_for(self, holder: str, matrix_ids: Sequence[str]) -> list[pb.MatrixInfo]:
        """Keeps matrices for somebody; raises NotFound for one that is not there."""
        request = pb.MatrixServiceHoldRequest(
            request_id=new_id("r"), matrix_ids=matrix_ids, holder=holder
        )
        answer = await self._ask("holding operands", lambda stub: stub.Hold, request)
        return list(answer.matrices)

    async def make_results(self, job: str, matrices: Sequence[tuple[str, MatrixType]]) -> None:
        for matrix_id, matrix_type in matrices:
            request = pb.MatrixServiceCreateRequest(
                request_id=f"result-{matrix_id}",
                type=wire.matrix_type_to_wire(matrix_type),
                matrix_id=matrix_id,
                holder=holder_of(job),
            )
            await self._ask("making room for the result", lambda stub: stub.Create, request)

    async def seal(self, matrix_id: str, check_ids: Sequence[str]) -> None:
        """Seals a result, after a look at the files it was made from."""
        # All looks at once: one after the other they take longer than a small product.
        await asyncio.gather(*map(self._seal, check_ids))
        await self._seal(matrix_id)

    async def _seal(self, matrix_id: str) -> None:
        request = pb.MatrixServiceSealRequest(request_id=new_id("r"), matrix_id=matrix_id)
        await self._ask("sealing the result", lambda stub: stub.Seal, request)

    async def missing(self, matrix_ids: Sequence[str]) -> list[str]:
        """Those of these matrices that it does not have."""
        found = await self._listed("looking for matrices")
        return sorted({*matrix_ids} - {matrix.id for matrix in found})

    async def _listed(self, doing: str) -> Sequence[pb.MatrixInfo]:
        answer = await self._ask(doing, lambda stub: stub.List, pb.MatrixServiceListRequest())
        return answer.matrices

    async def delete(self, matrix_ids: Sequence[str]) -> None:
        for matrix_id in matrix_ids:
            request = pb.MatrixServiceDeleteRequest(request_id=new_id("r"), matrix_id=matrix_id)
            await self._ask("deleting matrices", lambda stub: stub.Delete, request)

    async def release(self, job: str, give_up: Sequence[str]) -> None:
        await self.delete(give_up)
        await self.release_of(holder_of(job))

    async def release_of(self, holder: str) -> None:
        """Ends all that somebody holds."""
        request = pb.MatrixServiceReleaseRequest(request_id=new_id("r"), holder=holder)
        await self._ask("releasing matrices", lambda stub: stub.Release, request)

    async def matrices(self, open_jobs: Sequence[str], others: Sequence[str]) -> Matrices:
        """What is there after a restart; holds of jobs that are not open any more, and of anybody
        else but these `others`, are ended."""
        found = await self._listed("listing matrices")
        wanted = {*map(holder_of, open_jobs), *others}
        stale = {holder for info in found for holder in info.holders} - wanted
        for holder in stale:
            await self.release_of(holder)
        sealed = {m.id for m in found if m.state == pb.MATRIX_STATE_SEALED}
        return Matrices(frozenset(m.id for m in found), frozenset(sealed))
