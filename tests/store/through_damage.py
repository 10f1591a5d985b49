"""A client whose connection is damaged where HTTP/2 keeps its headers, in a process of its own.

gRPC's core may end a process that gets such frames without TLS (SIGABRT, seen with 1.85). That is a
crash, and no wrong matrix; exit code 1 is one.
"""

from __future__ import annotations

import asyncio
import sys

from tests.store.test_faults import REFUSED, VALUES, got, put

from deadheat.runtime import rpc
from deadheat.runtime.errors import DeadheatError
from deadheat.v1.matrix_pb2_grpc import MatrixServiceStub


async def main(port: str, matrix_id: str, what: str) -> int:
    address = f"127.0.0.1:{port}"
    async with rpc.aio_channel(address, None, rpc.data_options(address)) as channel:
        stub = MatrixServiceStub(channel)
        try:
            if what == "put":
                await put(stub, matrix_id, stall_s=2)
                return 0
            return int((await got(stub, matrix_id, stall_s=2))[1] != VALUES.tobytes())
        except DeadheatError:
            return REFUSED


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
