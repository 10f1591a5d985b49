"""The other end of MatrixService: rectangles streamed in and out, checked, resumed by offset."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from deadheat.runtime import rpc, wire
from deadheat.runtime.chunks import check_unharmed, chunk_of
from deadheat.runtime.errors import DataLost, DeadheatError, Unavailable
from deadheat.runtime.programs import Rectangle
from deadheat.store.regions import Region
from deadheat.v1 import matrix_pb2 as pb

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

#: A broken transfer goes on where it stopped, so often without getting further; then its error
#: stands.
MAX_ATTEMPTS: Final = 6
#: A transfer in which nothing arrives for so long is broken. Longer than gRPC's keepalive takes to
#: notice a connection that is gone, so that the next attempt finds a new one.
STALL_LIMIT_S: Final = 20.0


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, (Unavailable, DataLost))


class _Attempts:
    """The attempts of one transfer. Those after which more was there than before do not count: on a
    bad network a large matrix comes in many pieces."""

    def __init__(self) -> None:
        self._useless = 0
        self._furthest = 0

    def is_at(self, done: int) -> None:
        if done > self._furthest:
            self._useless, self._furthest = 0, done

    def _is_over(self, _: RetryCallState) -> bool:
        self._useless += 1
        return self._useless >= MAX_ATTEMPTS

    def _pause_s(self, _: RetryCallState) -> float:
        longest_s = min(2.0, 0.1 * 2.0**self._useless)
        return random.uniform(0.0, longest_s)  # noqa: S311 - to spread clients, keeps no secret.

    def all(self) -> AsyncRetrying:
        return AsyncRetrying(
            stop=self._is_over,
            wait=self._pause_s,
            retry=retry_if_exception(_is_passing),
            reraise=True,
        )


class _Watch:
    """Ends what it watches when there has been no progress for a while."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._timeout = asyncio.timeout(stall_s)
        self._is_on = False

    def progress(self) -> None:
        # Who reads our chunks may ask for one more when all is over.
        if self._is_on and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._stall_s)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._is_on = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_on = False
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Unavailable(f"nothing moved for {self._stall_s:g} s") from None


class _Translated(rpc.translated):
    """Whatever the other end did not say itself befell the connection: a bit that flipped in a
    frame or in a message has no status of its own. Such a transfer may succeed next time."""

    def __init__(self, doing: str, matrix_id: str) -> None:
        super().__init__(f"{doing} matrix {matrix_id}")
        self._matrix_id = matrix_id

    def _found(self, error: BaseException | None) -> DeadheatError | None:
        match error:
            case grpc.RpcError():
                found = super()._found(error)
                if found and not rpc.is_said_by_us(error):
                    return Unavailable(found.message)
                return found
            case asyncio.CancelledError():
                # A channel that somebody closes cancels its calls; that is not to cancel who waits.
                task = asyncio.current_task()
                return _closed(self._matrix_id) if task and not task.cancelling() else None
            case grpc.aio.UsageError():  # It was closed before.
                return _closed(self._matrix_id)
        return None


async def get(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    rectangle: Rectangle,
    into: memoryview,
    *,
    done: int = 0,
    on_arrived: Callable[[int], bool] = lambda _: True,
    stall_s: float = STALL_LIMIT_S,
) -> int:
    """Reads a rectangle into `into`, row-major without gaps; returns the bytes that were moved.

    The first `done` bytes are there. `on_arrived` is told how many are whenever there are more, and
    returns whether to go on.
    """
    first = done
    attempts = _Attempts()

    def note(position: int) -> bool:
        nonlocal done
        done = position
        attempts.is_at(done)
        return on_arrived(done)

    async for attempt in attempts.all():
        with attempt:
            attempts.is_at(done)
            await get_once(
                stub, matrix_id, rectangle, into, done=done, on_arrived=note, stall_s=stall_s
            )
    return done - first


async def get_once(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    rectangle: Rectangle,
    into: memoryview,
    *,
    done: int,
    on_arrived: Callable[[int], bool],
    stall_s: float = STALL_LIMIT_S,
) -> None:
    """Like `get`, but whatever goes wrong is raised at once. What `on_arrived` was told of has come
    and is right all the same."""
    request = pb.MatrixServiceGetRequest(
        matrix_id=matrix_id, rectangle=wire.rectangle_to_wire(rectangle), offset=done
    )
    with _Translated("reading", matrix_id):
        async with _Watch(stall_s) as watch:
            call = stub.Get(request, timeout=_deadline_s(len(into)))
            try:
                async for response in call:
                    chunk = _checked(response, done, len(into))
                    end = done + len(chunk.data)
                    into[done:end] = chunk.data
                    done = end
                    watch.progress()
                    if not on_arrived(done):
                        call.cancel()
                        return
            finally:
                del call  # An error of it has this frame.
        if done < len(into):
            raise DataLost(f"matrix {matrix_id} ended after {done} of {len(into)} bytes")


def _checked(response: pb.MatrixServiceGetResponse | None, done: int, size: int) -> pb.Chunk:
    """The chunk of an answer; raises DataLost if it is not the one that is next, unharmed."""
    if response is None:  # gRPC's word for a message that cannot be parsed.
        raise DataLost(f"what came at offset {done} is no chunk")
    chunk = response.chunk
    if chunk.offset != done or done + len(chunk.data) > size:
        raise DataLost(f"chunk at {chunk.offset} came where {done} was next")
    check_unharmed(chunk)
    return chunk


async def put(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    upload_id: str,
    rectangle: Rectangle,
    source: Region,
    *,
    stall_s: float = STALL_LIMIT_S,
) -> int:
    """Writes a rectangle from `source`; returns the bytes that were moved."""
    moved = 0
    start = 0
    attempts = _Attempts()
    async for attempt in attempts.all():
        with attempt, _Translated("writing", matrix_id):
            if attempt.retry_state.attempt_number > 1:
                stat = pb.MatrixServiceStatRequest(matrix_id=matrix_id, upload_id=upload_id)
                async with _Watch(stall_s):
                    answer = await stub.Stat(stat, timeout=rpc.CALL_TIMEOUT_S)
                start = min(answer.received_bytes if answer else 0, source.size_bytes)
                attempts.is_at(start)
            header = pb.PutHeader(
                matrix_id=matrix_id,
                upload_id=upload_id,
                rectangle=wire.rectangle_to_wire(rectangle),
                offset=start,
            )
            moved += source.size_bytes - start
            async with _Watch(stall_s) as watch:
                parts = _parts(header, source, watch.progress)
                done = await stub.Put(parts, timeout=_deadline_s(source.size_bytes))
            received = done.received_bytes if done else 0
            if received < source.size_bytes:
                raise DataLost(
                    f"matrix {matrix_id}: {received} of {source.size_bytes} bytes arrived"
                )
    return moved


def _closed(matrix_id: str) -> Unavailable:
    """Whoever tries again with a channel to the store as it is now may succeed."""
    return Unavailable(f"the channel was closed while matrix {matrix_id} was moved")


async def _parts(
    header: pb.PutHeader, source: Region, on_taken: Callable[[], None]
) -> AsyncIterator[pb.MatrixServicePutRequest]:
    yield pb.MatrixServicePutRequest(header=header)
    for offset in range(header.offset, source.size_bytes, rpc.CHUNK_BYTES):
        chunk = chunk_of(offset, source.read(offset, rpc.CHUNK_BYTES))
        on_taken()
        yield pb.MatrixServicePutRequest(chunk=chunk)


def _deadline_s(size_bytes: int) -> float:
    """A transfer may be slow, but not slower than a thousandth of a fast network for ever."""
    return STALL_LIMIT_S + size_bytes / 1e5
