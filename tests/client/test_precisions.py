"""`precision="tf32"` in the Python API and the command: results, reports, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat

from deadheat.client import Client, InvalidInput, LocalCluster, nn

RNG = np.random.default_rng(7)
A = RNG.standard_normal((300, 200)).astype(np.float32)
B = RNG.standard_normal((200, 250)).astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Cores compute in full, whatever was asked for."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_cores_compute_in_full_and_the_report_says_what_was_asked(client: Client) -> None:
    job = client.submit_matmul(A, B, precision="tf32")
    close(job.result(timeout=60), A @ B)
    assert job.report().precision == "tf32"
    assert "precision tf32 was asked for" in client.explain(job.id)
    assert json.loads(client.explain(job.id, as_json=True))["precision"] == "tf32"
    (listed,) = (one for one in client.reports() if one.id == job.id)
    assert listed.precision == "tf32"
    plain = client.submit_matmul(A, B)
    close(plain.result(timeout=60), A @ B)
    assert plain.report().precision == "strict"
    assert "tf32" not in client.explain(plain.id)


def test_here_and_there(client: Client) -> None:
    for where in ("local", "cluster", "auto"):
        close(client.matmul(A, B, precision="tf32", where=where), A @ B)
        stack = np.stack([A, A]), np.stack([B, B])
        close(client.matmul(*stack, precision="tf32", where=where), np.stack([A @ B] * 2))
        found = client.multi_dot([A, B, B.T], precision="tf32", where=where)
        np.testing.assert_allclose(found, A @ B @ B.T, rtol=1e-3, atol=1e-2)
    assert client.estimate(A, B, precision="tf32").predicted_makespan_s is not None


def test_expressions_chains_and_networks(client: Client) -> None:
    x, w = client.put(A), client.put(B)
    job = client.submit((x @ w).relu() @ client.put(B.T), precision="tf32")
    np.testing.assert_allclose(job.result(timeout=60), np.maximum(A @ B, 0) @ B.T, atol=1e-2)
    assert job.report().precision == "tf32"
    close(client.compute(x @ w, precision="tf32", where="cluster"), A @ B)
    close(client.persist(x @ w, precision="tf32").compute(), A @ B)
    chain = client.submit_multi_dot([A, B, B.T], precision="tf32")
    np.testing.assert_allclose(chain.result(timeout=60), A @ B @ B.T, rtol=1e-3, atol=1e-2)
    assert "precision tf32" in client.explain(chain.id)
    network = nn.MLP([200, 30, 10], dtype="float32", seed=1)
    expected = client.forward(network, A, where="local")
    close(client.forward(network, A, precision="tf32", where="cluster"), expected)
    close(client.forward(network, A, precision="tf32", where="local"), expected)
    passed = client.submit_forward(network, A, precision="tf32")
    close(passed.result(timeout=60), expected)
    assert passed.report().precision == "tf32"


@pytest.mark.parametrize("where", ["local", "cluster", "auto"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_other_dtypes_are_refused_wherever_it_would_be(
    client: Client, dtype: str, where: str
) -> None:
    a, b = A.astype(dtype), B.astype(dtype)
    message = f"'tf32', which only products of float32 can have, not those of {dtype}"
    with pytest.raises(InvalidInput, match=message):
        client.matmul(a, b, precision="tf32", where=where)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=message):
        client.multi_dot([a, b], precision="tf32", where=where)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=message):
        client.compute(client.put(a) @ client.put(b), precision="tf32", where=where)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not those of float64"):
        client.forward(nn.MLP([200, 10], dtype="float64"), a, precision="tf32", where=where)  # type: ignore[arg-type]


def test_other_words_are_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match="precision is 'half'; it may be strict, tf32"):
        client.matmul(A, B, precision="half")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="precision is 'half'; it may be strict, tf32"):
        client.compute(client.put(A) @ client.put(B), precision="half")  # type: ignore[arg-type]


def test_the_command(cluster: LocalCluster, tmp_path: Path) -> None:
    for name, array in (("a", A), ("b", B), ("c", A.astype(np.float64))):
        np.save(tmp_path / f"{name}.npy", array)
    a, b, c, out = (str(tmp_path / f"{name}.npy") for name in ("a", "b", "c", "out"))
    where = ("--scheduler", cluster.address)
    for more in (where, (*where, "--where", "local")):
        ran = deadheat("run", "matmul", a, b, "-o", out, "--precision", "tf32", "--json", *more)
        assert json.loads(ran.stdout)["precision"] == "tf32", ran.stderr
        close(np.load(out), A @ B)
    refused = deadheat("run", "matmul", c, b, "-o", out, "--precision", "tf32", *where)
    assert refused.returncode == 1
    assert "only products of float32" in refused.stderr
    estimated = deadheat("estimate", "matmul", a, b, "--precision", "tf32", *where)
    assert "predicted" in estimated.stdout
