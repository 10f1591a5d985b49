"""What an agent says of its own health: what a restart would mend, and not what it would not."""

from __future__ import annotations

import pytest

from deadheat.agent import daemon as daemon_module
from deadheat.agent import session as session_module
from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.session import Session
from deadheat.runtime.settings import AgentSettings, Sources
from deadheat.v1 import agent_pb2 as pb


def session() -> Session:
    settings = AgentSettings.load(Sources("agent", {"name": "n1"}, environment={}))
    return Session(settings, pb.Register(node="n1"), Blocks(BlockCache(0)), lambda _: None)


def test_an_agent_that_tries_to_register_is_well_and_one_that_has_stopped_trying_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = session()
    assert found.stuck == ""
    monkeypatch.setattr(session_module, "STUCK_S", 0.0)
    assert found.stuck.startswith("no try to register for")
    # One that talks may be silent for as long as there is nothing to say.
    found._is_open = True
    assert found.stuck == ""


def test_the_longest_try_is_shorter_than_what_counts_as_stuck() -> None:
    longest_s = 2 * session_module.REGISTER_TIMEOUT_S + session_module.MAX_RETRY_S
    assert longest_s < session_module.STUCK_S


class Silent:
    """Probes that hang."""

    silence_s = 2 * daemon_module.STUCK_PROBE_S


def test_an_agent_whose_probes_hang_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(daemon_module.Daemon):
        def __init__(self) -> None:
            self.session = session()
            self.sampler = None

    found = Bare()
    assert found._problem() == ""
    found.sampler = Silent()  # type: ignore[assignment]
    assert found._problem() == "the probes have been silent for 40 s"
