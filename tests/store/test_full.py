"""Stores whose memory or disk is full: a clear error, nothing left behind, and on it goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.filesystems import fill, needs_mounts, tmpfs
from tests.store.running import MIB, RunningStore, running_store

from deadheat.runtime import rpc
from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import MatrixType
from deadheat.store import transfer

pytestmark = [pytest.mark.root, needs_mounts]

SIDE = 512  # 2 MiB each.
VALUES = np.random.default_rng(3).random((SIDE, SIDE))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


async def refused(store: RunningStore, words: str, *, durable: bool = False) -> None:
    async def attempt() -> None:
        with rpc.translated("test"):
            await store.fill(VALUES, durable=durable)

    with pytest.raises(LimitReached, match=words):
        await attempt()


async def is_right(store: RunningStore, matrix_id: str) -> bool:
    kind = MatrixType(SIDE, SIDE, "float64")
    target = bytearray(kind.size_bytes)
    await transfer.get(store.stub, matrix_id, kind.whole(), memoryview(target))
    return bytes(target) == VALUES.tobytes()


def test_a_full_shared_memory_is_refused_by_name_and_serves_again(tmp_path: Path) -> None:
    async def test(memory: Path) -> None:
        async with running_store(tmp_path, disk=MIB) as store:  # So that nothing is spilled.
            kept = await store.fill(VALUES)
            before = names(memory)
            # Not even for the name of a matrix: the arena goes back too.
            for left in (MIB, SIDE * SIDE * 8):
                filling = fill(memory, leave_bytes=left)
                await refused(store, str(memory))
                filling.unlink()
                assert names(memory) == before
            assert await is_right(store, kept)
            assert await is_right(store, await store.fill(VALUES))

    with tmpfs(tmp_path / "shm", 16 * MIB) as memory:
        asyncio.run(test(memory))


def test_a_full_disk_is_refused_by_name_and_serves_again(tmp_path: Path) -> None:
    async def test(disk: Path) -> None:
        async with running_store(tmp_path) as store:
            kept = await store.fill(VALUES)
            filling = fill(disk, leave_bytes=MIB)
            await refused(store, "No space left on device", durable=True)
            matrices = disk / "matrices"
            assert sorted(path.suffix for path in matrices.iterdir()) == []
            # Memory is not full: what need not be on disk is taken.
            other = await store.fill(VALUES)
            filling.unlink()
            durable = await store.fill(VALUES, durable=True)
            for matrix_id in (kept, other, durable):
                assert await is_right(store, matrix_id)
            places = {info.id: info.place for info in (await store.listing()).matrices}
            assert places[durable] == "disk"

    with tmpfs(tmp_path / "state", 16 * MIB) as disk:
        asyncio.run(test(disk))


def test_a_store_that_stops_with_a_full_disk_keeps_what_fits_not_there(tmp_path: Path) -> None:
    async def first(disk: Path) -> list[str]:
        async with running_store(tmp_path) as store:
            ids = [await store.fill(VALUES) for _ in range(3)]
            fill(disk, leave_bytes=3 * MIB)
            return ids

    async def second(ids: list[str]) -> None:
        async with running_store(tmp_path) as store:
            places = {info.id: info.place for info in (await store.listing()).matrices}
            assert sorted(places.values()) == ["disk", "memory", "memory"]
            for matrix_id in ids:
                assert await is_right(store, matrix_id)

    with tmpfs(tmp_path / "state", 16 * MIB) as disk:
        asyncio.run(second(asyncio.run(first(disk))))
