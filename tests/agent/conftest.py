"""Fixtures of the agent's tests: a stub of NVML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent import nvml

#: Imported as CuPy is, not looked through for doctests.
collect_ignore = ["cupy_stub"]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(
    nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[nvml.Stub]:
    with nvml.installed(nvml_library, tmp_path, monkeypatch) as found:
        yield found
