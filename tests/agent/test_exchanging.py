"""Gradients between agents, by real servers: everybody gets one sum, and ends when another ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator
from typing import Any, cast

import google_crc32c
import grpc
import numpy as np
import pytest

from deadheat.agent import handing
from deadheat.agent.cache import BlockCache
from deadheat.agent.exchanging import Exchange, options
from deadheat.agent.memory import Memory
from deadheat.agent.pipes import Pipe
from deadheat.agent.service import PeerServer
from deadheat.runtime import rpc, wire
from deadheat.runtime.descents import parameters, state_type
from deadheat.runtime.errors import DeadheatError, InvalidInput, Unavailable
from deadheat.runtime.operations import Dense, Descent, Gemm, Loss, Operation
from deadheat.runtime.rectangles import MatrixType
from deadheat.v1 import agent_pb2 as pb
from deadheat.v1 import exchange_pb2, matrix_pb2
from deadheat.v1.exchange_pb2_grpc import ExchangeServiceStub

Array = np.ndarray[Any, Any]
#: Gradients of more than two chunks, and of a part of one more.
KIND = Descent((Dense(600, 500),), Loss.MEAN_SQUARES, 4, 0.1, 0.0, 0, 1)
ROWS, STEPS = 11, 3
Request = exchange_pb2.ExchangeServiceExchangeRequest


class Far:
    """A desk on another host."""

    @staticmethod
    def welcome() -> exchange_pb2.ExchangeWelcome:
        return exchange_pb2.ExchangeWelcome(socket="deadheat-not-on-this-host", ticket="t")

    def close(self) -> None:
        pass


class Member:
    """One of those who share an epoch, with an agent's server of its own."""

    def __init__(self, dtype: str, *, is_near: bool = True) -> None:
        self.server = PeerServer(BlockCache(1 << 20), "127.0.0.1:1", None)
        if not is_near:
            self.server.exchanges._desk = cast("Any", Far())
        self.memory = Memory(2 * parameters(KIND) * np.dtype(dtype).itemsize)
        self.own, self.total = np.frombuffer(self.memory.buffer, dtype).reshape(2, -1)
        self.dtype = dtype
        self.summed: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
        self.failed: asyncio.Queue[Exception] = asyncio.Queue()
        self.exchange: Exchange | None = None

    def begin(
        self, number: int, addresses: list[str], patience_s: float = 60.0, name: str = "e"
    ) -> None:
        types = [MatrixType(ROWS, 600, self.dtype), MatrixType(ROWS, 500, self.dtype)]
        operation = Operation("after", ("X", "y", "order", "before"), KIND)
        assign = pb.Assign(
            operations=[wire.operation_to_wire(operation)],
            operands=[pb.OperandBlock(type=wire.matrix_type_to_wire(one)) for one in types],
            result_type=wire.matrix_type_to_wire(state_type(KIND, self.dtype)),
            share=pb.Share(
                exchange_id=name, member=number, addresses=addresses, patience_s=patience_s
            ),
        )
        self.exchange = self.server.exchanges.open(
            assign, self.memory, lambda *made: self.summed.put_nowait(made), self.failed.put_nowait
        )

    def give(self, step: int, gradient: Array, loss: float) -> None:
        assert self.exchange
        self.own[:] = gradient
        self.exchange.give(step, loss)

    async def end(self) -> None:
        if self.exchange:
            self.server.exchanges.close(self.exchange)
        await self.server.close()


def with_members(
    count: int,
    test: Callable[[list[Member], list[str]], Awaitable[None]],
    dtype: str = "float32",
    *,
    far: Container[int] = (),
) -> None:
    """`far` are those whose children cannot hand them memory."""

    async def run() -> None:
        members = [Member(dtype, is_near=number not in far) for number in range(count)]
        addresses = [await one.server.open() for one in members]
        try:
            await asyncio.wait_for(test(members, addresses), 120)
        finally:
            for one in members:
                await one.end()

    with pytest.MonkeyPatch.context() as patch:
        # Whoever is late here is on a busy machine: tests know who hands memory and who does not.
        patch.setattr(handing, "ANSWER_S", 60.0)
        asyncio.run(run())


def gradients(count: int, dtype: str) -> Iterator[list[Array]]:
    rng = np.random.default_rng(count)
    for _ in range(STEPS):
        yield [rng.standard_normal(parameters(KIND)).astype(dtype) for _ in range(count)]


def tree_sum(given: list[Array], member: int = 0) -> Array:
    """Own first, then those of the children in rising order."""
    total = given[member]
    for child in (2 * member + 1, 2 * member + 2):
        if child < len(given):
            total = total + tree_sum(given, child)
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("far", [(), range(7), (0,), (1,), (0, 2)])
def test_everybody_gets_the_same_sum_whoever_comes_first(
    count: int, dtype: str, far: Container[int]
) -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        for number in reversed(range(count)):  # Children come before their parents.
            members[number].begin(number, addresses)
            await asyncio.sleep(0)
        for step, given in enumerate(gradients(count, dtype)):
            order = list(range(count)) if step % 2 else list(reversed(range(count)))
            for number in order:
                members[number].give(step, given[number], float(number + 1))
                await asyncio.sleep(0)
            expected = tree_sum(given)
            for one in members:
                assert await one.summed.get() == (step, count * (count + 1) / 2)
                assert np.array_equal(one.total, expected)
        assert all(one.failed.empty() for one in members)
        for number, one in enumerate(members[1:], 1):
            assert one.exchange
            assert one.exchange._is_handed == ((number - 1) // 2 not in far)

    with_members(count, test, dtype, far=far)


@pytest.mark.parametrize("ends", range(4))
@pytest.mark.parametrize("far", [(), range(4)])
def test_whoever_ends_ends_the_others(ends: int, far: Container[int]) -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        for number, one in enumerate(members):
            one.begin(number, addresses)
        for step, given in enumerate(gradients(4, "float32")):
            for number, one in enumerate(members):
                if (step, number) != (1, ends):
                    one.give(step, given[number], 0.0)
            if step:
                break
            for one in members:
                await one.summed.get()
        await members[ends].end()
        for number, one in enumerate(members):
            if number != ends:
                error = await one.failed.get()
                assert isinstance(error, Unavailable)
                assert "of this epoch" in error.message

    with_members(4, test, far=far)


#: Far less than a member's patience.
SOON_S = 20.0


def test_a_child_that_comes_when_its_parent_has_ended_is_told_so() -> None:
    """Its executor may die before a child's connection is made. The child used to wait for it."""

    async def test(members: list[Member], addresses: list[str]) -> None:
        root, child = members
        root.begin(0, addresses)
        assert root.exchange
        root.server.exchanges.close(root.exchange)
        child.begin(1, addresses)
        child.give(0, np.zeros(parameters(KIND), "float32"), 0.0)
        error = await asyncio.wait_for(child.failed.get(), SOON_S)
        assert isinstance(error, Unavailable)
        assert "member 0 of this epoch" in error.message

    with_members(2, test)


def test_a_child_that_has_ended_before_its_parent_began_is_missed_when_it_does() -> None:
    """Nobody told its parent, which used to wait for it."""

    async def test(members: list[Member], addresses: list[str]) -> None:
        root, child, other = members
        child.begin(1, addresses)
        other.begin(2, addresses)
        await asyncio.sleep(0)  # They are on their way.
        assert child.exchange
        child.server.exchanges.close(child.exchange)
        root.begin(0, addresses)
        for one in (root, other):
            one.give(0, np.zeros(parameters(KIND), "float32"), 0.0)
            error = await asyncio.wait_for(one.failed.get(), SOON_S)
            assert isinstance(error, Unavailable)
            assert "of this epoch" in error.message

    with_members(3, test)


def test_nobody_waits_longer_than_he_was_told() -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        for number, one in enumerate(members):
            one.begin(number, addresses, patience_s=0.2)
        members[0].give(0, np.zeros(parameters(KIND), "float32"), 0.0)
        error = await members[0].failed.get()
        assert isinstance(error, DeadheatError)
        assert error.message == f"waited 0 s for member 1 of this epoch, at {addresses[1]}"

    with_members(2, test)


def test_a_member_whose_parent_is_not_there_fails() -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        await members[0].server.close()
        members[1].begin(1, addresses)
        error = await members[1].failed.get()
        assert isinstance(error, Unavailable)
        assert f"member 0 of this epoch, at {addresses[0]}" in error.message
        members[2].begin(1, ["", addresses[2]])
        error = await members[2].failed.get()
        assert "cannot be reached" in str(error)

    with_members(3, test)


async def told(address: str, *requests: Request) -> str:
    """What a server says to a child that sends these, if it ends it."""
    async with rpc.aio_channel(address, None, options(address)) as channel:
        call = ExchangeServiceStub(channel).Exchange()
        try:
            for request in requests:
                await call.write(request)
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.RpcError as error:
            return rpc.from_rpc_error(error, doing="exchanging").message
    return ""


def chunk(step: int = 0, offset: int = 0, size: int = 1 << 20, flips: int = 0) -> Request:
    data = bytes(size)
    found = matrix_pb2.Chunk(offset=offset, data=data, crc32c=google_crc32c.value(data) ^ flips)
    return Request(gradient=exchange_pb2.GradientChunk(step=step, chunk=found))


def header(member: int = 1, name: str = "e") -> Request:
    return Request(header=exchange_pb2.ExchangeHeader(exchange_id=name, member=member))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (chunk(step=1), "step 1, offset 0, 1048576 bytes of a gradient came"),
        (chunk(offset=4), "step 0, offset 4, 1048576 bytes of a gradient came"),
        (chunk(size=8), "step 0, offset 0, 8 bytes of a gradient came"),
        (chunk(flips=1), "a gradient's chunk at 0 does not match its checksum"),
        (
            Request(gradient=exchange_pb2.GradientChunk(step=0, is_in_memory=True)),
            "step 0 of a gradient was said to be in memory, in step 0",
        ),
    ],
)
def test_what_is_not_the_gradient_that_is_awaited_ends_it(wrong: Request, message: str) -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        members[0].begin(0, addresses)
        members[0].give(0, np.zeros(parameters(KIND), "float32"), 0.0)
        assert message in await told(addresses[0], header(), wrong)
        error = await members[0].failed.get()
        assert message in str(error)

    with_members(2, test)


def test_who_is_no_child_is_told_so_and_changes_nothing() -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        members[0].begin(0, addresses)
        assert await told(addresses[0], chunk()) == "an Exchange starts with its header"
        # 4's parent is 1, which is not here: it would wait. 2's is 0, which has one child only.
        assert "member 2 is no child of 0" in await told(addresses[0], header(2))
        members[1].begin(1, addresses)
        given = next(gradients(2, "float32"))
        for one, gradient in zip(members, given):
            one.give(0, gradient, 1.0)
        await members[1].summed.get()
        assert "came twice" in await told(addresses[0], header(1))
        assert np.array_equal(members[1].total, given[0] + given[1])
        assert members[0].failed.empty()

    with_members(2, test)


def test_a_place_that_is_none_and_what_is_no_epoch_are_refused() -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        with pytest.raises(InvalidInput, match="member 2 of 2 in exchange 'e'"):
            members[0].begin(2, addresses)
        operation = wire.operation_to_wire(Operation("C", ("A", "B"), Gemm()))
        with pytest.raises(InvalidInput, match="only an epoch of training is shared"):
            members[0].server.exchanges.open(
                pb.Assign(operations=[operation]), members[0].memory, print, print
            )

    with_members(2, test)


def test_a_pipe_is_bounded_and_what_came_before_its_end_is_got() -> None:
    async def run() -> None:
        pipe: Pipe[int] = Pipe(2)
        await pipe.put(1)
        await pipe.put(2)
        waiting = asyncio.ensure_future(pipe.put(3))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await pipe.get() == 1
        await waiting
        pipe.end(None)
        assert [item async for item in pipe] == [2, 3]
        with pytest.raises(Unavailable, match="nothing more"):
            await pipe.get()
        broken: Pipe[int] = Pipe(2)
        getting = asyncio.ensure_future(broken.get())
        await asyncio.sleep(0)
        broken.end(InvalidInput("rubbish"))
        for doing in (getting, broken.put(1), _all_of(broken)):
            with pytest.raises(InvalidInput, match="rubbish"):
                await doing

    asyncio.run(asyncio.wait_for(run(), 30))


async def _all_of(pipe: AsyncIterator[int] | Pipe[int]) -> list[int]:
    return [item async for item in pipe]
