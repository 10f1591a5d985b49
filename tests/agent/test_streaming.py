"""Sub-tasks of a far agent: computing begins with the first rows, results go while others come."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest
from tests.agent.stores import FakeStore, part

from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.executors.link import ExecutorLink
from deadheat.agent.subtasks import Subtasks
from deadheat.runtime import wire
from deadheat.runtime.programs import Gemm, MatrixType, Operation, Rectangle, uncovered
from deadheat.v1 import agent_pb2 as pb

M, K, N = 2400, 512, 1200
RNG = np.random.default_rng(7)
A, B = RNG.standard_normal((M, K)), RNG.standard_normal((K, N))
CHUNK_BYTES = 1 << 20
B_CHUNKS = -(-B.nbytes // CHUNK_BYTES)
A_CHUNKS = -(-A.nbytes // CHUNK_BYTES)
LIMIT_BYTES = 1 << 30
#: What sub-tasks of these tests are assigned to.
DEVICE = ""


class Agent:
    """The parts of an agent that carry out sub-tasks, with a store that answers when it may."""

    def __init__(self, allowed: int | None) -> None:
        self.store = cast("Any", FakeStore(chunk_bytes=CHUNK_BYTES, allowed=allowed))
        self.store.matrices = {"ma": A, "mb": B}
        self.cache = BlockCache(LIMIT_BYTES)
        blocks = Blocks(self.cache)
        blocks.stub = self.store
        self.told: asyncio.Queue[pb.AgentServiceSessionRequest] = asyncio.Queue()
        self.subtasks = Subtasks(blocks, self.told.put_nowait)
        self.link = ExecutorLink(
            2,
            "normal",
            self.subtasks.on_executor_event,
            lambda reason: self.subtasks.on_executor_died(DEVICE, reason),
        )
        self.subtasks.attach(DEVICE, self.link)

    async def hear(self, *kinds: str) -> Any:
        while True:
            message = await asyncio.wait_for(self.told.get(), 60)
            if (kind := str(message.WhichOneof("message"))) in kinds:
                return getattr(message, kind)

    def assign(self, name: str = "s") -> None:
        kinds = {"A": MatrixType(M, K, "float64"), "B": MatrixType(K, N, "float64")}
        operands = [
            pb.OperandBlock(
                name=label,
                type=wire.matrix_type_to_wire(matrix),
                rectangle=wire.rectangle_to_wire(matrix.whole()),
                matrix_id=f"m{label.lower()}",
            )
            for label, matrix in kinds.items()
        ]
        result = MatrixType(M, N, "float64")
        self.subtasks.assigned(
            pb.Assign(
                subtask_id=name,
                attempt=1,
                operations=[wire.operation_to_wire(Operation("C", ("A", "B"), Gemm()))],
                operands=operands,
                result_type=wire.matrix_type_to_wire(result),
                rectangle=wire.rectangle_to_wire(result.whole()),
                result_matrix_id="mc",
                progress_s=0.001,
            )
        )

    def delivered(self) -> tuple[list[Rectangle], bool]:
        """What lies in the store of the result, and whether all of it is right."""
        truth, found = A @ B, self.store.put.get("mc", [])
        right = all(
            np.allclose(np.frombuffer(data).reshape(r.rows, r.columns), part(truth, r))
            for r, data in found
        )
        return [r for r, _ in found], right

    async def until_free(self) -> None:
        for _ in range(6000):
            if self.cache.free_bytes == LIMIT_BYTES:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.cache.used_bytes} bytes are still in use")


def with_agent(test: Callable[[Agent], Awaitable[None]], *, allowed: int | None) -> None:
    async def run() -> None:
        agent = Agent(allowed)
        await agent.link.start()
        try:
            await test(agent)
        finally:
            await agent.link.stop()

    asyncio.run(run())


def test_rows_are_computed_and_delivered_while_others_arrive() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        while (await agent.hear("progress")).subtasks[0].row_done == 0:
            pass
        # Half of A has come. What could be made of it is on its way or there.
        rectangles, is_right = agent.delivered()
        assert rectangles
        assert is_right
        assert max(r.row_stop for r in rectangles) <= M // 2 + 256
        await agent.store.allow(None)
        finished = await agent.hear("finished")
        rectangles, is_right = agent.delivered()
        assert is_right
        assert sum(r.area for r in rectangles) == M * N
        assert finished.bytes_in == A.nbytes + B.nbytes
        assert finished.bytes_out == M * N * 8
        await agent.until_free()
        assert set(agent.cache.whole) == {"ma", "mb"}

    with_agent(test, allowed=B_CHUNKS + A_CHUNKS // 2)


def test_nothing_begins_before_what_every_row_needs_is_there() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        async with asyncio.timeout(60):
            while agent.store.sent_bytes < (B_CHUNKS - 1) * CHUNK_BYTES:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # Whoever began too early would be heard of now.
        assert agent.told.empty()
        assert list(agent.store.asked) == [("mb", Rectangle(0, K, 0, N))]
        await agent.store.allow(None)
        await agent.hear("finished")
        assert agent.delivered()[1]

    with_agent(test, allowed=B_CHUNKS - 1)


def test_what_waits_for_rows_can_be_given_back_and_is_not_fetched() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        await agent.hear("progress")
        agent.subtasks.resize(pb.Resize(subtask_id="s", keep_area=0))
        resized = await agent.hear("resized")
        await agent.hear("finished")
        rectangles, is_right = agent.delivered()
        assert is_right
        whole = MatrixType(M, N, "float64")
        given = [
            wire.rectangle_from_wire(piece, within=whole, field="released")
            for piece in resized.released
        ]
        assert sum(r.area for r in (*rectangles, *given)) == M * N
        assert uncovered(whole.whole(), [*rectangles, *given]) == []
        await agent.store.allow(None)
        await agent.until_free()
        assert agent.store.sent_bytes < A.nbytes + B.nbytes

    with_agent(test, allowed=B_CHUNKS + A_CHUNKS // 2)


def test_what_waits_for_rows_can_be_cancelled() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        await agent.hear("progress")
        agent.subtasks.cancelled(["s"])
        await agent.until_free()
        agent.assign("t")  # All is well for whoever comes next.
        await agent.store.allow(None)
        assert (await agent.hear("finished")).progress.subtask_id == "t"

    with_agent(test, allowed=B_CHUNKS + A_CHUNKS // 2)


def test_a_fetch_that_breaks_fails_what_runs_and_keeps_delivered_rows() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        while (row := (await agent.hear("progress")).subtasks[0].row_done) == 0:
            pass
        await agent.store.break_down()
        failed = await agent.hear("failed")
        assert failed.failure.code == "invalid_input"
        assert failed.row_done >= row
        rectangles, is_right = agent.delivered()
        assert is_right
        assert max(r.row_stop for r in rectangles) >= failed.row_done
        await agent.until_free()

    with_agent(test, allowed=B_CHUNKS + A_CHUNKS // 2)


def test_whatever_breaks_a_fetch_ends_the_attempt(caplog: pytest.LogCaptureFixture) -> None:
    async def test(agent: Agent) -> None:
        agent.store.fault = RuntimeError("nobody foresaw this")
        agent.store.is_broken = True
        agent.assign()
        failed = await agent.hear("failed")
        assert failed.failure.code == "internal"
        assert "nobody foresaw this" in failed.failure.message
        await agent.until_free()
        agent.store.is_broken = False
        agent.assign("t")  # All is well for whoever comes next.
        assert (await agent.hear("finished")).progress.subtask_id == "t"

    with_agent(test, allowed=None)
    assert "Traceback" in caplog.text


def test_whatever_breaks_a_delivery_ends_the_attempt(caplog: pytest.LogCaptureFixture) -> None:
    async def test(agent: Agent) -> None:
        agent.store.put_fault = RuntimeError("nobody foresaw this")
        agent.assign()
        failed = await agent.hear("failed")
        assert failed.failure.code == "internal"
        assert "nobody foresaw this" in failed.failure.message
        await agent.until_free()

    with_agent(test, allowed=None)
    assert "Traceback" in caplog.text


def test_a_dead_executor_fails_what_waits_for_rows() -> None:
    async def test(agent: Agent) -> None:
        agent.assign()
        while (row := (await agent.hear("progress")).subtasks[0].row_done) == 0:
            pass
        os.kill(agent.link.pid, signal.SIGKILL)
        failed = await agent.hear("failed")
        assert failed.executor_died
        assert failed.row_done >= row
        await agent.until_free()

    with_agent(test, allowed=B_CHUNKS + A_CHUNKS // 2)


def test_who_finds_no_room_fetches_nothing_and_waits_for_it() -> None:
    async def test(agent: Agent) -> None:
        agent.cache.limit_bytes = A.nbytes + B.nbytes + M * N * 8
        agent.cache.reserve(1 << 20)  # Whoever was cancelled, and is in his last panel.
        agent.assign("first")
        agent.assign("second")
        while agent.cache.waiting < 2:
            await asyncio.sleep(0)
        assert not agent.store.asked
        agent.cache.release(1 << 20)
        for _ in range(2):  # The second has room for its result when the first is done.
            finished = await agent.hear("finished", "failed")
            assert finished.progress.subtask_id in ("first", "second")
        pieces, right = agent.delivered()
        assert right
        assert sum(piece.area for piece in pieces) == 2 * M * N

    with_agent(test, allowed=None)


def test_what_never_fits_is_given_up_at_once() -> None:
    async def test(agent: Agent) -> None:
        agent.cache.limit_bytes = A.nbytes + B.nbytes
        agent.assign()
        failed = await agent.hear("finished", "failed")
        assert failed.failure.code == "limit_reached"

    with_agent(test, allowed=None)
