"""Whether a job may come in: decided before anything is allocated, and refused with the number
that does not fit. Shapes and dtypes have been checked by then (a `Program` exists)."""

from __future__ import annotations

from typing import Final

from deadheat.runtime.errors import LimitReached, TimedOut
from deadheat.runtime.units import format_seconds
from deadheat.scheduler.core.events import Failure, JobPolicy
from deadheat.scheduler.core.world import World

#: Jobs that have not ended; one more is refused (the shell checks before it submits).
MAX_OPEN_JOBS: Final = 10_000


def room_refusal(world: World, writer_problem: str = "") -> Failure | None:
    """Why there is no room for any job now; `writer_problem` is why nothing can be recorded."""
    if writer_problem:
        message = f"no new jobs: the database cannot be written ({writer_problem})"
        return Failure(LimitReached.code, message)
    open_jobs = len(world.open)
    if open_jobs >= MAX_OPEN_JOBS:
        message = f"{open_jobs} jobs are open; the limit is {MAX_OPEN_JOBS}"
        return Failure(LimitReached.code, message)
    return None


def time_refusal(policy: JobPolicy, predicted_s: float) -> Failure | None:
    """Why a job that is predicted to take so long, from its submission to its end, is not worth
    starting.

    It is the failure that the job would end with, only sooner and before it took anything from
    others; so its code is the same.
    """
    if policy.timeout_s is None or predicted_s <= policy.timeout_s:
        return None
    message = (
        f"not finished within {policy.timeout_s:g} s, by prediction: it would take "
        f"{format_seconds(predicted_s)} on this pool as it is now"
    )
    return Failure(TimedOut.code, message)
