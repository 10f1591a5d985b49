"""The executor process of a CPU pool: `python -m deadheat.agent.executors.worker`.

All but its `Device` is that of every executor. It gets sub-tasks with descriptors of their blocks
over a Unix socket, and ends when that closes: its agent is gone, also if it was killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NoReturn, Protocol

import numpy as np

from deadheat.agent.executors.bounds import CORES, Bounds
from deadheat.agent.executors.calibrate import Point, calibrate, shapes
from deadheat.agent.executors.cardpanels import CardPanels
from deadheat.agent.executors.epochs import Epoch, Exchanged
from deadheat.agent.executors.panels import GRAIN, Panels
from deadheat.agent.executors.pool import (
    PROGRESS_INTERVAL_S,
    Block,
    Compute,
    Pool,
    Task,
    never,
    part_of,
)
from deadheat.agent.executors.sources import Source
from deadheat.runtime import dtypes, pages, wire
from deadheat.runtime.cores import only_on_cores
from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.frames import FrameSocket
from deadheat.runtime.programs import (
    Descent,
    GemmShape,
    MatrixType,
    Op,
    Operation,
    Rectangle,
    is_symmetric,
    needed_blocks,
    work_shape,
)
from deadheat.runtime.rules import is_in_samples, is_in_whole_rows
from deadheat.runtime.settings import parse_cpus
from deadheat.runtime.shared_descending import Given
from deadheat.v1 import agent_pb2, local_pb2, types_pb2

_OPS: Final = {
    Op.PRODUCT: agent_pb2.SPEED_OP_PRODUCT,
    Op.SUM: agent_pb2.SPEED_OP_SUM,
    Op.TF32_PRODUCT: agent_pb2.SPEED_OP_TF32_PRODUCT,
}
_OPS_BACK: Final[dict[int, Op]] = {wire_op: op for op, wire_op in _OPS.items()}

#: The exit code of an executor that has said why it ends (EX_SOFTWARE).
ENDED: Final = 70
#: Says why this process cannot go on, and ends it.
End = Callable[[str], NoReturn]


class MapFile(Protocol):
    """Maps the start of a file; says whether a card reads and writes it by itself yet."""

    def __call__(
        self, descriptor: int, length: int, *, is_writable: bool
    ) -> tuple[memoryview, Callable[[], bool]]: ...


def _map_file(
    descriptor: int, length: int, *, is_writable: bool
) -> tuple[memoryview, Callable[[], bool]]:
    return pages.map_file(descriptor, length, is_writable=is_writable), never


@dataclass(frozen=True)
class Device:
    """What an executor computes with. `compute` is the cores of this process if nothing is said."""

    threads: int
    library: str
    #: Measures these shapes.
    calibrate: Callable[[Sequence[GemmShape]], Iterable[Point]]
    #: What may be measured one by one; none where a calibration is one series of its own.
    shapes: Sequence[GemmShape] = ()
    compute: Compute | None = None
    bounds: Bounds = CORES
    #: A card: its work is not the time of our cores, and it gains nothing from a symmetric result.
    is_card: bool = False
    map_file: MapFile = _map_file


def _map_block(
    message: local_pb2.MappedBlock,
    descriptors: Iterator[int],
    map_file: MapFile,
    *,
    writable: bool,
) -> Block:
    """The block as an array over the mapping (or over the bytes that came along)."""
    matrix = wire.matrix_type_from_wire(message.type, field=message.name or "result")
    rectangle = wire.rectangle_from_wire(message.rectangle, within=matrix, field="rectangle")
    dtype, count = numpy_dtype(matrix.dtype), rectangle.area
    shape = (rectangle.rows, rectangle.columns)
    if message.is_inline:
        if writable:
            return Block(np.zeros(shape, dtype), rectangle)
        return Block(np.frombuffer(message.inline, dtype, count).reshape(shape), rectangle)
    descriptor = next(descriptors)
    try:
        length = message.data_offset + message.size_bytes
        # What has a header is somebody's file on a disk, no shared memory.
        map_it = _map_file if message.data_offset else map_file
        mapped, is_pinned = map_it(descriptor, length, is_writable=writable)
    finally:
        os.close(descriptor)
    array: Any = np.frombuffer(mapped, dtype, count, offset=message.data_offset)
    return Block(array.reshape(shape), rectangle, is_pinned)


#: Says something to the agent, in its turn.
Tell = Callable[[local_pb2.ExecutorEvent], None]


def _task(
    message: local_pb2.RunSubtask, descriptors: list[int], device: Device, tell: Tell
) -> Task:
    assign = message.assign
    operation = wire.operation_from_wire(assign.operations[0])
    result_type = wire.matrix_type_from_wire(assign.result_type, field="result_type")
    rectangle = wire.rectangle_from_wire(assign.rectangle, within=result_type, field="rectangle")
    types = {
        block.name: wire.matrix_type_from_wire(block.type, field=block.name)
        for block in assign.operands
    }
    waiting = iter(descriptors)
    operands = [
        _map_block(block, waiting, device.map_file, writable=False) for block in message.operands
    ]
    result = _map_block(message.result, waiting, device.map_file, writable=True)
    exchange = None
    if message.HasField("exchange_bytes"):
        exchange = _exchanged(message, next(waiting), numpy_dtype(result_type.dtype), tell)
    return Task(
        id=assign.subtask_id,
        rank=assign.rank,
        operation=operation,
        types=types,
        operands=operands,
        result=result,
        panels=_source(message, operation, types, rectangle, operands, result, device, exchange),
        is_inline=message.result.is_inline,
        progress_s=assign.progress_s or PROGRESS_INTERVAL_S,
        keys=[
            block.matrix_id if block.WhichOneof("source") == "matrix_id" else ""
            for block in assign.operands
        ],
    )


def _exchanged(
    message: local_pb2.RunSubtask, descriptor: int, dtype: np.dtype[Any], tell: Tell
) -> Exchanged:
    try:
        mapped = pages.map_file(descriptor, message.exchange_bytes, is_writable=True)
    finally:
        os.close(descriptor)
    own, total = np.frombuffer(mapped, dtype).reshape(2, -1)

    def give(given: Given) -> None:
        gradient = local_pb2.Gradient(
            subtask_id=message.assign.subtask_id, step=given.step, loss=given.loss
        )
        tell(local_pb2.ExecutorEvent(gradient=gradient))

    return Exchanged(own, total, give)


def _source(
    message: local_pb2.RunSubtask,
    operation: Operation,
    types: Mapping[str, MatrixType],
    rectangle: Rectangle,
    operands: Sequence[Block],
    result: Block,
    device: Device,
    exchange: Exchanged | None = None,
) -> Source:
    """What the threads take pieces of this sub-task from."""
    if device.is_card and (kinds := only_on_cores(operation.kind)):
        raise TypeError(f"a card does not compute {', '.join(kinds)}")
    if isinstance(operation.kind, Descent):
        needed = needed_blocks(operation, types, rectangle)
        parts = [part_of(block, wanted) for block, (_, wanted) in zip(operands, needed)]
        out = part_of(result, rectangle)
        return Epoch(rectangle, operation.kind, parts, out, device.threads, exchange)
    shape = work_shape(operation, types)
    make = CardPanels if device.is_card else Panels
    return make(
        rectangle,
        replace(shape, rows=rectangle.rows, columns=rectangle.columns),
        device.threads,
        message.assign.predicted_s,
        is_symmetric(operation) and not device.is_card,
        message.row_stop if message.HasField("row_stop") else None,
        is_in_whole_rows=is_in_whole_rows(operation.kind),
        row_grain=1 if is_in_samples(operation.kind) else GRAIN,
        bounds=device.bounds,
    )


class _Executor:
    def __init__(self, link: FrameSocket, make: Callable[[End], Device]) -> None:
        self._link = link
        self._kept_open: list[int] = []
        self._device = device = make(self._end)
        self._wanted = [_point(shape, 0.0) for shape in device.shapes]
        self._pool = Pool(device.threads, self._emit, device.compute, counts_cpu=not device.is_card)

    def _end(self, reason: str) -> NoReturn:
        """What runs is not waited for: it waits for what never comes."""
        self._emit(local_pb2.ExecutorEvent(ending=local_pb2.Ending(reason=reason)))
        os._exit(ENDED)

    def _emit(self, event: local_pb2.ExecutorEvent) -> None:
        try:
            self._link.send(event.SerializeToString())
        except OSError:
            os._exit(0)  # The agent is gone; there is nobody to compute for.

    def serve(self) -> None:
        ready = local_pb2.ExecutorReady(
            threads=self._pool.threads, library=self._device.library, points=self._wanted
        )
        self._emit(local_pb2.ExecutorEvent(ready=ready))
        while (frame := self._link.receive()) is not None:
            payload, descriptors = frame
            request = local_pb2.ExecutorRequest.FromString(payload)
            match request.WhichOneof("request"):
                case "run":
                    self._run(request.run, descriptors)
                case "cancel":
                    for task_id in request.cancel.subtask_ids:
                        self._pool.cancel(task_id)
                case "resize":
                    self._pool.resize(request.resize.subtask_id, request.resize.keep_area)
                case "rows_arrived":
                    arrived = request.rows_arrived
                    self._pool.rows_arrived(arrived.subtask_id, arrived.row_stop)
                case "summed":
                    summed = request.summed
                    self._pool.summed(summed.subtask_id, summed.step, summed.loss)
                case "keep_open":
                    self._kept_open += descriptors
                case "calibrate":
                    points = list(request.calibrate.points) or self._wanted
                    threading.Thread(target=self._calibrate, args=(points,), daemon=True).start()

    def _run(self, message: local_pb2.RunSubtask, descriptors: list[int]) -> None:
        try:
            self._pool.add(_task(message, descriptors, self._device, self._pool.tell))
        except Exception as error:  # noqa: BLE001 - reported with the sub-task it belongs to.
            failure = types_pb2.Failure(code="internal", message=f"{type(error).__name__}: {error}")
            failed = agent_pb2.Failed(subtask_id=message.assign.subtask_id, failure=failure)
            failed.row_done = message.assign.rectangle.row_start
            self._emit(local_pb2.ExecutorEvent(failed=failed))
            released = local_pb2.Released(subtask_id=message.assign.subtask_id)
            self._emit(local_pb2.ExecutorEvent(released=released))

    def _calibrate(self, wanted: Sequence[agent_pb2.SpeedPoint]) -> None:
        points = [
            _point(point.shape, point.seconds)
            for point in self._device.calibrate([_shape(point) for point in wanted])
        ]
        calibrated = agent_pb2.SpeedPoints(points=points)
        self._emit(local_pb2.ExecutorEvent(calibrated=calibrated))


def _point(shape: GemmShape, seconds: float) -> agent_pb2.SpeedPoint:
    return agent_pb2.SpeedPoint(
        data_type=element_type(shape.dtype).wire,
        rows=shape.rows,
        inner=shape.inner,
        columns=shape.columns,
        seconds=seconds,
        op=_OPS[shape.op],
    )


def _shape(point: agent_pb2.SpeedPoint) -> GemmShape:
    dtype = dtypes.from_wire(point.data_type, field="calibrate").name
    return GemmShape(point.rows, point.inner, point.columns, dtype, _OPS_BACK[point.op])


def _library() -> str:
    """Which BLAS multiplies: a calibration holds for one library and its version only."""
    from threadpoolctl import threadpool_info

    names = [
        f"{info['internal_api']} {info.get('version')} {info.get('architecture', '')}".strip()
        for info in threadpool_info()
        if info["user_api"] == "blas"
    ]
    return f"numpy {np.__version__}, {', '.join(names) or 'no BLAS'}"


def _cores(threads: int) -> Device:
    return Device(threads, _library(), partial(calibrate, threads), tuple(shapes()))


def main(make: Callable[[End], Device] | None = None) -> int:
    """Serves an agent until it goes; `make` opens what is computed with, if it is no CPU pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpus", type=parse_cpus, default=())
    parser.add_argument("--politeness", choices=("normal", "idle"), default="normal")
    found = parser.parse_args()
    # Ctrl-C and Slurm's SIGTERM reach every process, but it is the agent that lets panels end and
    # gives the rest back. It closes the socket then, and kills who stays.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if found.cpus:  # Before there are threads: they are where the one is that starts them.
        os.sched_setaffinity(0, found.cpus)
    if found.politeness == "idle":
        # The machine's owner wins: these threads get what nobody else wants.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    np.seterr(all="ignore")  # NaN and infinity propagate; they are the user's.
    link = FrameSocket(socket.socket(fileno=found.fd))
    _Executor(link, make or (lambda _end: _cores(found.threads))).serve()
    return 0


if __name__ == "__main__":
    # Threads may be in the middle of a panel for nobody: leave without waiting for them.
    main()
    sys.stdout.flush()
    os._exit(0)
