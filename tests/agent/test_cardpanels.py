"""How a product is cut on a card."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.agent.test_panels import all_in_flight

from deadheat.agent.executors.bounds import CARDS, STREAMS
from deadheat.agent.executors.cardpanels import CardPanels
from deadheat.runtime.programs import GemmShape, Op, Rectangle

#: As behind PCIe 5.
LINK_BYTES_PER_S = 53e9
CARD = replace(CARDS, link_bytes_per_s=LINK_BYTES_PER_S, resident_bytes=80 << 30)


def cut(
    rows: int,
    inner: int,
    columns: int,
    dtype: str = "float32",
    predicted_s: float = 0.0,
    resident_bytes: int = CARD.resident_bytes,
) -> list[Rectangle]:
    whole = Rectangle(0, rows, 0, columns)
    bounds = replace(CARD, resident_bytes=resident_bytes)
    shape = GemmShape(rows, inner, columns, dtype)
    made = CardPanels(whole, shape, STREAMS, predicted_s, bounds=bounds)
    found = all_in_flight(made, predicted_s)
    assert sum(one.area for one in found) == whole.area
    return found


def test_what_is_mostly_copied_goes_in_bands_of_whole_rows() -> None:
    found = cut(16384, 16384, 16384, "float16", predicted_s=0.025)
    assert {one.columns for one in found} == {16384}
    # Nothing is computed before the first is there, and nothing behind the last.
    assert [one.rows for one in found[:2]] == [512, 1024]
    assert max(one.rows for one in found) == 1024
    assert all(before.rows >= after.rows for before, after in pairwise(found[1:]))
    assert found[-1].rows <= 512
    assert min(one.rows for one in found) > 256


def test_what_is_mostly_computed_begins_with_strips_that_come_while_others_are_computed() -> None:
    for dtype, predicted_s, rows, columns in (
        ("float32", 0.18, 4096, 2048),
        ("float64", 0.17, 7168, 1024),  # As fast, and twice as long in coming.
    ):
        found = cut(16384, 16384, 16384, dtype, predicted_s)
        strips = [one for one in found if one.row_start == 0]
        assert {(one.rows, one.columns) for one in strips} == {(rows, columns)}
        itemsize = 4 if dtype == "float32" else 8
        strip_s = 16384 * columns * itemsize / LINK_BYTES_PER_S
        assert predicted_s * strips[0].area / 16384**2 >= strip_s
        assert {one.columns for one in found[len(strips) :]} == {16384}


def test_a_slow_card_gets_strips_that_do_not_take_long() -> None:
    found = cut(16384, 16384, 16384, "float32", predicted_s=8.0)
    assert 8.0 * max(one.area for one in found) / 16384**2 <= 2 * CARDS.first_panel_s


def test_what_does_not_fit_on_the_card_goes_in_squares() -> None:
    """The right operand would come again for each band."""
    whole_bytes = 2 * 16384 * 16384 * 4
    found = cut(16384, 16384, 16384, predicted_s=0.2, resident_bytes=whole_bytes - 1)
    assert {(one.rows, one.columns) for one in found} >= {(4096, 4096)}
    assert all(one.columns < 16384 for one in found)


def test_bands_of_long_rows_are_low() -> None:
    """They wait for rows of the left operand, which come at the same speed, however wide the
    result is."""
    found = cut(4096, 1 << 20, 64, predicted_s=0.4)
    assert max(one.rows for one in found) * (4 << 20) <= CARDS.band_copy_bytes
    assert {one.columns for one in found} == {64}


def test_only_products_are_cut_so() -> None:
    whole = Rectangle(0, 9000, 0, 9000)
    made = CardPanels(whole, GemmShape(9000, 3, 9000, "float32", Op.SUM), STREAMS, bounds=CARD)
    first = made.take()
    assert first is not None
    assert first.rectangle.columns < 9000


@given(
    st.integers(0, 9000),
    st.integers(0, 9000),
    st.integers(0, 9000),
    st.sampled_from(["float16", "float32", "complex128"]),
    st.floats(0, 1),
    st.sampled_from([0, 1 << 20, 80 << 30]),
)
def test_panels_cover_a_product_of_any_size(
    rows: int, inner: int, columns: int, dtype: str, predicted_s: float, resident_bytes: int
) -> None:
    cut(rows, inner, columns, dtype, predicted_s, resident_bytes)
