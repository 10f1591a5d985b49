"""Models that are served: many callers, each with its own rows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing

import grpc
import numpy as np
import pytest
from tests.client.kept_models import Array, close, held, network, samples
from tests.client.networks import numpys
from tests.conftest import CORES
from tests.e2e.agents import agent
from tests.waiting import wait_until

from deadheat.client import (
    Client,
    InvalidInput,
    JobCancelled,
    LocalCluster,
    NotFound,
    TimedOut,
    Unavailable,
)
from deadheat.v1 import job_pb2
from deadheat.v1.job_pb2_grpc import JobServiceStub


@pytest.fixture
def name(request: pytest.FixtureRequest, client: Client) -> Iterator[str]:
    """A name of this test's own; its versions go with the test."""
    found = request.node.originalname.replace("test_", "")[:64]
    yield found
    try:
        client.models.delete(found)
    except NotFound:
        pass


def test_each_caller_gets_its_own_rows(cluster: LocalCluster, client: Client, name: str) -> None:
    mlp = network()
    client.models.save(name, mlp)
    x = samples(400)
    expected = numpys(mlp, x)
    sizes = np.random.default_rng(3).integers(1, 6, 120)
    starts = np.random.default_rng(4).integers(0, 390, 120)
    with Client(cluster.address) as other, ThreadPoolExecutor(24) as threads:

        def call(number: int) -> Array:
            start, size = starts[number], sizes[number]
            who = (client, other)[number % 2]
            return who.models.forward(name, x[start : start + size])

        made = list(threads.map(call, range(len(sizes))))
    for start, size, rows in zip(starts, sizes, made):
        assert close(rows, expected[start : start + size])
    jobs = batches(cluster, name)
    # Many calls went together, each batch left its record, and where it was computed.
    assert len(jobs) < len(sizes)
    assert {state for _, state, _ in jobs} == {"done"}
    assert all(count > 0 for _, _, count in jobs)


def batches(cluster: LocalCluster, name: str) -> list[tuple[str, str, int]]:
    """The jobs of a model: id, state, and how many placements they had."""
    with closing(sqlite3.connect(cluster.state_dir / "deadheat.db")) as database:
        query = (
            "select id, state, (select count(*) from placements where job_id = jobs.id) "
            "from jobs where model like ? order by submitted_at, id"
        )
        return database.execute(query, (f"{name} %",)).fetchall()


def test_a_single_sample_is_one_dimension_and_images_are_rows(client: Client, name: str) -> None:
    client.models.save(name, network())
    x = samples(6)
    expected = numpys(network(), x)
    assert close(client.models.forward(name, x[0]), expected[0])
    assert close(client.models.forward(name, x.reshape(6, 3, 4)), expected)
    assert close(client.models.forward(name, np.asfortranarray(x), max_wait_s=0), expected)


def test_samples_become_the_models_dtype_where_numpy_makes_it_of_both(
    client: Client, name: str
) -> None:
    client.models.save(name, network())
    x = np.arange(24).reshape(2, 12) % 5
    for dtype in ("int8", "uint16", "bool", "float16"):
        given = x.astype(dtype)
        found = client.models.forward(name, given)
        assert found.dtype == np.float32
        assert close(found, numpys(network(), given.astype(np.float32)))
    for dtype in ("int64", "float64"):
        with pytest.raises(InvalidInput, match=f"X is {dtype}, but model .* is float32"):
            client.models.forward(name, x.astype(dtype))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_call_has_a_time_limit_above_zero(client: Client, timeout: float) -> None:
    with pytest.raises(InvalidInput, match=r"timeout is .*; it must be above 0 and finite"):
        client.models.forward("m", samples(1), timeout=timeout)


def test_calls_can_be_awaited(client: Client, name: str) -> None:
    client.models.save(name, network())
    x = samples(8)

    async def call() -> list[Array]:
        calls = [asyncio.wrap_future(client.models.submit_forward(name, row)) for row in x]
        return await asyncio.gather(*calls)

    assert close(np.array(asyncio.run(call())), numpys(network(), x))


def test_a_batch_keeps_no_rows(cluster: LocalCluster, client: Client, name: str) -> None:
    client.models.save(name, network())
    x = samples(3)
    client.models.forward(name, x)
    ((job, _, _),) = batches(cluster, name)
    with closing(sqlite3.connect(cluster.state_dir / "deadheat.db")) as database:
        (program,) = database.execute("select program from jobs where id = ?", (job,)).fetchone()
        kept = database.execute("select data from matrices where job_id = ?", (job,)).fetchall()
    assert x.tobytes()[:64] not in program
    assert kept
    assert all(data is None for (data,) in kept)
    # It is a job like any other to those who ask, and nobody's last one.
    assert client.report(job).kind == "mlp"
    assert "done in" in client.explain(job)
    assert job not in {report.id for report in client.reports()}


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (samples(2)[:, :11], "X has 11 columns, but model .* takes 12"),
        (samples(2, "float64"), "X is float64, but model .* is float32"),
        (np.where(np.eye(2, 12) > 0, np.nan, samples(2)), r"X\[0, 0\] is nan"),
        (np.zeros((2, 12), "complex64"), "X is complex64"),
        (np.zeros((0, 12), "float32"), "must have a row at least"),
        (np.zeros((1025, 12), "float32"), "X has 1025 rows; a call of this model may have"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_spoil_nobody_elses(
    client: Client, name: str, x: Array, words: str
) -> None:
    client.models.save(name, network())
    good = samples(16)
    calls: list[Future[Array]] = []
    wrong: list[Exception] = []
    for row in good:
        calls.append(client.models.submit_forward(name, row))
        with pytest.raises(InvalidInput, match=words) as caught:
            client.models.forward(name, x)
        wrong.append(caught.value)
    made = np.array([call.result() for call in calls])
    assert close(made, numpys(network(), good))
    assert len(wrong) == len(good)


def test_nan_that_is_let_through_stays_in_its_row(client: Client, name: str) -> None:
    client.models.save(name, network())
    x = samples(6)
    expected = numpys(network(), x)
    x[2, 3] = np.nan
    calls = [client.models.submit_forward(name, row, check_finite=False) for row in x]
    made = np.array([call.result() for call in calls])
    assert np.isnan(made[2]).all()
    assert close(np.delete(made, 2, 0), np.delete(expected, 2, 0))


@pytest.mark.parametrize("wait_s", [-0.1, 1.5, float("nan")])
def test_a_bound_that_is_none_is_refused(client: Client, name: str, wait_s: float) -> None:
    client.models.save(name, network())
    with pytest.raises(InvalidInput, match="max_wait_s is"):
        client.models.forward(name, samples(1), max_wait_s=wait_s)


# What happens to calls that wait: where there is no agent, they do.


@pytest.fixture
def empty(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """With that of two agents a core is calibrated: batches wait a minute for an agent, no more."""
    assert cluster.agents
    with LocalCluster([]) as running:
        yield running


def open_batches(cluster: LocalCluster) -> list[str]:
    """Jobs of models that have not ended, as the scheduler tells."""
    with grpc.insecure_channel(cluster.address) as channel:
        request = job_pb2.JobServiceListRequest(user="serving")
        jobs = JobServiceStub(channel).List(request, timeout=60).jobs
    return [job.id for job in jobs if job.state == job_pb2.JOB_STATE_QUEUED]


def two_batches(cluster: LocalCluster, client: Client, name: str) -> list[Future[Array]]:
    """As many batches as may be under way; whoever calls next waits."""
    calls: list[Future[Array]] = []
    for _ in range(2):
        calls.append(client.models.submit_forward(name, samples(1), max_wait_s=0, timeout=60))
        wait_until(lambda: len(open_batches(cluster)) == len(calls), "the batch")
    return calls


def test_a_model_that_is_deleted_refuses_who_waits_and_ends_what_is_computed(
    empty: LocalCluster,
) -> None:
    with Client(empty.address) as client:
        client.models.save("m", network())
        computed = two_batches(empty, client, "m")
        waiting = client.models.submit_forward("m", samples(1), timeout=60)
        other = client.models.submit_forward("m", samples(1), timeout=60)
        # A new version takes nobody's calls away.
        client.models.save("m", network(2))
        assert client.models.delete("m") == (1, 2)
        for call in (waiting, other):
            with pytest.raises(NotFound, match=r"model m 1 was deleted|no model 'm'"):
                call.result(30)
        with pytest.raises(NotFound):
            client.models.forward("m", samples(1))
        assert len(held(empty)) >= 4
        with agent(empty.address, CORES[:1]):
            for call in computed:
                assert close(call.result(60), numpys(network(), samples(1)))
        wait_until(lambda: not held(empty), "the matrices to be given up")


def test_who_goes_away_leaves_nothing_behind(empty: LocalCluster) -> None:
    with Client(empty.address) as client:
        client.models.save("m", network())
        with Client(empty.address) as other:
            calls = two_batches(empty, other, "m")
            queued = other.models.submit_forward("m", samples(1), timeout=60)
            assert queued.cancel()
            assert calls[0].cancel()
            # Nobody wants that batch any more.
            wait_until(lambda: len(open_batches(empty)) == 1, "one batch to be cancelled")
            last = other.models.submit_forward("m", samples(1), max_wait_s=0, timeout=60)
            wait_until(lambda: len(open_batches(empty)) == 2, "the next batch")
        for call in (calls[1], last):  # Their client was closed.
            with pytest.raises((CancelledError, Unavailable)):
                call.result(30)
        wait_until(lambda: not open_batches(empty), "all batches to be cancelled")


def test_a_call_may_have_a_limit_of_its_own(empty: LocalCluster) -> None:
    with Client(empty.address) as client:
        client.models.save("m", network())
        with pytest.raises(TimedOut):
            client.models.forward("m", samples(1), timeout=0.3)
        wait_until(lambda: not open_batches(empty), "its batch to be cancelled")


def test_each_caller_of_a_batch_that_fails_gets_the_cause(empty: LocalCluster) -> None:
    with Client(empty.address) as client:
        client.models.save("m", network())
        first, second = two_batches(empty, client, "m")
        running = set(open_batches(empty))
        others = [
            client.models.submit_forward("m", row, max_wait_s=0, timeout=60) for row in samples(5)
        ]
        client.cancel(min(running))
        (new,) = wait_until(lambda: set(open_batches(empty)) - running, "a batch of all others")
        client.cancel(new)
        for call in (first, *others):
            with pytest.raises(JobCancelled, match="cancelled by its user"):
                call.result(30)
        assert not second.done()
        assert second.cancel()
