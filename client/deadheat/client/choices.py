"""What users choose by name, and what it is on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import Activation, Precision
from deadheat.v1 import job_pb2

T = TypeVar("T")

CutName = Literal["balanced", "equal", "peak", "one-minus-utilization"]
DurabilityName = Literal["process", "power"]
PrecisionName = Literal["strict", "tf32"]
WhereName = Literal["auto", "cluster", "local"]
ActivationName = Literal["none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid"]

CUTS: Final = {
    "balanced": job_pb2.CUT_BALANCED,
    "equal": job_pb2.CUT_EQUAL,
    "peak": job_pb2.CUT_PEAK,
    "one-minus-utilization": job_pb2.CUT_ONE_MINUS_UTILIZATION,
}
DURABILITIES: Final = {
    "process": job_pb2.DURABILITY_PROCESS,
    "power": job_pb2.DURABILITY_POWER,
}
WHERES: Final[Mapping[str, WhereName]] = {"auto": "auto", "cluster": "cluster", "local": "local"}
PRECISIONS: Final = {precision.value: precision for precision in Precision}
ACTIVATIONS: Final = {activation.value: activation for activation in Activation}


def choice(value: object, name: str, choices: Mapping[str, T]) -> T:
    """What `value` stands for; raises InvalidInput that lists the choices."""
    try:
        return choices[str(value)]
    except KeyError:
        raise InvalidInput(
            f"{name} is {value!r}; it may be {', '.join(choices)}", field=name
        ) from None


def number(value: object, name: str) -> float:
    """`value` as a float; raises InvalidInput where it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{name} is {value!r}; it must be a number", field=name) from None


def is_free(cut: str, timeout_s: float | None, durability: str) -> bool:
    """Whether nothing is asked for that only a job has."""
    return cut == "balanced" and timeout_s is None and durability == "process"


def place_of(where: str, cut: str, timeout_s: float | None, durability: str) -> WhereName:
    """Where it may be computed; raises InvalidInput for what cannot be had here."""
    place = choice(where, "where", WHERES)
    if is_free(cut, timeout_s, durability):
        return place
    if place == "local":
        raise InvalidInput(
            "where is 'local': cut, timeout and durability are for jobs, and a product in this "
            "process is none; leave them out, or say where='cluster'",
            field="where",
        )
    return "cluster"
