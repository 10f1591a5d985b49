"""Models and their batches in the database: back after a restart, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from tests.scheduler.core.harness import Pool

from deadheat.runtime import wire
from deadheat.runtime.programs import Gemm, MatrixType, Operand, Program, gemm_program
from deadheat.scheduler.core import effects
from deadheat.scheduler.core.machine import JobState, SubtaskState
from deadheat.scheduler.core.state import Job
from deadheat.scheduler.records import database, retention, tables
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.models import Models, end_served
from deadheat.scheduler.records.reading import Reader
from deadheat.scheduler.records.writer import Writer
from deadheat.v1 import types_pb2

CLOCK = Clock.start()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    path = tmp_path / "deadheat.db"
    database.migrate(path)
    found = database.open_engine(path, writes=True)
    yield found
    found.dispose()


def committed(engine: Engine, *changes: effects.Change) -> None:
    writer, done = Writer(engine, CLOCK), threading.Event()
    writer.submit(changes, done.set)
    assert done.wait(60)
    writer.stop(60)


def row(model_id: str, name: str, version: int, **change: Any) -> effects.ModelRow:
    values: dict[str, Any] = {
        "id": model_id,
        "name": name,
        "version": version,
        "request_id": f"r-{model_id}",
        "user": "me",
        "created_s": CLOCK.now(),
        "size_bytes": 3,
        "layers": "[]",
        "parameters": [{"matrix_id": "m1", "rows": 1, "columns": 3, "dtype": "int8", "shape": [3]}],
        "program": b"program",
        "samples": "x",
        "metadata": '{"a": 1}',
        "data_hash": "",
        "code_version": "1",
        "training": "",
    }
    return effects.ModelRow(**{**values, **change})


def test_models_come_back_as_they_were_and_numbers_of_deleted_ones_stay_taken(
    engine: Engine,
) -> None:
    committed(engine, row("v1", "m", 1), row("v2", "m", 2), row("v3", "other", 1, program=None))
    committed(engine, effects.ModelsDeleted(["v2", "v3"]))
    reading = Models(engine)
    registry = reading.registry()
    assert registry.newest == {"m": 2, "other": 1}
    assert registry.holders == ["model:v1"]
    assert registry.find("m").number == 1
    assert registry.saved_by("r-v1") == registry.find("m")
    assert registry.reserve("v4", "m", "r4").number == 3
    found = reading.get("v1")
    assert found is not None
    assert (found.about, found.program, found.samples) == ('{"a": 1}', b"program", "x")
    assert found.parameters[0]["shape"] == [3]
    assert reading.get("v2") is None
    assert [record.id for record in reading.listed("", 10)] == ["v1"]
    assert reading.listed("other", 10) == []


def counts(engine: Engine) -> dict[str, int]:
    records = (tables.JobRecord, tables.PlacementRecord, tables.PlanRecord, tables.EventRecord)
    with engine.connect() as connection:
        return {
            record.__tablename__: connection.execute(
                select(func.count()).select_from(record)
            ).scalar_one()
            for record in records
        }


X = MatrixType(8, 8, "float64")
PROGRAM = gemm_program(
    (Operand("x", X, inline=b"12345678" * 64), Operand("w", X, matrix_id="m1")), Gemm()
)


def batch(pool: Pool, model: str, *, is_ended: bool = True) -> Job:
    """A job that computes calls of a model."""
    job = pool.submit(program=PROGRAM, inline=True, model=model)
    if is_ended:
        for subtask in pool.active(job):
            pool.finish(subtask)
        assert job.state is JobState.DONE
        pool.now += 1.0
    return job


def joined() -> Pool:
    pool = Pool()
    pool.now = CLOCK.now()
    pool.join("a")
    pool.sample("a")
    return pool


def test_a_batch_keeps_its_record_and_no_rows(engine: Engine) -> None:
    pool = joined()
    job = batch(pool, "m 1")
    assert job.program.sources["x"].inline is None
    assert not any(isinstance(change, effects.ResultBytes) for change in pool.committed)
    assert job.steps[0].inline is not None  # For those who called.
    committed(engine, *pool.committed)
    with engine.connect() as connection:
        found = connection.execute(select(tables.JobRecord.program, tables.JobRecord.model)).one()
    assert found.model == "m 1"
    assert b"12345678" not in found.program
    assert counts(engine)["placements"] == 1


def test_a_job_keeps_what_it_was_given_until_it_ends(engine: Engine) -> None:
    pool = joined()
    job = pool.submit(program=PROGRAM, inline=True)

    def on_record() -> Program:
        committed(engine, *pool.committed)
        pool.committed.clear()
        with engine.connect() as connection:
            found = connection.execute(select(tables.JobRecord.program)).scalar_one()
        return wire.program_from_wire(types_pb2.Program.FromString(found))

    assert on_record() == PROGRAM
    for subtask in pool.active(job):
        pool.finish(subtask)
    left = on_record()
    assert left == job.program
    assert (left.operations, left.results) == (PROGRAM.operations, PROGRAM.results)
    assert [(one.name, one.type, one.inline) for one in left.operands] == [
        ("x", X, None),
        ("w", X, None),
    ]


def test_only_the_newest_batches_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_SERVED", 2)
    pool = joined()
    *_, fourth, fifth = [batch(pool, "m 1") for _ in range(5)]
    own = batch(pool, "")
    committed(engine, *pool.committed)
    committed(engine, effects.PruneServed())
    with engine.connect() as connection:
        left = connection.execute(select(tables.JobRecord.id)).scalars().all()
    assert sorted(left) == [fourth.id, fifth.id, own.id]
    assert counts(engine)["placements"] == counts(engine)["plans"] == 3


def test_batches_that_were_open_are_ended_at_the_next_start(engine: Engine) -> None:
    pool = joined()
    job = batch(pool, "m 1", is_ended=False)
    own = batch(pool, "", is_ended=False)
    committed(engine, *pool.committed)
    end_served(engine, CLOCK)
    reader = Reader(engine, CLOCK)
    assert [found.row.id for found in reader.unfinished_jobs()] == [own.id]
    report = reader.job_report(job.id)
    assert report is not None
    assert report.state is JobState.CANCELLED
    assert report.failure
    assert "its callers call again" in report.failure.message
    assert [placement.state for placement in report.placements] == [SubtaskState.CANCELLED]
