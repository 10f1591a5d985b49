"""Arenas: files on a tmpfs, reserved before they are used, under a byte limit, and used again.

Files, because they outlive a killed process; reserved by fallocate, because a page that is not
there is SIGBUS and not an error; used again, because first touch of fresh pages costs more than
the copy into them (measured: 1 to 2 GB/s cold, 9 to 14 warm).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.pages import HUGE_BYTES
from deadheat.runtime.units import MIB, format_bytes

#: Arenas are whole pages, so that mappings of their offsets are aligned.
PAGE_BYTES: Final = 4096
#: A free arena is taken for a matrix if at most this many times larger than it.
MAX_SLACK: Final = 2
#: Below this size the slack does not matter and any free arena will do.
SMALL_BYTES: Final = MIB


@dataclass(slots=True)
class Arena:
    """One file. `descriptor` reads and writes; `reader` is what those who may only read get."""

    path: Path
    descriptor: int
    reader: int
    size_bytes: int
    #: Somebody may still write through a mapping that we do not know of: never use it again.
    is_tainted: bool = False
    #: Whether its pages below this one are huge, or the kernel would not have it.
    joined_bytes: int = 0

    @property
    def is_joined(self) -> bool:
        return self.size_bytes - self.joined_bytes < HUGE_BYTES

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self.reader)


class ArenaPool:
    """The arenas below one directory. Not thread-safe: its owner calls it from one place."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._free: list[Arena] = []
        self._serial = 0

    @property
    def free_bytes(self) -> int:
        """Bytes of arenas that wait to be used again; they count against the limit too."""
        return sum(arena.size_bytes for arena in self._free)

    def take(self, size_bytes: int) -> Arena:
        """An arena of at least `size_bytes`, warm if there is one. Blocks while pages are zeroed.

        Raises LimitReached if the limit, or what the tmpfs has left, is less than that.
        """
        needed = max(PAGE_BYTES, -(-size_bytes // PAGE_BYTES) * PAGE_BYTES)
        arena = self._best_free(needed)
        if arena is None:
            self._make_room(needed)
            arena = self._create(needed)
        elif arena.size_bytes < needed:
            self._make_room(needed - arena.size_bytes)
            try:
                self._reserve(arena.descriptor, arena.size_bytes, needed - arena.size_bytes)
            except LimitReached:
                self._unlink(arena)
                raise
            arena.size_bytes = needed
        self.used_bytes += arena.size_bytes
        return arena

    def give_back(self, arena: Arena) -> None:
        """Nobody maps it any more, so that its pages may serve another matrix."""
        self.used_bytes -= arena.size_bytes
        if arena.is_tainted:
            self._unlink(arena)
        else:
            self._free.append(arena)

    def adopt(self, path: Path) -> Arena:
        """An arena that a process before us left. Others may still map it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        size_bytes = os.fstat(descriptor).st_size
        self.used_bytes += size_bytes
        self._serial = max(self._serial, int(path.stem.split("-")[1]))
        return Arena(path, descriptor, reader, size_bytes, is_tainted=True)

    def small_paged(self) -> Arena | None:
        """A free arena whose pages could be joined into huge ones."""
        return next((arena for arena in self._free if not arena.is_joined), None)

    def is_free(self, arena: Arena) -> bool:
        return any(one is arena for one in self._free)

    def drop_free(self) -> None:
        """Returns the pages of unused arenas to the system."""
        while self._free:
            self._unlink(self._free.pop())

    def _best_free(self, needed: int) -> Arena | None:
        fitting = [
            arena
            for arena in self._free
            if arena.size_bytes <= max(SMALL_BYTES, needed * MAX_SLACK)
            and arena.size_bytes * MAX_SLACK >= needed
        ]
        if not fitting:
            return None
        # The smallest that is large enough; else the largest, which has the most warm pages.
        large_enough = [arena for arena in fitting if arena.size_bytes >= needed]
        by_size = min if large_enough else max
        best = by_size(large_enough or fitting, key=lambda arena: arena.size_bytes)
        self._free.remove(best)
        return best

    def _make_room(self, needed: int) -> None:
        while self._free and self.used_bytes + self.free_bytes + needed > self.limit_bytes:
            self._unlink(self._free.pop(0))
        if self.used_bytes + needed > self.limit_bytes:
            raise LimitReached(
                f"{format_bytes(needed)} of shared memory needed; "
                f"{format_bytes(self.used_bytes)} of {format_bytes(self.limit_bytes)} are in use "
                "(setting: memory)"
            )

    def _create(self, size_bytes: int) -> Arena:
        self._serial += 1
        path = self.directory / f"arena-{self._serial}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = _opened(path, flags)
        try:
            self._reserve(descriptor, 0, size_bytes)
            reader = _opened(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except LimitReached:
            os.close(descriptor)
            path.unlink()
            raise
        return Arena(path, descriptor, reader, size_bytes)

    def _reserve(self, descriptor: int, start: int, size_bytes: int) -> None:
        try:
            os.posix_fallocate(descriptor, start, size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            os.ftruncate(descriptor, start)
            left = os.statvfs(self.directory)
            raise LimitReached(
                f"{self.directory} is full: {format_bytes(size_bytes)} needed, "
                f"{format_bytes(left.f_bavail * left.f_frsize)} free"
            ) from None

    @staticmethod
    def _unlink(arena: Arena) -> None:
        arena.path.unlink(missing_ok=True)
        arena.close()


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOSPC):
            raise
        raise LimitReached(f"cannot open {path}: {error.strerror}") from None
