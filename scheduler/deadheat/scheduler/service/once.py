"""Requests that change something are carried out once: a repeated one gets the first one's answer.

A client that did not hear the answer asks again with the same id; meanwhile "last" may mean another
job, and a node that was drained may have been resumed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from deadheat.runtime.errors import InvalidInput

T = TypeVar("T")

MAX_REQUEST_ID: Final = 128
#: Answers that are remembered. A client repeats within seconds; this many last for minutes even
#: under a flood.
MAX_REMEMBERED: Final = 4096


def check_request_id(request_id: str) -> None:
    """Raises InvalidInput for an id that is none."""
    if not request_id or len(request_id) > MAX_REQUEST_ID:
        message = f"request_id must be 1 to {MAX_REQUEST_ID} characters"
        raise InvalidInput(message, field="request_id")


class Once:
    """One for each service, on its event loop. What failed is not remembered."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], asyncio.Future[Any]] = OrderedDict()

    async def answer(self, method: str, request_id: str, make: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request; raises InvalidInput for an id that is none."""
        check_request_id(request_id)
        key = (method, request_id)
        if known := self._answers.get(key):
            found: T = await asyncio.shield(known)
            return found
        future: asyncio.Future[Any] = asyncio.ensure_future(make())
        self._answers[key] = future
        while len(self._answers) > MAX_REMEMBERED:
            self._answers.popitem(last=False)
        try:
            made: T = await asyncio.shield(future)
        except Exception:
            self._answers.pop(key, None)
            raise
        return made
