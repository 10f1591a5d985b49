"""Networks: `nn.MLP([784, 256, 10])`, computed by `Client.forward`.

>>> from deadheat.client import nn
>>> nn.MLP([4, 3, 2], "tanh", seed=1)
<MLP Linear 4 x 3, tanh, Linear 3 x 2, float32>
"""

from deadheat.client.nn.files import from_safetensors, load, save
from deadheat.client.nn.frameworks import from_torch
from deadheat.client.nn.graphs import Graph
from deadheat.client.nn.images import AvgPool2d, Conv2d, MaxPool2d, Unflatten
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.onnx_files import from_onnx
from deadheat.client.nn.sequential import MLP, Sequential

__all__ = [
    "MLP",
    "Activation",
    "AvgPool2d",
    "Conv2d",
    "Flatten",
    "Graph",
    "Linear",
    "MaxPool2d",
    "Sequential",
    "Unflatten",
    "from_onnx",
    "from_safetensors",
    "from_torch",
    "load",
    "save",
]
