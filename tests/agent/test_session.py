"""The agent's session: it comes back when it breaks, but not like a hammer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deadheat.agent.blocks import Blocks
from deadheat.agent.cache import BlockCache
from deadheat.agent.session import MAX_RETRY_S, Session, retry_pause_s
from deadheat.runtime.settings import AgentSettings, Sources
from deadheat.v1 import agent_pb2 as pb


def test_pauses_grow_to_a_limit_and_are_left_to_chance() -> None:
    assert all(retry_pause_s(0) <= 0.2 for _ in range(100))
    late = [retry_pause_s(1000) for _ in range(100)]
    assert max(late) <= MAX_RETRY_S
    assert max(late) - min(late) > 1.0


def test_sessions_that_break_at_once_are_not_opened_without_a_pause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[float] = []
    pauses: list[int] = []

    async def run() -> None:
        async def open_session(self: Session, channel: object) -> Any:
            opened.append(asyncio.get_running_loop().time())
            return None

        async def broken(self: Session, call: object) -> None:
            if len(opened) == 8:
                self._stopping = True

        monkeypatch.setattr(Session, "_open", open_session)
        monkeypatch.setattr(Session, "_converse", broken)
        sources = Sources("agent", {"cache_dir": str(tmp_path)}, environment={})
        blocks = Blocks(BlockCache(1 << 20))
        await Session(AgentSettings.load(sources), pb.Register(), blocks, lambda _: None).run()

    def pause(breaks: int) -> float:
        pauses.append(breaks)
        return 0.0

    monkeypatch.setattr("deadheat.agent.session.retry_pause_s", pause)
    asyncio.run(run())
    assert pauses == list(range(1, 8))
