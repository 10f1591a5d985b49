"""Matrices in shared memory are pinned once, and copied to the card as they lie."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent import cards
from tests.agent.card_kinds import given
from tests.agent.test_cuda import Bench, by_numpy, close, pools
from tests.waiting import wait_until

from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.executors.cuda.pinning import CANNOT_WAIT, MIN_BYTES, Mappings
from deadheat.agent.executors.cuda.staging import Lane
from deadheat.agent.executors.pool import Block
from deadheat.runtime.programs import Gemm, Operation, Rectangle

PRODUCT = Operation("C", ("A", "B"), Gemm())
ROWS = 400


@pytest.fixture(autouse=True)
def end_pools() -> Iterator[None]:
    yield
    while pools:
        pools.pop().close()


class File:
    """A matrix in a file, as a store has them."""

    def __init__(self, path: Path, array: Any) -> None:
        path.write_bytes(array.tobytes())
        self.path, self.like = path, array

    def write(self, array: Any) -> None:
        """The same memory has another matrix now."""
        with self.path.open("r+b") as file:
            file.write(array.tobytes())

    def block(self, mappings: Mappings, *, is_writable: bool = False) -> Block:
        flags = os.O_RDWR if is_writable else os.O_RDONLY
        descriptor = os.open(self.path, flags)
        try:
            mapped, is_pinned = mappings.map(descriptor, self.like.nbytes, is_writable=is_writable)
        finally:
            os.close(descriptor)
        rows, columns = self.like.shape
        array: Any = np.frombuffer(mapped, self.like.dtype).reshape(rows, columns)
        return Block(array, Rectangle(0, rows, 0, columns), is_pinned)


def files(folder: Path) -> tuple[list[Any], list[File]]:
    a, b = given("float64", ROWS, ROWS), given("float64", ROWS, ROWS)
    assert a.nbytes >= MIN_BYTES
    arrays = [a, b, np.zeros((ROWS, ROWS))]
    return arrays[:2], [File(folder / name, one) for name, one in zip("abc", arrays)]


def product(bench: Bench, found: list[File], arrays: list[Any], name: str) -> None:
    mappings = bench.compute.mappings
    task = bench.task(PRODUCT, arrays, name)
    task.operands = [one.block(mappings) for one in found[:2]]
    task.result = found[2].block(mappings, is_writable=True)
    mappings.settle()
    assert bench.run(task) == "finished"
    close(np.frombuffer(found[2].path.read_bytes()).reshape(ROWS, ROWS), by_numpy(PRODUCT, arrays))


def test_what_is_pinned_is_copied_as_it_lies_and_pinned_once(tmp_path: Path) -> None:
    arrays, found = files(tmp_path)
    bench = Bench()
    product(bench, found, arrays, "first")
    copies = [entry for entry in bench.cupy.log if entry[1] in ("in", "out")]
    assert sum(size for _, _, size in copies) == 3 * arrays[0].nbytes
    assert bench.cupy.pinned_bytes() == 3 * arrays[0].nbytes
    arrays[0][:] = given("float64", ROWS, ROWS)
    found[0].write(arrays[0])
    found[2].write(np.zeros((ROWS, ROWS)))
    product(bench, found, arrays, "second")
    assert bench.cupy.pinned_bytes() == 3 * arrays[0].nbytes


def test_operands_come_on_one_stream_and_those_of_a_panel_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, found = files(tmp_path)
    bench = Bench()
    panels = threading.local()
    asked: list[tuple[int, int, Any]] = []
    hold, send = bench.residence.hold, Card.send

    def held(*given: Any) -> Any:
        panels.number = getattr(panels, "number", 0) + 1
        return hold(*given)

    def sent(card: Card, host: Any, array: Any, stream: Any) -> None:
        asked.append((threading.get_ident(), panels.number, stream))
        send(card, host, array, stream)

    monkeypatch.setattr(bench.residence, "hold", held)
    monkeypatch.setattr(Card, "send", sent)
    product(bench, found, arrays, "first")
    assert len({stream for _, _, stream in asked}) == 1
    # One after the other, each once.
    by_panel = [key for key, _ in itertools.groupby((thread, one) for thread, one, _ in asked)]
    assert len(by_panel) > 4
    assert len(by_panel) == len(set(by_panel))


def test_operands_stay_until_what_was_asked_for_has_come_when_a_copy_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, found = files(tmp_path)
    bench = Bench()
    send, settle = Card.send, Lane.settle
    pins: list[int] = []
    sent = itertools.count()

    def fail(card: Card, *given: Any) -> None:
        if next(sent) == 1:  # The first operand of a panel is on its way.
            raise MemoryError("no")
        send(card, *given)

    def settled(lane: Lane) -> None:
        pins.append(sum(entry.pins for entry in bench.residence._entries))
        settle(lane)

    monkeypatch.setattr(Card, "send", fail)
    monkeypatch.setattr(Lane, "settle", settled)
    product(bench, found, arrays, "first")  # In smaller panels.
    assert pins[0] >= 2


def test_where_nothing_can_be_pinned_copies_are_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "cards.json"
    monkeypatch.setenv(cards.STATE_VARIABLE, str(state))
    cards.say(state, any_={"unpinnable": True})
    arrays, found = files(tmp_path)
    bench = Bench()
    product(bench, found, arrays, "first")
    assert bench.cupy.pinned_bytes() == 0


def test_a_deleted_file_is_let_go_when_its_last_array_is_gone(tmp_path: Path) -> None:
    _, found = files(tmp_path)
    mappings = Mappings(Card(cards.fresh()))
    block = found[0].block(mappings)
    mappings.settle()
    assert block.is_pinned()
    part = block.array[3:5]
    found[0].path.unlink()
    other = found[1].block(mappings)
    mappings.settle()
    assert mappings.pinned_bytes == 2 * block.array.nbytes
    assert (part == found[0].like[3:5]).all()
    del block, part
    wait_until(lambda: mappings.pinned_bytes == other.array.nbytes, "the first to be let go")
    mappings.close()


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    _, found = files(tmp_path)
    size_bytes = found[0].like.nbytes
    cupy = cards.fresh()
    mappings = Mappings(Card(cupy), limit_bytes=2 * size_bytes)
    for one in found:
        block = one.block(mappings)
        mappings.settle()
        assert block.is_pinned()
        assert cupy.pinned_bytes() <= 2 * size_bytes
        del block
    kept = [one.block(mappings) for one in found]
    mappings.settle()
    assert sum(block.is_pinned() for block in kept) == 2
    mappings.close()


def test_a_file_that_has_grown_is_mapped_anew(tmp_path: Path) -> None:
    _, found = files(tmp_path)
    mappings = Mappings(Card(cards.fresh()))
    small = found[0].block(mappings)
    mappings.settle()
    found[0].path.write_bytes(found[0].like.tobytes() * 2)
    found[0].like = np.concatenate([found[0].like] * 2)
    large = found[0].block(mappings)
    mappings.settle()
    assert large.is_pinned()
    assert (large.array == found[0].like).all()
    del small
    wait_until(lambda: mappings.pinned_bytes == large.array.nbytes, "the smaller to be let go")
    mappings.close()


def test_what_comes_once_is_not_pinned_and_what_comes_again_when_the_card_is_idle(
    tmp_path: Path,
) -> None:
    _, found = files(tmp_path)
    idle = threading.Event()
    asked: queue.Queue[bool] = queue.Queue()

    def is_idle() -> bool:
        asked.put(idle.is_set())
        return idle.is_set()

    mappings = Mappings(Card(cards.fresh()), is_idle)
    first, other = found[0].block(mappings), found[1].block(mappings)
    again = found[0].block(mappings)
    while not asked.empty():
        asked.get()
    mappings.wake()
    assert asked.get(timeout=60) is False
    assert not again.is_pinned()
    idle.set()
    mappings.wake()
    wait_until(again.is_pinned, "what came twice to be pinned")
    assert first.is_pinned()
    assert not other.is_pinned()
    idle.clear()
    busy = [found[1].block(mappings) for _ in range(CANNOT_WAIT - 1)]
    wait_until(busy[0].is_pinned, "what came often to be pinned, idle or not")
    mappings.close()
