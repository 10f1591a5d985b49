"""In which order the matrices of a chain are multiplied: a binary tree over their positions.

>>> str(Pair(Pair(Leaf(0), Leaf(1)), Leaf(2)))
'((M1 M2) M3)'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """One matrix of the chain, by its position from 0."""

    index: int

    @property
    def start(self) -> int:
        return self.index

    @property
    def stop(self) -> int:
        return self.index + 1

    def __str__(self) -> str:
        return f"M{self.index + 1}"


@dataclass(frozen=True, slots=True)
class Pair:
    """The product of two neighbouring stretches of the chain, positions [start, stop)."""

    left: Order
    right: Order

    @property
    def start(self) -> int:
        return self.left.start

    @property
    def stop(self) -> int:
        return self.right.stop

    def __str__(self) -> str:
        return f"({self.left} {self.right})"


Order = Leaf | Pair


def left_to_right(count: int) -> Order:
    """As Python multiplies `a @ b @ c`.

    >>> str(left_to_right(4))
    '(((M1 M2) M3) M4)'
    """
    order: Order = Leaf(0)
    for index in range(1, count):
        order = Pair(order, Leaf(index))
    return order


def right_to_left(count: int) -> Order:
    """Right for a chain that ends in a vector.

    >>> str(right_to_left(4))
    '(M1 (M2 (M3 M4)))'
    """
    order: Order = Leaf(count - 1)
    for index in reversed(range(count - 1)):
        order = Pair(Leaf(index), order)
    return order


def leaves(order: Order) -> Iterator[int]:
    match order:
        case Leaf(index):
            yield index
        case Pair(left, right):
            yield from leaves(left)
            yield from leaves(right)


def products(order: Order) -> Iterator[Pair]:
    """The products in an order in which they can be computed: sides first, left before right."""
    if isinstance(order, Pair):
        yield from products(order.left)
        yield from products(order.right)
        yield order
