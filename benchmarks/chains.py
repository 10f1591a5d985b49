"""Chains of matrices on two unlike agents, against `numpy.linalg.multi_dot` on the same two cores.

Half of the chains have sizes drawn evenly, half evenly by their logarithms. A hog pinned to one
core makes one agent half as fast, and NumPy's threads meet it as well. What is short is measured
without it: what is added to NumPy's time does not depend on who else runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, islice, pairwise
from typing import Any

import numpy as np

from benchmarks.checking import Array
from benchmarks.measuring import Figure, LeftOut, alternate, hog, percentile, summary, two_cores
from benchmarks.versus import NOTICED_S
from deadheat.client import Client, Lazy, LocalCluster

CASE = "chains, one agent half busy"
SHORT_CASE = "chains below 100 ms"
SEED = 20261125
LONG_S = 0.1
SIZES = (64, 4096)
MATRICES = (3, 8)
#: Seconds of each side that a chain is repeated for: what a hog does to a call is noise, which the
#: median of a few short ones keeps.
ENOUGH_S = 4.0
#: Calls whose median says whether a chain is long: beside a hog one may take several times that.
LOOKS = 3
#: As many jobs as a scheduler lists; a run makes fewer.
LISTED = 1_000
SHORT = 20
SHORT_REPEATS = 9
#: Both sides take nearly as long there, so that single calls say little.
ONE_BY_ONE_REPEATS = 15
#: A chain with two halves that are most of its work, neither of which needs the other.
HALVES = (1536, 3072, 1536, 3072, 1536)

Chain = Sequence[Array]


def run(*, chains: int = 100, repeats: int = 7, seed: int = SEED) -> Iterator[Figure]:
    yield Figure(CASE, "seed", float(seed))
    with _agents(is_busy=False) as client:
        yield from _short(client, seed)
    with _agents(is_busy=True) as client:
        # One at a time: a hundred of them would not leave memory for their products.
        long_ones = _long_ones(seed)
        yield from _against_numpy(client, islice(long_ones, chains), repeats)
        few = islice(long_ones, max(2, chains // 16))
        yield from _against_one_by_one(client, few, max(repeats, ONE_BY_ONE_REPEATS))
        yield from _halves(client, repeats)


@contextmanager
def _agents(*, is_busy: bool) -> Iterator[Client]:
    free, busy = two_cores()
    if free == busy:
        raise LeftOut("it takes two cores")
    agents = [{"name": "free", "cpus": [free]}, {"name": "busy", "cpus": [busy]}]
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(agents))
        client = stack.enter_context(Client(cluster.address))
        if is_busy:
            stack.enter_context(hog(busy))
            time.sleep(NOTICED_S)
        square = np.random.default_rng(1).standard_normal((2048, 2048))
        for _ in range(2):
            client.matmul(square, square, where="cluster")
            client.multi_dot([square] * 3)
        yield client


def drawn(rng: np.random.Generator, *, is_even: bool) -> list[int]:
    """The sizes of one chain."""
    matrices = int(rng.integers(MATRICES[0], MATRICES[1] + 1))
    if is_even:
        return [int(size) for size in rng.integers(SIZES[0], SIZES[1] + 1, matrices + 1)]
    logarithms = rng.uniform(np.log(SIZES[0]), np.log(SIZES[1]), matrices + 1)
    return [round(float(size)) for size in np.exp(logarithms)]


def _matrices(rng: np.random.Generator, sizes: Sequence[int]) -> Chain:
    return [rng.standard_normal((rows, columns)) for rows, columns in pairwise(sizes)]


def _long_ones(seed: int) -> Iterator[tuple[Chain, float]]:
    """Chains that take NumPy LONG_S or more, now, and its seconds for them."""
    rng = np.random.default_rng(seed)
    for number in count():
        chain = _matrices(rng, drawn(rng, is_even=number % 2 == 0))
        once_s = _seconds(chain)
        if once_s >= LONG_S:
            yield chain, once_s


def _seconds(chain: Chain) -> float:
    """NumPy's; one call tells where it takes far longer, or less, than is looked for."""
    ((first_s,),) = alternate(lambda: np.linalg.multi_dot(chain), repeats=1)
    if not LONG_S / 3 < first_s < LONG_S * 3:
        return first_s
    more_s = alternate(lambda: np.linalg.multi_dot(chain), repeats=LOOKS - 1)[0]
    return statistics.median([first_s, *more_s])


def _jobs(client: Client) -> int:
    return len(client.reports(limit=LISTED))


def _sides(client: Client, chain: Chain) -> list[Callable[[], object]]:
    """NumPy, we, and NumPy once more."""

    def numpy() -> object:
        return np.linalg.multi_dot(chain)

    return [numpy, lambda: client.multi_dot(chain), numpy]


def _short(client: Client, seed: int) -> Iterator[Figure]:
    """What is added to NumPy's time; the fastest call of each side counts."""
    rng = np.random.default_rng(seed)
    added_us: list[float] = []
    jobs = _jobs(client)
    while len(added_us) < SHORT:
        chain = _matrices(rng, drawn(rng, is_even=False))
        if _seconds(chain) >= LONG_S:
            continue
        sides = _sides(client, chain)[:2]
        numpy_s, ours_s = map(min, alternate(*sides, repeats=SHORT_REPEATS))
        added_us.append(1e6 * (ours_s - numpy_s) / (len(chain) - 1))
    yield summary(SHORT_CASE, "added a product", added_us, "us", target=100.0)
    yield Figure(SHORT_CASE, "that became jobs", float(_jobs(client) - jobs), target=0.0)


def _against_numpy(
    client: Client, chains: Iterable[tuple[Chain, float]], repeats: int
) -> Iterator[Figure]:
    ratios: list[float] = []
    floor: list[float] = []
    jobs = _jobs(client)
    for number, (chain, once_s) in enumerate(chains):
        found, expected = client.multi_dot(chain), np.linalg.multi_dot(chain)
        assert np.allclose(found, expected, rtol=1e-6, atol=1e-9 * float(np.abs(expected).max()))
        del found, expected
        times = max(repeats, round(ENOUGH_S / once_s))
        # Of a third of the chains also what NumPy differs from itself, which is not our doing.
        sides = _sides(client, chain)[: 2 if number % 3 else 3]
        numpy_s, *others = map(statistics.median, alternate(*sides, repeats=times))
        for seconds, kept in zip(others, (ratios, floor)):
            kept.append(seconds / numpy_s)
    name = "our time / multi_dot's"
    yield summary(CASE, f"{name}, median", ratios, target=1.0)
    yield percentile(CASE, f"{name}, 95 of 100", ratios, 95, target=1.10)
    yield Figure(CASE, f"{name}, highest", max(ratios), target=1.25, values=tuple(ratios))
    again = "multi_dot's / multi_dot's"
    yield percentile(CASE, f"{again}, 95 of 100", floor, 95)
    yield Figure(CASE, f"{again}, highest", max(floor), values=tuple(floor))
    yield Figure(CASE, "calls that became jobs", float(_jobs(client) - jobs))


def _against_one_by_one(
    client: Client, chains: Iterable[tuple[Chain, float]], repeats: int
) -> Iterator[Figure]:
    """Both sides on the cluster, with operands that are there."""
    ratios = []
    for chain, _ in chains:
        put = [client.put(matrix) for matrix in chain]
        ratios.append(_ratio(client, put, repeats, "balanced"))
    name = "our order / fewest operations, one by one"
    yield Figure(CASE, f"{name}, highest", max(ratios), target=1.02, values=tuple(ratios))
    yield summary(CASE, f"{name}, median", ratios)


def _halves(client: Client, repeats: int) -> Iterator[Figure]:
    put = [client.put(matrix) for matrix in _matrices(np.random.default_rng(2), HALVES)]
    ratio = _ratio(client, put, repeats, "equal")
    yield Figure(CASE, "two heavy halves / one by one, equal cut", ratio, target=0.85)


def _ratio(client: Client, put: Sequence[Lazy], repeats: int, cut: Any) -> float:
    """Our time for a chain / that of one product after the other, in the order with the fewest
    operations."""

    def ours() -> None:
        whole = put[0]
        for matrix in put[1:]:
            whole = whole @ matrix
        client.persist(whole)

    def theirs() -> None:
        made = {(at, at + 1): matrix for at, matrix in enumerate(put)}
        for start, middle, stop in _best_order([put[0].shape[0], *(m.shape[1] for m in put)]):
            product = made[start, middle] @ made[middle, stop]
            made[start, stop] = client.persist(product, cut=cut)

    ours()
    theirs()
    ours_s, theirs_s = map(statistics.median, alternate(ours, theirs, repeats=repeats))
    return ours_s / theirs_s


def _best_order(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Products (start, middle, stop) of the order with the fewest operations, sides first."""
    last = len(sizes) - 1
    best: dict[tuple[int, int], tuple[int, int]] = {(at, at + 1): (0, 0) for at in range(last)}
    for length in range(2, last + 1):
        for start in range(last - length + 1):
            stop = start + length
            best[start, stop] = min(
                (
                    best[start, middle][0]
                    + best[middle, stop][0]
                    + sizes[start] * sizes[middle] * sizes[stop],
                    middle,
                )
                for middle in range(start + 1, stop)
            )

    def products(start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        if stop - start > 1:
            middle = best[start, stop][1]
            yield from products(start, middle)
            yield from products(middle, stop)
            yield start, middle, stop

    return products(0, last)
