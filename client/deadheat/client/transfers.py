"""Operands to the store and results from it: by mapping on one host, by streaming elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array, Source
from deadheat.client.connection import Connection
from deadheat.client.kept import (
    KEPT_TTL_S,
    LEAST_BYTES,
    Content,
    HashedRegion,
    Kept,
    digest,
    sampled,
)
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.errors import DeadheatError, LimitReached, NotFound
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import MatrixType, Operand
from deadheat.runtime.units import MIB, format_bytes
from deadheat.store import transfer
from deadheat.store.npyfiles import open_regular
from deadheat.store.regions import Region
from deadheat.v1 import local_pb2, types_pb2
from deadheat.v1 import matrix_pb2 as pb

#: Copies of at least this size are cut among threads: NumPy copies without the interpreter lock.
PARALLEL_COPY_BYTES: Final = 8 * MIB
COPY_THREADS: Final = 4
#: How long a client that closes waits for a store to take note of it.
CLOSE_LIMIT_S: Final = 2.0


class Transfers:
    """Moves matrices for one client, on its loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        threads = min(COPY_THREADS, len(os.sched_getaffinity(0)))
        self._copiers = ThreadPoolExecutor(threads, thread_name_prefix="deadheat-copy")
        self._threads = threads
        self._kept = Kept()
        self._looking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        self._copiers.shutdown(wait=False, cancel_futures=True)
        for task in self._looking:
            task.cancel()
        with suppress(TimeoutError):  # A store that does not answer forgets it by itself.
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._give_up_surplus(everything=True)

    # Operands

    async def upload_all(
        self, sources: Sequence[Source], dtype: str, *, inline: bool, durable: bool
    ) -> tuple[Operand, ...]:
        """All operands of a job, or none: what fails, or is interrupted, leaves nothing behind."""
        uploads = [
            asyncio.create_task(self.upload(source, dtype, inline=inline, durable=durable))
            for source in sources
        ]
        keeping = asyncio.create_task(self._keep_alive())
        try:
            return tuple(await asyncio.gather(*uploads))
        except BaseException:
            await self._undo(uploads)
            raise
        finally:
            keeping.cancel()

    async def _undo(self, uploads: list[asyncio.Task[Operand]]) -> None:
        for upload in uploads:
            upload.cancel()
        ended = await asyncio.gather(*uploads, return_exceptions=True)
        # What they failed of holds their frames, and those the mappings, as long as we do.
        uploads.clear()
        await self.give_up_all([one for one in ended if isinstance(one, Operand)])

    async def upload(self, source: Source, dtype: str, *, inline: bool, durable: bool) -> Operand:
        """An operand that the scheduler can name: its bytes are with the store, or inside it."""
        matrix = source.stored_type(dtype)
        if inline:
            data = np.ascontiguousarray(source.array, numpy_dtype(dtype)).tobytes()
            return Operand(source.name, matrix, inline=data)
        shared = self._connection.shared
        if source.file and shared and source.array.dtype == numpy_dtype(dtype):
            matrix_id = await asyncio.to_thread(self._adopt, source, matrix)
        elif shared:
            matrix_id = await self._copied(source, matrix, durable)
        else:
            matrix_id = await self._streamed(source, matrix, durable)
        return Operand(source.name, matrix, matrix_id=matrix_id)

    async def _made(
        self,
        matrix: MatrixType,
        fill: Callable[[str], Awaitable[None]],
        durable: bool,
        ttl_s: float | None = None,
    ) -> str:
        """A new sealed matrix; what fails, or is interrupted, leaves nothing behind."""
        matrix_id = await self._created(matrix, durable, ttl_s)
        try:
            await fill(matrix_id)
            await self._seal(matrix_id)
        except BaseException:
            await self.give_up_all([Operand("", matrix, matrix_id=matrix_id)])
            raise
        return matrix_id

    async def _copied(self, source: Source, matrix: MatrixType, durable: bool) -> str:
        """A matrix in a store on this host. Where agents on others will ask the store for it, it is
        the one that we made before, if that still is there and holds the very same bytes."""
        is_kept = (
            self._connection.blocks_travel and not durable and matrix.size_bytes >= LEAST_BYTES
        )
        if is_kept:
            array = np.ascontiguousarray(source.array, numpy_dtype(matrix.dtype))
            if known := await self._sent_before(matrix, _bytes_of(array)):
                return known
        ttl_s = KEPT_TTL_S if is_kept else None
        matrix_id = await self._made(matrix, lambda id_: self._copy_in(source, id_), durable, ttl_s)
        if is_kept and self._kept.add(matrix_id, matrix):
            # The job does not wait for that: what was stored does not change any more.
            task = asyncio.create_task(self._look_into(matrix_id, matrix))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return matrix_id

    async def _look_into(self, matrix_id: str, matrix: MatrixType) -> None:
        """Finds out what a matrix on this host holds that we made."""
        shared = self._connection.shared
        if shared is None:
            return

        def read() -> Content:
            return Content.of(matrix, shared.map(matrix_id).buffer[: matrix.size_bytes])

        # It may be gone, and the store too; then it is copied again next time.
        with suppress(DeadheatError):
            self._kept.tell(matrix_id, await asyncio.to_thread(read))
        await self._give_up_surplus()

    async def _streamed(self, source: Source, matrix: MatrixType, durable: bool) -> str:
        """A matrix in a store on another host: the one that we sent there before, if it is still
        there and holds the very same bytes, or else a new one."""
        array = np.ascontiguousarray(source.array, numpy_dtype(matrix.dtype))
        buffer = _bytes_of(array)
        if durable or matrix.size_bytes < LEAST_BYTES:
            region = Region(buffer, matrix, matrix.whole())
            return await self._made(
                matrix, lambda id_: self._stream_in(region, matrix, id_), durable
            )
        if known := await self._sent_before(matrix, buffer):
            return known
        hashed = HashedRegion(buffer, matrix)
        content: Content | None = None

        async def fill(matrix_id: str) -> None:
            nonlocal content
            await self._stream_in(hashed, matrix, matrix_id)
            content = await asyncio.to_thread(hashed.content)

        try:
            matrix_id = await self._made(matrix, fill, durable, KEPT_TTL_S)
        finally:
            hashed.close()
        if content and self._kept.add(matrix_id, matrix, content):
            await self._give_up_surplus()
        return matrix_id

    async def _sent_before(self, matrix: MatrixType, buffer: memoryview) -> str:
        samples = sampled(buffer)
        if not self._kept.may_be_same(matrix, samples):
            return ""
        content = Content(matrix, samples, await asyncio.to_thread(digest, buffer))
        while matrix_id := self._kept.take(content):
            try:
                if await self._is_there(matrix_id):
                    return matrix_id
            except BaseException:
                self._kept.release(matrix_id)
                raise
            self._kept.forget(matrix_id)
        return ""

    async def _is_there(self, matrix_id: str) -> bool:
        """Whether the store still has it; if so, its time there begins anew."""
        request = pb.MatrixServiceStatRequest(matrix_id=matrix_id)
        try:
            with rpc.translated("looking for an operand in the store"):
                answer = await self._connection.matrices.Stat(request, timeout=rpc.CALL_TIMEOUT_S)
        except NotFound:
            return False
        return answer.matrix.state == pb.MATRIX_STATE_SEALED

    async def _keep_alive(self) -> None:
        """What a job will name is used, however long its other operands take to be sent."""
        while True:
            await asyncio.sleep(KEPT_TTL_S / 4)
            for matrix_id in self._kept.in_use():
                with suppress(DeadheatError):
                    await self._is_there(matrix_id)

    async def _give_up_surplus(self, *, everything: bool = False) -> None:
        for matrix_id in self._kept.surplus(everything=everything):
            await self._try_to_give_up(matrix_id)

    def _adopt(self, source: Source, matrix: MatrixType) -> str:
        """The file is read where it is; only its descriptor goes to the store."""
        assert source.file is not None
        assert self._connection.shared is not None
        request = local_pb2.AdoptFile(
            request_id=new_id("r"),
            path=str(source.file.path),
            data_offset=source.file.data_offset,
            type=wire.matrix_type_to_wire(matrix),
            owner=hosts.user_name(),
        )
        with open_regular(source.file.path) as file:
            return self._connection.shared.adopt(request, file.fileno())

    async def _created(self, matrix: MatrixType, durable: bool, ttl_s: float | None) -> str:
        """Room for a matrix. Who is interrupted leaves none behind whose id nobody knows."""
        making = asyncio.create_task(self._create(matrix, durable, ttl_s))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(DeadheatError):
                await self.give_up(await making)
            raise

    async def _create(self, matrix: MatrixType, durable: bool, ttl_s: float | None) -> str:
        request = pb.MatrixServiceCreateRequest(
            request_id=new_id("r"),
            type=wire.matrix_type_to_wire(matrix),
            owner=hosts.user_name(),
            durable=durable,
            expires_after_s=ttl_s,
        )
        try:
            return await self._asked_for_room(request)
        except LimitReached:
            await self._give_up_surplus(everything=True)
            return await self._asked_for_room(request)

    async def _asked_for_room(self, request: pb.MatrixServiceCreateRequest) -> str:
        with rpc.translated("making room for an operand in the store"):
            answer = await self._connection.matrices.Create(request, timeout=rpc.CALL_TIMEOUT_S)
        return answer.matrix_id

    async def _seal(self, matrix_id: str) -> None:
        request = pb.MatrixServiceSealRequest(request_id=new_id("r"), matrix_id=matrix_id)
        with rpc.translated("sealing an operand"):
            await self._connection.matrices.Seal(request, timeout=rpc.CALL_TIMEOUT_S)

    async def _copy_in(self, source: Source, matrix_id: str) -> None:
        assert self._connection.shared is not None
        mapping = await asyncio.to_thread(self._connection.shared.map, matrix_id, writable=True)
        target = as_array(mapping.buffer, mapping.type)
        rows, parts = source.array.shape[0], 1
        if target.nbytes >= PARALLEL_COPY_BYTES:
            parts = min(self._threads, max(1, rows))
        cuts = [rows * k // parts for k in range(parts + 1)]
        loop = asyncio.get_running_loop()
        copies = [
            loop.run_in_executor(
                self._copiers, _copy_rows, target[start:stop], source.array[start:stop]
            )
            for start, stop in pairwise(cuts)
        ]
        await asyncio.gather(*copies)

    async def _stream_in(self, region: Region, matrix: MatrixType, matrix_id: str) -> None:
        whole = matrix.whole()
        if whole.area:
            await transfer.put(self._connection.matrices, matrix_id, new_id("u"), whole, region)

    async def give_up_all(self, operands: Iterable[Operand]) -> None:
        """Gives operands up as far as the store is there; what it keeps, expires. What we keep
        for jobs to come is only not in use any more."""
        ids = [operand.matrix_id for operand in operands if operand.matrix_id]
        unwanted = [one for one in ids if not self._kept.release(one)]
        await asyncio.gather(*map(self._try_to_give_up, unwanted))

    async def _try_to_give_up(self, matrix_id: str) -> None:
        with suppress(DeadheatError):
            await self.give_up(matrix_id)

    async def give_up(self, matrix_id: str) -> None:
        """The store may have the room back as soon as no job and no mapping needs it."""
        request = pb.MatrixServiceDeleteRequest(request_id=new_id("r"), matrix_id=matrix_id)
        with rpc.translated("giving a matrix up"):
            await self._connection.matrices.Delete(request, timeout=rpc.CALL_TIMEOUT_S)

    # Results

    async def download(self, result: types_pb2.Result) -> Array:
        """The result as an array of its own: a private mapping of the store's memory on one host
        (changes stay here, nothing is copied), streamed from elsewhere."""
        matrix = wire.matrix_type_from_wire(result.type, field=result.name)
        if result.WhichOneof("source") != "matrix_id":
            return as_array(memoryview(bytearray(result.inline)), matrix)
        if shared := self._connection.shared:
            mapping = await asyncio.to_thread(shared.map, result.matrix_id)
            return as_array(mapping.buffer, matrix)
        try:
            array = np.empty((matrix.rows, matrix.columns), numpy_dtype(matrix.dtype))
        except MemoryError:
            size = format_bytes(matrix.size_bytes)
            raise LimitReached(f"no memory for the result, {matrix}: {size}") from None
        if array.size:
            target = _bytes_of(array)
            await transfer.get(self._connection.matrices, result.matrix_id, matrix.whole(), target)
        return array


def _bytes_of(array: Array) -> memoryview:
    """The elements of a contiguous array, as they are."""
    data: memoryview = array.view(np.uint8).reshape(-1).data
    return data


def _copy_rows(target: Array, source: Array) -> None:
    np.copyto(target, source, casting="safe")


def as_array(buffer: memoryview, matrix: MatrixType) -> Array:
    count = matrix.rows * matrix.columns
    flat: Any = np.frombuffer(buffer, numpy_dtype(matrix.dtype), count)
    return np.asarray(flat.reshape(matrix.rows, matrix.columns))
