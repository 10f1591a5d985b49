"""Parameters under training: what of a step's results they need, and what they become.

Rules of this file: for each parameter p, v = momentum * v + gradient and p = p - rate * v, element
by element and in p's dtype, wherever that is done. What travels with each job anyway, since it is
small, is changed in this process: on the cluster that would be four operations more, whose
cost does not depend on their size. What is large stays there, and so does its v.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.lazy import Lazy


@dataclass(frozen=True)
class Rule:
    rate: float
    momentum: float


class Near:
    """A parameter that is here."""

    def __init__(self, value: Lazy, array: Array, rule: Rule) -> None:
        self.value = value
        self._array = array
        self._velocity: Array | None = None
        self._rule = rule

    @staticmethod
    def wanted(gradient: Lazy) -> Sequence[Lazy]:
        """What is to be computed for it."""
        return [gradient]

    def take(self, made: Iterator[Lazy]) -> None:
        """Goes on by what was computed for it."""
        move: Array = next(made).compute()
        with np.errstate(all="ignore"):  # What runs away is said by whoever looks at the loss.
            if self._velocity is not None:
                move = self._velocity * self._rule.momentum + move
            if self._rule.momentum:
                self._velocity = move
            self._array = self._array - move * self._rule.rate
        self.value = self.value.client.put(self._array)

    def array(self) -> Array:
        return self._array


class Far:
    """A parameter that stays on the cluster."""

    def __init__(self, value: Lazy, rule: Rule) -> None:
        self.value = value
        self._velocity: Lazy | None = None
        self._rule = rule

    def wanted(self, gradient: Lazy) -> Sequence[Lazy]:
        """What is to be computed for it: its next value, and v if there is momentum."""
        move = gradient
        if self._velocity is not None:
            move = self._velocity * self._rule.momentum + gradient
        value = self.value - move * self._rule.rate
        return [value, move] if self._rule.momentum else [value]

    def take(self, made: Iterator[Lazy]) -> None:
        """Goes on by what was computed for it."""
        self.value = next(made)
        if self._rule.momentum:
            self._velocity = next(made)

    def array(self) -> Array:
        found: Array = self.value.compute()
        return found


def begin(value: Lazy, array: Array, rule: Rule) -> Near | Far:
    """A parameter that is `array`, and on the cluster (if it had to go there) `value`."""
    held: Any = value.node.held
    is_here = held is not None and held.array is not None
    return Near(value, array, rule) if is_here else Far(value, rule)
