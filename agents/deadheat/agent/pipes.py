"""A bounded queue between tasks of one event loop that can be ended, with or without an error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from deadheat.runtime.errors import DeadheatError, Unavailable

Item = TypeVar("Item")


class Pipe(Generic[Item]):
    """Whoever puts waits while `most` items are there; what was put before the end is got before
    it. After an end in good order there is nothing more to get, and nothing may be put."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[Item] = deque()
        self._changed = asyncio.Condition()
        self._is_ended = False
        self._error: DeadheatError | None = None
        self._telling: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> None:
        """Raises what it was ended with."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_ended or len(self._items) < self._most)
            if self._is_ended:
                raise self._ended
            self._items.append(item)
            self._changed.notify_all()

    async def get(self) -> Item:
        """Raises what it was ended with, Unavailable if that was nothing."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_ended or bool(self._items))
            if not self._items or self._error:
                raise self._ended
            self._changed.notify_all()
            return self._items.popleft()

    def end(self, error: DeadheatError | None) -> None:
        """The first end counts. With an error nothing more is got."""
        if not self._is_ended:
            self._is_ended, self._error = True, error
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @property
    def _ended(self) -> DeadheatError:
        return self._error or Unavailable("there is nothing more to come")

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Until it ends in good order; raises what it ended with."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_ended or bool(self._items))
                if self._error:
                    raise self._error
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
