"""Chains: the order of a chain of products by predicted time on this pool.

The order with the fewest operations is not the fastest: a device's rate depends on the shape of a
product (Lopez, Karlsson, Bientinesi, "FLOPs as a discriminant for dense linear algebra algorithms",
ICPP 2022), and a small product cannot use a whole pool, so that two sides of a cut may better run
at once on parts of it (Lee, Kim, Hong, Lee, "Processor allocation and task scheduling of matrix
chain products on parallel systems", TPDS 14(4), 2003). So this is the textbook dynamic programme
over intervals (Godbole 1973) with seconds in place of operations, and two ways to run each cut:

    T(i, j) = min over k of  min( T(i, k) + T(k+1, j),                    one side after the other
                                  min over splits (g, h) of the pool
                                      max(T_g(i, k), T_h(k+1, j)) )       both at once
                             + product(i, k, j)

T_g is the same within a group, sides one after the other. O(n^3) products for each group, n bounded
by MAX_CHAIN. Running any order in sequence is among the choices, so that the plan is never worse,
by its own prediction, than the order with the fewest operations.

Rules of this file: pure and deterministic; ties go to the sequence and to the leftmost cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MAX_CHAIN
from deadheat.runtime.units import format_seconds
from deadheat.scheduler.planner.orders import Leaf, Order, Pair, left_to_right, right_to_left

#: The group of all devices.
WHOLE_POOL: Final = 0


class Cost(Protocol):
    """What a product costs on a group of devices. Group 0 is the whole pool."""

    def product_s(self, rows: int, inner: int, columns: int, group: int) -> float: ...


@dataclass(frozen=True, slots=True)
class RatesCost:
    """A plain cost: each group's rate in multiply-adds a second, what it costs to start a product,
    and what it takes at least, however small it is."""

    rates_steps: tuple[float, ...]
    launch_s: float = 0.0
    minimum_s: float = 0.0

    def product_s(self, rows: int, inner: int, columns: int, group: int) -> float:
        steps = float(rows) * inner * columns
        return max(self.minimum_s, self.launch_s + steps / self.rates_steps[group])


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a plan: positions [start, stop) of the chain, on the devices of a group."""

    start: int
    stop: int
    group: int
    #: Its two sides run at the same time.
    is_concurrent: bool
    #: Seconds from the start of the chain.
    start_s: float
    finish_s: float


@dataclass(frozen=True, slots=True)
class OtherOrder:
    """An order that was not chosen, run in sequence on the whole pool."""

    name: str
    order: Order
    predicted_s: float


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """The order, when each product runs where (sides before what they are sides of), and what the
    usual orders would have cost."""

    order: Order
    predicted_s: float
    products: tuple[Product, ...]
    alternatives: tuple[OtherOrder, ...]

    def group_of(self, start: int, stop: int) -> int:
        """The group of the product of positions [start, stop)."""
        return next(p.group for p in self.products if (p.start, p.stop) == (start, stop))

    def __str__(self) -> str:
        lines = [f"{self.order} in {format_seconds(self.predicted_s)}"]
        for p in self.products:
            where = f"on group {p.group}" if p.group else "on all devices"
            when = f"{format_seconds(p.start_s)} to {format_seconds(p.finish_s)}"
            both = ", its sides at the same time" if p.is_concurrent else ""
            lines.append(f"  M{p.start + 1}..M{p.stop}: {where}, {when}{both}")
        lines += [
            f"  {other.name}: {other.order} in {format_seconds(other.predicted_s)}"
            for other in self.alternatives
        ]
        return "\n".join(lines)


def plan_chain(
    sizes: Sequence[int], cost: Cost, splits: Sequence[tuple[int, int]] = ()
) -> ChainPlan:
    """Plans the chain whose i-th matrix is sizes[i] x sizes[i + 1].

    `splits` are pairs of groups that are disjoint, so that they can work at the same time; either
    side may get either group.
    """
    if not 2 <= len(sizes) - 1 <= MAX_CHAIN:
        raise InvalidInput(f"a chain has 2 to {MAX_CHAIN} matrices, not {len(sizes) - 1}")
    return _Search(sizes, cost, splits).plan()


def fewest_operations(sizes: Sequence[int]) -> Order:
    """The order with the fewest multiply-adds, as `numpy.linalg.multi_dot` takes it.

    >>> str(fewest_operations([10, 100, 5, 50]))
    '((M1 M2) M3)'
    """
    table = _Table.filled(len(sizes) - 1, lambda i, k, j: sizes[i] * sizes[k + 1] * sizes[j + 1])
    return table.order(0, len(sizes) - 2)


Groups = tuple[int, int]


@dataclass(slots=True)
class _Table:
    """Of each interval of the chain, the best value, where it is cut, and the groups of its sides
    (None: the interval's own, one side after the other)."""

    value: list[list[float]]
    cut: list[list[int]]
    sides: list[list[Groups | None]]

    @staticmethod
    def filled(
        count: int,
        product: Callable[[int, int, int], float],
        concurrent: Callable[[int, int, int], tuple[float, Groups | None]] | None = None,
    ) -> _Table:
        """By increasing length. `product(i, k, j)` is the cost of (i..k) @ (k+1..j), `concurrent`
        the least time for both sides at once and the groups that do it."""
        table = _Table(
            [[0.0] * count for _ in range(count)],
            [[0] * count for _ in range(count)],
            [[None] * count for _ in range(count)],
        )
        for length in range(2, count + 1):
            for i in range(count - length + 1):
                table._fill(i, i + length - 1, product, concurrent)
        return table

    def _fill(
        self,
        i: int,
        j: int,
        product: Callable[[int, int, int], float],
        concurrent: Callable[[int, int, int], tuple[float, Groups | None]] | None,
    ) -> None:
        best: float | None = None
        for k in range(i, j):
            sides: Groups | None = None
            sides_s = self.value[i][k] + self.value[k + 1][j]
            if concurrent and i < k and k + 1 < j:
                at_once_s, groups = concurrent(i, k, j)
                if at_once_s < sides_s:
                    sides_s, sides = at_once_s, groups
            total = sides_s + product(i, k, j)
            if best is None or total < best:
                best = total
                self.value[i][j], self.cut[i][j], self.sides[i][j] = total, k, sides

    def order(self, i: int, j: int) -> Order:
        if i == j:
            return Leaf(i)
        k = self.cut[i][j]
        return Pair(self.order(i, k), self.order(k + 1, j))


class _Search:
    """One search: the tables of all groups, and the plan that is read from them."""

    def __init__(self, sizes: Sequence[int], cost: Cost, splits: Sequence[Groups]) -> None:
        self._sizes = sizes
        # A product of one shape is asked for many times, and may be a whole plan behind it.
        self._product_s = cache(cost.product_s)
        self._splits = [way for g, h in splits for way in ((g, h), (h, g))]
        self._count = len(sizes) - 1
        parts = sorted({group for split in self._splits for group in split})
        self._tables = {group: self._filled(group) for group in parts}
        self._tables[WHOLE_POOL] = self._filled(WHOLE_POOL)

    def _filled(self, group: int) -> _Table:
        def product(i: int, k: int, j: int) -> float:
            sizes = self._sizes
            return self._product_s(sizes[i], sizes[k + 1], sizes[j + 1], group)

        at_once = self._at_once if group == WHOLE_POOL and self._splits else None
        return _Table.filled(self._count, product, at_once)

    def _at_once(self, i: int, k: int, j: int) -> tuple[float, Groups | None]:
        best: tuple[float, Groups | None] = (float("inf"), None)
        for g, h in self._splits:
            left_s, right_s = self._tables[g].value[i][k], self._tables[h].value[k + 1][j]
            if (later_s := max(left_s, right_s)) < best[0]:
                best = (later_s, (g, h))
        return best

    def plan(self) -> ChainPlan:
        last = self._count - 1
        order = self._order(0, last, WHOLE_POOL)
        products = tuple(self._products(0, last, WHOLE_POOL, 0.0))
        others = (
            ("fewest operations, in sequence", fewest_operations(self._sizes)),
            ("left to right", left_to_right(self._count)),
            ("right to left", right_to_left(self._count)),
        )
        alternatives = tuple(OtherOrder(n, o, self._sequence_s(o)) for n, o in others)
        predicted_s = self._tables[WHOLE_POOL].value[0][last]
        return ChainPlan(order, predicted_s, products, alternatives)

    def _groups(self, i: int, j: int, group: int) -> Groups:
        """The groups of the two sides of an interval that is computed by `group`."""
        sides = self._tables[group].sides[i][j]
        return (group, group) if sides is None else sides

    def _order(self, i: int, j: int, group: int) -> Order:
        if i == j:
            return Leaf(i)
        k = self._tables[group].cut[i][j]
        left, right = self._groups(i, j, group)
        return Pair(self._order(i, k, left), self._order(k + 1, j, right))

    def _products(self, i: int, j: int, group: int, at_s: float) -> Iterator[Product]:
        """When each product runs, where the interval may begin at `at_s`."""
        if i == j:
            return
        table, (left, right) = self._tables[group], self._groups(i, j, group)
        k = table.cut[i][j]
        is_concurrent = table.sides[i][j] is not None
        left_s, right_s = self._tables[left].value[i][k], self._tables[right].value[k + 1][j]
        yield from self._products(i, k, left, at_s)
        yield from self._products(k + 1, j, right, at_s if is_concurrent else at_s + left_s)
        ready_s = at_s + (max(left_s, right_s) if is_concurrent else left_s + right_s)
        yield Product(i, j + 1, group, is_concurrent, ready_s, at_s + table.value[i][j])

    def _sequence_s(self, order: Order) -> float:
        if isinstance(order, Leaf):
            return 0.0
        sizes = self._sizes
        middle = sizes[order.right.start]
        product_s = self._product_s(sizes[order.start], middle, sizes[order.stop], WHOLE_POOL)
        return self._sequence_s(order.left) + self._sequence_s(order.right) + product_s
