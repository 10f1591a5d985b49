"""Segmenting: which of the operations that may be joined had better be, on this pool.

A segment is cut in rows only, and saves its barriers; with few rows a large product alone may be so
much faster in columns that barriers are worth it. So both ways are priced, and the faster is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Operation, Program, Segment
from deadheat.scheduler.planner import cutting
from deadheat.scheduler.planner.inputs import Cut, PlanningInput, Policy
from deadheat.scheduler.planner.joining import joined, segments
from deadheat.scheduler.planner.plan import Alternative, Order, Plan
from deadheat.scheduler.planner.pool import Pool
from deadheat.scheduler.planner.pool import joined as listed
from deadheat.scheduler.planner.pricing import id_of, price

#: A barrier: the last sub-tasks of an operation are told of, its result is sealed, the next one is
#: planned and sent. What devices wait for one another there comes on top.
BARRIER_S: Final = 0.003
#: Unlike operations times devices that are priced (a third of a millisecond each, if they are on
#: other hosts). Of more, those are joined that leave every device enough rows for any BLAS.
MAX_PRICED: Final = 4096
ENOUGH_ROWS: Final = 256
#: Segments that are listed one by one in a plan's text.
MAX_LISTED: Final = 8


def with_segments(given: PlanningInput) -> Plan | None:
    """The plan that rewrites a program with its segments; None where none is worth it. Baselines
    have a barrier after each operation."""
    program, pool = given.program, given.pool
    found = segments(program, given.apart) if given.policy.cut is Cut.BALANCED else []
    if not found:
        return None
    idle = pool.with_ready(np.zeros(len(pool)))
    prices = _Prices(given.policy, idle)
    is_priced = _unlike(program, found) * len(pool) <= MAX_PRICED
    chosen, together_s, apart_s = [], 0.0, 0.0
    for group in found:
        if not is_priced and _rows(program, group) >= ENOUGH_ROWS * len(pool):
            chosen.append(group)
        elif is_priced:
            one_s, alone_s = _both_s(program, group, prices)
            if one_s <= alone_s:
                chosen.append(group)
                together_s, apart_s = together_s + one_s, apart_s + alone_s
    if not chosen:
        return None
    rewritten = joined(program, chosen)
    largest = max(rewritten.operations, key=rewritten.flops_of)
    pool_flops = float((pool.rates(rewritten.shape_of(largest)) * pool.availability).sum())
    told = _told(rewritten, chosen)
    layered = Alternative(f"a barrier after each of these {sum(map(len, chosen))}", apart_s)
    return Plan(
        steps=(),
        makespan_s=together_s,
        pool_flops=pool_flops,
        bytes_lower_bound=0,
        program=rewritten,
        order=Order(told, together_s, (layered,) if is_priced else ()),
    )


def _unlike(program: Program, found: Sequence[Sequence[int]]) -> int:
    """How many different operations there are; a network has the same layer many times."""
    operations = (program.operations[number] for group in found for number in group)
    types = program.types
    return len({(one.kind, *(types[name] for name in one.operands)) for one in operations})


def _rows(program: Program, group: Sequence[int]) -> int:
    return program.types[program.operations[group[-1]].result].rows


@dataclass(frozen=True)
class _Prices:
    """Seconds of operations on an idle pool, each kind once."""

    policy: Policy
    pool: Pool
    _known: dict[object, float] = field(default_factory=dict)

    def of(self, program: Program, operation: Operation) -> float:
        types = program.types
        held = tuple(id_of(program, name) in self.pool.holders for name in operation.operands)
        names = operation.operands if any(held) else ()
        key = (operation.kind, tuple(types[name] for name in operation.operands), names)
        if key not in self._known:
            whole = types[operation.result].whole()
            made = price(program, operation, whole, self.pool)
            self._known[key] = cutting.best(made, self.policy).total_s
        return self._known[key]


def _both_s(program: Program, group: Sequence[int], prices: _Prices) -> tuple[float, float]:
    """Seconds of a segment, and of its operations one by one. What does not fit takes for ever."""
    operations = [program.operations[number] for number in group]
    one = joined(program, [group])
    segment = next(o for o in one.operations if o.result == operations[-1].result)
    try:
        one_s = prices.of(one, segment)
    except LimitReached:
        return np.inf, 0.0
    alone_s = BARRIER_S * (len(operations) - 1)
    try:
        alone_s += sum(prices.of(program, operation) for operation in operations)
    except LimitReached:
        return one_s, np.inf
    return one_s, alone_s


def _told(rewritten: Program, chosen: Sequence[Sequence[int]]) -> str:
    """Which segments there are, and every barrier that stays."""
    made = [o for o in rewritten.operations if isinstance(o.kind, Segment)]
    lines = []
    for one in made[:MAX_LISTED]:
        assert isinstance(one.kind, Segment)
        names = listed([inner.result for inner in one.kind.operations])
        lines.append(f"{one.result} is one segment of {len(one.kind.operations)} ({names})")
    if len(made) > MAX_LISTED:
        lines.append(f"there are {len(made) - MAX_LISTED} segments more")
    ends = [operation.result for operation in rewritten.operations]
    barriers = f"{len(ends)} barriers stay, after" if len(ends) > 1 else "one barrier stays, after"
    count = sum(map(len, chosen))
    return (
        f"{count} operations need no barriers between them: {'; '.join(lines)}; {barriers} "
        f"{listed(ends)}"
    )
