"""Agents serve each other what they have fetched: whatever goes wrong there, the store has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from tests.agent.stores import FakeStore, part
from tests.e2e.networks import Certificates

from deadheat.agent import fetching, service
from deadheat.agent.cache import BlockCache, Pin
from deadheat.agent.peers import Peers
from deadheat.agent.service import PeerServer
from deadheat.runtime import rpc
from deadheat.runtime.credentials import TlsFiles
from deadheat.runtime.errors import Unavailable
from deadheat.runtime.programs import MatrixType, Rectangle
from deadheat.v1 import matrix_pb2 as pb
from deadheat.v1.matrix_pb2_grpc import MatrixServiceServicer, MatrixServiceStub
from deadheat.v1.matrix_pb2_grpc import add_MatrixServiceServicer_to_server as add_servicer

ROWS, COLUMNS = 4096, 256
TYPE = MatrixType(ROWS, COLUMNS, "float64")
CHUNKS = TYPE.size_bytes // rpc.CHUNK_BYTES
TRUTH = np.random.default_rng(11).random((ROWS, COLUMNS))
SCHEDULER = "127.0.0.1:7433"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is late because the machine is busy is waited for: tests know who is asked."""
    monkeypatch.setattr(fetching, "PEER_PATIENCE_S", 60.0)
    monkeypatch.setattr(service, "UNKNOWN_WAIT_S", 60.0)
    monkeypatch.setattr(service, "ROWS_WAIT_S", 60.0)


class Agent:
    """What an agent fetches with and serves from; its store answers when it may."""

    def __init__(self, limit_bytes: int = 2 * TYPE.size_bytes) -> None:
        self.store = cast("Any", FakeStore())
        self.store.matrices = {"m": TRUTH, "other": TRUTH}
        self.cache = BlockCache(limit_bytes)
        self.peers = Peers(None)
        self.server = PeerServer(self.cache, SCHEDULER, None)
        self.address = ""

    def pin(self, *addresses: str, name: str = "m", wanted: Rectangle | None = None) -> Pin:
        return self.cache.pin(
            lambda: self.store,
            name,
            TYPE,
            wanted or TYPE.whole(),
            peers=self.peers.of(addresses),
        )

    async def close(self) -> None:
        await self.server.close()
        await self.peers.close()


def with_agents(test: Callable[..., Awaitable[None]], count: int = 2, **options: Any) -> None:
    async def run() -> None:
        async with AsyncExitStack() as open_:
            agents = [Agent(**options) for _ in range(count)]
            for agent in agents:
                open_.push_async_callback(agent.close)
                agent.address = await agent.server.open()
                assert agent.address.startswith("127.0.0.1:")
            await test(*agents)

    asyncio.run(run())


@asynccontextmanager
async def serving(servicer: MatrixServiceServicer) -> AsyncIterator[str]:
    """A peer that is not as it should be."""
    server = grpc.aio.server(options=rpc.server_options())
    add_servicer(servicer, server)
    port = rpc.open_port(server, "127.0.0.1:0", None)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def is_right(pin: Pin, wanted: Rectangle | None = None) -> bool:
    wanted = wanted or TYPE.whole()
    found = np.frombuffer(pin.memory.buffer, np.float64, wanted.area)
    return np.array_equal(found.reshape(wanted.rows, wanted.columns), part(TRUTH, wanted))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_a_peer_has_comes_from_there_and_counts_like_any_other() -> None:
    async def test(first: Agent, second: Agent) -> None:
        await first.pin().wait()
        wanted = Rectangle(100, 3000, 10, 200)
        pin = second.pin(first.address, wanted=wanted)
        await pin.wait()
        assert is_right(pin, wanted)
        assert pin.take_moved()[0] == wanted.area * 8
        assert second.store.asked.total() == 0
        assert first.server.servicer.served_bytes == wanted.area * 8

    with_agents(test)


def test_rows_are_passed_on_while_they_come_and_the_store_sends_them_once() -> None:
    async def test(first: Agent, second: Agent, third: Agent) -> None:
        await first.store.allow(0)
        # Whoever is told of a peer may be there before it: the last one starts first.
        last = third.pin(second.address)
        middle = second.pin(first.address)
        start = first.pin()
        await until(lambda: first.store.asked.total() == 1)
        await first.store.allow(3)
        await last.wait(2 * rpc.CHUNK_BYTES // TYPE.row_bytes)
        assert start.row_here < ROWS
        await first.store.allow(None)
        await asyncio.gather(start.wait(), middle.wait(), last.wait())
        assert all(map(is_right, (start, middle, last)))
        assert first.store.sent_bytes == TYPE.size_bytes
        assert second.store.asked.total() == third.store.asked.total() == 0

    with_agents(test, 3)


def test_who_is_not_there_or_has_nothing_is_asked_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "UNKNOWN_WAIT_S", 0.01)

    async def test(first: Agent, second: Agent) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # Nobody listens there.
            nobody = f"127.0.0.1:{taken.getsockname()[1]}"
            pin = second.pin(first.address, nobody)
            await pin.wait()
        assert is_right(pin)
        assert second.store.sent_bytes == TYPE.size_bytes
        # Who has nothing may have something else; who does not answer is left alone for a while.
        assert [one.address for one in second.peers.of([first.address, nobody])] == [first.address]

    with_agents(test)


def test_what_a_dying_peer_has_sent_is_not_fetched_again() -> None:
    async def test(first: Agent, second: Agent) -> None:
        await first.store.allow(3)
        held = first.pin()
        pin = second.pin(first.address)
        await pin.wait(2 * rpc.CHUNK_BYTES // TYPE.row_bytes)
        await first.server.close()
        await pin.wait()
        assert is_right(pin)
        assert 0 < second.store.sent_bytes < TYPE.size_bytes - rpc.CHUNK_BYTES
        assert pin.take_moved()[0] == TYPE.size_bytes
        held.release()

    with_agents(test)


def test_a_peer_that_stalls_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PEER_PATIENCE_S", 0.5)

    async def test(first: Agent, second: Agent) -> None:
        await first.store.allow(2)
        held = first.pin()
        await held.wait(2 * rpc.CHUNK_BYTES // TYPE.row_bytes)
        pin = second.pin(first.address)
        await pin.wait()
        assert is_right(pin)
        # On a busy machine its patience may be over before both of these have come.
        from_peer = TYPE.size_bytes - second.store.sent_bytes
        assert from_peer in (0, rpc.CHUNK_BYTES, 2 * rpc.CHUNK_BYTES)
        assert from_peer <= first.server.servicer.served_bytes <= held.block.arrived_bytes
        assert second.peers.of([first.address]) == []

    with_agents(test)


class Liar(MatrixServiceServicer):
    """Its first chunk is right, the second is not what its checksum says."""

    async def Get(  # noqa: N802
        self,
        request: pb.MatrixServiceGetRequest,
        context: Any,
    ) -> AsyncIterator[pb.MatrixServiceGetResponse]:
        import google_crc32c

        data, size = TRUTH.tobytes(), rpc.CHUNK_BYTES
        for offset in range(request.offset, len(data), size):
            checksum = google_crc32c.value(data[offset : offset + size])
            sent = data[offset : offset + size] if offset < size else bytes(size)
            chunk = pb.Chunk(offset=offset, data=sent, crc32c=checksum)
            yield pb.MatrixServiceGetResponse(chunk=chunk)


def test_a_chunk_that_does_not_match_its_checksum_is_not_taken() -> None:
    async def test(first: Agent, second: Agent) -> None:
        await first.pin().wait()
        async with serving(cast("Any", Liar)()) as liar:
            pin = second.pin(liar, first.address)
            await pin.wait()
        assert is_right(pin)
        assert second.store.asked.total() == 0
        assert first.server.servicer.served_bytes == TYPE.size_bytes - rpc.CHUNK_BYTES
        assert [one.address for one in second.peers.of([liar])] == []

    with_agents(test)


def test_readers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_READERS", 1)

    async def test(first: Agent, second: Agent, third: Agent) -> None:
        await first.store.allow(2)
        start = first.pin()
        one = second.pin(first.address)
        await one.wait(1)
        other = third.pin(first.address)
        await other.wait()
        assert is_right(other)
        assert third.store.sent_bytes == TYPE.size_bytes
        await first.store.allow(None)
        await asyncio.gather(start.wait(), one.wait())
        assert second.store.asked.total() == 0

    with_agents(test, 3)


def test_a_reader_is_not_in_the_way_of_who_needs_the_room_here() -> None:
    async def test(first: Agent, second: Agent) -> None:
        await first.store.allow(3)
        lent = first.pin()
        reader = second.pin(first.address)
        await reader.wait(1)
        lent.release()  # Nobody here wants it any more, so it does not come either.
        await reader.wait()
        assert is_right(reader)
        assert 0 < second.store.sent_bytes < TYPE.size_bytes
        await until(lambda: first.cache.used_bytes == 0)

    with_agents(test)


def test_what_is_read_goes_last() -> None:
    async def test(agent: Agent) -> None:
        for name in ("m", "other"):
            pin = agent.pin(name=name)
            await pin.wait()
            pin.release()
        await asyncio.sleep(0)
        block = await agent.cache.find_for_peer("m", TYPE.whole(), 1.0)
        with agent.cache.lent(block, TYPE.whole()) as loan:
            agent.cache.reserve(TYPE.size_bytes)
            assert list(agent.cache.whole) == ["m"]
            await loan.wait(ROWS)
            region = loan.region()
            agent.cache.release(TYPE.size_bytes)
            agent.cache.reserve(2 * TYPE.size_bytes)
            assert list(agent.cache.whole) == []
            with pytest.raises(Unavailable):
                await loan.wait(ROWS)
            # What was being sent just then is still what it was.
            assert region.read(0, TYPE.size_bytes) == TRUTH.tobytes()

    with_agents(test, 1)


def test_agents_serve_reading_only() -> None:
    async def test(agent: Agent) -> None:
        async with rpc.aio_channel(agent.address, None, rpc.data_options(agent.address)) as channel:
            stub = MatrixServiceStub(channel)
            for call in (
                stub.Create(pb.MatrixServiceCreateRequest()),
                stub.Delete(pb.MatrixServiceDeleteRequest(matrix_id="m")),
                stub.List(pb.MatrixServiceListRequest()),
                stub.Put(iter([pb.MatrixServicePutRequest()])),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    with_agents(test, 1)


def test_only_who_has_a_certificate_of_our_authority_is_served(tmp_path: Path) -> None:
    files = {}
    for name in ("ours", "others"):
        Certificates.issue(tmp_path / name, ["127.0.0.1"])
        at = tmp_path / name
        files[name] = TlsFiles(at / "127.0.0.1.pem", at / "127.0.0.1.key", at / "ca.pem")
    stranger = TlsFiles(files["others"].certificate, files["others"].key, files["ours"].authority)

    async def test(agent: Agent) -> None:
        await agent.pin().wait()
        server = PeerServer(agent.cache, SCHEDULER, files["ours"])
        address = await server.open()
        for tls, is_served in ((files["ours"], True), (stranger, False), (None, False)):
            reader = Agent()
            reader.peers = Peers(tls)
            pin = reader.pin(address)
            await pin.wait()
            assert is_right(pin)
            assert (reader.store.asked.total() == 0) == is_served
            await reader.close()
        await server.close()

    with_agents(test, 1)


def test_nothing_listens_beyond_loopback_without_certificates() -> None:
    async def run() -> None:
        cache = BlockCache(1 << 20)
        assert await PeerServer(cache, SCHEDULER, None, "0.0.0.0:0").open() == ""
        assert await PeerServer(cache, SCHEDULER, None, "off").open() == ""
        assert await PeerServer(cache, "nowhere.invalid:1", None).open() == ""

    asyncio.run(run())
