"""Panels on a card, by a stub of CuPy that is as late as a card may be: all kinds, all dtypes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent import cards
from tests.agent.card_kinds import KINDS, given

from deadheat.agent.executors import worker
from deadheat.agent.executors.bounds import CARDS, STREAMS
from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.compute import CardCompute
from deadheat.agent.executors.panels import GRAIN, Panel, Panels
from deadheat.agent.executors.pool import Block, Pool, Task
from deadheat.runtime.dtypes import BY_NAME, numpy_dtype
from deadheat.runtime.kernels import compute_panel
from deadheat.runtime.programs import (
    Dense,
    Descent,
    Gemm,
    Loss,
    MatrixType,
    Operation,
    needed_blocks,
    work_shape,
)
from deadheat.runtime.rules import is_in_samples, is_in_whole_rows, result_type
from deadheat.v1 import local_pb2

SMALL = replace(
    CARDS,
    max_side=96,
    min_side=32,
    first_height=128,
    first_width=64,
    side_step=1,
    max_panel_s=10.0,
    max_band_bytes=1 << 16,
)


#: Each has threads that hold memory for copies.
pools: list[Pool] = []


@pytest.fixture(autouse=True)
def end_pools() -> Iterator[None]:
    yield
    while pools:
        pools.pop().close()


class Bench:
    """A pool on a card of so many bytes for operands."""

    def __init__(self, limit_bytes: int = 1 << 28) -> None:
        self.cupy = cards.fresh()
        self.lost: queue.Queue[str] = queue.Queue()
        self.compute = CardCompute(Card(self.cupy), self.lost.put, limit_bytes)
        self.said: queue.Queue[local_pb2.ExecutorEvent] = queue.Queue()
        self.pool = Pool(STREAMS, self.said.put, self.compute, counts_cpu=False)
        pools.append(self.pool)
        self.cupy.log.clear()

    @property
    def residence(self) -> Any:
        return self.compute.residence

    def task(
        self, operation: Operation, arrays: Sequence[Any], name: str = "s", keys: Sequence[str] = ()
    ) -> Task:
        types = {
            one: MatrixType(array.shape[0], array.shape[1], array.dtype.name)
            for one, array in zip(operation.operands, arrays)
        }
        made = result_type(operation, types)
        whole = made.whole()
        return Task(
            id=name,
            rank=0.0,
            operation=operation,
            types=types,
            operands=[Block(a, types[n].whole()) for n, a in zip(operation.operands, arrays)],
            result=Block(np.zeros((whole.rows, whole.columns), numpy_dtype(made.dtype)), whole),
            panels=Panels(
                whole,
                work_shape(operation, types),
                STREAMS,
                bounds=SMALL,
                is_in_whole_rows=is_in_whole_rows(operation.kind),
                row_grain=1 if is_in_samples(operation.kind) else GRAIN,
            ),
            is_inline=False,
            keys=keys,
        )

    def run(self, task: Task) -> str:
        """How it ended; its result is in its block."""
        self.pool.add(task)
        end = ""
        while True:
            event = self.said.get(timeout=60)
            kind = str(event.WhichOneof("event"))
            if kind == "released":
                return end
            if kind == "failed":
                end = str(event.failed.failure.message)
            end = kind if kind == "finished" else end


def by_numpy(operation: Operation, arrays: Sequence[Any]) -> Any:
    types = {
        name: MatrixType(array.shape[0], array.shape[1], array.dtype.name)
        for name, array in zip(operation.operands, arrays)
    }
    made = result_type(operation, types)
    out = np.zeros((made.rows, made.columns), numpy_dtype(made.dtype))
    parts = []
    for (_, wanted), array in zip(needed_blocks(operation, types, made.whole()), arrays):
        r = wanted
        parts.append(array[r.row_start : r.row_stop, r.column_start : r.column_stop])
    compute_panel(np, operation, types, made.whole(), parts, out)
    return out


def close(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    if expected.dtype.kind in "biu":
        assert np.array_equal(found, expected)
        return
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    rounding = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-4, "complex64": 1e-4}
    np.testing.assert_allclose(
        found.astype(wide),
        expected.astype(wide),
        rtol=rounding.get(expected.dtype.name, 1e-10),
        atol=rounding.get(expected.dtype.name, 1e-10),
    )


@pytest.mark.parametrize("dtype", BY_NAME)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products_of_every_dtype_are_numpys(dtype: str, transposed: tuple[bool, bool]) -> None:
    a, b = given(dtype, 150, 70), given(dtype, 70, 200)
    arrays = [np.ascontiguousarray(one.T) if flip else one for one, flip in zip((a, b), transposed)]
    operation = Operation("C", ("A", "B"), Gemm(*transposed))
    bench = Bench()
    task = bench.task(operation, arrays)
    assert bench.run(task) == "finished"
    close(task.result.array, by_numpy(operation, arrays))


@pytest.mark.parametrize(
    ("kind", "arrays"),
    KINDS,
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_every_kind_is_numpys(kind: Any, arrays: Sequence[Any]) -> None:
    as_numpy_does(Bench(), kind, arrays)


def as_numpy_does(bench: Bench, kind: Any, arrays: Sequence[Any]) -> None:
    names = {"Segment": ("A", "B", "V")}.get(type(kind).__name__, tuple("ABDEF"[: len(arrays)]))
    operation = Operation("C", names, kind)
    task = bench.task(operation, arrays)
    assert bench.run(task) == "finished"
    close(task.result.array, by_numpy(operation, arrays))


def moved(bench: Bench, way: str) -> int:
    return sum(size for _, what, size in bench.cupy.log if what == way)


def test_operands_that_fit_are_copied_once_for_all_panels_and_jobs() -> None:
    a, b = given("float64", 300, 200), given("float64", 200, 320)
    operation, bench = Operation("C", ("A", "B"), Gemm()), Bench()
    for name in ("one", "two"):
        task = bench.task(operation, (a, b), name, ("ma", "mb"))
        assert bench.run(task) == "finished"
        close(task.result.array, a @ b)
    assert moved(bench, "in") == bench.residence.copied_bytes == a.nbytes + b.nbytes
    assert moved(bench, "out") == 2 * 300 * 320 * 8
    assert bench.residence.used_bytes == a.nbytes + b.nbytes


def test_a_matrix_that_is_both_operands_is_there_once() -> None:
    a, bench = given("float64", 300, 100), Bench()
    operation = Operation("C", ("A", "A"), Gemm(transpose_b=True))
    types = {"A": MatrixType(300, 100, "float64")}
    task = bench.task(operation, (a, a), keys=("ma", "ma"))
    assert task.types == types
    assert bench.run(task) == "finished"
    close(task.result.array, a @ a.T)
    assert moved(bench, "in") == a.nbytes


@pytest.mark.parametrize("limit_rows", [50, 800, 1100, 2000])
def test_operands_that_do_not_fit_stream_within_the_limit(limit_rows: int) -> None:
    a, b = given("float64", 600, 200), given("float64", 200, 600)
    limit_bytes = limit_rows * 200 * 8
    bench = Bench(limit_bytes)
    task = bench.task(Operation("C", ("A", "B"), Gemm()), (a, b), keys=("ma", "mb"))
    assert bench.run(task) == "finished"
    close(task.result.array, a @ b)
    assert bench.residence.used_bytes <= limit_bytes
    if limit_rows >= 1200:
        assert moved(bench, "in") == a.nbytes + b.nbytes


def test_what_was_used_least_recently_makes_room() -> None:
    bench = Bench(3 * 100 * 100 * 8)
    operation = Operation("C", ("A", "B"), Gemm())
    ones = {name: given("float64", 100, 100) for name in "abcd"}

    def run(first: str, second: str) -> int:
        before = moved(bench, "in")
        task = bench.task(operation, (ones[first], ones[second]), keys=(first, second))
        assert bench.run(task) == "finished"
        close(task.result.array, ones[first] @ ones[second])
        return (moved(bench, "in") - before) // 80_000

    assert run("a", "b") == 2
    assert run("a", "c") == 1
    assert run("c", "d") == 1  # In the place of b.
    assert run("a", "c") == 0
    assert run("b", "d") == 1  # In the place of a.
    assert run("c", "d") == 0
    assert run("a", "d") == 1


def test_panels_overlap_on_streams_of_their_own() -> None:
    """Each stream copies in, multiplies and copies out, and waits for what another one copies by
    its event only: no stream is ever waited for as a whole."""
    a, b = given("float32", 600, 300), given("float32", 300, 600)
    bench = Bench()
    # So that no stream could do all before the others come.
    together, met, compute = threading.Barrier(STREAMS), threading.local(), bench.compute

    def after_all_have_come(task: Task, panel: Panel) -> None:
        if not hasattr(met, "others"):
            met.others = together.wait(60)
        compute(task, panel)

    bench.pool._compute = after_all_have_come
    assert bench.run(bench.task(Operation("C", ("A", "B"), Gemm()), (a, b))) == "finished"
    log = bench.cupy.log
    by_stream: dict[int, list[str]] = {}
    for stream, what, _ in log:
        if what in ("in", "gemm", "out"):
            by_stream.setdefault(stream, []).append(what)
    assert len(by_stream) == STREAMS
    for steps in by_stream.values():
        assert steps[-1] == "out"
        assert steps.index("gemm") < steps.index("out")
    assert any(what == "wait_event" for _, what, _ in log)
    assert not any(what == "synchronize" for _, what, _ in log)


def test_out_of_memory_halves_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv(cards.STATE_VARIABLE, str(state))
    a, b = given("float64", 256, 64), given("float64", 64, 256)
    bench = Bench()
    cards.say(state, any_={"memory_bytes": a.nbytes + b.nbytes + 3 * 48 * 48 * 8})
    task = bench.task(Operation("C", ("A", "B"), Gemm()), (a, b), keys=("a", "b"))
    assert bench.run(task) == "finished"
    close(task.result.array, a @ b)
    assert any(what == "free_all_blocks" for _, what, _ in bench.cupy.log)


def test_what_never_fits_fails_with_the_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cards.STATE_VARIABLE, str(tmp_path / "state"))
    bench = Bench()
    cards.say(tmp_path / "state", any_={"memory_bytes": 1000})
    operands = given("float64", 64, 64), given("float64", 64, 64)
    task = bench.task(Operation("C", ("A", "B"), Gemm()), operands)
    assert "no memory for Panel" in bench.run(task)


def test_a_sticky_error_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cards.STATE_VARIABLE, str(tmp_path / "state"))
    bench = Bench()
    cards.say(tmp_path / "state", any_={"sticky": 700})
    operands = given("float64", 64, 64), given("float64", 64, 64)
    bench.pool.add(bench.task(Operation("C", ("A", "B"), Gemm()), operands))
    assert "cudaError700" in bench.lost.get(timeout=30)


def test_what_cublas_does_not_do_is_no_reason_to_give_up_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cards.STATE_VARIABLE, str(tmp_path / "state"))
    bench = Bench()
    cards.say(tmp_path / "state", any_={"refuses": ["float64"]})
    operation = Operation("C", ("A", "B"), Gemm())
    wide = given("float64", 64, 64), given("float64", 64, 64)
    assert "CUBLAS_STATUS_15" in bench.run(bench.task(operation, wide))
    assert bench.lost.empty()
    narrow = bench.task(operation, [one.astype(np.float32) for one in wide], "t")
    assert bench.run(narrow) == "finished"


def test_a_card_refuses_what_is_for_cores() -> None:
    epoch = Descent((Dense(4, 2),), Loss.MEAN_SQUARES, 8, 0.1, 0.0, 0, 1)
    operation = Operation("s1", ("x", "y", "o", "s0"), epoch)
    whole = MatrixType(1, 10, "float32").whole()
    result = Block(np.zeros((1, 10), np.float32), whole)
    card = worker.Device(STREAMS, "card", lambda _: [], bounds=SMALL, is_card=True)
    with pytest.raises(TypeError, match="a card does not compute Descent"):
        worker._source(local_pb2.RunSubtask(), operation, {}, whole, [], result, card)
