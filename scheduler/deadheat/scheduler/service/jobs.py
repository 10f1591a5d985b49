"""JobService: what users ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc

from deadheat.runtime import rpc, wire
from deadheat.runtime.errors import Conflict, InvalidInput, NotFound
from deadheat.runtime.ids import new_id
from deadheat.runtime.programs import Descent, MatrixType, Operand, Program
from deadheat.scheduler.core import events, explaining
from deadheat.scheduler.core.machine import JobState
from deadheat.scheduler.core.report import JobReport, report_of
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.records.reading import Reader
from deadheat.scheduler.service import convert
from deadheat.scheduler.service.admission import Admission, estimate_to_wire
from deadheat.scheduler.service.once import Once, check_request_id
from deadheat.scheduler.service.shell import Shell
from deadheat.scheduler.service.storelink import StoreLink
from deadheat.v1 import job_pb2 as pb
from deadheat.v1 import job_pb2_grpc, matrix_pb2, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]

LAST: Final = "last"
MAX_LISTED: Final = 1_000
#: A watcher hears of progress at most so often; of an end, at once.
WATCH_INTERVAL_S: Final = 0.1
#: How long a submission may wait for the job's end; a watcher costs less than a call that waits.
MAX_WAIT_S: Final = 1.0


class JobServicer(job_pb2_grpc.JobServiceServicer):
    def __init__(self, shell: Shell, store: StoreLink, reader: Reader) -> None:
        self._shell = shell
        self._store = store
        self._reader = reader
        self._admission = Admission(shell)
        self._submitting: dict[str, asyncio.Future[str]] = {}
        self._once = Once()

    # Submitting

    async def Submit(
        self, request: pb.JobServiceSubmitRequest, context: Context
    ) -> pb.JobServiceSubmitResponse:
        request_id = request.request_id
        check_request_id(request_id)
        if known := self._shell.core.world.requests.get(request_id):
            return pb.JobServiceSubmitResponse(job_id=known)
        if under_way := self._submitting.get(request_id):
            return pb.JobServiceSubmitResponse(job_id=await asyncio.shield(under_way))
        future = asyncio.get_running_loop().create_future()
        self._submitting[request_id] = future
        try:
            job_id = await self._submit(request)
            future.set_result(job_id)
        finally:
            del self._submitting[request_id]
            future.cancel()
        return await self._accepted(job_id, request.wait_s)

    async def _accepted(self, job_id: str, wait_s: float) -> pb.JobServiceSubmitResponse:
        """The answer, once the job has ended or somebody has waited for that long enough."""
        answer = pb.JobServiceSubmitResponse(job_id=job_id)
        job = self._shell.core.world.jobs.get(job_id)
        if job is None or not wait_s > 0.0:
            return answer
        with suppress(TimeoutError), self._shell.watchers.watching(job_id) as news:
            async with asyncio.timeout(min(wait_s, MAX_WAIT_S)):
                while not job.state.is_final or self._shell.is_ending(job_id):
                    news.clear()
                    await news.wait()
        if not self._shell.is_ending(job_id):
            answer.update.CopyFrom(self._update(job))
        return answer

    async def _submit(self, request: pb.JobServiceSubmitRequest) -> str:
        program = wire.program_from_wire(request.program)
        policy = convert.policy_from_wire(request.policy)
        kind = convert.kind_from_wire(request.kind)
        estimate = await self._admission.check(program, policy)
        is_one = len(program.operations) == 1  # Its plan says it all, and later.
        job_id = new_id("j")
        await self._check_operands(job_id, program, policy)
        submitted = events.JobSubmitted(
            job=job_id,
            request_id=request.request_id,
            user=printable(request.user) or "unknown",
            kind=kind,
            program=program,
            policy=policy,
            result_ids=_result_ids(program),
            estimated_s=None if is_one or estimate is None else estimate.makespan_s,
        )
        await self._shell.settle(submitted)
        return job_id

    async def _check_operands(
        self, job_id: str, program: Program, policy: events.JobPolicy
    ) -> None:
        """Holds the operands for the job, and believes the store rather than the request."""
        stored = [operand for operand in program.operands if operand.inline is None]
        if not stored:
            return
        found = await self._store.hold(job_id, [operand.matrix_id for operand in stored])
        try:
            for operand, info in zip(stored, found, strict=True):
                _check_operand(operand, info, policy)
        except InvalidInput:
            await self._store.release(job_id, ())
            raise

    # Asking

    async def Get(
        self, request: pb.JobServiceGetRequest, context: Context
    ) -> pb.JobServiceGetResponse:
        job_id = await self._resolve(request.job_id, request.user)
        return pb.JobServiceGetResponse(job=await self._report(job_id))

    async def _report(self, job_id: str) -> pb.Job:
        report = await self._found(job_id)
        if job := self._shell.core.world.jobs.get(job_id):
            return convert.job_to_wire(report, self._shell.clock, _results(job))
        results = await self._old_results(job_id) if report.state is JobState.DONE else []
        return convert.job_to_wire(report, self._shell.clock, results)

    async def _found(self, job_id: str) -> JobReport:
        """The report of a job that is remembered or recorded; raises NotFound."""
        if job := self._shell.core.world.jobs.get(job_id):
            kinds = {id_: d.facts.kind for id_, d in self._shell.core.world.devices.items()}
            return report_of(job, kinds)
        report = await asyncio.to_thread(self._reader.job_report, job_id)
        if report is None:
            raise _unknown(job_id)
        return report

    async def _resolve(self, job_id: str, user: str) -> str:
        """The job's id; "last" is the newest job of that user."""
        if job_id != LAST:
            return job_id
        own = [job for job in self._shell.core.world.jobs.values() if job.user == user]
        if own:
            return max(own, key=lambda job: job.serial).id
        found = await asyncio.to_thread(self._reader.newest_job, user)
        if found is None:
            raise NotFound(f"user {user!r} has no job on this scheduler", field="job_id")
        return found

    async def _old_results(self, job_id: str) -> list[types_pb2.Result]:
        results = []
        for name, record in await asyncio.to_thread(self._reader.results, job_id):
            matrix = MatrixType(record.rows, record.columns, record.dtype)
            inline = record.data if not record.matrix_id else None
            results.append(_result(name, matrix, record.matrix_id or "", inline))
        return results

    async def List(
        self, request: pb.JobServiceListRequest, context: Context
    ) -> pb.JobServiceListResponse:
        limit = min(request.limit or MAX_LISTED, MAX_LISTED)
        reports = await asyncio.to_thread(self._reader.list_jobs, request.user, limit)
        clock = self._shell.clock
        return pb.JobServiceListResponse(
            jobs=[convert.job_to_wire(report, clock, ()) for report in reports]
        )

    async def Watch(
        self, request: pb.JobServiceWatchRequest, context: Context
    ) -> AsyncIterator[pb.JobServiceWatchResponse]:
        job_id = await self._resolve(request.job_id, request.user)
        job = self._shell.core.world.jobs.get(job_id)
        if job is None:
            yield await self._watch_ended(job_id)
            return
        with self._shell.watchers.watching(job_id) as news:
            while True:
                news.clear()
                if not self._shell.is_ending(job_id):  # Else it is told when it is durable.
                    is_last = job.state.is_final  # While it is sent the job may end.
                    yield self._update(job)
                    if is_last:
                        return
                await news.wait()
                if not job.state.is_final:
                    await self._pause(job, news)

    @staticmethod
    async def _pause(job: Job, news: asyncio.Event) -> None:
        """Lets progress collect for a moment, but not the end of the job."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WATCH_INTERVAL_S
        while not job.state.is_final and (left_s := until_s - loop.time()) > 0:
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), left_s)
            except TimeoutError:
                return

    def _update(self, job: Job) -> pb.JobServiceWatchResponse:
        expected_s = job.expected_finish_s()
        return pb.JobServiceWatchResponse(
            job_id=job.id,
            state=convert.JOB_STATES[job.state],
            progress=job.progress,
            predicted_remaining_s=(
                None if expected_s is None else max(0.0, expected_s - self._shell.clock.now())
            ),
            note=job.note,
            failure=convert.failure_to_wire(job.failure) if job.failure else None,
            results=_results(job),
            checkpoint=_checkpoint(job),
        )

    async def _watch_ended(self, job_id: str) -> pb.JobServiceWatchResponse:
        job = await self._report(job_id)
        return pb.JobServiceWatchResponse(
            job_id=job_id,
            state=job.state,
            progress=1.0,
            failure=job.failure if job.HasField("failure") else None,
            results=job.results,
        )

    async def Cancel(
        self, request: pb.JobServiceCancelRequest, context: Context
    ) -> pb.JobServiceCancelResponse:
        async def cancel() -> pb.JobServiceCancelResponse:
            job_id = await self._resolve(request.job_id, request.user)
            job = self._shell.core.world.jobs.get(job_id)
            if job is None:
                return pb.JobServiceCancelResponse(state=(await self._report(job_id)).state)
            await self._shell.settle(events.CancelAsked(job_id))
            return pb.JobServiceCancelResponse(state=convert.JOB_STATES[job.state])

        return await self._once.answer("Cancel", request.request_id, cancel)

    async def Explain(
        self, request: pb.JobServiceExplainRequest, context: Context
    ) -> pb.JobServiceExplainResponse:
        job_id = await self._resolve(request.job_id, request.user)
        report = await self._found(job_id)
        plans: list[tuple[Mapping[str, object], str]]
        if job := self._shell.core.world.jobs.get(job_id):
            plans = list(zip(job.plan_documents, job.plan_texts))
        else:
            plans = list(await asyncio.to_thread(self._reader.plans, job_id))
        document = explaining.document(report, [plan for plan, _ in plans])
        return pb.JobServiceExplainResponse(
            text=explaining.story(report, [text for _, text in plans]),
            json=json.dumps(document, allow_nan=False),
        )

    async def Estimate(
        self, request: pb.JobServiceEstimateRequest, context: Context
    ) -> pb.JobServiceEstimateResponse:
        program = wire.outline_from_wire(request.program)
        policy = convert.policy_from_wire(request.policy)
        found = await self._admission.estimate(program, policy)
        devices = self._shell.core.world.devices
        return estimate_to_wire(found, {id_: d.memory_free_bytes for id_, d in devices.items()})


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r} on this scheduler", field="job_id")


def printable(text: str) -> str:
    """Names end up on terminals and in logs."""
    return "".join(character for character in text if character.isprintable())[:128]


def _check_operand(operand: Operand, info: matrix_pb2.MatrixInfo, policy: events.JobPolicy) -> None:
    found = wire.matrix_type_from_wire(info.type, field=operand.name)
    if found != operand.type:
        raise InvalidInput(f"operand {operand.name!r} is {found} in the store, not {operand.type}")
    if info.state != matrix_pb2.MATRIX_STATE_SEALED:
        raise Conflict(f"operand {operand.name!r} is still being written", field=operand.name)
    if policy.is_power_durable and info.place == "memory":
        raise InvalidInput(
            f"operand {operand.name!r} is in memory only; durability power needs it on disk",
            field="durability",
        )


def _result_ids(program: Program) -> list[str]:
    """An id in the store for each result that does not travel inline. States of a training never
    do: they are its checkpoints."""
    results = [program.types[operation.result] for operation in program.operations]
    is_training = any(isinstance(one.kind, Descent) for one in program.operations)
    is_small = sum(matrix.size_bytes for matrix in results) <= rpc.INLINE_LIMIT_BYTES
    return ["" if is_small and not is_training else new_id("m") for _ in results]


def _results(job: Job) -> Sequence[types_pb2.Result]:
    if job.state is not JobState.DONE:
        return []
    made_by = job.steps.made_by
    return [
        _result(
            name,
            made_by[name].type,
            made_by[name].result_id,
            bytes(inline) if (inline := made_by[name].inline) is not None else None,
        )
        for name in job.program.results
    ]


def _checkpoint(job: Job) -> types_pb2.Result | None:
    """The newest state of a training that is complete."""
    step = job.checkpoint
    return _result(step.operation.result, step.type, step.result_id, None) if step else None


def _result(
    name: str, matrix: MatrixType, matrix_id: str, inline: bytes | None
) -> types_pb2.Result:
    message = types_pb2.Result(name=name, type=wire.matrix_type_to_wire(matrix))
    if inline is not None:
        message.inline = inline
    else:
        message.matrix_id = matrix_id
    return message
