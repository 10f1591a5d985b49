"""The cycle model: the reference layer to the digit, its text, and descriptions that are slips."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput
from deadheat.scheduler.planner.cycles import (
    MAX_SIZE,
    Machine,
    Operands,
    described,
    estimate_layer,
    estimate_product,
    parse_register_cycles,
)

REFERENCE = Machine(2.5e9, register_cycles=(1, 1), multiply_cycles=20, add_cycles=1)


def test_the_reference_layer_costs_what_it_costs_on_paper() -> None:
    layer = estimate_layer(REFERENCE, inputs=256, outputs=256, samples=2_000_000)
    assert layer.cycles_per_multiply_accumulate == 23
    assert layer.cycles_per_sample == 1_507_328
    assert layer.seconds_per_sample == pytest.approx(602.9312e-6, rel=1e-12)
    assert layer.total_s == pytest.approx(1205.8624, rel=1e-12)
    assert layer.share_of_day == pytest.approx(0.013957, rel=1e-4)


def test_the_reference_layer_reads_like_this() -> None:
    layer = estimate_layer(REFERENCE, inputs=256, outputs=256, samples=2_000_000)
    assert (
        str(layer)
        == """\
a layer of 256 inputs and 256 outputs at 2.5 GHz
  a multiply-accumulate  23 cycles: 1 read from registers + 20 multiply + 1 add + 1 write
  a sample               65,536 of them, 1,507,328 cycles, 603 microseconds
  2,000,000 samples      1,206 s, 1.4 % of a day"""
    )


def test_small_and_large_costs_read_well_too() -> None:
    fast = Machine(4e9, (0, 0), 0.25, 0.25, cache_cycles=4.5)
    assert (
        str(estimate_layer(fast, 1, 1, operands=Operands.CACHE))
        == """\
a layer of 1 inputs and 1 outputs at 4 GHz
  a multiply-accumulate  5 cycles: 4.5 read from cache + 0.25 multiply + 0.25 add + 0 write
  a sample               1 of them, 5 cycles, 1.25 nanoseconds
  1 sample               1.25 nanoseconds, 1.4e-12 % of a day"""
    )
    assert "12,058,624 s, 13,956.7 % of a day" in str(
        estimate_layer(REFERENCE, 25_600, 25_600, 2_000_000)
    )


@pytest.mark.parametrize(
    ("operands", "cycles"),
    [(Operands.REGISTERS, 23), (Operands.CACHE, 26), (Operands.MEMORY, 222)],
)
def test_where_operands_lie_decides_which_read_counts(operands: Operands, cycles: float) -> None:
    machine = dataclasses.replace(REFERENCE, cache_cycles=4, memory_cycles=200)
    layer = estimate_layer(machine, 256, 256, operands=operands)
    assert layer.cycles_per_multiply_accumulate == cycles
    assert layer.cycles_per_sample == cycles * 65_536


@given(*[st.integers(1, 10**6)] * 3)
def test_a_product_is_a_layer_with_a_sample_for_each_row(m: int, k: int, n: int) -> None:
    product = estimate_product(REFERENCE, m, k, n)
    assert product == estimate_layer(REFERENCE, inputs=k, outputs=n, samples=m)
    assert product.total_s == pytest.approx(23 * m * k * n / 2.5e9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clock_hz": 0}, r"clock_hz is 0; it must be above 0 and at most 1e\+15"),
        ({"clock_hz": -1.0}, r"clock_hz is -1\.0"),
        ({"clock_hz": math.nan}, "clock_hz is nan"),
        ({"clock_hz": math.inf}, "clock_hz is inf"),
        ({"clock_hz": 1e16}, r"clock_hz is 1e\+16"),
        ({"clock_hz": "fast"}, "clock_hz is fast"),
        ({"clock_hz": True}, "clock_hz is True"),
        ({"register_cycles": (1,)}, r"register_cycles is \(1,\); give a read and a write"),
        ({"register_cycles": 2}, "register_cycles is 2; give"),
        ({"register_cycles": (-1, 1)}, r"register_cycles \(read\) is -1; it must be 0 to 1e\+09"),
        ({"register_cycles": (1, math.nan)}, r"register_cycles \(write\) is nan"),
        ({"multiply_cycles": -20}, "multiply_cycles is -20"),
        ({"multiply_cycles": 1e10}, "multiply_cycles is 10000000000.0"),
        ({"add_cycles": None}, "add_cycles is None"),
        ({"cache_cycles": math.inf}, "cache_cycles is inf"),
        ({"memory_cycles": -1}, "memory_cycles is -1"),
    ],
)
def test_machines_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        dataclasses.replace(REFERENCE, **changes)
    assert caught.value.field == next(iter(changes))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 256, 1), "inputs is 0; it must be 1 to 9223372036854775807"),
        ((256, -1, 1), "outputs is -1"),
        ((256, 256, 0), "samples is 0"),
        ((256, 256, MAX_SIZE + 1), "samples is 9223372036854775808"),
        ((256.0, 256, 1), r"inputs is 256\.0"),
        ((True, 256, 1), "inputs is True"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        estimate_layer(REFERENCE, *sizes)


def test_a_products_sizes_are_named_as_the_user_names_them() -> None:
    with pytest.raises(InvalidInput, match="k is 0"):
        estimate_product(REFERENCE, 1, 0, 1)


def test_a_cost_that_counts_must_be_given() -> None:
    with pytest.raises(InvalidInput, match="memory_cycles is not given; operands in memory need"):
        estimate_layer(REFERENCE, 1, 1, operands=Operands.MEMORY)


@pytest.mark.parametrize("text", ["", "1", "1+", "a+b", "1+1+1", "1-1"])
def test_register_cycles_are_a_read_and_a_write(text: str) -> None:
    with pytest.raises(InvalidInput, match="give a read and a write, like 1"):
        parse_register_cycles(text)


def test_the_largest_sizes_are_counted_exactly() -> None:
    layer = estimate_layer(REFERENCE, MAX_SIZE, MAX_SIZE, MAX_SIZE)
    assert layer.cycles_per_sample == 23 * MAX_SIZE**2
    assert math.isfinite(layer.share_of_day)


def test_a_description_is_exact_and_the_document_is_json() -> None:
    machine = described(
        clock_ghz=2.5, register_cycles="1+1", multiply_cycles=20.0, add_cycles=1.0, cache_cycles=4.0
    )
    assert machine == dataclasses.replace(REFERENCE, cache_cycles=4)
    document = json.loads(json.dumps(estimate_layer(machine, 256, 256).as_dict()))
    assert document["cycles_per_sample"] == 1_507_328
    assert document["operands"] == "registers"
    assert document["machine"]["register_cycles"] == [1, 1]
