"""Mappings where huge pages fit, and files whose pages are joined."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deadheat.runtime import pages

MIB = 1 << 20


@pytest.fixture
def shared_file() -> Iterator[int]:
    """A file of 8 MiB and a page on a tmpfs, filled with its own offsets."""
    descriptor = os.memfd_create("pages", os.MFD_CLOEXEC)
    os.posix_fallocate(descriptor, 0, 8 * MIB + 4096)
    os.pwrite(descriptor, np.arange(MIB, dtype=np.int64).tobytes(), 0)
    yield descriptor
    os.close(descriptor)


def mapped_count(descriptor: int) -> int:
    inode = os.fstat(descriptor).st_ino
    maps = Path("/proc/self/maps").read_text()
    # By its name too: other file systems count their inodes by themselves.
    return len(re.findall(rf" {inode} +/memfd:pages", maps))


def address_space_bytes() -> int:
    """All that is mapped here. What lies side by side may be one line of `maps`."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) * 1024


@pytest.mark.parametrize("length", [1, 4096, 5000, 2 * MIB, 8 * MIB, 8 * MIB + 4096])
def test_a_mapping_lies_where_huge_pages_fit_and_ends_with_its_last_view(
    shared_file: int, length: int
) -> None:
    view = pages.map_file(shared_file, length)
    array = np.frombuffer(view, np.uint8)[length // 2 :]
    assert len(view) == length
    if length >= pages.HUGE_BYTES:
        whole = np.frombuffer(view, np.uint8)
        assert whole.ctypes.data % pages.HUGE_BYTES == 0
        del whole
    del view
    gc.collect()
    assert mapped_count(shared_file) == 1
    assert array.size == length - length // 2
    del array
    gc.collect()
    assert mapped_count(shared_file) == 0


def test_writes_are_shared_private_or_refused(shared_file: int) -> None:
    shared = pages.map_file(shared_file, 4096)
    private = pages.map_file(shared_file, 4096, is_private=True)
    reader = pages.map_file(shared_file, 4096, is_writable=False)
    private[0] = 7
    assert reader[0] == shared[0] == 0
    shared[1] = 8
    assert reader[1] == 8
    with pytest.raises(TypeError):
        reader[0] = 1


def test_what_waits_for_the_end_of_a_mapping_hears_of_it_once(shared_file: int) -> None:
    heard: list[str] = []
    view = pages.map_file(shared_file, 4096)
    pages.when_unmapped(view, heard.append, "gone")
    part = view[10:20]
    del view
    gc.collect()
    assert heard == []
    del part
    gc.collect()
    assert heard == ["gone"]


def test_a_file_that_is_shorter_is_refused_rather_than_fatal_later(shared_file: int) -> None:
    with pytest.raises(ValueError, match="bytes, 16777216 needed"):
        pages.map_file(shared_file, 16 * MIB)


def test_a_file_that_cannot_be_mapped_is_an_error_and_leaves_no_room_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4 * MIB))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    before = address_space_bytes()
    for _ in range(400):
        with pytest.raises(PermissionError):
            pages.map_file(descriptor, 4 * MIB)
    os.close(descriptor)
    # Threads of other tests may come meanwhile; they take less than the half of it.
    assert address_space_bytes() < before + 400 * 4 * MIB / 2


def test_joined_pages_keep_what_is_in_them_for_all_who_map_them(shared_file: int) -> None:
    before = np.frombuffer(pages.map_file(shared_file, 8 * MIB), np.int64)
    has_joined = pages.collapse(shared_file, 2 * MIB, 8 * MIB)
    after = np.frombuffer(pages.map_file(shared_file, 8 * MIB, is_writable=False), np.int64)
    assert (after == np.arange(MIB)).all()
    assert (before == after).all()
    before[-1] = -1
    assert after[-1] == -1
    if not has_joined:
        pytest.skip("this kernel does not join pages of shared memory (Linux 6.1 does)")
    rss = Path("/proc/self/smaps_rollup").read_text()
    assert int(re.findall(r"ShmemPmdMapped:\s+(\d+) kB", rss)[0]) >= 6 * 1024


def test_what_cannot_be_joined_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (4 * MIB))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    assert not pages.collapse(descriptor, 0, 4 * MIB)
    assert pages.collapse(descriptor, 0, 0)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"x" * (4 * MIB)


def test_a_mapping_that_is_in_use_at_the_end_of_the_process_does_no_harm() -> None:
    code = """
import os, threading
import numpy as np
from deadheat.runtime import pages
descriptor = os.memfd_create("pages")
os.posix_fallocate(descriptor, 0, 4 << 20)
array = np.frombuffer(pages.map_file(descriptor, 4 << 20), np.uint8)
def work():
    while True:
        array[...] += 1
threading.Thread(target=work, daemon=True).start()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
