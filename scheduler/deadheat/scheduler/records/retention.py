"""How long records are kept: the database must not grow for ever.

A job's row, plan and placements are the record that people look back at; samples, small results
and events lose their use sooner.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from deadheat.scheduler.core.effects import Prune
from deadheat.scheduler.records import tables
from deadheat.scheduler.records.clock import Clock

RESULTS_KEPT: Final = dt.timedelta(days=1)
SAMPLES_KEPT: Final = dt.timedelta(days=14)
EVENTS_KEPT: Final = dt.timedelta(days=90)
JOBS_KEPT: Final = dt.timedelta(days=365)
#: However young they are, no more ended jobs than this are kept.
MAX_JOBS: Final = 1_000_000
#: Jobs that computed calls of models: a busy model makes a hundred a second.
MAX_SERVED: Final = 10_000
#: How often the daemon prunes.
INTERVAL_S: Final = 3600.0


def prune(connection: Connection, change: Prune, clock: Clock) -> None:
    """Deletes what is past its time, in the transaction that is open."""
    now = clock.datetime(change.now_s)
    jobs, matrices = tables.JobRecord, tables.MatrixRecord
    ended = jobs.finished_at.is_not(None)
    old_results = select(jobs.id).where(ended, jobs.finished_at < now - RESULTS_KEPT)
    connection.execute(
        update(matrices)
        .where(matrices.data.is_not(None), matrices.job_id.in_(old_results))
        .values(data=None)
    )
    sample, event = tables.SampleRecord, tables.EventRecord
    connection.execute(delete(sample).where(sample.at < now - SAMPLES_KEPT))
    connection.execute(delete(event).where(event.at < now - EVENTS_KEPT))
    limit = _oldest_kept(connection)
    cut = max(now - JOBS_KEPT, limit) if limit else now - JOBS_KEPT
    _forget(connection, ended, jobs.finished_at < cut)


def prune_served(connection: Connection) -> None:
    """Deletes all jobs of models but the newest."""
    jobs = tables.JobRecord
    served = jobs.model.is_not(None), jobs.finished_at.is_not(None)
    newest = select(jobs.finished_at).where(*served).order_by(jobs.finished_at.desc())
    oldest = connection.execute(newest.offset(MAX_SERVED - 1).limit(1)).scalar_one_or_none()
    if oldest is not None:
        _forget(connection, *served, jobs.finished_at < oldest)


def _forget(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Deletes jobs and all that belongs to them."""
    jobs, events = tables.JobRecord, tables.EventRecord
    old_jobs = select(jobs.id).where(*which)
    for record in (
        tables.PlacementRecord,
        tables.PlanRecord,
        tables.MatrixRecord,
        tables.OperationRecord,
    ):
        connection.execute(delete(record).where(record.job_id.in_(old_jobs)))
    # Two for each job: beyond their job nobody reads them.
    connection.execute(delete(events).where(events.job_id.in_(old_jobs)))
    connection.execute(delete(jobs).where(*which))


def _oldest_kept(connection: Connection) -> dt.datetime | None:
    """When the job ended that is the oldest of the newest MAX_JOBS; None if there are fewer."""
    jobs = tables.JobRecord
    count = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    if count <= MAX_JOBS:
        return None
    newest = select(jobs.finished_at).where(jobs.finished_at.is_not(None))
    return connection.execute(
        newest.order_by(jobs.finished_at.desc()).offset(MAX_JOBS - 1).limit(1)
    ).scalar_one_or_none()
