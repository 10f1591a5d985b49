"""Huge pages for arenas that are free, and matrices that are right all the while."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tests.waiting import wait_until

from deadheat.runtime import pages
from deadheat.runtime.programs import MatrixType
from deadheat.store.arenas import ArenaPool
from deadheat.store.catalog import Catalog, InMemory, Matrix
from deadheat.store.matrices import Store

SIDE = 1024
SIZE = SIDE * SIDE * 8


def huge_kib(descriptor: int) -> int:
    """How much of the first matrix in a file comes in huge pages."""
    array = np.frombuffer(pages.map_file(descriptor, SIZE, is_writable=False), np.float64)
    assert array.sum() >= 0  # Every page is touched.
    inode = os.fstat(descriptor).st_ino
    smaps = Path("/proc/self/smaps").read_text()
    # The line of its mapping: a mere number might be the size of another one.
    of_it = re.split(rf"[0-9a-f]+-\S+ \S+ \S+ \S+ {inode} +/.*/arena-.*\n", smaps)[1]
    return int(re.findall(r"ShmemPmdMapped:\s+(\d+) kB", of_it)[0])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
def test_an_arena_that_was_given_back_has_huge_pages_for_the_next_matrix(tmp_path: Path) -> None:
    async def inside(directory: Path) -> None:
        store = Store(Catalog(ArenaPool(directory, 8 * SIZE), tmp_path, 0))

        async def made(request: str) -> tuple[Matrix, int]:
            matrix = await store.create(MatrixType(SIDE, SIDE, "float64"), request_id=request)
            assert isinstance(matrix.place, InMemory)
            return matrix, matrix.place.arena.descriptor

        matrix, descriptor = await made("first")
        probe = os.dup(descriptor)
        kept, other = await made("stays")
        target = np.frombuffer(pages.map_file(other, SIZE), np.float64)
        target[...] = np.arange(SIDE * SIDE)
        store.give_up(matrix.id)
        # Its own loop has to go on meanwhile.
        await asyncio.to_thread(
            wait_until,
            lambda: store.pool.free_bytes == SIZE and store.pool.small_paged() is None,
            "the arena that was given back has been looked at",
        )
        again, reused = await made("second")
        assert os.fstat(reused).st_ino == os.fstat(probe).st_ino
        assert (target == np.arange(SIDE * SIDE)).all()
        assert kept.grants == again.grants == 0
        if not pages.collapse(probe, 0, SIZE):
            pytest.skip("this kernel does not join pages of shared memory (Linux 6.1 does)")
        assert huge_kib(probe) == SIZE // 1024
        os.close(probe)

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(inside(Path(directory)))
