"""`client.models`: networks that the cluster keeps by name and version, and serves."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import grpc
import numpy as np
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike, Source
from deadheat.client.choices import number
from deadheat.client.expressions import Held, leaf
from deadheat.client.lazy import Lazy
from deadheat.client.link import Link
from deadheat.client.lowering import lower
from deadheat.client.model_reports import Model, content_hash
from deadheat.client.nn.description import described, rebuilt
from deadheat.client.nn.files import save as save_file
from deadheat.client.nn.parameters import check_finite, matrix_of
from deadheat.client.nn.passes import forward
from deadheat.client.nn.sequential import Sequential
from deadheat.client.ordering import without_chains
from deadheat.client.programs import Programs
from deadheat.client.transfers import as_array
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.dtypes import name_of
from deadheat.runtime.errors import InvalidInput, Unavailable
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import UNSENT, MatrixType, Operand, Program
from deadheat.runtime.segments import MAX_SEGMENT
from deadheat.runtime.version import VERSION
from deadheat.v1 import model_pb2 as pb
from deadheat.v1 import types_pb2

T = TypeVar("T")

#: A call that a scheduler cannot take now is repeated so often: it may be starting anew.
MAX_ATTEMPTS: Final = 8
RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 2.0
#: Rows with which a forward pass is written down; it goes for any number.
_OUTLINE_ROWS: Final = 2


class Reported(Protocol):
    """A report of a training, as `Client.train` returns it."""

    def as_dict(self) -> dict[str, Any]: ...


class Models:
    """The models of a cluster. Names are letters, digits, '.', '_' and '-', 64 at most."""

    def __init__(self, owner: Programs, link: Link) -> None:
        """`owner` is whose expressions are written down."""
        self._owner = owner
        self._link = link

    # Keeping

    def save(
        self,
        name: str,
        network: Sequential,
        /,
        *,
        data: ArrayLike | Sequence[ArrayLike] | None = None,
        training: Reported | None = None,
        **metadata: Any,
    ) -> int:
        """Keeps a network as the next version of `name`; it is there whole or not at all.

        Args:
            name: Of the model. Its first version is 1; numbers of deleted ones do not come again.
            network: Of `deadheat.client.nn`. Changing it later changes no version.
            data: What it was trained on, an array or several: a hash of it is recorded.
            training: The report of the training that made it.
            metadata: What else is to be recorded: whatever JSON can say.

        Returns:
            The version.

        Raises:
            InvalidInput: Name or metadata are not valid, or too long.
            LimitReached: The cluster keeps as many models as it can, or has no room on its disk.

        """
        if not isinstance(network, Sequential):
            kind = type(network).__name__
            raise InvalidInput(f"network is a {kind}; it must be an nn.MLP or nn.Sequential")
        if training is not None and not hasattr(training, "as_dict"):
            kind = type(training).__name__
            raise InvalidInput(
                f"training is a {kind}; it must be what Client.train returned", field="training"
            )
        request = pb.ModelServiceSaveRequest(
            request_id=new_id("r"),
            name=_name(name),
            user=hosts.user_name(),
            layers=json.dumps(described(network)),
            metadata=_json(metadata, "metadata"),
            data_hash=content_hash(data) if data is not None else "",
            code_version=VERSION,
            training=_json(training.as_dict(), "training") if training is not None else "",
        )
        return self._link.call(self._save(request, network))

    async def _save(self, request: pb.ModelServiceSaveRequest, network: Sequential) -> int:
        await self._link.connection.open()  # The store may have been started anew since.
        transfers, sent = self._link.transfers, []
        try:
            for array in network.parameters:
                flat = np.atleast_2d(matrix_of(array))
                source, dtype = Source("parameter", flat), name_of(flat.dtype, field="network")
                sent.append(await transfers.upload(source, dtype, inline=False, durable=True))
                parameter = request.parameters.add(matrix_id=sent[-1].matrix_id, shape=array.shape)
                parameter.type.CopyFrom(wire.matrix_type_to_wire(sent[-1].type))
            if found := _outline(self._owner, network, sent):
                request.program.CopyFrom(wire.program_to_wire(found[0]))
                request.samples = found[1]
            answer = await self._asked("saving a model", "Save", request)
        finally:
            # The model holds them; without one nobody needs them.
            await transfers.give_up_all(sent)
        version: int = answer.version
        return version

    def show(self, name: str, version: int | None = None) -> Model:
        """What is known of a version, or of the newest there is; raises NotFound."""
        return Model.of(self._link.call(self._got(name, version)))

    def load(self, name: str, version: int | None = None) -> Sequential:
        """The network of a version, or of the newest there is, here; raises NotFound."""

        async def load() -> Sequential:
            model = await self._got(name, version)
            await self._link.connection.open()
            parameters = []
            for one in model.parameters:
                result = types_pb2.Result(name="parameter", type=one.type, matrix_id=one.matrix_id)
                made = await self._link.download(result)
                parameters.append(made.reshape(tuple(one.shape)))
            return rebuilt(json.loads(model.layers), parameters)

        return self._link.call(load())

    def export(self, name: str, version: int | None, path: str | Path) -> None:
        """Writes a version (None: the newest) to a safetensors file, as `nn.save` does."""
        save_file(path, self.load(name, version))

    def list(self, name: str | None = None, *, limit: int = 0) -> Sequence[Model]:
        """The versions that are kept, of one name or of all, newest first, at most `limit` (0: as
        many as the cluster tells)."""
        request = pb.ModelServiceListRequest(name=name or "", limit=limit)
        answer = self._link.call(self._asked("listing models", "List", request))
        return [Model.of(model) for model in answer.models]

    def delete(self, name: str, version: int | None = None) -> Sequence[int]:
        """Gives up one version, or all of a name; returns which. Calls that are being computed
        still end. Raises NotFound."""
        request = pb.ModelServiceDeleteRequest(
            request_id=new_id("r"),
            name=_name(name),
            version=_version(version),
            user=hosts.user_name(),
        )
        answer = self._link.call(self._asked("deleting a model", "Delete", request))
        return tuple(answer.versions)

    async def _got(self, name: str, version: int | None) -> pb.Model:
        request = pb.ModelServiceGetRequest(name=_name(name), version=_version(version))
        answer = await self._asked("looking for a model", "Get", request)
        model: pb.Model = answer.model
        return model

    # Serving

    def forward(
        self,
        name: str,
        X: ArrayLike,  # noqa: N803 - as everybody calls it.
        version: int | None = None,
        *,
        max_wait_s: float | None = None,
        check_finite: bool = True,
        timeout: float | None = None,
    ) -> Array:
        """What a model makes of a few rows, computed together with rows of other callers.

        Args:
            name: Of the model.
            X: n x `inputs` samples, or one of `inputs` elements; n x anything becomes n rows. Of
                the model's dtype, or one that NumPy promotes to it.
            version: None: the newest there is.
            max_wait_s: How long the call may wait for rows of others, besides what it waits while
                as many batches are computed as may be. None: the cluster's default, 0.005.
                A call that finds no other there does not wait.
            check_finite: Whether NaN and infinity are refused; without it they go through, and
                come out in their own row only.
            timeout: Seconds after which it raises TimedOut. None: 20.

        Returns:
            n x `outputs`, or `outputs` elements. Equal to NumPy's up to rounding; the last bits
            may depend on how many rows went together.

        Raises:
            InvalidInput: X does not fit the model, or has too many rows for a call.
            NotFound: There is no such model, or it was deleted meanwhile.
            LimitReached: More calls wait than may; call again later.
            JobFailed and others: What the batch failed of.

        """
        return self.submit_forward(
            name,
            X,
            version,
            max_wait_s=max_wait_s,
            check_finite=check_finite,
            timeout=timeout,
        ).result()

    def submit_forward(
        self,
        name: str,
        X: ArrayLike,  # noqa: N803
        version: int | None = None,
        *,
        max_wait_s: float | None = None,
        check_finite: bool = True,
        timeout: float | None = None,
    ) -> Future[Array]:
        """Like `forward`, but returns a future at once; `asyncio.wrap_future` makes it one to
        await, and cancelling it takes the call back."""
        rows, shape = _rows(X, is_checked=check_finite)
        request = pb.ModelServiceForwardRequest(
            name=_name(name),
            version=_version(version),
            type=wire.matrix_type_to_wire(_type_of(rows)),
            data=rows.tobytes(),
            max_wait_s=None if max_wait_s is None else number(max_wait_s, "max_wait_s"),
        )
        if request.ByteSize() > rpc.MESSAGE_LIMIT_BYTES:
            raise InvalidInput(
                f"X has {rows.nbytes} bytes; a call may have {rpc.MESSAGE_LIMIT_BYTES}: load the "
                "model, and compute it with client.forward",
                field="X",
            )
        limit_s = rpc.CALL_TIMEOUT_S if timeout is None else number(timeout, "timeout")
        if not 0 < limit_s < math.inf:
            raise InvalidInput(
                f"timeout is {timeout!r}; it must be above 0 and finite", field="timeout"
            )

        async def ask() -> Array:
            answer = await self._asked("calling a model", "Forward", request, limit_s)
            outputs = wire.matrix_type_from_wire(answer.type, field="outputs")
            made = as_array(memoryview(bytearray(answer.data)), outputs)
            return made[0] if len(shape) == 1 else made

        return self._future(ask())

    def _future(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Work on the client's loop as a future, which a client that is closed does not leave
        open: a loop that stops tells nobody."""
        answer: Future[T] = Future()

        async def follow() -> None:
            try:
                made = await work
            except asyncio.CancelledError:
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(Unavailable("the client was closed before the answer"))
                raise
            except Exception as error:  # noqa: BLE001 - raised where the future is asked.
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(error)
            else:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(made)

        following = self._link.submit(follow())
        answer.add_done_callback(lambda it: following.cancel() if it.cancelled() else None)
        return answer

    async def _asked(
        self, doing: str, method: str, request: Any, timeout_s: float = rpc.CALL_TIMEOUT_S
    ) -> Any:
        """The answer of a scheduler that may be starting anew: all requests may be repeated."""
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(MAX_ATTEMPTS),
            wait=wait_random_exponential(multiplier=RETRY_S, max=MAX_RETRY_S),
            retry=retry_if_exception_type(Unavailable),
            reraise=True,
        ):
            with attempt, rpc.translated(doing):
                try:
                    call = getattr(self._link.connection.models, method)
                    return await call(request, timeout=timeout_s)
                except grpc.aio.UsageError:
                    raise Unavailable("the client is closed") from None
                except asyncio.CancelledError:
                    # The channel was closed under the call; or whoever waited cancelled it.
                    task = asyncio.current_task()
                    if task and not task.cancelling():
                        raise Unavailable("the client was closed") from None
                    raise
        raise AssertionError("the last attempt returns or raises")


def _outline(
    owner: Programs, network: Sequential, parameters: Sequence[Operand]
) -> tuple[Program, str] | None:
    """The forward pass, and what it calls the samples; None if it is too long for one segment, or
    takes images, whose size nobody knows before they come."""
    if network.takes_images:
        return None
    dtype = name_of(network.dtype, field="network")
    samples = Held(MatrixType(_OUTLINE_ROWS, network.inputs, dtype))
    x = Lazy(owner, leaf(samples), (_OUTLINE_ROWS, network.inputs))
    held = [Held(operand.type, matrix_id=operand.matrix_id) for operand in parameters]
    given = [
        Lazy(owner, leaf(one), matrix_of(array).shape)
        for one, array in zip(held, network.parameters, strict=True)
    ]
    last = forward(network, x, given)[-1].after
    lowered = lower([last.node])
    assert lowered.program is not None, "a network has an operation at least"
    program = without_chains(lowered.program)
    if len(program.operations) > MAX_SEGMENT:
        return None
    (name,) = (name for name, one in lowered.held.items() if one is samples)
    operands = tuple(_operand(name, one) for name, one in lowered.held.items())
    return Program(operands, program.operations, program.results), name


def _operand(name: str, held: Held) -> Operand:
    if held.array is not None:  # A constant of some layer.
        return Operand(name, held.type, inline=held.array.tobytes())
    return Operand(name, held.type, matrix_id=held.matrix_id or UNSENT)


def _rows(X: ArrayLike, *, is_checked: bool) -> tuple[Array, tuple[int, ...]]:  # noqa: N803
    """Samples as rows without gaps, and the shape in which they came."""
    given = arrays.array_of(X, "X")
    if not given.ndim or not given.size:
        raise InvalidInput(f"X has shape {given.shape}; it must have a row at least", field="X")
    if is_checked:
        check_finite(given, "X")
    length = given.shape[0] if given.ndim > 1 else 1
    return np.ascontiguousarray(given.reshape(length, -1)), given.shape


def _type_of(rows: Array) -> MatrixType:
    return MatrixType(rows.shape[0], rows.shape[1], name_of(rows.dtype, field="X"))


def _json(value: Any, field: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{field} is not what JSON can say: {error}", field=field) from None


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"name is {name!r}; it must be the name of a model", field="name")
    return name


def _version(version: object) -> int:
    if version is None:
        return 0
    is_whole = isinstance(version, (int, np.integer)) and not isinstance(version, bool)
    if not is_whole or not 0 < int(version) < 1 << 62:  # type: ignore[call-overload]
        raise InvalidInput(
            f"version is {version!r}; it must be a whole number above 0", field="version"
        )
    return int(version)  # type: ignore[call-overload, no-any-return]
