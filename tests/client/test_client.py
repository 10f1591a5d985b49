"""The Python API against a real cluster: NumPy's results, futures, reports, refusals."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import wait_until

from deadheat.client import (
    Client,
    InvalidInput,
    JobCancelled,
    JobFailed,
    LocalCluster,
    NotFound,
    TimedOut,
    Unavailable,
)

RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]

REPORT_KEYS = {
    *("id", "kind", "state", "submitted_at", "started_at", "finished_at", "makespan_s"),
    *("predicted_makespan_s", "finish_spread", "efficiency", "serial_s", "serial_fraction"),
    *("bytes_moved", "bytes_lower_bound", "resplits", "precision", "error", "devices"),
    *("placements", "barriers"),
}
DEVICE_KEYS = {
    *("node", "device", "kind", "share", "availability", "speed_flops", "predicted_finish_s"),
    *("finish_s", "busy_s", "flops", "bytes_in", "bytes_out"),
}
PLACEMENT_KEYS = {
    *("operation", "rows", "cols", "node", "device", "attempt", "predicted_start_s"),
    *("predicted_finish_s", "start_s", "finish_s", "state"),
}


def close_to_numpy(found: Array, a: Array, b: Array) -> None:
    exact = np.matmul(a, b)
    assert found.shape == exact.shape
    assert found.dtype == exact.dtype
    eps = np.finfo(exact.dtype).eps
    bound = 2 * a.shape[-1] * eps * np.matmul(np.abs(a), np.abs(b))
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize("size", [7, 150, 600])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_products_are_numpys(client: Client, size: int, dtype: str) -> None:
    a = RNG.standard_normal((size, size + 30)).astype(dtype)
    b = RNG.standard_normal((size + 30, size + 5)).astype(dtype)
    close_to_numpy(client.matmul(a, b, where="cluster"), a, b)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "int32"])
def test_integers_are_exact(client: Client, dtype: str) -> None:
    high = 2 if dtype == "bool" else 100
    a = RNG.integers(0, high, (200, 300)).astype(dtype)
    b = RNG.integers(0, high, (300, 250)).astype(dtype)
    found = client.matmul(a, b, where="cluster")
    assert found.dtype == a.dtype
    assert np.array_equal(found, a @ b)


def test_half_precision_is_summed_in_single(client: Client) -> None:
    a = RNG.standard_normal((400, 500)).astype(np.float16)
    b = RNG.standard_normal((500, 300)).astype(np.float16)
    found = client.matmul(a, b, where="cluster")
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert found.dtype == np.float16
    assert np.abs(found - exact).max() <= np.abs(exact).max() * 2**-10


BASE = RNG.standard_normal((500, 400))


@pytest.mark.parametrize(
    "a",
    [
        np.asfortranarray(BASE),
        BASE[::-1],
        BASE[::2, ::3],
        BASE[:, ::-1],
        BASE.astype(">f8"),
        BASE[0],
        np.broadcast_to(BASE[0], (50, 400)),
        BASE[:0],
        BASE[:, :0],
    ],
    ids=[
        "fortran",
        "reversed",
        "strided",
        "mirrored",
        "big-endian",
        "1-d",
        "broadcast",
        "no-rows",
        "no-inner",
    ],
)
def test_every_layout_is_taken(client: Client, a: Array) -> None:
    b = RNG.standard_normal((a.shape[-1], 300))
    found, expected = client.matmul(a, b, where="cluster"), np.matmul(a, b)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_two_vectors_make_a_number(client: Client) -> None:
    found = client.matmul(np.arange(5.0), np.arange(5.0), where="cluster")
    assert found == 30.0
    assert np.ndim(found) == 0


def test_nan_and_infinity_are_where_numpy_has_them(client: Client) -> None:
    a, b = RNG.standard_normal((300, 300)), RNG.standard_normal((300, 300))
    a[5, 7], b[9, 11] = np.nan, -np.inf
    found, expected = client.matmul(a, b, where="cluster"), a @ b
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))


def test_alpha_bias_and_activation_are_applied(client: Client) -> None:
    a, b, bias = BASE, RNG.standard_normal((400, 300)), RNG.standard_normal(300)
    found = client.matmul(a, b, alpha=0.5, bias=bias, activation="relu", where="cluster")
    assert np.allclose(found, np.maximum(0.5 * (a @ b) + bias, 0))


@pytest.mark.parametrize("cut", ["balanced", "equal", "peak", "one-minus-utilization"])
def test_every_cut_gives_the_same_product(client: Client, cut: Any) -> None:
    a, b = RNG.standard_normal((700, 500)), RNG.standard_normal((500, 600))
    close_to_numpy(client.matmul(a, b, cut=cut), a, b)


def test_the_result_is_the_users_own(client: Client) -> None:
    a, b = RNG.standard_normal((600, 600)), RNG.standard_normal((600, 600))
    job = client.submit_matmul(a, b)
    found = job.result()
    found += 1
    again = client.result(job.id)
    close_to_numpy(again, a, b)
    client.close()
    close_to_numpy(again, a, b)
    assert np.allclose(found - 1, a @ b)


def test_results_stay_valid_while_others_come_and_go(cluster: LocalCluster) -> None:
    a = RNG.standard_normal((700, 700))
    with Client(cluster.address) as client:
        kept = [client.matmul(a, a * k, where="cluster") for k in range(1, 6)]
        for k in range(20):
            client.matmul(a + k, a, where="cluster")
        for k, found in enumerate(kept, 1):
            assert np.allclose(found, a @ (a * k))


def test_reports_have_every_key_of_the_contract(client: Client) -> None:
    a = RNG.standard_normal((1500, 1500))
    job = client.submit_matmul(a, a)
    job.result()
    report = job.report()
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document.keys() == REPORT_KEYS
    assert {key for device in document["devices"] for key in device} == DEVICE_KEYS
    assert {key for placement in document["placements"] for key in placement} == PLACEMENT_KEYS
    assert report.state == "done"
    assert report.kind == "matmul"
    assert report.error is None
    assert report.barriers == []
    assert report.submitted_at.endswith("Z")
    assert report.makespan_s is not None
    assert sum(device["share"] for device in report.devices) == pytest.approx(1.0)
    done = [p for p in report.placements if p["state"] == "done"]
    area = sum((p["rows"][1] - p["rows"][0]) * (p["cols"][1] - p["cols"][0]) for p in done)
    assert area == 1500 * 1500
    assert client.report("last").id == job.id
    assert "strips of rows" in job.explain()


def test_futures_work_with_the_standard_library(client: Client) -> None:
    a = RNG.standard_normal((300, 300))
    jobs = [client.submit_matmul(a, a * k) for k in range(5)]
    done, pending = concurrent.futures.wait(jobs, timeout=60)
    assert (len(done), len(pending)) == (5, 0)
    assert set(concurrent.futures.as_completed(jobs)) == set(jobs)
    called = threading.Event()
    jobs[0].add_done_callback(lambda job: called.set())
    assert called.is_set()
    for k, job in enumerate(jobs):
        assert np.allclose(job.result(), a @ (a * k))


def test_futures_can_be_awaited(client: Client) -> None:
    a = RNG.standard_normal((300, 300))

    async def run() -> list[Array]:
        return list(await asyncio.gather(*(client.submit_matmul(a, a * k) for k in range(3))))

    for k, found in enumerate(asyncio.run(run())):
        assert np.allclose(found, a @ (a * k))


def test_a_cancelled_job_says_so_everywhere(client: Client) -> None:
    a = np.ones((5000, 5000))
    job = client.submit_matmul(a, a)
    assert job.cancel()
    assert job.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        job.result()
    report = job.report()
    assert report.state == "cancelled"
    assert report.error is not None
    assert report.error["code"] == JobCancelled.code
    assert client.cancel(job.id) == "cancelled"


def test_a_time_limit_ends_the_job(client: Client) -> None:
    a = np.ones((6000, 6000))
    with pytest.raises(TimedOut, match=r"not finished within 0\.05 s"):
        client.matmul(a, a, timeout=0.05)


def test_waiting_less_long_than_it_takes_is_the_callers_affair(client: Client) -> None:
    a = np.ones((4000, 4000))
    job = client.submit_matmul(a, a)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.01)
    assert job.result()[0, 0] == 4000


def test_files_are_operands_and_a_change_fails_the_job(client: Client, tmp_path: Path) -> None:
    a, b = RNG.standard_normal((700, 700)), RNG.standard_normal((700, 700))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    close_to_numpy(
        client.matmul(str(tmp_path / "a.npy"), tmp_path / "b.npy", where="cluster"), a, b
    )
    big = np.ones((5000, 5000))
    np.save(tmp_path / "big.npy", big)
    job = client.submit_matmul(str(tmp_path / "big.npy"), big)
    with open(tmp_path / "big.npy", "r+b") as file:
        file.seek(1000)
        file.write(b"changed!")
    with pytest.raises(JobFailed, match=r"big\.npy was changed while deadheat was using it"):
        job.result()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cut": "unfair"}, "cut is 'unfair'; it may be balanced"),
        ({"durability": "stone"}, "durability is 'stone'"),
        ({"activation": "softmax"}, "activation is 'softmax'"),
        ({"timeout": 0}, "timeout_s is 0"),
        ({"timeout": float("nan")}, "timeout_s is nan"),
        ({"timeout": "soon"}, "timeout is 'soon'; it must be a number"),
        ({"alpha": None}, "alpha is None; it must be a number"),
    ],
)
def test_wrong_options_are_named(client: Client, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        client.matmul(np.ones((5, 5)), np.ones((5, 5)), **options)


def test_jobs_that_are_not_there_are_not_found(client: Client) -> None:
    for ask in (client.report, client.result, client.explain, client.cancel, client.job):
        with pytest.raises(NotFound, match="there is no job 'j0'"):
            ask("j0")


def test_power_durability_has_operands_on_disk_first(client: Client, cluster: LocalCluster) -> None:
    a = RNG.standard_normal((500, 500))
    close_to_numpy(client.matmul(a, a, durability="power"), a, a)


def test_a_wrong_address_is_one_clear_error() -> None:
    with pytest.raises(Unavailable, match=r"no scheduler answers at 127\.0\.0\.1:1"):
        Client("127.0.0.1:1")
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        Client("nowhere")


def test_nodes_have_every_key_of_the_contract(client: Client) -> None:
    nodes = wait_until(
        lambda: [n for n in client.nodes() if n["devices"][0]["busy"] is not None], "a sample"
    )
    assert nodes[0].keys() == {"name", "state", "last_seen_s", "host", "devices"}
    assert nodes[0]["devices"][0].keys() == {
        *("id", "kind", "model", "threads", "memory_bytes", "memory_free_bytes", "busy"),
        *("foreign", "availability", "queue_s", "speed_flops", "bad_samples", "yields", "gpu"),
        "problem",
    }
    host = nodes[0]["host"]
    assert 0 < host["memory_available_bytes"] <= host["memory_total_bytes"]
    assert 0 < host["memory_own_bytes"] < host["memory_total_bytes"]
    assert {"disk_free_bytes", "throttled", "pressure_cpu", "network_in_bytes_per_s"} < host.keys()


def test_a_client_without_a_scheduler_brings_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens at the default address on the test machine, or it is somebody else's.
    monkeypatch.setattr("deadheat.runtime.settings.DEFAULT_SCHEDULER", "127.0.0.1:9")
    a = RNG.standard_normal((300, 300))
    with Client() as client:
        assert np.array_equal(client.matmul(a, a), a @ a)
        assert client._link.own_cluster is None, "a product in this process needs no cluster"
        assert client.address != "127.0.0.1:9"
        close_to_numpy(client.matmul(a, a, where="cluster"), a, a)


def test_a_closed_client_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deadheat.runtime.settings.DEFAULT_SCHEDULER", "127.0.0.1:9")
    client = Client()
    client.close()
    with pytest.raises(Unavailable, match="the client is closed"):
        client.nodes()


def test_no_agent_at_all_the_job_waits_and_says_so(tmp_path: Path) -> None:
    with LocalCluster([], state_dir=tmp_path) as empty, Client(empty.address) as client:
        job = client.submit_matmul(np.ones((5, 5)), np.ones((5, 5)))
        notes: list[str] = []
        job.on_update(lambda update: notes.append(update.note))
        wait_until(lambda: "waiting: no agent is connected" in notes, "what it waits for")
        assert job.cancel()
        job = client.submit_matmul(np.ones((5, 5)), np.ones((5, 5)), timeout=1.0)
        with pytest.raises(TimedOut, match="no agent is connected"):
            job.result(60)
