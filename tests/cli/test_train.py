"""`deadheat train`: a file with the trained network, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat
from tests.client.networks import numpys

from deadheat.client import LocalCluster, Offline, nn

RNG = np.random.default_rng(47)
X = RNG.standard_normal((600, 20))
Y = RNG.integers(0, 3, 600)
ARGUMENTS = "--sizes 20,15,3 --epochs 3 --batch-size 100 --learning-rate 0.2 --momentum 0.5"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    pytest.importorskip("safetensors")
    np.savez(tmp_path / "data.npz", X=X, y=Y)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return tmp_path


def test_a_model_comes_of_it_and_a_report(cluster: LocalCluster, files: Path) -> None:
    made = deadheat(
        *("train", "data.npz", *ARGUMENTS.split(), "--seed", "4", "-o", "m.safetensors", "--json"),
        *("--scheduler", cluster.address),
        directory=files,
    )
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert [epoch["number"] for epoch in report["epochs"]] == [1, 2, 3]
    assert report["job"]
    assert f"epoch 3: loss {report['epochs'][2]['loss']:.6g}" in made.stderr
    expected = nn.MLP([20, 15, 3], seed=4)
    Offline().train(
        expected, X, Y, epochs=3, batch_size=100, learning_rate=0.2, momentum=0.5, seed=4
    )
    found = nn.load(files / "m.safetensors")
    assert np.allclose(numpys(found, X), numpys(expected, X), atol=1e-4)


def test_a_model_is_trained_further_without_a_scheduler(files: Path) -> None:
    for step in ("--sizes 20,3", "--model m.safetensors"):
        arguments = f"X.npy y.npy {step} --epochs 2 --where local -o m.safetensors"
        made = deadheat(
            "train",
            *arguments.split(),
            directory=files,
            environment={"DEADHEAT_SCHEDULER": "127.0.0.1:1"},
        )
        assert made.returncode == 0, made.stderr
        assert "m.safetensors: as it is after epoch 2" in made.stderr
    assert nn.load(files / "m.safetensors").outputs == 3


def test_what_runs_away_leaves_the_last_good_network(files: Path) -> None:
    np.save(files / "y.npy", RNG.standard_normal((600, 3)))
    arguments = "X.npy y.npy --sizes 20,15,3 --loss mse --learning-rate 2 --seed 1 --epochs 60"
    made = deadheat(
        *("train", *arguments.split(), "--where", "local", "-o", "m.safetensors"), directory=files
    )
    assert made.returncode == 1
    assert "learning_rate 2 is too large; the network's parameters are those of" in made.stderr
    assert "m.safetensors: as it is after epoch" in made.stderr
    assert all(np.isfinite(array).all() for array in nn.load(files / "m.safetensors").parameters)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("data.npz --epochs 1", "give --sizes of a new network, or the --model to train further"),
        ("X.npy --sizes 20,3 --epochs 1", "one file is given; give one .npz file, or X.npy and y"),
        ("X.npy y.npy y.npy --sizes 20,3 --epochs 1", "3 files are given"),
        ("no.npz --sizes 20,3 --epochs 1", "no.npz: No such file"),
        ("X.npz --sizes 20,3 --epochs 1", "X.npz has X, but no y"),
        ("text.npz --sizes 20,3 --epochs 1", "text.npz: "),
        ("data.npz --sizes 20,x --epochs 1", "--sizes is '20,x'; it must be whole numbers"),
        ("data.npz --sizes 19,3 --epochs 1", "X is 600 x 20, but layer 0 (Linear 19 x 3) takes 19"),
        (
            "data.npz --sizes 20,2 --epochs 1",
            "is 2; labels go from 0 to 1, since the network",
        ),
        ("data.npz --model none.safetensors --epochs 1", "none.safetensors: there is no such file"),
        ("data.npz --model m --dtype float64 --epochs 1", "--dtype is for --sizes"),
        ("data.npz --sizes 20,3 --epochs 0", "epochs is 0"),
        ("data.npz --sizes 20,3 --epochs 1 -o no/m.st", "-o no/m.st: No such file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_file(files: Path, arguments: str, words: str) -> None:
    np.savez(files / "X.npz", X=X)
    (files / "text.npz").write_text("text")
    before = sorted(files.iterdir())
    made = deadheat(
        *("train", "-o", "m.st", "--where", "local", *arguments.split()), directory=files
    )
    assert made.returncode != 0
    assert words in made.stderr
    assert "Traceback" not in made.stderr
    assert sorted(files.iterdir()) == before
