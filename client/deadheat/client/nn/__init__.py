"""Networks: `nn.MLP([784, 256, 10])`, computed by `Client.forward`.

>>> from deadheat.client import nn
>>> nn.MLP([4, 3, 2], "tanh", seed=1)
<MLP Linear 4 x 3, tanh, Linear 3 x 2, float32>
"""

from deadheat.client.nn.files import load, save
from deadheat.client.nn.frameworks import from_torch
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.sequential import MLP, Sequential

__all__ = [
    "MLP",
    "Activation",
    "Flatten",
    "Linear",
    "Sequential",
    "from_torch",
    "load",
    "save",
]
