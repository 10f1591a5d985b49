"""Clients that die, come in pairs, or stop reading; on a clock that the test turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.store.running import MIB

from deadheat.runtime import rpc
from deadheat.runtime.errors import NotFound
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store import transfer
from deadheat.store.arenas import ArenaPool
from deadheat.store.catalog import SEALED_TTL_S, WRITING_TTL_S, Catalog
from deadheat.store.descriptors import DescriptorServer
from deadheat.store.matrices import Store
from deadheat.store.regions import Region
from deadheat.store.service import MatrixServicer
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub, add_MatrixServiceServicer_to_server

KIND = MatrixType(1024, 512, "float64")
VALUES = np.random.default_rng(5).random((1024, 512))


class Bench:
    """A store in this process, as its daemon makes it, but for the clock."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        (directory / "shm").mkdir()
        (directory / "disk").mkdir()
        pool = ArenaPool(directory / "shm", 64 * MIB)
        catalog = Catalog(pool, directory / "disk", 64 * MIB, clock=lambda: self.now)
        self.store = Store(catalog)
        self.port = 0
        self.socket = f"deadheat-test-{directory.name}-{id(self)}"
        self.stub: Any = None

    async def create(self, name: str) -> str:
        return (await self.store.create(KIND, request_id=f"r-{name}", matrix_id=name)).id

    async def put(self, matrix_id: str, upload: str, array: Any = VALUES) -> None:
        source = Region(memoryview(array.data).cast("B"), KIND, KIND.whole())
        await transfer.put(self.stub, matrix_id, upload, KIND.whole(), source)

    async def get(self, matrix_id: str) -> bytes:
        target = bytearray(KIND.size_bytes)
        await transfer.get(self.stub, matrix_id, KIND.whole(), memoryview(target))
        return bytes(target)

    async def until_free(self) -> None:
        while self.store.pool.used_bytes:
            await self.store.reclaim()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    found = Bench(directory)
    server = grpc.aio.server(interceptors=[rpc.ErrorInterceptor()], options=rpc.server_options())
    add_MatrixServiceServicer_to_server(MatrixServicer(found.store), server)
    found.port = rpc.open_port(server, "127.0.0.1:0", None)
    await server.start()
    descriptors = DescriptorServer(found.store, found.socket, "ticket")
    address = f"127.0.0.1:{found.port}"
    try:
        async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
            found.stub = MatrixServiceStub(channel)
            yield found
    finally:
        descriptors.close()
        await server.stop(grace=0)
        await found.store.shut_down(1.0, discard=True)


#: A client in the middle of an upload: half of it streamed, all of it mapped, and then nothing.
HALF_AN_UPLOAD = """
import asyncio, sys
from deadheat.runtime import rpc
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.store import transfer
from deadheat.store.descriptors import DescriptorClient
from deadheat.store.regions import Region
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

async def main(address, socket, matrix_id):
    mapping = DescriptorClient(socket, "ticket").map(matrix_id, writable=True)
    kind, half = MatrixType(1024, 512, "float64"), Rectangle(0, 512, 0, 512)
    async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
        source = Region(memoryview(bytes(kind.size_bytes)), kind, half)
        await transfer.put(MatrixServiceStub(channel), matrix_id, "u", half, source)
        print("half", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def test_what_a_killed_client_left_half_written_expires(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(tmp_path) as found:
            matrix_id = await found.create("m")
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", HALF_AN_UPLOAD, f"127.0.0.1:{found.port}"),
                *(found.socket, matrix_id),
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout
            assert await child.stdout.readline() == b"half\n"
            matrix = found.store.catalog.get(matrix_id)
            found.now += WRITING_TTL_S + 1
            await found.store.reclaim()
            assert matrix.grants == 1  # While it lives it may be slow: its mapping is good.
            assert found.store.catalog.find(matrix_id)
            child.kill()
            await child.wait()
            while matrix.grants:
                await asyncio.sleep(0.01)
            await found.store.reclaim()
            assert found.store.catalog.find(matrix_id)  # From its last sign of life.
            found.now += WRITING_TTL_S + 1
            await found.until_free()
            assert found.store.catalog.find(matrix_id) is None

    asyncio.run(test())


def test_what_many_give_up_at_once_goes_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(tmp_path) as found:
            for name in ("a", "b", "c", "d"):
                found.store.give_up(await found.create(name))
            await asyncio.gather(*(found.store.reclaim() for _ in range(3)))
            assert list(found.store.catalog) == []
            await found.until_free()

    asyncio.run(test())


def test_what_is_held_again_before_its_turn_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(tmp_path) as found:
            for name in ("a", "b"):
                found.store.catalog.seal(found.store.catalog.get(await found.create(name)))
            found.now += SEALED_TTL_S + 1
            going = asyncio.create_task(found.store.reclaim())
            await asyncio.sleep(0)  # It has listed both and waits for the first to be freed.
            found.store.catalog.get("b").holders.add("job:1")
            await going
            assert [matrix.id for matrix in found.store.catalog] == ["b"]

    asyncio.run(test())


def test_two_clients_may_upload_the_same_matrix_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(tmp_path) as found:
            # One that was taken for dead and came back, beside another that does its work again;
            # and two that say they are the same.
            for names in (("u", "v"), ("u", "u")):
                matrix_id = await found.create(f"m{names[1]}")
                await asyncio.gather(*(found.put(matrix_id, name) for name in names))
                await found.store.seal(found.store.catalog.get(matrix_id))
                assert await found.get(matrix_id) == VALUES.tobytes()

    asyncio.run(test())


def test_a_result_is_read_in_part_and_again_until_it_expires(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(tmp_path) as found:
            matrix_id = await found.create("m")
            await found.put(matrix_id, "u")
            matrix = found.store.catalog.get(matrix_id)
            await found.store.seal(matrix)
            part = memoryview(bytearray(KIND.size_bytes))
            whole = KIND.whole()
            await transfer.get(found.stub, matrix_id, whole, part, on_arrived=lambda _: False)
            rows = Rectangle(100, 200, 3, 7)
            some = bytearray(100 * 4 * 8)
            await transfer.get(found.stub, matrix_id, rows, memoryview(some))
            assert bytes(some) == VALUES[100:200, 3:7].tobytes()
            assert await found.get(matrix_id) == VALUES.tobytes()
            while matrix.grants:  # Who stopped reading holds nothing.
                await asyncio.sleep(0.01)
            found.now += SEALED_TTL_S + 1
            await found.until_free()
            with pytest.raises(NotFound, match=r"expired.*again"):
                await found.get(matrix_id)

    asyncio.run(test())
