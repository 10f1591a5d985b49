"""A request that changes something is carried out once, however often it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deadheat.runtime.errors import InvalidInput, NotFound
from deadheat.scheduler.service import once
from deadheat.scheduler.service.once import Once


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        return self.calls


def run(test: Callable[[Once], Awaitable[None]]) -> None:
    async def inner() -> None:
        await test(Once())

    asyncio.run(inner())


def test_a_repeated_request_gets_the_first_answer_also_while_it_is_under_way() -> None:
    async def test(requests: Once) -> None:
        make = Counter()
        both = [requests.answer("Cancel", "r1", make) for _ in range(2)]
        assert await asyncio.gather(*both) == [1, 1]
        assert await requests.answer("Cancel", "r1", make) == 1
        assert await requests.answer("Cancel", "r2", make) == 2
        assert await requests.answer("Drain", "r1", make) == 3

    run(test)


def test_what_failed_may_be_tried_again() -> None:
    async def fail() -> int:
        raise NotFound("there is no such node")

    async def test(requests: Once) -> None:
        with pytest.raises(NotFound):
            await requests.answer("Drain", "r1", fail)
        assert await requests.answer("Drain", "r1", Counter()) == 1

    run(test)


def test_memory_of_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "MAX_REMEMBERED", 2)

    async def test(requests: Once) -> None:
        make = Counter()
        for name in ("r1", "r2", "r3"):
            await requests.answer("Cancel", name, make)
        assert await requests.answer("Cancel", "r3", make) == 3
        assert await requests.answer("Cancel", "r1", make) == 4

    run(test)


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_an_id_that_is_none_is_refused(request_id: str) -> None:
    async def test(requests: Once) -> None:
        with pytest.raises(InvalidInput, match="1 to 128"):
            await requests.answer("Cancel", request_id, Counter())

    run(test)
