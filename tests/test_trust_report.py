"""The command that measures learned trust: its plan, its statistics, and what its report says."""

import numpy as np
import pytest

from launch.common import steps
from launch.trust import plan, report
from llmprior_jax import training
from llmprior_jax.training import validation

MODELS = {plan.SMOLLM2: "small.gguf", plan.GEMMA: "gemma.gguf"}
SALAD = plan.PLACES[0]


def curve(*success: list[float], **more) -> dict:
    """A learning curve with an evaluation each 1,000 steps."""
    return {"steps": [1_000 * n for n in range(len(success))], "success_rate": list(success)} | more


def test_steps_are_those_of_the_first_evaluation_that_reaches_the_level():
    of_seeds = curve([0.0, 0.1, 0.0], [0.9, 0.5, 0.2], [0.1, 0.95, 0.8])
    assert steps.steps_to(0.9, of_seeds).tolist() == [1_000, 2_000, np.inf]


def test_a_median_of_seeds_that_mostly_never_get_there_is_never():
    found = steps.median(np.array([1_000, np.inf, np.inf, np.inf]))
    assert np.isinf(found.value)
    assert found.text().startswith("never")


def test_equal_steps_have_the_ratio_one_without_doubt():
    assert steps.ratio(np.full(8, 3_000.0), np.full(8, 6_000.0)) == (0.5, 0.5, 0.5)


def test_the_interval_of_a_median_holds_the_middle_of_a_wide_sample():
    found = steps.median(np.arange(101.0))
    assert found.value == 50
    # The median of 101 uniform draws has a standard error of 100 / (2 sqrt(101)) = 5.
    assert 35 < found.low < 45
    assert 55 < found.high < 65


def test_a_difference_of_success_is_that_of_interquartile_means():
    found = steps.difference(np.array([0.0, 0.8, 0.8, 1.0]), np.array([0.5, 0.5, 0.5, 0.5]))
    assert found.value == pytest.approx(0.3)
    assert found.low <= 0.3 <= found.high


@pytest.mark.parametrize("place", plan.PLACES, ids=lambda place: place.name)
def test_every_run_that_is_planned_is_valid(place):
    planned = plan.online(place, MODELS)
    for tried in plan.search(place, MODELS).values():
        planned |= {run.name: run for run in tried.values()}
    assert len({run.name for run in planned.values()}) == len(planned)
    for run in planned.values():
        validation.validate(training.to_settings(training.settled(run.config)))


def test_all_but_dqn_weigh_or_take_the_prior_as_their_name_says():
    for what, run in plan.online(SALAD, MODELS).items():
        assert what.split()[0] in (plan.DQN, run.config.agent.trust)
        assert run.agent == (plan.DQN if what.startswith(plan.DQN) else plan.DQN_PRIOR)


def test_the_search_uses_other_seeds_than_the_report():
    reported = {run.config.seed for run in plan.online(SALAD, MODELS).values()}
    for tried in plan.search(SALAD, MODELS).values():
        assert reported.isdisjoint({run.config.seed for run in tried.values()})


def test_without_real_models_the_embedded_one_is_left():
    labels = {what for what in plan.online(SALAD, {}) if what.startswith(plan.LEARNED)}
    assert labels == {"learned embedded", "learned uniform", "learned embedded, reversed"}


def test_a_report_sets_each_prior_beside_its_dqn(tmp_path):
    seeds = [0.0] * 4
    results = {
        "online": {
            SALAD.name: {
                "dqn embedded": curve(seeds, seeds, [0.9] * 4),
                "learned embedded": curve(seeds, [0.95] * 4, [1.0] * 4, trust=[0.9] * 4),
                "learned embedded, reversed": curve(seeds, seeds, seeds, trust=[0.1] * 4),
            }
        },
        "offline": {
            "250": {
                "cql": curve([0.5] * 4),
                "learned": curve([0.7] * 4, trust=[0.8] * 4),
                "fixed": curve([0.6] * 4),
            }
        },
        "policies": {"gflan": curve([0.25] * 4)},
    }
    report.write(results, "a command", tmp_path)
    text = (tmp_path / report.FILE).read_text()
    learned = "| 1,000 [1,000, 1,000] | 0.50 [0.50, 0.50] | 1.00 [1.00, 1.00] | +0.10"
    assert learned in text
    assert "| never [never, never] | never [never, never] | 0.00 [0.00, 0.00] | -0.90" in text
    assert "| 250 | 0.50 [0.50, 0.50] | 0.70 [0.70, 0.70] | +0.20" in text
    assert "GFlan | 0: 0.25" in text
    assert (tmp_path / report.PICTURE).stat().st_size > 10_000
