"""The tables, as the newest migration leaves them; a test holds the two against each other.

Nothing here is SQLite's own: PostgreSQL can take its place.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        bytes: LargeBinary,
        dict[str, Any]: JSON,
    }


Name = String(64)
DeviceId = String(128)
JobId = String(64)


class NodeRecord(Base):
    __tablename__ = "nodes"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    instance: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    changed_at: Mapped[datetime]


class DeviceRecord(Base):
    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(DeviceId, primary_key=True)
    node: Mapped[str] = mapped_column(Name, ForeignKey("nodes.name"))
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(256))
    threads: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Measured over modelled speed, and the digest of the claims that the model started from.
    bias: Mapped[float] = mapped_column(server_default="1")
    calibration: Mapped[str] = mapped_column(String(16), server_default="")


class SampleRecord(Base):
    __tablename__ = "samples"
    id: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(DeviceId)
    at: Mapped[datetime]
    window_s: Mapped[float]
    busy: Mapped[float]
    own: Mapped[float]
    foreign_load: Mapped[float]
    availability: Mapped[float]
    availability_low: Mapped[float]
    __table_args__ = (Index(None, "device", "at"),)


class SpeedPointRecord(Base):
    __tablename__ = "speed_points"
    id: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(DeviceId, index=True)
    dtype: Mapped[str] = mapped_column(String(16))
    rows: Mapped[int] = mapped_column(BigInteger)
    inner: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    operation: Mapped[str] = mapped_column(String(32), server_default="product")


class SpeedKindRecord(Base):
    """How many measurements of a kind agreed with the speed points, and how many did not."""

    __tablename__ = "speed_kinds"
    device: Mapped[str] = mapped_column(DeviceId, primary_key=True)
    operation: Mapped[str] = mapped_column(String(32), primary_key=True)
    dtype: Mapped[str] = mapped_column(String(16), primary_key=True)
    shape_class: Mapped[str] = mapped_column(String(16), primary_key=True)
    samples: Mapped[int]
    outliers: Mapped[int]
    outliers_in_a_row: Mapped[int]


class JobRecord(Base):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(JobId, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), unique=True)
    user: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    program: Mapped[bytes]
    policy: Mapped[dict[str, Any]]
    submitted_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    makespan_s: Mapped[float | None]
    predicted_makespan_s: Mapped[float | None]
    finish_spread: Mapped[float | None]
    efficiency: Mapped[float | None]
    serial_s: Mapped[float | None]
    serial_fraction: Mapped[float | None]
    planning_s: Mapped[float | None]
    pool_flops: Mapped[float | None]
    bytes_moved: Mapped[int | None] = mapped_column(BigInteger)
    bytes_lower_bound: Mapped[int | None] = mapped_column(BigInteger)
    resplits: Mapped[int]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    #: Name and version of the model whose calls it computed.
    model: Mapped[str | None] = mapped_column(String(96), index=True)
    __table_args__ = (Index(None, "user", "submitted_at"),)


class OperationRecord(Base):
    __tablename__ = "operations"
    job_id: Mapped[str] = mapped_column(JobId, ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    result: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String(16))
    flops: Mapped[float]
    matrix_id: Mapped[str | None] = mapped_column(String(64))


class MatrixRecord(Base):
    """Operands and results by name; `data` for those that travelled inline."""

    __tablename__ = "matrices"
    job_id: Mapped[str] = mapped_column(JobId, ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String(16))
    matrix_id: Mapped[str | None] = mapped_column(String(64))
    data: Mapped[bytes | None]


class PlanRecord(Base):
    __tablename__ = "plans"
    job_id: Mapped[str] = mapped_column(JobId, ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime]
    document: Mapped[dict[str, Any]]
    text: Mapped[str] = mapped_column(Text)


class PlacementRecord(Base):
    """One sub-task's assignment, predicted and actual. Seconds count from the job's start."""

    __tablename__ = "placements"
    id: Mapped[str] = mapped_column(String(96), primary_key=True)
    job_id: Mapped[str] = mapped_column(JobId, ForeignKey("jobs.id"), index=True)
    operation: Mapped[int]
    operation_name: Mapped[str] = mapped_column(String(128))
    plan: Mapped[int]
    row_start: Mapped[int] = mapped_column(BigInteger)
    row_stop: Mapped[int] = mapped_column(BigInteger)
    column_start: Mapped[int] = mapped_column(BigInteger)
    column_stop: Mapped[int] = mapped_column(BigInteger)
    node: Mapped[str] = mapped_column(Name)
    device: Mapped[str] = mapped_column(DeviceId)
    attempt: Mapped[int]
    deaths: Mapped[int]
    availability: Mapped[float]
    speed_flops: Mapped[float]
    predicted_start_s: Mapped[float]
    predicted_finish_s: Mapped[float]
    predicted_bytes: Mapped[int] = mapped_column(BigInteger)
    start_s: Mapped[float | None]
    finish_s: Mapped[float | None]
    cpu_s: Mapped[float | None]
    flops: Mapped[float | None]
    bytes_in: Mapped[int | None] = mapped_column(BigInteger)
    bytes_out: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))


class EventRecord(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    job_id: Mapped[str | None] = mapped_column(JobId, index=True)
    node: Mapped[str | None] = mapped_column(Name)
    detail: Mapped[str] = mapped_column(Text)


class ModelNameRecord(Base):
    """The highest number that a version of this name ever had."""

    __tablename__ = "model_names"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    newest: Mapped[int] = mapped_column(BigInteger)


class ModelRecord(Base):
    """A version of a model; its matrices are in the store, held for it."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), ForeignKey("model_names.name"))
    version: Mapped[int] = mapped_column(BigInteger)
    request_id: Mapped[str] = mapped_column(String(128), unique=True)
    user: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    layers: Mapped[str] = mapped_column(Text)
    parameters: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    program: Mapped[bytes | None]
    samples: Mapped[str] = mapped_column(String(128))
    #: The column's name means something else to SQLAlchemy.
    about: Mapped[str] = mapped_column("metadata", Text)
    data_hash: Mapped[str] = mapped_column(String(128))
    code_version: Mapped[str] = mapped_column(String(32))
    training: Mapped[str] = mapped_column(Text)
    __table_args__ = (UniqueConstraint("name", "version"),)
