"""Networks on a real cluster: NumPy's results as one job, and parameters that are sent once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.networks import numpys, stored

from deadheat.client import Client, InvalidInput, LocalCluster, Offline, TimedOut, nn

RNG = np.random.default_rng(11)
ACTIVATIONS = ["none", "relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "softmax"]
CUTS: list[Any] = ["balanced", "equal", "peak", "one-minus-utilization"]


@pytest.fixture(scope="module")
def shared(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.address) as connected:
        yield connected


def network(sizes: list[int], activations: Any = "relu", dtype: str = "float64") -> nn.MLP:
    """Also biases are random."""
    made = nn.MLP(sizes, activations, dtype=dtype, seed=5)
    for layer in made.linear:
        layer.bias = RNG.standard_normal(layer.outputs).astype(layer.dtype)
    return made


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_numpys(shared: Client, activation: str) -> None:
    mlp = network([30, 40, 20], [activation] * 2)
    x = RNG.standard_normal((300, 30))
    found = shared.forward(mlp, x, where="cluster")
    assert found.dtype == np.float64
    assert np.allclose(found, numpys(mlp, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cut", CUTS)
def test_forward_has_no_barrier_where_the_planner_may_join_layers(shared: Client, cut: Any) -> None:
    mlp = network([300, 400, 200, 10])
    x = RNG.standard_normal((900, 300))
    job = shared.submit_forward(mlp, x, softmax=True, cut=cut)
    assert np.allclose(job.result(), numpys(nn.Sequential(*mlp, "softmax"), x), rtol=1e-10)
    report = job.report()
    assert report.kind == "mlp"
    operations = {placement["operation"] for placement in report.as_dict()["placements"]}
    layers = {"gemm1", "gemm2", "gemm3", "softmax4"}
    assert operations == ({"softmax4"} if cut == "balanced" else layers)


@pytest.mark.parametrize("given", ["float16", "float32", "float64", "uint8", "int64", "bool"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_are_numpys(shared: Client, dtype: str, given: str) -> None:
    mlp = network([8, 6, 3], "tanh", dtype)
    x = RNG.integers(0, 2, (20, 8)).astype(given)
    found, expected = shared.forward(mlp, x, where="cluster"), numpys(mlp, x)
    assert found.dtype == expected.dtype
    assert np.allclose(found, expected, atol=64 * np.finfo(expected.dtype).eps)


def test_shapes_are_numpys(shared: Client) -> None:
    mlp = network([8, 6, 3])
    for shape in ((8,), (1, 8), (0, 8)):
        x = RNG.standard_normal(shape)
        found = shared.forward(mlp, x, softmax=True, where="cluster")
        assert found.shape == (*shape[:-1], 3)
        assert np.allclose(found, numpys(nn.Sequential(*mlp, "softmax"), x))


def test_flatten_takes_pictures(shared: Client) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, dtype="float64", seed=1), "sigmoid")
    x = RNG.standard_normal((7, 3, 4))
    assert np.allclose(shared.forward(flat, x, where="cluster"), numpys(flat, x))
    assert np.allclose(shared.forward(flat, np.asfortranarray(x), where="cluster"), numpys(flat, x))
    with pytest.raises(InvalidInput, match=r"X is 7 x 10, but layer 1 \(Linear 12 x 5\) takes 12"):
        shared.forward(flat, RNG.standard_normal((7, 2, 5)))


def test_samples_may_be_a_file_or_lazy(shared: Client, tmp_path: Path) -> None:
    mlp, x = network([8, 3]), RNG.standard_normal((40, 8))
    np.save(tmp_path / "x.npy", x)
    expected = numpys(mlp, x)
    assert np.allclose(shared.forward(mlp, tmp_path / "x.npy", where="cluster"), expected)
    lazy = shared.put(x)
    assert np.allclose(shared.forward(mlp, lazy, where="cluster"), expected)
    total = shared.apply(mlp, lazy).sum(axis=0)
    assert np.allclose(shared.compute(total, where="cluster"), expected.sum(axis=0))
    with pytest.raises(InvalidInput, match="X is 40 x 4, but layer 0"):
        shared.forward(mlp, lazy[:, :4], where="cluster")


@settings(max_examples=20)
@given(data=st.data())
def test_random_networks_are_numpys(shared: Client, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    count = len(sizes) - 1
    names = data.draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=count, max_size=count))
    dtype, given_dtype = (data.draw(st.sampled_from(["float32", "float64"])) for _ in range(2))
    mlp = network(sizes, names, dtype)
    rows = data.draw(st.sampled_from([1, 2, 3, 100, 3000]))
    x = RNG.standard_normal((rows, sizes[0])).astype(given_dtype)
    found = shared.forward(mlp, x, cut=data.draw(st.sampled_from(CUTS)))
    expected = numpys(mlp, x)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    limit = 256 * np.finfo(expected.dtype).eps
    assert np.allclose(found, expected, rtol=limit, atol=limit * max(1, np.abs(expected).max()))


def test_here_and_on_the_cluster_it_is_the_same(shared: Client) -> None:
    mlp, x = network([8, 6, 3], "gelu"), RNG.standard_normal((40, 8))
    found = shared.forward(mlp, x, where="local")
    assert np.allclose(found, shared.forward(mlp, x, where="cluster"), rtol=1e-13, atol=1e-13)
    assert np.array_equal(found, Offline().forward(mlp, x, where="local"))


def test_parameters_are_sent_once_and_go_with_their_network(cluster: LocalCluster) -> None:
    with Client(cluster.address) as client:
        before = stored(client)
        mlp, x = network([400, 300, 10]), RNG.standard_normal((20, 400))
        client.forward(mlp, x, where="cluster")
        first = stored(client) - before
        assert len(first) == 1  # The other parameters are small, and travel with the job.
        client.forward(mlp, x, where="cluster")
        assert first <= stored(client)
        assert np.allclose(client.forward(mlp, x, where="cluster"), numpys(mlp, x))
        mlp.linear[0].weight = 2 * mlp.linear[0].weight
        assert np.allclose(client.forward(mlp, x, where="cluster"), numpys(mlp, x))
        del mlp
        limit = time.monotonic() + 60
        while stored(client) & first:
            assert time.monotonic() < limit, "the old weight is still there"
            time.sleep(0.02)


def test_a_weight_that_the_cluster_has_lost_is_sent_again(cluster: LocalCluster) -> None:
    with Client(cluster.address) as client:
        mlp, x = network([400, 300, 10]), RNG.standard_normal((20, 400))
        expected = client.forward(mlp, x, where="cluster")
        for _, held in client._resident.values():
            held.matrix_id = "gone" if held.matrix_id else ""
        with pytest.raises(Exception, match="gone"):
            client.forward(mlp, x, where="cluster")
        # Which device has which rows, and so the order of sums, may be another one.
        assert np.allclose(
            client.forward(mlp, x, where="cluster"), expected, rtol=1e-12, atol=1e-12
        )


def test_a_limit_of_time_is_kept(shared: Client) -> None:
    with pytest.raises(TimedOut):
        shared.forward(network([2000, 2000, 2000]), np.ones((3000, 2000)), timeout=0.001)
