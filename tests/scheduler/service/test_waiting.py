"""A submission that waits: one call for a small job, and never news that are not durable."""

from __future__ import annotations

import grpc
import numpy as np
from tests.waiting import wait_until

from deadheat.client import Client, LocalCluster
from deadheat.runtime import wire
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import Gemm, MatrixType, Operand, gemm_program
from deadheat.v1 import job_pb2
from deadheat.v1.job_pb2_grpc import JobServiceStub

ONE = np.full((8, 8), 2.0)


def request(wait_s: float, request_id: str = "") -> job_pb2.JobServiceSubmitRequest:
    matrix = MatrixType(8, 8, "float64")
    operands = tuple(Operand(name, matrix, inline=ONE.tobytes()) for name in "AB")
    return job_pb2.JobServiceSubmitRequest(
        request_id=request_id or new_id("r"),
        program=wire.program_to_wire(gemm_program(operands, Gemm())),
        kind=job_pb2.JOB_KIND_MATMUL,
        policy=job_pb2.JobPolicy(cut=job_pb2.CUT_BALANCED),
        user="somebody",
        wait_s=wait_s,
    )


def test_the_answer_has_the_result_of_who_waits(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        stub = JobServiceStub(channel)

        def ended() -> job_pb2.JobServiceSubmitResponse | None:
            """Of a job that ended while somebody waited: a busy machine may take longer."""
            answer = stub.Submit(request(1.0), timeout=60)
            return answer if answer.update.state == job_pb2.JOB_STATE_DONE else None

        answer = wait_until(ended, "an answer with a result")
    assert answer is not None
    assert answer.update.job_id == answer.job_id
    found = np.frombuffer(answer.update.results[0].inline).reshape(8, 8)
    assert np.array_equal(found, ONE @ ONE)


def test_who_asks_again_gets_the_same_job(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        stub, asked = JobServiceStub(channel), request(0.0, new_id("r"))
        first = stub.Submit(asked, timeout=60)
        assert not first.HasField("update")
        assert stub.Submit(asked, timeout=60) == first


def test_nobody_waits_for_ever() -> None:
    with LocalCluster([]) as empty, grpc.insecure_channel(empty.address) as channel:
        # It is answered at all, long before what was asked for is over.
        answer = JobServiceStub(channel).Submit(request(1e9), timeout=60)
        assert answer.update.state == job_pb2.JOB_STATE_QUEUED
        with Client(empty.address) as client:
            client.cancel(answer.job_id)
            wait_until(lambda: client.report(answer.job_id).state == "cancelled", "the end")
