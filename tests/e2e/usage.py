"""What a process has: anonymous memory, descriptors; read from outside, through /proc."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: How often a peak is looked for.
_INTERVAL_S = 0.005


@dataclass(frozen=True)
class Usage:
    anonymous_bytes: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Self:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found
        return cls(int(found[1]) << 10, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def memfd_bytes(pid: int) -> int:
    """Of memory that a process has as files without a name."""
    found: dict[int, int] = {}  # By inode: one file may be open twice.
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if "memfd:deadheat" in str(entry.readlink()):
                stat = entry.stat()
                found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


class Peaks:
    """The most that processes had while somebody looked."""

    def __init__(self) -> None:
        self.anonymous: dict[int, int] = {}
        self.memfd: dict[int, int] = {}


@contextmanager
def peaks(*pids: int) -> Iterator[Peaks]:
    found, ended = Peaks(), threading.Event()

    def look() -> None:
        while True:
            for pid in pids:
                found.anonymous[pid] = max(
                    found.anonymous.get(pid, 0), Usage.of(pid).anonymous_bytes
                )
                found.memfd[pid] = max(found.memfd.get(pid, 0), memfd_bytes(pid))
            if ended.wait(_INTERVAL_S):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
