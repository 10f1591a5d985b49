"""ONNX files as networks: what onnx's own reference makes of them, or refused by node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadheat.client import Client, InvalidInput, NotFound, Offline, Unavailable, nn

onnx: Any = pytest.importorskip("onnx")
reference: Any = pytest.importorskip("onnx.reference")
helper: Any = pytest.importorskip("onnx.helper")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(23)
HERE = Offline()


def drawn(*shape: int, dtype: str = "float64") -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def model(
    nodes: list[Any],
    constants: dict[str, Array],
    taken: list[Any],
    *,
    output: str = "y",
    dtype: str = "float64",
) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, taken)],
        [helper.make_tensor_value_info(output, kind, ["some", "more"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}", **attributes)


def saved(path: Path, made: Any) -> Path:
    onnx.save(made, path / "m.onnx")
    return path / "m.onnx"


def check(
    path: Path, made: Any, x: Array, kind: type, limit: float = 1e-10
) -> nn.Sequential | nn.Graph:
    """Reads it, and compares what it makes with what the reference does."""
    network = nn.from_onnx(saved(path, made))
    assert type(network) is kind, network
    (expected,) = reference.ReferenceEvaluator(made).run(None, {"x": x})
    found = HERE.forward(network, x, where="local")
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.allclose(found, expected, rtol=limit, atol=limit)
    return network


def convolutional(flatten: Any) -> tuple[list[Any], dict[str, Array]]:
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", "c1", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p1 w2", "c2", strides=[2, 1]),
        node("Tanh", "c2", "r2"),
        node("AveragePool", "r2", "p2", kernel_shape=[1, 2]),
        flatten,
        node("Gemm", "f w3 b3", "g", transB=1),
        node("Softmax", "g", "y"),
    ]
    constants = {
        "w1": drawn(4, 2, 3, 3), "b1": drawn(4), "w2": drawn(3, 4, 2, 2),
        "w3": drawn(5, 3 * 2 * 2), "b3": drawn(5), "flat": np.array([-1, 12]),
    }  # fmt: skip
    return nodes, constants


@pytest.mark.parametrize(
    "flatten",
    [node("Flatten", "p2", "f"), node("Reshape", "p2 flat", "f")],
    ids=["flat", "reshape"],
)
def test_a_chain_of_layers_is_a_sequential(tmp_path: Path, flatten: Any) -> None:
    nodes, constants = convolutional(flatten)
    x = drawn(6, 2, 8, 8)
    network = check(tmp_path, model(nodes, constants, ["n", 2, 8, 8]), x, nn.Sequential)
    assert [repr(layer) for layer in network.layers] == [  # type: ignore[union-attr]
        "Conv2d 2 to 4, 3 x 3, padding 1 x 1", "relu", "MaxPool2d 2 x 2",
        "Conv2d 4 to 3, 2 x 2, stride 2 x 1", "tanh", "AvgPool2d 1 x 2, stride 1 x 1", "Flatten",
        "Linear 12 x 5", "softmax",
    ]  # fmt: skip


def test_products_and_biases_are_layers(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "w", "wt", perm=[1, 0]),
        node("MatMul", "x wt", "h"),
        node("Add", "b h", "hb"),
        node("Sigmoid", "hb", "s"),
        node("Identity", "s", "i"),
        node("Gelu", "i", "e", approximate="tanh"),
        node("Gelu", "e", "y"),
    ]
    constants = {"w": drawn(5, 7), "b": drawn(1, 5)}
    made = model(nodes, constants, [None, 7])
    # The reference's error function is good for eight digits.
    network = check(tmp_path, made, drawn(4, 7), nn.Sequential, limit=1e-7)
    assert repr(network) == "<Sequential Linear 7 x 5, sigmoid, gelu_tanh, gelu, float64>"
    assert network.parameters[1].shape == (5,)  # type: ignore[union-attr]


def test_a_graph_with_branches_is_an_expression(tmp_path: Path, client: Client) -> None:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Conv", "r w2", "d", pads=[1, 1, 1, 1]),
        node("Add", "d r", "sum"),
        node("Add", "sum each", "more"),
        node("Reshape", "more flat", "f"),
        node("Gemm", "f v", "h", alpha=0.5, beta=2.0),
        node("Gemm", "h h", "square", transA=1),
        node("MatMul", "h square", "k"),
        node("Transpose", "k", "t", perm=[1, 0]),
        node("Transpose", "t", "u"),
        node("Gemm", "u u2 c3", "y", beta=2.0),
    ]
    constants = {
        "w": drawn(3, 2, 3, 3), "b": drawn(3), "w2": drawn(3, 3, 3, 3), "each": drawn(1, 3, 1, 1),
        "flat": np.array([0, -1]), "v": drawn(3 * 5 * 4, 6), "u2": drawn(6, 2), "c3": drawn(2),
    }  # fmt: skip
    made = model(nodes, constants, ["n", 2, 5, 4])
    x = drawn(7, 2, 5, 4)
    network = check(tmp_path, made, x, nn.Graph)
    there = client.forward(network, x)
    assert np.allclose(there, HERE.forward(network, x, where="local"), rtol=1e-9, atol=1e-9)
    job = client.submit_forward(network, x)
    assert np.allclose(job.result(timeout=60), there, rtol=1e-9, atol=1e-9)
    rows = client.put(x.reshape(7, -1))
    assert np.allclose(client.apply(network, rows).compute(), there, rtol=1e-9, atol=1e-9)
    with pytest.raises(InvalidInput, match=r"it is no Sequential"):
        HERE.train(network, x, np.zeros(7, int), epochs=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"network is a Graph; an nn.Sequential is saved"):
        nn.save(tmp_path / "m.safetensors", network)  # type: ignore[arg-type]


def test_images_may_be_what_comes_out(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", "x image", "i"), node("Conv", "i w", "c"), node("Add", "c c", "y")
    ]  # fmt: skip
    constants = {"image": np.array([-1, 1, 4, 5]), "w": drawn(2, 1, 3, 3)}
    check(tmp_path, model(nodes, constants, ["n", 20]), drawn(3, 20), nn.Graph)
    plain = model([node("Conv", "x w", "y")], {"w": drawn(2, 1, 3, 3)}, ["n", 1, "h", "w"])
    check(tmp_path, plain, drawn(3, 1, 4, 5), nn.Sequential)


def test_shorter_floats_and_constants_in_nodes(tmp_path: Path) -> None:
    w = onnx.numpy_helper.from_array(drawn(4, 3, dtype="float32"), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=w), node("MatMul", "x w", "y")]
    made = model(nodes, {}, [1, 4], dtype="float32")
    network = check(tmp_path, made, drawn(1, 4, dtype="float32"), nn.Sequential, limit=1e-5)
    assert network.dtype == np.float32


IMAGE = ["n", 1, 4, 4]
W = {"w": drawn(2, 1, 3, 3), "m": drawn(4, 4)}
POOL: dict[str, Any] = {"kernel_shape": [2, 2]}


def refused(kind: str, inputs: str = "x", **attributes: Any) -> Any:
    return model([node(kind, inputs, "y", **attributes)], W, IMAGE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: refused("Sin"),
            r"node .the_Sin. \(Sin\) is not known; it may be MatM",
        ),
        (
            lambda: refused("BatchNormalization", "x m m m m"),
            "node .the_BatchNorm.* is not known",
        ),
        (
            lambda: refused("Conv", "x w", group=2),
            r"node .the_Conv. .* has group 2; it may be 1",
        ),
        (lambda: refused("Conv", "x w", dilations=[2, 2]), r"has dilations \[2, 2\]"),
        (lambda: refused("Conv", "x w", pads=[0, 0, 1, 1]), "they must be alike on opposite sides"),
        (lambda: refused("Conv", "x w", auto_pad="SAME_UPPER"), "has auto_pad 'SAME_UPPER'"),
        (lambda: refused("MaxPool", ceil_mode=1, **POOL), "has ceil_mode 1; it may be 0"),
        (lambda: refused("AveragePool", pads=[1, 1, 1, 1], **POOL), "pads that do not count"),
        (lambda: refused("Reshape", "x m", allowzero=1), "has allowzero 1; it may be 0"),
        (lambda: model([node("Relu", "x", "y")], W, [2, 3, 4]), "input 'x' has 3 dimensions"),
        (lambda: model([node("Relu", "x", "y")], {}, IMAGE), "its constants are of none"),
        (
            lambda: model([node("Relu", "x", "y")], {**W, "f": drawn(2, dtype="float32")}, IMAGE),
            "its constants are of float32, float64; a network has one dtype",
        ),
        (
            lambda: model([node("Relu", "x", "y")], {"w": np.array([1, np.nan])}, IMAGE),
            r"initializer 'w'\[1\] is nan",
        ),
        (
            lambda: model([node("Relu", "x", "y")], {"w": np.array([1j])}, IMAGE),
            "initializer 'w' has dtype complex128",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_node(
    tmp_path: Path, make: Callable[[], Any], message: str
) -> None:
    path = saved(tmp_path, make())
    with pytest.raises(InvalidInput, match=message) as found:
        nn.from_onnx(path)
    assert found.value.message.startswith(str(path))


@pytest.mark.parametrize(
    ("nodes", "x", "message"),
    [
        ([node("Conv", "x w", "y")], drawn(2, 1, 5, 5), "X is 2 x 1 x 5 x 5, but .* n x 1 x 4 x 4"),
        (
            [node("MatMul", "x m", "y")],
            drawn(2, 1, 4, 4),
            r"node .the_MatMul. .* images, 2 x 1",
        ),
        ([node("Softmax", "x", "y")], drawn(2, 1, 4, 4), r"node .the_Softmax. .* but gets images"),
        ([node("Transpose", "x", "y")], drawn(2, 1, 4, 4), "cannot be transposed by None"),
        ([node("Add", "x m3", "y")], drawn(2, 1, 4, 4), "a constant of 3 is added to 2 x 1 x 4"),
        ([node("Reshape", "x s", "y")], drawn(2, 1, 4, 4), "cannot become 4 x 8"),
        ([node("Conv", "x w9", "y")], drawn(2, 1, 4, 4), "weights of 2 x 3 x 3 x 3 do not fit"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_node(
    tmp_path: Path, nodes: list[Any], x: Array, message: str
) -> None:
    constants = {**W, "m3": drawn(3), "s": np.array([4, 8]), "w9": drawn(2, 3, 3, 3)}
    # Added to itself at the end, so that it is no chain.
    made = model([*nodes, node("Add", "y y", "z")], constants, IMAGE, output="z")
    network = nn.from_onnx(saved(tmp_path, made))
    with pytest.raises(InvalidInput, match=message):
        HERE.forward(network, x, where="local")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(NotFound, match=r"m.onnx: there is no such file"):
        nn.from_onnx(path)
    for content in (b"hello", b"", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"m.onnx: it is no ONNX file, or damaged"):
            nn.from_onnx(path)
    whole = saved(tmp_path, model(*convolutional(node("Flatten", "p2", "f")), IMAGE)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"m.onnx: it is no ONNX file, or damaged"):
        nn.from_onnx(path)
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=r"pip install 'deadheat\[onnx\]'"):
        nn.from_onnx(path)
