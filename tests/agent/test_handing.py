"""Memory of gradients that is handed to a parent: only what is safe is taken, and nothing stays."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

from tests.agent.test_exchanging import Member, gradients, with_members

from deadheat.agent import handing
from deadheat.agent.memory import Memory
from deadheat.v1 import exchange_pb2, local_pb2


def test_memory_that_is_not_what_is_awaited_is_not_taken() -> None:
    async def test(members: list[Member], addresses: list[str]) -> None:
        root, child = members
        welcome = root.server.exchanges._desk.welcome()
        memory = Memory(root.memory.size_bytes)

        async def takes(
            descriptor: int, member: int = 1, ticket: str = "", name: str = "e"
        ) -> bool:
            told = exchange_pb2.ExchangeWelcome(
                socket=welcome.socket, ticket=ticket or welcome.ticket
            )
            return await handing.hand(told, name, member, descriptor)

        assert not await takes(memory.descriptor)  # Nothing has begun.
        root.begin(0, addresses)
        assert not await takes(memory.descriptor)  # It has not come yet.
        child.begin(1, addresses)
        given = next(gradients(2, "float32"))
        for one, gradient in zip(members, given):
            one.give(0, gradient, 1.0)
        await child.summed.get()
        assert not await takes(memory.descriptor)  # A second time.
        assert child.exchange
        assert child.exchange._is_handed
        assert root.exchange
        root.exchange._children[1].memory = None
        assert not await takes(memory.descriptor, 2)
        assert not await takes(memory.descriptor, name="f")
        for ticket in ("guessed", "gültig"):
            assert not await takes(memory.descriptor, ticket=ticket)
        desk = root.server.exchanges._desk
        assert "is no memory of gradients" in desk._answer(b"\xff\xff", []).failure.message
        handed = local_pb2.HandedMemory(ticket=welcome.ticket).SerializeToString()
        assert "0 descriptors came" in desk._answer(handed, []).failure.message
        assert not await takes(Memory(8).descriptor)
        unsealed = os.memfd_create("short")
        os.truncate(unsealed, memory.size_bytes)
        assert not await takes(unsealed)
        os.close(unsealed)
        nothing = os.open("/dev/null", os.O_RDWR)
        assert not await takes(nothing)
        os.close(nothing)
        assert await takes(memory.descriptor)
        assert root.failed.empty()

    with_members(2, test)


def test_whoever_leaves_takes_no_memory_with_it() -> None:
    """Descriptors and mappings of an exchange go with it, on both sides."""

    async def test(members: list[Member], addresses: list[str]) -> None:
        def held() -> int:
            maps = Path("/proc/self/maps").read_text().count("memfd:deadheat-block")
            return maps + len(list(Path("/proc/self/fd").iterdir()))

        before = 0
        for number in range(4):
            for at, one in enumerate(members):
                one.begin(at, addresses, name=f"e{number}")
            for step, given in enumerate(gradients(3, "float32")):
                for one, gradient in zip(members, given):
                    one.give(step, gradient, 1.0)
                for one in members:
                    await one.summed.get()
            for one in members:
                assert one.exchange
                one.server.exchanges.close(one.exchange)
                one.exchange = None
            while any(one.server.exchanges._running for one in members):
                await asyncio.sleep(0.01)
            gc.collect()
            if number == 0:
                before = held()
        while held() > before:  # Connections are closed a moment later.
            await asyncio.sleep(0.01)

    with_members(3, test)
