"""ModelService by itself: requests of any client, good ones once and bad ones refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.client.networks import numpys

from deadheat.client import Client, LocalCluster, nn
from deadheat.client.arrays import Source
from deadheat.runtime import wire
from deadheat.runtime.ids import new_id
from deadheat.runtime.operations import Gemm, SumAlong
from deadheat.runtime.programs import MatrixType, Operand, Operation, Program
from deadheat.v1 import model_pb2 as pb
from deadheat.v1 import types_pb2
from deadheat.v1.model_pb2_grpc import ModelServiceStub

NETWORK = nn.MLP([6, 3], seed=1)
NAME = "raw"


@pytest.fixture
def stub(cluster: LocalCluster) -> Iterator[Any]:
    with grpc.insecure_channel(cluster.address) as channel:
        found = ModelServiceStub(channel)
        yield found
        if found.List(pb.ModelServiceListRequest(name=NAME), timeout=60).models:
            request = pb.ModelServiceDeleteRequest(request_id=new_id("r"), name=NAME)
            found.Delete(request, timeout=60)


def uploaded(client: Client, *, durable: bool = True) -> list[Operand]:
    async def upload() -> list[Operand]:
        await client._link.connection.open()
        transfers = client._link.transfers
        return [
            await transfers.upload(
                Source("p", array.reshape(-1, 3)), "float32", inline=False, durable=durable
            )
            for array in NETWORK.parameters
        ]

    return client._link.call(upload())


def program(weight: Operand, bias: Operand, *, mixes: bool = False) -> Program:
    x = Operand("x", MatrixType(2, 6, "float32"), matrix_id="unsent")
    operands = (
        x,
        Operand("w", weight.type, weight.matrix_id),
        Operand("b", bias.type, bias.matrix_id),
    )
    product = Operation("y", ("x", "w", "b"), Gemm())
    if mixes:
        return Program(operands, (product, Operation("z", ("y",), SumAlong(0))), ("z",))
    return Program(operands, (product,), ("y",))


def request(client: Client, *, durable: bool = True) -> pb.ModelServiceSaveRequest:
    parts = uploaded(client, durable=durable)
    made = pb.ModelServiceSaveRequest(
        request_id=new_id("r"),
        name=NAME,
        user="raw\x07 user",
        layers="[]",
        program=wire.program_to_wire(program(*parts)),
        samples="x",
        metadata='{"a": 1}',
        code_version="none",
    )
    for part in parts:
        parameter = made.parameters.add(
            matrix_id=part.matrix_id, shape=[part.type.rows, part.type.columns]
        )
        parameter.type.CopyFrom(wire.matrix_type_to_wire(part.type))
    return made


def code(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), str(caught.value.details())


def test_a_request_that_is_repeated_saves_and_deletes_once(stub: Any, client: Client) -> None:
    asked = request(client)
    first = stub.Save(asked, timeout=60)
    assert stub.Save(asked, timeout=60) == first
    listed = stub.List(pb.ModelServiceListRequest(name=NAME), timeout=60).models
    assert [model.version for model in listed] == [first.version]
    assert listed[0].user == "raw user"
    deletion = pb.ModelServiceDeleteRequest(request_id=new_id("r"), name=NAME)
    gone = stub.Delete(deletion, timeout=60)
    assert list(gone.versions) == [first.version]
    assert stub.Delete(deletion, timeout=60) == gone


def test_rows_go_in_and_out_as_bytes(stub: Any, client: Client) -> None:
    version = stub.Save(request(client), timeout=60).version
    x = np.random.default_rng(1).standard_normal((3, 6)).astype("float32")
    asked = pb.ModelServiceForwardRequest(
        name=NAME, type=wire.matrix_type_to_wire(MatrixType(3, 6, "float32")), data=x.tobytes()
    )
    answer = stub.Forward(asked, timeout=60)
    assert answer.version == version
    assert (answer.type.rows, answer.type.columns) == (3, 3)
    made = np.frombuffer(answer.data, "float32").reshape(3, 3)
    assert np.allclose(made, numpys(NETWORK, x), rtol=1e-5, atol=1e-6)
    assert client.report(answer.job_id).state == "done"
    asked.data = asked.data[:-1]
    assert code(lambda: stub.Forward(asked, timeout=60)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "3 rows of 1 x 6 float32 are 72 bytes; 71 came",
    )


def test_a_model_without_a_forward_pass_is_kept_and_not_served(stub: Any, client: Client) -> None:
    asked = request(client)
    asked.ClearField("program")
    stub.Save(asked, timeout=60)
    (model,) = stub.List(pb.ModelServiceListRequest(name=NAME), timeout=60).models
    assert not model.HasField("samples")
    row = wire.matrix_type_to_wire(MatrixType(1, 6, "float32"))
    call = pb.ModelServiceForwardRequest(name=NAME, type=row, data=bytes(24))
    status, words = code(lambda: stub.Forward(call, timeout=60))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be served" in words


def spoil(made: pb.ModelServiceSaveRequest, what: str) -> None:
    parts = [
        Operand("p", wire.matrix_type_from_wire(one.type, field="p"), one.matrix_id)
        for one in made.parameters
    ]
    match what:
        case "mixes":
            made.program.CopyFrom(wire.program_to_wire(program(*parts, mixes=True)))
        case "foreign":
            made.program.operands[1].matrix_id = "mstranger"
        case "twice":
            made.parameters[1].CopyFrom(made.parameters[0])
        case "shape":
            made.parameters[0].shape[0] = 7
        case "type":
            made.parameters[0].type.rows = 3
            made.parameters[0].shape[0] = 3
            made.ClearField("program")
        case "missing":
            made.parameters[0].matrix_id = "mnowhere"
            made.ClearField("program")
        case "none":
            made.ClearField("parameters")
        case "unknown":
            made.program.operations[0].CopyFrom(types_pb2.Operation(result="y"))
        case _:
            setattr(made, *what.split("=", 1))


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("mixes", "INVALID_ARGUMENT", "row by row"),
        ("foreign", "INVALID_ARGUMENT", "operand 'w' of program is none of the parameters"),
        ("twice", "INVALID_ARGUMENT", r"parameters\[1\] has the matrix id"),
        ("shape", "INVALID_ARGUMENT", r"parameters\[0\] is 6 x 3 float32, but has shape \[7, 3\]"),
        ("type", "INVALID_ARGUMENT", "is 6 x 3 float32 in the store, not 3 x 3"),
        ("missing", "NOT_FOUND", "matrix 'mnowhere' is not in the store"),
        ("none", "INVALID_ARGUMENT", "parameters has 0 entries"),
        ("unknown", "INVALID_ARGUMENT", "a kind this version does not know"),
        ("samples=q", "INVALID_ARGUMENT", "program has no operand 'q'"),
        ("name=a/b", "INVALID_ARGUMENT", "must be 1 to 64 letters"),
        ("request_id=", "INVALID_ARGUMENT", "request_id must be 1 to 128 characters"),
        ("layers={}", "INVALID_ARGUMENT", "layers is not the JSON of a list"),
        ("metadata=[]", "INVALID_ARGUMENT", "metadata is not the JSON of an object"),
        ('metadata={"a": NaN}', "INVALID_ARGUMENT", "metadata is not the JSON of an object"),
        ("training=x", "INVALID_ARGUMENT", "training is not the JSON of an object"),
        (f"data_hash={'x' * 129}", "INVALID_ARGUMENT", "data_hash has 129 bytes; the limit is 128"),
        ("code_version=\x1b", "INVALID_ARGUMENT", "code_version is not printable"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_held_by_nobody(
    stub: Any, client: Client, what: str, status: str, words: str
) -> None:
    made = request(client)
    spoil(made, what)
    found, said = code(lambda: stub.Save(made, timeout=60))
    assert found.name == status
    assert re.search(words, said), said
    assert code(lambda: stub.Get(pb.ModelServiceGetRequest(name=NAME), timeout=60))[0] is (
        grpc.StatusCode.NOT_FOUND
    )


def test_matrices_that_are_in_memory_only_make_no_model(stub: Any, client: Client) -> None:
    status, words = code(lambda: stub.Save(request(client, durable=False), timeout=60))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "in memory; what a model is made of has to be on the store's disk" in words
