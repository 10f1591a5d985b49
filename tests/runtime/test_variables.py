"""Variables that nobody reads are told, and those that somebody reads are known."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deadheat.client import LocalCluster
from deadheat.runtime.settings import AgentSettings, ClientSettings, SchedulerSettings, Sources
from deadheat.runtime.variables import KNOWN, unread

ROOT = Path(__file__).parents[2]
OTHERS = {"DEADHEAT_COMMAND", "DEADHEAT_DEBUG", "DEADHEAT_LOG"}


def test_those_of_all_settings_are_known_and_no_others() -> None:
    loads: dict[str, Callable[[Sources], object]] = {
        "scheduler": SchedulerSettings.load,
        "agent": AgentSettings.load,
        "client": ClientSettings.load,
    }
    asked = set()
    for table, load in loads.items():
        sources = Sources(table, {}, environment={})
        load(sources)
        asked |= {f"DEADHEAT_{key.upper()}" for key in sources._known}
    assert asked == KNOWN - OTHERS


@pytest.mark.parametrize("folder", ["deploy", "docs", "cli", "client"])
def test_whatever_we_tell_people_to_set_is_known(folder: str) -> None:
    texts = [
        p.read_text() for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"
    ]
    named = {name for text in texts for name in re.findall(r"DEADHEAT_[A-Z_]*[A-Z]\b", text)}
    assert named
    assert named <= KNOWN


def test_the_nearest_one_is_named_if_there_is_one() -> None:
    assert unread(dict.fromkeys(KNOWN, "1")) == []
    assert unread({"DEADHEAT_SCHEDULR": "h:1", "DEADHEAT_tls_cert": "x", "DEADHEAD": ""}) == [
        "nobody reads the environment variable DEADHEAT_SCHEDULR; did you mean DEADHEAT_SCHEDULER?",
        "nobody reads the environment variable DEADHEAT_tls_cert; did you mean DEADHEAT_TLS_CERT?",
    ]
    odd = {"DEADHEAT_QQQQQQQQQQQQQQQQQQ\n": ""}
    assert unread(odd) == [r"nobody reads the environment variable 'DEADHEAT_QQQQQQQQQQQQQQQQQQ\n'"]


def test_what_kubernetes_says_of_services_is_nobodys_mistake() -> None:
    names = ["SCHEDULER_SERVICE_HOST", "SCHEDULER_PORT", "SCHEDULER_PORT_7433_TCP_ADDR", "PORT"]
    said = {f"DEADHEAT_{name}": "" for name in (*names, "SERVICE_PORT_GRPC")}
    assert unread({**said, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == []
    assert len(unread(said)) == len(said)


def test_daemons_say_it_in_their_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEADHEAT_MEMROY", "1G")
    with LocalCluster() as cluster:
        for name in ("scheduler.log", "agent-local-0.log"):
            text = (cluster.logs / name).read_text()
            assert "WARNING nobody reads the environment variable DEADHEAT_MEMROY" in text
            assert "did you mean DEADHEAT_MEMORY? action=environment" in text
