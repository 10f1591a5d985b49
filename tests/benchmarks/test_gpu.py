"""Without a card the benchmark of cards says so, and is no failure."""

from __future__ import annotations

import importlib.util

import pytest
from benchmarks import gpu


def test_it_is_left_out_without_cupy(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy is installed here")
    assert gpu.main() == 0
    assert "left out: CuPy is not installed" in capsys.readouterr().out


def test_the_bound_is_the_longer_of_computing_and_copying() -> None:
    bare = {"product_s": 0.5, "in_rate": 2e9, "both_rate": 1e9}
    assert gpu._bound_s(bare, 1000, "float32") == 0.5
    assert gpu._bound_s(bare, 20_000, "float32") == pytest.approx(1.6 + 0.8)
