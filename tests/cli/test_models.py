"""`deadheat models`: save, list, show, load and delete, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import deadheat
from tests.client.networks import same

from deadheat.client import Client, LocalCluster, NotFound, nn


def run(cluster: LocalCluster, folder: Path, *arguments: str) -> str:
    found = deadheat("models", *arguments, "--scheduler", cluster.address, directory=folder)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_model_is_saved_shown_loaded_and_deleted(cluster: LocalCluster, tmp_path: Path) -> None:
    network = nn.MLP([6, 4, 3], "tanh", seed=1)
    nn.save(tmp_path / "net.safetensors", network)
    np.save(tmp_path / "X.npy", np.ones((5, 6)))
    said = run(
        *(cluster, tmp_path, "save", "cli", "net.safetensors", "--data", "X.npy"),
        *("--metadata", "accuracy=0.75", "--metadata", "who=me and you"),
    )
    assert said == "1\n"
    first, second = network.linear
    for name, array in (("W1", first.weight), ("b1", first.bias), ("W2", second.weight)):
        assert array is not None
        np.save(tmp_path / f"{name}.npy", array)
    said = run(cluster, tmp_path, "save", "cli", "W1.npy", "b1.npy", "W2.npy", "--json")
    assert json.loads(said) == {"name": "cli", "version": 2}

    listed: list[dict[str, Any]] = json.loads(run(cluster, tmp_path, "list", "cli", "--json"))[
        "models"
    ]
    assert [(model["name"], model["version"]) for model in listed] == [("cli", 2), ("cli", 1)]
    assert "cli" in run(cluster, tmp_path, "list")
    shown = json.loads(run(cluster, tmp_path, "show", "cli", "--version", "1", "--json"))
    assert shown["metadata"] == {"accuracy": 0.75, "who": "me and you"}
    assert shown["data_hash"].startswith("blake2b:")
    assert shown["training"] is None
    text = run(cluster, tmp_path, "show", "cli", "--version", "1")
    assert "linear 6 x 4, tanh, linear 4 x 3" in text

    run(cluster, tmp_path, "load", "cli", "--version", "1", "-o", "back.safetensors")
    assert same(nn.load(tmp_path / "back.safetensors"), network)
    run(cluster, tmp_path, "delete", "cli", "--version", "2")
    said = run(cluster, tmp_path, "delete", "cli", "--all", "--json")
    assert json.loads(said) == {"name": "cli", "versions": [1]}
    with Client(cluster.address) as client, pytest.raises(NotFound):
        client.models.show("cli")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "missing"), 1, "error: there is no model 'missing'"),
        (("load", "missing", "-o", "x.safetensors"), 1, "error: there is no model 'missing'"),
        (("save", "a b", "W.npy"), 1, "error: name 'a b' must be 1 to 64 letters"),
        (("save", "a", "none.safetensors"), 1, "none.safetensors: there is no such file"),
        (("save", "a", "W.npy", "--metadata", "=1"), 2, "--metadata is '=1'"),
        (("delete", "missing"), 2, "give either --version or --all"),
        (("delete", "missing", "--all"), 1, "error: there is no model 'missing'"),
        (("show", "missing", "--version", "0"), 2, "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    cluster: LocalCluster, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    np.save(tmp_path / "W.npy", np.ones((3, 2)))
    found = deadheat("models", *arguments, "--scheduler", cluster.address, directory=tmp_path)
    assert found.returncode == code
    assert words in found.stderr
    assert "Traceback" not in found.stderr
    assert not found.stdout
