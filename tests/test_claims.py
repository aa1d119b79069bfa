"""What a method saves, by hand and by what must hold whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.common import yardstick
from launch.common.yardstick import Curve
from launch.paper import claims

AMOUNTS = np.array([100, 1_000, 10_000])


@pytest.mark.parametrize(
    ("level", "amount"),
    [(0.2, 100), (0.1, 100), (0.4, 1_000), (0.3, 100 * 10**0.5), (0.9, np.inf)],
    ids=["at a point", "below all", "at the next", "halfway", "never"],
)
def test_the_least_amount_is_read_off_the_curve_on_a_scale_of_logarithms(level, amount):
    assert yardstick.needed(AMOUNTS, np.array([0.2, 0.4, 0.8]), level) == pytest.approx(amount)


def test_from_nothing_the_scale_is_linear():
    assert yardstick.needed(np.array([0, 100]), np.array([0.0, 1.0]), 0.25) == pytest.approx(25)


def test_a_curve_ends_where_its_last_five_points_are_on_average():
    success = np.array([*[0.0] * 5, 1.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert yardstick.end(success) == pytest.approx(0.3)
    assert yardstick.end(success[-4:]) == pytest.approx(0.45), "half of four points are two"
    assert yardstick.end(success[-3:]) == pytest.approx(0.5)
    assert yardstick.end(success, num_last=1) == pytest.approx(0.5)


def test_a_tenth_of_the_data_is_a_ratio_of_a_tenth():
    baseline = np.tile([[0.0], [0.2], [0.9]], (1, 8))
    method = np.tile([[0.0], [0.9], [0.9]], (1, 8))
    found = claims.compare(Curve(AMOUNTS, baseline), Curve(AMOUNTS, method))
    assert found.level == pytest.approx(0.9)
    assert (found.baseline, found.method) == (10_000, 1_000)
    # Seeds that all agree leave no doubt.
    assert found.ratio == found.low == found.high == pytest.approx(0.1)


def test_one_lucky_point_is_no_success_to_reach():
    steady = np.tile([[0.0], *[[0.5]] * 11], (1, 8))
    lucky = steady.copy()
    lucky[4] = 0.9
    curves = [Curve(np.arange(12) * 100, success) for success in (lucky, steady)]
    assert claims.compare(*curves).ratio == 1


def test_a_method_that_never_gets_there_may_need_anything_beyond_its_last_amount():
    baseline = np.tile([[0.0], [0.8], [0.9]], (1, 8))
    found = claims.compare(
        Curve(AMOUNTS, baseline), Curve(AMOUNTS[:2], 0.5 * baseline[:2]), level=0.8
    )
    assert (found.baseline, found.method, found.ratio) == (1_000, np.inf, np.inf)
    assert (found.low, found.high) == (1, np.inf)


def test_of_a_baseline_that_never_gets_there_the_ratio_is_known_from_above():
    baseline = Curve(AMOUNTS, np.tile([[0.1], [0.2], [0.3]], (1, 8)))
    method = Curve(AMOUNTS, np.tile([[0.1], [0.9], [0.9]], (1, 8)))
    found = claims.compare(baseline, method, level=0.9)
    assert (found.baseline, found.method, found.ratio) == (np.inf, 1_000, 0.1)
    assert (found.low, found.high) == (0, 0.1)
    neither = claims.compare(baseline, baseline, level=0.9)
    assert (neither.low, neither.high) == (0, np.inf)


@pytest.mark.parametrize("success", [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0)], ids=str)
def test_where_a_baseline_ends_at_0_there_is_nothing_to_reach(success):
    baseline = Curve(AMOUNTS, np.tile(np.array(success)[:, None], (1, 4)))
    with pytest.raises(ValueError, match="ends at 0"):
        claims.compare(baseline, Curve(AMOUNTS, np.ones((3, 4))))


def test_beside_a_baseline_that_never_succeeds_a_fixed_level_bounds_the_ratio():
    method = Curve(AMOUNTS, np.tile([[0.0], [0.9], [0.9]], (1, 4)))
    found = claims.compare(Curve(AMOUNTS, np.zeros((3, 4))), method, level=0.9)
    assert (found.baseline, found.method, found.ratio) == (np.inf, 1_000, 0.1)
    assert (found.low, found.high) == (0, 0.1)
    assert found.verdict(at_most=0.1) == claims.BORNE_OUT


def test_nothing_is_known_of_a_baseline_whose_seeds_drawn_anew_end_at_0():
    # Three of four seeds drawn are the one without success in 5% of drawings, which is more than
    # either tail; the method gets anywhere at once.
    rare = np.array([[0.0, 0.0, 0.0, 0.0], [0.2, 0.1, 0.05, 0.0], [0.2, 0.1, 0.05, 0.0]])
    amounts = np.array([1_000, 2_000, 3_000])
    found = claims.compare(Curve(amounts, rare), Curve(amounts, np.ones((3, 4))))
    assert 0 < found.ratio < 1
    assert (found.low, found.high) == (0, np.inf)


def test_a_method_may_have_been_looked_at_elsewhere():
    baseline = Curve(np.array([0, 100]), np.array([[0.0] * 4, [0.8] * 4]))
    method = Curve(np.array([0, 10, 20]), np.array([[0.0] * 5, [0.4] * 5, [1.2] * 5]))
    found = claims.compare(baseline, method)
    assert found.method == pytest.approx(10 * 2**0.5)  # Halfway, on the scale of logarithms.
    assert found.ratio == pytest.approx(0.1 * 2**0.5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.05, 0.1, claims.BORNE_OUT),
        (0.05, 0.11, claims.NOT_DECIDED),
        (0.11, np.inf, claims.NOT_BORNE_OUT),
        (0.0, np.inf, claims.NOT_DECIDED),
    ],
)
def test_the_interval_decides_a_claim(low, high, verdict):
    assert claims.Comparison(0.9, 10, 1, 0.1, low, high).verdict(at_most=0.1) == verdict


def test_seeds_are_drawn_whole():
    # Each seed stays where it is, so that any whole seeds make a level curve, which is at its end
    # from the first amount on. Points drawn apart would go up and down.
    success = np.tile(np.random.default_rng(0).integers(1, 9, size=16) / 8, (20, 1))
    amounts = 100 * np.arange(1, 21)
    found = claims.compare(Curve(amounts, success), Curve(amounts, np.ones((20, 4))))
    assert found.ratio == found.low == found.high == 1


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1_000))
def test_a_ratio_has_no_unit(factor, seed):
    success = np.sort(np.random.default_rng(seed).uniform(size=(2, 3, 6)), axis=1)
    found, scaled = (
        claims.compare(Curve(amounts, success[0]), Curve(amounts, success[1]))
        for amounts in (AMOUNTS, factor * AMOUNTS)
    )
    assert found[3:] == pytest.approx(scaled[3:])


def test_intervals_hold_the_true_ratio_about_as_often_as_they_say():
    # Linear on the scale of logarithms, each seed a little better or worse from first to last: a
    # method as good with a fifth of the amount.
    truth, rng = np.array([0.1, 0.5, 0.9]), np.random.default_rng(0)
    held = []
    for _ in range(60):
        baseline, method = (
            Curve(AMOUNTS / factor, truth[:, None] + rng.normal(0, 0.1, size=16))
            for factor in (1, 5)
        )
        found = claims.compare(baseline, method, level=0.5)
        held.append(found.low <= 0.2 <= found.high)
    # Of 60 intervals of 95% fewer than 51 hold it in one case of a thousand.
    assert np.mean(held) >= 51 / 60
