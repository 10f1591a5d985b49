"""A pool in two parts that work at the same time, for a few ratios of their speeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: The smaller part's share of the speed that is aimed at; with either side of a cut on either part
#: these are 1/4, 1/3, 1/2, 2/3 and 3/4. Finer ratios change the makespan little: with shares off by
#: a twelfth, the later side ends at most a third later (an eighth for sides of equal work).
FRACTIONS: Final = (1 / 4, 1 / 3, 1 / 2)


@dataclass(frozen=True, slots=True)
class PoolGroups:
    """`members[g]` are the devices of group g, by position; group 0 is all of them. `splits` are
    pairs of groups without a common device that together are the pool."""

    members: tuple[tuple[int, ...], ...]
    splits: tuple[tuple[int, int], ...]


def split_pool(speeds: Sequence[float]) -> PoolGroups:
    """Groups of devices by speed: the fastest first, each to the part that lacks most (the greedy
    rule for number partitioning, Graham 1969). Splits that come out alike are kept once.

    >>> split_pool([1.0, 1.0, 2.0]).members
    ((0, 1, 2), (0,), (1, 2), (2,), (0, 1))
    """
    members: list[tuple[int, ...]] = [tuple(range(len(speeds)))]
    splits: list[tuple[int, int]] = []
    seen: set[frozenset[tuple[int, ...]]] = set()
    for fraction in FRACTIONS:
        parts = _parted(speeds, fraction)
        if all(parts) and frozenset(parts) not in seen:
            seen.add(frozenset(parts))
            splits.append((len(members), len(members) + 1))
            members.extend(parts)
    return PoolGroups(tuple(members), tuple(splits))


def _parted(speeds: Sequence[float], fraction: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    total = sum(speeds)
    small_lacks, large_lacks = fraction * total, (1 - fraction) * total
    small: list[int] = []
    large: list[int] = []
    for index in sorted(range(len(speeds)), key=lambda k: (-speeds[k], k)):
        if small_lacks > large_lacks or (small_lacks == large_lacks and not small):
            small.append(index)
            small_lacks -= speeds[index]
        else:
            large.append(index)
            large_lacks -= speeds[index]
    return tuple(sorted(small)), tuple(sorted(large))
