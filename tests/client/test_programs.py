"""Programs on a real cluster: NumPy's results under every cut, and nothing left behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.expressions import values
from tests.client.networks import stored

from deadheat.client import Client, InvalidInput, Lazy, LocalCluster, NotFound, Unavailable

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
CUTS: list[Any] = ["balanced", "equal", "peak", "one-minus-utilization"]


@pytest.fixture(scope="module")
def shared(cluster: LocalCluster) -> Iterator[Client]:
    """One client for many examples."""
    with Client(cluster.address) as connected:
        yield connected


def wait_until_gone(client: Client, allowed: set[str]) -> None:
    """Until nothing is stored that was not before; what others left may go meanwhile."""
    limit = time.monotonic() + 60
    while not (left := stored(client)) <= allowed:
        assert time.monotonic() < limit, f"{left - allowed} is still stored"
        time.sleep(0.02)


def id_of(lazy: Lazy) -> str:
    assert lazy.node.held is not None
    return lazy.node.held.matrix_id


def network(client: Client) -> tuple[Lazy, Lazy, Array, Array]:
    """Two layers over 700 rows, lazily and by NumPy: the values, and sums along a column."""
    x, w, v = (RNG.standard_normal(shape) for shape in ((700, 300), (300, 200), (200, 90)))
    b = RNG.standard_normal(200)
    hidden = (client.put(x) @ w + b).relu()
    made = np.maximum(x @ w + b, 0)
    scores = (hidden @ v * 0.01).softmax()
    e = np.exp(made @ v * 0.01)
    expected = e / e.sum(axis=1, keepdims=True)
    return scores, hidden.sum(axis=0), expected, made.sum(axis=0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), cut=st.sampled_from(CUTS))
def test_random_programs_are_numpys(shared: Client, data: st.DataObject, cut: Any) -> None:
    wanted = data.draw(values(shared))[-3:]
    found = shared.compute(*(value.lazy for value in wanted), cut=cut, where="cluster")
    for value, one in zip(wanted, found if len(wanted) > 1 else (found,), strict=True):
        value.check(one)


@pytest.mark.parametrize("cut", CUTS)
def test_several_outputs_are_one_job(client: Client, cut: Any) -> None:
    scores, sums, expected, expected_sums = network(client)
    before = stored(client)
    found, found_sums = client.compute(scores, sums, cut=cut, where="cluster")
    assert np.allclose(found, expected, rtol=1e-10)
    assert np.allclose(found_sums, expected_sums, rtol=1e-10)
    del found, found_sums  # They are views of the store's memory.
    wait_until_gone(client, before)


def test_a_program_is_a_future_with_a_report(client: Client) -> None:
    scores, sums, expected, _ = network(client)
    job = client.submit(scores, sums)
    found, found_sums = job.result(timeout=60)
    assert np.allclose(found, expected, rtol=1e-10)
    report = job.report()
    assert (report.kind, report.state) == ("program", "done")
    assert {p["operation"] for p in report.placements} >= {"gemm1", "softmax4"}
    assert sum(device["share"] or 0.0 for device in report.devices) == pytest.approx(1.0)
    # What was taken back and given out again has a later prediction than the program had.
    first = [p for p in report.placements if (p["operation"], p["attempt"]) == ("gemm1", 1)]
    first_s = max(p["predicted_finish_s"] for p in first)
    assert report.predicted_makespan_s > first_s  # It counts what comes after.
    assert "operation" in job.explain()
    again = client.results(job.id)
    assert np.array_equal(again[0], found)
    assert np.array_equal(again[1].reshape(-1), found_sums)
    with pytest.raises(InvalidInput, match="has 2 results"):
        client.result(job.id)
    adopted = client.job(job.id).result(timeout=60)
    assert np.array_equal(adopted[0], found)


def test_what_persists_is_an_operand_until_nobody_uses_it(client: Client) -> None:
    x = RNG.standard_normal((400, 300))
    before = stored(client)
    lazy = client.put(x)
    assert id_of(lazy) in stored(client)
    gram = client.persist(lazy.T @ lazy)
    small = client.persist(lazy[:2, :2])
    wait_until_gone(client, before | {id_of(gram), id_of(lazy)})
    assert np.allclose(gram.compute(where="cluster"), x.T @ x)
    assert np.allclose((gram + 1).compute(where="cluster"), x.T @ x + 1)
    assert np.array_equal(np.asarray(small), x[:2, :2])
    both = client.compute(lazy, gram * 2, where="cluster")
    assert np.array_equal(both[0], x)
    del both, gram, lazy, small
    gc.collect()
    wait_until_gone(client, before)


def test_a_job_of_which_a_part_is_gone_keeps_nothing_mapped(client: Client) -> None:
    before = stored(client)
    first, second = client.persist(*(client.put(np.full((400, 300), value)).T for value in (1, 2)))
    job_id = client.job("last").id
    # What was fetched before the failure must go by itself: garbage is collected at any time.
    gc.collect()
    gc.disable()
    try:
        ids = id_of(first), id_of(second)
        del second
        wait_until_gone(client, {*before, ids[0]})
        with pytest.raises(NotFound, match=ids[1]):
            client.job(job_id).result(timeout=60)
        del first
        wait_until_gone(client, before)
    finally:
        gc.enable()


def test_a_client_that_is_closed_gives_up_what_it_held(
    cluster: LocalCluster, client: Client
) -> None:
    before = stored(client)
    with Client(cluster.address) as other:
        kept = other.put(np.zeros((300, 300)))
        assert id_of(kept) in stored(client)
    wait_until_gone(client, before)
    assert kept.shape == (300, 300)
    calls: list[Callable[[], Any]] = [
        lambda: kept.compute(where="cluster"),
        lambda: other.put(np.zeros((300, 300))),
        other.models.list,
        lambda: other.submit(other.put(1.0) + 1),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="the client is closed"):
            call()


def test_chains_of_a_program_are_put_in_order(client: Client) -> None:
    given = [RNG.standard_normal(shape) for shape in ((300, 20), (20, 400), (400, 10), (10, 300))]
    a, b, c, d = (client.put(matrix) for matrix in given)
    first = a @ b @ c @ d
    found, second = client.compute(first.tanh(), (d @ a @ b).tanh() @ (c @ d @ a), where="cluster")
    expected = np.linalg.multi_dot(given)
    assert np.allclose(found, np.tanh(expected), rtol=1e-8, atol=1e-10)
    other = np.tanh(given[3] @ given[0] @ given[1]) @ (given[2] @ given[3] @ given[0])
    assert np.allclose(second, other, rtol=1e-8)


def test_a_second_chain_may_wait_for_the_first(client: Client) -> None:
    """Its turn comes when devices have worked for the job already."""
    x = RNG.standard_normal((150, 150)) / 12
    lazy = client.put(x)
    found = ((lazy @ lazy @ lazy).tanh() @ lazy @ lazy).compute(where="cluster")
    assert np.allclose(found, np.tanh(x @ x @ x) @ x @ x, rtol=1e-9, atol=1e-12)


def test_many_operands_that_are_small_together_are_large(client: Client) -> None:
    matrices = [RNG.standard_normal((100, 100)) for _ in range(8)]
    total = client.put(matrices[0])
    for matrix in matrices[1:]:
        total = total + matrix
    assert np.allclose(total.compute(where="cluster"), np.sum(matrices, axis=0))


def test_both_places_say_the_same(client: Client) -> None:
    scores, sums, expected, _ = network(client)
    here, sums_here = client.compute(scores, sums, where="local")
    there = np.asarray(scores)
    assert np.allclose(here, expected, rtol=1e-10)
    assert np.allclose(here, there, rtol=1e-10)
    assert sums_here.shape == (200,)


def test_long_programs_end(client: Client) -> None:
    lazy = client.put(np.zeros((3, 3)))
    for _ in range(60):
        lazy = (lazy + 1.0).relu()
    assert np.array_equal(lazy.compute(where="cluster"), np.full((3, 3), 60.0))


def test_what_cannot_be_computed_is_refused(client: Client) -> None:
    lazy = client.put(np.zeros((3, 3)))
    with pytest.raises(InvalidInput, match="nothing to compute"):
        client.submit(lazy)
    big = client.put(np.zeros((300, 300)))
    with pytest.raises(InvalidInput, match="durability"):
        (big + 1).compute(durability="power")
    on_disk = client.put(np.ones((300, 300)), durability="power")
    assert (on_disk + 1).compute(durability="power").sum() == 2 * 300 * 300
    gone = client.put(np.zeros((300, 300)))
    client._link.call(client._link.transfers.give_up(id_of(gone)))
    with pytest.raises(NotFound, match="is not in the store"):
        (gone + 1).compute(where="cluster")
