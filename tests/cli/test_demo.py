"""The demo's parts: whether the busy process was noticed, on machines of all kinds."""

from __future__ import annotations

from typing import Any

import pytest

from deadheat.cli import demo
from deadheat.cli.demo import Cores
from deadheat.runtime.errors import TimedOut


class Pool:
    """A client whose agents see these foreign loads."""

    def __init__(self, **loads: float | None) -> None:
        self.loads = loads

    def nodes(self) -> list[dict[str, Any]]:
        return [{"name": name, "devices": [{"foreign": load}]} for name, load in self.loads.items()]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NOTICE_TIMEOUT_S", 0.3)


@pytest.mark.parametrize(
    ("cores", "free", "shared", "note"),
    [
        (Cores(0, 1), 0.05, 0.98, ""),
        (Cores(0, 0), 0.98, 0.98, ""),  # A machine with one core.
        (Cores(0, 1), 0.9, 0.98, "others are busy here too: 90% of core 0 and 98% of core 1"),
        (Cores(0, 1), 0.0, 0.5, "others are busy here too: 0% of core 0 and 50% of core 1"),
    ],
)
def test_the_busy_process_is_waited_for_but_not_for_ever(
    cores: Cores, free: float, shared: float, note: str
) -> None:
    client: Any = Pool(free=free, shared=shared)
    assert demo.wait_until_noticed(client, cores).startswith(note)
    assert bool(demo.wait_until_noticed(client, cores)) == bool(note)


def test_agents_that_say_nothing_end_the_demo() -> None:
    client: Any = Pool(free=0.0, shared=None)
    with pytest.raises(TimedOut, match="have not said in time"):
        demo.wait_until_noticed(client, Cores(0, 1))
