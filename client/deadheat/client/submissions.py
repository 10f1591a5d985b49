"""How a checked product becomes a job: operands to the store, the program to the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc

from deadheat.client.arrays import Array, Checked, Source
from deadheat.client.jobs import Job
from deadheat.client.link import Link
from deadheat.client.outcomes import Outcomes
from deadheat.client.places import Places, Work
from deadheat.runtime import hosts, rpc, wire
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import Operand, Program
from deadheat.v1 import job_pb2, types_pb2

#: How long a submission waits for a small job's end, so that there need be no second call.
WAIT_S: Final = 0.5

#: A job's program, once its operands are known by their ids in the store.
MakeProgram = Callable[[Sequence[Operand]], Program]


@dataclass(frozen=True)
class Asked:
    """What a caller wants, checked: as a job's program, and as a computation here."""

    checked: Checked
    program: MakeProgram
    kind: job_pb2.JobKind.ValueType
    compute: Callable[[], Array]
    work: Work

    @staticmethod
    def of(
        checked: Checked,
        program: MakeProgram,
        kind: job_pb2.JobKind.ValueType,
        compute: Callable[[], Array],
    ) -> Asked:
        # What is wrong is said before anything is uploaded.
        outline = program(checked.placeholders())
        result_bytes = outline.types[outline.results[0]].size_bytes
        # Each product of a chain but the last ends with a barrier more.
        is_chain = outline.first_chain is not None
        barriers = max(0, len(outline.operations[0].operands) - 2) if is_chain else 0
        work = Work.of(checked, outline.flops, result_bytes, barriers)
        return Asked(checked, program, kind, compute, work)


class Submissions(Outcomes):
    """The part of `Client` that submits."""

    def __init__(self, link: Link | None) -> None:
        super().__init__(link)
        #: Whether to submit at all: what is small is computed in this process.
        self._places = Places(None)

    def _submit_checked(self, asked: Asked, policy: job_pb2.JobPolicy, *, keep: bool) -> Job:
        return self._link.call(self._submit(asked, policy, keep))

    async def _submit(self, asked: Asked, policy: job_pb2.JobPolicy, keep: bool) -> Job:
        """The job of which somebody keeps the id, or (not `keep`) waits for the result only."""
        firsts, places = _distinct(asked.checked)
        total = sum(first.stored_type(asked.checked.dtype).size_bytes for first in firsts)
        inline = total <= self._link.connection.inline_limit_bytes
        if not inline:
            await self._link.connection.open()  # The store may have been started anew since.
        moved = await self._link.transfers.upload_all(
            firsts,
            asked.checked.dtype,
            inline=inline,
            durable=policy.durability == job_pb2.DURABILITY_POWER,
        )
        try:
            request = job_pb2.JobServiceSubmitRequest(
                request_id=new_id("r"),
                program=wire.program_to_wire(asked.program([moved[n] for n in places])),
                policy=policy,
                kind=asked.kind,
                user=hosts.user_name(),
                wait_s=WAIT_S if inline and not keep else 0.0,
            )
            accepted = await self._accepted(request)
        finally:
            # The job holds what it needs; for anybody else these matrices have no name.
            await self._link.transfers.give_up_all(moved)
        job = Job(self, accepted.job_id)
        said = accepted.update if accepted.HasField("update") else None
        shape = asked.checked.result_shape

        async def collect(results: Sequence[types_pb2.Result]) -> Any:
            (value,) = await self._fetched(results, keep=keep)
            return value.reshape(shape)[()]

        self._watch(job, collect, said)
        return job

    async def _accepted(
        self, request: job_pb2.JobServiceSubmitRequest
    ) -> job_pb2.JobServiceSubmitResponse:
        """The job as which a program was accepted. Who is interrupted meanwhile leaves
        no job behind of which nobody knows."""
        asking = asyncio.create_task(self._ask_to_submit(request))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with suppress(DeadheatError, grpc.RpcError):
                withdrawal = job_pb2.JobServiceCancelRequest(
                    request_id=new_id("r"), job_id=(await asking).job_id, user=request.user
                )
                await self._link.connection.jobs.Cancel(withdrawal, timeout=rpc.CALL_TIMEOUT_S)
            raise

    async def _ask_to_submit(
        self, request: job_pb2.JobServiceSubmitRequest
    ) -> job_pb2.JobServiceSubmitResponse:
        with rpc.translated("submitting"):
            return await self._link.connection.jobs.Submit(request, timeout=rpc.CALL_TIMEOUT_S)


def _distinct(checked: Checked) -> tuple[list[Source], list[int]]:
    """What has to be moved, and which of it each operand is: one matrix that is given twice, as it
    is or transposed, is moved once."""
    firsts: list[Source] = []
    places = []
    for source in checked.sources:
        same = [index for index, first in enumerate(firsts) if source.is_same_as(first)]
        places.append(same[0] if same else len(firsts))
        if not same:
            firsts.append(source)
    return firsts, places
