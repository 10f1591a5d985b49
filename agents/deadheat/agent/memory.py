"""Memory for blocks that were streamed here, with a descriptor: an executor can map it."""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.units import format_bytes


class Memory:
    """Anonymous memory with a descriptor. Goes with the last reference, if nobody closed it: who
    asked for it in a thread may have been cancelled before it was there."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.descriptor = os.memfd_create("deadheat-block", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        try:
            os.posix_fallocate(self.descriptor, 0, max(1, size_bytes))
            # Whoever else maps it must not be killed by its getting shorter.
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self.buffer = memoryview(mmap.mmap(self.descriptor, max(1, size_bytes)))[:size_bytes]
        except OSError as error:
            self.close()
            raise LimitReached(f"no memory for {format_bytes(size_bytes)}: {error}") from None
