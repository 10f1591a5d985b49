"""Mappings of files that can be in huge pages, and shared memory that is made so.

A matrix of 512 MiB is 131,072 pages of 4 KiB: each process that maps it takes a fault for every
few of them, and BLAS packs columns of it by way of addresses that the processor has not at hand.
In pages of 2 MiB neither costs anything (measured at n = 8192, float64: the copy into a mapping
takes 0.05 instead of 0.25 s, the product 2 to 4 % less). A tmpfs gives small pages unless its mount
says otherwise; MADV_COLLAPSE (Linux 6.1) joins them whatever the mount says, as long as a mapping
lies at a multiple of 2 MiB, of which Python's own `mmap` knows nothing: hence this file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any, Final

HUGE_BYTES: Final = 2 << 20
#: madvise(2); Python has no name for it yet.
MADV_COLLAPSE: Final = 25
_MAP_FIXED: Final = 0x10
_NO_ACCESS: Final = 0
_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_file(
    descriptor: int, length: int, *, is_private: bool = False, is_writable: bool = True
) -> memoryview:
    """The first `length` bytes of a file as memory, at an address where huge pages fit.

    `is_private` copies on write; what is not writable is read-only for this process. It is unmapped
    when the last view of it is gone. Raises OSError as mmap(2) does, and ValueError for a file that
    is shorter, since reading beyond its end would kill this process.
    """
    if os.fstat(descriptor).st_size < length:
        raise ValueError(f"the file has {os.fstat(descriptor).st_size} bytes, {length} needed")
    access = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    flags = mmap.MAP_PRIVATE if is_private else mmap.MAP_SHARED
    address = _map_aligned(descriptor, max(1, length), access, flags)
    holder = (ctypes.c_ubyte * length).from_address(address)
    # At the end of the process the kernel does it, when no thread can be at work there any more.
    weakref.finalize(holder, _libc.munmap, address, max(1, length)).atexit = False
    view = memoryview(holder).cast("B")
    return view if is_writable else view.toreadonly()


def when_unmapped(view: memoryview, call: Any, *arguments: Any) -> None:
    """Calls when the last view of a mapping is gone, unless the process ends first."""
    weakref.finalize(view.obj, call, *arguments).atexit = False


def collapse(descriptor: int, start: int, stop: int) -> bool:
    """Joins the small pages of a tmpfs file in [start, stop), multiples of HUGE_BYTES, that are
    there into huge ones; their content stays, whoever else maps them. False where the kernel does
    not (it is too old, memory is short or in pieces): the file is as it was."""
    if start >= stop:
        return True
    try:
        address = _map_aligned(
            descriptor, stop - start, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, start
        )
    except OSError:
        return False
    try:
        return int(_libc.madvise(address, stop - start, MADV_COLLAPSE)) == 0
    finally:
        _libc.munmap(address, stop - start)


def _map_aligned(descriptor: int, length: int, access: int, flags: int, offset: int = 0) -> int:
    """Maps at a multiple of HUGE_BYTES, by taking so much more room that one must be in it."""
    if length < HUGE_BYTES:
        return _mmap(None, length, access, flags, descriptor, offset)
    room = length + HUGE_BYTES
    anywhere = _mmap(None, room, _NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    address = -(-anywhere // HUGE_BYTES) * HUGE_BYTES
    try:
        _mmap(address, length, access, flags | _MAP_FIXED, descriptor, offset)
    except OSError:
        _libc.munmap(anywhere, room)
        raise
    stop = -(-(address + length) // mmap.PAGESIZE) * mmap.PAGESIZE
    if address > anywhere:
        _libc.munmap(anywhere, address - anywhere)
    if anywhere + room > stop:
        _libc.munmap(stop, anywhere + room - stop)
    return address


def _mmap(
    address: int | None, length: int, access: int, flags: int, descriptor: int, offset: int
) -> int:
    found = _libc.mmap(address, length, access, flags, descriptor, offset)
    if found == _FAILED or found is None:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found)
