"""Records: schema against migrations, commits in groups, back again after a restart."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect
from tests.scheduler.core.harness import Pool
from tests.waiting import wait_until

from deadheat import migrations
from deadheat.runtime.errors import Conflict, DataLost
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.report import JobReport, report_of
from deadheat.scheduler.records import database
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.records.reading import Reader
from deadheat.scheduler.records.tables import Base
from deadheat.scheduler.records.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "deadheat.db"
    assert database.migrate(found) is None
    return found


def committed(path: Path, changes: list[effects.Change], clock: Clock) -> None:
    writer = Writer(database.open_engine(path, writes=True), clock)
    done = threading.Event()
    writer.submit(changes, done.set)
    assert done.wait(60)
    writer.stop(60)


def test_tables_are_what_the_migrations_make(path: Path) -> None:
    engine = database.open_engine(path, writes=False)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrations_go_up_down_and_up(path: Path) -> None:
    engine = database.open_engine(path, writes=True)
    with engine.begin() as connection:
        migrations.downgrade(connection, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    with engine.begin() as connection:
        migrations.upgrade(connection)
        assert migrations.current(connection) == migrations.head()
    engine.dispose()


def test_what_an_older_release_knew_of_speed_is_still_known(path: Path) -> None:
    pool, clock = finished_pool()
    committed(path, pool.committed, clock)
    engine = database.open_engine(path, writes=True)
    with engine.begin() as connection:
        migrations.downgrade(connection, "0001")
    engine.dispose()
    database.migrate(path)
    nodes = Reader(database.open_engine(path, writes=False), clock).nodes()
    found = next(node for node in nodes if node.name == "a").histories["a/cpu"]
    assert found.model == pool.core.world.devices["a/cpu"].model
    # It does not know whose claims those were: those that come next are taken as new.
    assert (found.calibration, found.bias, found.counts) == ("", 1.0, {})


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(Conflict, match="schema 9999, which is newer than this deadheat"):
        database.migrate(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 6] = b"\xff" * 4096 * 4
    path.write_bytes(content)
    with pytest.raises(DataLost, match=r"is damaged.*nothing was changed"):
        database.migrate(path)
    assert path.read_bytes() == bytes(content)
    assert database.check(path)


def test_a_backup_is_a_sound_database(path: Path, tmp_path: Path) -> None:
    database.backup(path, tmp_path / "copy.db")
    assert database.check(tmp_path / "copy.db") == []
    with pytest.raises(Conflict, match="exists already"):
        database.backup(path, tmp_path / "copy.db")


def test_one_scheduler_has_a_state_directory(tmp_path: Path) -> None:
    lock = database.lock_state_dir(tmp_path / "state")
    with pytest.raises(Conflict, match="in use by another scheduler"):
        database.lock_state_dir(tmp_path / "state")
    assert lock >= 0


def test_what_cannot_be_committed_now_is_committed_later(path: Path) -> None:
    clock = Clock.start()
    writer = Writer(database.open_engine(path, writes=True), clock)
    blocker = sqlite3.connect(path, isolation_level=None)
    done = threading.Event()
    # The database is taken away for a while: a commit fails, is told, and is tried again.
    blocker.execute("ALTER TABLE events RENAME TO hidden")
    writer.submit([effects.EventRow(clock.now(), "test")], done.set)
    wait_until(lambda: writer.is_stalled, "the stall to be noticed")
    assert "events" in writer.problem
    assert not done.is_set()
    blocker.execute("ALTER TABLE hidden RENAME TO events")
    assert done.wait(60)
    assert not writer.is_stalled
    writer.stop(60)
    assert blocker.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_commits_come_in_order_and_in_groups(path: Path) -> None:
    clock = Clock.start()
    writer = Writer(database.open_engine(path, writes=True), clock)
    seen: list[int] = []
    for number in range(500):
        writer.submit([effects.EventRow(clock.now(), f"e{number}")], partial(seen.append, number))
    writer.stop(60)
    assert seen == list(range(500))


def finished_pool() -> tuple[Pool, Clock]:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    job = pool.submit()
    pool.pass_time(1.0)
    b = pool.on(job, "b")
    pool.feed(
        events.SubtaskResized(
            "b", b.id, [b.rectangle.with_rows(b.rectangle.row_stop - 500, b.rectangle.row_stop)]
        )
    )
    while active := pool.active(job):
        pool.pass_time(0.2)
        pool.finish(active[0])
    inline = pool.submit(2000, 2000, 8, inline=True)
    pool.pass_time(0.1)
    pool.finish(pool.active(inline)[0])
    return pool, Clock(1_700_000_000.0)


def rounded(report: JobReport) -> JobReport:
    """Times of day are kept to the microsecond; the order of placements is nobody's business."""
    changes: dict[str, Any] = {
        field.name: round(value, 5)
        for field in fields(report)
        if isinstance(value := getattr(report, field.name), float)
    }
    ordered = sorted(report.placements, key=lambda p: (p.rectangle, p.attempt))
    return replace(report, **changes, devices=list(report.devices), placements=ordered)


def test_a_job_reads_the_same_from_memory_and_from_the_database(path: Path) -> None:
    pool, clock = finished_pool()
    committed(path, pool.committed, clock)
    reader = Reader(database.open_engine(path, writes=False), clock)
    for job in pool.jobs.values():
        expected = report_of(job, {"a/cpu": "cpu", "b/cpu": "cpu"})
        found = reader.job_report(job.id)
        assert found is not None
        assert rounded(found) == rounded(expected)
    assert [job.id for job in reader.list_jobs("tester", 10)] == ["j2", "j1"]
    assert reader.newest_job("tester") == "j2"
    assert reader.newest_job("nobody") is None
    ((_, record),) = reader.results("j2")
    assert record.data == bytes(2000 * 8 * 8)
    assert reader.find_request("r1") == "j1"


def test_open_jobs_are_read_back_as_they_were(path: Path) -> None:
    pool = Pool()
    pool.join("a")
    pool.join("b")
    pool.submit(timeout_s=1000.0)
    clock = Clock(1_700_000_000.0)
    committed(path, pool.committed, clock)
    reader = Reader(database.open_engine(path, writes=False), clock)
    (found,) = reader.unfinished_jobs()
    job = pool.jobs["j1"]
    assert found.row.program == job.program
    assert found.row.policy == job.policy
    assert found.row.result_ids == ["result1"]
    assert {p.row.id for p in found.placements} == set(job.subtasks)
    assert {node.name for node in reader.nodes()} == {"a", "b"}
    (device,) = next(node for node in reader.nodes() if node.name == "a").devices
    assert device.points == pool.core.world.devices["a/cpu"].facts.points


def test_what_is_past_its_time_goes_and_open_jobs_never_do(path: Path) -> None:
    pool, clock = finished_pool()
    pool.submit(timeout_s=1e9)
    pool.feed(events.CancelAsked("j2"))
    committed(path, pool.committed, clock)
    reader = Reader(database.open_engine(path, writes=False), clock)

    def after(days: float) -> list[str]:
        committed(path, [effects.Prune(pool.now + days * 86400)], clock)
        return [job.id for job in reader.list_jobs("tester", 10)]

    assert after(0.5) == ["j3", "j2", "j1"]
    ((_, record),) = reader.results("j2")
    assert record.data is not None
    assert after(2.0) == ["j3", "j2", "j1"]
    ((_, record),) = reader.results("j2")
    assert record.data is None
    assert after(400.0) == ["j3"]
    assert reader.job_report("j3") is not None


def test_no_more_jobs_are_kept_than_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, clock = finished_pool()
    committed(path, pool.committed, clock)
    monkeypatch.setattr("deadheat.scheduler.records.retention.MAX_JOBS", 1)
    committed(path, [effects.Prune(pool.now)], clock)
    reader = Reader(database.open_engine(path, writes=False), clock)
    assert len(reader.list_jobs("tester", 10)) == 1
