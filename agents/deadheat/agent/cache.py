"""Operand blocks that were streamed here, kept for whoever needs them next.

Rules of this file: sealed matrices never change, so an id and a rectangle say what a block holds,
and it serves any part of itself. A block is pinned while a sub-task needs it or a fetch fills it;
what is not pinned goes, least recently used first, when room is needed. All bookkeeping is on the
event loop; other threads only read the figures.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.runtime.units import format_bytes
from deadheat.store import transfer

if TYPE_CHECKING:
    from deadheat.v1.matrix_pb2_grpc import MatrixServiceAsyncStub

#: Each block has a descriptor, of which a process may often have only 1,024.
MAX_BLOCKS: Final = 256
#: So many matrices are told to the scheduler: those used last.
MAX_TOLD: Final = 64


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
class Block:
    """A rectangle of a matrix, here or on its way."""

    matrix_id: str
    matrix: MatrixType
    rectangle: Rectangle
    pins: int = 0
    memory: Memory | None = None
    fetching: asyncio.Task[None] = field(init=False)
    #: What was streamed for it, as far as no sub-task has counted it yet.
    moved_bytes: int = 0
    transfer_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        return self.rectangle.area * self.matrix.element.itemsize


@dataclass(eq=False)
class Pin:
    """A block that stays until it is released."""

    block: Block
    _unpin: Callable[[Block], None]
    _is_released: bool = False

    @property
    def memory(self) -> Memory:
        assert self.block.memory is not None
        return self.block.memory

    async def wait(self) -> None:
        """Until the whole block is here; raises what its fetch ended with."""
        await asyncio.shield(self.block.fetching)

    def take_moved(self) -> tuple[int, float]:
        """Bytes that were streamed for the block and the seconds that took. Each is counted once,
        for whoever asks first."""
        moved = self.block.moved_bytes, self.block.transfer_s
        self.block.moved_bytes, self.block.transfer_s = 0, 0.0
        return moved

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._unpin(self.block)


class BlockCache:
    """Blocks under a byte limit. Results that wait for delivery count too (`reserve`)."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        #: Of that, blocks which nobody needs now.
        self.idle_bytes = 0
        #: Ids of matrices that are here whole.
        self.whole: tuple[str, ...] = ()
        #: Those used last come last.
        self._blocks: OrderedDict[Block, None] = OrderedDict()
        self._of: dict[str, list[Block]] = {}

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes + self.idle_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Makes room; raises LimitReached if what is in use leaves too little."""
        if size_bytes > self.limit_bytes - self.used_bytes + self.idle_bytes:
            in_use = self.used_bytes - self.idle_bytes
            raise LimitReached(
                f"{format_bytes(size_bytes)} needed here, {format_bytes(in_use)} of "
                f"{format_bytes(self.limit_bytes)} are in use (setting: memory)",
                field="memory",
            )
        self._evict_while(lambda: self.used_bytes + size_bytes > self.limit_bytes)
        self.used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes

    def pin(
        self,
        stub: MatrixServiceAsyncStub,
        matrix_id: str,
        matrix: MatrixType,
        rectangle: Rectangle,
        *,
        needed_bytes: int = 0,
    ) -> Pin:
        """A block that holds the rectangle, which may have yet to arrive. A larger one is of no use
        if it leaves no room for `needed_bytes`: those of the whole sub-task, this block's too."""
        block = self._find(matrix_id, rectangle, needed_bytes)
        if block is None:
            block = self._start(stub, Block(matrix_id, matrix, rectangle))
        elif not block.pins:
            self.idle_bytes -= block.size_bytes
        self._blocks.move_to_end(block)
        block.pins += 1
        return Pin(block, self._unpin)

    def _find(self, matrix_id: str, wanted: Rectangle, needed_bytes: int) -> Block | None:
        """The smallest block that has it."""
        holding = [one for one in self._of.get(matrix_id, ()) if wanted.is_inside(one.rectangle)]
        block = min(holding, key=lambda one: one.size_bytes, default=None)
        if block is None or block.pins or block.rectangle == wanted:
            return block
        in_use = self.used_bytes - self.idle_bytes
        more = block.size_bytes - wanted.area * block.matrix.element.itemsize
        return block if in_use + more + needed_bytes <= self.limit_bytes else None

    def _start(self, stub: MatrixServiceAsyncStub, block: Block) -> Block:
        self.reserve(block.size_bytes)
        self._evict_while(lambda: len(self._blocks) >= MAX_BLOCKS)
        self._blocks[block] = None
        self._of.setdefault(block.matrix_id, []).append(block)
        block.fetching = asyncio.get_running_loop().create_task(_fetch(stub, block))
        block.fetching.add_done_callback(lambda task: self._fetched(block, task))
        return block

    def _fetched(self, block: Block, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception():
            self._forget(block)
        self._tell_whole()
        self._free_if_over(block)

    def _unpin(self, block: Block) -> None:
        block.pins -= 1
        if block.pins:
            return
        if not block.fetching.done():
            block.fetching.cancel()  # Nobody waits for it any more.
            self._forget(block)
        elif block in self._blocks:
            self.idle_bytes += block.size_bytes
        self._free_if_over(block)

    def _evict_while(self, is_needed: Callable[[], bool]) -> None:
        for block in list(self._blocks):
            if not is_needed():
                return
            if not block.pins:
                self.idle_bytes -= block.size_bytes
                self._forget(block)
                self._free_if_over(block)

    def _forget(self, block: Block) -> None:
        """Nobody finds it any more."""
        if block not in self._blocks:
            return
        del self._blocks[block]
        others = self._of[block.matrix_id]
        others.remove(block)
        if not others:
            del self._of[block.matrix_id]
        self._tell_whole()

    def _free_if_over(self, block: Block) -> None:
        """Its room is free when nobody finds it, nobody has it, and nothing writes there."""
        if block in self._blocks or block.pins or not block.fetching.done():
            return
        if block.memory:
            block.memory.close()
            block.memory = None
        self.release(block.size_bytes)

    def _tell_whole(self) -> None:
        self.whole = tuple(self._whole())[-MAX_TOLD:]

    def _whole(self) -> Iterator[str]:
        for block in self._blocks:
            if block.fetching.done() and block.rectangle == block.matrix.whole():
                yield block.matrix_id


async def _fetch(stub: MatrixServiceAsyncStub, block: Block) -> None:
    started_s = time.monotonic()
    block.memory = await asyncio.to_thread(Memory, block.size_bytes)
    block.moved_bytes = await transfer.get(
        stub, block.matrix_id, block.rectangle, block.memory.buffer
    )
    block.transfer_s = time.monotonic() - started_s
