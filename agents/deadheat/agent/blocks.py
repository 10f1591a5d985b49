"""Operands and results of sub-tasks as descriptors that an executor can map.

On the store's own host they are the store's own arenas. Elsewhere operands are streamed into
memory of this agent (memfd: it ends with the process, however that ends), kept in its cache for
other sub-tasks, and results are streamed back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from deadheat.agent.cache import BlockCache, Pin
from deadheat.agent.memory import Memory
from deadheat.agent.peers import Peers
from deadheat.runtime import wire
from deadheat.runtime.descents import parameters
from deadheat.runtime.errors import InvalidInput, LimitReached, Unavailable
from deadheat.runtime.programs import Descent, MatrixType, Rectangle, read_by_rows
from deadheat.store import transfer
from deadheat.store.descriptors import DescriptorClient, Granted
from deadheat.store.regions import Region
from deadheat.v1 import agent_pb2, local_pb2, types_pb2

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub


#: So many rows of an operand that is on its way are enough to begin with: the lowest panels that
#: are still fast have about as many.
FIRST_ROWS: Final = 256
#: The result's place among what the store grants; operands count from 0.
RESULT: Final = -1
#: A sub-task waits so long for memory that others have here: longer than any panel takes.
ROOM_PATIENCE_S: Final = 60.0


@dataclass(eq=False)
class Prepared:
    """What an executor needs for one sub-task. `close` ends the grants and pins."""

    operands: list[local_pb2.MappedBlock] = field(default_factory=list)
    result: local_pb2.MappedBlock = field(default_factory=local_pb2.MappedBlock)
    descriptors: list[int] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    transfer_s: float = 0.0
    #: Local memory of a result that has to be delivered; None where the mapping is the place.
    result_memory: Memory | None = None
    #: Of an epoch that is shared: its gradient, and the sum of all.
    exchange_memory: Memory | None = None
    releases: list[Callable[[], None]] = field(default_factory=list)
    #: Operands that were streamed, and those of which further rows are on their way.
    pins: list[Pin] = field(default_factory=list)
    arriving: list[Pin] = field(default_factory=list)

    @property
    def row_here(self) -> int | None:
        """Rows below this one can be computed; None if all can."""
        return min((pin.row_here for pin in self.arriving), default=None)

    async def wait_beyond(self, row: int) -> bool:
        """Until more rows than those below this one can be computed; returns whether there are
        more. Raises what a fetch failed of."""
        for pin in self.arriving:
            await pin.wait(row + 1)
        return any(pin.row_stop > row for pin in self.arriving)

    def trim(self, row_stop: int) -> None:
        """Rows from this one on are somebody else's."""
        for pin in self.arriving:
            pin.trim(row_stop)

    def report(self, finished: agent_pb2.Finished) -> None:
        """What was moved for it, as far as no other sub-task has counted it."""
        for pin in self.pins:
            moved, seconds = pin.take_moved()
            self.bytes_in += moved
            self.transfer_s += seconds
        finished.bytes_in, finished.bytes_out = self.bytes_in, self.bytes_out
        finished.transfer_s = self.transfer_s

    def close_descriptors(self) -> None:
        """The executor has its own copies now."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        self.close_descriptors()
        while self.releases:
            self.releases.pop()()


class Blocks:
    """Prepares sub-tasks and delivers their results, by mapping or by streaming."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self.shared: DescriptorClient | None = None
        self.stub: MatrixServiceAsyncStub | None = None
        #: Other agents; without them everything comes from the store.
        self.peers: Peers | None = None

    @property
    def memory_free_bytes(self) -> int:
        return self._cache.free_bytes

    @property
    def memory_idle_bytes(self) -> int:
        """Of that, what is taken by blocks that are kept in case that they are needed again."""
        return self._cache.idle_bytes

    @property
    def held_matrices(self) -> tuple[str, ...]:
        """Matrices that are here whole, though the store is elsewhere."""
        return self._cache.whole

    async def prepare(self, assign: agent_pb2.Assign) -> Prepared:
        """All that a sub-task needs before it can begin: of operands that are read row by row the
        first rows. The rest of them goes on arriving.

        The scheduler knows what it has assigned, but not that a cancelled sub-task still has its
        memory until its panel ends, nor that devices of one agent share its cache. So whoever finds
        no room keeps nothing, waits until somebody has released some, and begins anew. Raises
        LimitReached if there never is.
        """
        now = asyncio.get_running_loop().time
        until_s: float | None = None
        while True:
            try:
                return await self._prepare(assign)
            except LimitReached as error:
                in_vain = _size_bytes(assign) > self._cache.limit_bytes
                until_s = until_s or now() + ROOM_PATIENCE_S
                if error.field != "memory" or in_vain or self.shared or now() >= until_s:
                    raise
                crowded = error
            try:
                async with asyncio.timeout_at(until_s):
                    await self._cache.wait_for_room()
            except TimeoutError:
                raise crowded from None

    async def _prepare(self, assign: agent_pb2.Assign) -> Prepared:
        prepared = Prepared()
        try:
            pins = {} if self.shared else await self._pin_all(assign, prepared)
            granted = await self._grant_all(assign, prepared) if self.shared else {}
            for index, block in enumerate(assign.operands):
                if block.WhichOneof("source") == "inline":
                    operand = _inline(block)
                elif pin := pins.get(index):
                    prepared.descriptors.append(os.dup(pin.memory.descriptor))
                    operand = local_pb2.MappedBlock(
                        name=block.name,
                        type=block.type,
                        rectangle=wire.rectangle_to_wire(pin.block.rectangle),
                        size_bytes=pin.memory.size_bytes,
                    )
                else:
                    operand = _mapped(granted[index], name=block.name)
                prepared.operands.append(operand)
            await self._result(assign, prepared, granted.get(RESULT))
            if assign.HasField("share"):
                await self._exchange(assign, prepared)
        except BaseException:
            prepared.close()
            raise
        return prepared

    async def _pin_all(self, assign: agent_pb2.Assign, prepared: Prepared) -> dict[int, Pin]:
        """Blocks of all operands that are streamed; what every row needs comes whole and first."""
        types = {
            block.name: wire.matrix_type_from_wire(block.type, field=block.name)
            for block in assign.operands
        }
        by_rows = read_by_rows(wire.operation_from_wire(assign.operations[0]), types)
        needed_bytes = _size_bytes(assign)
        self._check_room(assign)
        pins: dict[int, Pin] = {}
        for index in sorted(range(len(by_rows)), key=lambda index: by_rows[index]):
            block = assign.operands[index]
            if block.WhichOneof("source") == "inline":
                continue
            matrix = wire.matrix_type_from_wire(block.type, field=block.name)
            wanted = wire.rectangle_from_wire(block.rectangle, within=matrix, field=block.name)
            if by_rows[index]:  # The sub-task may have become smaller meanwhile.
                row_stop = max(wanted.row_start, assign.rectangle.row_stop)
                wanted = wanted.with_rows(wanted.row_start, min(wanted.row_stop, row_stop))
            pin = self._cache.pin(
                self._stub,
                block.matrix_id,
                matrix,
                wanted,
                needed_bytes=needed_bytes,
                peers=self.peers.of(block.peers) if self.peers else (),
            )
            pins[index] = pin
            prepared.pins.append(pin)
            prepared.releases.append(pin.release)
            if by_rows[index]:
                prepared.arriving.append(pin)
            else:
                await pin.wait()
        for pin in prepared.arriving:
            await pin.wait(assign.rectangle.row_start + FIRST_ROWS)
        return pins

    def _check_room(self, assign: agent_pb2.Assign) -> None:
        """Before anything is fetched: what has to be given up again was fetched for nothing."""
        needed_bytes = _size_bytes(assign)
        for block in assign.operands:
            matrix = wire.matrix_type_from_wire(block.type, field=block.name)
            wanted = wire.rectangle_from_wire(block.rectangle, within=matrix, field=block.name)
            is_inline = block.WhichOneof("source") == "inline"
            if is_inline or self._cache.is_pinned(block.matrix_id, wanted):
                needed_bytes -= wanted.area * matrix.element.itemsize
        if not assign.result_matrix_id:  # It travels inline.
            matrix = wire.matrix_type_from_wire(assign.result_type, field="result_type")
            place = wire.rectangle_from_wire(assign.rectangle, within=matrix, field="rectangle")
            needed_bytes -= place.area * matrix.element.itemsize
        self._cache.check_room(needed_bytes)

    async def _grant_all(
        self, assign: agent_pb2.Assign, prepared: Prepared
    ) -> dict[int, local_pb2.DescriptorResponse]:
        """All that the store has of a sub-task, by the number of the operand, asked for in one go:
        each change of threads takes longer than the store does."""
        shared = self.shared
        assert shared is not None
        wanted = {
            index: (block.matrix_id, False)
            for index, block in enumerate(assign.operands)
            if block.WhichOneof("source") != "inline"
        }
        if assign.result_matrix_id:
            wanted[RESULT] = (assign.result_matrix_id, True)
        if not wanted:
            return {}
        asking = asyncio.ensure_future(asyncio.to_thread(shared.grant_all, list(wanted.values())))
        try:
            found = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The store grants them all the same, for ever if nobody gives them back.
            asking.add_done_callback(lambda done: _give_back(shared, done))
            raise
        for granted, descriptor in found:
            prepared.releases.append(partial(shared.unmap, granted.grant))
            prepared.descriptors.append(descriptor)
        return {place: granted for place, (granted, _) in zip(wanted, found, strict=True)}

    async def _result(
        self,
        assign: agent_pb2.Assign,
        prepared: Prepared,
        granted: local_pb2.DescriptorResponse | None,
    ) -> None:
        if not assign.result_matrix_id:
            prepared.result = local_pb2.MappedBlock(
                type=assign.result_type, rectangle=assign.rectangle, is_inline=True
            )
            return
        if granted:
            prepared.result = _mapped(granted)
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

    async def _exchange(self, assign: agent_pb2.Assign, prepared: Prepared) -> None:
        """Memory for the gradients of an epoch that is shared; raises LimitReached."""
        kind = wire.operation_from_wire(assign.operations[0]).kind
        if not isinstance(kind, Descent):
            raise InvalidInput("only an epoch of training is shared", field="share")
        matrix = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        size_bytes = 2 * parameters(kind) * matrix.element.itemsize
        if not self.shared:
            self._cache.reserve(size_bytes)
            prepared.releases.append(lambda: self._cache.release(size_bytes))
        memory = await asyncio.to_thread(Memory, size_bytes)
        prepared.releases.append(memory.close)
        prepared.exchange_memory = memory
        prepared.descriptors.append(os.dup(memory.descriptor))

    async def deliver(
        self, assign: agent_pb2.Assign, prepared: Prepared, pieces: Sequence[Rectangle]
    ) -> None:
        """Streams parts of a result to the store."""
        memory = prepared.result_memory
        assert memory is not None
        matrix = wire.matrix_type_from_wire(assign.result_type, field="result_type")
        home = wire.rectangle_from_wire(prepared.result.rectangle, within=matrix, field="rectangle")
        held = MatrixType(home.rows, home.columns, matrix.dtype)
        for piece in pieces:
            started_s = time.monotonic()
            inside = piece.relative_to(home)
            source = Region(memory.buffer, held, inside)
            upload = f"{assign.subtask_id}.{piece}"
            prepared.bytes_out += await transfer.put(
                self._stub(), assign.result_matrix_id, upload, piece, source
            )
            prepared.transfer_s += time.monotonic() - started_s

    def _stub(self) -> MatrixServiceAsyncStub:
        if self.stub is None:
            raise Unavailable("the store is not known yet")
        return self.stub


def _give_back(shared: DescriptorClient, asked: asyncio.Future[list[Granted]]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        shared.give_back(asked.result())


def _mapped(granted: local_pb2.DescriptorResponse, *, name: str = "") -> local_pb2.MappedBlock:
    return local_pb2.MappedBlock(
        name=name,
        type=granted.type,
        rectangle=_whole(granted.type),
        data_offset=granted.data_offset,
        size_bytes=granted.size_bytes,
    )


def _inline(block: agent_pb2.OperandBlock) -> local_pb2.MappedBlock:
    return local_pb2.MappedBlock(
        name=block.name,
        type=block.type,
        rectangle=_whole(block.type),
        inline=block.inline,
        is_inline=True,
    )


def _size_bytes(assign: agent_pb2.Assign) -> int:
    """What the blocks of a sub-task take at most, if none of them is here."""
    blocks = [(block.name, block.type, block.rectangle) for block in assign.operands]
    total = 0
    for field_, type_, place in (*blocks, ("result", assign.result_type, assign.rectangle)):
        matrix = wire.matrix_type_from_wire(type_, field=field_)
        rectangle = wire.rectangle_from_wire(place, within=matrix, field=field_)
        total += rectangle.area * matrix.element.itemsize
    return total


def _whole(matrix: types_pb2.MatrixType) -> types_pb2.Rectangle:
    return types_pb2.Rectangle(row_stop=matrix.rows, column_stop=matrix.columns)
