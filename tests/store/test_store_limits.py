"""A real store process whose memory or disk is too small: it spills, or refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.store.running import MIB, RunningStore, fetched, refused, run, values
from tests.waiting import wait_until

from deadheat.runtime.errors import Conflict, LimitReached
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store import transfer
from deadheat.store.npyfiles import read_header
from deadheat.store.regions import Region

HALF = MatrixType(512, 1536, "float64")


def test_memory_that_is_short_spills_what_nobody_maps(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        arrays = [values(512, 512) + k for k in range(6)]  # 2 MiB each, room for four.
        ids = [await store.fill(array, request_id=f"f{k}") for k, array in enumerate(arrays)]
        places = {info.id: info.place for info in (await store.listing()).matrices}
        assert [places[matrix_id] for matrix_id in ids].count("disk") >= 2
        for matrix_id, array in zip(ids, arrays):
            assert np.array_equal(await fetched(store, matrix_id, array), array)
        spilled = next(path for path in (tmp_path / "state" / "matrices").glob("*.npy"))
        assert read_header(spilled).shape == (512, 512)
        words = r"64.0 MiB of shared memory needed; .* of 8.0 MiB are .* of 64.0 MiB are in use"
        await refused(store.create(4096, 2048), LimitReached, words)

    run(tmp_path, test, memory=8 * MIB)


def test_what_is_larger_than_the_memory_is_made_on_disk(tmp_path: Path) -> None:
    array = values(1024, 1536)  # 12 MiB.

    async def test(store: RunningStore) -> None:
        mapped = await store.fill(array)
        streamed = await store.create(1024, 1536)
        for start in (0, 512):
            part = Rectangle(start, start + 512, 0, 1536)
            source = Region(memoryview(array[start : start + 512].tobytes()), HALF, HALF.whole())
            await transfer.put(store.stub, streamed, f"u{start}", part, source)
        await store.seal(streamed)
        durable = await store.fill(array, durable=True)
        places = {info.id: info.place for info in (await store.listing()).matrices}
        assert places == dict.fromkeys((mapped, streamed, durable), "disk")
        shared = store.share()
        for matrix_id in (mapped, streamed, durable):
            assert np.array_equal(await fetched(store, matrix_id, array), array)
            mapping = await asyncio.to_thread(shared.map, matrix_id)
            assert np.array_equal(np.frombuffer(mapping.buffer).reshape(array.shape), array)
            del mapping
        with pytest.raises(Conflict, match="is sealed"):
            await asyncio.to_thread(shared.map, mapped, writable=True)
        shared.close()
        # Whoever deletes it has the room for another.
        await store.delete(mapped)
        await store.delete(streamed)
        disk = tmp_path / "state" / "matrices"
        wait_until(lambda: [one.stem for one in disk.glob("*.npy")] == [durable], "the room")

    run(tmp_path, test, memory=8 * MIB)


def test_a_full_disk_refuses_and_goes_on_serving(tmp_path: Path) -> None:
    async def test(store: RunningStore) -> None:
        kept = await store.fill(values(512, 512), request_id="a")
        await store.fill(values(512, 512), request_id="b")
        await refused(store.create(512, 512, request_id="c"), LimitReached, "shared memory")
        assert np.array_equal(await fetched(store, kept, values(512, 512)), values(512, 512))

    run(tmp_path, test, memory=4 * MIB + 4096, disk=MIB)
