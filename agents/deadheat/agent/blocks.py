"""Operands and results of sub-tasks as descriptors that an executor can map.

On the store's own host they are the store's own arenas. Elsewhere operands are streamed into
memory of this agent (memfd: it ends with the process, however that ends), shared between
sub-tasks, and results are streamed back.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deadheat.runtime import wire
from deadheat.runtime.errors import LimitReached, Unavailable
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.runtime.units import format_bytes
from deadheat.store import transfer
from deadheat.store.descriptors import DescriptorClient
from deadheat.store.regions import Region
from deadheat.v1 import agent_pb2, local_pb2, types_pb2

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub


@dataclass(eq=False)
class Prepared:
    """What an executor needs for one sub-task. `close` ends the grants and pins."""

    operands: list[local_pb2.MappedBlock]
    result: local_pb2.MappedBlock
    descriptors: list[int]
    bytes_in: int = 0
    transfer_s: float = 0.0
    #: Local memory of a result that has to be delivered; None where the mapping is the place.
    result_memory: Memory | None = None
    releases: list[Callable[[], None]] = field(default_factory=list)

    def close_descriptors(self) -> None:
        """The executor has its own copies now."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        self.close_descriptors()
        while self.releases:
            self.releases.pop()()


class Memory:
    """Anonymous memory with a descriptor. Goes with the last reference, if nobody closed it: who
    asked for it in a thread may have been cancelled before it was there."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.descriptor = os.memfd_create("deadheat-block", os.MFD_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        try:
            os.posix_fallocate(self.descriptor, 0, max(1, size_bytes))
            self.buffer = memoryview(mmap.mmap(self.descriptor, max(1, size_bytes)))[:size_bytes]
        except OSError as error:
            self.close()
            raise LimitReached(f"no memory for {format_bytes(size_bytes)}: {error}") from None


@dataclass(eq=False)
class _Cached:
    memory: Memory | None
    ready: asyncio.Future[None]
    size_bytes: int
    pins: int = 0


class BlockCache:
    """Streamed operand blocks under a byte limit, least recently used out first, never while an
    executor has them. Results that wait for delivery count too."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._blocks: OrderedDict[tuple[str, Rectangle], _Cached] = OrderedDict()

    @property
    def free_bytes(self) -> int:
        idle = sum(c.size_bytes for c in self._blocks.values() if not c.pins)
        return max(0, self.limit_bytes - self.used_bytes + idle)

    def reserve(self, size_bytes: int) -> None:
        """Makes room; raises LimitReached if what is in use leaves too little."""
        for key, cached in list(self._blocks.items()):
            if self.used_bytes + size_bytes <= self.limit_bytes:
                break
            if not cached.pins and cached.ready.done():
                self._evict(key)
        if self.used_bytes + size_bytes > self.limit_bytes:
            raise LimitReached(
                f"{format_bytes(size_bytes)} needed here, {format_bytes(self.used_bytes)} of "
                f"{format_bytes(self.limit_bytes)} are in use (setting: memory)",
                field="memory",
            )
        self.used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes

    async def pin(
        self,
        stub: MatrixServiceAsyncStub,
        matrix_id: str,
        matrix: MatrixType,
        rectangle: Rectangle,
    ) -> tuple[Memory, int, Callable[[], None]]:
        """The block in memory, the bytes that were streamed for it (0 if it was here already), and
        what unpins it."""
        key = (matrix_id, rectangle)
        moved = 0
        while (cached := self._blocks.get(key)) is not None and not cached.ready.done():
            await asyncio.wait([cached.ready])
        if cached is None:
            cached, moved = await self._fetch(stub, key, matrix)
        self._blocks.move_to_end(key)
        cached.pins += 1
        assert cached.memory is not None
        pinned = cached

        def unpin() -> None:
            pinned.pins -= 1

        return cached.memory, moved, unpin

    async def _fetch(
        self, stub: MatrixServiceAsyncStub, key: tuple[str, Rectangle], matrix: MatrixType
    ) -> tuple[_Cached, int]:
        matrix_id, rectangle = key
        size_bytes = rectangle.area * matrix.element.itemsize
        self.reserve(size_bytes)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cached = _Cached(None, ready, size_bytes)
        self._blocks[key] = cached
        try:
            cached.memory = await asyncio.to_thread(Memory, size_bytes)
            moved = await transfer.get(stub, matrix_id, rectangle, cached.memory.buffer)
        except BaseException:
            self._evict(key)
            raise
        finally:
            ready.set_result(None)
        return cached, moved

    def _evict(self, key: tuple[str, Rectangle]) -> None:
        cached = self._blocks.pop(key)
        if cached.memory:
            cached.memory.close()
        self.release(cached.size_bytes)


class Blocks:
    """Prepares sub-tasks and delivers their results, by mapping or by streaming."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self.shared: DescriptorClient | None = None
        self.stub: MatrixServiceAsyncStub | None = None

    @property
    def memory_free_bytes(self) -> int:
        return self._cache.free_bytes

    async def prepare(self, assign: agent_pb2.Assign) -> Prepared:
        prepared = Prepared([], local_pb2.MappedBlock(), [])
        try:
            for block in assign.operands:
                prepared.operands.append(await self._operand(block, prepared))
            await self._result(assign, prepared)
        except BaseException:
            prepared.close()
            raise
        return prepared

    async def _operand(
        self, block: agent_pb2.OperandBlock, prepared: Prepared
    ) -> local_pb2.MappedBlock:
        if block.WhichOneof("source") == "inline":
            whole = _whole(block.type)
            return local_pb2.MappedBlock(
                name=block.name,
                type=block.type,
                rectangle=whole,
                inline=block.inline,
                is_inline=True,
            )
        if self.shared:
            return await self._mapped(block.name, block.matrix_id, prepared, writable=False)
        matrix = wire.matrix_type_from_wire(block.type, field=block.name)
        rectangle = wire.rectangle_from_wire(block.rectangle, within=matrix, field=block.name)
        started_s = time.monotonic()
        memory, moved, unpin = await self._cache.pin(
            self._stub(), block.matrix_id, matrix, rectangle
        )
        prepared.releases.append(unpin)
        prepared.bytes_in += moved
        prepared.transfer_s += time.monotonic() - started_s
        prepared.descriptors.append(os.dup(memory.descriptor))
        return local_pb2.MappedBlock(
            name=block.name,
            type=block.type,
            rectangle=block.rectangle,
            size_bytes=memory.size_bytes,
        )

    async def _mapped(
        self, name: str, matrix_id: str, prepared: Prepared, *, writable: bool
    ) -> local_pb2.MappedBlock:
        shared = self.shared
        assert shared is not None
        asking = asyncio.ensure_future(
            asyncio.to_thread(shared.grant, matrix_id, writable=writable)
        )
        try:
            granted, descriptor = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The store grants it all the same, for ever if nobody gives it back.
            asking.add_done_callback(lambda done: _give_back(shared, done))
            raise
        prepared.descriptors.append(descriptor)
        prepared.releases.append(lambda: shared.unmap(granted.grant))
        return local_pb2.MappedBlock(
            name=name,
            type=granted.type,
            rectangle=_whole(granted.type),
            data_offset=granted.data_offset,
            size_bytes=granted.size_bytes,
        )

    async def _result(self, assign: agent_pb2.Assign, prepared: Prepared) -> None:
        if not assign.result_matrix_id:
            prepared.result = local_pb2.MappedBlock(
                type=assign.result_type, rectangle=assign.rectangle, is_inline=True
            )
            return
        if self.shared:
            prepared.result = await self._mapped(
                "", assign.result_matrix_id, prepared, writable=True
            )
            return
        matrix = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        rectangle = wire.rectangle_from_wire(assign.rectangle, within=matrix, field="rectangle")
        size_bytes = rectangle.area * matrix.element.itemsize
        self._cache.reserve(size_bytes)
        prepared.releases.append(lambda: self._cache.release(size_bytes))
        memory = await asyncio.to_thread(Memory, size_bytes)
        prepared.releases.append(memory.close)
        prepared.result_memory = memory
        prepared.descriptors.append(os.dup(memory.descriptor))
        prepared.result = local_pb2.MappedBlock(
            type=assign.result_type, rectangle=assign.rectangle, size_bytes=size_bytes
        )

    async def deliver(
        self, assign: agent_pb2.Assign, prepared: Prepared, pieces: Sequence[Rectangle]
    ) -> tuple[int, float]:
        """Streams parts of a result to the store; returns bytes and seconds."""
        memory = prepared.result_memory
        assert memory is not None
        matrix = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        home = wire.rectangle_from_wire(prepared.result.rectangle, within=matrix, field="rectangle")
        held = MatrixType(home.rows, home.columns, matrix.dtype)
        started_s, moved = time.monotonic(), 0
        for number, piece in enumerate(pieces):
            inside = Rectangle(
                piece.row_start - home.row_start,
                piece.row_stop - home.row_start,
                piece.column_start - home.column_start,
                piece.column_stop - home.column_start,
            )
            source = Region(memory.buffer, held, inside)
            upload = f"{assign.subtask_id}.{number}"
            moved += await transfer.put(
                self._stub(), assign.result_matrix_id, upload, piece, source
            )
        return moved, time.monotonic() - started_s

    def _stub(self) -> MatrixServiceAsyncStub:
        if self.stub is None:
            raise Unavailable("the store is not known yet")
        return self.stub


def _give_back(
    shared: DescriptorClient, asked: asyncio.Future[tuple[local_pb2.DescriptorResponse, int]]
) -> None:
    if not asked.cancelled() and asked.exception() is None:
        granted, descriptor = asked.result()
        os.close(descriptor)
        shared.unmap(granted.grant)


def _whole(matrix: types_pb2.MatrixType) -> types_pb2.Rectangle:
    return types_pb2.Rectangle(row_stop=matrix.rows, column_stop=matrix.columns)
