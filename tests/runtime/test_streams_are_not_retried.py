"""Streams are tried again by who streams, never by gRPC: its core ends the process over chunks."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor

from deadheat.runtime import rpc
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
