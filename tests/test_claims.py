"""What a method saves, by hand and by what must hold whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.paper import claims
from launch.paper.claims import Curve

AMOUNTS = np.array([100, 1_000, 10_000])


@pytest.mark.parametrize(
    ("level", "amount"),
    [(0.2, 100), (0.1, 100), (0.4, 1_000), (0.3, 100 * 10**0.5), (0.9, np.inf)],
    ids=["at a point", "below all", "at the next", "halfway", "never"],
)
def test_the_least_amount_is_read_off_the_curve_on_a_scale_of_logarithms(level, amount):
    assert claims.needed(AMOUNTS, np.array([0.2, 0.4, 0.8]), level) == pytest.approx(amount)


def test_from_nothing_the_scale_is_linear():
    assert claims.needed(np.array([0, 100]), np.array([0.0, 1.0]), 0.25) == pytest.approx(25)


def test_a_tenth_of_the_data_is_a_saving_of_ninety_per_cent():
    baseline = np.tile([[0.0], [0.2], [0.9]], (1, 8))
    method = np.tile([[0.0], [0.9], [0.9]], (1, 8))
    saving = claims.saving(Curve(AMOUNTS, baseline), Curve(AMOUNTS, method))
    assert saving.level == pytest.approx(0.9)
    assert (saving.baseline, saving.method) == (10_000, 1_000)
    # Seeds that all agree leave no doubt.
    assert saving.saved == saving.low == saving.high == pytest.approx(0.9)


def test_a_method_that_never_gets_there_saves_nothing():
    baseline = np.tile([[0.0], [0.2], [0.9]], (1, 8))
    assert claims.saving(Curve(AMOUNTS, baseline), Curve(AMOUNTS, 0.5 * baseline)).saved == -np.inf


def test_a_baseline_that_never_succeeds_is_refused():
    with pytest.raises(ValueError, match="never succeeds"):
        claims.saving(Curve(AMOUNTS, np.zeros((3, 4))), Curve(AMOUNTS, np.ones((3, 4))))


def test_nothing_is_saved_of_a_baseline_whose_seeds_drawn_anew_never_succeed():
    rare = np.array([[0.0, 0.0, 0.0, 0.0], [0.2, 0.1, 0.05, 0.0], [0.2, 0.1, 0.05, 0.0]])
    curve = Curve(np.array([0, 1_000, 2_000]), rare)
    saving = claims.saving(curve, curve)
    assert saving.saved == 0
    assert saving.low <= 0


def test_a_method_may_have_been_looked_at_elsewhere():
    baseline = Curve(np.array([0, 100]), np.array([[0.0] * 4, [0.8] * 4]))
    method = Curve(np.array([0, 10, 20]), np.array([[0.0] * 4, [0.4] * 4, [1.2] * 4]))
    saving = claims.saving(baseline, method)
    assert saving.method == pytest.approx(10 * 2**0.5)  # Halfway, on the scale of logarithms.
    assert saving.saved == pytest.approx(1 - 0.1 * 2**0.5)


def test_the_success_to_reach_can_be_said():
    baseline = Curve(AMOUNTS, np.tile([[0.0], [0.2], [0.9]], (1, 8)))
    method = Curve(AMOUNTS, np.tile([[0.2], [0.3], [0.4]], (1, 8)))
    saving = claims.saving(baseline, method, level=0.2)
    assert (saving.baseline, saving.method, saving.saved) == (1_000, 100, pytest.approx(0.9))
    never = claims.saving(method, baseline, level=0.9)
    assert np.isinf(never.baseline)
    assert never.saved == 1.0


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1_000))
def test_a_saving_has_no_unit(factor, seed):
    success = np.sort(np.random.default_rng(seed).uniform(size=(2, 3, 6)), axis=1)
    saving, scaled = (
        claims.saving(Curve(amounts, success[0]), Curve(amounts, success[1]))
        for amounts in (AMOUNTS, factor * AMOUNTS)
    )
    assert saving.saved == pytest.approx(scaled.saved)
    assert (saving.low, saving.high) == pytest.approx((scaled.low, scaled.high))


def test_intervals_hold_the_true_saving_about_as_often_as_they_say():
    # Linear on the scale of logarithms, and the baseline is at its best, 0.9, with the last amount
    # alone: a method as good with a fifth of the amount saves 80%.
    truth = {1: np.array([0.1, 0.5, 0.9]), 5: np.array([0.1, 0.5, 0.9])}
    rng = np.random.default_rng(0)
    held = []
    for _ in range(60):
        baseline, method = (
            Curve(AMOUNTS / factor, rng.normal(means[:, None], 0.05, size=(3, 16)))
            for factor, means in truth.items()
        )
        saving = claims.saving(baseline, method)
        held.append(saving.low <= 0.8 <= saving.high)
    # Of 60 intervals of 95% fewer than 51 hold it in one case of a thousand.
    assert np.mean(held) >= 51 / 60
