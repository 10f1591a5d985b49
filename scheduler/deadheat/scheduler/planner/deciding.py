"""Deciding what a program is made of: the order of a chain, a product cut along its inner side,
segments of operations without barriers between them.

Such operations are replaced by others before anything is assigned. Which ones depends on
the pool, so it is decided here, by predicted seconds; how a program is rewritten is in `rewriting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.errors import LimitReached
from deadheat.runtime.programs import Chain, Gemm, GemmShape, Op, Operation, Program, Sum
from deadheat.scheduler.planner import cutting
from deadheat.scheduler.planner.balance import balance, level
from deadheat.scheduler.planner.chains import WHOLE_POOL, ChainPlan, plan_chain
from deadheat.scheduler.planner.groups import PoolGroups, split_pool
from deadheat.scheduler.planner.inputs import Cut, PlanningInput, Policy
from deadheat.scheduler.planner.plan import Alternative, Order, Plan
from deadheat.scheduler.planner.pool import Pool, ordered
from deadheat.scheduler.planner.pricing import price
from deadheat.scheduler.planner.rewriting import expand_chain, product_names, split_inner
from deadheat.scheduler.planner.segmenting import with_segments
from deadheat.scheduler.planner.selecting import selected

#: An inner dimension so many times the result's longer side is worth looking at.
DEEP: Final = 4
#: What the other way has to save: it costs a barrier and rounds in another order.
SPLIT_GAIN: Final = 0.05
#: Parts of a product cut along its inner side: each is a whole result to add.
MAX_PARTS: Final = 16
#: Up to so many devices groups are looked for; the halves of a larger pool are hardly ever idle.
MAX_GROUPED: Final = 1024


def decided(given: PlanningInput) -> Plan | None:
    """The plan that rewrites the first operation that has to be, or had better be, rewritten.

    Chains are rewritten before anything is assigned, also those whose turn is later: operations
    that devices already work on keep their numbers.
    """
    if given.program.first_chain is not None:
        return _ordered_chain(given, given.program.first_chain)
    for work in given.work:
        operation = given.program.operations[work.operation]
        is_product = given.may_rewrite and isinstance(operation.kind, Gemm)
        if is_product and (found := _split(given, work.operation)):
            return found
    return with_segments(given) if given.may_join else None


# Chains


@dataclass(frozen=True, eq=False)
class PoolCost:
    """Seconds of a product on a group of devices: water-filled, its operands fetched in squares."""

    groups: tuple[Pool, ...]
    dtype: str
    op: Op = Op.PRODUCT

    def product_s(self, rows: int, inner: int, columns: int, group: int) -> float:
        pool = self.groups[group]
        even = GemmShape(max(1, rows // len(pool)), inner, columns, self.dtype, self.op)
        shape = GemmShape(rows, inner, columns, self.dtype, self.op)
        if shape.flops <= 0:
            return 0.0
        speeds = pool.effective(pool.rates(even))
        itemsize = element_type(self.dtype).itemsize
        side = np.sqrt(rows * columns / len(pool))
        half = min(float(rows), side) + min(float(columns), side)
        far_s = (half * inner * itemsize) / pool.bandwidth_bytes_per_s + pool.latency_s
        ready_s = pool.launch_s + np.where(pool.is_local, 0.0, far_s)
        return level(shape.flops, ready_s, 1.0 / speeds)


def _ordered_chain(given: PlanningInput, index: int) -> Plan:
    program = given.program
    operation = program.operations[index]
    sizes = chain_sizes(program, operation)
    dtype = program.types[operation.result].dtype
    assert isinstance(operation.kind, Chain)
    op = Op.of(operation.kind.precision)
    groups = _groups(given.pool, dtype, op)
    pools = tuple(given.pool.take(np.array(members)) for members in groups.members)
    found = plan_chain(sizes, PoolCost(pools, dtype, op), groups.splits)
    rewritten = expand_chain(program, index, found.order)
    members = _members(program, index, found, rewritten, given.pool, groups)
    idle = given.pool.rates(GemmShape(max(sizes), max(sizes), max(sizes), dtype, op))
    return Plan(
        steps=(),
        makespan_s=found.predicted_s,
        pool_flops=float((idle * given.pool.availability).sum()),
        bytes_lower_bound=0,
        program=rewritten,
        groups=members,
        order=Order(
            f"the chain {operation.result} is multiplied in the order {found.order}",
            found.predicted_s,
            tuple(
                Alternative(f"{other.name}, {other.order}", other.predicted_s)
                for other in found.alternatives
            ),
        ),
    )


def chain_sizes(program: Program, operation: Operation) -> list[int]:
    """sizes[i] x sizes[i + 1] is the i-th matrix, as it is multiplied."""
    assert isinstance(operation.kind, Chain)
    types = [
        program.types[name].transposed() if at in operation.kind.transposed else program.types[name]
        for at, name in enumerate(operation.operands)
    ]
    return [types[0].rows, *(matrix.columns for matrix in types)]


def _groups(pool: Pool, dtype: str, op: Op) -> PoolGroups:
    """The whole pool, and pairs of disjoint groups with about given parts of its speed."""
    if len(pool) > MAX_GROUPED:
        return PoolGroups((tuple(range(len(pool))),), ())
    speeds = pool.effective(pool.rates(GemmShape(1024, 1024, 1024, dtype, op)))
    return split_pool(speeds.tolist())


def _members(
    program: Program,
    index: int,
    found: ChainPlan,
    rewritten: Program,
    pool: Pool,
    groups: PoolGroups,
) -> Mapping[int, frozenset[str]]:
    """For the operations that run on a part of the pool: the ids of its devices."""
    names = product_names(program, index, found.order)
    numbers = {operation.result: n for n, operation in enumerate(rewritten.operations)}
    return {
        numbers[names[made.start, made.stop]]: frozenset(
            pool.ids[device] for device in groups.members[made.group]
        )
        for made in found.products
        if made.group != WHOLE_POOL
    }


# Products with a deep inner dimension


def _split(given: PlanningInput, index: int) -> Plan | None:
    """Partial products, one for each device, where that is predicted to end clearly earlier."""
    program, policy, pool = given.program, given.policy, given.pool
    operation = program.operations[index]
    shape = program.shape_of(operation)
    deep = shape.inner >= DEEP * max(shape.rows, shape.columns, 1)
    wanted = policy.may_split_inner and policy.cut is Cut.BALANCED and len(pool) > 1
    if not (deep and wanted and shape.flops) or program.types[operation.result].element.is_exact:
        return None
    try:
        whole = cutting.best(
            price(program, operation, program.types[operation.result].whole(), pool), policy
        )
    except LimitReached:
        return None  # It is worked in rounds; whether parts would fit is another question.
    parts, devices, parts_s = _parts(program, operation, pool, policy)
    if len(parts) < 2:
        return None
    rewritten = split_inner(program, index, parts)
    total_s = parts_s + _sum_s(rewritten, operation.result, pool, policy)
    if total_s > (1.0 - SPLIT_GAIN) * whole.total_s:
        return None
    return Plan(
        steps=(),
        makespan_s=total_s,
        pool_flops=float((pool.rates(shape) * pool.availability).sum()),
        bytes_lower_bound=0,
        program=rewritten,
        groups={
            index + number: frozenset({pool.ids[device]}) for number, device in enumerate(devices)
        },
        order=Order(
            f"the product {operation.result} is cut along its inner dimension {shape.inner} into "
            f"{len(parts)} parts that are added",
            total_s,
            (Alternative(f"cut into {whole.shape}", whole.makespan_s),),
        ),
    )


def _parts(
    program: Program, operation: Operation, pool: Pool, policy: Policy
) -> tuple[list[tuple[int, int]], list[int], float]:
    """Windows of the inner dimension, the device of each, and when the last of them is done."""
    shape = program.shape_of(operation)
    kind = operation.kind
    assert isinstance(kind, Gemm)
    size = [float(program.types[name].element.itemsize) for name in operation.operands[:2]]
    far = ~pool.is_local
    speeds = pool.effective(pool.rates(shape))
    into = np.where(far, shape.rows * size[0] + shape.columns * size[1], 0.0)
    out = np.where(far, shape.rows * shape.columns * max(size), 0.0)
    flops = shape.flops / shape.inner
    unit_s = into / pool.bandwidth_bytes_per_s + flops / speeds
    ready_s = pool.ready_s + pool.launch_s + out / pool.bandwidth_bytes_per_s
    ready_s += np.where(far, pool.latency_s, 0.0)
    fastest = np.sort(ordered(-speeds)[:MAX_PARTS])
    caps = np.full(len(fastest), shape.inner, dtype=np.int64)
    shares = selected(shape.inner, ready_s[fastest], unit_s[fastest], caps, policy)
    used = np.flatnonzero(shares)
    made = balance(shape.inner, ready_s[fastest][used], unit_s[fastest][used])
    offset = kind.inner[0] if kind.inner else 0
    stops = (offset + np.cumsum(made.shares)).tolist()
    starts = [offset, *stops[:-1]]
    return list(zip(starts, stops)), fastest[used].tolist(), made.makespan_s


def _sum_s(rewritten: Program, result: str, pool: Pool, policy: Policy) -> float:
    """Seconds to add the parts, by devices that have nothing else to do then."""
    operation = next(o for o in rewritten.operations if o.result == result)
    assert isinstance(operation.kind, Sum)
    idle = pool.with_ready(np.zeros(len(pool)))
    whole = rewritten.types[result].whole()
    return cutting.best(price(rewritten, operation, whole, idle), policy).total_s
