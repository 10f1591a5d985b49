"""The core's changes as SQL statements, in batches by table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    update,
)

from deadheat.runtime import wire
from deadheat.runtime.precisions import precision_of
from deadheat.runtime.programs import MatrixType, Program
from deadheat.scheduler.core import effects
from deadheat.scheduler.records import models, retention, tables
from deadheat.scheduler.records.clock import Clock

Row = dict[str, Any]
Statement = tuple[str, Table, tuple[str, ...], Row]


def _table(record: type[tables.Base]) -> Table:
    found = record.__table__
    assert isinstance(found, Table)
    return found


_NODES: Final = _table(tables.NodeRecord)
_DEVICES: Final = _table(tables.DeviceRecord)
_SAMPLES: Final = _table(tables.SampleRecord)
_SPEED: Final = _table(tables.SpeedPointRecord)
_KINDS: Final = _table(tables.SpeedKindRecord)
_JOBS: Final = _table(tables.JobRecord)
_OPERATIONS: Final = _table(tables.OperationRecord)
_MATRICES: Final = _table(tables.MatrixRecord)
_PLANS: Final = _table(tables.PlanRecord)
_PLACEMENTS: Final = _table(tables.PlacementRecord)
_EVENTS: Final = _table(tables.EventRecord)


def apply(connection: Connection, changes: Iterable[effects.Change], clock: Clock) -> None:
    """Executes changes in order; neighbours of one kind become one batched statement."""
    kept = []
    for change in changes:
        if isinstance(change, effects.Prune):
            retention.prune(connection, change, clock)
        elif isinstance(change, effects.PruneServed):
            retention.prune_served(connection)
        else:
            kept.append(change)
    rows = (row for change in kept for row in _TRANSLATE[type(change)](change, clock))
    for (verb, table, keys, columns), group in groupby(rows, key=_shape):
        values = [row for _, _, _, row in group]
        if verb == "insert":
            connection.execute(_insert(table), values)
        elif verb == "delete":
            connection.execute(_delete(table, keys), [_keyed(row, keys) for row in values])
        elif verb == "upsert":
            for row in values:
                _upsert(connection, table, keys, row)
        else:
            statement = _update(table, keys, columns)
            connection.execute(statement, [_keyed(row, keys) for row in values])


# A statement is made once for each of the few shapes there are: making it costs more than SQLite
# takes to execute it.


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _delete(table: Table, keys: tuple[str, ...]) -> Delete:
    return delete(table).where(*_is_keyed(table, keys))


@cache
def _update(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> Update:
    named: Row = {name: bindparam(name) for name in columns if name not in keys}
    return update(table).where(*_is_keyed(table, keys)).values(named)


def _is_keyed(table: Table, keys: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [table.c[key] == bindparam(f"key_{key}") for key in keys]


def _shape(statement: Statement) -> tuple[str, Table, tuple[str, ...], tuple[str, ...]]:
    verb, table, keys, row = statement
    return verb, table, keys, tuple(row)


def _keyed(row: Row, keys: tuple[str, ...]) -> Row:
    return {f"key_{name}" if name in keys else name: value for name, value in row.items()}


def _upsert(connection: Connection, table: Table, keys: tuple[str, ...], row: Row) -> None:
    """In portable SQL: there is one writer, so nobody comes between the two statements."""
    where = [table.c[key] == row[key] for key in keys]
    if not connection.execute(update(table).where(*where).values(row)).rowcount:
        connection.execute(insert(table), [row])


def _node(change: effects.NodeRow, clock: Clock) -> Iterator[Statement]:
    row = {
        "name": change.name,
        "instance": change.instance,
        "host": change.host,
        "version": change.version,
        "state": change.state,
        "changed_at": clock.datetime(clock.now()),
    }
    yield "upsert", _NODES, ("name",), row


def _device(change: effects.DeviceRow, clock: Clock) -> Iterator[Statement]:
    del clock
    facts = change.facts
    row = {
        "id": facts.id,
        "node": change.node,
        "kind": facts.kind,
        "model": facts.model,
        "threads": facts.threads,
        "memory_bytes": facts.memory_bytes,
    }
    yield "upsert", _DEVICES, ("id",), row


def _speed(change: effects.SpeedRows, clock: Clock) -> Iterator[Statement]:
    del clock
    device, history = change.device, change.history
    known: Row = {"id": device, "bias": history.bias, "calibration": history.calibration}
    yield "update", _DEVICES, ("id",), known
    yield "delete", _SPEED, ("device",), {"device": device}
    for point in history.model.points:
        shape = point.shape
        row = {
            "device": device,
            "operation": shape.op.value,
            "dtype": shape.dtype,
            "rows": shape.rows,
            "inner": shape.inner,
            "columns": shape.columns,
            "seconds": point.seconds,
        }
        yield "insert", _SPEED, (), row
    yield "delete", _KINDS, ("device",), {"device": device}
    for kind, count in history.counts.items():
        row = {
            "device": device,
            "operation": kind.op.value,
            "dtype": kind.dtype,
            "shape_class": kind.shape_class.value,
            "samples": count.samples,
            "outliers": count.outliers,
            "outliers_in_a_row": count.in_a_row,
        }
        yield "insert", _KINDS, (), row


def _sample(change: effects.SampleRow, clock: Clock) -> Iterator[Statement]:
    row = {
        "device": change.device,
        "at": clock.datetime(change.at_s),
        "window_s": change.window_s,
        "busy": change.busy,
        "own": change.own,
        "foreign_load": change.foreign,
        "availability": change.availability,
        "availability_low": change.availability_low,
    }
    yield "insert", _SAMPLES, (), row


def _job(change: effects.JobRow, clock: Clock) -> Iterator[Statement]:
    policy, program = change.policy, change.program
    # Rows of calls come and go; the record is of the job.
    to_wire = wire.outline_to_wire if change.model else wire.program_to_wire
    row = {
        "id": change.id,
        "request_id": change.request_id,
        "user": change.user,
        "kind": change.kind,
        "state": "queued",
        "program": to_wire(program).SerializeToString(deterministic=True),
        "policy": {
            "cut": policy.cut.value,
            "timeout_s": policy.timeout_s,
            "is_power_durable": policy.is_power_durable,
            "priority": policy.priority,
            # For lists of jobs, which do not read programs.
            "precision": precision_of(program).value,
        },
        "submitted_at": clock.datetime(change.submitted_s),
        "resplits": 0,
        "model": change.model or None,
    }
    yield "insert", _JOBS, (), row
    for operand in program.operands:
        yield from _matrix(change.id, operand.name, "operand", operand.type, operand.matrix_id)
    yield from _operations(change.id, program, change.result_ids)


def _program(change: effects.ProgramChange, clock: Clock) -> Iterator[Statement]:
    """Operands stay what they are; operations and what they make are written anew."""
    del clock
    program = change.program
    yield "update", _JOBS, ("id",), {"id": change.id, "program": _serialized(program)}
    yield "delete", _OPERATIONS, ("job_id",), {"job_id": change.id}
    for role in ("result", "intermediate"):
        yield "delete", _MATRICES, ("job_id", "role"), {"job_id": change.id, "role": role}
    yield from _operations(change.id, program, change.result_ids)


def _serialized(program: Program) -> bytes:
    return wire.program_to_wire(program).SerializeToString(deterministic=True)


def _operations(job: str, program: Program, result_ids: Sequence[str]) -> Iterator[Statement]:
    """All rows of one table after the other, so that each table takes one statement."""
    for operation, matrix_id in zip(program.operations, result_ids):
        role = "result" if operation.result in program.results else "intermediate"
        name = operation.result
        yield from _matrix(job, name, role, program.types[name], matrix_id)
    for number, operation in enumerate(program.operations):
        matrix = program.types[operation.result]
        row = {
            "job_id": job,
            "number": number,
            "result": operation.result,
            "kind": type(operation.kind).__name__.lower(),
            "rows": matrix.rows,
            "columns": matrix.columns,
            "dtype": matrix.dtype,
            "flops": program.flops_of(operation),
            "matrix_id": result_ids[number] or None,
        }
        yield "insert", _OPERATIONS, (), row


def _matrix(
    job: str, name: str, role: str, matrix: MatrixType, matrix_id: str
) -> Iterator[Statement]:
    row = {
        "job_id": job,
        "name": name,
        "role": role,
        "rows": matrix.rows,
        "columns": matrix.columns,
        "dtype": matrix.dtype,
        "matrix_id": matrix_id or None,
    }
    yield "insert", _MATRICES, (), row


def _job_change(change: effects.JobChange, clock: Clock) -> Iterator[Statement]:
    row: Row = {"id": change.id}
    for name, value in change.values.items():
        if name.endswith("_at_s"):
            moment = None if value is None else clock.datetime(float(str(value)))
            row[name.removesuffix("_s")] = moment
        elif isinstance(value, Program):
            row[name] = _serialized(value)
        else:
            row[name] = value
    yield "update", _JOBS, ("id",), row


def _result(change: effects.ResultBytes, clock: Clock) -> Iterator[Statement]:
    del clock
    row = {"job_id": change.job, "name": change.name, "data": change.data}
    yield "update", _MATRICES, ("job_id", "name"), row


def _plan(change: effects.PlanRow, clock: Clock) -> Iterator[Statement]:
    row = {
        "job_id": change.job,
        "number": change.serial,
        "made_at": clock.datetime(change.made_at_s),
        "document": dict(change.document),
        "text": change.text,
    }
    yield "insert", _PLANS, (), row


def _placement(change: effects.PlacementRow, clock: Clock) -> Iterator[Statement]:
    del clock
    yield "insert", _PLACEMENTS, (), _placement_row(change)


def _placement_piece(change: effects.PlacementPiece, clock: Clock) -> Iterator[Statement]:
    del clock
    row = {**_placement_row(change.row), **change.values}
    yield "upsert", _PLACEMENTS, ("id",), row


def _placement_row(change: effects.PlacementRow) -> Row:
    rectangle = change.rectangle
    return {
        "id": change.id,
        "job_id": change.job,
        "operation": change.operation,
        "operation_name": change.operation_name,
        "plan": change.plan,
        "row_start": rectangle.row_start,
        "row_stop": rectangle.row_stop,
        "column_start": rectangle.column_start,
        "column_stop": rectangle.column_stop,
        "node": change.node,
        "device": change.device,
        "attempt": change.attempt,
        "deaths": change.deaths,
        "availability": change.availability,
        "speed_flops": change.speed_flops,
        "predicted_start_s": change.predicted_start_s,
        "predicted_finish_s": change.predicted_finish_s,
        "predicted_bytes": change.predicted_bytes,
        "state": "assigned",
    }


def _placement_change(change: effects.PlacementChange, clock: Clock) -> Iterator[Statement]:
    del clock
    yield "update", _PLACEMENTS, ("id",), {"id": change.id, **change.values}


def _event(change: effects.EventRow, clock: Clock) -> Iterator[Statement]:
    row = {
        "at": clock.datetime(change.at_s),
        "kind": change.kind,
        "job_id": change.job or None,
        "node": change.node or None,
        "detail": change.detail,
    }
    yield "insert", _EVENTS, (), row


_TRANSLATE: Final[Mapping[type[Any], Callable[[Any, Clock], Iterator[Statement]]]] = {
    effects.NodeRow: _node,
    effects.DeviceRow: _device,
    effects.SpeedRows: _speed,
    effects.SampleRow: _sample,
    effects.JobRow: _job,
    effects.ProgramChange: _program,
    effects.JobChange: _job_change,
    effects.ResultBytes: _result,
    effects.PlanRow: _plan,
    effects.PlacementRow: _placement,
    effects.PlacementChange: _placement_change,
    effects.PlacementPiece: _placement_piece,
    effects.EventRow: _event,
    effects.ModelRow: models.row,
    effects.ModelsDeleted: models.deleted,
}
