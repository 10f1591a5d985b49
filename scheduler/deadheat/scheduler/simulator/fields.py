"""Reads typed fields out of a parsed TOML table; what is wrong is named with value and limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar

from deadheat.runtime.errors import InvalidInput

E = TypeVar("E", bound=Enum)

#: Longer values are somebody's mistake; an error message quotes no more of them.
MAX_QUOTED: Final = 60


def refuse(field: str, value: object, may_be: str) -> NoReturn:
    shown = repr(value)
    if len(shown) > MAX_QUOTED:
        shown = shown[:MAX_QUOTED] + "..."
    raise InvalidInput(f"{field} is {shown}; it must be {may_be}", field=field)


class Table:
    """One table of the document. Every key is asked for once; `close` refuses all others."""

    def __init__(self, found: object, path: str) -> None:
        if not isinstance(found, Mapping):
            refuse(path or "the scenario", found, "a table")
        self._found: Mapping[str, Any] = found
        self.path = path
        self._known: list[str] = []

    def field(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return key in self._found

    def close(self) -> None:
        for key in self._found:
            if key not in self._known:
                field = self.field(str(key)[:MAX_QUOTED])
                known = ", ".join(sorted(self._known))
                raise InvalidInput(f"{field} is unknown; there are: {known}", field=field)

    def get(self, key: str) -> Any:
        self._known.append(key)
        return self._found.get(key)

    def number(
        self, key: str, default: float, *, low: float, high: float, exclusive: bool = False
    ) -> float:
        """A finite number from `low` (or above it, if exclusive) to `high`."""
        value = self.get(key)
        return (
            default
            if value is None
            else number(value, self.field(key), low=low, high=high, exclusive=exclusive)
        )

    def integer(self, key: str, default: int | None, *, low: int, high: int) -> int:
        """A whole number; without a default it must be there."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        return integer(value, self.field(key), low=low, high=high)

    def text(self, key: str, default: str | None, *, limit: int) -> str:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
            refuse(self.field(key), value, f"1 to {limit} printable characters")
        return value

    def choice(self, key: str, default: E) -> E:
        value = self.get(key)
        if value is None:
            return default
        for member in type(default):
            if member.value == value:
                return member
        names = " or ".join(repr(member.value) for member in type(default))
        refuse(self.field(key), value, names)

    def tables(self, key: str, *, limit: int) -> list[Table]:
        items = self.get(key)
        return [
            Table(item, f"{key}[{index}]")
            for index, item in enumerate(items_of(items, self.field(key), limit=limit))
        ]


def items_of(value: object, field: str, *, limit: int) -> Sequence[Any]:
    """A list of bounded length; nothing counts as an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        refuse(field, value, "a list")
    if len(value) > limit:
        raise InvalidInput(f"{field} has {len(value)} entries; the limit is {limit}", field=field)
    return value


def number(value: object, field: str, *, low: float, high: float, exclusive: bool = False) -> float:
    bounds = f"a number {'above' if exclusive else 'from'} {low:g} {'up ' * exclusive}to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(field, value, bounds)
    if isinstance(value, float) and not math.isfinite(value):
        refuse(field, value, bounds)
    if not low <= value <= high or (exclusive and value == low):
        refuse(field, value, bounds)
    return float(value)


def integer(value: object, field: str, *, low: int, high: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:  # type: ignore[operator]
        refuse(field, value, f"a whole number from {low} to {high}")
    return value  # type: ignore[return-value]
