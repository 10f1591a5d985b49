"""Whether a job may come in: decided before anything is allocated, and refused with the number
that does not fit. Shapes and dtypes have been checked by then (a `Program` exists)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deadheat.runtime.errors import LimitReached, TimedOut
from deadheat.runtime.programs import Program
from deadheat.runtime.units import format_bytes, format_seconds
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


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What the store may take for all matrices together; each lies whole in one of the two."""

    memory_bytes: int
    disk_bytes: int


def store_refusal(program: Program, limits: StoreLimits) -> Failure | None:
    """Why the store could not hold what the job makes, were it empty."""
    types, most_bytes = program.types, max(limits.memory_bytes, limits.disk_bytes)
    made = (operation.result for operation in program.operations)
    too_large = next((name for name in made if types[name].size_bytes > most_bytes), "")
    wanted_bytes = sum(types[name].size_bytes for name in program.results)
    if too_large:
        what = f"{too_large!r} has {format_bytes(types[too_large].size_bytes)}"
    elif wanted_bytes > limits.memory_bytes + limits.disk_bytes:
        what = f"all results together have {format_bytes(wanted_bytes)}"
    else:
        return None
    message = (
        f"{what}; the store may take {format_bytes(limits.memory_bytes)} of memory and "
        f"{format_bytes(limits.disk_bytes)} of disk (settings: memory, disk)"
    )
    return Failure(LimitReached.code, message)


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
