"""Programs that no client of ours would send: refused before anything is allocated, by name."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from deadheat.client import LocalCluster
from deadheat.runtime.programs import MAX_OPERATIONS
from deadheat.v1 import cluster_pb2, cluster_pb2_grpc, job_pb2, job_pb2_grpc
from deadheat.v1 import types_pb2 as pb


def operand(name: str, rows: int = 2, columns: int = 2, kind: str = "FLOAT64") -> pb.Operand:
    data_type = pb.DataType.Value(f"DATA_TYPE_{kind}")
    matrix = pb.MatrixType(rows=rows, columns=columns, data_type=data_type)
    size_bytes = rows * columns * {"FLOAT64": 8, "INT8": 1}[kind]
    if size_bytes > 1024:  # It is refused before anybody looks for it.
        return pb.Operand(name=name, type=matrix, matrix_id="nowhere")
    return pb.Operand(name=name, type=matrix, inline=bytes(size_bytes))


def product(result: str, a: str, b: str) -> pb.Operation:
    return pb.Operation(result=result, operands=[a, b], gemm=pb.Gemm())


def program(*operations: pb.Operation, operands: list[pb.Operand], result: str) -> pb.Program:
    return pb.Program(operands=operands, operations=operations, results=[result])


def newer() -> pb.Program:
    """An operation of a kind that is still to be invented."""
    made = pb.Operation(result="Z", operands=["A"]).SerializeToString() + b"\xa2\x06\x00"
    return program(pb.Operation.FromString(made), operands=[operand("A")], result="Z")


def long() -> pb.Program:
    steps = [
        pb.Operation(result=f"r{n}", operands=[f"r{n - 1}"], transpose=pb.Transpose())
        for n in range(1, MAX_OPERATIONS + 2)
    ]
    return program(*steps, operands=[operand("r0")], result=steps[-1].result)


def vast() -> pb.Program:
    """Each result may be, all together may not."""
    thin = [operand("A", 1 << 28, 1), operand("B", 1, 1 << 28)]
    steps = [product(f"r{n}", "A", "B") for n in range(1 << 5)]
    return program(*steps, operands=thin, result="r0")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: program(product("C", "A", "C"), operands=[operand("A")], result="C"),
            "'C' uses 'C', which is not defined before it",
        ),
        (
            lambda: program(
                product("C", "A", "D"), product("D", "A", "C"), operands=[operand("A")], result="D"
            ),
            "'C' uses 'D', which is not defined before it",
        ),
        (
            lambda: program(
                product("C", "A", "A"), product("C", "A", "A"), operands=[operand("A")], result="C"
            ),
            "name 'C' is assigned twice",
        ),
        (
            lambda: program(
                product("C", "A", "B"),
                operands=[operand("A"), operand("B", kind="INT8")],
                result="C",
            ),
            "operands of 'C' must share one dtype: 'A' float64, 'B' int8",
        ),
        (
            newer,
            "operation 'Z' is of a kind this version does not know (number 100); it knows gemm",
        ),
        (long, f"operations has {MAX_OPERATIONS + 1} entries; it may have 1 to {MAX_OPERATIONS}"),
        (vast, "bytes; the limit is"),
    ],
)
def test_a_wrong_program_is_refused_by_name(
    cluster: LocalCluster, make: Callable[[], pb.Program], words: str
) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        for number in range(2):  # Nor is it remembered.
            request = job_pb2.JobServiceSubmitRequest(
                request_id=f"wrong-{number}", program=make(), user="tester"
            )
            with pytest.raises(grpc.RpcError) as caught:
                jobs.Submit(request, timeout=60)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert words in str(caught.value.details())
        nodes = cluster_pb2_grpc.ClusterServiceStub(channel).ListNodes(
            cluster_pb2.ClusterServiceListNodesRequest(), timeout=60
        )
        assert {node.name for node in nodes.nodes} == {"local-0", "local-1"}
