"""Programs and networks are computed where it is faster; nothing is sent for what stays here."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.test_lazy import HERE
from tests.client.test_places import GB, device, places
from tests.client.test_segments import lowered

from deadheat.client import Client, InvalidInput, nn
from deadheat.client.lazy import Lazy
from deadheat.client.ordering import without_chains
from deadheat.client.places import (
    BARRIER_S,
    OBSERVED_FLOPS,
    News,
    Work,
    cluster_s,
    work_of_program,
)
from deadheat.runtime.evaluating import evaluate
from deadheat.runtime.programs import Chain

RNG = np.random.default_rng(29)
X = RNG.standard_normal((300, 40))
W = RNG.standard_normal((40, 40))


def work_of(*matrices: Lazy, stored: frozenset[str] = frozenset()) -> Work:
    program, _, _ = lowered(*matrices)
    assert program is not None
    return work_of_program(program, stored)


def test_small_programs_are_no_jobs(client: Client) -> None:
    before = {report.id for report in client.reports()}
    x, w = client.put(X), client.put(W)
    assert np.allclose((x @ w).tanh().compute(), np.tanh(X @ W))
    assert np.allclose(np.asarray(x @ w @ w), X @ W @ W)
    both = client.compute(x @ w, (x @ w).sum(axis=0))
    assert np.allclose(both[1], (X @ W).sum(axis=0))
    assert {report.id for report in client.reports()} == before
    assert np.allclose((x @ w).compute(where="cluster"), X @ W)
    assert np.allclose((x @ w).compute(timeout=60), X @ W)
    assert len({report.id for report in client.reports()} - before) == 2


def test_a_small_pass_is_no_job_and_sends_nothing(client: Client) -> None:
    mlp = nn.MLP([40, 4000, 10], seed=1)  # Parameters are larger than what travels with a job.
    x = X[:100]
    # Too little for its time to be taken: it stays here, however slow this machine is just now.
    assert 2.0 * len(x) * (40 * 4000 + 4000 * 10) < OBSERVED_FLOPS[False]
    expected = client.forward(mlp, x, where="cluster")
    sent = client._resident.copy()
    assert sent
    other = nn.MLP([40, 4000, 10], seed=1)
    before = {report.id for report in client.reports()}
    assert client.place_forward(other, x) == "local"
    assert np.allclose(client.forward(other, x), expected)
    assert np.allclose(client.forward(other, client.put(x)), expected)
    assert np.allclose(client.forward(other, x[0]), expected[0])
    assert {report.id for report in client.reports()} == before
    assert client._resident == sent


def test_a_pass_here_reads_what_it_is_given_and_changes_nothing() -> None:
    mlp = nn.MLP([40, 30], activations="relu", seed=2)
    x = X.copy()
    first = HERE.forward(mlp, x, softmax=True)
    first += 1.0
    assert np.array_equal(x, X)
    assert np.allclose(HERE.forward(mlp, x, softmax=True) + 1.0, first)


@pytest.mark.parametrize("options", [{"cut": "equal"}, {"timeout": 5}, {"durability": "power"}])
def test_what_only_a_job_has_is_refused_here(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="where is 'local'"):
        client.put(X).T.compute(where="local", **options)
    with pytest.raises(InvalidInput, match="where is 'local'"):
        client.forward(nn.MLP([40, 3], seed=1), X, where="local", **options)
    with pytest.raises(InvalidInput, match="where is 'nowhere'; it may be auto, cluster, local"):
        client.compute(client.put(X), where="nowhere")  # type: ignore[arg-type]


def test_a_large_program_goes_where_more_devices_are() -> None:
    made, _ = places(*[device(50 * GB)] * 4)
    made.shares_memory = True
    made.took_here(Work("float64", 50 * GB, 50 * GB, 0, is_product=False), 1.0)
    x = HERE.put(np.broadcast_to(np.float64(0), (8192, 8192)))
    assert not made.is_here(work_of((x @ x).relu() @ x))
    small = HERE.put(W)
    assert made.is_here(work_of((small @ small).relu() @ small))


def test_barriers_count_and_keep_small_chains_here() -> None:
    devices = [device(50 * GB)] * 4
    a = HERE.put(np.zeros((1000, 1000)))
    chain, network = work_of(a @ a @ a @ a @ a), work_of(((a @ a).relu() @ a).relu())
    assert (chain.barriers, network.barriers) == (3, 0)
    assert work_of((a @ a).T @ a).barriers == 0, "a transpose of an operand is part of a product"
    assert work_of(a.sum(axis=0) + (a @ a)).barriers >= 1
    news = News(devices, 0.0, 0.0)
    flat = Work(chain.dtype, chain.flops, chain.local_flops, chain.moved_bytes)
    more_s = cluster_s(chain, news, shares_memory=True) - cluster_s(flat, news, shares_memory=True)
    assert more_s == pytest.approx(3 * BARRIER_S)


def test_operands_that_are_there_need_not_be_moved_but_come_here() -> None:
    program, _, _ = lowered(HERE.put(X) @ HERE.put(W))
    assert program is not None
    names = frozenset(operand.name for operand in program.operands)
    sent, stored = work_of_program(program, frozenset()), work_of_program(program, names)
    assert sent.moved_bytes - stored.moved_bytes == X.nbytes + W.nbytes == stored.stored_bytes
    made, _ = places(*[device(GB)] * 50, own=50 * GB)
    slow = Work("float64", 1e10, 1e10, 0, stored_bytes=10**9, is_product=False)
    assert not made.is_here(slow), "a gigabyte takes ten seconds to come"
    made.shares_memory = True
    made.took_here(slow, 0.2)
    assert made.is_here(slow)


def test_what_programs_took_says_nothing_of_products() -> None:
    made, _ = places(*[device(50 * GB)] * 4)
    made.shares_memory = True
    product = Work("float64", 1.4e11, 1.4e11, 0)
    assert not made.is_here(product)
    for _ in range(5):
        made.took_there(Work("float64", 1.4e11, 1.4e11, 0, is_product=False), 30.0)
    assert not made.is_here(product)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=9),
    flips=st.lists(st.booleans(), min_size=8, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_chains_here_are_numpys_in_whatever_order(
    sizes: list[int], flips: list[bool], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrices = [rng.standard_normal(shape) for shape in pairwise(sizes)]
    whole = None
    for matrix, is_flipped in zip(matrices, flips):
        lazy = HERE.put(np.ascontiguousarray(matrix.T)).T if is_flipped else HERE.put(matrix)
        whole = lazy if whole is None else whole @ lazy
    assert whole is not None
    program, operands, (name,) = lowered(whole)
    assert program is not None
    plain = without_chains(program)
    assert not any(isinstance(operation.kind, Chain) for operation in plain.operations)
    expected = np.linalg.multi_dot(matrices)
    assert np.allclose(evaluate(np, plain, operands)[name], expected)
    assert np.allclose(whole.compute(), expected)
