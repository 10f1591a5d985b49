"""The wire by itself: reflection, health, and a product fetched with generated stubs alone."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deadheat.client import LocalCluster
from deadheat.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    matrix_pb2,
    matrix_pb2_grpc,
    types_pb2,
)

#: Two by two of data type 99, which a newer client may know.
UNKNOWN_TYPE = types_pb2.MatrixType.FromString(b"\x08\x02\x10\x02\x18\x63")


def reflect(channel: grpc.Channel, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(**request)
    return next(iter(stub.ServerReflectionInfo(iter([asked]))))


def test_reflection_lists_the_services_and_their_methods(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        listed = reflect(channel, list_services="").list_services_response.service
        names = {service.name for service in listed}
        ours = {f"deadheat.v1.{name}Service" for name in ("Job", "Cluster", "Agent", "Model")}
        assert ours | {"grpc.health.v1.Health"} <= names
        answer = reflect(channel, file_containing_symbol="deadheat.v1.JobService")
        file = FileDescriptorProto.FromString(
            answer.file_descriptor_response.file_descriptor_proto[0]
        )
        (service,) = file.service
        assert {method.name for method in service.method} == {
            "Submit",
            "Get",
            "List",
            "Watch",
            "Cancel",
            "Explain",
            "Estimate",
        }


def test_health_is_serving(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "deadheat.v1.JobService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def matrix_type(array: np.ndarray) -> types_pb2.MatrixType:
    return types_pb2.MatrixType(
        rows=array.shape[0], columns=array.shape[1], data_type=types_pb2.DATA_TYPE_FLOAT64
    )


def product(*operands: types_pb2.Operand) -> types_pb2.Program:
    operation = types_pb2.Operation(
        result="C", operands=[operand.name for operand in operands], gemm=types_pb2.Gemm()
    )
    return types_pb2.Program(operands=operands, operations=[operation], results=["C"])


def last_update(stub: job_pb2_grpc.JobServiceStub, job_id: str) -> job_pb2.JobServiceWatchResponse:
    *_, last = stub.Watch(job_pb2.JobServiceWatchRequest(job_id=job_id), timeout=60)
    return last


def test_a_small_product_travels_inline(cluster: LocalCluster) -> None:
    a = np.arange(12.0).reshape(3, 4)
    operands = [
        types_pb2.Operand(name=name, type=matrix_type(array), inline=array.tobytes())
        for name, array in (("A", a), ("B", np.ascontiguousarray(a.T)))
    ]
    with grpc.insecure_channel(cluster.address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        request = job_pb2.JobServiceSubmitRequest(
            request_id="raw-inline", program=product(*operands), user="raw"
        )
        first = jobs.Submit(request, timeout=60)
        # The same request again, as after a lost answer, is the same job.
        assert jobs.Submit(request, timeout=60) == first
        (result,) = last_update(jobs, first.job_id).results
        found = np.frombuffer(result.inline).reshape(3, 3)
        assert np.array_equal(found, a @ a.T)


def test_a_large_product_travels_as_chunks(cluster: LocalCluster) -> None:
    import google_crc32c

    a = np.random.default_rng(1).random((500, 600))
    with grpc.insecure_channel(cluster.address) as channel:
        store = (
            cluster_pb2_grpc.ClusterServiceStub(channel)
            .GetCluster(cluster_pb2.ClusterServiceGetClusterRequest(), timeout=60)
            .store
        )
        host = cluster.address.partition(":")[0]
        with grpc.insecure_channel(f"{host}:{store.port}") as data_channel:
            matrices = matrix_pb2_grpc.MatrixServiceStub(data_channel)
            operands = []
            for name, array in (("A", a), ("B", np.ascontiguousarray(a.T))):
                created = matrices.Create(
                    matrix_pb2.MatrixServiceCreateRequest(
                        request_id=f"raw-{name}", type=matrix_type(array)
                    ),
                    timeout=60,
                )
                data = array.tobytes()
                header = matrix_pb2.PutHeader(
                    matrix_id=created.matrix_id,
                    upload_id="u",
                    rectangle=types_pb2.Rectangle(
                        row_stop=array.shape[0], column_stop=array.shape[1]
                    ),
                )
                parts = [matrix_pb2.MatrixServicePutRequest(header=header)]
                for offset in range(0, len(data), 1 << 20):
                    piece = data[offset : offset + (1 << 20)]
                    chunk = matrix_pb2.Chunk(
                        offset=offset, data=piece, crc32c=google_crc32c.value(piece)
                    )
                    parts.append(matrix_pb2.MatrixServicePutRequest(chunk=chunk))
                matrices.Put(iter(parts), timeout=60)
                matrices.Seal(
                    matrix_pb2.MatrixServiceSealRequest(
                        request_id=f"seal-{name}", matrix_id=created.matrix_id
                    ),
                    timeout=60,
                )
                operands.append(
                    types_pb2.Operand(
                        name=name, type=matrix_type(array), matrix_id=created.matrix_id
                    )
                )
            jobs = job_pb2_grpc.JobServiceStub(channel)
            submitted = jobs.Submit(
                job_pb2.JobServiceSubmitRequest(
                    request_id="raw-large", program=product(*operands), user="raw"
                ),
                timeout=60,
            )
            (result,) = last_update(jobs, submitted.job_id).results
            get = matrix_pb2.MatrixServiceGetRequest(
                matrix_id=result.matrix_id,
                rectangle=types_pb2.Rectangle(row_stop=500, column_stop=500),
            )
            received = b"".join(answer.chunk.data for answer in matrices.Get(get, timeout=60))
            assert np.allclose(np.frombuffer(received).reshape(500, 500), a @ a.T)


def outline(rows: int, inner: int, columns: int) -> types_pb2.Program:
    """A product's types, without ids and bytes."""
    double = types_pb2.DATA_TYPE_FLOAT64
    a = types_pb2.MatrixType(rows=rows, columns=inner, data_type=double)
    b = types_pb2.MatrixType(rows=inner, columns=columns, data_type=double)
    return product(types_pb2.Operand(name="A", type=a), types_pb2.Operand(name="B", type=b))


def test_an_estimate_needs_types_alone_and_records_nothing(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        before = jobs.List(job_pb2.JobServiceListRequest(), timeout=60)
        request = job_pb2.JobServiceEstimateRequest(program=outline(4000, 3000, 2000))
        found = jobs.Estimate(request, timeout=60)
        assert found.flops == 2 * 4000 * 3000 * 2000
        assert found.predicted_makespan_s > 0
        assert sum(device.share for device in found.devices) == pytest.approx(1.0)
        assert all(device.memory_bytes > 8 * 3000 * 2000 for device in found.devices)
        assert len(found.devices) + len(found.left_out) == 2
        assert {other.name for other in found.alternatives}
        assert not found.HasField("refusal")
        assert found.note == ""
        request.policy.timeout_s = found.predicted_makespan_s / 10
        refused = jobs.Estimate(request, timeout=60)
        assert refused.refusal.code == "timed_out"
        assert "by prediction" in refused.refusal.message
        assert jobs.List(job_pb2.JobServiceListRequest(), timeout=60) == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (job_pb2.JobServiceEstimateRequest(), "operations has 0 entries"),
        (
            job_pb2.JobServiceEstimateRequest(
                program=outline(2, 2, 2), policy=job_pb2.JobPolicy(timeout_s=-1.0)
            ),
            "timeout_s is -1.0",
        ),
        (
            job_pb2.JobServiceEstimateRequest(program=outline(-2, 2, 2)),
            "sizes cannot be negative",
        ),
        (
            job_pb2.JobServiceEstimateRequest(
                program=product(
                    types_pb2.Operand(name="A", type=UNKNOWN_TYPE),
                    types_pb2.Operand(name="B", type=UNKNOWN_TYPE),
                )
            ),
            "data_type 99 is unknown",
        ),
    ],
)
def test_estimates_of_what_cannot_be_are_refused(
    cluster: LocalCluster, request_: job_pb2.JobServiceEstimateRequest, words: str
) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            jobs.Estimate(request_, timeout=60)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in str(caught.value.details())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (types_pb2.Program(), "operations has 0 entries"),
        (
            product(
                types_pb2.Operand(
                    name="A",
                    type=types_pb2.MatrixType(
                        rows=1 << 62, columns=8, data_type=types_pb2.DATA_TYPE_FLOAT64
                    ),
                    matrix_id="x",
                )
            ),
            "the limit is 9223372036854775807",
        ),
        (
            product(
                types_pb2.Operand(
                    name="A",
                    type=UNKNOWN_TYPE,
                    matrix_id="x",
                )
            ),
            "data_type 99 is unknown",
        ),
        (
            types_pb2.Program(operations=[types_pb2.Operation(result="C")], results=["C"]),
            "a kind this version does not know",
        ),
    ],
)
def test_programs_that_cannot_be_are_refused(
    cluster: LocalCluster, program: types_pb2.Program, words: str
) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        request = job_pb2.JobServiceSubmitRequest(request_id=words, program=program)
        with pytest.raises(grpc.RpcError) as caught:
            jobs.Submit(request, timeout=60)
        call = caught.value
        assert isinstance(call, grpc.Call)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in str(call.details())


def test_a_message_beyond_the_limit_is_refused_and_the_server_lives(
    cluster: LocalCluster,
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(cluster.address, options=options) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        operand = types_pb2.Operand(name="A", inline=bytes(4 << 20))
        request = job_pb2.JobServiceSubmitRequest(request_id="big", program=product(operand))
        with pytest.raises(grpc.RpcError) as caught:
            jobs.Submit(request, timeout=60)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        jobs.List(job_pb2.JobServiceListRequest(), timeout=60)


def test_a_session_that_does_not_register_is_ended(cluster: LocalCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        agents = agent_pb2_grpc.AgentServiceStub(channel)
        message = agent_pb2.AgentServiceSessionRequest(samples=agent_pb2.Samples())
        with pytest.raises(grpc.RpcError) as caught:
            list(agents.Session(iter([message]), timeout=60))
        assert "a session starts with Register" in str(caught.value)
