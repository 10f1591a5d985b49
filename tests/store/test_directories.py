"""Where a store keeps what is in memory, and what it finds there of one that was killed."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from tests.store.running import RunningStore, run, running_store, start_child, values

from deadheat.runtime.errors import ClusterError


def test_arenas_of_a_dead_store_without_a_state_directory_are_swept(tmp_path: Path) -> None:
    async def killed() -> None:
        async with running_store(tmp_path) as store:
            await store.fill(values())
            store.child.process.kill()
            store.child.process.wait()

    asyncio.run(killed())
    assert any((tmp_path / "shm").rglob("arena-*"))
    shutil.rmtree(tmp_path / "state")
    # Not below the test's own directory: the path of a Unix socket is short.
    with tempfile.TemporaryDirectory() as name:
        elsewhere = Path(name)
        shutil.move(tmp_path / "shm", elsewhere / "shm")

        async def test(store: RunningStore) -> None:
            assert len(list((elsewhere / "shm").iterdir())) == 1

        run(elsewhere, test)


def test_a_memory_directory_too_deep_for_a_socket_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with pytest.raises(ClusterError):
        start_child(deep)
    assert re.search(r"error: memory_dir makes a socket path of \d+ bytes", capfd.readouterr().err)
