"""An epoch that agents share, with real executors: its parts come together, or all of them end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
from tests.agent.stores import FakeStore
from tests.agent.test_epochs import LARGER
from tests.runtime.test_descents import epoch, operands
from tests.runtime.test_image_descents import IMAGES

from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.executors.link import ExecutorLink
from deadheat.agent.service import PeerServer
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import descents, wire
from deadheat.runtime.operations import Descent, Operation
from deadheat.runtime.rectangles import MatrixType, Rectangle
from deadheat.v1 import agent_pb2 as pb

Array = np.ndarray[Any, Any]
NAMES = ("X", "y", "order", "before")
LIMIT_BYTES = 1 << 30


class Agent:
    """The parts of an agent that share an epoch, with a store of its own that has all operands."""

    def __init__(self, parts: list[Array]) -> None:
        self.store = cast("Any", FakeStore())
        self.store.matrices = dict(zip(NAMES, parts))
        self.cache = BlockCache(LIMIT_BYTES)
        blocks = Blocks(self.cache)
        blocks.stub = self.store
        self.server = PeerServer(self.cache, "127.0.0.1:1", None)
        self.told: asyncio.Queue[pb.AgentServiceSessionRequest] = asyncio.Queue()
        self.subtasks = Subtasks(blocks, self.told.put_nowait, self.server.exchanges)
        self.link = ExecutorLink(
            1,
            "normal",
            self.subtasks.on_executor_event,
            lambda reason: self.subtasks.on_executor_died("", reason),
        )
        self.subtasks.attach("", self.link)

    async def hear(self, *kinds: str) -> Any:
        while True:
            message = await asyncio.wait_for(self.told.get(), 150)
            if (kind := str(message.WhichOneof("message"))) in kinds:
                return getattr(message, kind)

    def assign(
        self, kind: Descent, member: int, columns: tuple[int, int], addresses: list[str]
    ) -> None:
        types = {
            name: MatrixType(len(a), a.shape[1], a.dtype.name)
            for name, a in self.store.matrices.items()
        }
        wanted = {name: matrix.whole() for name, matrix in types.items()}
        wanted["order"] = wanted["order"].with_rows(kind.epoch, kind.epoch + 1)
        self.subtasks.assigned(
            pb.Assign(
                subtask_id=f"s{member}",
                attempt=1,
                operations=[wire.operation_to_wire(Operation("after", NAMES, kind))],
                operands=[
                    pb.OperandBlock(
                        name=name,
                        type=wire.matrix_type_to_wire(types[name]),
                        rectangle=wire.rectangle_to_wire(wanted[name]),
                        matrix_id=name,
                    )
                    for name in NAMES
                ],
                result_type=wire.matrix_type_to_wire(types["before"]),
                rectangle=wire.rectangle_to_wire(Rectangle(0, types["before"].rows, *columns)),
                result_matrix_id="after",
                progress_s=0.001,
                share=pb.Share(
                    exchange_id="s0", member=member, addresses=addresses, patience_s=60.0
                ),
            )
        )

    async def until_free(self) -> None:
        for _ in range(3000):
            if self.cache.free_bytes == LIMIT_BYTES:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.cache.used_bytes} bytes are still in use")


Test = Callable[[list[Agent]], Awaitable[None]]


def with_agents(kind: Descent, parts: list[Array], shares: list[float], test: Test) -> None:
    """An epoch is assigned to agents, a part by its share to each."""

    async def run() -> None:
        agents = [Agent(parts) for _ in shares]
        try:
            addresses = [await one.server.open() for one in agents]
            await asyncio.gather(*(one.link.start() for one in agents))
            count = descents.parameters(kind)
            edges = [int(count * at) for at in np.cumsum([0.0, *shares])]
            edges[-1] = parts[3].shape[1]
            for member, columns in enumerate(pairwise(edges)):
                agents[member].assign(kind, member, columns, addresses)
            await test(agents)
        finally:
            for one in agents:
                await one.link.stop()
                await one.server.close()

    asyncio.run(run())


@pytest.mark.parametrize("shares", [[0.3, 0.7], [0.5, 0.1, 0.4]])
@pytest.mark.parametrize(("kind", "rows"), [(LARGER, 2300), (IMAGES, 18)])
def test_parts_come_together_to_what_one_device_makes(
    kind: Descent, rows: int, shares: list[float]
) -> None:
    parts = operands(kind, rows)

    async def test(agents: list[Agent]) -> None:
        found = np.full_like(parts[3], np.nan)
        for one in agents:
            finished = await one.hear("finished", "failed")
            assert isinstance(finished, pb.Finished), finished
            for r, data in one.store.put["after"]:
                made = np.frombuffer(data, found.dtype).reshape(r.rows, r.columns)
                found[r.row_start : r.row_stop, r.column_start : r.column_stop] = made
            await one.until_free()
        expected, count = epoch(kind, parts), descents.parameters(kind)
        difference = np.abs(found[:, :count] - expected[:, :count]).max()
        assert difference <= 1e-12 * np.abs(expected[:, :count]).max()
        record = descents.records(count, found)[0]
        assert np.isclose(record[0], descents.records(count, expected)[0][0])
        assert record[2] == 5

    with_agents(kind, parts, shares, test)


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_where_an_executor_dies_all_members_fail_and_hold_nothing(dies: int) -> None:
    async def test(agents: list[Agent]) -> None:
        for one in agents:
            await one.hear("progress")
        os.kill(agents[dies].link.pid, signal.SIGKILL)
        for number, one in enumerate(agents):
            failed = await one.hear("failed")
            assert failed.executor_died == (number == dies)
            if number != dies:
                assert failed.failure.code == "unavailable"
                assert "of this epoch" in failed.failure.message
            await one.until_free()

    with_agents(LARGER, operands(LARGER, 60_000, "float32"), [0.4, 0.3, 0.3], test)


def test_cancelled_members_end_and_hold_nothing() -> None:
    async def test(agents: list[Agent]) -> None:
        await agents[1].hear("progress")
        for number, one in enumerate(agents):
            one.subtasks.cancelled([f"s{number}"])
        for one in agents:
            await one.until_free()
            assert not one.subtasks.held

    with_agents(LARGER, operands(LARGER, 60_000, "float32"), [0.4, 0.6], test)


def test_a_label_that_is_none_fails_all_of_them() -> None:
    parts = operands(LARGER, 2300)
    parts[1][7, 0] = 10

    async def test(agents: list[Agent]) -> None:
        failures = [(await one.hear("failed")).failure for one in agents]
        # Each finds it by itself, unless it hears first that another has ended of it.
        own = [one for one in failures if one.code == "invalid_input"]
        assert own
        assert all("label 10 is out of range" in one.message for one in own)
        rest = [one for one in failures if one.code != "invalid_input"]
        assert all(one.code == "unavailable" for one in rest)
        assert all("of this epoch has ended" in one.message for one in rest)

    with_agents(LARGER, parts, [0.5, 0.5], test)
