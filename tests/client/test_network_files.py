"""Networks in and out of safetensors files: the same bits again, or refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client.networks import same

from deadheat.client import InvalidInput, NotFound, Unavailable, nn

safetensors = pytest.importorskip("safetensors.numpy")
RNG = np.random.default_rng(17)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_network_comes_back_as_it_was(path: Path, dtype: str) -> None:
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(8, 6, dtype=dtype, seed=1),
        "gelu_tanh",
        nn.Linear(6, 5, bias=False, dtype=dtype, seed=2),
        nn.Linear(5, 3, dtype=dtype, seed=3),
        "softmax",
    )
    nn.save(path, network)
    assert same(nn.load(path), network)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def convolutional(**options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (2, 9, 8)),
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 1), **options),
        "relu",
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 3, 1, bias=False, **options),
        nn.AvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(3 * 2 * 2, 5, **options),
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_network_of_images_comes_back_as_it_was(path: Path, dtype: str) -> None:
    network = convolutional(dtype=dtype, seed=1)
    nn.save(path, network)
    assert same(nn.from_safetensors(path), network)
    state = safetensors.load_file(path)
    assert sorted(state) == ["1.bias", "1.weight", "4.weight", "7.bias", "7.weight"]
    assert state["1.weight"].shape == (4, 2, 3, 2)


def test_parameters_of_others_go_into_a_network_like_theirs(path: Path) -> None:
    network, other = convolutional(seed=1), convolutional(seed=2)
    nn.save(path, network)
    state = safetensors.load_file(path)
    safetensors.save_file({f"model.{name}": array for name, array in state.items()}, path)
    assert same(nn.from_safetensors(path, like=other), network)
    assert not same(other, network)
    with pytest.raises(InvalidInput, match=r"layer 1 is a convolution, .* give like="):
        nn.from_safetensors(path)
    with pytest.raises(InvalidInput, match=r"activations are in like already"):
        nn.from_safetensors(path, like=other, activations="relu")
    with pytest.raises(InvalidInput, match=r"like has parameters in layers \[0\], but the file in"):
        nn.from_safetensors(path, like=nn.MLP([4, 3]))
    with pytest.raises(InvalidInput, match=r"like is a list; it must be a network"):
        nn.from_safetensors(path, like=[])  # type: ignore[arg-type]
    changed = list(other.layers)
    changed[4] = nn.Conv2d(4, 3, 1)
    with pytest.raises(
        InvalidInput, match=r"layer 4 in the file is Conv2d .* without bias, but in"
    ):
        nn.from_safetensors(path, like=nn.Sequential(*changed))


def test_saving_replaces_what_was_there(path: Path) -> None:
    nn.save(path, nn.MLP([4, 3]))
    second = nn.MLP([5, 4, 3], seed=1)
    nn.save(str(path), second)
    assert same(nn.load(str(path)), second)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    import os

    now = os.umask(0)
    os.umask(now)
    return now


def test_files_have_the_layout_of_torch(path: Path) -> None:
    network = nn.MLP([4, 3, 2], seed=1)
    nn.save(path, network)
    state = safetensors.load_file(path)
    assert sorted(state) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert np.array_equal(state["0.weight"], network.linear[0].weight.T)


@pytest.mark.parametrize("prefix", ["", "net.", "model.layers."])
def test_parameters_of_others_need_to_be_told_their_activations(path: Path, prefix: str) -> None:
    network = nn.MLP([4] * 12, ["relu"] * 11, seed=1)  # Layer 10 comes after layer 9.
    state = {}
    for number, layer in enumerate(network.linear):
        assert layer.bias is not None
        state[f"{prefix}{2 * number}.weight"] = np.ascontiguousarray(layer.weight.T)
        state[f"{prefix}{2 * number}.bias"] = layer.bias
    safetensors.save_file(state, path)
    assert same(nn.load(path, activations=["relu"] * 11), network)
    with pytest.raises(InvalidInput, match=r"model.safetensors: the file does not say its activat"):
        nn.load(path)


def put(path: Path, tensors: dict[str, Any], layers: object = None) -> None:
    header = None if layers is None else {"deadheat.layers": json.dumps(layers)}
    safetensors.save_file(tensors, path, metadata=header)


def cut(path: Path, length: int) -> None:
    nn.save(path, nn.MLP([4, 3]))
    path.write_bytes(path.read_bytes()[:length])


def scratched(path: Path) -> None:
    nn.save(path, nn.MLP([4, 3]))
    content = bytearray(path.read_bytes())
    content[10:20] = b"\xff" * 10
    path.write_bytes(content)


W = np.ones((3, 4), np.float32)
IMAGE = np.ones((2, 1, 3, 3), np.float32)
NAN = np.full((3, 4), np.nan, np.float32)
DAMAGED = "model.safetensors is no safetensors file, or damaged"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), DAMAGED),
        (lambda path: path.write_text("hello, I am text, not tensors"), DAMAGED),
        (lambda path: cut(path, 60), DAMAGED),
        (lambda path: cut(path, -1), DAMAGED),
        (scratched, DAMAGED),
        (lambda path: put(path, {"conv.weight": W}), "tensor 'conv.weight' is no parameter of"),
        (lambda path: put(path, {"x0.weight": W}), "tensor 'x0.weight' is no parameter of"),
        (lambda path: put(path, {"0.running_mean": W}), "tensor '0.running_mean' is no parameter"),
        (lambda path: put(path, {"a.0.weight": W, "b.0.weight": W}), "several networks: a., b."),
        (lambda path: put(path, {"0.bias": W[0]}), "layer 0 has a bias, but no weight"),
        (lambda path: put(path, {"0.weight": W[0]}), "layer 0 weight has 1 dimensions"),
        (lambda path: put(path, {"0.weight": NAN}), r"layer 0 weight\[0, 0\] is nan"),
        (lambda path: put(path, {"0.weight": W.astype(int)}), "layer 0 weight has dtype int64"),
        (
            lambda path: put(path, {"0.weight": W}, ["relu"]),
            r"lists layers with parameters \[\], but there",
        ),
        (lambda path: put(path, {"0.weight": W}, ["linear", "swish"]), "layer 1 is 'swish'"),
        (lambda path: put(path, {"0.weight": W}, {"0": 1}), "in the header is no list of names"),
        (
            lambda path: put(path, {"0.weight": W, "1.weight": W}, ["linear", "linear"]),
            "model.safetensors: layer 1 .* takes 4 columns, but layer 0 .* makes 3",
        ),
        (lambda path: put(path, {}), "activations|Linear"),
        (
            lambda path: put(path, {"0.weight": IMAGE}, [{"layer": "conv2d", "stride": "two"}]),
            "layer 0",
        ),
        (
            lambda path: put(path, {"0.weight": IMAGE}, [{"layer": "conv2d", "groups": 2}]),
            r"layer 0 \(conv2d\) is described wrongly in the header",
        ),
        (lambda path: put(path, {"0.weight": W}, [{"layer": "conv2d"}]), "0 weight has 2 dimens"),
        (lambda path: put(path, {"0.weight": IMAGE}, ["linear"]), "layer 0 weight has 4 dimens"),
        (lambda path: put(path, {"1.weight": W}, [{}, "linear"]), "layer 0 is 'None'; an activat"),
        (
            lambda path: put(path, {"1.weight": W}, [{"layer": "maxpool2d"}, "linear"]),
            r"layer 0 \(maxpool2d\) is described wrongly in the header: 'kernel'",
        ),
    ],
)
def test_what_is_no_network_is_refused_by_name(
    path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(path)
    with pytest.raises(InvalidInput, match=message) as found:
        nn.load(path)
    assert str(path) in found.value.message


def test_activations_are_said_once(path: Path) -> None:
    nn.save(path, nn.MLP([4, 3]))
    with pytest.raises(InvalidInput, match="activations are in the file already"):
        nn.load(path, activations="relu")


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(NotFound, match=r"model.safetensors: there is no such file"):
        nn.load(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere/m.safetensors cannot be written"):
        nn.save(tmp_path / "nowhere" / "m.safetensors", nn.MLP([4, 3]))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="folder cannot be written"):
        nn.save(tmp_path / "folder", nn.MLP([4, 3]))
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_without_the_package_it_is_said_how_to_get_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"")
    for name in [name for name in sys.modules if name.startswith("safetensors")]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: nn.save(path, nn.MLP([4, 3])), lambda: nn.load(path)):
        with pytest.raises(Unavailable, match=r"pip install 'deadheat\[networks\]'"):
            call()
