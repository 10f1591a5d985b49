"""The database file: locked, migrated with a backup, opened for one writer and some readers."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError

from deadheat import migrations
from deadheat.runtime import logs
from deadheat.runtime.errors import Conflict, DataLost, LimitReached

log = logs.get("records")

FILE_NAME: Final = "deadheat.db"
#: How long a writer waits for somebody's lock (a backup by hand) before it fails.
BUSY_TIMEOUT_MS: Final = 5_000


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def open_engine(path: Path, *, writes: bool) -> Engine:
    """An engine whose transactions are real ones: BEGIN IMMEDIATE for the writer, so that it never
    has to upgrade a read snapshot (SQLITE_BUSY_SNAPSHOT), plain BEGIN for readers."""
    engine = create_engine(url_of(path), pool_size=1 if writes else 4, max_overflow=0)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: object) -> None:
        del record
        connection.isolation_level = None  # The driver must not begin by itself.
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # An acknowledged commit survives a power loss.
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def lock_state_dir(state_dir: Path) -> int:
    """The lock of one scheduler on its state directory; it lasts as long as the descriptor."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Conflict(
            f"state directory {state_dir}: {error.strerror}", field="state_dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise Conflict(
            f"state directory {state_dir} is in use by another scheduler (process {owner})",
            field="state_dir",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def migrate(path: Path) -> str | None:
    """Brings the schema up to date, with a copy of the file before it changes; returns the copy's
    path. Raises Conflict for a newer schema and DataLost for a file that is damaged."""
    engine = open_engine(path, writes=True)
    try:
        with engine.begin() as connection:
            found = migrations.current(connection)
            if found is not None and not migrations.is_known(found):
                raise Conflict(
                    f"{path} has schema {found}, which is newer than this deadheat "
                    f"({migrations.head()}): upgrade deadheat, or restore a backup"
                )
            if found == migrations.head():
                _check(connection, path)
                return None
        backup = _backup_before(path, found) if found else None
        with engine.begin() as connection:
            migrations.upgrade(connection)
    except DatabaseError as error:
        raise _explain(path, error) from None
    finally:
        engine.dispose()
    return backup


def check(path: Path) -> list[str]:
    """What is wrong with a database file; nothing if it is sound."""
    engine = open_engine(path, writes=False)
    try:
        with engine.begin() as connection:
            rows = connection.execute(text("PRAGMA integrity_check")).scalars().all()
            found = migrations.current(connection)
    except DatabaseError as error:
        return [str(_explain(path, error))]
    finally:
        engine.dispose()
    problems = [str(row) for row in rows if row != "ok"]
    if found != migrations.head():
        problems.append(f"schema is {found}, this deadheat's is {migrations.head()}")
    return problems


def backup(path: Path, target: Path) -> None:
    """A consistent copy, also while a scheduler writes. The target must not exist."""
    if target.exists():
        raise Conflict(f"{target} exists already", field="target")
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    part = target.with_name(target.name + ".part")
    try:
        copy = sqlite3.connect(part)
        try:
            source.backup(copy)
        finally:
            copy.close()
        part.replace(target)
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise LimitReached(f"backup of {path} to {target}: {error}") from None
    finally:
        source.close()


def _backup_before(path: Path, version: str) -> str:
    target = path.with_name(f"{path.name}.before-{migrations.head()}-was-{version}")
    if not target.exists():
        backup(path, target)
    log.info("backed up the database before migrating", extra=logs.keys("backup", path=target))
    return str(target)


def _check(connection: Any, path: Path) -> None:
    problem = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
    if problem != "ok":
        raise _damaged(path, problem)


def _explain(path: Path, error: DatabaseError) -> DataLost | LimitReached:
    reason = str(error.orig)
    if "full" in reason or "readonly" in reason or "unable to open" in reason:
        return LimitReached(f"database {path}: {reason}")
    return _damaged(path, reason)


def _damaged(path: Path, reason: str) -> DataLost:
    reason = " ".join(reason.split())
    return DataLost(
        f"database {path} is damaged ({reason}); nothing was changed. Restore a backup "
        f"({path.name}.before-*), or move the file away to start afresh"
    )
