"""Reading the database: unfinished jobs after a restart, and reports of jobs long past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from deadheat.runtime import wire
from deadheat.runtime.programs import GemmShape, Op, Precision, Rectangle
from deadheat.scheduler.core import effects, events, report
from deadheat.scheduler.core.machine import JobState, NodeState, SubtaskState
from deadheat.scheduler.core.restore import RestoredJob, RestoredNode, RestoredPlacement
from deadheat.scheduler.planner.history import Count, SpeedHistory
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.speed import Kind, ShapeClass, SpeedModel, SpeedPoint
from deadheat.scheduler.records import tables
from deadheat.scheduler.records.clock import Clock
from deadheat.v1 import types_pb2


class Reader:
    """Blocking: the daemon calls it from a thread."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    # For a restart

    def nodes(self) -> list[RestoredNode]:
        with Session(self._engine) as session:
            histories = self._histories(session)
            devices: dict[str, list[events.DeviceFacts]] = {}
            for d in session.scalars(select(tables.DeviceRecord)):
                points = histories[d.id].model.points
                facts = events.DeviceFacts(d.id, d.kind, d.model, d.threads, d.memory_bytes, points)
                devices.setdefault(d.node, []).append(facts)
            return [
                RestoredNode(
                    n.name,
                    n.instance,
                    n.host,
                    n.version,
                    NodeState(n.state),
                    devices.get(n.name, []),
                    {facts.id: histories[facts.id] for facts in devices.get(n.name, [])},
                )
                for n in session.scalars(select(tables.NodeRecord))
            ]

    @staticmethod
    def _histories(session: Session) -> Mapping[str, SpeedHistory]:
        points: dict[str, list[SpeedPoint]] = {}
        ordered = select(tables.SpeedPointRecord).order_by(tables.SpeedPointRecord.id)
        for p in session.scalars(ordered):
            shape = GemmShape(p.rows, p.inner, p.columns, p.dtype, Op(p.operation))
            points.setdefault(p.device, []).append(SpeedPoint(shape, p.seconds))
        counts: dict[str, dict[Kind, Count]] = {}
        for k in session.scalars(select(tables.SpeedKindRecord)):
            kind = Kind(Op(k.operation), k.dtype, ShapeClass(k.shape_class))
            count = Count(k.samples, k.outliers, k.outliers_in_a_row)
            counts.setdefault(k.device, {})[kind] = count
        return {
            d.id: SpeedHistory(
                SpeedModel.of_claims(points.get(d.id, ())),
                d.calibration,
                d.bias,
                counts.get(d.id, {}),
            )
            for d in session.scalars(select(tables.DeviceRecord))
        }

    def unfinished_jobs(self) -> list[RestoredJob]:
        open_states = [state.value for state in JobState if not state.is_final]
        query = select(tables.JobRecord).where(tables.JobRecord.state.in_(open_states))
        with Session(self._engine) as session:
            records = session.scalars(query.order_by(tables.JobRecord.submitted_at)).all()
            return [self._restored(session, record) for record in records]

    def _restored(self, session: Session, record: tables.JobRecord) -> RestoredJob:
        operations = session.scalars(
            select(tables.OperationRecord)
            .where(tables.OperationRecord.job_id == record.id)
            .order_by(tables.OperationRecord.number)
        )
        plans = session.scalars(
            select(tables.PlanRecord)
            .where(tables.PlanRecord.job_id == record.id)
            .order_by(tables.PlanRecord.number)
        )
        policy = record.policy
        row = effects.JobRow(
            id=record.id,
            request_id=record.request_id,
            user=record.user,
            kind=record.kind,
            program=wire.program_from_wire(types_pb2.Program.FromString(record.program)),
            policy=events.JobPolicy(
                cut=Cut(policy["cut"]),
                timeout_s=policy["timeout_s"],
                is_power_durable=policy["is_power_durable"],
                priority=policy["priority"],
            ),
            submitted_s=self._clock.monotonic(record.submitted_at),
            result_ids=[operation.matrix_id or "" for operation in operations],
        )
        started = record.started_at
        return RestoredJob(
            row=row,
            state=JobState(record.state),
            started_at_s=self._clock.monotonic(started) if started else None,
            values={
                "planning_s": record.planning_s,
                "resplits": record.resplits,
                "pool_flops": record.pool_flops,
                "predicted_makespan_s": record.predicted_makespan_s,
                "bytes_lower_bound": record.bytes_lower_bound,
            },
            plans=[(plan.document, plan.text) for plan in plans],
            placements=[_placement(p) for p in self._placements(session, record.id)],
        )

    @staticmethod
    def _placements(session: Session, job: str) -> Sequence[tables.PlacementRecord]:
        record = tables.PlacementRecord
        query = select(record).where(record.job_id == job)
        return session.scalars(query.order_by(record.plan, record.id)).all()

    # For those who ask

    def find_request(self, request_id: str) -> str | None:
        """The job that an earlier submission with this request id made."""
        query = select(tables.JobRecord.id).where(tables.JobRecord.request_id == request_id)
        with Session(self._engine) as session:
            return session.scalar(query)

    def newest_job(self, user: str) -> str | None:
        record = tables.JobRecord
        query = select(record.id).where(record.user == user)
        with Session(self._engine) as session:
            return session.scalar(query.order_by(record.submitted_at.desc(), record.id.desc()))

    def list_jobs(self, user: str, limit: int) -> list[report.JobReport]:
        """Newest first, without devices and placements."""
        record = tables.JobRecord
        query = select(record).order_by(record.submitted_at.desc(), record.id.desc()).limit(limit)
        if user:
            query = query.where(record.user == user)
        with Session(self._engine) as session:
            return [self._report(job, [], {}) for job in session.scalars(query)]

    def job_report(self, job_id: str) -> report.JobReport | None:
        with Session(self._engine) as session:
            record = session.get(tables.JobRecord, job_id)
            if record is None:
                return None
            kinds = {d.id: d.kind for d in session.scalars(select(tables.DeviceRecord))}
            placements = [_placement_report(p) for p in self._placements(session, job_id)]
            return self._report(record, placements, kinds)

    def results(self, job_id: str) -> list[tuple[str, tables.MatrixRecord]]:
        record = tables.MatrixRecord
        query = select(record).where(record.job_id == job_id, record.role == "result")
        with Session(self._engine, expire_on_commit=False) as session:
            return [(found.name, found) for found in session.scalars(query)]

    def plans(self, job_id: str) -> list[tuple[dict[str, Any], str]]:
        record = tables.PlanRecord
        query = select(record).where(record.job_id == job_id).order_by(record.number)
        with Session(self._engine) as session:
            return [(plan.document, plan.text) for plan in session.scalars(query)]

    def _report(
        self,
        record: tables.JobRecord,
        placements: Sequence[report.PlacementReport],
        kinds: Mapping[str, str],
    ) -> report.JobReport:
        clock = self._clock
        started, finished = record.started_at, record.finished_at
        failure = None
        if record.error_code:
            failure = events.Failure(record.error_code, record.error_message or "")
        return report.JobReport(
            id=record.id,
            kind=record.kind,
            state=JobState(record.state),
            user=record.user,
            submitted_at_s=clock.monotonic(record.submitted_at),
            started_at_s=clock.monotonic(started) if started else None,
            finished_at_s=clock.monotonic(finished) if finished else None,
            makespan_s=record.makespan_s,
            predicted_makespan_s=record.predicted_makespan_s,
            finish_spread=record.finish_spread,
            efficiency=record.efficiency,
            serial_s=record.serial_s,
            serial_fraction=record.serial_fraction,
            bytes_moved=record.bytes_moved,
            bytes_lower_bound=record.bytes_lower_bound,
            resplits=record.resplits,
            failure=failure,
            note="",
            devices=report.devices_of(placements, kinds),
            placements=placements,
            precision=Precision(record.policy.get("precision", Precision.STRICT.value)),
        )


def _rectangle(p: tables.PlacementRecord) -> Rectangle:
    return Rectangle(p.row_start, p.row_stop, p.column_start, p.column_stop)


def _placement(p: tables.PlacementRecord) -> RestoredPlacement:
    row = effects.PlacementRow(
        id=p.id,
        job=p.job_id,
        operation=p.operation,
        operation_name=p.operation_name,
        plan=p.plan,
        rectangle=_rectangle(p),
        node=p.node,
        device=p.device,
        attempt=p.attempt,
        deaths=p.deaths,
        availability=p.availability,
        speed_flops=p.speed_flops,
        predicted_start_s=p.predicted_start_s,
        predicted_finish_s=p.predicted_finish_s,
        predicted_bytes=p.predicted_bytes,
    )
    return RestoredPlacement(
        row, SubtaskState(p.state), p.start_s, p.finish_s, p.bytes_in or 0, p.bytes_out or 0
    )


def _placement_report(p: tables.PlacementRecord) -> report.PlacementReport:
    return report.PlacementReport(
        operation=p.operation_name,
        rectangle=_rectangle(p),
        node=p.node,
        device=p.device,
        attempt=p.attempt,
        state=SubtaskState(p.state),
        availability=p.availability,
        speed_flops=p.speed_flops,
        predicted_start_s=p.predicted_start_s,
        predicted_finish_s=p.predicted_finish_s,
        start_s=p.start_s,
        finish_s=p.finish_s,
        flops=p.flops or 0.0,
        bytes_in=p.bytes_in or 0,
        bytes_out=p.bytes_out or 0,
    )
