"""`Client`: NumPy in, NumPy out, with a cluster in between."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import numpy as np
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from deadheat.client.arrays import Array, Source
from deadheat.client.choices import PrecisionName
from deadheat.client.cluster import LocalCluster
from deadheat.client.connection import Connection, LoopThread
from deadheat.client.epochs import Lesson, Pupil, descend_here
from deadheat.client.expressions import Held
from deadheat.client.jobs import Job, failure_of
from deadheat.client.lazy import Lazy
from deadheat.client.models import Link, Models
from deadheat.client.nn.losses import Training
from deadheat.client.places import News, Places
from deadheat.client.products import Products
from deadheat.client.programs import here
from deadheat.client.reports import job_state_name
from deadheat.client.submissions import Collect
from deadheat.client.trainings import Trainings
from deadheat.client.transfers import Transfers
from deadheat.runtime import hosts, rpc
from deadheat.runtime.dtypes import name_of, numpy_dtype
from deadheat.runtime.errors import DeadheatError, InvalidInput, JobFailed, NotFound, Unavailable
from deadheat.runtime.settings import ClientSettings, Sources
from deadheat.v1 import cluster_pb2, job_pb2, types_pb2

T = TypeVar("T")

#: A watch that breaks is opened again, so often in a row.
MAX_WATCH_FAILURES: Final = 20
WATCH_RETRY_S: Final = 0.5
#: Times that a result is asked for while the store is away.
MAX_DOWNLOADS: Final = 6


class Offline(Products, Trainings):
    """Products in this process, for which there need be no cluster at all."""

    def __init__(self) -> None:
        self._places = Places(None)
        self._held = set()
        self._resident = {}

    def _keep(self, source: Source, *, durable: bool) -> Held:
        del durable
        return here(source)

    def _here(self) -> Offline:
        return self

    def _borrowing(self) -> Offline:
        return _Borrowing()

    def _descend(self, lesson: Lesson, policy: job_pb2.JobPolicy, pupil: Pupil) -> Training:
        del policy
        return descend_here(lesson, pupil)

    def _persist_as(
        self,
        matrices: Sequence[Lazy],
        policy: job_pb2.JobPolicy,
        progress: bool | None,
        kind: job_pb2.JobKind.ValueType,
        precision: PrecisionName = "strict",
    ) -> Sequence[Lazy]:
        del policy, progress, kind
        made = self.compute(*matrices, precision=precision, where="local")
        return [self.put(value) for value in (made if len(matrices) > 1 else (made,))]

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        work.close()
        raise Unavailable("there is no cluster: this client only computes by itself")


class _Borrowing(Offline):
    """Reads operands where they are, for one computation in this process that ends before anybody
    can change them."""

    def _keep(self, source: Source, *, durable: bool) -> Held:
        del durable
        matrix = source.stored_type(name_of(source.array.dtype, field="the matrix"))
        return Held(matrix, np.ascontiguousarray(source.array, numpy_dtype(matrix.dtype)))


class Client(Products, Trainings):
    """A connection to a cluster.

    `Client("host:port")`, else DEADHEAT_SCHEDULER, else this user's scheduler at the default
    address, else a LocalCluster of its own that ends with the client; it is started when it is
    first needed, and products that are computed in this process do not need it. Use the client in
    a `with` block, or `close` it. Safe to use from several threads.
    """

    def __init__(self, scheduler: str | None = None) -> None:
        settings = ClientSettings.load(Sources("client", {"scheduler": scheduler}))
        self._own_cluster: LocalCluster | None = None
        self._starting = threading.Lock()
        self._loop = LoopThread()
        self._places = Places(None)
        self._opened: tuple[Connection, Transfers] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._held = set()
        self._resident = {}
        self._is_closed = False
        try:
            self._open(settings)
        except Unavailable:
            if settings.is_explicit:
                self._loop.stop()
                raise
        except BaseException:
            self._loop.stop()
            raise

    def _open(self, settings: ClientSettings) -> None:
        connection = self._loop.call(self._connect(settings))
        self._opened = connection, Transfers(connection)
        self._places.shares_memory = connection.shared is not None
        self._places.ask = lambda: self._loop.submit(self._hear())

    def _here(self) -> Offline:
        return Offline()

    def _borrowing(self) -> Offline:
        return _Borrowing()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._ensure_cluster()
        except BaseException:
            work.close()
            raise
        return self._loop.call(work)

    def _ensure_cluster(self) -> None:
        """Starts a cluster of our own if there was none, now that something needs one."""
        if self._opened:
            return
        with self._starting:
            if self._opened:
                return
            if self._is_closed:
                raise Unavailable("the client is closed")
            self._own_cluster = LocalCluster()
            self._open(ClientSettings(self._own_cluster.address, is_explicit=True, tls=None))

    @property
    def _connection(self) -> Connection:  # type: ignore[override]
        assert self._opened, "_ensure_cluster() first"
        return self._opened[0]

    @property
    def _transfers(self) -> Transfers:  # type: ignore[override]
        assert self._opened, "_ensure_cluster() first"
        return self._opened[1]

    async def _hear(self) -> News:
        """What the devices can give now, and how far away the scheduler is."""
        started_s = time.perf_counter()
        with rpc.translated("asking what the cluster can give"):
            answer = await self._connection.cluster.ListNodes(
                cluster_pb2.ClusterServiceListNodesRequest(), timeout=rpc.CALL_TIMEOUT_S
            )
        now_s = time.perf_counter()
        return News.of(answer.nodes, now_s - started_s, now_s)

    @staticmethod
    async def _connect(settings: ClientSettings) -> Connection:
        connection = Connection(settings.scheduler, settings.tls)
        try:
            await connection.open()
            if not settings.is_explicit and connection.user != hosts.user_name():
                raise Unavailable(f"the scheduler at {settings.scheduler} is another user's")
        except DeadheatError:
            await connection.close()
            raise
        return connection

    @property
    def models(self) -> Models:
        """Networks that the cluster keeps by name and version, and serves."""
        return Models(
            Link(
                owner=self,
                call=self._call,
                submit=self._submitted,
                connection=lambda: self._connection,
                transfers=lambda: self._transfers,
                download=self._download,
            )
        )

    def _submitted(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            self._ensure_cluster()
        except BaseException:
            work.close()
            raise
        return self._loop.submit(work)

    @property
    def address(self) -> str:
        self._ensure_cluster()
        return self._connection.address

    @property
    def shares_memory(self) -> bool:
        """Whether matrices are mapped (same host) rather than streamed."""
        self._ensure_cluster()
        return self._connection.shared is not None

    # Watching

    def _watch(
        self,
        job: Job,
        collect: Collect,
        said: job_pb2.JobServiceWatchResponse | None = None,
    ) -> None:
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

    async def _download(self, result: types_pb2.Result) -> Array:
        """Fetches a result; a store that was started anew meanwhile is looked for."""
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(MAX_DOWNLOADS),
            wait=wait_random_exponential(multiplier=WATCH_RETRY_S, max=4 * WATCH_RETRY_S),
            retry=retry_if_exception_type(Unavailable),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    await self._connection.open()
                return await self._transfers.download(result)
        raise AssertionError("the last attempt returns or raises")

    async def _last_update(self, job: Job) -> job_pb2.JobServiceWatchResponse:
        failures = 0
        while True:
            request = job_pb2.JobServiceWatchRequest(job_id=job.id)
            try:
                async for update in self._connection.jobs.Watch(request):
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

    def job(self, job_id: str) -> Job:
        """A job by its id, or "last": the newest of this user. Its future follows it."""
        found = self._get(job_id)
        return self._call(self._adopt(found))

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

        async def fetch() -> tuple[Array, ...]:
            return tuple([await self._download(result) for result in found.results])

        return self._call(fetch())

    # The end

    def close(self) -> None:
        """Ends the connection; jobs go on, arrays that you have stay valid. What `put` and
        `persist` hold is given up."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._starting:
            if self._opened:
                self._loop.call(self._let_go())
                self._loop.call(self._transfers.close())
                self._loop.call(self._connection.close())
        self._resident.clear()
        self._loop.stop()
        if self._own_cluster:
            self._own_cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_last(update: job_pb2.JobServiceWatchResponse) -> bool:
    return update.state not in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)
