"""A job as a future: works with `concurrent.futures.wait` and `as_completed`, and with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from deadheat.client.reports import Report, job_state_name
from deadheat.runtime.errors import DeadheatError, InvalidInput, JobCancelled, JobFailed, TimedOut
from deadheat.v1 import job_pb2 as pb
from deadheat.v1 import types_pb2

if TYPE_CHECKING:
    from deadheat.client.inquiries import Inquiries


class Job(Future[Any]):
    """A submitted job. `result(timeout)` is the product, or raises why there is none."""

    def __init__(self, cluster: Inquiries, job_id: str) -> None:
        super().__init__()
        self.id = job_id
        self._cluster = cluster
        self._updates: list[Callable[[pb.JobServiceWatchResponse], None]] = []
        self._last: pb.JobServiceWatchResponse | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def state(self) -> str:
        """Where the job was when we last heard of it."""
        return job_state_name(self._last.state) if self._last else "queued"

    def report(self) -> Report:
        """The job's report, asked for now."""
        return self._cluster.report(self.id)

    def explain(self) -> str:
        """Why each device got its share, as text."""
        return self._cluster.explain(self.id)

    def cancel(self) -> bool:
        """Asks the scheduler to cancel; True if the job is cancelled, False if it had ended."""
        if self.done():
            return self.cancelled()
        if self._cluster.cancel(self.id) != "cancelled":
            return False
        self._settle_cancelled()
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self).__await__()

    # For the client's loop

    def on_update(self, tell: Callable[[pb.JobServiceWatchResponse], None]) -> None:
        self._updates.append(tell)
        if self._last:
            tell(self._last)

    def note(self, update: pb.JobServiceWatchResponse) -> None:
        self._last = update
        for tell in self._updates:
            tell(update)

    def settle(self, value: Any) -> None:
        if not self.done():
            self.set_result(value)

    def settle_failure(self, error: BaseException) -> None:
        if isinstance(error, JobCancelled):
            self._settle_cancelled()
        elif not self.done():
            self.set_exception(error)

    def _settle_cancelled(self) -> None:
        if not self.done() and super().cancel():
            self.set_running_or_notify_cancel()


def failure_of(failure: types_pb2.Failure) -> DeadheatError:
    """The error that a failed job raises; its `cause` is the stable code."""
    if failure.code == JobCancelled.code:
        return JobCancelled(failure.message)
    if failure.code == TimedOut.code:
        return TimedOut(failure.message)
    if failure.code == InvalidInput.code:
        return InvalidInput(failure.message)
    return JobFailed(failure.message, cause=failure.code)
