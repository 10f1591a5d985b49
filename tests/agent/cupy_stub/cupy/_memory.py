"""Memory of the card and of the host, and copies between them, which are as late as may be."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy

from cupy._card import OutOfMemoryError, check, lock, log, said
from cupy._streams import streams

_used_bytes = 0


class Memory:
    """Some bytes of the card."""

    def __init__(self, size: int) -> None:
        global _used_bytes
        check()
        with lock:
            limit = int(said().get("memory_bytes", 1 << 30))
            if _used_bytes + size > limit:
                raise OutOfMemoryError(f"{size} bytes, {_used_bytes} of {limit} are used")
            _used_bytes += size
        self.bytes = numpy.full(size, 0xA5, numpy.uint8)
        weakref.finalize(self, _freed, size)


def _freed(size: int) -> None:
    global _used_bytes
    with lock:
        _used_bytes -= size


def used_bytes() -> int:
    return _used_bytes


class PinnedMemoryPointer(bytearray):
    pass


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    check()
    return PinnedMemoryPointer(size)


class _Pool:
    def free_all_blocks(self, stream: Any = None) -> None:
        log.append((0, "free_all_blocks", 0))


def get_default_memory_pool() -> _Pool:
    return _Pool()


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    memcpy2DAsync(dst, size, src, size, size, 1, kind, stream)


def memcpy2DAsync(
    dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    check()
    assert min(dpitch, spitch) >= width

    def copy() -> None:
        for row in range(height):
            ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

    log.append((stream, {1: "in", 2: "out"}[kind], width * height))
    streams[stream - 1]._add(copy)
