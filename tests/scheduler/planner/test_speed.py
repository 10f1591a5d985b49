"""Speed models: between points, beyond them, without them, against false ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.programs import GemmShape, Op
from deadheat.scheduler.planner.history import SpeedHistory
from deadheat.scheduler.planner.speed import (
    MAX_FLOPS,
    MAX_POINTS,
    UNKNOWN_FLOPS,
    SpeedModel,
    SpeedPoint,
)

sizes = st.integers(1, 5000)


def square(size: int, dtype: str = "float64") -> GemmShape:
    return GemmShape(size, size, size, dtype)


def test_measured_shapes_take_what_was_measured() -> None:
    points = (SpeedPoint(square(64), 1e-4), SpeedPoint(square(512), 0.01))
    model = SpeedModel(points)
    assert model.seconds(square(64)) == pytest.approx(1e-4)
    assert model.seconds(square(512)) == pytest.approx(0.01)
    # Beyond the last point at its rate.
    assert model.flops_rate(square(4096)) == pytest.approx(model.flops_rate(square(512)))


def test_thin_products_have_a_curve_of_their_own() -> None:
    thin = GemmShape(8, 512, 512, "float64")
    model = SpeedModel((SpeedPoint(square(512), 0.01), SpeedPoint(thin, 0.002)))
    assert model.flops_rate(thin) < model.flops_rate(square(512))
    assert model.flops_rate(GemmShape(8, 1024, 512, "float64")) == pytest.approx(
        model.flops_rate(thin)
    )


def test_a_dtype_that_was_not_measured_is_guessed_from_its_relative() -> None:
    model = SpeedModel((SpeedPoint(square(512), 0.01),))
    rate = model.flops_rate(square(512))
    assert model.flops_rate(square(512, "float32")) == pytest.approx(2 * rate)
    assert model.flops_rate(square(512, "int64")) == pytest.approx(UNKNOWN_FLOPS)


def test_false_measurements_are_not_believed() -> None:
    claims = (
        SpeedPoint(square(512), 1e-12),
        SpeedPoint(square(512), float("nan")),
        SpeedPoint(square(512), -1.0),
        SpeedPoint(GemmShape(0, 5, 5, "float64"), 1.0),
    )
    assert SpeedModel(claims).flops_rate(square(512)) == pytest.approx(UNKNOWN_FLOPS)
    assert SpeedModel(claims).peak_flops("float64") is None
    assert MAX_FLOPS < 1e18


def test_one_point_that_came_out_too_slow_does_not_lift_all_larger_ones() -> None:
    points = [SpeedPoint(square(n), square(n).flops / 5e10) for n in (64, 128, 256, 512, 1024)]
    points[1] = SpeedPoint(square(128), points[3].seconds)
    model = SpeedModel(tuple(points))
    assert model.seconds(square(128)) == pytest.approx(model.seconds(square(256)))
    assert model.flops_rate(square(512)) == pytest.approx(5e10)


def test_models_are_values_and_equal_claims_share_one() -> None:
    points = (SpeedPoint(square(64), 1e-4), SpeedPoint(square(512), 0.01))
    one, other = SpeedModel(points), SpeedModel((points[0], points[1]))
    one.seconds(square(100))
    assert one == other
    assert len({one, other}) == 1
    assert SpeedModel.of_claims(points) is SpeedModel.of_claims(list(points))


def test_no_more_claims_are_kept_than_a_curve_needs() -> None:
    points = [SpeedPoint(square(n), square(n).flops / 5e10) for n in range(64, 2000)]
    model = SpeedModel.of_claims([*points, SpeedPoint(square(64), -1.0)])
    assert len(model.points) <= MAX_POINTS
    assert model.flops_rate(square(3000)) == pytest.approx(5e10)


@given(
    st.lists(st.tuples(st.integers(64, 2000), st.floats(1e-6, 10)), min_size=1, max_size=6),
    sizes,
    sizes,
)
def test_more_work_never_takes_less_time(
    measured: list[tuple[int, float]], first: int, second: int
) -> None:
    model = SpeedModel(tuple(SpeedPoint(square(size), seconds) for size, seconds in measured))
    small, large = sorted([max(64, first), max(64, second)])
    assert model.seconds(square(small)) <= model.seconds(square(large)) * (1 + 1e-9)


@given(sizes, sizes, sizes)
def test_empty_products_take_no_time(rows: int, inner: int, columns: int) -> None:
    model = SpeedModel((SpeedPoint(square(512), 0.01),))
    assert model.seconds(GemmShape(0, inner, columns, "float64")) == 0.0
    assert model.seconds(GemmShape(rows, inner, columns, "float64")) > 0.0


def test_sums_and_products_say_nothing_of_each_other() -> None:
    added = GemmShape(512, 4, 512, "float32", Op.SUM)
    model = SpeedModel((SpeedPoint(square(512), 0.01), SpeedPoint(added, 0.001)))
    assert model.seconds(added) == pytest.approx(0.001)
    assert model.seconds(square(512)) == pytest.approx(0.01)
    assert SpeedModel((SpeedPoint(square(512), 0.01),)).flops_rate(added) == pytest.approx(
        UNKNOWN_FLOPS
    )
    assert SpeedModel((SpeedPoint(added, 0.001),)).peak_flops("float32") is None


def test_tf32_is_as_fast_as_float32_until_it_was_measured_and_then_has_its_own_curve() -> None:
    asked = GemmShape(1024, 1024, 1024, "float32", Op.TF32_PRODUCT)
    plain = GemmShape(1024, 1024, 1024, "float32")
    only_double = SpeedModel((SpeedPoint(GemmShape(1024, 1024, 1024, "float64"), 1.0),))
    assert only_double.seconds(asked) == only_double.seconds(plain)
    known = (SpeedPoint(plain, 0.4),)
    assert SpeedModel(known).seconds(asked) == pytest.approx(0.4)
    both = SpeedModel((*known, SpeedPoint(asked, 0.05)))
    assert both.seconds(asked) == pytest.approx(0.05)
    assert both.seconds(plain) == pytest.approx(0.4)
    # What `nodes` prints as the speed of float32 is that of strict products.
    assert both.peak_flops("float32") == pytest.approx(plain.flops / 0.4)


def test_what_is_learnt_of_tf32_says_nothing_of_float32() -> None:
    asked = GemmShape(1024, 1024, 1024, "float32", Op.TF32_PRODUCT)
    plain = GemmShape(1024, 1024, 1024, "float32")
    history = SpeedHistory(SpeedModel((SpeedPoint(plain, 0.4),)))
    for _ in range(3):
        history, _ = history.learn(asked, 0.05)
    assert history.model.seconds(asked) == pytest.approx(0.05)
    assert history.model.seconds(plain) == pytest.approx(0.4)
    assert history.bias == pytest.approx(1.0)
