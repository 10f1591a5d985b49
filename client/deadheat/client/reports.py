"""The report of a job as Python and JSON see it: the keys that other people's scripts rely on."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from deadheat.runtime.figures import numbers
from deadheat.v1 import cluster_pb2, job_pb2, types_pb2

JOB_KINDS: Final = {
    job_pb2.JOB_KIND_MATMUL: "matmul",
    job_pb2.JOB_KIND_CHAIN: "chain",
    job_pb2.JOB_KIND_MLP: "mlp",
    job_pb2.JOB_KIND_TRAIN: "train",
    job_pb2.JOB_KIND_PROGRAM: "program",
}
PRECISIONS: Final = {
    types_pb2.PRECISION_UNSPECIFIED: "strict",
    types_pb2.PRECISION_TF32: "tf32",
}
_DEVICE_KEYS: Final = (
    *("node", "device", "kind", "share", "availability", "speed_flops", "predicted_finish_s"),
    *("finish_s", "busy_s", "flops", "bytes_in", "bytes_out"),
)
_JOB_NUMBERS: Final = (
    *("makespan_s", "predicted_makespan_s", "finish_spread", "efficiency", "serial_s"),
    *("serial_fraction", "bytes_moved", "bytes_lower_bound"),
)


def job_state_name(state: int) -> str:
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state))[len("JOB_STATE_") :].lower()


def placement_state_name(state: int) -> str:
    name = job_pb2.PlacementState.Name(job_pb2.PlacementState.ValueType(state))
    return name[len("PLACEMENT_STATE_") :].lower()


def node_state_name(state: int) -> str:
    name = cluster_pb2.NodeState.Name(cluster_pb2.NodeState.ValueType(state))
    return name[len("NODE_STATE_") :].lower()


def iso(stamp: Timestamp) -> str:
    moment = stamp.ToDatetime(tzinfo=dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def optional(message: Message, name: str) -> Any:
    """A field's value, or None where it is absent (and for NaN, which JSON has not)."""
    if not message.HasField(name):
        return None
    value = getattr(message, name)
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Report:
    """What was promised and what happened. Seconds count from `started_at`, ratios are 0 to 1."""

    id: str
    kind: str
    state: str
    submitted_at: str
    started_at: str | None
    finished_at: str | None
    makespan_s: float | None
    predicted_makespan_s: float | None
    finish_spread: float | None
    efficiency: float | None
    serial_s: float | None
    serial_fraction: float | None
    bytes_moved: int | None
    bytes_lower_bound: int | None
    resplits: int
    precision: str | None
    error: dict[str, str] | None
    devices: list[dict[str, Any]]
    placements: list[dict[str, Any]]
    #: Where devices had to wait for one another, in the order in which they were reached: `after`
    #: (the operation), `predicted_wait_s` and `wait_s` (of a device that had a part in it, on the
    #: average), `share` (of the makespan; None before the job is done) and `devices` (how many).
    #: Empty where the only barrier is the end.
    barriers: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def of(job: job_pb2.Job) -> Report:
        failure = job.failure if job.HasField("failure") else None
        return Report(
            id=job.id,
            kind=JOB_KINDS.get(job.kind, "program"),
            state=job_state_name(job.state),
            submitted_at=iso(job.submitted_at),
            started_at=iso(job.started_at) if job.HasField("started_at") else None,
            finished_at=iso(job.finished_at) if job.HasField("finished_at") else None,
            **{name: optional(job, name) for name in _JOB_NUMBERS},
            resplits=job.resplits,
            precision=PRECISIONS.get(job.precision),
            error={"code": failure.code, "message": failure.message} if failure else None,
            devices=[_device(device) for device in job.devices],
            placements=[_placement(placement) for placement in job.placements],
            barriers=[_barrier(barrier, job) for barrier in job.barriers],
        )


def _device(device: job_pb2.JobDevice) -> dict[str, Any]:
    plain = {"node", "device", "kind"}
    return {
        key: getattr(device, key) if key in plain else optional(device, key) for key in _DEVICE_KEYS
    }


def _placement(placement: job_pb2.Placement) -> dict[str, Any]:
    r = placement.rectangle
    return {
        "operation": placement.operation,
        "rows": [r.row_start, r.row_stop],
        "cols": [r.column_start, r.column_stop],
        "node": placement.node,
        "device": placement.device,
        "attempt": placement.attempt,
        "predicted_start_s": optional(placement, "predicted_start_s"),
        "predicted_finish_s": optional(placement, "predicted_finish_s"),
        "start_s": optional(placement, "start_s"),
        "finish_s": optional(placement, "finish_s"),
        "state": placement_state_name(placement.state),
    }


def _barrier(barrier: job_pb2.Barrier, job: job_pb2.Job) -> dict[str, Any]:
    makespan_s = optional(job, "makespan_s")
    return {
        "after": barrier.after,
        "predicted_wait_s": barrier.predicted_wait_s,
        "wait_s": barrier.wait_s,
        "share": barrier.wait_s / makespan_s if makespan_s else None,
        "devices": barrier.devices,
    }


_GPU_FIGURES: Final = numbers(cluster_pb2.GpuSample, may_be_absent=True)
_HOST_FIGURES: Final = numbers(cluster_pb2.HostSample, may_be_absent=False)
_HOST_OPTIONAL: Final = numbers(cluster_pb2.HostSample, may_be_absent=True)


def _gpu_as_dict(gpu: cluster_pb2.GpuSample) -> dict[str, Any]:
    """What a GPU's driver says besides its load; null where it does not say it."""
    return {
        **{name: optional(gpu, name) for name in _GPU_FIGURES},
        "throttle": list(gpu.throttle),
        "processes": gpu.processes,
        "memory_used_bytes": gpu.memory_used_bytes,
    }


def _host_as_dict(host: cluster_pb2.HostSample) -> dict[str, Any]:
    """A machine as its agent sees it; null where it cannot say."""
    return {
        **{name: getattr(host, name) for name in _HOST_FIGURES},
        **{name: optional(host, name) for name in _HOST_OPTIONAL},
        "problem": host.problem or None,
    }


def node_as_dict(node: cluster_pb2.Node) -> dict[str, Any]:
    """One entry of `nodes --json`."""
    return {
        "name": node.name,
        "state": node_state_name(node.state),
        "last_seen_s": optional(node, "last_seen_s"),
        "host": _host_as_dict(node.host) if node.HasField("host") else None,
        "devices": [
            {
                "id": device.id,
                "kind": device.kind,
                "model": device.model,
                "threads": device.threads,
                "memory_bytes": device.memory_bytes,
                "memory_free_bytes": optional(device, "memory_free_bytes"),
                "busy": optional(device, "busy"),
                "foreign": optional(device, "foreign"),
                "availability": optional(device, "availability"),
                "queue_s": optional(device, "queue_s"),
                "speed_flops": dict(sorted(device.speed_flops.items())),
                "bad_samples": device.bad_samples,
                "yields": device.yields or None,
                "problem": device.problem or None,
                "gpu": _gpu_as_dict(device.gpu) if device.HasField("gpu") else None,
            }
            for device in node.devices
        ],
    }
