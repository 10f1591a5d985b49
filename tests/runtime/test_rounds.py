"""Blocks of rounds: all of a length, once, and rounds of equal blocks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.rounds import FIRST, LEAST_ROWS, MOST_ROWS, in_one_round, in_rounds


@given(length=st.integers(0, 20_000), threads=st.integers(1, 64))
def test_blocks_are_all_of_a_length_once_and_never_too_large(length: int, threads: int) -> None:
    for cut in (in_rounds, in_one_round):
        found = cut(length, threads)
        assert [at for block in found for at in block][:1] in ([], [0])
        assert sum(stop - start for start, stop in found) == length
        assert all(stop == start for (_, stop), (start, _) in pairwise(found))
        # Rounding to the grain may add to it.
        assert all(0 < stop - start < MOST_ROWS + 16 for start, stop in found)
        least = min((stop - start for start, stop in found[:-1]), default=length)
        assert least >= min(length, LEAST_ROWS // 2)


@pytest.mark.parametrize(
    ("length", "threads", "sizes"),
    [
        (2048, 2, [640, 640, 384, 384]),
        (8192, 2, [768] * 8 + [640, 640, 384, 384]),
        (2048, 1, [688, 688, 672]),
        (300, 2, [160, 140]),
        (90, 4, [90]),
    ],
)
def test_the_last_round_is_smaller_and_small_lengths_have_one(
    length: int, threads: int, sizes: list[int]
) -> None:
    assert [stop - start for start, stop in in_rounds(length, threads)] == sizes


@given(length=st.integers(0, 3000), threads=st.integers(1, 64), least=st.integers(1, 40))
def test_blocks_may_be_smaller_and_finer(length: int, threads: int, least: int) -> None:
    for cut in (in_rounds, in_one_round):
        found = cut(length, threads, least=least, grain=1)
        assert sum(stop - start for start, stop in found) == length
        assert all(stop == start for (_, stop), (start, _) in pairwise(found))
        assert all(0 < stop - start <= MOST_ROWS for start, stop in found)
        if length >= threads * least:
            assert len(found) >= min(length, threads) / 2
    assert [b - a for a, b in in_rounds(64, 2, least=1, grain=1)] == [20, 20, 12, 12]


@pytest.mark.parametrize("pace", [0.4, 0.5, 0.6, 0.75, 1.0])
def test_a_thread_of_less_pace_holds_up_the_other_for_a_fifth_at_most(pace: float) -> None:
    free_s = [0.0, 0.0]
    for start, stop in in_rounds(2048, 2):
        taker = min((0, 1), key=lambda at: free_s[at])
        free_s[taker] += (stop - start) / (1.0, pace)[taker]
    assert max(free_s) <= 2048 / (1 + pace) * 1.2
    assert 0.5 < FIRST < 1
