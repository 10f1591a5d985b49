"""Transfers over a network that breaks: what arrives is right, or it is said that it did not."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.proxies import Fault, Kind, Proxy, proxy
from tests.store.running import MIB, RunningStore, running_store

from deadheat.runtime import rpc
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.programs import MatrixType
from deadheat.store import transfer
from deadheat.store.regions import Region
from deadheat.v1 import matrix_pb2 as pb
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

ROWS, COLUMNS = 1024, 768
KIND = MatrixType(ROWS, COLUMNS, "float64")
VALUES = np.random.default_rng(11).random((ROWS, COLUMNS))
STALL_S = 0.4
#: The exit code of a client that was refused; see `through_damage.py`.
REFUSED = 3

Test = Callable[[RunningStore, Any, Proxy], Awaitable[None]]


def through_proxy(directory: Path, test: Test) -> None:
    """A store, and a stub that reaches it through a proxy only."""

    async def inside() -> None:
        async with running_store(directory) as store:
            with proxy(store.port) as between:
                address = f"127.0.0.1:{between.port}"
                options = [
                    *rpc.data_options(address),
                    # Transfers are to heal, not calls: those would hide what is tested.
                    ("grpc.enable_retries", 0),
                ]
                async with rpc.aio_channel(address, None, options) as channel:
                    await test(store, MatrixServiceStub(channel), between)

    asyncio.run(inside())


class Counting:
    """A stub that knows how often it was asked for what."""

    def __init__(self, stub: Any, asked: Counter[str]) -> None:
        self._stub = stub
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        self._asked[name] += 1
        return getattr(self._stub, name)


async def got(stub: Any, matrix_id: str, *, stall_s: float = 20.0) -> tuple[int, bytes]:
    target = bytearray(KIND.size_bytes)
    moved = await transfer.get(stub, matrix_id, KIND.whole(), memoryview(target), stall_s=stall_s)
    return moved, bytes(target)


async def put(stub: Any, matrix_id: str, *, stall_s: float = 20.0) -> int:
    source = Region(memoryview(VALUES.data).cast("B"), KIND, KIND.whole())
    return await transfer.put(stub, matrix_id, "u", KIND.whole(), source, stall_s=stall_s)


async def has_arrived(store: RunningStore, matrix_id: str) -> bool:
    await store.seal(matrix_id)
    return (await got(store.stub, matrix_id))[1] == VALUES.tobytes()


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_download_goes_on_where_its_connection_broke(tmp_path: Path, kind: Kind) -> None:
    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        matrix_id = await store.fill(VALUES)
        breaks = [Fault(kind, 2 * MIB + 100_000) for _ in range(2)]
        between.add(*breaks)
        moved, data = await got(stub, matrix_id)
        assert data == VALUES.tobytes()
        assert moved == KIND.size_bytes  # What had come was not fetched again.
        assert all(fault.happened.is_set() for fault in breaks)
        assert between.connections == 3

    through_proxy(tmp_path, test)


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_an_upload_goes_on_where_its_connection_broke(tmp_path: Path, kind: Kind) -> None:
    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        matrix_id = await store.create(ROWS, COLUMNS)
        # They break when the store has the two chunks that went through each: what it has not
        # read of a connection that is reset is lost.
        breaks = [
            Fault(kind, 2 * MIB + 100_000, to_client=False, due=threading.Event()) for _ in range(2)
        ]
        between.add(*breaks)
        putting = asyncio.ensure_future(put(stub, matrix_id))
        stat = pb.MatrixServiceStatRequest(matrix_id=matrix_id, upload_id="u")
        for count, fault in enumerate(breaks, 1):
            while (await store.stub.Stat(stat, timeout=20)).received_bytes < count * 2 * MIB:
                assert not putting.done()
                await asyncio.sleep(0.01)
            assert fault.due
            fault.due.set()
        await putting
        assert all(fault.happened.is_set() for fault in breaks)
        # Each connection lost what was under way in it, and none began again.
        assert between.sent_bytes < KIND.size_bytes + MIB
        assert await has_arrived(store, matrix_id)

    through_proxy(tmp_path, test)


def test_who_gets_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_ATTEMPTS", 3)

    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        matrix_id = await store.fill(VALUES)
        between.add(*(Fault("reset", 0) for _ in range(10)))
        with pytest.raises(DeadheatError, match="reading matrix"):
            await got(stub, matrix_id)

    through_proxy(tmp_path, test)


def test_as_long_as_there_is_progress_there_is_patience(tmp_path: Path) -> None:
    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        wide = np.random.default_rng(1).random((1024, 1280))  # 10 chunks.
        matrix_id = await store.fill(wide)
        # Each time when one chunk more has come, however long that takes.
        due = [threading.Event() for _ in range(transfer.MAX_ATTEMPTS + 1)]
        between.add(*(Fault("reset", MIB + 100_000, due=one) for one in due))
        arrived = iter(due)

        def on_arrived(_: int) -> bool:
            next(arrived, threading.Event()).set()
            return True

        kind = MatrixType(1024, 1280, "float64")
        target = memoryview(bytearray(kind.size_bytes))
        await transfer.get(stub, matrix_id, kind.whole(), target, on_arrived=on_arrived)
        assert bytes(target) == wide.tobytes()
        assert all(one.is_set() for one in due)

    through_proxy(tmp_path, test)


@pytest.mark.parametrize("to_client", [True, False])
def test_nothing_that_moves_for_a_while_is_a_broken_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, to_client: bool
) -> None:
    # On a busy machine nothing may move for as long in attempts that are well, too.
    monkeypatch.setattr(transfer, "MAX_ATTEMPTS", 1000)

    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        matrix_id = await store.fill(VALUES) if to_client else await store.create(ROWS, COLUMNS)
        asked: Counter[str] = Counter()
        counting = Counting(stub, asked)
        stall = Fault("stall", 2 * MIB, to_client=to_client)
        between.add(stall)
        work: Any = (got if to_client else put)(counting, matrix_id, stall_s=STALL_S)
        moving = asyncio.ensure_future(work)
        await asyncio.to_thread(stall.happened.wait, 20)
        while asked["Get" if to_client else "Stat"] < 1 + to_client:
            await asyncio.sleep(0.01)  # It is given up, and gone on with.
        assert not moving.done()
        between.release()
        await moving
        if to_client:
            assert moving.result() == (KIND.size_bytes, VALUES.tobytes())
        else:
            assert await has_arrived(store, matrix_id)

    through_proxy(tmp_path, test)


#: In the connection's preface and settings, and in the first frames' headers.
HEADERS = [3, 30, 60, 100, 140, 200, 300]
#: In the middle of the data, and (a little) around the border of two chunks.
PLACES = [MIB // 2, MIB - 7, MIB + 40, MIB + 90, 3 * MIB + 77]


@pytest.mark.parametrize("to_client", [True, False])
def test_a_flipped_bit_is_noticed_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, to_client: bool
) -> None:
    monkeypatch.setattr(transfer, "MAX_ATTEMPTS", 1000)  # See above.

    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        for number, place in enumerate(PLACES):
            flip = Fault("flip", place, to_client=to_client, bit=number % 8)
            if to_client:
                matrix_id = await store.fill(VALUES, request_id=f"f{number}")
            else:
                matrix_id = await store.create(ROWS, COLUMNS, request_id=f"c{number}")
            with proxy(store.port) as fresh:
                fresh.add(flip)
                address = f"127.0.0.1:{fresh.port}"
                async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
                    one = MatrixServiceStub(channel)
                    if to_client:
                        assert (await got(one, matrix_id, stall_s=2))[1] == VALUES.tobytes()
                    else:
                        await put(one, matrix_id, stall_s=2)
                        assert await has_arrived(store, matrix_id)
            assert flip.happened.is_set()
            await store.delete(matrix_id)

    through_proxy(tmp_path, test)


@pytest.mark.parametrize("to_client", [True, False])
def test_damaged_headers_make_no_wrong_matrix(tmp_path: Path, *, to_client: bool) -> None:
    """HTTP/2 names headers once in a connection and refers to them from then on: what is damaged
    there is damaged until the connection ends. (With TLS it ends with the first such bit.)"""

    async def test(store: RunningStore, stub: Any, between: Proxy) -> None:
        for number, place in enumerate(HEADERS):
            flip = Fault("flip", place, to_client=to_client, bit=number % 8)
            if to_client:
                matrix_id = await store.fill(VALUES, request_id=f"f{number}")
            else:
                matrix_id = await store.create(ROWS, COLUMNS, request_id=f"c{number}")
            with proxy(store.port) as fresh:
                fresh.add(flip)
                code = await through_damage(fresh.port, matrix_id, "get" if to_client else "put")
            assert flip.happened.is_set()
            assert code in (0, REFUSED, -signal.SIGABRT, -signal.SIGSEGV)
            if code and not to_client:
                await put(store.stub, matrix_id)
            # Whatever became of that client, the store serves the next one.
            assert await has_arrived(store, matrix_id)
            await store.delete(matrix_id)

    through_proxy(tmp_path, test)


async def through_damage(port: int, matrix_id: str, what: str) -> int:
    """What became of a client of its own process; see `through_damage.py`."""
    command = [sys.executable, "-m", "tests.store.through_damage", str(port), matrix_id, what]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()
