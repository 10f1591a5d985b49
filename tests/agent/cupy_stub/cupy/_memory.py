"""Memory of the card and of the host, and copies between them, which are as late as may be."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy

from cupy._card import CUDARuntimeError, OutOfMemoryError, check, lock, log, said
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


#: Memory of the host that the card may copy: address to size.
_pinned: dict[int, int] = {}


class PinnedMemoryPointer(bytearray):
    pass


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    check()
    made = PinnedMemoryPointer(size)
    address = numpy.frombuffer(made, numpy.uint8).ctypes.data
    with lock:
        _pinned[address] = size
    weakref.finalize(made, _pinned.pop, address)
    return made


def pinned_bytes() -> int:
    """What was pinned by those who have it: not that which was had pinned."""
    return sum(size for address, size in _pinned.items() if address in _registered)


_registered: set[int] = set()


def hostRegister(ptr: int, size: int, flags: int) -> None:
    check()
    with lock:
        if said().get("unpinnable"):
            raise CUDARuntimeError(801)  # cudaErrorNotSupported
        if not flags & 8 and not _is_writable(ptr):
            raise CUDARuntimeError(1)  # cudaErrorInvalidValue
        if any(start < ptr + size and ptr < start + held for start, held in _pinned.items()):
            raise CUDARuntimeError(712)  # cudaErrorHostMemoryAlreadyRegistered
        _pinned[ptr] = size
        _registered.add(ptr)


def hostUnregister(ptr: int) -> None:
    check()
    with lock:
        if ptr not in _registered:
            raise CUDARuntimeError(713)  # cudaErrorHostMemoryNotRegistered
        _registered.discard(ptr)
        del _pinned[ptr]


def _is_writable(ptr: int) -> bool:
    with open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            place, rights = line.split()[:2]
            start, stop = (int(end, 16) for end in place.split("-"))
            if start <= ptr < stop:
                return "w" in rights
    return False


def _check_pinned(ptr: int, pitch: int, width: int, height: int) -> None:
    stop = ptr + pitch * (height - 1) + width
    with lock:
        is_pinned = any(start <= ptr and stop <= start + size for start, size in _pinned.items())
    assert is_pinned, "a copy of memory that is not pinned"


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
    host = (src, spitch) if kind == 1 else (dst, dpitch)
    _check_pinned(*host, width, height)

    def copy() -> None:
        _check_pinned(*host, width, height)
        for row in range(height):
            ctypes.memmove(dst + row * dpitch, src + row * spitch, width)

    log.append((stream, {1: "in", 2: "out"}[kind], width * height))
    streams[stream - 1]._add(copy)
