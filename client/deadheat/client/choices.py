"""What users choose by name, and what it is on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import Activation
from deadheat.v1 import job_pb2

T = TypeVar("T")

CutName = Literal["balanced", "equal", "peak", "one-minus-utilization"]
DurabilityName = Literal["process", "power"]
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
