"""Where products and programs are computed: here or there, by what either is predicted to take.

Rules of this file: a question costs microseconds for a small product and never waits for the
network; a large one may wait some milliseconds for news of the cluster. Our own speed is that of
our own products, by the stopwatch; the cluster's is what the scheduler says of its devices.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Final

import numpy as np

from deadheat.client.arrays import Checked, is_symmetric
from deadheat.runtime.dtypes import element_type, numpy_dtype
from deadheat.runtime.errors import DeadheatError
from deadheat.runtime.programs import Chain, Program, is_row_local
from deadheat.v1 import cluster_pb2

#: What a job costs before and after its work: submission, plan, commits, dispatch, news of its end.
JOB_S: Final = 4e-3
#: What each barrier of a chain or program costs on top: the last sub-tasks are told of, their
#: result is sealed, the next operation is planned and sent, and devices wait for one another. 10 ms
#: on two idle cores, 20 beside others (thirty chains, fitted).
BARRIER_S: Final = 16e-3
#: Bytes a second into shared memory whose pages are new, and over a network of a gigabit.
SHARED_RATE: Final = 2e9
STREAMED_RATE: Final = 1.1e8
#: The cluster has to be predicted to be faster by this: neither prediction is better than that, and
#: a product here costs nobody else anything.
WORTH_SHIPPING: Final = 0.85
#: How long news of the cluster are new, and old news are better than none.
NEWS_S: Final = 1.0
OLD_NEWS_S: Final = 5.0
#: The part of a product's own time that may be spent on finding out where it is faster.
ASKING_SHARE: Final = 0.01
#: Work of which nothing need be known: it is done here, and its time taken. A second at most.
UNASKED_FLOPS: Final = {True: 5e8, False: 4e9}
#: Work that takes long enough for its time to say something.
OBSERVED_FLOPS: Final = {True: 5e6, False: 1e8}
#: A rate that is older than this is measured anew before a product that takes so long.
RATE_S: Final = 2.0
LONG_S: Final = 2.0
#: What may be lost, by prediction, to learn how fast we are: so many seconds while a probe is all
#: that tells (beside others it may say a quarter of the truth: threads that slept are put on one
#: core, for a tenth of a second), and of what we know, this share of its age. Else a rate that
#: somebody disturbed would stay for ever, since nothing would be done here any more.
LEARNING_S: Final = 0.5
LEARNING_SHARE: Final = 0.02
#: Products of which the fastest tells our rate.
RECENT: Final = 5
#: The side of the product that measures our rate, with and without BLAS: 10 to 30 ms.
PROBE_SIDE: Final = {True: 160, False: 640}
#: Until programs have been seen: with what is not predicted of them (operands whose pages are new,
#: plans and commits beside the work) they took 0.8 to 1.6 times what is, on one host.
PROGRAM_BIAS: Final = 1.3
BIAS_BOUNDS: Final = (0.25, 4.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What either place has to do. `local_flops` is less where NumPy does half the work."""

    dtype: str
    flops: float
    local_flops: float
    moved_bytes: int
    #: Barriers but for the one at the end.
    barriers: int = 0
    #: What is in the store and would have to come here, if no memory is shared with it.
    stored_bytes: int = 0
    #: One product, rather than several operations: rates of either say little of the other.
    is_product: bool = True

    @property
    def is_exact(self) -> bool:
        return element_type(self.dtype).is_exact

    @staticmethod
    def of(checked: Checked, flops: float, result_bytes: int, barriers: int = 0) -> Work:
        local_flops, sources = flops, list(checked.sources)
        if is_symmetric(checked):
            # Half the work, but not half the time: measured 0.6 of it.
            local_flops, sources = 0.6 * flops, sources[:1]
        moved = sum(source.stored_type(checked.dtype).size_bytes for source in sources)
        moved += result_bytes
        return Work(checked.dtype, flops, local_flops, moved, barriers, is_product=not barriers)


def work_of_program(program: Program, stored: Collection[str]) -> Work:
    """What a program has to do; operands of the names `stored` are with the cluster already."""
    types = program.types
    heaviest = max(program.operations, key=program.flops_of)
    sizes = {operand.name: operand.type.size_bytes for operand in program.operands}
    moved = sum(size for name, size in sizes.items() if name not in stored)
    moved += sum(types[name].size_bytes for name in program.results)
    there = sum(size for name, size in sizes.items() if name in stored)
    flops = program.flops
    dtype = types[heaviest.result].dtype
    return Work(dtype, flops, flops, moved, _barriers(program), there, is_product=False)


def _barriers(program: Program) -> int:
    """Barriers that stay at least, but for the last: where rows mix, after what is wanted, and
    between the products of a chain. The planner may leave others, where they cost less."""
    last = program.operations[-1]
    ends = {name for name in program.results if name != last.result}
    for operation in program.operations:
        if not is_row_local(operation) and operation is not last:
            ends.add(operation.result)
    chains = (o for o in program.operations if isinstance(o.kind, Chain))
    return len(ends) + sum(len(chain.operands) - 2 for chain in chains)


@dataclass(frozen=True, slots=True)
class DeviceNews:
    """One device: seconds until it is free, and what it can give now, by dtype."""

    queue_s: float
    rates: dict[str, float]


@dataclass(frozen=True, slots=True)
class News:
    devices: Sequence[DeviceNews]
    round_trip_s: float
    at_s: float

    @staticmethod
    def of(nodes: Sequence[cluster_pb2.Node], round_trip_s: float, at_s: float) -> News:
        devices = [
            DeviceNews(
                device.queue_s,
                {dtype: speed * device.availability for dtype, speed in device.speed_flops.items()},
            )
            for node in nodes
            if node.state == cluster_pb2.NODE_STATE_UP
            for device in node.devices
            if device.HasField("availability")
        ]
        return News(devices, round_trip_s, at_s)


def cluster_s(work: Work, news: News, *, shares_memory: bool) -> float:
    """Seconds a job would take: all devices together, each from when it is free on; infinite
    without any."""
    capable = sorted(
        (device.queue_s, rate)
        for device in news.devices
        if (rate := device.rates.get(work.dtype, 0.0)) > 0.0
    )
    finish_s, rates, ahead = float("inf"), 0.0, work.flops
    for queue_s, rate in capable:
        if queue_s >= finish_s:
            break
        # All that are free by then share what is left: sum of rate * (T - queue) = flops.
        rates, ahead = rates + rate, ahead + rate * queue_s
        finish_s = ahead / rates
    moved_rate = SHARED_RATE if shares_memory else STREAMED_RATE
    overhead_s = JOB_S + BARRIER_S * work.barriers + 4 * news.round_trip_s
    return overhead_s + work.moved_bytes / moved_rate + finish_s


class _Rate:
    """How fast this process multiplied lately: the best of a few products. One that somebody
    disturbed says nothing of the next, and is no reason to ship that. Or what a probe said."""

    def __init__(self, *, is_probed: bool = False) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.at_s = 0.0
        self.is_probed = is_probed

    @property
    def flops(self) -> float:
        return max(self._recent)

    def add(self, flops: float, at_s: float) -> None:
        self._recent.append(flops)
        self.at_s = at_s


class Places:
    """What one client knows of its own speed and of its cluster's. `ask` starts a question to the
    cluster; None while there is none, and then everything is done here."""

    def __init__(
        self,
        ask: Callable[[], Future[News]] | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.ask = ask
        self.shares_memory = False
        self._clock = clock
        self._rates: dict[tuple[str, bool], _Rate] = {}
        self._news: News | None = None
        self._asked: Future[News] | None = None
        #: Of single products, and of chains and programs.
        self._biases = {True: 1.0, False: PROGRAM_BIAS}

    def is_here(self, work: Work) -> bool:
        """Whether it is better done in this process."""
        if self.ask is None:
            return True
        known = self._rates.get((work.dtype, work.is_product))
        if known is None and work.local_flops <= UNASKED_FLOPS[work.is_exact]:
            self._newest(0.0)  # For the next one.
            return True
        rate = self._rate(work, known)
        here_s = work.local_flops / rate.flops
        if not self.shares_memory:
            here_s += work.stored_bytes / STREAMED_RATE
        news = self._newest(here_s * ASKING_SHARE)
        if news is None:
            # A cluster that does not answer in that time takes no less for a job.
            return True
        there_s = self._cluster_s(work, news)
        is_sooner = here_s * WORTH_SHIPPING <= there_s
        return is_sooner or self._is_worth_learning(rate, here_s - there_s)

    def _is_worth_learning(self, rate: _Rate, lost_s: float) -> bool:
        if rate.is_probed:
            return lost_s <= LEARNING_S
        return lost_s <= LEARNING_SHARE * (self._clock() - rate.at_s)

    def _cluster_s(self, work: Work, news: News) -> float:
        bias = self._biases[work.is_product]
        return bias * cluster_s(work, news, shares_memory=self.shares_memory)

    # Our own speed

    def took_here(self, work: Work, seconds: float) -> None:
        """A product was computed in this process."""
        if work.local_flops >= OBSERVED_FLOPS[work.is_exact] and seconds > 0.0:
            known = self._rates.get((work.dtype, work.is_product))
            if known is None or known.is_probed:
                known = self._rates[work.dtype, work.is_product] = _Rate()
            known.add(work.local_flops / seconds, self._clock())

    def _rate(self, work: Work, known: _Rate | None) -> _Rate:
        if known is not None:
            is_long = work.local_flops / known.flops >= LONG_S
            if not is_long or self._clock() - known.at_s < RATE_S:
                return known
        measured = self._rates[work.dtype, work.is_product] = _Rate(is_probed=True)
        rate = _measured_flops(work.dtype, PROBE_SIDE[work.is_exact], self._clock)
        measured.add(rate, self._clock())
        return measured

    # The cluster's

    def took_there(self, work: Work, seconds: float) -> None:
        """A job of this work took so long, all in all: predictions are corrected by it."""
        if self._news is None:
            return
        predicted_s = cluster_s(work, self._news, shares_memory=self.shares_memory)
        if predicted_s < float("inf"):
            least, most = BIAS_BOUNDS
            bias = (self._biases[work.is_product] + seconds / predicted_s) / 2
            self._biases[work.is_product] = min(max(bias, least), most)

    def _newest(self, patience_s: float) -> News | None:
        """What was heard of the cluster last, or within `patience_s`; asks again if that is not
        new."""
        now = self._clock()
        answered = self._asked
        if answered and answered.done():
            self._asked = None
            if not answered.cancelled() and answered.exception() is None:
                self._news = answered.result()
        age_s = now - self._news.at_s if self._news else float("inf")
        if age_s < NEWS_S:
            return self._news
        if self._asked is None and self.ask:
            self._asked = self.ask()
        if age_s < OLD_NEWS_S or self._asked is None:
            return self._news
        try:
            self._news = self._asked.result(patience_s)
        except (DeadheatError, NotYet):
            return None
        return self._news


def _measured_flops(dtype: str, side: int, clock: Callable[[], float]) -> float:
    """Multiplies a small matrix three times: the first loads and faults, the others count."""
    compute = numpy_dtype(element_type(dtype).compute)
    matrix = np.ones((side, side), compute)
    started_s = clock()
    for repeat in range(3):
        np.matmul(matrix, matrix)
        if not repeat:
            started_s = clock()
    steps = 2 * side**3 * element_type(dtype).flops_per_step
    return float(steps / max(clock() - started_s, 1e-9))
