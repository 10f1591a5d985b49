"""The stub of CuPy as tests use it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

STUB = Path(__file__).with_name("cupy_stub")
STATE_VARIABLE = "CUPY_STUB_STATE"


def fresh() -> Any:
    """A stub of its own, with an empty card, that nobody else can import."""
    folder = STUB / "cupy"
    spec = importlib.util.spec_from_file_location(
        "cupy", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    before = _forgotten()
    module = sys.modules["cupy"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        _forgotten()
        sys.modules.update(before)
    return module


def _forgotten() -> dict[str, ModuleType]:
    """What was imported as CuPy, which is not any more."""
    names = [name for name in sys.modules if name.partition(".")[0] == "cupy"]
    return {name: sys.modules.pop(name) for name in names}


def environment(state: Path) -> dict[str, str]:
    """For processes that are to import the stub, and to do what `state` says."""
    before = os.environ.get("PYTHONPATH", "")
    path = f"{STUB}{os.pathsep}{before}".rstrip(os.pathsep)
    return {"PYTHONPATH": path, STATE_VARIABLE: str(state)}


def say(state: Path, **of_cards: dict[str, Any]) -> None:
    """What cards do from now on, by UUID (with "_" for "-"), or for `any_`."""
    said = {("*" if k == "any_" else k.replace("_", "-")): v for k, v in of_cards.items()}
    new = state.with_suffix(".new")
    new.write_text(json.dumps(said))
    new.replace(state)
