"""`deadheat run mlp` and `submit mlp`: a network's result in a file, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import deadheat
from tests.client.networks import numpys

from deadheat.client import LocalCluster, nn

RNG = np.random.default_rng(23)


@pytest.fixture
def network() -> nn.MLP:
    return nn.MLP(
        [(RNG.standard_normal((300, 200)), RNG.standard_normal(200)), RNG.random((200, 10))],
        "tanh",
    )


@pytest.fixture
def files(tmp_path: Path, network: nn.MLP) -> Path:
    first, second = network.linear
    np.save(tmp_path / "X.npy", RNG.standard_normal((400, 300)))
    for name, array in (("W1", first.weight), ("b1", first.bias), ("W2", second.weight)):
        assert array is not None
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_run_takes_weights_and_biases(cluster: LocalCluster, files: Path, network: nn.MLP) -> None:
    made = deadheat(
        *("run", "mlp", "X.npy", "W1.npy", "b1.npy", "W2.npy", "--activations", "tanh"),
        *("--softmax", "-o", "Y.npy", "--json", "--scheduler", cluster.address),
        directory=files,
    )
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert (report["kind"], report["state"]) == ("mlp", "done")
    expected = numpys(nn.Sequential(*network, "softmax"), np.load(files / "X.npy"))
    assert np.allclose(np.load(files / "Y.npy"), expected, rtol=1e-10)


def test_run_and_submit_take_a_model(cluster: LocalCluster, files: Path, network: nn.MLP) -> None:
    pytest.importorskip("safetensors")
    nn.save(files / "m.safetensors", network)
    at = ("--scheduler", cluster.address)
    expected = numpys(network, np.load(files / "X.npy"))
    made = deadheat(*("run", "mlp", "X.npy", "m.safetensors", "-o", "Y.npy", *at), directory=files)
    assert made.returncode == 0, made.stderr
    assert "Y.npy: 400 x 10 float64" in made.stderr
    assert np.allclose(np.load(files / "Y.npy"), expected, rtol=1e-10)
    submitted = deadheat("submit", "mlp", "X.npy", "m.safetensors", *at, directory=files)
    job_id = submitted.stdout.strip()
    assert deadheat("job", "wait", job_id, *at).returncode == 0
    assert deadheat("job", "result", job_id, "-o", str(files / "Z.npy"), *at).returncode == 0
    assert np.allclose(np.load(files / "Z.npy"), expected, rtol=1e-10)


def test_run_here_needs_no_scheduler(files: Path, network: nn.MLP) -> None:
    made = deadheat(
        *("run", "mlp", "X.npy", "W1.npy", "b1.npy", "W2.npy", "--activations", "tanh,none"),
        *("-o", "Y.npy", "--where", "local"),
        directory=files,
        environment={"DEADHEAT_SCHEDULER": "127.0.0.1:1"},
    )
    assert made.returncode == 0, made.stderr
    assert np.allclose(np.load(files / "Y.npy"), numpys(network, np.load(files / "X.npy")))


def with_nan(d: Path) -> None:
    x = np.load(d / "X.npy")
    x[7, 3] = np.nan
    np.save(d / "X.npy", x)


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (with_nan, "X.npy W1.npy", "X[7, 3] is nan; it must be a finite number"),
        (None, "X.npy W2.npy", "X is 400 x 300, but layer 0 (Linear 200 x 10) takes 200 columns"),
        (None, "X.npy W1.npy W1.npy", "layer 2 (Linear 300 x 200) takes 300 columns, but layer 0"),
        (None, "X.npy b1.npy", "b1.npy has one dimension, so it is a bias, but no weight"),
        (None, "X.npy W1.npy b1.npy b1.npy", "but no weight stands before it"),
        (None, "X.npy W1.npy m.safetensors", "m.safetensors stands among .npy files"),
        (None, "X.npy a.safetensors b.safetensors", "2 models are given; give one"),
        (None, "X.npy m.safetensors", "m.safetensors: there is no such file"),
        (lambda d: (d / "m.st").write_text("x"), "X.npy m.st", "m.st is no safetensors file"),
        (None, "X.npy W3.npy", "W3.npy: No such file"),
        (None, "nothing.npy W1.npy", "nothing.npy: No such file"),
        (None, "X.npy W1.npy --activations swish", "activation is 'swish'; it may be none, relu"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_file(
    files: Path, spoil: Callable[[Path], object] | None, arguments: str, words: str
) -> None:
    if spoil:
        spoil(files)
    before = sorted(files.iterdir())
    made = deadheat(
        *("run", "mlp", *arguments.split(), "-o", "Y.npy", "--where", "local"), directory=files
    )
    assert made.returncode != 0
    assert words in made.stderr
    assert "Traceback" not in made.stderr
    assert sorted(files.iterdir()) == before
