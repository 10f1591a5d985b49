"""Reloading: what may change changes, what may not is named, a broken file changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.reloading import Reloader, reloaded
from deadheat.runtime.settings import SchedulerSettings, Sources

LIVE = frozenset({"level", "politeness"})


@dataclass(frozen=True)
class Settings:
    level: str = "info"
    politeness: str = "normal"
    name: str = "n1"


def refuse() -> Settings:
    raise InvalidInput("level: 'loud' may be info")


def test_nothing_new_changes_nothing() -> None:
    found = reloaded(Settings(), Settings, LIVE)
    assert (found.settings, found.changed, found.pending, found.note) == (Settings(), (), (), "")


def test_live_keys_are_taken_over_and_others_wait() -> None:
    found = reloaded(Settings(), lambda: Settings("debug", "idle", "n2"), LIVE)
    assert found.settings == Settings("debug", "idle", "n1")
    assert found.changed == ("level", "politeness")
    assert found.note == "a restart is needed for name"


def test_a_refused_file_keeps_all_and_says_why() -> None:
    found = reloaded(Settings("debug"), refuse, LIVE)
    assert found.settings == Settings("debug")
    assert "'loud' may be info" in found.note


def test_what_could_not_be_applied_waits_too_and_is_tried_again() -> None:
    applied: list[Settings] = []
    notes: list[str] = []

    def apply(settings: Settings) -> Collection[str]:
        applied.append(settings)
        return ("politeness",)

    wanted = Settings("debug", "idle")
    reloader = Reloader(Settings(), lambda: wanted, LIVE, apply, notes.append)
    reloader.reload()
    assert reloader.settings == replace(wanted, politeness="normal")
    reloader.reload()
    assert applied == [wanted, wanted]
    assert notes == ["a restart is needed for politeness"] * 2


def test_the_same_sources_are_read_again(tmp_path: Path) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text('[scheduler]\nlog_level = "debug"\n')
    sources = Sources("scheduler", {"listen": "127.0.0.1:9"}, environment={}, config=config)
    assert SchedulerSettings.load(sources).log_level == "debug"
    config.write_text('[scheduler]\nlog_level = "error"\n')
    again = SchedulerSettings.load(sources.again())
    assert (again.log_level, again.listen) == ("error", "127.0.0.1:9")
    config.write_text("[scheduler\n")
    with pytest.raises(InvalidInput, match="Expected"):
        sources.again()
