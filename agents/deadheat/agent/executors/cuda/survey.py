"""What there is of CuPy on this machine, for people: `python -m ...cuda.survey` prints it as JSON.

A process of its own, since importing CuPy takes seconds and a driver may hang: who asks can stop
waiting. It looks at one card, the first that CUDA_VISIBLE_DEVICES names, and has it multiply, as an
executor does when it starts.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

import pynvml

from deadheat.agent.executors.cuda.card import Card
from deadheat.agent.probes.nvml_calls import text
from deadheat.runtime.errors import DeadheatError

#: CuPy's distributions for NVIDIA's cards: each for one CUDA, or built here. All have one package.
_DISTRIBUTION: Final = re.compile(r"cupy(-cuda\d+x?)?", re.IGNORECASE)


def look() -> Mapping[str, Any]:
    """`driver` and `driver_cuda` (12040 for 12.4) by NVML, `distributions` by pip's records (name
    to version); of CuPy itself `version` and `runtime_cuda`, and `library` once a card has
    multiplied; else `problem`. What nobody knows is null."""
    found: dict[str, Any] = {
        **_driver(),
        "distributions": _distributions(),
        "version": None,
        "runtime_cuda": None,
        "library": None,
        "problem": None,
    }
    if not found["distributions"]:
        return found
    try:
        cupy = importlib.import_module("cupy")
        found["version"] = str(cupy.__version__)
        found["runtime_cuda"] = int(cupy.cuda.runtime.runtimeGetVersion())
        found["library"] = Card.open().library
    except DeadheatError as error:
        found["problem"] = error.message
    except Exception as error:  # noqa: BLE001 - whatever keeps it from computing is what was asked.
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


def _distributions() -> dict[str, str]:
    names = ((one.metadata["Name"] or "", one.version) for one in metadata.distributions())
    return {name.lower(): version for name, version in names if _DISTRIBUTION.fullmatch(name)}


def _driver() -> dict[str, Any]:
    found: dict[str, Any] = {"driver": None, "driver_cuda": None}
    try:
        pynvml.nvmlInit()
        found["driver"] = text(pynvml.nvmlSystemGetDriverVersion())
        found["driver_cuda"] = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError:
        pass  # Without a driver that answers its version is unknown; NVML's own finding says why.
    return found


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
