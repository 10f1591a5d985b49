"""Between the core's values and protobuf messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from deadheat.runtime import dtypes, rpc, wire
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import GemmShape, Op, Rectangle
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.barriers import barriers
from deadheat.scheduler.core.machine import JobState, NodeState, SubtaskState
from deadheat.scheduler.core.report import DeviceReport, JobReport, PlacementReport
from deadheat.scheduler.planner.availability import Sample
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.speed import SpeedPoint
from deadheat.scheduler.records.clock import Clock
from deadheat.scheduler.service import gpus, machines
from deadheat.v1 import agent_pb2, cluster_pb2, job_pb2, types_pb2

JOB_STATES: Final = {
    JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.DONE: job_pb2.JOB_STATE_DONE,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}
NODE_STATES: Final = {
    NodeState.UP: cluster_pb2.NODE_STATE_UP,
    NodeState.SUSPECT: cluster_pb2.NODE_STATE_SUSPECT,
    NodeState.LOST: cluster_pb2.NODE_STATE_LOST,
    NodeState.DRAINING: cluster_pb2.NODE_STATE_DRAINING,
    NodeState.DRAINED: cluster_pb2.NODE_STATE_DRAINED,
}
_PLACEMENT_STATES: Final = {
    SubtaskState.ASSIGNED: job_pb2.PLACEMENT_STATE_ASSIGNED,
    SubtaskState.RUNNING: job_pb2.PLACEMENT_STATE_RUNNING,
    SubtaskState.DONE: job_pb2.PLACEMENT_STATE_DONE,
    SubtaskState.FAILED: job_pb2.PLACEMENT_STATE_FAILED,
    SubtaskState.SUPERSEDED: job_pb2.PLACEMENT_STATE_SUPERSEDED,
    SubtaskState.CANCELLED: job_pb2.PLACEMENT_STATE_CANCELLED,
}
_KINDS: Final = {
    job_pb2.JOB_KIND_UNSPECIFIED: "program",
    job_pb2.JOB_KIND_MATMUL: "matmul",
    job_pb2.JOB_KIND_CHAIN: "chain",
    job_pb2.JOB_KIND_MLP: "mlp",
    job_pb2.JOB_KIND_TRAIN: "train",
    job_pb2.JOB_KIND_PROGRAM: "program",
}
_KINDS_BACK: Final = {name: wire_kind for wire_kind, name in _KINDS.items() if wire_kind}
_SPEED_OPS: Final[dict[int, Op]] = {
    agent_pb2.SPEED_OP_UNSPECIFIED: Op.PRODUCT,
    agent_pb2.SPEED_OP_PRODUCT: Op.PRODUCT,
    agent_pb2.SPEED_OP_SUM: Op.SUM,
    agent_pb2.SPEED_OP_TF32_PRODUCT: Op.TF32_PRODUCT,
}
_SPEED_OPS_BACK: Final = {
    Op.PRODUCT: agent_pb2.SPEED_OP_PRODUCT,
    Op.SUM: agent_pb2.SPEED_OP_SUM,
    Op.TF32_PRODUCT: agent_pb2.SPEED_OP_TF32_PRODUCT,
}
_CUTS: Final = {
    job_pb2.CUT_UNSPECIFIED: Cut.BALANCED,
    job_pb2.CUT_BALANCED: Cut.BALANCED,
    job_pb2.CUT_EQUAL: Cut.EQUAL,
    job_pb2.CUT_PEAK: Cut.PEAK,
    job_pb2.CUT_ONE_MINUS_UTILIZATION: Cut.ONE_MINUS_UTILIZATION,
}


#: Letters of a reason that somebody gives.
MAX_REASON: Final = 256
#: Letters of a card's UUID: NVML has 80 at most.
MAX_UUID: Final = 96

# From users


def kind_from_wire(kind: int) -> str:
    if kind not in _KINDS:
        raise InvalidInput(f"kind {kind} is unknown", field="kind")
    return _KINDS[job_pb2.JobKind.ValueType(kind)]


def policy_from_wire(message: job_pb2.JobPolicy) -> events.JobPolicy:
    if message.cut not in _CUTS:
        raise InvalidInput(f"cut {message.cut} is unknown", field="cut")
    timeout_s = message.timeout_s if message.HasField("timeout_s") else None
    if timeout_s is not None and not 0 < timeout_s < float("inf"):
        raise InvalidInput(
            f"timeout_s is {timeout_s}; it must be above 0 and finite", field="timeout_s"
        )
    return events.JobPolicy(
        cut=_CUTS[message.cut],
        timeout_s=timeout_s,
        is_power_durable=message.durability == job_pb2.DURABILITY_POWER,
        priority=message.priority,
    )


def failure_to_wire(failure: events.Failure) -> types_pb2.Failure:
    return types_pb2.Failure(code=failure.code, message=failure.message)


def failure_from_wire(message: types_pb2.Failure) -> events.Failure:
    return events.Failure(message.code, message.message)


def timestamp(clock: Clock, at_s: float | None) -> Timestamp | None:
    if at_s is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(clock.epoch(at_s) * 1e6))
    return stamp


def job_to_wire(
    report: JobReport, clock: Clock, results: Sequence[types_pb2.Result]
) -> job_pb2.Job:
    return job_pb2.Job(
        id=report.id,
        kind=_KINDS_BACK[report.kind],
        state=JOB_STATES[report.state],
        user=report.user,
        submitted_at=timestamp(clock, report.submitted_at_s),
        started_at=timestamp(clock, report.started_at_s),
        finished_at=timestamp(clock, report.finished_at_s),
        makespan_s=report.makespan_s,
        predicted_makespan_s=report.predicted_makespan_s,
        finish_spread=report.finish_spread,
        efficiency=report.efficiency,
        serial_s=report.serial_s,
        serial_fraction=report.serial_fraction,
        bytes_moved=report.bytes_moved,
        bytes_lower_bound=report.bytes_lower_bound,
        resplits=report.resplits,
        failure=failure_to_wire(report.failure) if report.failure else None,
        devices=[_job_device(device) for device in report.devices],
        placements=[_placement(placement) for placement in report.placements],
        results=results,
        note=report.note,
        precision=wire.precision_to_wire(report.precision),
        barriers=[
            job_pb2.Barrier(
                after=one.after,
                predicted_wait_s=one.predicted_wait_s,
                wait_s=one.wait_s,
                devices=one.devices,
            )
            for one in barriers(report.placements)
        ],
    )


def _job_device(device: DeviceReport) -> job_pb2.JobDevice:
    return job_pb2.JobDevice(
        node=device.node,
        device=device.device,
        kind=device.kind,
        share=device.share,
        availability=device.availability,
        speed_flops=device.speed_flops,
        predicted_finish_s=device.predicted_finish_s,
        finish_s=device.finish_s,
        busy_s=device.busy_s,
        flops=device.flops,
        bytes_in=device.bytes_in,
        bytes_out=device.bytes_out,
    )


def _placement(placement: PlacementReport) -> job_pb2.Placement:
    return job_pb2.Placement(
        operation=placement.operation,
        rectangle=wire.rectangle_to_wire(placement.rectangle),
        node=placement.node,
        device=placement.device,
        attempt=placement.attempt,
        predicted_start_s=placement.predicted_start_s,
        predicted_finish_s=placement.predicted_finish_s,
        start_s=placement.start_s,
        finish_s=placement.finish_s,
        state=_PLACEMENT_STATES[placement.state],
    )


# To and from agents; `at` turns the agent's clock into ours.


def registration(message: agent_pb2.Register) -> events.NodeRegistered:
    if not message.node or not message.instance or not message.devices:
        raise InvalidInput("a registration names a node, an instance and its devices")
    return events.NodeRegistered(
        node=message.node,
        instance=message.instance,
        host=message.host,
        cpus=frozenset(message.cpus),
        shares_cpus=message.shares_cpus,
        shares_memory=message.shares_memory,
        version=message.version,
        devices=[device_facts(device) for device in message.devices],
        held=[events.HeldSubtask(held.subtask_id, held.finished) for held in message.held],
        peer_address=_peer_address(message.peer_address),
        is_once=message.once,
    )


def device_facts(message: agent_pb2.DeviceInfo) -> events.DeviceFacts:
    return events.DeviceFacts(
        id=message.id,
        kind=message.kind,
        model=message.model,
        threads=max(1, message.threads),
        memory_bytes=message.memory_bytes,
        points=speed_points(message.speed_points),
        yields=message.yields[:MAX_REASON],
        uuid=message.uuid[:MAX_UUID],
    )


def _peer_address(address: str) -> str:
    if address:
        rpc.split_address(address)
    return address


def speed_points(messages: Sequence[agent_pb2.SpeedPoint]) -> tuple[SpeedPoint, ...]:
    found = []
    for point in messages:
        element = dtypes.from_wire(point.data_type, field="speed_points")
        # A newer agent may measure more than is planned with here.
        if op := _SPEED_OPS.get(point.op):
            shape = GemmShape(point.rows, point.inner, point.columns, element.name, op)
            found.append(SpeedPoint(shape, point.seconds))
    return tuple(found)


def speed_points_to_wire(points: Sequence[SpeedPoint]) -> list[agent_pb2.SpeedPoint]:
    return [
        agent_pb2.SpeedPoint(
            data_type=dtypes.element_type(point.shape.dtype).wire,
            rows=point.shape.rows,
            inner=point.shape.inner,
            columns=point.shape.columns,
            seconds=point.seconds,
            op=_SPEED_OPS_BACK[point.shape.op],
        )
        for point in points
    ]


def sampled(
    node: str, message: agent_pb2.Samples, threads: dict[str, int], at: Callable[[float], float]
) -> events.NodeSampled:
    return events.NodeSampled(
        node,
        [
            events.DeviceSampled(
                device=one.device,
                memory_free_bytes=one.memory_free_bytes,
                held=tuple(one.held_matrices),
                gpu=gpus.from_wire(one.gpu) if one.HasField("gpu") else None,
                memory_short_bytes=one.memory_short_bytes,
                unknown=one.unknown[: events.MAX_PROBLEM],
                sample=Sample(
                    at_s=at(one.at_s),
                    window_s=one.window_s,
                    busy=one.busy,
                    own=one.own,
                    foreign=one.foreign,
                    steal=one.steal,
                    foreign_runnable=one.foreign_runnable,
                    run_s=one.run_s,
                    wait_s=one.wait_s,
                    threads=threads.get(one.device, 1),
                    is_known=not one.unknown,
                    quota=one.quota if one.HasField("quota") else 1.0,
                    fair_share=one.fair_share if one.HasField("fair_share") else None,
                    is_prior=one.HasField("gpu"),
                ),
            )
            for one in message.devices
        ],
        machines.from_wire(message.host) if message.HasField("host") else None,
    )


def progress(message: agent_pb2.SubtaskProgress, at: Callable[[float], float]) -> events.Progress:
    return events.Progress(
        subtask=message.subtask_id,
        row_done=message.row_done,
        area_done=message.area_done,
        started_s=at(message.started_s),
        at_s=at(message.at_s),
        cpu_s=message.cpu_s,
        wall_s=message.wall_s,
        flops=message.flops,
    )


def finished(
    node: str, message: agent_pb2.Finished, at: Callable[[float], float]
) -> events.SubtaskFinished:
    return events.SubtaskFinished(
        node=node,
        progress=progress(message.progress, at),
        finished_s=at(message.finished_s),
        bytes_in=message.bytes_in,
        bytes_out=message.bytes_out,
        transfer_s=message.transfer_s,
        inline=message.inline,
    )


def resized(node: str, message: agent_pb2.Resized) -> events.SubtaskResized:
    released = [
        Rectangle(r.row_start, r.row_stop, r.column_start, r.column_stop) for r in message.released
    ]
    return events.SubtaskResized(node, message.subtask_id, released)


def failed(node: str, message: agent_pb2.Failed) -> events.SubtaskFailed:
    return events.SubtaskFailed(
        node=node,
        subtask=message.subtask_id,
        failure=failure_from_wire(message.failure),
        executor_died=message.executor_died,
        row_done=message.row_done,
    )


def assign(effect: effects.SendAssign) -> agent_pb2.AgentServiceSessionResponse:
    message = agent_pb2.Assign(
        subtask_id=effect.subtask,
        job_id=effect.job,
        attempt=effect.attempt,
        device=effect.device,
        operations=[wire.operation_to_wire(effect.operation)],
        operands=[_operand_block(source) for source in effect.operands],
        result_type=wire.matrix_type_to_wire(effect.result_type),
        rectangle=wire.rectangle_to_wire(effect.rectangle),
        result_matrix_id=effect.result_id,
        rank=effect.rank,
        predicted_s=effect.predicted_s,
        progress_s=effect.progress_s,
        share=_share(effect.share),
    )
    return agent_pb2.AgentServiceSessionResponse(assign=message)


def _share(share: effects.Share | None) -> agent_pb2.Share | None:
    if share is None:
        return None
    return agent_pb2.Share(
        exchange_id=share.exchange,
        member=share.member,
        addresses=share.addresses,
        patience_s=share.patience_s,
    )


def _operand_block(source: effects.OperandSource) -> agent_pb2.OperandBlock:
    message = agent_pb2.OperandBlock(
        name=source.name,
        type=wire.matrix_type_to_wire(source.type),
        rectangle=wire.rectangle_to_wire(source.rectangle),
        peers=source.peers,
    )
    if source.inline is not None:
        message.inline = source.inline
    else:
        message.matrix_id = source.matrix_id
    return message
