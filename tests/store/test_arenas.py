"""Arenas: reserved, bounded, used again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deadheat.runtime.errors import LimitReached
from deadheat.store.arenas import PAGE_BYTES, ArenaPool

MIB = 1 << 20


def test_a_free_arena_of_a_like_size_is_used_again(tmp_path: Path) -> None:
    pool = ArenaPool(tmp_path, 100 * MIB)
    first = pool.take(10 * MIB)
    pool.give_back(first)
    again = pool.take(9 * MIB)
    assert again.path == first.path
    pool.give_back(again)
    # Too large a difference would leave pages idle.
    assert pool.take(2 * MIB).path != first.path


def test_a_smaller_arena_is_extended_rather_than_thrown_away(tmp_path: Path) -> None:
    pool = ArenaPool(tmp_path, 100 * MIB)
    small = pool.take(6 * MIB)
    pool.give_back(small)
    large = pool.take(10 * MIB)
    assert large.path == small.path
    assert large.size_bytes == 10 * MIB == os.fstat(large.descriptor).st_size


def test_the_limit_counts_free_arenas_but_drops_them_first(tmp_path: Path) -> None:
    pool = ArenaPool(tmp_path, 10 * MIB)
    arenas = [pool.take(MIB) for _ in range(9)]
    for arena in arenas:
        pool.give_back(arena)
    assert pool.free_bytes == 9 * MIB
    pool.take(8 * MIB)
    assert pool.used_bytes + pool.free_bytes <= 10 * MIB
    with pytest.raises(LimitReached, match=r"3\.0 MiB of shared memory needed; 8\.0 MiB of 10"):
        pool.take(3 * MIB)
    assert len(list(tmp_path.iterdir())) <= 3


def test_an_empty_matrix_has_a_page(tmp_path: Path) -> None:
    assert ArenaPool(tmp_path, MIB).take(0).size_bytes == PAGE_BYTES


def test_a_tainted_arena_is_never_used_again(tmp_path: Path) -> None:
    pool = ArenaPool(tmp_path, 10 * MIB)
    left_behind = pool.take(MIB).path
    successor = ArenaPool(tmp_path, 10 * MIB)
    adopted = successor.adopt(left_behind)
    assert successor.used_bytes == MIB
    successor.give_back(adopted)
    assert not left_behind.exists()
    assert successor.take(MIB).path != left_behind


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_tmpfs_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
import subprocess, sys
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", sys.argv[1]], check=True)
from deadheat.store.arenas import ArenaPool
from deadheat.runtime.errors import LimitReached
pool = ArenaPool(Path(sys.argv[1]), 1 << 40)
kept = pool.take(4 << 20)
try:
    pool.take(6 << 20)
except LimitReached as error:
    print(error)
print([path.name for path in Path(sys.argv[1]).iterdir()], pool.used_bytes)
pool.give_back(kept)
pool.take(6 << 20)
"""
    found = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    message, left = found.stdout.splitlines()
    assert "is full: 6.0 MiB needed, 4.0 MiB free" in message
    assert left == "['arena-1'] 4194304"


def test_an_arena_is_joined_once_while_it_is_free(tmp_path: Path) -> None:
    pool = ArenaPool(tmp_path, 100 * MIB)
    arena, small = pool.take(10 * MIB), pool.take(MIB)
    assert pool.small_paged() is None  # Both are in use.
    pool.give_back(arena)
    pool.give_back(small)
    assert pool.small_paged() is arena
    assert pool.is_free(arena)
    arena.joined_bytes = 10 * MIB
    assert pool.small_paged() is None  # The other is too small for a huge page.
    assert not pool.is_free(pool.take(10 * MIB))
    pool.give_back(arena)
    # What is added to it has small pages again.
    assert pool.take(14 * MIB) is arena
    pool.give_back(arena)
    assert pool.small_paged() is arena
