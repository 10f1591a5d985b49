"""What a product would cost, as Python and JSON see it, and how it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from deadheat.client import arrays
from deadheat.client.arrays import ArrayLike
from deadheat.client.reports import optional
from deadheat.runtime.dtypes import element_type
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import UNSENT, Gemm, MatrixType, Operand, Program, gemm_program
from deadheat.v1 import job_pb2

DEFAULT_DTYPE: Final = "float64"
#: Sizes travel as signed 64-bit numbers.
MAX_SIZE: Final = (1 << 63) - 1
_DEVICE_KEYS: Final = (
    *("node", "device", "kind", "share", "availability", "speed_flops", "ready_s", "transfer_s"),
    *("compute_s", "predicted_finish_s", "bytes_in", "bytes_out", "memory_bytes"),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a product would cost on the pool as it was when it was asked about.

    Seconds count from then; shares and ratios are 0 to 1. `bytes_to_move` cross a network and
    `bytes_lower_bound` is what no cut does without. `refused` says with code and message why it
    would not be accepted, `note` why it would wait; then there are no predictions. `rounds` is how
    often the devices' memories are filled until all is done: 1 if they hold it at once.
    """

    m: int
    k: int
    n: int
    dtype: str
    flops: float
    predicted_makespan_s: float | None
    bytes_to_move: int | None
    bytes_lower_bound: int | None
    pool_flops: float | None
    devices: list[dict[str, Any]]
    alternatives: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    refused: dict[str, str] | None
    note: str | None
    rounds: int | None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def of(program: Program, found: job_pb2.JobServiceEstimateResponse) -> Estimate:
        shape = program.shape_of(program.operations[0])
        refusal = found.refusal if found.HasField("refusal") else None
        return Estimate(
            m=shape.rows,
            k=shape.inner,
            n=shape.columns,
            dtype=shape.dtype,
            flops=found.flops,
            predicted_makespan_s=optional(found, "predicted_makespan_s"),
            bytes_to_move=optional(found, "bytes_to_move"),
            bytes_lower_bound=optional(found, "bytes_lower_bound"),
            pool_flops=optional(found, "pool_flops"),
            devices=[_device(device) for device in found.devices],
            alternatives=[
                {"name": other.name, "makespan_s": other.makespan_s} for other in found.alternatives
            ],
            left_out=[{"device": out.device, "reason": out.reason} for out in found.left_out],
            refused={"code": refusal.code, "message": refusal.message} if refusal else None,
            note=found.note or None,
            rounds=found.rounds or None,
        )


def _device(device: job_pb2.EstimatedDevice) -> dict[str, Any]:
    values = {key: getattr(device, key) for key in _DEVICE_KEYS}
    return {**values, "memory_free_bytes": optional(device, "memory_free_bytes")}


def outline(product: Sequence[Any], bias: ArrayLike | None, dtype: str | None) -> Program:
    """The program of a product given by its sizes (m, k, n) or its matrices (a, b), without data.

    Raises InvalidInput naming what is wrong.
    """
    if len(product) == 2:
        if dtype is not None:
            raise InvalidInput(
                f"dtype is {dtype!r}, but matrices have one; give it with m, k, n", field="dtype"
            )
        a, b = product
        checked = arrays.product(a, b, bias)
        return gemm_program(checked.placeholders(), checked.kind(Gemm()))
    if len(product) != 3:
        raise InvalidInput(f"give a, b or m, k, n; {len(product)} values came", field="product")
    if bias is not None:
        raise InvalidInput("bias goes with matrices, not with m, k, n", field="bias")
    m, k, n = (_size(name, value) for name, value in zip("mkn", product, strict=True))
    dtype = element_type(DEFAULT_DTYPE if dtype is None else dtype).name
    types = {"A": MatrixType(m, k, dtype), "B": MatrixType(k, n, dtype)}
    operands = [Operand(name, matrix, matrix_id=UNSENT) for name, matrix in types.items()]
    return gemm_program(tuple(operands), Gemm())


def _size(name: str, value: object) -> int:
    try:
        size = int(value.__index__())  # type: ignore[attr-defined]
    except AttributeError:
        raise InvalidInput(f"{name} is {value!r}; it must be a whole number", field=name) from None
    if not 0 <= size <= MAX_SIZE:
        shown = str(size) if abs(size) < MAX_SIZE**2 else "far too large"
        raise InvalidInput(f"{name} is {shown}; it must be 0 to {MAX_SIZE}", field=name)
    return size
