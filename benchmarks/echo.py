"""The bare thing that small jobs are compared with: a gRPC server that sends back what it gets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

METHOD = "/benchmark.Echo/Echo"


async def serve() -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        del context
        return request

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmark.Echo", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    # Ends with whoever started it: its standard input closes.
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@contextmanager
def running() -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.echo"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.wait()


class Caller:
    """One caller with a connection of its own."""

    def __init__(self, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._call: Any = self._channel.unary_unary(METHOD)

    def __call__(self, payload: bytes) -> bytes:
        answer: bytes = self._call(payload)
        return answer

    def close(self) -> None:
        self._channel.close()


if __name__ == "__main__":
    asyncio.run(serve())
