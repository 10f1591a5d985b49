"""The cache of streamed blocks: under its limit, nothing pinned evicted, never the wrong data."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.stores import FakeStore, part

from deadheat.agent import cache as caches
from deadheat.agent.cache import BlockCache, Pin
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.runtime.programs import MatrixType, Rectangle

SIDE = 8
TYPE = MatrixType(SIDE, SIDE, "float64")
WHOLE_BYTES = TYPE.size_bytes


def matrix(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((SIDE, SIDE))


def content(pin: Pin) -> np.ndarray[Any, Any]:
    r = pin.block.rectangle
    return np.frombuffer(pin.memory.buffer, np.float64, r.area).reshape(r.rows, r.columns)


def holds(pin: Pin, wanted: Rectangle, truth: np.ndarray[Any, Any]) -> bool:
    r = pin.block.rectangle
    assert wanted.is_inside(r)
    inside = Rectangle(
        wanted.row_start - r.row_start,
        wanted.row_stop - r.row_start,
        wanted.column_start - r.column_start,
        wanted.column_stop - r.column_start,
    )
    return np.array_equal(part(content(pin), inside), part(truth, wanted))


def with_store(
    test: Callable[[Any, BlockCache], Awaitable[None]], *, limit_bytes: int = 2 * WHOLE_BYTES
) -> None:
    async def run() -> None:
        store = FakeStore()
        store.matrices = {"a": matrix(1), "b": matrix(2), "c": matrix(3)}
        await test(store, BlockCache(limit_bytes))

    asyncio.run(run())


def test_a_part_of_what_is_here_is_not_fetched_again() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        whole = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await whole.wait()
        assert whole.take_moved()[0] == WHOLE_BYTES
        wanted = Rectangle(2, 5, 3, 8)
        inside = cache.pin(lambda: store, "a", TYPE, wanted)
        await inside.wait()
        assert holds(inside, wanted, store.matrices["a"])
        assert inside.take_moved()[0] == 0
        assert store.asked.total() == 1
        await asyncio.sleep(0)
        assert set(cache.whole) == {"a"}

    with_store(test)


def test_who_needs_what_is_on_its_way_waits_for_it() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        pins = [cache.pin(lambda: store, "a", TYPE, TYPE.whole()) for _ in range(3)]
        pins[0].release()  # The first is cancelled: the others wait on.
        await asyncio.gather(pins[1].wait(), pins[2].wait())
        assert holds(pins[2], TYPE.whole(), store.matrices["a"])
        assert store.asked.total() == 1
        assert sum(pin.take_moved()[0] for pin in pins[1:]) == WHOLE_BYTES

    with_store(test)


def test_what_nobody_waits_for_is_not_fetched_on() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        pin = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await asyncio.sleep(0)
        assert cache.free_bytes == cache.limit_bytes - WHOLE_BYTES
        pin.release()
        pin.release()  # Harmless.
        with pytest.raises(asyncio.CancelledError):
            await pin.block.fetching
        await asyncio.sleep(0)
        assert (cache.used_bytes, cache.idle_bytes) == (0, 0)

    with_store(test)


def test_a_fetch_that_fails_fails_all_who_wait_and_leaves_nothing() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        store.is_broken = True
        pins = [cache.pin(lambda: store, "a", TYPE, TYPE.whole()) for _ in range(2)]
        for pin in pins:
            with pytest.raises(InvalidInput):
                await pin.wait()
            pin.release()
        await asyncio.sleep(0)
        assert (cache.used_bytes, cache.free_bytes) == (0, cache.limit_bytes)
        store.is_broken = False
        again = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await again.wait()
        assert holds(again, TYPE.whole(), store.matrices["a"])

    with_store(test)


def test_what_was_used_last_stays_longest_and_what_is_pinned_stays() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        for name in ("a", "b", "a"):
            pin = cache.pin(lambda: store, name, TYPE, TYPE.whole())
            await pin.wait()
            pin.release()
        await asyncio.sleep(0)
        assert set(cache.whole) == {"b", "a"}
        assert cache.free_bytes == cache.limit_bytes
        held = cache.pin(lambda: store, "c", TYPE, TYPE.whole())
        await held.wait()
        await asyncio.sleep(0)
        assert set(cache.whole) == {"a", "c"}
        cache.reserve(WHOLE_BYTES)
        assert set(cache.whole) == {"c"}
        assert cache.free_bytes == 0
        with pytest.raises(LimitReached):
            cache.pin(lambda: store, "a", TYPE, TYPE.whole())

    with_store(test)


def test_a_large_block_does_not_take_the_room_that_the_rest_needs() -> None:
    async def test(store: Any, cache: BlockCache) -> None:
        pin = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await pin.wait()
        pin.release()
        rows = Rectangle(0, 1, 0, SIDE)
        # One row of it and nearly all else: the whole would be in the way.
        needed = cache.limit_bytes - 64
        row = cache.pin(lambda: store, "a", TYPE, rows, needed_bytes=needed)
        await row.wait()
        assert row.block.rectangle == rows
        cache.reserve(needed - 64)
        assert set(cache.whole) == set()

    with_store(test)


def test_blocks_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_BLOCKS", 3)

    async def test(store: Any, cache: BlockCache) -> None:
        for row in range(SIDE):
            pin = cache.pin(lambda: store, "a", TYPE, Rectangle(row, row + 1, 0, SIDE))
            await pin.wait()
            pin.release()
            assert cache.used_bytes == min(row + 1, 3) * TYPE.row_bytes

    with_store(test)


def test_rows_count_as_they_come_and_no_more_come_than_are_wanted() -> None:
    async def run() -> None:
        store: Any = FakeStore(chunk_bytes=100, allowed=2)
        store.matrices = {"a": matrix(1)}
        cache = BlockCache(2 * WHOLE_BYTES)
        pin = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await pin.wait(3)
        assert pin.row_here == 3  # 200 bytes are three rows and a bit.
        assert np.array_equal(content(pin)[:3], store.matrices["a"][:3])
        waiting = asyncio.create_task(pin.wait())
        other = cache.pin(lambda: store, "a", TYPE, Rectangle(0, 5, 0, SIDE))
        pin.trim(4)
        await store.allow(1)
        await waiting
        assert not pin.block.fetching.done()  # The other wants one more.
        await store.allow(None)
        await other.wait()
        await asyncio.sleep(0)
        assert store.sent_bytes == 400
        assert pin.block.rectangle == Rectangle(0, 6, 0, SIDE)
        assert cache.whole == ()
        again = cache.pin(lambda: store, "a", TYPE, Rectangle(2, 6, 0, 4))
        await again.wait()
        assert holds(again, Rectangle(2, 6, 0, 4), store.matrices["a"])
        assert store.asked.total() == 1
        assert cache.used_bytes == WHOLE_BYTES  # Its memory is as large as it was.
        for one in (pin, other, again):
            one.release()
        assert cache.free_bytes == cache.limit_bytes

    asyncio.run(run())


def test_a_fetch_that_broke_claims_no_rows_that_did_not_come() -> None:
    async def run() -> None:
        store: Any = FakeStore(chunk_bytes=100, allowed=2)
        store.matrices = {"a": matrix(1)}
        cache = BlockCache(2 * WHOLE_BYTES)
        pin = cache.pin(lambda: store, "a", TYPE, TYPE.whole())
        await pin.wait(1)
        await store.break_down()
        with pytest.raises(InvalidInput):
            await pin.wait()
        assert pin.row_here == 3
        await pin.wait(3)
        assert pin.take_moved()[0] == 200
        assert cache.used_bytes == WHOLE_BYTES  # An executor may map it yet.
        pin.release()
        assert cache.used_bytes == 0

    asyncio.run(run())


@st.composite
def rectangles(draw: st.DrawFn) -> Rectangle:
    rows = sorted(draw(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE))))
    columns = sorted(draw(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE))))
    return Rectangle(*rows, *columns)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), rectangles()), min_size=1, max_size=40),
    st.integers(WHOLE_BYTES // 2, 3 * WHOLE_BYTES),
    st.integers(0, 2**32),
)
def test_whatever_is_asked_for_it_is_right_and_within_the_limit(
    wanted: list[tuple[str, Rectangle]], limit_bytes: int, seed: int
) -> None:
    chance = random.Random(seed)

    async def test(store: Any, cache: BlockCache) -> None:
        pinned: list[tuple[Pin, str, Rectangle]] = []
        for name, rectangle in wanted:
            store.is_broken = chance.random() < 0.1
            try:
                pin = cache.pin(
                    lambda: store, name, TYPE, rectangle, needed_bytes=chance.randrange(1000)
                )
            except LimitReached:
                in_use = cache.used_bytes - cache.idle_bytes
                assert in_use + rectangle.area * 8 > limit_bytes
            else:
                pinned.append((pin, name, rectangle))
            if chance.random() < 0.6:  # Else it is released, or more is asked for, meanwhile.
                await asyncio.sleep(0.002)
            chance.shuffle(pinned)
            while pinned and chance.random() < 0.5:
                pinned.pop()[0].release()
            assert 0 <= cache.idle_bytes <= cache.used_bytes <= limit_bytes
        for pin, name, rectangle in pinned:
            try:
                await pin.wait()
            except InvalidInput:
                continue
            assert holds(pin, rectangle, store.matrices[name])
        for pin, _, _ in pinned:
            pin.release()
        for _ in range(100):
            if cache.used_bytes == cache.idle_bytes:
                break
            await asyncio.sleep(0.002)
        assert cache.free_bytes == limit_bytes

    with_store(test, limit_bytes=limit_bytes)
