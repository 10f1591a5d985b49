"""Operand blocks that were streamed here, kept for whoever needs them next.

Rules of this file: sealed matrices never change, so an id and a rectangle say what a block holds,
and it serves any part of itself, also the rows that have come of one that is on its way (they come
in order). A block is pinned while a sub-task needs it or a fetch fills it;
what is not pinned goes, least recently used first, when room is needed; what is lent to another
agent meanwhile goes last, and the loan ends. All bookkeeping is on the
event loop; other threads only read the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from deadheat.agent.fetching import GetStub, fetched
from deadheat.agent.memory import Memory
from deadheat.agent.peers import Peer
from deadheat.runtime.errors import LimitReached, NotFound, Unavailable
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.runtime.units import format_bytes
from deadheat.store.regions import Region

#: Each block has a descriptor, of which a process may often have only 1,024.
MAX_BLOCKS: Final = 256
#: So many matrices are told to the scheduler: those used last.
MAX_TOLD: Final = 64


@dataclass(eq=False)
class Block:
    """A rectangle of a matrix, here or on its way."""

    matrix_id: str
    matrix: MatrixType
    rectangle: Rectangle
    pins: set[Pin] = field(default_factory=set)
    memory: Memory | None = None
    is_freed: bool = False
    #: How many other agents are reading it.
    loans: int = 0
    fetching: asyncio.Task[None] = field(init=False)
    arrived_bytes: int = 0
    #: Set and cleared whenever something has changed for those who wait.
    news: asyncio.Event = field(default_factory=asyncio.Event)
    #: What was streamed for it, as far as no sub-task has counted it yet.
    moved_bytes: int = 0
    transfer_s: float = 0.0

    def __post_init__(self) -> None:
        self.row_bytes = self.rectangle.columns * self.matrix.element.itemsize
        self.size_bytes = self.rectangle.rows * self.row_bytes

    @property
    def row_here(self) -> int:
        """Rows below this one are here."""
        if not self.row_bytes:
            return self.rectangle.row_stop
        return self.rectangle.row_start + self.arrived_bytes // self.row_bytes

    @property
    def has_failed(self) -> bool:
        task = self.fetching
        return task.done() and (task.cancelled() or task.exception() is not None)

    def arrived(self, done: int, since_s: float) -> bool:
        """Takes note of the bytes that have come; returns whether somebody wants more of them."""
        self.moved_bytes += done - self.arrived_bytes
        self.transfer_s += since_s
        self.arrived_bytes = done
        self.tell()
        return any(pin.row_stop > self.row_here for pin in self.pins)

    def tell(self) -> None:
        self.news.set()
        self.news.clear()

    def cut_off(self) -> None:
        """Nobody wanted the rest of it: it is what has come."""
        if self.arrived_bytes < self.size_bytes:
            rows = self.arrived_bytes // self.row_bytes
            start = self.rectangle.row_start
            self.rectangle = self.rectangle.with_rows(start, start + rows)


@dataclass(eq=False)
class Pin:
    """A block that stays until it is released, for its rows below `row_stop`."""

    block: Block
    row_stop: int
    _unpin: Callable[[Pin], None]
    _is_released: bool = False

    @property
    def memory(self) -> Memory:
        assert self.block.memory is not None
        return self.block.memory

    @property
    def row_here(self) -> int:
        """Rows below this one are here, of those that are wanted."""
        return min(self.block.row_here, self.row_stop)

    async def wait(self, row_stop: int | None = None) -> None:
        """Until all rows below this one (all that are wanted) are here; raises what the fetch
        ended with."""
        block = self.block
        while block.memory is None or block.row_here < min(
            self.row_stop, self.row_stop if row_stop is None else row_stop
        ):
            if block.fetching.cancelled():
                raise Unavailable(f"the fetch of a block of matrix {block.matrix_id} was stopped")
            if block.fetching.done():
                block.fetching.result()  # Raises: what came to its end has all that is wanted.
            await block.news.wait()

    def trim(self, row_stop: int) -> None:
        """Rows from this one on are not wanted any more."""
        self.row_stop = min(self.row_stop, row_stop)
        self.block.tell()

    def take_moved(self) -> tuple[int, float]:
        """Bytes that were streamed for the block and the seconds that took. Each is counted once,
        for whoever asks first."""
        moved = self.block.moved_bytes, self.block.transfer_s
        self.block.moved_bytes, self.block.transfer_s = 0, 0.0
        return moved

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._unpin(self)


@dataclass(eq=False)
class Loan:
    """A part of a block that another agent reads while its rows come. It keeps nobody here from
    having the room."""

    block: Block
    wanted: Rectangle
    is_there: Callable[[Block], bool]

    @property
    def row_bytes(self) -> int:
        return self.wanted.columns * self.block.matrix.element.itemsize

    @property
    def size_bytes(self) -> int:
        return self.wanted.rows * self.row_bytes

    async def wait(self, row_stop: int) -> None:
        """Until all rows below this one are here; raises Unavailable if they will not be."""
        block = self.block
        while block.memory is None or block.row_here < row_stop:
            if block.fetching.done() or not self.is_there(block):
                break
            await block.news.wait()
        if block.memory is None or block.row_here < row_stop or not self.is_there(block):
            raise Unavailable(f"the block of matrix {block.matrix_id} has gone")

    def region(self) -> Region:
        """Its bytes, which stay readable as long as somebody has the region."""
        home, wanted = self.block.rectangle, self.wanted
        assert self.block.memory is not None
        held = MatrixType(home.rows, home.columns, self.block.matrix.dtype)
        inside = wanted.relative_to(home)
        return Region(self.block.memory.buffer, held, inside)


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
        #: Set and cleared whenever a fetch has begun, and whenever there is more room.
        self._begun = asyncio.Event()
        self._freed = asyncio.Event()
        #: How many wait for room.
        self.waiting = 0

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes + self.idle_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Makes room; raises LimitReached if what is in use leaves too little."""
        self.check_room(size_bytes)
        self._evict_while(lambda: self.used_bytes + size_bytes > self.limit_bytes)
        self.used_bytes += size_bytes

    def check_room(self, size_bytes: int) -> None:
        """Raises LimitReached if what is in use leaves too little."""
        if size_bytes > self.limit_bytes - self.used_bytes + self.idle_bytes:
            in_use = self.used_bytes - self.idle_bytes
            raise LimitReached(
                f"{format_bytes(size_bytes)} needed here, {format_bytes(in_use)} of "
                f"{format_bytes(self.limit_bytes)} are in use (setting: memory)",
                field="memory",
            )

    def is_pinned(self, matrix_id: str, rectangle: Rectangle) -> bool:
        """Whether somebody needs a block that holds it already."""
        blocks = self._of.get(matrix_id, ())
        return any(one.pins and rectangle.is_inside(one.rectangle) for one in blocks)

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        self._tell_freed()

    async def wait_for_room(self) -> None:
        """Until somebody needs less than now."""
        self.waiting += 1
        try:
            await self._freed.wait()
        finally:
            self.waiting -= 1

    def _tell_freed(self) -> None:
        self._freed.set()
        self._freed.clear()

    def pin(
        self,
        stub: GetStub,
        matrix_id: str,
        matrix: MatrixType,
        rectangle: Rectangle,
        *,
        needed_bytes: int = 0,
        peers: Sequence[Peer] = (),
    ) -> Pin:
        """A block that holds the rectangle, which may have yet to arrive. A larger one is of no use
        if it leaves no room for `needed_bytes`: those of the whole sub-task, this block's too.
        `stub` is asked for whenever a fetch from the store has to be begun or resumed; `peers` are
        asked before it."""
        block = self._find(matrix_id, rectangle, needed_bytes)
        if block is None:
            block = self._start(stub, peers, Block(matrix_id, matrix, rectangle))
        elif not block.pins:
            self.idle_bytes -= block.size_bytes
        self._blocks.move_to_end(block)
        pin = Pin(block, rectangle.row_stop, self._unpin)
        block.pins.add(pin)
        return pin

    @contextmanager
    def lent(self, block: Block, wanted: Rectangle) -> Iterator[Loan]:
        """Lets another agent read a part of a block."""
        block.loans += 1
        try:
            yield Loan(block, wanted, self._blocks.__contains__)
        finally:
            block.loans -= 1

    async def find_for_peer(self, matrix_id: str, wanted: Rectangle, wait_s: float) -> Block:
        """The smallest block that has it or soon will, perhaps not before it was waited for a
        moment: who asks may be faster than the order to fetch it, which was sent to us first.
        Raises NotFound."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    holding = [
                        one
                        for one in self._of.get(matrix_id, ())
                        if wanted.is_inside(one.rectangle) and not one.has_failed
                    ]
                    if holding:
                        return min(holding, key=lambda one: one.size_bytes)
                    await self._begun.wait()
        except TimeoutError:
            raise NotFound(f"this agent has no such block of matrix {matrix_id!r}") from None

    def _find(self, matrix_id: str, wanted: Rectangle, needed_bytes: int) -> Block | None:
        """The smallest block that has it."""
        holding = [one for one in self._of.get(matrix_id, ()) if wanted.is_inside(one.rectangle)]
        block = min(holding, key=lambda one: one.size_bytes, default=None)
        if block is None or block.pins or block.rectangle == wanted:
            return block
        in_use = self.used_bytes - self.idle_bytes
        more = block.size_bytes - wanted.area * block.matrix.element.itemsize
        return block if in_use + more + needed_bytes <= self.limit_bytes else None

    def _start(self, stub: GetStub, peers: Sequence[Peer], block: Block) -> Block:
        self.reserve(block.size_bytes)
        self._evict_while(lambda: len(self._blocks) >= MAX_BLOCKS)
        self._blocks[block] = None
        self._of.setdefault(block.matrix_id, []).append(block)
        block.fetching = asyncio.get_running_loop().create_task(_fetch(stub, peers, block))
        block.fetching.add_done_callback(lambda _: self._fetched(block))
        self._begun.set()
        self._begun.clear()
        return block

    def _fetched(self, block: Block) -> None:
        if block.has_failed:
            self._forget(block)
        block.tell()
        self._tell_whole()
        self._free_if_over(block)

    def _unpin(self, pin: Pin) -> None:
        block = pin.block
        block.pins.remove(pin)
        if block.pins:
            return
        if not block.fetching.done():
            block.fetching.cancel()  # Nobody waits for it any more.
            self._forget(block)
        elif block.has_failed:  # As its last waiter hears before we do.
            self._forget(block)
        elif block in self._blocks:
            self.idle_bytes += block.size_bytes
            self._tell_freed()
        self._free_if_over(block)

    def _evict_while(self, is_needed: Callable[[], bool]) -> None:
        for block in sorted(self._blocks, key=lambda one: one.loans > 0):
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
        block.tell()  # Whom it is lent to.
        self._tell_whole()

    def _free_if_over(self, block: Block) -> None:
        """Its room is free when nobody finds it, nobody has it, and nothing writes there."""
        if block in self._blocks or block.pins or not block.fetching.done() or block.is_freed:
            return
        block.is_freed = True
        if block.memory:
            block.memory.close()
        self.release(block.size_bytes)

    def _tell_whole(self) -> None:
        self.whole = tuple(self._whole())[-MAX_TOLD:]

    def _whole(self) -> Iterator[str]:
        for block in self._blocks:
            if block.fetching.done() and block.rectangle == block.matrix.whole():
                yield block.matrix_id


async def _fetch(stub: GetStub, peers: Sequence[Peer], block: Block) -> None:
    block.memory = await asyncio.to_thread(Memory, block.size_bytes)
    block.tell()
    last_s = time.monotonic()

    def on_arrived(done: int) -> bool:
        nonlocal last_s
        before_s, last_s = last_s, time.monotonic()
        return block.arrived(done, last_s - before_s)

    await fetched(
        stub, peers, block.matrix_id, block.rectangle, block.memory.buffer, on_arrived=on_arrived
    )
    block.cut_off()
