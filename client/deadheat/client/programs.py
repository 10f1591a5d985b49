"""Expressions over matrices that stay where they are: `put`, `compute`, `submit`, `persist`."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np

from deadheat.client import arrays
from deadheat.client.arrays import Array, ArrayLike, Source
from deadheat.client.choices import (
    DURABILITIES,
    PRECISIONS,
    CutName,
    DurabilityName,
    PrecisionName,
    WhereName,
    choice,
    place_of,
)
from deadheat.client.expressions import Held, leaf, located, transposed
from deadheat.client.jobs import Job
from deadheat.client.lazy import Lazy
from deadheat.client.link import Link
from deadheat.client.lowering import Lowered, lower
from deadheat.client.ordering import without_chains
from deadheat.client.outcomes import Collect
from deadheat.client.places import work_of_program
from deadheat.client.products import awaited, policy_of
from deadheat.client.submissions import WAIT_S, Submissions
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.dtypes import name_of, numpy_dtype
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.ids import new_id
from deadheat.runtime.precisions import with_precision
from deadheat.runtime.programs import MatrixType, Operand, Program
from deadheat.v1 import job_pb2, types_pb2

#: Operands up to this size need not be in the store, however many there are.
TINY_BYTES: Final = 4096
EMPTY: Final = MatrixType(0, 0, "bool")
PLACES: Final[Mapping[str, Literal["cluster", "local"]]] = {"cluster": "cluster", "local": "local"}


class Programs(Submissions):
    """The part of `Client` that computes expressions."""

    def __init__(self, link: Link | None) -> None:
        super().__init__(link)
        #: Matrices in the store that somebody here may still use.
        self._held: set[str] = set()

    @located
    def put(self, array: ArrayLike, *, durability: DurabilityName = "process") -> Lazy:
        """An operand for expressions, which stays with the cluster as long as it is used.

        Args:
            array: Of at most two dimensions: an array, anything NumPy or DLPack can read, or the
                path of a `.npy` file. It is copied: changing it later changes nothing.
            durability: "power" has it on disk, for jobs that are to have all operands there.

        Returns:
            A `Lazy` of the array's shape and dtype.

        Raises:
            InvalidInput: It is no matrix, or of a dtype that deadheat does not know.
            LimitReached: The cluster has no room for it.

        """
        if isinstance(array, Lazy):
            return array
        source, shape = arrays.operand(array)
        on_disk = choice(durability, "durability", DURABILITIES) == job_pb2.DURABILITY_POWER
        node = leaf(self._keep(source, durable=on_disk))
        return Lazy(self, transposed(node) if source.is_transposed else node, shape)

    def compute(
        self,
        *matrices: Lazy,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
        progress: bool | None = None,
        where: WhereName = "auto",
    ) -> Any:
        """The values of expressions, together: what they have in common is computed once.

        Args:
            matrices: What `put` returns, and expressions over it.
            cut: How rows are shared out; all but "balanced" are there to be compared with.
            timeout: Seconds after which the job fails. None: no limit.
            durability: "power" has the operands on disk before the job is accepted.
            precision: "tf32" lets GPUs keep ten bits of each factor of a product, where that is
                faster; cores compute in full. All products have to be of float32 then.
            progress: Show a progress bar; None: if stderr is a terminal.
            where: "local" computes them in this process, one operation after the other: that is no
                job. Operands that are in the store are fetched. "cluster" makes them one job.
                "auto" does what is predicted to be faster; with `cut`, `timeout` or `durability`,
                which only a job has, it is a job.

        Returns:
            An array for one expression, a tuple of arrays for several. They are yours. Products
            of three and more matrices, `a @ b @ c`, are multiplied in the order that is predicted
            to be fastest on the cluster, or here the one with the fewest operations, where nothing
            else needs what is in between.

        Raises:
            InvalidInput: An expression is too large, or options do not fit.
            LimitReached: The cluster has no room for it.
            TimedOut: `timeout` is over.
            JobFailed: The cluster could not compute it; `cause` is the reason's code.

        """
        policy = policy_of(cut, durability, timeout)
        place = place_of(where, cut, timeout, durability)
        lowered = self._lowered(matrices, precision)
        if lowered.program is None:
            return self._here_shaped(lowered, matrices)
        work = work_of_program(lowered.program, _stored_names(lowered))
        if place == "local" or (place == "auto" and self._places.is_here(work)):
            started_s = time.perf_counter()
            values = self._here_shaped(lowered, matrices)
            self._places.took_here(work, time.perf_counter() - started_s)
            return values
        started_s = time.perf_counter()
        values = awaited(self._submit_lazy(lowered, matrices, policy, keep=False), progress)
        self._places.took_there(work, time.perf_counter() - started_s)
        return values

    def submit(
        self,
        *matrices: Lazy,
        cut: CutName = "balanced",
        timeout: float | None = None,
        durability: DurabilityName = "process",
        precision: PrecisionName = "strict",
    ) -> Job:
        """Like `compute`, but returns a future as soon as the cluster has accepted the job. Its
        results stay with the cluster for a day, for others to fetch by the job's id. Raises
        InvalidInput where there is nothing to compute."""
        policy = policy_of(cut, durability, timeout)
        lowered = self._lowered(matrices, precision)
        if lowered.program is None:
            raise InvalidInput("all of them are operands: there is nothing to compute")
        return self._submit_lazy(lowered, matrices, policy, keep=True)

    def persist(
        self,
        *matrices: Lazy,
        cut: CutName = "balanced",
        timeout: float | None = None,
        precision: PrecisionName = "strict",
        progress: bool | None = None,
    ) -> Any:
        """Like `compute`, but the results stay with the cluster, as operands for other expressions:
        a `Lazy` for one expression, a tuple for several. They are given up when nobody uses them
        any more, or when the client is closed."""
        policy = policy_of(cut, "process", timeout)
        kind = job_pb2.JOB_KIND_PROGRAM
        kept = self._persist_as(matrices, policy, progress, kind, precision)
        return kept[0] if len(kept) == 1 else tuple(kept)

    # Programs

    def _persist_as(
        self,
        matrices: Sequence[Lazy],
        policy: job_pb2.JobPolicy,
        progress: bool | None,
        kind: job_pb2.JobKind.ValueType,
        precision: PrecisionName = "strict",
    ) -> Sequence[Lazy]:
        if self._linked is None:
            made = self.compute(*matrices, precision=precision, where="local")
            return [self.put(value) for value in (made if len(matrices) > 1 else (made,))]
        lowered = self._lowered(matrices, precision)
        held = dict(lowered.held)
        if lowered.program is not None:

            async def collect(results: Sequence[types_pb2.Result]) -> Mapping[str, Held]:
                return {result.name: self._adopted(result) for result in results}

            work = self._submit_lowered(lowered, policy, collect, keep=True, kind=kind)
            held.update(awaited(self._link.call(work), progress))
        return [
            Lazy(self, leaf(held[name]), matrix.shape)
            for name, matrix in zip(lowered.outputs, matrices, strict=True)
        ]

    def _lowered(self, matrices: Sequence[Lazy], precision: str = "strict") -> Lowered:
        least = choice(precision, "precision", PRECISIONS)
        if not matrices:
            raise InvalidInput("nothing to compute: name one expression or more")
        for matrix in matrices:
            if not isinstance(matrix, Lazy):
                kind = type(matrix).__name__
                raise InvalidInput(f"a {kind} is no expression; put() it first")
            if matrix.client is not self:
                raise InvalidInput(f"{matrix!r} belongs to another client")
        lowered = lower([matrix.node for matrix in matrices])
        if lowered.program is None:
            return lowered
        return replace(lowered, program=with_precision(lowered.program, least))

    def _here_shaped(self, lowered: Lowered, matrices: Sequence[Lazy]) -> Any:
        """The values, computed in this process."""
        made = self._evaluated(lowered)
        return _shaped([made[name] for name in lowered.outputs], matrices)

    def _evaluated(self, lowered: Lowered) -> Mapping[str, Array]:
        made = {name: self._fetch(held) for name, held in lowered.held.items()}
        if lowered.program is None:
            return {name: np.array(array) for name, array in made.items()}
        with np.errstate(all="ignore"):
            try:
                computed = evaluate(np, without_chains(lowered.program), made)
            except MemoryError:
                raise LimitReached("no memory here for the results") from None
        return {name: np.array(made[name]) for name in lowered.outputs if name in made} | computed

    def _submit_lazy(
        self,
        lowered: Lowered,
        matrices: Sequence[Lazy],
        policy: job_pb2.JobPolicy,
        *,
        keep: bool,
        kind: job_pb2.JobKind.ValueType = job_pb2.JOB_KIND_PROGRAM,
    ) -> Job:
        """A job of a program; what it gives are the values as NumPy shapes them."""

        async def collect(results: Sequence[types_pb2.Result]) -> Any:
            fetched = await self._fetched(results, keep=keep)
            made = dict(zip((result.name for result in results), fetched, strict=True))
            for name in lowered.outputs:
                if name not in made:
                    made[name] = np.array(await self._fetch_held(lowered.held[name]))
            return _shaped([made[name] for name in lowered.outputs], matrices)

        return self._link.call(self._submit_lowered(lowered, policy, collect, keep=keep, kind=kind))

    async def _submit_lowered(
        self,
        lowered: Lowered,
        policy: job_pb2.JobPolicy,
        collect: Collect,
        *,
        keep: bool,
        kind: job_pb2.JobKind.ValueType = job_pb2.JOB_KIND_PROGRAM,
    ) -> Job:
        assert lowered.program is not None
        durable = policy.durability == job_pb2.DURABILITY_POWER
        await self._send_what_is_large(lowered, durable)
        operands = tuple(_operand(name, held) for name, held in lowered.held.items())
        program = Program(operands, lowered.program.operations, lowered.program.results)
        inline = all(operand.inline is not None for operand in operands)
        request = job_pb2.JobServiceSubmitRequest(
            request_id=new_id("r"),
            program=wire.program_to_wire(program),
            policy=policy,
            kind=kind,
            user=hosts.user_name(),
            wait_s=WAIT_S if inline and not keep else 0.0,
        )
        if request.ByteSize() > rpc.MESSAGE_LIMIT_BYTES:
            raise InvalidInput(
                f"the program is {request.ByteSize()} bytes long, with "
                f"{len(program.operations)} operations; the limit is {rpc.MESSAGE_LIMIT_BYTES}"
            )
        accepted = await self._accepted(request)
        job = Job(self, accepted.job_id)
        self._watch(job, collect, accepted.update if accepted.HasField("update") else None)
        return job

    async def _send_what_is_large(self, lowered: Lowered, durable: bool) -> None:
        """Operands that are here go to the store where they are too many for one message."""
        here = [held for held in lowered.held.values() if held.array is not None]
        here = [held for held in here if not held.matrix_id]
        total = sum(held.type.size_bytes for held in here)
        limit_bytes = self._link.connection.inline_limit_bytes
        for held in sorted(here, key=lambda one: -one.type.size_bytes):
            if total <= limit_bytes or held.type.size_bytes <= TINY_BYTES:
                return
            assert held.array is not None
            await self._upload(held, Source("operand", held.array), durable)
            total -= held.type.size_bytes

    # Operands

    def _keep(self, source: Source, *, durable: bool) -> Held:
        """Takes an operand: what is small stays here, to travel with each job; without a cluster
        everything does."""
        matrix = source.stored_type(name_of(source.array.dtype, field="the matrix"))
        if self._linked is None or matrix.size_bytes <= rpc.INLINE_LIMIT_BYTES:
            return here(source)
        held = Held(matrix)
        self._link.call(self._upload(held, source, durable))
        return held

    async def _upload(self, held: Held, source: Source, durable: bool) -> None:
        link = self._link
        await link.connection.open()  # The store may have been started anew since.
        moved = await link.transfers.upload(source, held.type.dtype, inline=False, durable=durable)
        self._own(held, moved.matrix_id)

    def _adopted(self, result: types_pb2.Result) -> Held:
        """A result as an operand."""
        matrix = wire.matrix_type_from_wire(result.type, field=result.name)
        if result.WhichOneof("source") == "matrix_id":
            held = Held(matrix)
            self._own(held, result.matrix_id)
            return held
        flat = np.frombuffer(result.inline, numpy_dtype(matrix.dtype))
        return Held(matrix, flat.reshape(matrix.rows, matrix.columns))

    def _own(self, held: Held, matrix_id: str) -> None:
        """The matrix goes when the operand does."""
        held.matrix_id = matrix_id
        self._held.add(matrix_id)
        finalizer = weakref.finalize(held, self._forget, matrix_id)
        finalizer.atexit = False

    def _forget(self, matrix_id: str) -> None:
        if matrix_id in self._held and not self._link.loop.loop.is_closed():
            self._held.discard(matrix_id)
            self._link.loop.submit(self._link.transfers.give_up_all([_stored(matrix_id)]))

    async def _let_go(self) -> None:
        """Gives up everything at the end of the client."""
        given_up, self._held = self._held, set()
        await asyncio.gather(
            *(self._link.transfers.give_up_all([_stored(matrix_id)]) for matrix_id in given_up)
        )

    def _fetch(self, held: Held) -> Array:
        return held.array if held.array is not None else self._link.call(self._fetch_held(held))

    async def _fetch_held(self, held: Held) -> Array:
        """An operand's bytes, here."""
        if held.array is not None:
            return held.array
        return await self._link.download(
            types_pb2.Result(
                name="operand",
                type=wire.matrix_type_to_wire(held.type),
                matrix_id=held.matrix_id,
            )
        )


def here(source: Source) -> Held:
    """An operand that stays in this process, as it is now."""
    matrix = source.stored_type(name_of(source.array.dtype, field="the matrix"))
    return Held(matrix, np.array(source.array, numpy_dtype(matrix.dtype), order="C"))


def _stored_names(lowered: Lowered) -> frozenset[str]:
    """Operands that are in the store."""
    return frozenset(name for name, held in lowered.held.items() if held.matrix_id)


def _operand(name: str, held: Held) -> Operand:
    if held.matrix_id:
        return Operand(name, held.type, matrix_id=held.matrix_id)
    assert held.array is not None
    return Operand(name, held.type, inline=held.array.tobytes())


def _stored(matrix_id: str) -> Operand:
    return Operand("operand", EMPTY, matrix_id=matrix_id)


def _shaped(made: Sequence[Array], matrices: Sequence[Lazy]) -> Any:
    values = [array.reshape(matrix.shape)[()] for array, matrix in zip(made, matrices, strict=True)]
    return values[0] if len(values) == 1 else tuple(values)
