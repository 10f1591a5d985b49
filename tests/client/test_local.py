"""Products in the caller's process: NumPy is the judge, and the cluster agrees."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deadheat.client import Client, InvalidInput, LimitReached, Offline, Unavailable, nn
from deadheat.client.ordering import best_cuts
from deadheat.client.places import News
from deadheat.runtime.dtypes import BY_NAME, numpy_dtype

RNG = np.random.default_rng(31)
Array = np.ndarray[Any, Any]
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid")


def matrix(rows: int, columns: int, dtype: str, seed: int = 7) -> Array:
    made = np.random.default_rng(seed).integers(-4, 5, (rows, columns))
    if dtype.startswith("u") or dtype == "bool":
        made = abs(made)
    found = made.astype(numpy_dtype(dtype))
    return found if BY_NAME[dtype].is_exact else found * found.dtype.type(0.375)


def newest_job(client: Client) -> list[str]:
    return [report.id for report in client.reports(limit=1)]


def same(found: Any, expected: Any) -> None:
    """Of one type, shape and dtype, and equal but for the order of summation."""
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if BY_NAME[found.dtype.name].is_exact:
        assert np.array_equal(found, expected)
    else:
        wide = "complex128" if found.dtype.kind == "c" else "float64"
        eps = 2**-7 if found.dtype == numpy_dtype("bfloat16") else np.finfo(found.dtype).eps
        tolerance = 64 * float(eps)
        close = np.allclose(
            found.astype(wide), expected.astype(wide), rtol=tolerance, atol=tolerance
        )
        assert close


@pytest.mark.parametrize("dtype", [name for name in BY_NAME if "float16" not in name])
@pytest.mark.parametrize("shape", [(5, 7, 3), (130, 90, 150), (1, 1, 1), (0, 4, 5), (4, 0, 5)])
def test_products_here_are_numpys(client: Client, dtype: str, shape: tuple[int, ...]) -> None:
    m, k, n = shape
    a, b = matrix(m, k, dtype), matrix(k, n, dtype, 8)
    before = newest_job(client)
    for where in ("auto", "local"):
        same(client.matmul(a, b, where=where), np.matmul(a, b))
    assert newest_job(client) == before


def test_vectors_are_taken_as_numpy_takes_them(client: Client) -> None:
    a, x = RNG.standard_normal((6, 6)), RNG.standard_normal(6)
    for left, right in ((a, x), (x, a), (x, x)):
        for where in ("auto", "local", "cluster"):
            same(client.matmul(left, right, where=where), np.matmul(left, right))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtypes=st.tuples(*[st.sampled_from(sorted(BY_NAME))] * 2),
    sizes=st.tuples(*[st.integers(0, 12)] * 3),
    layout=st.sampled_from(["rows", "columns", "reversed", "big-endian", "list"]),
    has_bias=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_here_and_there_agree_also_in_what_they_refuse(
    client: Client,
    dtypes: tuple[str, str],
    sizes: tuple[int, int, int],
    layout: str,
    has_bias: bool,
    alpha: float,
    activation: str,
) -> None:
    m, k, n = sizes
    a: Any = matrix(m, k, dtypes[0])
    if layout == "columns":
        a = np.asfortranarray(a)
    elif layout == "reversed":
        a = a[::-1]
    elif layout == "big-endian" and dtypes[0] != "bfloat16":
        a = a.astype(a.dtype.newbyteorder(">"))
    elif layout == "list" and m and k and "float16" not in dtypes[0]:
        a = a.tolist()
    b = matrix(k, n, dtypes[1], 9)
    options: Any = {"bias": matrix(1, n, dtypes[1], 10)[0] if has_bias else None}
    options |= {"alpha": alpha, "activation": activation}
    found: dict[str, Any] = {}
    for where in ("local", "auto", "cluster"):
        try:
            found[where] = client.matmul(a, b, where=where, **options)
        except InvalidInput as error:
            found[where] = error
    there = found.pop("cluster")
    for here in found.values():
        if isinstance(there, InvalidInput):
            assert str(here) == str(there)
        else:
            same(here, there)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "complex64"])
def test_chains_here_are_the_clusters(client: Client, dtype: str) -> None:
    given = [matrix(20, 5, dtype), matrix(5, 30, dtype, 2), matrix(30, 4, dtype, 3)]
    given = [*given, np.asfortranarray(matrix(4, 9, dtype, 4))]
    for ends in (given, [given[0][0], *given[1:-1], given[-1][:, 0]]):
        here = client.multi_dot(ends, where="local")
        same(here, client.multi_dot(iter(ends), where="cluster"))
        same(client.multi_dot(ends), here)


def test_the_order_of_a_chain_is_the_one_with_the_fewest_operations() -> None:
    # 10 x 100 x 5 x 50: ((AB)C) takes 7,500 steps, (A(BC)) ten times as many.
    assert best_cuts([10, 100, 5, 50])[0, 3] == 2


def test_half_precision_is_summed_in_single_here_too(client: Client) -> None:
    a = np.full((1, 4096), 1, np.float16)
    assert client.matmul(a, a.T)[0, 0] == 4096  # In float16 it would stop at 2048.


def test_wrong_shapes_are_refused_in_the_same_words(client: Client) -> None:
    for where in ("auto", "local", "cluster"):
        with pytest.raises(InvalidInput, match="A is 2 x 3 and B is 2 x 3: inner sizes 3 and 2"):
            client.matmul(np.ones((2, 3)), np.ones((2, 3)), where=where)


def test_what_numpy_would_warn_of_is_quiet(client: Client) -> None:
    a, b = np.array([[np.inf, 1e308], [0.0, 1.0]]), np.array([[0.0, 1.0], [1e308, 1.0]])
    for where in ("auto", "local", "cluster"):
        found = client.matmul(a, b, where=where)
        assert np.isnan(found[0, 0])
        assert np.isposinf(found[0, 1])


def test_a_result_here_is_the_users_own(client: Client) -> None:
    a = RNG.standard_normal((5, 5))
    kept = a.copy()
    found = client.matmul(a, np.eye(5))
    found += 1
    assert np.array_equal(a, kept)


def test_files_are_read_here(client: Client, tmp_path: Path) -> None:
    a, b = RNG.standard_normal((40, 50)), np.asfortranarray(RNG.standard_normal((50, 30)))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    before = newest_job(client)
    for where in ("auto", "local"):
        found = client.matmul(tmp_path / "a.npy", str(tmp_path / "b.npy"), where=where)
        assert np.allclose(found, a @ b)
    assert newest_job(client) == before
    with pytest.raises(InvalidInput, match=r"none\.npy"):
        client.matmul(tmp_path / "none.npy", b, where="local")


def test_only_jobs_can_be_submitted(client: Client) -> None:
    a = np.ones((3, 3))
    with pytest.raises(InvalidInput, match="where is 'local', but a product in this process is no"):
        client.submit_matmul(a, a, where="local")
    with pytest.raises(InvalidInput, match="is no job that could be submitted"):
        client.submit_multi_dot([a, a], where="local")
    with pytest.raises(InvalidInput, match="where is 'here'; it may be auto, cluster, local"):
        client.matmul(a, a, where="here")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cut, timeout and durability are for jobs"):
        client.matmul(a, a, where="local", timeout=5.0)
    assert np.array_equal(client.submit_matmul(a, a, where="auto").result(), a @ a)


def test_what_only_a_job_has_makes_it_one(client: Client) -> None:
    before = newest_job(client)
    assert client.matmul(np.ones((3, 3)), np.ones((3, 3)), timeout=60.0)[0, 0] == 3
    assert newest_job(client) != before


def test_a_matrix_that_is_given_twice_is_moved_once(client: Client) -> None:
    a = RNG.standard_normal((600, 500))
    assert np.allclose(client.matmul(a, a.T, where="cluster"), a @ a.T)
    once = client.report("last").bytes_moved
    assert np.allclose(client.matmul(a, a.T.copy(), where="cluster"), a @ a.T)
    assert np.allclose(client.matmul(a.T, a, where="cluster"), a.T @ a)
    square = a[:, :500][:500]
    assert np.allclose(client.matmul(square, square, where="cluster"), square @ square)
    assert np.allclose(client.multi_dot([a, a.T, a], where="cluster"), a @ a.T @ a)
    assert once is not None


def test_it_says_where_a_product_would_be_computed(client: Client) -> None:
    a = RNG.standard_normal((30, 40))
    assert client.place(a, a.T) == "local"
    assert client.place(a, a.T, bias=np.ones(30)) == "local"
    assert client.place(a, a.T, a) == "local"


def test_a_client_of_no_cluster_computes_by_itself() -> None:
    a = RNG.standard_normal((30, 40))
    offline = Offline()
    assert np.array_equal(offline.matmul(a, a.T), a @ a.T)
    with pytest.raises(Unavailable, match="there is no cluster"):
        offline.matmul(a, a.T, where="cluster")


@pytest.mark.parametrize(
    "ask",
    [
        lambda it: it.nodes(),
        lambda it: it.report("last"),
        lambda it: it.job("last"),
        lambda it: it.cancel("last"),
        lambda it: it.estimate(10, 10, 10),
        lambda it: it.submit_matmul(np.eye(3), np.eye(3)),
        lambda it: it.submit(it.put(np.eye(3)) @ np.eye(3)),
        lambda it: it.submit_forward(nn.MLP([3, 2]), np.eye(3)),
        lambda it: it.follow(nn.MLP([3, 2]), "last"),
    ],
)
def test_what_only_a_cluster_can_do_is_refused_without_one(
    ask: Callable[[Offline], object],
) -> None:
    with pytest.raises(Unavailable, match="there is no cluster"):
        ask(Offline())


def test_plain_matrices_are_multiplied_without_a_program(client: Client) -> None:
    before = newest_job(client)
    # Not measured speeds are to say where it is done: others may use the machine as well.
    nothing: Future[News] = Future()
    nothing.set_result(News([], 0.0, 0.0))
    client._places.ask = lambda: nothing
    for n, dtype in ((500, "float64"), (600, "float32"), (160, "int32")):
        a, b = matrix(n, n + 1, dtype), matrix(n + 1, n - 1, dtype, 8)
        same(client.matmul(a, b), np.matmul(a, b))
        same(client.matmul(a, a.T), np.matmul(a, a.T))
        same(client.matmul(a.T, b[:-1]), np.matmul(a.T, b[:-1]))
    assert newest_job(client) == before


def test_a_plain_product_without_memory_says_so() -> None:
    a = np.broadcast_to(np.float64(1), (1 << 25, 1))
    with pytest.raises(LimitReached, match="no memory here for the result, 33554432 x 33554432"):
        Offline().matmul(a, a[:1].repeat(1 << 25, axis=1))
