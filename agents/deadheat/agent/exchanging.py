"""Gradients of an epoch that devices share: added on their way to a root, sent back as sums.

The members of an exchange are a binary tree (`Share` in the wire contract), each with the agent of
its device. A member waits for its executor's gradient of a step, adds to it what its children send,
and passes that on to its parent. The root's is the sum of all; it comes back the same way, and each
member tells its executor. Chunks are passed on one by one, so that they go up and down together.
Between members of one host gradients do not travel: a parent reads and writes its child's memory.

Rules of this file: what is added, and in which order, depends on the tree alone, so that a sum is
the same however fast its parts came. Everybody gets the root's bytes: nobody else computes the sum.
Whoever waits for another member gives up after the patience it was given, and whatever ends one
member ends its neighbours: the scheduler then begins the epoch anew. One that ends before its
parent knows of it stays until it does: else the parent would wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np

from deadheat.agent import handing
from deadheat.agent.memory import Memory
from deadheat.agent.pipes import Pipe
from deadheat.runtime import rpc
from deadheat.runtime.chunks import check_unharmed, chunk_of
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import DataLost, DeadheatError, InvalidInput, TimedOut, Unavailable
from deadheat.v1 import agent_pb2
from deadheat.v1 import exchange_pb2 as pb
from deadheat.v1.exchange_pb2_grpc import ExchangeServiceStub

if TYPE_CHECKING:
    from deadheat.v1.exchange_pb2_grpc import ExchangeServiceAsyncStub

Array = Any
Call = grpc.aio.StreamStreamCall[
    pb.ExchangeServiceExchangeRequest, pb.ExchangeServiceExchangeResponse
]
#: Told of a step whose sum is there, with the sum of its losses.
OnSummed = Callable[[int, float], None]

#: Chunks that wait at one place: enough for the next to be on its way.
PIPED: Final = 4


@dataclass(frozen=True)
class Place:
    """A member's place in the tree."""

    exchange: str
    member: int
    addresses: Sequence[str]
    patience_s: float

    @staticmethod
    def of(share: agent_pb2.Share) -> Place:
        """Raises InvalidInput for a place that is none."""
        if not 0 <= share.member < len(share.addresses) or not share.exchange_id:
            raise InvalidInput(
                f"member {share.member} of {len(share.addresses)} in exchange "
                f"{share.exchange_id!r}",
                field="share",
            )
        return Place(share.exchange_id, share.member, tuple(share.addresses), share.patience_s)

    @property
    def children(self) -> range:
        first = 2 * self.member + 1
        return range(first, min(first + 2, len(self.addresses)))

    @property
    def parent(self) -> int | None:
        return (self.member - 1) // 2 if self.member else None

    def name_of(self, member: int) -> str:
        """For people."""
        return f"member {member} of this epoch, at {self.addresses[member]}"


@dataclass(eq=False)
class Child:
    """A member that sends us what it has, and gets the sums."""

    member: int
    incoming: Pipe[pb.GradientChunk] = field(default_factory=lambda: Pipe(PIPED))
    outgoing: Pipe[pb.GradientChunk] = field(default_factory=lambda: Pipe(PIPED))
    is_connected: bool = False
    #: If it is on this host, what it has handed over: its gradient, and where it wants the sum.
    memory: tuple[Array, Array] | None = None
    #: The newest step of which it has said that its gradient is there, and the loss of that.
    told: tuple[int, float] = (-1, 0.0)

    def is_in_memory(self, step: int) -> bool:
        return self.told[0] == step

    def end(self, error: DeadheatError | None) -> None:
        self.incoming.end(error)
        self.outgoing.end(error)


def options(address: str) -> rpc.Options:
    """Of a channel for gradients. What has begun is not begun again: gRPC would send the start of
    it to a parent that has gone on."""
    return [*rpc.data_options(address), ("grpc.enable_retries", 0)]


class Exchange:
    """One member's end of it, from `start` until all steps are summed or it is closed. `memory`
    holds the gradient that our executor makes, and behind it the sum. What is in the place of the
    gradient is ours once it is given, until its sum is there."""

    def __init__(
        self,
        place: Place,
        memory: Memory,
        dtype: np.dtype[Any],
        steps: int,
        tls: TlsFiles | None,
        on_summed: OnSummed,
        on_failed: Callable[[Exception], None],
    ) -> None:
        self.place = place
        self._memory = memory
        self._own, self._total = np.frombuffer(memory.buffer, dtype).reshape(2, -1)
        self._is_handed = False
        self._steps = steps
        self._tls = tls
        self._on_summed = on_summed
        self._on_failed = on_failed
        self._given: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
        self._children = {member: Child(member) for member in place.children}
        self._is_over = False

    def start(self) -> asyncio.Task[None]:
        """Returns what goes on until its parent has heard of its end, too."""
        self._running = asyncio.get_running_loop().create_task(self._run())
        return self._running

    def give(self, step: int, loss: float) -> None:
        """Our executor's gradient of a step is in the memory."""
        self._given.put_nowait((step, loss))

    def connected(self, member: int) -> Child:
        """A member has come that says it is our child; raises InvalidInput if it is not."""
        child = self._children.get(member)
        if child is None or child.is_connected:
            raise InvalidInput(f"member {member} is no child of {self.place.member}, or came twice")
        child.is_connected = True
        return child

    def take(self, member: int, descriptor: int) -> None:
        """The memory of a child on this host; raises InvalidInput for what is none."""
        child = self._children.get(member)
        if child is None or not child.is_connected or child.memory is not None or self._is_over:
            raise InvalidInput(f"no memory of member {member} is awaited")
        found = handing.mapped(descriptor, self._memory.size_bytes)
        own, total = np.frombuffer(found, self._own.dtype).reshape(2, -1)
        child.memory = own, total

    def close(self) -> None:
        """Ends it; where sums are still awaited, that ends the neighbours, too."""
        if not self._is_over:
            self._is_over = True
            self._running.cancel()
            self._end(Unavailable(f"member {self.place.member} of this epoch has ended"))

    def _end(self, error: DeadheatError | None) -> None:
        for child in self._children.values():
            child.end(error)

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            try:
                call = await self._joined(stack)
                for step in range(self._steps):
                    given, loss = await self._given.get()
                    if given != step:
                        raise InvalidInput(f"the gradient of step {given} came in step {step}")
                    await self._sum(call, step, loss)
                self._is_over = True
                self._end(None)
                if call is not None:
                    await call.done_writing()
            except asyncio.CancelledError:
                if self._is_over:
                    return
                # gRPC cancels whoever uses a channel that is closed.
                self._fail(Unavailable("the connection to another member was closed"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the attempt is at its end.
                self._fail(error)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Of all memory, ours and others'."""
        del self._own, self._total
        for child in self._children.values():
            child.memory = None

    def _fail(self, error: Exception) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._end(Unavailable(f"member {self.place.member} of this epoch has ended: {error}"))
        self._on_failed(error)

    async def _sum(self, call: Call | None, step: int, loss: float) -> None:
        if call is None:
            self._on_summed(step, await self._up(None, step, loss))
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(call, step, loss))
                down = group.create_task(self._down(call, step))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        self._on_summed(step, down.result())

    async def _up(self, call: Call | None, step: int, loss: float) -> float:
        """Adds what comes from below to what is here, and passes it on; returns the loss."""
        total = loss
        for start, stop in self._pieces():
            part, total = self._own[start:stop], loss
            for child in self._children.values():
                theirs, more = await self._from_below(child, step, start, stop)
                part, total = part + theirs, total + more
            if call is None:
                self._total[start:stop] = part
                await self._pass_down(step, total, start, stop)
            elif not self._is_handed:
                await self._send(call, self._chunk(step, total, start, part))
            elif self._children:
                self._own[start:stop] = part
            await asyncio.sleep(0)  # Where nobody is waited for, heartbeats go between.
        if call is not None and self._is_handed:
            await self._send(call, pb.GradientChunk(step=step, loss=total, is_in_memory=True))
        return total

    async def _send(self, call: Call, chunk: pb.GradientChunk) -> None:
        request = pb.ExchangeServiceExchangeRequest(gradient=chunk)
        await self._awaited(call.write(request), self.place.parent)

    async def _from_below(
        self, child: Child, step: int, start: int, stop: int
    ) -> tuple[Array, float]:
        """A part of what a child has, and the loss that belongs to all of it."""
        if not child.is_in_memory(step):
            chunk = await self._awaited(child.incoming.get(), child.member)
            if not chunk.is_in_memory:
                return self._checked(chunk, step, start, stop), chunk.loss
            if child.memory is None or (chunk.step, start) != (step, 0):
                raise DataLost(
                    f"step {chunk.step} of a gradient was said to be in memory, in step {step}"
                )
            child.told = step, chunk.loss
        assert child.memory is not None
        return child.memory[0][start:stop], child.told[1]

    async def _down(self, call: Call, step: int) -> float:
        """Takes the sum from above, and passes it on; returns its loss."""
        found: pb.GradientChunk | None = None
        for start, stop in self._pieces():
            if not self._is_handed:
                found = await self._from_above(call)
                self._total[start:stop] = self._checked(found, step, start, stop)
                await self._pass_down(step, found.loss, start, stop, found)
                continue
            if found is None:
                found = await self._from_above(call)
                if not found.is_in_memory or found.step != step:
                    raise DataLost(f"a sum that is not in memory came in step {step}")
            await self._pass_down(step, found.loss, start, stop)
            await asyncio.sleep(0)
        return found.loss if found else 0.0

    async def _from_above(self, call: Call) -> pb.GradientChunk:
        return (await self._answer(call)).sum

    async def _answer(self, call: Call) -> pb.ExchangeServiceExchangeResponse:
        answer = await self._awaited(call.read(), self.place.parent)
        if not isinstance(answer, pb.ExchangeServiceExchangeResponse):
            await call.code()  # Why it ended, if it was not in good order.
            raise Unavailable(f"{self.place.name_of(self.place.parent or 0)}, has ended")
        return answer

    async def _pass_down(
        self, step: int, loss: float, start: int, stop: int, chunk: pb.GradientChunk | None = None
    ) -> None:
        """A part of the sum, which is here; as `chunk` if it came as one."""
        part = self._total[start:stop]
        for child in self._children.values():
            if not child.is_in_memory(step):
                chunk = chunk or self._chunk(step, loss, start, part)
                await self._awaited(child.outgoing.put(chunk), child.member)
                continue
            assert child.memory is not None
            child.memory[1][start:stop] = part
            if stop == len(self._total):
                told = pb.GradientChunk(step=step, loss=loss, is_in_memory=True)
                await self._awaited(child.outgoing.put(told), child.member)

    async def _awaited(self, what: Any, member: int | None) -> Any:
        """Something that is another member's to do, within our patience."""
        whom, patience_s = self.place.name_of(member or 0), self.place.patience_s
        try:
            async with asyncio.timeout(patience_s):
                return await what
        except TimeoutError:
            raise TimedOut(f"waited {patience_s:.0f} s for {whom}") from None
        except grpc.RpcError as error:
            found = rpc.from_rpc_error(error, doing=f"exchanging with {whom}")
            # What the other end did not say itself befell the connection.
            raise found if rpc.is_said_by_us(error) else Unavailable(found.message) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError):  # The call has ended.
            raise Unavailable(f"{whom}, has ended") from None

    # Chunks

    def _pieces(self) -> Iterator[tuple[int, int]]:
        size, each = len(self._own), rpc.CHUNK_BYTES // self._own.itemsize
        return ((start, min(size, start + each)) for start in range(0, size, each))

    def _chunk(self, step: int, loss: float, start: int, part: Array) -> pb.GradientChunk:
        chunk = chunk_of(start * part.itemsize, part.tobytes())
        return pb.GradientChunk(step=step, loss=loss, chunk=chunk)

    def _checked(self, found: pb.GradientChunk, step: int, start: int, stop: int) -> Array:
        chunk, itemsize = found.chunk, self._own.itemsize
        expected = (step, start * itemsize, (stop - start) * itemsize)
        if (found.step, chunk.offset, len(chunk.data)) != expected:
            raise DataLost(
                f"step {found.step}, offset {chunk.offset}, {len(chunk.data)} bytes of a gradient "
                f"came where step, offset and bytes should be {expected}"
            )
        check_unharmed(chunk, "a gradient's chunk at")
        return np.frombuffer(chunk.data, self._own.dtype)

    # The parent

    async def _joined(self, stack: AsyncExitStack) -> Call | None:
        """The call to our parent, which ends with the stack; None for the root."""
        if self.place.parent is None:
            return None
        address = self.place.addresses[self.place.parent]
        if not address:
            raise Unavailable(f"{self.place.name_of(self.place.parent)}, cannot be reached")
        channel = rpc.aio_channel(address, self._tls, options(address))
        stub: ExchangeServiceAsyncStub = ExchangeServiceStub(
            await stack.enter_async_context(channel)
        )
        call: Call = stub.Exchange()
        # A task of its own, since what is cancelled in the middle of it ends the call.
        joining = asyncio.ensure_future(self._join(call))
        stack.push_async_callback(self._be_missed, joining)
        welcome = await asyncio.shield(joining)
        where = self.place.exchange, self.place.member, self._memory.descriptor
        self._is_handed = await handing.hand(welcome, *where)
        return call

    async def _join(self, call: Call) -> pb.ExchangeWelcome:
        """Makes us known to our parent."""
        header = pb.ExchangeHeader(exchange_id=self.place.exchange, member=self.place.member)
        request = pb.ExchangeServiceExchangeRequest(header=header)
        await self._awaited(call.write(request), self.place.parent)
        return (await self._answer(call)).welcome

    async def _be_missed(self, joining: asyncio.Future[pb.ExchangeWelcome]) -> None:
        """Until our parent knows us, or has ended itself: then it hears of our end, too."""
        with suppress(DeadheatError):  # Within our patience, like all that is its to do.
            await joining
