"""What gRPC's channels do when somebody is away, and what they are not to do."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import socket
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from deadheat.runtime import rpc
from deadheat.runtime.errors import Unavailable
from deadheat.runtime.programs import Rectangle
from deadheat.store import transfer
from deadheat.v1 import agent_pb2, cluster_pb2, exchange_pb2, job_pb2, matrix_pb2, model_pb2
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub

FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (agent_pb2, cluster_pb2, exchange_pb2, job_pb2, matrix_pb2, model_pb2)
)


def test_all_calls_that_stream_are_named() -> None:
    found = {
        (service.full_name, method.name)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    assert set(rpc.STREAMS) == found


def test_a_stream_that_is_refused_between_its_messages_leaves_its_process_alive() -> None:
    # In a process of its own: what happened before ended it, whoever called.
    process = multiprocessing.get_context("spawn").Process(target=_refuse_and_go_on)
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_who_is_back_is_found_at_once_though_another_channel_of_this_process_waits() -> None:
    asyncio.run(_come_back())


async def _come_back() -> None:
    """gRPC gives channels to one address one connection. If it is broken, each of them hears of the
    last refusal until it is time to try again, which may be two seconds."""
    tries = 0
    enough = asyncio.Event()

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        writer.close()
        tries += 1
        if tries >= 8:  # The next one comes after a second and a half at the least.
            enough.set()

    away = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = int(away.sockets[0].getsockname()[1])
    address = f"127.0.0.1:{port}"
    async with rpc.aio_channel(address, None, rpc.channel_options(address)) as waiting:
        waiting.get_state(try_to_connect=True)
        async with asyncio.timeout(60):
            await enough.wait()
        away.close()
        await away.wait_closed()
        server = grpc.aio.server(options=rpc.server_options())
        add_HealthServicer_to_server(HealthServicer(), server)
        assert rpc.open_port(server, address, None) == port
        await server.start()
        try:
            async with rpc.aio_channel(address, None, rpc.channel_options(address)) as other:
                found = await HealthStub(other).Check(HealthCheckRequest(), timeout=20)
                assert found.status == HealthCheckResponse.SERVING
        finally:
            await server.stop(0)


@pytest.mark.parametrize("way", ["call", "transfer"])
def test_an_error_that_is_kept_keeps_no_call_and_so_no_channel(way: str) -> None:
    """A channel that was closed ends with its last call."""
    gc.collect()
    gc.disable()
    try:
        asyncio.run(_keep_the_error(way))
    finally:
        gc.enable()


async def _keep_the_error(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    calls: list[weakref.ref[Any]] = []

    def seen(call: Any) -> Any:
        calls.append(weakref.ref(call))
        return call

    kept: list[BaseException] = []
    async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
        try:
            if way == "call":
                with rpc.translated("asking"):
                    await seen(HealthStub(channel).Check(HealthCheckRequest(), timeout=20))
            else:
                get = MatrixServiceStub(channel).Get
                stub: Any = SimpleNamespace(Get=lambda *given, **more: seen(get(*given, **more)))
                into, rows = memoryview(bytearray(8)), Rectangle(0, 1, 0, 1)
                await transfer.get_once(stub, "m", rows, into, done=0, on_arrived=lambda _: True)
        except Unavailable as error:
            kept.append(error)
    assert kept[0].__traceback__
    assert calls
    assert [one() for one in calls] == [None]


def _refuse_and_go_on() -> None:
    asyncio.run(_main())


class _Away:
    """Refuses each upload as soon as it knows what it is about."""

    def __init__(self) -> None:
        self.calls = 0
        self.refused = asyncio.Event()

    async def put(
        self,
        requests: AsyncIterator[matrix_pb2.MatrixServicePutRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self.calls += 1
        await anext(requests)
        self.refused.set()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        parse = matrix_pb2.MatrixServicePutRequest.FromString
        put: Any = grpc.stream_unary_rpc_method_handler(self.put, request_deserializer=parse)
        return grpc.method_handlers_generic_handler("deadheat.v1.MatrixService", {"Put": put})


async def _main() -> None:
    server, away = grpc.aio.server(options=rpc.server_options()), _Away()
    server.add_generic_rpc_handlers((away.handler,))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
        stub = MatrixServiceStub(channel)
        # A second try would come after about a tenth of a second: before it, and after it.
        for pause_ms in (0, 5, 20, 50, 200):
            away.calls = 0
            away.refused.clear()
            with pytest.raises(grpc.RpcError) as refused:
                await stub.Put(_parts(away, pause_ms / 1e3), timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert away.calls == 1
    await server.stop(0)


async def _parts(away: _Away, pause_s: float) -> AsyncIterator[matrix_pb2.MatrixServicePutRequest]:
    yield matrix_pb2.MatrixServicePutRequest(header=matrix_pb2.PutHeader(matrix_id="m"))
    await away.refused.wait()
    await asyncio.sleep(pause_s)
    chunk = matrix_pb2.Chunk(data=bytes(rpc.CHUNK_BYTES))
    yield matrix_pb2.MatrixServicePutRequest(chunk=chunk)
