"""Lengths cut into blocks for threads of unlike pace, as large as can be.

BLAS packs the other operand anew for each block, so that small ones are slow: with blocks of 128
rows a product with a weight of 1024 x 1024 takes 1.2 times as long, with 256 rows 1.06 times, with
512 and more as long as whole (measured, two threads). So there are no more than needed: *rounds* of
equal blocks, one for each thread, and the last round smaller than the one before. Threads that are
alike work one of each; one whose core is shared with somebody else leaves its last to another.

Rules of this file: cuts depend on sizes and the number of threads alone.
"""

from __future__ import annotations

from typing import Final

Cuts = list[tuple[int, int]]

#: Rows of a block. Between two blocks a thread may take what is more urgent.
MOST_ROWS: Final = 768
LEAST_ROWS: Final = 96
GRAIN: Final = 16
#: The last round but one has so much of what both have: a thread of half the pace is through with
#: its block when the other one has worked three.
FIRST: Final = 0.625


def in_rounds(length: int, threads: int, *, least: int = LEAST_ROWS, grain: int = GRAIN) -> Cuts:
    """All of a length, in blocks of `least` and more, whose borders are multiples of `grain`.

    >>> [stop - start for start, stop in in_rounds(2048, 2)]
    [640, 640, 384, 384]
    """
    whole = int(MOST_ROWS / FIRST) * threads
    start, found = 0, Cuts()
    while threads > 1 and length - start > whole:
        found += _even(start, start + MOST_ROWS * threads, threads, grain)
        start = found[-1][1]
    left = length - start
    first = int(left * FIRST / threads) // grain * grain
    if threads > 1 and first and left - first * threads >= least * threads:
        found += _even(start, start + first * threads, threads, grain)
        start = found[-1][1]
    return found + in_one_round(length - start, threads, start, least=least, grain=grain)


def in_one_round(
    length: int, threads: int, start: int = 0, *, least: int = LEAST_ROWS, grain: int = GRAIN
) -> Cuts:
    """From `start` on, as few blocks for each thread as may be, all equal."""
    each = -(-length // (threads * MOST_ROWS))
    count = max(1, min(threads * each, length // least))
    return _even(start, start + length, count, grain)


def _even(start: int, stop: int, count: int, grain: int) -> Cuts:
    if start == stop:
        return []
    size = -(-(stop - start) // (count * grain)) * grain
    return [(at, min(stop, at + size)) for at in range(start, stop, size)]
