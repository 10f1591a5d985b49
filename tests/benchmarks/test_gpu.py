"""Without a card the benchmark of cards says so, and is no failure."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from benchmarks import gpu
from tests.agent import cards, nvml


def test_it_is_left_out_without_cupy(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy is installed here")
    assert gpu.main() == 0
    assert "left out: CuPy is not installed" in capsys.readouterr().out


def test_the_bound_is_the_longer_of_computing_and_copying() -> None:
    bare: dict[str, Any] = {"product_s": 0.5, "in_rate": 2e9, "both_rate": 1e9}
    assert gpu._bound_s(bare, 1000, "float32") == 0.5
    assert gpu._bound_s(bare, 20_000, "float32") == pytest.approx(1.6 + 0.8)


def test_all_of_it_runs_on_a_card_that_is_a_stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small, and not for its figures."""
    library = nvml.build(tmp_path)
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{library.parent}:{before}".rstrip(":"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state = nvml.Stub(tmp_path / "nvml.state")
    monkeypatch.setenv(nvml.STATE_VARIABLE, str(state.state))
    state.say(nvml.H100.replace("util=37", "util=0"))
    for name, value in cards.environment(tmp_path / "cards.json").items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(cards.STUB)
    monkeypatch.setattr(gpu, "NOTICED_S", 0.0)
    figures = list(gpu.run(size=512, repeats=1))
    names = [figure.name for figure in figures]
    assert names.count("of the bound, by the makespan") == 3
    assert names.count("of the bound, by the card") == 3
    assert "finish spread" in names
    assert "share of the card, shared" in names
    assert all(figure.value >= 0.0 for figure in figures)
