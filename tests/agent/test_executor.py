"""A real executor process: computes in mappings, gives up, is cancelled, dies and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadheat.agent.calibration import Fingerprint, Kept, Measured, all_kept, load, path_of, save
from deadheat.agent.executors.link import ExecutorLink
from deadheat.agent.memory import Memory
from deadheat.runtime import wire
from deadheat.runtime.dtypes import numpy_dtype
from deadheat.runtime.elementwise import passes
from deadheat.runtime.programs import (
    Activation,
    Chain,
    Gemm,
    MatrixType,
    Operation,
    Rectangle,
    Segment,
    Sum,
    Unary,
    UnaryFunction,
    needed_blocks,
)
from deadheat.runtime.rules import result_type
from deadheat.v1 import agent_pb2, local_pb2


class Harness:
    """An executor with two threads, and a product in memory that both sides map."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[local_pb2.ExecutorEvent] = asyncio.Queue()
        self.deaths: asyncio.Queue[str] = asyncio.Queue()
        self.link = ExecutorLink(2, "normal", self.events.put_nowait, self.deaths.put_nowait)

    async def next(self, *kinds: str) -> Any:
        while True:
            event = await asyncio.wait_for(self.events.get(), 150)
            if (kind := str(event.WhichOneof("event"))) in kinds:
                return getattr(event, kind)
            assert kind != "failed", event.failed.failure.message

    def run(
        self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], name: str = "s", rank: float = 0.0
    ) -> np.ndarray[Any, Any]:
        """Sends a product; returns its result's memory as an array."""
        return self.execute(Operation("C", ("A", "B"), Gemm()), (a, b), name=name, rank=rank)

    def execute(
        self,
        operation: Operation,
        arrays: Sequence[np.ndarray[Any, Any]],
        *,
        cut: Rectangle | None = None,
        name: str = "s",
        rank: float = 0.0,
    ) -> np.ndarray[Any, Any]:
        """Sends an operation, with operands whole or (for the rectangle `cut` of the result) as
        they are streamed, only what it needs; returns the memory of that part of the result."""
        given = [MatrixType(a.shape[0], a.shape[1], a.dtype.name) for a in arrays]
        types = dict(zip(operation.operands, given))
        made = result_type(operation, types)
        rectangle = cut or made.whole()
        held = [matrix.whole() for matrix in given]
        if cut:
            held = [block for _, block in needed_blocks(operation, types, cut)]
        pieces = [
            array[r.row_start : r.row_stop, r.column_start : r.column_stop]
            for array, r in zip(arrays, held)
        ]
        result = Memory(rectangle.area * made.element.itemsize)
        memories = [*(Memory(piece.nbytes) for piece in pieces), result]
        for memory, piece in zip(memories, pieces):
            memory.buffer[:] = piece.tobytes()
        places = zip((*operation.operands, ""), (*given, made), (*held, rectangle))
        blocks = [
            local_pb2.MappedBlock(
                name=label,
                type=wire.matrix_type_to_wire(matrix),
                rectangle=wire.rectangle_to_wire(place),
                size_bytes=place.area * matrix.element.itemsize,
            )
            for label, matrix, place in places
        ]
        assign = agent_pb2.Assign(
            subtask_id=name,
            operations=[wire.operation_to_wire(operation)],
            operands=[
                agent_pb2.OperandBlock(name=label, type=wire.matrix_type_to_wire(matrix))
                for label, matrix in zip(operation.operands, given)
            ],
            result_type=wire.matrix_type_to_wire(made),
            rectangle=wire.rectangle_to_wire(rectangle),
            rank=rank,
        )
        run = local_pb2.RunSubtask(assign=assign, operands=blocks[:-1], result=blocks[-1])
        self.link.send(
            local_pb2.ExecutorRequest(run=run), [memory.descriptor for memory in memories]
        )
        shape = (rectangle.rows, rectangle.columns)
        return np.frombuffer(result.buffer, numpy_dtype(made.dtype)).reshape(shape)


def with_executor(test: Callable[[Harness], Awaitable[None]]) -> None:
    async def run() -> None:
        harness = Harness()
        ready = await harness.link.start()
        assert ready.threads == 2
        try:
            await test(harness)
        finally:
            await harness.link.stop()

    asyncio.run(run())


RNG = np.random.default_rng(3)
SMALL = RNG.random((300, 200)), RNG.random((200, 250))
LARGE = np.ones((4000, 6000)), np.ones((6000, 4000))


def test_the_result_is_in_the_mapping_when_it_says_so() -> None:
    async def test(harness: Harness) -> None:
        result = harness.run(*SMALL)
        finished = await harness.next("finished")
        assert np.allclose(result, SMALL[0] @ SMALL[1])
        assert finished.progress.area_done == result.size
        assert finished.progress.flops == 2 * 300 * 200 * 250
        assert finished.progress.cpu_s > 0
        assert (await harness.next("released")).subtask_id == "s"

    with_executor(test)


@pytest.mark.parametrize("cut", [None, Rectangle(30, 170, 64, 300)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_window_of_the_inner_dimension_is_cut_from_whole_and_from_streamed_blocks(
    cut: Rectangle | None, transposed: bool
) -> None:
    kind = Gemm(transpose_a=transposed, transpose_b=transposed, inner=(17, 90))
    a, b = RNG.random((200, 150)), RNG.random((150, 310))

    async def test(harness: Harness) -> None:
        given = (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)) if transposed else (a, b)
        result = harness.execute(Operation("C~k0", ("A", "B"), kind), given, cut=cut)
        finished = await harness.next("finished")
        rows = slice(cut.row_start, cut.row_stop) if cut else slice(None)
        columns = slice(cut.column_start, cut.column_stop) if cut else slice(None)
        assert np.allclose(result, a[rows, 17:90] @ b[17:90, columns])
        assert finished.progress.flops == 2 * result.size * 73

    with_executor(test)


@pytest.mark.parametrize("cut", [None, Rectangle(30, 170, 64, 300)])
def test_sums_with_bias_are_rounded_once(cut: Rectangle | None) -> None:
    kind = Sum(bias=True, alpha=0.5, activation=Activation.RELU, dtype="float16")
    terms = [RNG.standard_normal((200, 310)).astype(np.float32) for _ in range(3)]
    bias = RNG.standard_normal((1, 310)).astype(np.float16)
    whole = np.maximum((terms[0] + terms[1] + terms[2]) * np.float32(0.5) + bias, 0)
    operation = Operation("C", ("C~k0", "C~k1", "C~k2", "bias"), kind)

    async def test(harness: Harness) -> None:
        result = harness.execute(operation, (*terms, bias), cut=cut)
        finished = await harness.next("finished")
        r = cut or Rectangle(0, 200, 0, 310)
        expected = whole[r.row_start : r.row_stop, r.column_start : r.column_stop]
        assert result.dtype == np.float16
        assert np.array_equal(result, expected.astype(np.float16))
        assert finished.progress.flops == 5 * result.size

    with_executor(test)


@pytest.mark.parametrize("cut", [None, Rectangle(100, 1000, 0, 70)])
def test_a_segment_leaves_only_its_result(cut: Rectangle | None) -> None:
    inner = (
        Operation("H", ("A", "B"), Gemm(activation=Activation.RELU)),
        Operation("T", ("H",), Unary(UnaryFunction.TANH)),
        Operation("C", ("T", "V"), Gemm()),
    )
    a, b, v = RNG.random((1500, 90)), RNG.standard_normal((90, 110)), RNG.random((110, 70))
    operation = Operation("C", ("A", "B", "V"), Segment(inner))

    async def test(harness: Harness) -> None:
        result = harness.execute(operation, (a, b, v), cut=cut)
        finished = await harness.next("finished")
        rows = slice(cut.row_start, cut.row_stop) if cut else slice(None)
        assert np.allclose(result, (np.tanh(np.maximum(a @ b, 0)) @ v)[rows])
        assert finished.progress.area_done == result.size
        each = passes(Unary(UnaryFunction.TANH), MatrixType(1500, 110, "float64"))
        per_row = 2 * 90 * 110 + each * 110 + 2 * 110 * 70
        assert finished.progress.flops == pytest.approx(per_row * len(result))

    with_executor(test)


def test_a_matrix_may_be_both_operands() -> None:
    square = RNG.random((150, 150))

    async def test(harness: Harness) -> None:
        rows = Rectangle(40, 90, 0, 150)
        both = Operation("C", ("A", "A"), Gemm(transpose_b=True))
        result = harness.execute(both, (square, square), cut=rows)
        await harness.next("finished")
        assert np.allclose(result, square[40:90] @ square.T)

    with_executor(test)


def test_a_chain_that_nobody_rewrote_is_refused() -> None:
    async def test(harness: Harness) -> None:
        harness.execute(Operation("C", ("A", "B"), Chain()), SMALL)
        failed = await harness.next("failed")
        assert "rewritten" in failed.failure.message

    with_executor(test)


def test_what_is_given_up_is_not_touched() -> None:
    async def test(harness: Harness) -> None:
        result = harness.run(*LARGE)
        await harness.next("progress")
        resize = agent_pb2.Resize(subtask_id="s", keep_area=0)
        harness.link.send(local_pb2.ExecutorRequest(resize=resize))
        resized = await harness.next("resized")
        await harness.next("finished")
        whole = MatrixType(4000, 4000, "float64")
        given = [
            wire.rectangle_from_wire(piece, within=whole, field="released")
            for piece in resized.released
        ]
        assert given
        expected = np.full((4000, 4000), 6000.0)
        for piece in given:
            rows = slice(piece.row_start, piece.row_stop)
            expected[rows, piece.column_start : piece.column_stop] = 0
        assert np.array_equal(result, expected)
        assert isinstance(given[0], Rectangle)

    with_executor(test)


def test_a_cancelled_task_says_when_it_touches_nothing_any_more() -> None:
    async def test(harness: Harness) -> None:
        result = harness.run(*LARGE)
        await harness.next("progress")
        cancel = agent_pb2.CancelSubtasks(subtask_ids=["s"])
        harness.link.send(local_pb2.ExecutorRequest(cancel=cancel))
        released = await harness.next("released", "finished")
        assert isinstance(released, local_pb2.Released)
        before = result.copy()
        other = harness.run(*SMALL, name="t")
        await harness.next("finished")
        assert np.allclose(other, SMALL[0] @ SMALL[1])
        assert np.array_equal(result, before)

    with_executor(test)


def test_a_small_task_overtakes_a_large_one_of_lower_rank() -> None:
    async def test(harness: Harness) -> None:
        harness.run(*LARGE, name="large", rank=2.0)
        await harness.next("progress")
        harness.run(*SMALL, name="small", rank=1.0)
        assert (await harness.next("finished")).progress.subtask_id == "small"

    with_executor(test)


def test_an_executor_that_dies_is_replaced() -> None:
    async def test(harness: Harness) -> None:
        first = harness.link.pid
        os.kill(first, signal.SIGKILL)
        assert await asyncio.wait_for(harness.deaths.get(), 60) == "signal 9"
        while harness.link.pid == first:
            await asyncio.sleep(0.01)
        # What is sent while the new one starts waits for it in the socket.
        result = harness.run(*SMALL, name="again")
        finished = await harness.next("finished")
        assert finished.progress.subtask_id == "again"
        assert np.allclose(result, SMALL[0] @ SMALL[1])

    with_executor(test)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_reach_every_process_are_the_agents_to_heed(number: signal.Signals) -> None:
    async def test(harness: Harness) -> None:
        result = harness.run(*LARGE)
        await harness.next("progress")
        os.kill(harness.link.pid, number)
        await harness.next("finished")
        assert np.allclose(result, LARGE[0] @ LARGE[1])
        assert harness.deaths.empty()

    with_executor(test)


def test_a_task_that_cannot_be_mapped_fails_and_harms_nobody() -> None:
    async def test(harness: Harness) -> None:
        broken = agent_pb2.Assign(
            subtask_id="broken",
            operations=[wire.operation_to_wire(Operation("C", ("A", "B"), Gemm()))],
        )
        run = local_pb2.RunSubtask(assign=broken)
        harness.link.send(local_pb2.ExecutorRequest(run=run))
        failed = await harness.next("failed")
        assert failed.subtask_id == "broken"
        result = harness.run(*SMALL)
        await harness.next("finished")
        assert np.allclose(result, SMALL[0] @ SMALL[1])

    with_executor(test)


def test_calibrations_are_kept_and_read_again(tmp_path: Path) -> None:
    async def test(harness: Harness) -> None:
        harness.link.send(local_pb2.ExecutorRequest(calibrate=local_pb2.Calibrate()))
        points = list((await harness.next("calibrated")).points)
        assert len({point.data_type for point in points}) == 15
        assert all(point.seconds > 0 for point in points)
        assert {point.op for point in points} == {
            agent_pb2.SPEED_OP_PRODUCT,
            agent_pb2.SPEED_OP_SUM,
        }
        fingerprint = Fingerprint("cpu", 2, "blas")
        assert load(tmp_path, fingerprint) == []
        measured = [Measured(point, 0.25) for point in points]
        save(tmp_path, fingerprint, measured)
        assert load(tmp_path, fingerprint) == measured
        assert load(tmp_path, Fingerprint("cpu", 3, "blas")) == []
        (kept,) = all_kept(tmp_path)
        assert isinstance(kept, Kept)
        assert (kept.fingerprint, kept.points) == (fingerprint, measured)
        path_of(tmp_path, fingerprint).write_text("{")
        assert load(tmp_path, fingerprint) == []
        (sentence,) = all_kept(tmp_path)
        assert "cannot be read" in str(sentence)

    with_executor(test)
