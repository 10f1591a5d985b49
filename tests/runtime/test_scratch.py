"""Memory that is used again holds nothing that somebody else still needs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.scratch import Scratch

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("bfd"))


@given(steps=st.lists(st.one_of(SHAPES, st.integers(0, 5)), max_size=40))
def test_arrays_in_use_never_share_memory(steps: list[tuple[int, int, str] | int]) -> None:
    scratch = Scratch(np)
    in_use: list[tuple[np.ndarray, int]] = []
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            rows, columns, kind = step
            made = scratch.take(rows, columns, np.dtype(kind))
            assert made.shape == (rows, columns)
            made[...] = number
            in_use.append((made, number))
        elif step < len(in_use):
            scratch.give(in_use.pop(step)[0])
        for array, value in in_use:
            assert (array == value).all()


def test_memory_is_used_again_where_it_fits_and_given_up_where_it_does_not() -> None:
    scratch = Scratch(np)
    first = scratch.take(100, 100, np.dtype("float64"))
    scratch.give(first)
    assert np.shares_memory(scratch.take(50, 100, np.dtype("float32")), first)
    scratch.give(np.zeros((3, 3)))  # Somebody else's.
    assert scratch._spare == []
    small = scratch.take(2, 2, np.dtype("float64"))
    scratch.give(small)
    scratch.take(200, 200, np.dtype("float64"))
    assert scratch._spare == []
