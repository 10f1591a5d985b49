"""Panels: every element once, whatever is given away; large first, small at the end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from deadheat.agent.executors.bounds import (
    CARDS,
    LAST_ROWS,
    MAX_BAND_BYTES,
    MAX_PANEL_FLOPS,
    MAX_SIDE,
    MIN_PANEL_FLOPS,
    STREAMS,
)
from deadheat.agent.executors.panels import GRAIN, Panel, Panels
from deadheat.runtime.programs import GemmShape, Rectangle, merged, uncovered


def panels(rows: int, columns: int, inner: int = 4096, threads: int = 1) -> Panels:
    shape = GemmShape(rows, inner, columns, "float64")
    return Panels(Rectangle(0, rows, 0, columns), shape, threads)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 100_000),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
def test_panels_and_what_was_given_away_are_the_rectangle_exactly_once(
    rows: int, columns: int, inner: int, threads: int, seed: int
) -> None:
    chance = random.Random(seed)
    top, left = chance.randrange(100), chance.randrange(100)
    whole = Rectangle(top, top + rows, left, left + columns)
    made = Panels(whole, GemmShape(rows, inner, columns, "float64"), threads)
    made.is_in_whole_rows = chance.random() < 0.5
    made.row_grain = 1 if made.is_in_whole_rows and chance.random() < 0.5 else GRAIN
    if chance.random() < 0.5:  # Its operands arrive meanwhile.
        made.row_arrived = top
    running: list[Panel] = []
    done: list[Rectangle] = []
    released: list[Rectangle] = []
    while not made.is_done:
        action = chance.random()
        if chance.random() < 0.2:
            made.arrived(min(top + rows, (made.row_arrived or 0) + chance.randrange(400)))
        if action < 0.5 and len(running) < threads and (panel := made.take()):
            assert made.row_arrived is None or panel.rectangle.row_stop <= made.row_arrived
            running.append(panel)
        elif action < 0.95 and running:
            panel = running.pop(chance.randrange(len(running)))
            if chance.random() < 0.05 and made.halve(panel):
                continue
            made.finish(panel)
            done.append(panel.rectangle)
            assert not made.is_in_whole_rows or panel.rectangle.columns == columns
        elif action > 0.98:
            released += made.release(chance.randrange(whole.area + 1))
        # Rows that count as done are done.
        head = whole.with_rows(whole.row_start, min(made.row_done, whole.row_stop))
        assert uncovered(head, done + released) == []
    assert uncovered(whole, done + released) == []
    assert sum(piece.area for piece in done + released) == whole.area
    assert made.area_done == sum(piece.area for piece in done)
    # What was kept is whole rows and at most one part of a band.
    pieces = merged(uncovered(whole, released))
    assert len(pieces) <= 2
    assert not made.is_in_whole_rows or all(piece.columns == columns for piece in pieces)


def test_bands_of_a_segment_are_high_enough_for_blas_and_lower_at_the_end() -> None:
    made = panels(8192, 2048, 16 * 2048, threads=2)
    made.is_in_whole_rows = True
    heights = []
    while panel := made.take():
        made.finish(panel)
        heights.append(panel.rectangle.rows)
    assert sum(heights) == 8192
    before = [sum(heights[:number]) for number in range(len(heights))]
    for height, done in zip(heights, before):
        assert height >= (256 if 8192 - done > 4 * 256 else LAST_ROWS // 2)
    # The last ones are some per cent of a thread's rows.
    assert max(heights[-2:]) <= 128


def test_sizes_fall_towards_the_end() -> None:
    made = panels(5461, 8192, 8192)
    sizes = []
    while panel := made.take():
        made.finish(panel)
        sizes.append(panel.rectangle.area)
    most = min(MAX_SIDE**2, MAX_PANEL_FLOPS / (2 * 8192))
    # A band is cut in even parts, of which three may be half of one too wide together.
    assert max(sizes) <= most * (1 + 1 / 6)
    assert sizes[0] >= most * 0.9
    assert sum(sizes[-3:]) < 0.02 * sum(sizes)
    # The greater part of the work is done in large panels.
    assert sum(size for size in sizes if size >= 2**19) > 0.85 * sum(sizes)


def test_bands_of_a_narrow_segment_are_as_high_as_the_cache_allows() -> None:
    made = panels(10_000_000, 2, 4)
    made.is_in_whole_rows = True
    count = 0
    while panel := made.take():
        made.finish(panel)
        count += 1
        assert panel.rectangle.rows <= MAX_BAND_BYTES / 16 + 128
    assert count < 100


def test_no_panel_takes_for_ever() -> None:
    made = panels(2000, 2000, inner=1_000_000)
    per_element = 2.0 * 1_000_000
    while panel := made.take():
        made.finish(panel)
        assert panel.rectangle.area * per_element < 2 * MAX_PANEL_FLOPS


def test_a_request_to_keep_a_part_keeps_that_part_closely() -> None:
    made = panels(12000, 12000)
    for _ in range(3):
        panel = made.take()
        assert panel is not None
        made.finish(panel)
    keep = 12000 * 12000 // 2
    released = made.release(keep)
    assert abs(12000 * 12000 - sum(piece.area for piece in released) - keep) < 16 * 12000


def test_what_has_begun_cannot_be_given_away() -> None:
    made = panels(300, 300)
    panel = made.take()
    assert panel is not None
    released = made.release(0)
    assert panel.rectangle.area + sum(piece.area for piece in released) == 300 * 300
    made.finish(panel)
    assert made.is_done


def test_uneven_panels_become_smaller_than_even_ones() -> None:
    def sizes(seconds: list[float]) -> list[int]:
        made, found = panels(8192, 8192, threads=4), []
        while panel := made.take():
            found.append(panel.rectangle.area)
            made.finish(panel, panel.rectangle.area * seconds[len(found) % len(seconds)])
        return found

    even, uneven = sizes([1e-8]), sizes([1e-8, 1e-8, 1e-8, 5e-7])
    assert sum(even) == sum(uneven) == 8192 * 8192
    assert len(uneven) > len(even)


def test_rows_that_have_not_arrived_are_waited_for_or_given_away() -> None:
    made = panels(4000, 4000)
    made.row_arrived = 0
    assert made.take() is None
    assert not made.is_done
    made.arrived(200)
    assert made.take() is None  # A band so low would be slow.
    made.arrived(300)
    panel = made.take()
    assert panel is not None
    assert panel.rectangle.row_stop == 288
    made.arrived(100)  # Old news.
    made.finish(panel)
    while rest := made.take():
        made.finish(rest)
    assert (made.row_done, made.is_done) == (288, False)
    assert made.release(0) == [Rectangle(288, 4000, 0, 4000)]
    assert made.is_done


def test_samples_of_images_go_one_by_one_at_the_end() -> None:
    shape = GemmShape(40, 1, 1000, "float32", parts=(GemmShape(40, 300, 50_000, "float32"),))
    made = Panels(Rectangle(0, 40, 0, 1000), shape, 4, is_in_whole_rows=True, row_grain=1)
    heights = []
    while (panel := made.take()) is not None:
        heights.append(panel.rectangle.rows)
        made.finish(panel)
    assert sum(heights) == 40
    assert heights[-1] == 1
    assert len(heights) > 12


def test_the_last_panels_are_no_more_work_than_has_to_be() -> None:
    """At a large inner size 256 x 256 would take a core as long as a tenth of a short job."""
    made = panels(800, 32768, inner=32768, threads=16)
    sizes = []
    while panel := made.take():
        sizes.append(panel.rectangle.area * 2 * 32768)
        made.finish(panel)
    assert max(sizes) > 4 * MIN_PANEL_FLOPS
    assert max(sizes[-16:]) <= 2 * MIN_PANEL_FLOPS


def all_in_flight(made: Panels, predicted_s: float) -> list[Rectangle]:
    """As many panels in flight as there are streams; each takes its part of the prediction."""
    whole = made.rectangle
    running: list[Panel] = []
    found: list[Rectangle] = []
    while not made.is_done:
        while len(running) < STREAMS and (panel := made.take()):
            running.append(panel)
            found.append(panel.rectangle)
        first = running.pop(0)
        made.finish(first, predicted_s * STREAMS * first.rectangle.area / max(1, whole.area))
    assert not uncovered(whole, found)
    return found


def on_a_card(predicted_s: float, size: int = 16384) -> list[Rectangle]:
    whole = Rectangle(0, size, 0, size)
    shape = GemmShape(size, size, size, "float32")
    return all_in_flight(Panels(whole, shape, STREAMS, predicted_s, bounds=CARDS), predicted_s)


def test_a_card_begins_with_narrow_panels_and_goes_on_with_large_ones() -> None:
    """It has to wait for what they read; and none of them is so small that to start it takes as
    long as to compute it."""
    slow, fast = on_a_card(0.19), on_a_card(0.03)
    for found in slow, fast:
        first = [r for r in found if r.row_start == 0]
        assert {r.columns for r in first} == {2048}
        assert len(found) < 30
        assert min(r.area for r in found) >= 2048 * 2048
    # What has much to compute begins soon; what is mostly copied has much of A before B comes.
    assert slow[0].rows == 4096
    assert fast[0].rows == 8192
    assert any((r.rows, r.columns) == (4096, 4096) for r in slow)
