"""Memory of intermediates, used again: to touch fresh pages costs more than to write warm ones.

Rules of this file: what was given back is nobody's any more; nothing is kept that does not fit what
is wanted next, so that there never is more memory than that of the intermediates themselves.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

Array = Any


class Scratch:
    """Arrays of one namespace (NumPy, CuPy) for the intermediates of one computation."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._spare: list[Array] = []
        #: The memory of each array that is in use, by the array's identity.
        self._memory: dict[int, tuple[Array, Array]] = {}

    def take(self, rows: int, columns: int, dtype: Any) -> Array:
        """An array whose elements may be anything."""
        size_bytes = rows * columns * dtype.itemsize
        fitting = [one for one in self._spare if one.nbytes >= size_bytes]
        if fitting:
            memory = min(fitting, key=lambda one: one.nbytes)
            self._spare = [one for one in self._spare if one is not memory]
        else:
            self._spare.clear()
            memory = self._xp.empty(size_bytes, "uint8")
        array = memory[:size_bytes].view(dtype).reshape(rows, columns)
        self._memory[id(array)] = array, memory
        return array

    def give(self, array: Array) -> None:
        """Nobody needs it any more. What was not taken from here is left alone."""
        if taken := self._memory.pop(id(array), None):
            self._spare.append(taken[1])
