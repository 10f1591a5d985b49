"""What becomes of jobs: they are followed to their ends, and their results fetched."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from deadheat.client.arrays import Array
from deadheat.client.inquiries import Inquiries
from deadheat.client.jobs import Job, failure_of
from deadheat.client.link import Link
from deadheat.client.reports import job_state_name
from deadheat.runtime import rpc
from deadheat.runtime.errors import InvalidInput, JobFailed, NotFound, Unavailable
from deadheat.v1 import job_pb2, types_pb2

#: A watch that breaks is opened again, so often in a row.
MAX_WATCH_FAILURES: Final = 20
WATCH_RETRY_S: Final = 0.5

#: What becomes of a job's results when it is done.
Collect = Callable[[Sequence[types_pb2.Result]], Awaitable[Any]]


class Outcomes(Inquiries):
    """The part of `Client` that follows jobs to their ends."""

    def __init__(self, link: Link | None) -> None:
        super().__init__(link)
        self._watching: set[asyncio.Task[None]] = set()

    def job(self, job_id: str) -> Job:
        """A job by its id, or "last": the newest of this user. Its future follows it."""
        found = self._get(job_id)
        return self._link.call(self._adopt(found))

    async def _adopt(self, found: job_pb2.Job) -> Job:
        job = Job(self, found.id)

        async def collect(results: Sequence[types_pb2.Result]) -> Any:
            made = await self._fetched(results, keep=True)
            return made[0] if len(made) == 1 else tuple(made)

        self._watch(job, collect)
        return job

    def result(self, job_id: str) -> Array:
        """The result of a job that is done, as a matrix; raises what it failed of."""
        found = self.results(job_id)
        if len(found) != 1:
            raise InvalidInput(f"job {job_id} has {len(found)} results; ask for its `results`")
        return found[0]

    def results(self, job_id: str) -> tuple[Array, ...]:
        """All results of a job that is done, as matrices; raises what it failed of."""
        found = self._get(job_id)
        if found.HasField("failure"):
            raise failure_of(found.failure)
        if found.state != job_pb2.JOB_STATE_DONE:
            state = job_state_name(found.state)
            raise JobFailed(f"job {found.id} is {state}; it has no result yet", cause="conflict")
        if not found.results:
            raise NotFound(f"job {found.id} has no result any more")
        return tuple(self._link.call(self._fetched(found.results, keep=True)))

    # On the link's loop

    def _watch(
        self,
        job: Job,
        collect: Collect,
        said: job_pb2.JobServiceWatchResponse | None = None,
    ) -> None:
        """Follows a job, of which `said` is known already, to its end."""
        task = asyncio.get_running_loop().create_task(self._follow(job, collect, said))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _follow(
        self,
        job: Job,
        collect: Collect,
        said: job_pb2.JobServiceWatchResponse | None,
    ) -> None:
        """Watches a job to its end, across breaks of the connection, and fetches its results."""
        try:
            if said:
                job.note(said)
            last = said if said and _is_last(said) else await self._last_update(job)
            if last.state != job_pb2.JOB_STATE_DONE:
                raise failure_of(last.failure)
            job.settle(await collect(last.results))
        except asyncio.CancelledError:
            job.settle_failure(Unavailable("the client was closed before the job ended"))
            raise
        except Exception as error:  # noqa: BLE001 - raised where the future is asked.
            # It must not keep what had been fetched before mapped until garbage is collected.
            traceback.clear_frames(error.__traceback__)
            job.settle_failure(error)

    async def _last_update(self, job: Job) -> job_pb2.JobServiceWatchResponse:
        failures = 0
        while True:
            request = job_pb2.JobServiceWatchRequest(job_id=job.id)
            try:
                async for update in self._link.connection.jobs.Watch(request):
                    failures = 0
                    job.note(update)
                    if _is_last(update):
                        return update
            except grpc.RpcError as error:
                problem = rpc.from_rpc_error(error, doing=f"watching job {job.id}")
                failures += 1
                if not isinstance(problem, Unavailable) or failures >= MAX_WATCH_FAILURES:
                    raise problem from None
            await asyncio.sleep(WATCH_RETRY_S)

    async def _fetched(self, results: Sequence[types_pb2.Result], *, keep: bool) -> Sequence[Array]:
        """The results, here; the cluster may forget them unless it is to `keep` them."""
        found = []
        for result in results:
            found.append(await self._link.download(result))
            if not keep and result.matrix_id:
                await self._link.transfers.give_up(result.matrix_id)
        return found


def _is_last(update: job_pb2.JobServiceWatchResponse) -> bool:
    return update.state not in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)
