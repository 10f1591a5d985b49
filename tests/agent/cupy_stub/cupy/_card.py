"""The card itself: what the state file says of it, its errors, and what was asked of it."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

lock = threading.RLock()
#: What was asked for, in order: (stream, what, bytes).
log: list[tuple[int, str, int]] = []
_sticky = 0


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"cudaError{status}")


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUDA_ERROR_{status}")


class CUBLASError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUBLAS_STATUS_{status}")


class OutOfMemoryError(MemoryError):
    pass


def said() -> dict[str, Any]:
    path = os.environ.get("CUPY_STUB_STATE")
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:  # It may go at any moment: see "once".
        return {}
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "*")
    return {**found.get("*", {}), **found.get(card, {})}


def check() -> None:
    global _sticky
    with lock:
        if not _sticky:
            state = said()
            _sticky = int(state.get("sticky", 0))
            if _sticky and state.get("once"):
                os.unlink(os.environ["CUPY_STUB_STATE"])
        if _sticky:
            raise CUDARuntimeError(_sticky)
