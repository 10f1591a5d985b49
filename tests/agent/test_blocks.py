"""Blocks of sub-tasks: what was taken for one that is cancelled meanwhile goes back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.memory import Memory
from deadheat.runtime import wire
from deadheat.runtime.programs import MatrixType
from deadheat.store.descriptors import Granted
from deadheat.v1 import agent_pb2, local_pb2


class SlowStore:
    """A descriptor client whose store takes its time."""

    def __init__(self) -> None:
        self.was_asked = threading.Event()
        self.may_answer = threading.Event()
        self.unmapped: list[int] = []
        self.descriptor = -1

    def grant_all(self, wanted: Sequence[tuple[str, bool]]) -> list[Granted]:
        assert wanted == [("m1", False)]
        self.was_asked.set()
        assert self.may_answer.wait(60)
        self.descriptor = os.open("/dev/null", os.O_RDONLY)
        return [(local_pb2.DescriptorResponse(grant=7), self.descriptor)]

    def give_back(self, granted: Iterable[Granted]) -> None:
        for response, descriptor in granted:
            os.close(descriptor)
            self.unmapped.append(response.grant)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_grant_that_comes_too_late_goes_back() -> None:
    async def run() -> None:
        store: Any = SlowStore()
        blocks = Blocks(BlockCache(1 << 20))
        blocks.shared = store
        matrix = wire.matrix_type_to_wire(MatrixType(4, 4, "float64"))
        operand = agent_pb2.OperandBlock(name="A", type=matrix, matrix_id="m1")
        preparing = asyncio.create_task(blocks.prepare(agent_pb2.Assign(operands=[operand])))
        assert await asyncio.to_thread(store.was_asked.wait, 60)
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        store.may_answer.set()
        async with asyncio.timeout(60):
            while not store.unmapped:
                await asyncio.sleep(0.01)
        assert store.unmapped == [7]
        assert not is_open(store.descriptor)

    asyncio.run(run())


def test_memory_that_nobody_has_any_more_is_gone() -> None:
    memory = Memory(100)
    descriptor = memory.descriptor
    assert is_open(descriptor)
    del memory
    assert not is_open(descriptor)
