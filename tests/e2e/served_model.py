"""Saves a model and calls it, one call after the other; prints its bytes and the calls' reports."""

from __future__ import annotations

import json
import sys

import numpy as np
from tests.client.networks import numpys

from deadheat.client import Client, nn
from deadheat.runtime import wire
from deadheat.runtime.programs import MatrixType
from deadheat.v1 import model_pb2

Request = model_pb2.ModelServiceForwardRequest


def main(address: str, calls: int) -> None:
    network = nn.MLP([784, 512, 10], seed=1)
    rows = np.random.default_rng(2).standard_normal((calls, 784)).astype("float32")
    with Client(address) as client:
        client.models.save("far", network)
        reports = []
        for row in rows:
            request = Request(
                name="far",
                type=wire.matrix_type_to_wire(MatrixType(1, 784, "float32")),
                data=row.tobytes(),
            )

            async def call(asked: Request = request) -> tuple[str, bytes]:
                answer = await client._link.connection.models.Forward(asked, timeout=30)
                return answer.job_id, answer.data

            job, data = client._link.call(call())
            assert np.allclose(np.frombuffer(data, "float32"), numpys(network, row), atol=1e-4)
            reports.append(client.report(job).as_dict())
        size = client.models.show("far").size_bytes
    print(json.dumps({"size_bytes": size, "reports": reports}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
