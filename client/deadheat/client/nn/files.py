"""Networks as safetensors files: parameters, and in the header which layers they belong to.

Rules of this file: the format cannot carry code, and a file that it refuses is refused by name.
Parameters are called and laid out as in the state of a `torch.nn.Sequential` ("0.weight" is
outputs x inputs), so that files go either way. A file is complete or not there at all.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.layers import Weighted
from deadheat.client.nn.sequential import MLP, Sequential
from deadheat.client.nn.words import Stored, Word, alike, linear, listed, stored_of, word
from deadheat.runtime.errors import InvalidInput, NotFound, Unavailable

#: The key of the header under which the layers are listed, in JSON.
LAYERS: Final = "deadheat.layers"
_PARAMETER: Final = re.compile(r"(?P<prefix>.*?)(?P<number>\d{1,6})\.(?P<what>weight|bias)")


def check_installed() -> None:
    """Raises Unavailable where the package safetensors is missing."""
    _extra("safetensors.numpy")


def save(path: str | Path, network: Sequential) -> None:
    """Writes a network to a safetensors file, which replaces what was there when it is complete.

    Raises InvalidInput naming the file where it cannot be written, and Unavailable where the
    package safetensors is missing.
    """
    if not isinstance(network, Sequential):
        kind = type(network).__name__
        raise InvalidInput(f"network is a {kind}; an nn.Sequential is saved", field="network")
    writing = _extra("safetensors.numpy")
    arrays: dict[str, Array] = {}
    for number, layer in enumerate(network):
        if isinstance(layer, Weighted):
            for what, stored in stored_of(layer).items():
                arrays[f"{number}.{what}"] = np.ascontiguousarray(stored)
    header = {LAYERS: json.dumps([word(layer) for layer in network])}
    target = Path(os.path.realpath(Path(path).expanduser()))
    part = ""
    try:
        descriptor, part = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=".part", dir=target.parent
        )
        os.close(descriptor)
        writing.save_file(arrays, part, metadata=header)
        with open(part, "rb") as file:
            os.fsync(
                file.fileno()
            )  # Else the name could be there after a power loss, and no bytes.
        umask = os.umask(0)
        os.umask(umask)
        Path(part).chmod(0o666 & ~umask)
        Path(part).replace(target)
    except (OSError, _safetensor_error()) as error:
        raise InvalidInput(f"{path} cannot be written: {error}", field="path") from None
    finally:
        if part:
            Path(part).unlink(missing_ok=True)


def load(
    path: str | Path,
    *,
    activations: str | Sequence[str] | None = None,
    like: Sequential | None = None,
) -> Sequential:
    """A network from a safetensors file, which `save` has written, or which has the parameters of a
    `torch.nn.Sequential`.

    Args:
        path: The file.
        activations: As `MLP` takes them, for a file of Linear layers that does not say what is
            between them; refused where it does.
        like: A network of the same layers, for a file with other layers that does not say what they
            are: they get the parameters that stand in the file under their numbers. It stays as
            it is.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is damaged or cut short, has tensors that are no parameters of Linear and
            Conv2d layers, layers that do not chain, or NaN and infinity; the message names file
            and tensor.
        Unavailable: The package safetensors is missing.

    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFound(f"{file}: there is no such file")
    tensors, header = _read(file)
    try:
        stored = _stored(tensors)
        if like is not None:
            return _like(like, activations, stored)
        if LAYERS not in header:
            pairs = linear(stored)
            if activations is None:
                raise InvalidInput(
                    "the file does not say its activations; give activations=", field="activations"
                )
            return MLP(pairs, activations)
        if activations is not None:
            raise InvalidInput("activations are in the file already", field="activations")
        return listed(_words(header[LAYERS]), stored)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error.message}", field=error.field) from None


#: By the name that the other imports have.
from_safetensors = load


def _like(
    like: object, activations: str | Sequence[str] | None, stored: Mapping[int, Stored]
) -> Sequential:
    if activations is not None:
        raise InvalidInput("activations are in like already", field="activations")
    if not isinstance(like, Sequential):
        raise InvalidInput(f"like is a {type(like).__name__}; it must be a network", field="like")
    return alike(like, stored)


def _read(file: Path) -> tuple[Mapping[str, Array], Mapping[str, str]]:
    safetensors = _extra("safetensors")
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, _safetensor_error()) as error:
        raise InvalidInput(f"{file} is no safetensors file, or damaged: {error}") from None


def _words(text: str) -> list[Word]:
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(one, str | dict) for one in words):
        raise InvalidInput(f"{LAYERS} in the header is no list of names")
    return words


def _safetensor_error() -> type[Exception]:
    error: type[Exception] = _extra("safetensors").SafetensorError
    return error


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise Unavailable(
            "the package safetensors is missing: pip install 'deadheat[networks]'"
        ) from None


def _stored(tensors: Mapping[str, Array]) -> Mapping[int, Stored]:
    """Parameters of layers by their numbers, ascending."""
    found: dict[int, dict[str, Array]] = {}
    prefixes: set[str] = set()
    for name, tensor in tensors.items():
        match = _PARAMETER.fullmatch(name)
        if match is None or (match["prefix"] and not match["prefix"].endswith(".")):
            raise InvalidInput(
                f"tensor {name!r} is no parameter of a Linear or Conv2d layer; those are called "
                "0.weight, 0.bias, 1.weight and so on"
            )
        prefixes.add(match["prefix"])
        if len(prefixes) > 1:
            raise InvalidInput(f"there are several networks: {', '.join(sorted(prefixes))}")
        found.setdefault(int(match["number"]), {})[match["what"]] = tensor
    for number in sorted(found):
        if "weight" not in found[number]:
            raise InvalidInput(f"layer {number} has a bias, but no weight")
    return {number: found[number] for number in sorted(found)}
