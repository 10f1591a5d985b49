"""Several products with one B that is in the store already: what each of them moved, as JSON.

Run as `python -m tests.e2e.stored_operand SCHEDULER SIZE JOBS [CUT]`. Fails if a result is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np

from deadheat.client import Client
from deadheat.client.arrays import Source
from deadheat.runtime import hosts, wire
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import Gemm, Operand, gemm_program
from deadheat.v1 import job_pb2

CUTS = {"balanced": job_pb2.CUT_BALANCED, "equal": job_pb2.CUT_EQUAL}


class StoredOperands:
    """What the client's own API has no word for yet: operands that outlive a job."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, name: str, array: np.ndarray) -> Operand:
        upload = self._client._link.transfers.upload(
            Source(name, array), array.dtype.name, inline=False, durable=False
        )
        return self._client._link.loop.call(upload)

    def multiply(self, a: Operand, b: Operand, cut: str) -> str:
        program = gemm_program((replace(a, name="A"), replace(b, name="B")), Gemm())
        request = job_pb2.JobServiceSubmitRequest(
            request_id=new_id("r"),
            program=wire.program_to_wire(program),
            kind=job_pb2.JOB_KIND_MATMUL,
            user=hosts.user_name(),
            policy=job_pb2.JobPolicy(cut=CUTS[cut]),
        )
        answer = self._client._link.loop.call(self._client._ask_to_submit(request))
        return str(answer.job_id)


def main(address: str, size: int, jobs: int, cut: str = "balanced") -> None:
    rng = np.random.default_rng(5)
    b = rng.standard_normal((size, size))
    found = []
    with Client(address) as client:
        assert not client.shares_memory
        operands = StoredOperands(client)
        stored = operands.put("B", b)
        for _ in range(jobs):
            a = rng.standard_normal((size, size))
            started_s = time.monotonic()
            job = client.job(operands.multiply(operands.put("A", a), stored, cut))
            result = job.result()
            seconds = time.monotonic() - started_s
            assert np.allclose(result, a @ b, rtol=1e-9, atol=1e-9)
            report = job.report().as_dict()
            kept = ("bytes_moved", "bytes_lower_bound", "makespan_s", "devices", "resplits")
            found.append({key: report[key] for key in kept} | {"seconds": seconds})
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
