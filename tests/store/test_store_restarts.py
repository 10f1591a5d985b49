"""A real store process that is killed, stopped, orphaned or damaged, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
from tests.store.running import MIB, RunningStore, fetched, run, running_store, values
from tests.waiting import wait_until

from deadheat.v1 import matrix_pb2 as pb


def test_a_matrix_on_disk_that_is_being_written_survives_its_store(tmp_path: Path) -> None:
    array = values(1024, 1536)

    async def write(store: RunningStore) -> str:
        matrix_id = await store.create(1024, 1536)
        shared = store.share()
        mapping = await asyncio.to_thread(shared.map, matrix_id, writable=True)
        np.frombuffer(mapping.buffer)[:] = array.reshape(-1)
        del mapping
        shared.close()
        os.kill(store.child.pid, signal.SIGKILL)
        return matrix_id

    async def read(store: RunningStore, matrix_id: str) -> None:
        await store.seal(matrix_id)
        assert np.array_equal(await fetched(store, matrix_id, array), array)

    async def both() -> None:
        async with running_store(tmp_path, memory=8 * MIB) as store:
            matrix_id = await write(store)
        async with running_store(tmp_path, memory=8 * MIB) as store:
            await read(store, matrix_id)

    asyncio.run(both())


def test_a_restarted_store_has_what_it_had(tmp_path: Path) -> None:
    array = values()

    async def killed() -> str:
        async with running_store(tmp_path) as store:
            matrix_id = await store.fill(array)
            await store.create(100, 100, matrix_id="unsealed", request_id="u")
            store.child.process.kill()
            store.child.process.wait()
            return matrix_id

    matrix_id = asyncio.run(killed())

    async def after_kill(store: RunningStore) -> None:
        states = {info.id: info.state for info in (await store.listing()).matrices}
        assert states == {
            matrix_id: pb.MATRIX_STATE_SEALED,
            "unsealed": pb.MATRIX_STATE_WRITING,
        }
        assert np.array_equal(await fetched(store, matrix_id, array), array)

    run(tmp_path, after_kill)
    # It was stopped in good order: nothing stays in shared memory, the matrix is on disk.
    assert list((tmp_path / "shm").iterdir()) == []

    async def after_stop(store: RunningStore) -> None:
        places = {info.id: info.place for info in (await store.listing()).matrices}
        assert places == {matrix_id: "disk"}
        assert np.array_equal(await fetched(store, matrix_id, array), array)

    run(tmp_path, after_stop)


def test_an_orphaned_store_leaves_no_shared_memory_and_loses_nothing(tmp_path: Path) -> None:
    array = values()

    async def orphan() -> str:
        # That it ends in time whatever happens is tested with other children.
        async with running_store(tmp_path, module="tests.store.patient") as store:
            matrix_id = await store.fill(array)
            store.child.abandon()
            wait_until(lambda: store.child.process.poll() is not None, "its end")
            assert store.child.process.returncode == 0
            return matrix_id

    matrix_id = asyncio.run(orphan())
    assert list((tmp_path / "shm").iterdir()) == []

    async def test(store: RunningStore) -> None:
        assert np.array_equal(await fetched(store, matrix_id, array), array)

    run(tmp_path, test)


def test_a_damaged_sidecar_costs_one_matrix_not_the_store(tmp_path: Path) -> None:
    async def first(store: RunningStore) -> None:
        await store.fill(values(), request_id="a")
        await store.fill(values(), request_id="b")

    run(tmp_path, first)
    sidecars = sorted((tmp_path / "state" / "matrices").glob("*.json"))
    sidecars[0].write_text("{")
    sidecars[1].with_suffix(".npy").write_bytes(b"short")

    async def second(store: RunningStore) -> None:
        assert len((await store.listing()).matrices) == 0
        await store.fill(values(), request_id="c")

    run(tmp_path, second)
