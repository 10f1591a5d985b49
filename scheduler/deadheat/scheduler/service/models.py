"""ModelService: networks that the cluster keeps, and calls of them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import grpc
import numpy as np

from deadheat.runtime import logs, wire
from deadheat.runtime.dtypes import numpy_dtype, promoted
from deadheat.runtime.errors import Conflict, DeadheatError, InvalidInput, NotFound
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import MatrixType, Program
from deadheat.runtime.units import KIB
from deadheat.scheduler.core import effects
from deadheat.scheduler.core.models import Registry, Version, check_name, holder_of
from deadheat.scheduler.core.serving import Pass, served
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.models import Models
from deadheat.scheduler.records.tables import ModelRecord
from deadheat.scheduler.service.convert import timestamp
from deadheat.scheduler.service.jobs import printable
from deadheat.scheduler.service.once import Once, check_request_id
from deadheat.scheduler.service.serving import Serving
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.v1 import matrix_pb2, model_pb2_grpc, types_pb2
from deadheat.v1 import model_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

log = logs.get("models")

#: Documents of one version: its layers, what its owner says of it, how it was trained.
MAX_LAYERS_BYTES: Final = 512 * KIB
MAX_METADATA_BYTES: Final = 16 * KIB
MAX_TRAINING_BYTES: Final = 256 * KIB
MAX_HASH: Final = 128
MAX_VERSION: Final = 32
#: Parameters of one version: two for each layer that a network may have, and some more.
MAX_PARAMETERS: Final = 16_384
MAX_DIMENSIONS: Final = 8
MAX_LISTED: Final = 1_000


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, shell: Shell, store: StoreLink, models: Models, registry: Registry) -> None:
        self._shell = shell
        self._store = store
        self._models = models
        self._registry = registry
        self._serving = Serving(shell)
        self._once = Once()
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        self._serving.close()
        for task in self._tasks:
            task.cancel()

    # Keeping

    async def Save(
        self, request: pb.ModelServiceSaveRequest, context: Context
    ) -> pb.ModelServiceSaveResponse:
        check_request_id(request.request_id)

        async def save() -> pb.ModelServiceSaveResponse:
            # One that a scheduler before us answered.
            version = self._registry.saved_by(request.request_id) or await self._saved(request)
            return pb.ModelServiceSaveResponse(version=version.number)

        return await self._once.answer("Save", request.request_id, save)

    async def _saved(self, request: pb.ModelServiceSaveRequest) -> Version:
        """A new version: its matrices are held first, so that a crash leaves no model without."""
        _check_documents(request)
        self._registry.check_room(request.name)
        parameters = _parameters(request.parameters)
        pass_ = _pass(request, parameters)
        model_id = new_id("v")
        try:
            found = await self._store.hold_for(holder_of(model_id), list(parameters))
            for info in found:
                _check_stored(info, parameters[info.id])
            version = self._registry.reserve(model_id, request.name, request.request_id)
        except DeadheatError:
            self._in_background(self._release(holder_of(model_id)))
            raise
        await self._shell.commit(
            effects.ModelRow(
                id=model_id,
                name=version.name,
                version=version.number,
                request_id=request.request_id,
                user=printable(request.user) or "unknown",
                created_s=self._shell.clock.now(),
                size_bytes=sum(matrix.size_bytes for matrix in parameters.values()),
                layers=request.layers,
                parameters=[_parameter_row(one) for one in request.parameters],
                program=_recorded(pass_),
                samples=pass_.samples if pass_ else "",
                metadata=request.metadata or "{}",
                data_hash=request.data_hash,
                code_version=request.code_version,
                training=request.training,
            )
        )
        self._registry.confirm(version)
        if pass_:
            self._serving.keep(version, pass_)
        log.info(f"saved model {version}", extra=logs.keys("model_saved", model=str(version)))
        return version

    async def Get(
        self, request: pb.ModelServiceGetRequest, context: Context
    ) -> pb.ModelServiceGetResponse:
        record = await self._record(self._registry.find(request.name, request.version))
        model = await asyncio.to_thread(_model, record, self._shell.clock, is_whole=True)
        return pb.ModelServiceGetResponse(model=model)

    async def _record(self, version: Version) -> ModelRecord:
        record = await asyncio.to_thread(self._models.get, version.id)
        if record is None:  # Deleted since it was looked up.
            raise NotFound(f"model {version} was deleted", field="name")
        return record

    async def List(
        self, request: pb.ModelServiceListRequest, context: Context
    ) -> pb.ModelServiceListResponse:
        limit = min(request.limit or MAX_LISTED, MAX_LISTED)
        if request.name:
            check_name(request.name)
        records = await asyncio.to_thread(self._models.listed, request.name, limit)
        # What is being saved or deleted just now is in the records only, or still.
        there = [record for record in records if self._registry.has(record.id)]
        clock = self._shell.clock

        def listed() -> list[pb.Model]:
            return [_model(record, clock, is_whole=False) for record in there]

        return pb.ModelServiceListResponse(models=await asyncio.to_thread(listed))

    async def Delete(
        self, request: pb.ModelServiceDeleteRequest, context: Context
    ) -> pb.ModelServiceDeleteResponse:
        async def delete() -> pb.ModelServiceDeleteResponse:
            gone = self._registry.remove(request.name, request.version)
            await self._shell.commit(effects.ModelsDeleted([version.id for version in gone]))
            log.info(
                f"deleted model {', '.join(map(str, gone))}",
                extra=logs.keys("model_deleted", model=request.name, user=printable(request.user)),
            )
            for version in gone:
                # Its matrices stay as long as a batch needs them.
                self._in_background(self._give_up(version))
            return pb.ModelServiceDeleteResponse(versions=[version.number for version in gone])

        return await self._once.answer("Delete", request.request_id, delete)

    async def _give_up(self, version: Version) -> None:
        await self._serving.drop(version)
        await self._release(version.holder)

    async def _release(self, holder: str) -> None:
        """A store that cannot be reached is told by the next start of the scheduler."""
        try:
            await self._store.release_of(holder)
        except DeadheatError as error:
            log.warning(error.message, extra=logs.keys("release", holder=holder))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Serving

    async def Forward(
        self, request: pb.ModelServiceForwardRequest, context: Context
    ) -> pb.ModelServiceForwardResponse:
        version = self._registry.find(request.name, request.version)
        pass_ = self._serving.pass_of(version) or await self._read_pass(version)
        given = wire.matrix_type_from_wire(request.type, field="X")
        row = pass_.row
        if given.columns != row.columns:
            raise InvalidInput(
                f"X has {given.columns} columns, but model {version} takes {row.columns}", field="X"
            )
        if given.dtype != row.dtype and promoted(given.dtype, row.dtype) != row.dtype:
            raise InvalidInput(
                f"X is {given.dtype}, but model {version} is {row.dtype}, to which NumPy does "
                "not promote it",
                field="X",
            )
        wait_s = request.max_wait_s if request.HasField("max_wait_s") else None
        rows = _as_dtype(request.data, given, row.dtype)
        data, job_id = await self._serving.forward(version, pass_, given.rows, rows, wait_s)
        outputs = wire.matrix_type_to_wire(pass_.outputs)
        outputs.rows = given.rows
        return pb.ModelServiceForwardResponse(
            version=version.number, type=outputs, data=data, job_id=job_id
        )

    async def _read_pass(self, version: Version) -> Pass:
        record = await self._record(version)
        if record.program is None:
            raise InvalidInput(
                f"model {version} cannot be served: it takes images of any size, or its forward "
                "pass is too long; load it, and compute it with client.forward",
                field="name",
            )
        made = served(_program(types_pb2.Program.FromString(record.program)), record.samples)
        if not self._registry.has(version.id):
            raise NotFound(f"model {version} was deleted", field="name")
        return made


def _model(record: ModelRecord, clock: Clock, *, is_whole: bool) -> pb.Model:
    """Not for the event loop: a list has many programs to look at."""
    message = pb.Model(
        name=record.name,
        version=record.version,
        user=record.user,
        created_at=timestamp(clock, clock.monotonic(record.created_at)),
        size_bytes=record.size_bytes,
        metadata=record.about,
        data_hash=record.data_hash,
        code_version=record.code_version,
    )
    if record.program is not None:
        program = _program(types_pb2.Program.FromString(record.program))
        types = program.types
        samples, outputs = types[record.samples], types[program.results[0]]
        message.samples.CopyFrom(wire.matrix_type_to_wire(samples))
        message.outputs.CopyFrom(wire.matrix_type_to_wire(outputs))
    if is_whole:
        message.training = record.training
        message.layers = record.layers
        message.parameters.extend(_parameter_to_wire(one) for one in record.parameters)
    return message


def _as_dtype(data: bytes, given: MatrixType, dtype: str) -> bytes:
    """The elements in a wider dtype: at most a message of them."""
    if given.dtype == dtype or len(data) != given.size_bytes:  # Said by who checks the rows.
        return data
    return np.frombuffer(data, numpy_dtype(given.dtype)).astype(numpy_dtype(dtype)).tobytes()


def _check_documents(request: pb.ModelServiceSaveRequest) -> None:
    check_name(request.name)
    for name, limit in (
        ("layers", MAX_LAYERS_BYTES),
        ("metadata", MAX_METADATA_BYTES),
        ("training", MAX_TRAINING_BYTES),
        ("data_hash", MAX_HASH),
        ("code_version", MAX_VERSION),
    ):
        size = len(getattr(request, name).encode())
        if size > limit:
            raise InvalidInput(f"{name} has {size} bytes; the limit is {limit}", field=name)
    for name in ("data_hash", "code_version"):
        if not getattr(request, name).isprintable():
            raise InvalidInput(f"{name} is not printable", field=name)
    for name, kind in (("layers", list), ("metadata", dict), ("training", dict)):
        text = getattr(request, name)
        try:
            made = json.loads(text, parse_constant=_refuse) if text else kind()
        except (ValueError, RecursionError):
            made = None
        if not isinstance(made, kind):
            wanted = "an object" if kind is dict else "a list"
            raise InvalidInput(f"{name} is not the JSON of {wanted}", field=name)


def _refuse(constant: str) -> None:
    """NaN and infinity are no JSON."""
    raise ValueError(constant)


def _parameters(given: Sequence[pb.ModelParameter]) -> dict[str, MatrixType]:
    """Their types, by the id in the store."""
    if not 1 <= len(given) <= MAX_PARAMETERS:
        raise InvalidInput(
            f"parameters has {len(given)} entries; it may have 1 to {MAX_PARAMETERS}",
            field="parameters",
        )
    found: dict[str, MatrixType] = {}
    for number, one in enumerate(given):
        field = f"parameters[{number}]"
        matrix = wire.matrix_type_from_wire(one.type, field=field)
        if not one.matrix_id or one.matrix_id in found:
            raise InvalidInput(f"{field} has the matrix id {one.matrix_id!r}", field=field)
        if len(one.shape) > MAX_DIMENSIONS or math.prod(one.shape) != matrix.rows * matrix.columns:
            raise InvalidInput(f"{field} is {matrix}, but has shape {[*one.shape]}", field=field)
        found[one.matrix_id] = matrix
    return found


def _pass(request: pb.ModelServiceSaveRequest, parameters: dict[str, MatrixType]) -> Pass | None:
    if not request.HasField("program"):
        return None
    pass_ = served(_program(request.program), request.samples)
    for operand in pass_.stored:
        if parameters.get(operand.matrix_id) != operand.type:
            raise InvalidInput(
                f"operand {operand.name!r} of program is none of the parameters", field="program"
            )
    return pass_


def _program(message: types_pb2.Program) -> Program:
    return wire.outline_from_wire(message)


def _recorded(pass_: Pass | None) -> bytes | None:
    if pass_ is None:
        return None
    return wire.program_to_wire(pass_.program).SerializeToString(deterministic=True)


def _check_stored(info: matrix_pb2.MatrixInfo, wanted: MatrixType) -> None:
    found = wire.matrix_type_from_wire(info.type, field=info.id)
    if found != wanted:
        raise InvalidInput(f"matrix {info.id!r} is {found} in the store, not {wanted}")
    if info.state != matrix_pb2.MATRIX_STATE_SEALED:
        raise Conflict(f"matrix {info.id!r} is still being written")
    if info.place != "disk":
        raise InvalidInput(
            f"matrix {info.id!r} is in {info.place}; what a model is made of has to be on the "
            "store's disk: create it durable"
        )


def _parameter_row(one: pb.ModelParameter) -> dict[str, object]:
    matrix = wire.matrix_type_from_wire(one.type, field="parameters")
    return {
        "matrix_id": one.matrix_id,
        "rows": matrix.rows,
        "columns": matrix.columns,
        "dtype": matrix.dtype,
        "shape": list(one.shape),
    }


def _parameter_to_wire(one: dict[str, Any]) -> pb.ModelParameter:
    matrix = MatrixType(one["rows"], one["columns"], one["dtype"])
    return pb.ModelParameter(
        matrix_id=one["matrix_id"], type=wire.matrix_type_to_wire(matrix), shape=one["shape"]
    )
