"""What a layer costs on a described processor, counted in cycles: a model to reason with on paper.

Rules of this file: one multiply-accumulate at a time, in order, without overlap, vectors or cores.
It says what the arithmetic costs at least when nothing is done at once, and so how much a real
machine gains by doing things at once. Real devices are planned with measured speeds (`speed.py`).

The product of m x k by k x n is the layer of k inputs and n outputs for m samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final

from deadheat.runtime.errors import InvalidInput

DAY_S: Final = 86_400.0
#: Sizes of matrices travel as signed 64-bit numbers elsewhere; a larger layer is a slip.
MAX_SIZE: Final = (1 << 63) - 1
#: No access and no operation takes a second at a gigahertz; more is a slip of units.
MAX_CYCLES: Final = 1e9
#: A processor beyond the frequency of light itself is a slip of units.
MAX_CLOCK_HZ: Final = 1e15


class Operands(Enum):
    """Where the operands lie, and so what reading one costs."""

    REGISTERS = "registers"
    CACHE = "cache"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor, described by its clock and by the cycles that each thing takes.

    `register_cycles` are those of a read and of a write. Costs of cache and memory are needed only
    where operands lie there. Raises InvalidInput naming the field, its value and its limit.
    """

    clock_hz: float
    register_cycles: tuple[float, float]
    multiply_cycles: float
    add_cycles: float
    cache_cycles: float | None = None
    memory_cycles: float | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.clock_hz) and 0 < self.clock_hz <= MAX_CLOCK_HZ):
            raise InvalidInput(
                f"clock_hz is {self.clock_hz}; it must be above 0 and at most {MAX_CLOCK_HZ:g}",
                field="clock_hz",
            )
        if not isinstance(self.register_cycles, tuple) or len(self.register_cycles) != 2:
            raise _bad_registers(self.register_cycles)
        _check_cycles("register_cycles (read)", self.register_cycles[0])
        _check_cycles("register_cycles (write)", self.register_cycles[1])
        _check_cycles("multiply_cycles", self.multiply_cycles)
        _check_cycles("add_cycles", self.add_cycles)
        for name in ("cache_cycles", "memory_cycles"):
            if (value := getattr(self, name)) is not None:
                _check_cycles(name, value)

    def read_cycles(self, operands: Operands) -> float:
        """Cycles to read what one multiply-accumulate needs, from where it lies."""
        if operands is Operands.REGISTERS:
            return self.register_cycles[0]
        name = f"{operands.value}_cycles"
        found: float | None = getattr(self, name)
        if found is None:
            raise InvalidInput(
                f"{name} is not given; operands in {operands.value} need it", field=name
            )
        return found


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """The cost of a layer; one multiply-accumulate is a read, a multiply, an add and a write of
    the sum to its register."""

    machine: Machine
    inputs: int
    outputs: int
    samples: int
    operands: Operands
    cycles_per_multiply_accumulate: float

    @property
    def multiply_accumulates_per_sample(self) -> int:
        return self.inputs * self.outputs

    @property
    def cycles_per_sample(self) -> float:
        return self.multiply_accumulates_per_sample * self.cycles_per_multiply_accumulate

    @property
    def seconds_per_sample(self) -> float:
        return self.cycles_per_sample / self.machine.clock_hz

    @property
    def total_s(self) -> float:
        return self.samples * self.cycles_per_sample / self.machine.clock_hz

    @property
    def share_of_day(self) -> float:
        """1 is a whole day."""
        return self.total_s / DAY_S

    def as_dict(self) -> Mapping[str, object]:
        return {
            "machine": asdict(self.machine),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "samples": self.samples,
            "operands": self.operands.value,
            "cycles_per_multiply_accumulate": self.cycles_per_multiply_accumulate,
            "multiply_accumulates_per_sample": self.multiply_accumulates_per_sample,
            "cycles_per_sample": self.cycles_per_sample,
            "seconds_per_sample": self.seconds_per_sample,
            "total_s": self.total_s,
            "share_of_day": self.share_of_day,
        }

    def __str__(self) -> str:
        machine, where = self.machine, self.operands.value
        title = (
            f"a layer of {self.inputs:,} inputs and {self.outputs:,} outputs "
            f"at {_number(machine.clock_hz / 1e9)} GHz"
        )
        parts = (
            f"{_number(machine.read_cycles(self.operands))} read from {where} + "
            f"{_number(machine.multiply_cycles)} multiply + {_number(machine.add_cycles)} add + "
            f"{_number(machine.register_cycles[1])} write"
        )
        sample = (
            f"{self.multiply_accumulates_per_sample:,} of them, "
            f"{_number(self.cycles_per_sample)} cycles, {_duration(self.seconds_per_sample)}"
        )
        whole = f"{_duration(self.total_s)}, {_percent(self.share_of_day)} of a day"
        rows = {
            "a multiply-accumulate": f"{_number(self.cycles_per_multiply_accumulate)} cycles: "
            + parts,
            "a sample": sample,
            f"{self.samples:,} sample{'s' if self.samples > 1 else ''}": whole,
        }
        width = max(len(name) for name in rows)
        return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def estimate_layer(
    machine: Machine,
    inputs: int,
    outputs: int,
    samples: int = 1,
    *,
    operands: Operands = Operands.REGISTERS,
) -> LayerEstimate:
    """What a fully connected layer costs: `inputs` times `outputs` multiply-accumulates a sample.

    >>> machine = Machine(2.5e9, register_cycles=(1, 1), multiply_cycles=20, add_cycles=1)
    >>> layer = estimate_layer(machine, inputs=256, outputs=256, samples=2_000_000)
    >>> layer.cycles_per_multiply_accumulate, layer.cycles_per_sample
    (23, 1507328)
    >>> f"{layer.seconds_per_sample * 1e6:.0f} us, {layer.total_s:.0f} s, {layer.share_of_day:.1%}"
    '603 us, 1206 s, 1.4%'
    """
    for name, value in (("inputs", inputs), ("outputs", outputs), ("samples", samples)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise InvalidInput(f"{name} is {value!r}; it must be 1 to {MAX_SIZE}", field=name)
    cycles = (
        machine.read_cycles(operands)
        + machine.register_cycles[1]
        + machine.multiply_cycles
        + machine.add_cycles
    )
    return LayerEstimate(machine, inputs, outputs, samples, operands, cycles)


def estimate_product(
    machine: Machine, m: int, k: int, n: int, *, operands: Operands = Operands.REGISTERS
) -> LayerEstimate:
    """What m x k by k x n costs: each of the m rows is a sample for a layer of k inputs.

    >>> machine = Machine(1e9, register_cycles=(1, 1), multiply_cycles=3, add_cycles=1)
    >>> estimate_product(machine, 10, 20, 30).total_s
    3.6e-05
    """
    for name, value in (("m", m), ("k", k), ("n", n)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise InvalidInput(f"{name} is {value!r}; it must be 1 to {MAX_SIZE}", field=name)
    return estimate_layer(machine, inputs=k, outputs=n, samples=m, operands=operands)


def described(
    *,
    clock_ghz: float,
    register_cycles: str,
    multiply_cycles: float,
    add_cycles: float,
    cache_cycles: float | None = None,
    memory_cycles: float | None = None,
) -> Machine:
    """A machine as people describe it; raises InvalidInput.

    >>> described(clock_ghz=2.5, register_cycles="1+1", multiply_cycles=20, add_cycles=1.0)
    Machine(clock_hz=2500000000, register_cycles=(1, 1), multiply_cycles=20, add_cycles=1, \
cache_cycles=None, memory_cycles=None)
    """
    return Machine(
        clock_hz=_exact(clock_ghz * 1e9),
        register_cycles=parse_register_cycles(register_cycles),
        multiply_cycles=_exact(multiply_cycles),
        add_cycles=_exact(add_cycles),
        cache_cycles=None if cache_cycles is None else _exact(cache_cycles),
        memory_cycles=None if memory_cycles is None else _exact(memory_cycles),
    )


def parse_register_cycles(text: str) -> tuple[float, float]:
    """Cycles of a register's read and write.

    >>> parse_register_cycles("1+1")
    (1, 1)
    """
    try:
        read, write = (_exact(float(part)) for part in text.split("+"))
    except ValueError:
        raise _bad_registers(text) from None
    return read, write


def _exact(value: float) -> float:
    """Whole numbers as such, so that cycles are counted exactly however many there are."""
    return int(value) if math.isfinite(value) and float(value).is_integer() else value


def _bad_registers(value: object) -> InvalidInput:
    return InvalidInput(
        f"register_cycles is {value!r}; give a read and a write, like 1+1", field="register_cycles"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_cycles(name: str, value: float) -> None:
    if not (_is_number(value) and 0 <= value <= MAX_CYCLES):
        raise InvalidInput(
            f"{name} is {value!r}; it must be 0 to {MAX_CYCLES:g}", field=name.split(" ", 1)[0]
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"


def _duration(seconds: float) -> str:
    """Three digits or more, in the unit that suits."""
    for unit, size_s in (("s", 1.0), ("milliseconds", 1e-3), ("microseconds", 1e-6)):
        if seconds >= size_s:
            return f"{_three_digits(seconds / size_s)} {unit}"
    return f"{_three_digits(seconds * 1e9)} nanoseconds"


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def _percent(share: float) -> str:
    return f"{share * 100:,.1f} %" if share >= 0.01 else f"{share * 100:.2g} %"
