"""Models by name and version: kept whole, and called by many at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client.kept_models import close, held, network, samples
from tests.client.networks import numpys, same
from tests.waiting import wait_until

from deadheat.client import (
    Client,
    InvalidInput,
    LocalCluster,
    NotFound,
    nn,
)
from deadheat.runtime.version import VERSION


@pytest.fixture
def name(request: pytest.FixtureRequest, client: Client) -> Iterator[str]:
    """A name of this test's own; its versions go with the test."""
    found = request.node.originalname.replace("test_", "")[:64]
    yield found
    try:
        client.models.delete(found)
    except NotFound:
        pass


# Keeping


def test_versions_count_up_and_come_back_as_they_were_saved(client: Client, name: str) -> None:
    first, second = network(1), network(2)
    assert client.models.save(name, first) == 1
    assert client.models.save(name, second) == 2
    for version, saved in ((1, first), (2, second), (None, second)):
        loaded = client.models.load(name, version)
        assert same(loaded, saved)
    assert client.models.delete(name, 2) == (2,)
    assert client.models.show(name).version == 1
    # The number of a deleted version does not come again.
    assert client.models.save(name, second) == 3
    assert [model.version for model in client.models.list(name)] == [3, 1]
    assert client.models.delete(name) == (1, 3)
    with pytest.raises(NotFound, match=f"no model '{name}'"):
        client.models.load(name)


def test_what_made_a_model_is_recorded(client: Client, name: str) -> None:
    mlp = nn.MLP([12, 8, 3], seed=1)
    x, y = samples(40), np.arange(40) % 3
    training = client.train(mlp, x, y, epochs=2, batch_size=20, seed=1)
    client.models.save(name, mlp, data=(x, y), training=training, accuracy=0.5, notes=["first"])
    found = client.models.show(name)
    assert found.metadata == {"accuracy": 0.5, "notes": ["first"]}
    assert found.code_version == VERSION
    assert found.training == training.as_dict()
    assert found.data_hash
    assert found.data_hash.startswith("blake2b:")
    assert (found.inputs, found.outputs, found.dtype) == (12, 3, "float32")
    assert found.size_bytes == sum(array.nbytes for array in mlp.parameters)
    assert found.layers
    assert [layer["layer"] for layer in found.layers] == ["linear", "relu", "linear"]
    # The same data have the same hash, and others have another.
    client.models.save(name, mlp, data=(x.copy(), y))
    assert client.models.show(name).data_hash == found.data_hash
    client.models.save(name, mlp, data=(x, y + 1))
    assert client.models.show(name).data_hash != found.data_hash
    (listed, *_) = client.models.list(name)
    assert listed.training is None
    assert listed.layers is None


def test_every_dtype_and_layer_comes_back(client: Client, name: str) -> None:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        made = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 4, bias=False, dtype=dtype, seed=1), "sigmoid"
        )
        client.models.save(name, made)
        assert same(client.models.load(name), made)


def test_a_network_of_images_is_kept_and_served(client: Client, name: str) -> None:
    made = nn.Sequential(
        nn.Unflatten(1, (2, 6, 6)),
        nn.Conv2d(2, 3, 3, padding=1, seed=1),
        "relu",
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 4, seed=2),
    )
    client.models.save(name, made)
    found = client.models.load(name)
    assert same(found, made)
    assert [repr(layer) for layer in found] == [repr(layer) for layer in made]
    x = np.random.default_rng(3).standard_normal((5, 72)).astype(np.float32)
    served = client.models.forward(name, x)
    np.testing.assert_allclose(served, client.forward(made, x, where="local"), atol=1e-5)


def test_a_network_that_takes_images_of_any_size_is_kept_and_not_served(
    client: Client, name: str
) -> None:
    made = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, seed=1), "relu", nn.MaxPool2d(2))
    client.models.save(name, made)
    (found,) = client.models.list(name)
    assert (found.inputs, found.outputs, found.dtype) == (None, None, None)
    assert same(client.models.load(name), made)
    with pytest.raises(InvalidInput, match="cannot be served: it takes images of any size"):
        client.models.forward(name, np.ones((2, 1, 4, 4), np.float32))


def test_two_who_save_at_once_get_two_versions(
    cluster: LocalCluster, client: Client, name: str
) -> None:
    count = 12
    with Client(cluster.address) as other, ThreadPoolExecutor(count) as threads:
        saving = [
            threads.submit((client, other)[n % 2].models.save, name, network(n), seed=n)
            for n in range(count)
        ]
        versions = [one.result() for one in saving]
    assert sorted(versions) == list(range(1, count + 1))
    for seed, version in enumerate(versions):
        assert client.models.show(name, version).metadata == {"seed": seed}
        assert same(client.models.load(name, version), network(seed))


def test_a_model_goes_to_a_file_and_comes_from_one(
    client: Client, name: str, tmp_path: Path
) -> None:
    client.models.save(name, network())
    path = tmp_path / "model.safetensors"
    client.models.export(name, None, path)
    loaded = nn.load(path)
    assert client.models.save(name, loaded) == 2
    assert close(client.models.forward(name, samples(3)), numpys(network(), samples(3)))


def test_what_a_model_is_made_of_is_held_on_disk_until_it_is_deleted(
    cluster: LocalCluster, client: Client, name: str
) -> None:
    before = held(cluster)  # What others have deleted may go meanwhile.
    client.models.save(name, network())
    found = held(cluster) - before
    assert len(found) == 4
    client.models.delete(name)
    wait_until(lambda: not held(cluster) & found, "the matrices to be given up")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "no name"}, "must be 1 to 64 letters"),
        ({"name": ""}, "name is ''"),
        ({"network": np.ones(3)}, "network is a ndarray"),
        ({"metadata": {"training": 3}}, "training is a int; it must be what Client.train returned"),
        ({"metadata": {"a": float("nan")}}, "metadata is not what JSON can say"),
        ({"metadata": {"a": object()}}, "metadata is not what JSON can say"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata has 20009 bytes; the limit is 16384"),
    ],
)
def test_what_cannot_be_kept_is_refused(client: Client, change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"name": "refused", "network": network(), "metadata": {}, **change}
    with pytest.raises(InvalidInput, match=words):
        client.models.save(given["name"], given["network"], **given["metadata"])
    with pytest.raises(NotFound):
        client.models.show("refused")


def test_versions_that_are_not_there_are_named(client: Client, name: str) -> None:
    client.models.save(name, network())
    with pytest.raises(NotFound, match="has no version 7; there is 1"):
        client.models.load(name, 7)
    for wrong in (0, -1, 1.5, True, "1"):
        with pytest.raises(InvalidInput, match="version is"):
            client.models.load(name, wrong)  # type: ignore[arg-type]
