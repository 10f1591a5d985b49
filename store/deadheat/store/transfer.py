"""The other end of MatrixService: rectangles streamed in and out, checked, resumed by offset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import google_crc32c
import grpc
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from deadheat.runtime import rpc, wire
from deadheat.runtime.errors import DataLost, Unavailable
from deadheat.runtime.programs import Rectangle
from deadheat.store.regions import Region
from deadheat.v1 import matrix_pb2 as pb

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

#: A broken transfer goes on where it stopped, so often; then its error stands.
MAX_ATTEMPTS: Final = 6
#: A transfer in which nothing arrives for so long is broken.
STALL_LIMIT_S: Final = 20.0


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, (Unavailable, DataLost))


def _attempts() -> AsyncRetrying:
    return AsyncRetrying(
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        retry=retry_if_exception(_is_passing),
        reraise=True,
    )


async def get(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    rectangle: Rectangle,
    into: memoryview,
    *,
    done: int = 0,
    on_arrived: Callable[[int], bool] = lambda _: True,
) -> int:
    """Reads a rectangle into `into`, row-major without gaps; returns the bytes that were moved.

    The first `done` bytes are there. `on_arrived` is told how many are whenever there are more, and
    returns whether to go on.
    """
    first = done

    def note(position: int) -> bool:
        nonlocal done
        done = position
        return on_arrived(position)

    async for attempt in _attempts():
        with attempt:
            await get_once(stub, matrix_id, rectangle, into, done=done, on_arrived=note)
    return done - first


async def get_once(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    rectangle: Rectangle,
    into: memoryview,
    *,
    done: int,
    on_arrived: Callable[[int], bool],
    stall_limit_s: float = STALL_LIMIT_S,
) -> None:
    """Like `get`, but whatever goes wrong is raised at once. What `on_arrived` was told of has come
    and is right all the same."""
    request = pb.MatrixServiceGetRequest(
        matrix_id=matrix_id, rectangle=wire.rectangle_to_wire(rectangle), offset=done
    )
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(stall_limit_s) as stalled:
            call = stub.Get(request, timeout=_deadline_s(len(into)))
            async for response in call:
                stalled.reschedule(clock() + stall_limit_s)
                chunk = response.chunk
                end = chunk.offset + len(chunk.data)
                if chunk.offset != done or end > len(into):
                    raise DataLost(f"chunk at {chunk.offset} came where {done} was next")
                if google_crc32c.value(chunk.data) != chunk.crc32c:
                    raise DataLost(f"the chunk at offset {done} does not match its checksum")
                into[done:end] = chunk.data
                done = end
                if not on_arrived(done):
                    call.cancel()
                    return
    except TimeoutError:
        raise Unavailable(
            f"reading matrix {matrix_id}: nothing came for {stall_limit_s:g} s"
        ) from None
    except grpc.RpcError as error:
        raise rpc.from_rpc_error(error, doing=f"reading matrix {matrix_id}") from None
    except asyncio.CancelledError:
        _raise_if_closed(matrix_id)
        raise
    except grpc.aio.UsageError:  # It was closed before.
        raise _closed(matrix_id) from None
    if done < len(into):
        raise DataLost(f"matrix {matrix_id} ended after {done} of {len(into)} bytes")


async def put(
    stub: MatrixServiceAsyncStub,
    matrix_id: str,
    upload_id: str,
    rectangle: Rectangle,
    source: Region,
) -> int:
    """Writes a rectangle from `source`; returns the bytes that were moved."""
    moved = 0
    start = 0
    async for attempt in _attempts():
        with attempt:
            try:
                if attempt.retry_state.attempt_number > 1:
                    stat = pb.MatrixServiceStatRequest(matrix_id=matrix_id, upload_id=upload_id)
                    answer = await stub.Stat(stat, timeout=rpc.CALL_TIMEOUT_S)
                    start = answer.received_bytes
                header = pb.PutHeader(
                    matrix_id=matrix_id,
                    upload_id=upload_id,
                    rectangle=wire.rectangle_to_wire(rectangle),
                    offset=start,
                )
                moved += source.size_bytes - start
                await stub.Put(_parts(header, source), timeout=_deadline_s(source.size_bytes))
            except grpc.RpcError as error:
                raise rpc.from_rpc_error(error, doing=f"writing matrix {matrix_id}") from None
            except asyncio.CancelledError:
                _raise_if_closed(matrix_id)
                raise
            except grpc.aio.UsageError:  # It was closed before.
                raise _closed(matrix_id) from None
    return moved


def _raise_if_closed(matrix_id: str) -> None:
    """A channel that somebody closes cancels its calls; that is not to cancel who waits for one."""
    task = asyncio.current_task()
    if task and not task.cancelling():
        raise _closed(matrix_id) from None


def _closed(matrix_id: str) -> Unavailable:
    """Whoever tries again with a channel to the store as it is now may succeed."""
    return Unavailable(f"the channel was closed while matrix {matrix_id} was moved")


async def _parts(header: pb.PutHeader, source: Region) -> AsyncIterator[pb.MatrixServicePutRequest]:
    yield pb.MatrixServicePutRequest(header=header)
    for offset in range(header.offset, source.size_bytes, rpc.CHUNK_BYTES):
        data = source.read(offset, rpc.CHUNK_BYTES)
        chunk = pb.Chunk(offset=offset, data=data, crc32c=google_crc32c.value(data))
        yield pb.MatrixServicePutRequest(chunk=chunk)


def _deadline_s(size_bytes: int) -> float:
    """A transfer may be slow, but not slower than a thousandth of a fast network for ever."""
    return STALL_LIMIT_S + size_bytes / 1e5
