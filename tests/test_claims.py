"""What a method saves, by hand and by what must hold whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import claims

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
    saving = claims.saving(AMOUNTS, baseline, method)
    assert saving.level == pytest.approx(0.9)
    assert (saving.baseline, saving.method) == (10_000, 1_000)
    # Seeds that all agree leave no doubt.
    assert saving.saved == saving.low == saving.high == pytest.approx(0.9)


def test_a_method_that_never_gets_there_saves_nothing():
    baseline = np.tile([[0.0], [0.2], [0.9]], (1, 8))
    assert claims.saving(AMOUNTS, baseline, 0.5 * baseline).saved == -np.inf


def test_a_baseline_that_never_succeeds_is_refused():
    with pytest.raises(ValueError, match="never succeeds"):
        claims.saving(AMOUNTS, np.zeros((3, 4)), np.ones((3, 4)))


def test_nothing_is_saved_of_a_baseline_whose_seeds_drawn_anew_never_succeed():
    rare = np.array([[0.0, 0.0, 0.0, 0.0], [0.2, 0.1, 0.05, 0.0], [0.2, 0.1, 0.05, 0.0]])
    saving = claims.saving(np.array([0, 1_000, 2_000]), rare, rare)
    assert saving.saved == 0
    assert saving.low <= 0


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1_000))
def test_the_interval_holds_the_saving_of_noisy_seeds_and_a_method_saves_nothing_on_itself(seed):
    noise = np.random.default_rng(seed).uniform(0.0, 0.1, size=(3, 16))
    success = np.array([[0.1], [0.5], [0.85]]) + noise
    saving = claims.saving(AMOUNTS, success, success)
    assert saving.saved == 0
    assert saving.low <= 0 <= saving.high or np.isinf(saving.low)
