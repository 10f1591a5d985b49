"""Reading the configuration again at SIGHUP: what can change changes, what cannot is named.

A file that is broken changes nothing: the old configuration holds, and the log and the status say
so with the key that is wrong.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deadheat.runtime import logs, notify
from deadheat.runtime.errors import DeadheatError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

log = logs.get("reload")


@dataclass(frozen=True, slots=True)
class Reloaded(Generic[T]):
    """What reading again has brought. `settings` is what holds from now on."""

    settings: T
    #: Keys that take effect now, and those that wait for a restart.
    changed: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    problem: str = ""

    @property
    def note(self) -> str:
        """For people, nothing if all is as the file says."""
        if self.problem:
            return f"the new configuration is refused and the old one holds: {self.problem}"
        if self.pending:
            return f"a restart is needed for {', '.join(self.pending)}"
        return ""


def reloaded(old: T, load: Callable[[], T], live: Collection[str]) -> Reloaded[T]:
    """Loads again; only the keys in `live` are taken over."""
    try:
        new = load()
    except DeadheatError as error:
        return Reloaded(old, problem=error.message)
    differing = [f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name)]
    changed = tuple(name for name in differing if name in live)
    values: dict[str, Any] = {name: getattr(new, name) for name in changed}
    pending = tuple(name for name in differing if name not in live)
    return Reloaded(replace(old, **values), changed, pending)


class Reloader(Generic[T]):
    """Does it at SIGHUP. `apply` gets the new settings and returns the keys that it could not
    change after all; `done` gets what people should know."""

    def __init__(
        self,
        settings: T,
        load: Callable[[], T],
        live: Collection[str],
        apply: Callable[[T], Collection[str]],
        done: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self._load = load
        self._live = live
        self._apply = apply
        self._done = done

    def listen(self) -> None:
        """From now on. On a terminal SIGHUP means that the terminal is gone: it ends the daemon."""
        if not _is_on_terminal():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        notify.reloading()
        found = reloaded(self.settings, self._load, self._live)
        failed = self._apply(found.settings) if found.changed else ()
        if failed:
            kept = {name: getattr(self.settings, name) for name in failed}
            found = Reloaded(
                replace(found.settings, **kept),
                tuple(name for name in found.changed if name not in failed),
                (*found.pending, *failed),
            )
        self.settings = found.settings
        level = log.error if found.problem else log.warning if found.pending else log.info
        changed = ", ".join(found.changed) or "nothing"
        level(
            found.note or f"read the configuration again: {changed} changed",
            extra=logs.keys("reload", changed=changed),
        )
        self._done(found.note)


def _is_on_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno())
    except (AttributeError, ValueError, OSError):
        return False  # There is no stdin at all.
