"""The devices of one planning problem, as columns: ten thousand cost a few array operations.

Rules of this file: a `Pool` is a snapshot and never changes; rows are in the order of device ids,
so that the order in which devices are told makes no difference to a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deadheat.runtime.programs import GemmShape
from deadheat.scheduler.planner.speed import SpeedModel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Up to so many devices each is priced for its own rectangle; beyond, all for a typical one.
EXACT_DEVICES: Final = 64

#: A stable sort costs several times a vectorised one.
STABLE_UP_TO: Final = 1024


@dataclass(frozen=True, slots=True)
class Link:
    """The way of blocks between a device and the store. On one host there is nothing to move."""

    is_local: bool
    bandwidth_bytes_per_s: float = float("inf")
    latency_s: float = 0.0
    #: Rows of operands and results travel while others are computed.
    overlaps: bool = False

    def transfer_s(self, size_bytes: float) -> float:
        return 0.0 if self.is_local else size_bytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the planner sees it. Ratios are 0 to 1, seconds count from now."""

    id: str
    node: str
    kind: str
    model: SpeedModel
    #: The fraction of its idle speed that it would give us.
    availability: float
    #: Total utilization, ours included; only a baseline believes it.
    busy: float
    #: Measured over modelled idle speed.
    bias: float
    #: When it has done what it was given before.
    ready_s: float
    #: Sending it a sub-task and starting it there.
    launch_s: float
    #: Its limit for blocks, and what of it is not in use now (None: all).
    memory_bytes: int
    link: Link
    free_bytes: int | None = None
    #: What it does right now for the operation in question, instead of model and availability.
    measured_flops: float | None = None
    #: Ids of matrices that it has already, whole.
    holds: frozenset[str] = frozenset()
    #: Equal for devices whose agents can exchange gradients; empty if it can with nobody.
    meets: str = ""


@dataclass(frozen=True, eq=False)
class Pool:
    """Devices as columns. `models` are distinct; `model_of` says which one a device has."""

    ids: tuple[str, ...]
    nodes: tuple[str, ...]
    kinds: tuple[str, ...]
    models: tuple[SpeedModel, ...]
    model_of: Integers
    availability: Floats
    busy: Floats
    bias: Floats
    ready_s: Floats
    launch_s: Floats
    #: The limit of each for blocks, and what of it nothing that was assigned needs.
    memory_bytes: Integers
    free_bytes: Integers
    is_local: Flags
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    overlaps: Flags
    #: Not a number where nothing was measured.
    measured_flops: Floats
    #: Where each can exchange gradients with others, empty for nowhere.
    meets: tuple[str, ...]
    #: Which devices have a matrix already, by its id.
    holders: Mapping[str, Flags] = field(default_factory=dict)
    #: What the store's one port gives all remote devices together.
    store_bytes_per_s: float = float("inf")

    @staticmethod
    def of(devices: Iterable[Device], *, store_bytes_per_s: float = float("inf")) -> Pool:
        rows = sorted(devices, key=lambda device: device.id)
        numbers: dict[SpeedModel, int] = {}
        model_of = [numbers.setdefault(row.model, len(numbers)) for row in rows]
        held = {name for row in rows for name in row.holds}
        measured = [np.nan if r.measured_flops is None else r.measured_flops for r in rows]
        return Pool(
            ids=tuple(row.id for row in rows),
            nodes=tuple(row.node for row in rows),
            kinds=tuple(row.kind for row in rows),
            models=tuple(numbers),
            model_of=np.array(model_of, dtype=np.int64),
            availability=np.array([row.availability for row in rows], dtype=np.float64),
            busy=np.array([row.busy for row in rows], dtype=np.float64),
            bias=np.array([row.bias for row in rows], dtype=np.float64),
            ready_s=np.array([row.ready_s for row in rows], dtype=np.float64),
            launch_s=np.array([row.launch_s for row in rows], dtype=np.float64),
            memory_bytes=np.array([row.memory_bytes for row in rows], dtype=np.int64),
            free_bytes=np.array(
                [row.memory_bytes if row.free_bytes is None else row.free_bytes for row in rows],
                dtype=np.int64,
            ),
            is_local=np.array([row.link.is_local for row in rows], dtype=np.bool_),
            bandwidth_bytes_per_s=np.array(
                [row.link.bandwidth_bytes_per_s for row in rows], dtype=np.float64
            ),
            latency_s=np.array([row.link.latency_s for row in rows], dtype=np.float64),
            overlaps=np.array([row.link.overlaps for row in rows], dtype=np.bool_),
            measured_flops=np.array(measured, dtype=np.float64),
            meets=tuple(row.meets for row in rows),
            holders={
                name: np.array([name in row.holds for row in rows], dtype=np.bool_) for name in held
            },
            store_bytes_per_s=store_bytes_per_s,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: Integers) -> Pool:
        """The same for some of the devices, by their numbers in rising order."""
        changes: dict[str, Any] = {}
        picked = chosen.tolist()
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changes[item.name] = value[chosen]
            elif item.name in {"ids", "nodes", "kinds", "meets"}:
                changes[item.name] = tuple(value[index] for index in picked)
            else:
                changes[item.name] = value
        changes["holders"] = {name: held[chosen] for name, held in self.holders.items()}
        return Pool(**changes)

    def with_ready(self, ready_s: Floats) -> Pool:
        return self._replaced(ready_s=ready_s)

    def with_free(self, free_bytes: Integers) -> Pool:
        return self._replaced(free_bytes=free_bytes)

    def without_overlap(self) -> Pool:
        return self._replaced(overlaps=np.zeros(len(self), dtype=np.bool_))

    def _replaced(self, **changes: Any) -> Pool:
        return Pool(**{item.name: getattr(self, item.name) for item in fields(self)} | changes)

    def holds(self, matrix_id: str) -> Flags:
        """Which devices need not be sent a matrix; those of the store's host hold everything."""
        held = self.holders.get(matrix_id)
        return self.is_local if held is None else self.is_local | held

    def rates(self, shape: GemmShape) -> Floats:
        """Idle speed of each device for one shape, in flops a second, its bias counted."""
        by_model = np.array([model.flops_rate(shape) for model in self.models], dtype=np.float64)
        return _steady(np.maximum(by_model[self.model_of] * self.bias, 1.0))

    def rates_each(self, heights: Floats, widths: Floats, shape: GemmShape) -> Floats:
        """Idle speed of each device for its own rectangle; for a typical one in large pools."""
        if len(self) > EXACT_DEVICES:
            given = heights > 0
            rows, columns = float(np.median(heights[given])), float(np.median(widths[given]))
            typical = replace(shape, rows=max(1, round(rows)), columns=max(1, round(columns)))
            return self.rates(typical)
        found = [
            self.models[model].flops_rate(
                replace(shape, rows=max(1, round(height)), columns=max(1, round(width)))
            )
            for model, height, width in zip(
                self.model_of.tolist(), heights.tolist(), widths.tolist()
            )
        ]
        return _steady(np.maximum(np.array(found, dtype=np.float64) * self.bias, 1.0))

    def effective(self, rates: Floats) -> Floats:
        """What it would give us now: what was just measured, else the idle speed that is free."""
        modelled = rates * self.availability
        return np.where(np.isnan(self.measured_flops), modelled, self.measured_flops)

    @cached_property
    def number_of(self) -> Mapping[str, int]:
        return {id_: number for number, id_ in enumerate(self.ids)}


def _steady(rates: Floats) -> Floats:
    """Rates to twelve digits: the last bits of a logarithm must not decide between equals."""
    mantissa, exponent = np.frexp(rates)
    found: Floats = np.ldexp(np.round(mantissa * 2.0**40) / 2.0**40, exponent)
    return found


def ordered(values: Floats) -> Integers:
    """Numbers of the values in rising order; of equal ones the first comes first, but for pools so
    large that it makes no difference, where the quickest sort will do."""
    found: Integers = np.argsort(values, kind="stable" if len(values) <= STABLE_UP_TO else None)
    return found


def joined(names: Sequence[str], limit: int = 6) -> str:
    """A list of names for people, with the number of those that are not shown."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
