"""Random programs on real processes whose executors are killed in the middle: NumPy's results."""

from __future__ import annotations

import operator
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import TWO_AGENTS
from tests.e2e.processes import children_of
from tests.waiting import wait_until

from deadheat.client import Client, Lazy, LocalCluster
from deadheat.client.choices import CUTS

SIZE = 900
#: Of numbers up to 1 four products stay below 2**53, so that any order of summation is exact.
MOST_PRODUCTS = 4
STEPS = ("left", "right", "transpose", "relu", "add", "subtract", "rows", "sum")

Pair = tuple[Lazy, np.ndarray]


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[LocalCluster, Client]]:
    """Not the cluster of other tests: processes of this one are killed."""
    with LocalCluster(TWO_AGENTS) as running, Client(running.address) as client:
        yield running, client


def grown(step: str, made: Pair, x: Pair) -> Pair:
    lazy, array = made
    match step:
        case "left" if array.shape[0] == SIZE:
            return x[0] @ lazy, x[1] @ array
        case "right" if array.shape[1] == SIZE:
            return lazy @ x[0], array @ x[1]
        case "transpose":
            return lazy.T, array.T
        case "relu":
            return lazy.relu(), np.maximum(array, 0)
        case "add" | "subtract" if array.shape == x[1].shape:
            how = operator.add if step == "add" else operator.sub
            return how(lazy, x[0]), how(array, x[1])
        case "rows" if array.shape[0] == SIZE:
            return lazy[100:800], array[100:800]
        case "sum":
            return lazy + lazy.sum(axis=0, keepdims=True), array + array.sum(axis=0, keepdims=True)
    return made


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=9),
    cut=st.sampled_from(sorted(CUTS)),
    killed=st.lists(st.integers(0, 1), max_size=2),
)
def test_random_programs_are_numpys_though_executors_are_killed(
    busy: tuple[LocalCluster, Client], seed: int, steps: list[str], cut: str, killed: list[int]
) -> None:
    cluster, client = busy
    array = np.random.default_rng(seed).integers(-1, 2, (SIZE, SIZE)).astype(np.float64)
    x = (client.put(array), array)
    made: Pair = (x[0] @ x[0], array @ array)
    products = 1
    for step in steps:
        products += step in ("left", "right", "sum")
        if products <= MOST_PRODUCTS:
            made = grown(step, made, x)
    job = client.submit(made[0], cut=cut)  # type: ignore[arg-type]
    wait_until(lambda: job.state != "queued", "the job to begin")
    for number in killed:
        for pid in children_of(cluster.agents[number].process.pid):
            with suppress(ProcessLookupError):  # It may be one that was killed just before.
                os.kill(pid, signal.SIGKILL)
    assert np.array_equal(job.result(120), made[1])
