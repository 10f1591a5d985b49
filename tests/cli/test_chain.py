"""`deadheat run chain`: from files to a file, and what does not fit in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat

from deadheat.client import LocalCluster

RNG = np.random.default_rng(31)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, shape in (("A", (40, 300)), ("B", (300, 20)), ("C", (20, 500)), ("v", (500,))):
        np.save(tmp_path / f"{name}.npy", RNG.standard_normal(shape))
    np.save(tmp_path / "dates.npy", np.zeros((20, 500), "datetime64[s]"))
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    return tmp_path


@pytest.mark.parametrize("where", ["cluster", "local", "auto"])
def test_a_chain_of_files(cluster: LocalCluster, files: Path, where: str) -> None:
    at = ("--scheduler", cluster.address, "--where", where)
    made = deadheat(
        *("run", "chain", "A.npy", "B.npy", "C.npy", "v.npy", "-o", "Y.npy", *at), directory=files
    )
    assert made.returncode == 0, made.stderr
    expected = np.linalg.multi_dot([np.load(files / f"{name}.npy") for name in "ABCv"])
    assert np.allclose(np.load(files / "Y.npy"), expected)


@pytest.mark.parametrize("where", ["cluster", "local", "auto"])
@pytest.mark.parametrize(
    ("matrices", "words"),
    [
        ("A.npy C.npy", "inner sizes 300 and 20 differ"),
        ("A.npy", "a chain has 2 to"),
        ("A.npy B.npy nothing.npy", "nothing.npy"),
        ("B.npy dates.npy", "datetime64"),
        ("A.npy objects.npy", "object"),
        ("A.npy B.npy v.npy C.npy", "in the middle of a chain it must have 2"),
        ("A.npy B.npy cube.npy", "3 dimensions"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_file(
    cluster: LocalCluster, files: Path, where: str, matrices: str, words: str
) -> None:
    before = sorted(files.iterdir())
    at = ("--scheduler", cluster.address, "--where", where)
    made = deadheat(*("run", "chain", *matrices.split(), "-o", "Y.npy", *at), directory=files)
    assert made.returncode != 0
    assert words in made.stderr
    assert "Traceback" not in made.stderr
    assert sorted(files.iterdir()) == before
