"""Models in the database: written by the one writer, read by name and version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Engine, Table, select, update
from sqlalchemy.orm import Session

from deadheat.runtime.errors import Unavailable
from deadheat.scheduler.core import effects
from deadheat.scheduler.core.machine import JobState, SubtaskState
from deadheat.scheduler.core.models import Registry, Version
from deadheat.scheduler.records import tables
from deadheat.scheduler.records.clock import Clock


def _table(record: type[tables.Base]) -> Table:
    found = record.__table__
    assert isinstance(found, Table)
    return found


_MODELS: Final = _table(tables.ModelRecord)
_NAMES: Final = _table(tables.ModelNameRecord)

_Statement = tuple[str, Table, tuple[str, ...], dict[str, Any]]


def row(change: effects.ModelRow, clock: Clock) -> Iterator[_Statement]:
    name = {"name": change.name, "newest": change.version}
    yield "upsert", _NAMES, ("name",), name
    values = {
        "id": change.id,
        "name": change.name,
        "version": change.version,
        "request_id": change.request_id,
        "user": change.user,
        "created_at": clock.datetime(change.created_s),
        "size_bytes": change.size_bytes,
        "layers": change.layers,
        "parameters": [dict(parameter) for parameter in change.parameters],
        "program": change.program,
        "samples": change.samples,
        "metadata": change.metadata,
        "data_hash": change.data_hash,
        "code_version": change.code_version,
        "training": change.training,
    }
    yield "insert", _MODELS, (), values


def deleted(change: effects.ModelsDeleted, clock: Clock) -> Iterator[_Statement]:
    del clock
    for model_id in change.ids:
        yield "delete", _MODELS, ("id",), {"id": model_id}


class Models:
    """Reading. Blocking: the daemon calls it from a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def registry(self) -> Registry:
        record, names = tables.ModelRecord, tables.ModelNameRecord
        with Session(self._engine) as session:
            found = session.execute(
                select(record.id, record.name, record.version, record.request_id)
            ).all()
            newest = session.execute(select(names.name, names.newest)).all()
        return Registry.of(
            (Version(*columns) for columns in found), {row.name: row.newest for row in newest}
        )

    def get(self, model_id: str) -> tables.ModelRecord | None:
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(tables.ModelRecord, model_id)

    def listed(self, name: str, limit: int) -> Sequence[tables.ModelRecord]:
        """Newest first."""
        record = tables.ModelRecord
        query = select(record).order_by(record.created_at.desc(), record.id.desc()).limit(limit)
        if name:
            query = query.where(record.name == name)
        with Session(self._engine, expire_on_commit=False) as session:
            return session.scalars(query).all()


def end_served(engine: Engine, clock: Clock) -> None:
    """Ends jobs that computed calls when a scheduler before us stopped. Those who called were cut
    off with it, and call again."""
    jobs, placements = tables.JobRecord, tables.PlacementRecord
    open_jobs = [state.value for state in JobState if not state.is_final]
    active = [state.value for state in SubtaskState if state.is_active]
    which = jobs.model.is_not(None), jobs.state.in_(open_jobs)
    with engine.begin() as connection:
        connection.execute(
            update(placements)
            .where(placements.state.in_(active))
            .where(placements.job_id.in_(select(jobs.id).where(*which)))
            .values(state=SubtaskState.CANCELLED.value)
        )
        connection.execute(
            update(jobs)
            .where(*which)
            .values(
                state=JobState.CANCELLED.value,
                finished_at=clock.datetime(clock.now()),
                error_code=Unavailable.code,
                error_message="the scheduler stopped; its callers call again",
            )
        )
