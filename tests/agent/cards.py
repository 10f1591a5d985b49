"""The stub of CuPy as tests use it."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

STUB = Path(__file__).with_name("cupy_stub")
STATE_VARIABLE = "CUPY_STUB_STATE"


def fresh() -> Any:
    """A stub of its own, with an empty card."""
    spec = importlib.util.spec_from_file_location("cupy", STUB / "cupy" / "__init__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
