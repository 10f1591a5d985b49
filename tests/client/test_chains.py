"""Chains against a real cluster: NumPy's results, whatever the order, from Python and the shell."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import deadheat

from deadheat.client import Client, InvalidInput, LocalCluster

RNG = np.random.default_rng(23)
Array = np.ndarray[Any, Any]


def matrices(*sizes: int, dtype: str = "float64") -> list[Array]:
    return [RNG.standard_normal((rows, columns)).astype(dtype) for rows, columns in pairwise(sizes)]


def close_to_numpy(found: Array, given: list[Array]) -> None:
    expected = np.linalg.multi_dot(given)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    # Each product adds its own rounding to those of its operands.
    eps, longest = np.finfo(expected.dtype).eps, max(matrix.shape[0] for matrix in given)
    scale = np.linalg.multi_dot([np.abs(matrix) for matrix in given])
    assert (np.abs(found - expected) <= 2 * len(given) * longest * eps * scale).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_chains_are_numpys(client: Client, dtype: str) -> None:
    given = matrices(300, 40, 500, 20, 350, dtype=dtype)
    close_to_numpy(client.multi_dot(given, where="cluster"), given)


def test_small_chains_travel_inline(client: Client) -> None:
    given = matrices(3, 4, 5, 6)
    close_to_numpy(client.multi_dot(given, where="cluster"), given)


@pytest.mark.parametrize("ends", ["first", "last", "both"])
def test_ends_of_one_dimension_are_a_row_and_a_column(client: Client, ends: str) -> None:
    given = matrices(200, 300, 150)
    if ends in {"first", "both"}:
        given = [RNG.standard_normal(200), *given]
    if ends in {"last", "both"}:
        given = [*given, RNG.standard_normal(150)]
    found = client.multi_dot(given, where="cluster")
    expected = np.linalg.multi_dot(given)
    assert np.shape(found) == np.shape(expected)
    assert np.allclose(found, expected, rtol=1e-10)


def test_transposed_matrices_are_read_in_place(client: Client) -> None:
    given = [m if n % 2 else np.asfortranarray(m) for n, m in enumerate(matrices(300, 40, 500, 20))]
    close_to_numpy(client.multi_dot(given, where="cluster"), given)


def test_integers_are_exact_in_their_common_dtype(client: Client) -> None:
    """In int8 alone the first product would overflow, in some orders and not in others."""
    given = [RNG.integers(-90, 90, (50, 50)).astype(dtype) for dtype in ("int8", "int8", "int64")]
    found = client.multi_dot(given, where="cluster")
    assert found.dtype == np.int64
    assert np.array_equal(found, np.linalg.multi_dot([m.astype(np.int64) for m in given]))


def test_a_chain_is_a_job_like_any_other(client: Client) -> None:
    given = matrices(400, 30, 500, 25)
    job = client.submit_multi_dot(given)
    close_to_numpy(job.result(60), given)
    report = job.report()
    assert report.kind == "chain"
    assert report.state == "done"
    assert {placement["operation"] for placement in report.placements} > {"C"}
    assert np.array_equal(client.result(job.id), job.result())


def test_what_cannot_be_a_chain_is_refused_before_anything_moves(client: Client) -> None:
    with pytest.raises(InvalidInput, match="M2 is 4 x 5 and M3 is 6 x 7"):
        client.multi_dot([*matrices(3, 4, 5), *matrices(6, 7)], where="cluster")
    with pytest.raises(InvalidInput, match="matrices has 1 entries"):
        client.submit_multi_dot(matrices(3, 4))
    with pytest.raises(InvalidInput, match="cut is 'diagonal'"):
        client.multi_dot(matrices(3, 4, 5), cut="diagonal")  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number, matrix in enumerate(matrices(400, 30, 500, 25), 1):
        np.save(tmp_path / f"M{number}.npy", matrix)
        paths.append(str(tmp_path / f"M{number}.npy"))
    return paths


def test_the_command_runs_a_chain(cluster: LocalCluster, files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    made = deadheat("run", "chain", *files, "-o", str(out), "--scheduler", cluster.address)
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert "400 x 25 float64" in made.stderr
    close_to_numpy(np.load(out), [np.load(path) for path in files])
    shown = deadheat("job", "show", "last", "--json", "--scheduler", cluster.address)
    assert json.loads(shown.stdout)["kind"] == "chain"


def test_the_command_submits_a_chain(
    cluster: LocalCluster, files: list[str], tmp_path: Path
) -> None:
    at, out = ("--scheduler", cluster.address), tmp_path / "out.npy"
    made = deadheat("submit", "chain", *files, *at)
    assert made.returncode == 0, made.stderr
    job_id = made.stdout.strip()
    assert deadheat("job", "wait", job_id, *at).returncode == 0
    assert deadheat("job", "result", job_id, "-o", str(out), *at).returncode == 0
    close_to_numpy(np.load(out), [np.load(path) for path in files])


def test_the_command_says_what_does_not_fit(
    cluster: LocalCluster, files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    wrong = deadheat(
        *("run", "chain", files[0], files[2], "-o", str(out), "--scheduler", cluster.address)
    )
    assert wrong.returncode != 0
    assert "inner sizes 30 and 500 differ" in wrong.stderr
    assert not out.exists()
    alone = deadheat("run", "chain", files[0], "-o", str(out), "--scheduler", cluster.address)
    assert "2 to 64" in alone.stderr
