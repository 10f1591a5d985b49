"""Waiting for conditions, so that no test sleeps and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, *, timeout_s: float = 60.0) -> T:
    """The first true value of `condition`; fails with `what` if there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for: {what}")
        time.sleep(0.02)
