"""The experiments as data: valid, shared where they are the same, and of the size that is said."""

import collections
import pathlib

import pytest

from launch.paper import experiments, plan
from llmprior_jax import agents, training
from llmprior_jax.training.validation import validate

SCALES = {"full": experiments.FULL, "quick": experiments.QUICK}


@pytest.fixture(scope="module")
def inputs():
    found = experiments.find_inputs(pathlib.Path("runs"))
    names = ("games", "pick", "pick_large", "encoder")
    return found._replace(**{name: pathlib.Path(f"/made/{name}") for name in names})


@pytest.fixture(scope="module", params=SCALES)
def planned(request, inputs):
    return plan.make(SCALES[request.param], inputs)


def test_every_claim_is_about_runs_that_there_are(planned):
    for name, experiment in planned.items():
        labels = {run.label for run in experiment.runs}
        for claim in experiment.claims:
            assert {claim.method, claim.baseline} <= labels, name


def test_every_run_has_a_valid_configuration_of_one_agent(planned):
    for run in {run.name: run for told in planned.values() for run in told.runs}.values():
        validate(training.to_settings(run.config))
        assert len(run.config.agents) == 1


def test_a_curve_or_a_point_is_told_once(planned):
    for name, experiment in planned.items():
        places = collections.Counter((run.label, run.amount) for run in experiment.runs)
        assert max(places.values()) == 1, name


def test_the_default_is_trained_once_for_all_that_look_at_it(planned):
    def shared(*names: str) -> set[str]:
        return set.intersection(*({run.name for run in planned[n].runs} for n in names))

    assert len(shared("ablation-alpha", "ablation-backup", "ablation-candidates")) == 1
    assert len(shared("online-salad", "ablation-bad-prior")) == 2  # DQN and DQN-Prior


def test_runs_that_differ_have_names_of_their_own(inputs):
    runs = [run for told in plan.make(SCALES["full"], inputs).values() for run in told.runs]
    by_name = {run.name: run.config.to_json() for run in runs}
    assert len(set(by_name.values())) == len(by_name)


def test_the_full_report_has_the_seeds_that_it_is_to_have(inputs):
    planned = plan.make(SCALES["full"], inputs)
    few = ("BC", "Mem-Q, uniform prior")  # The first is no one's baseline, the second a control.
    # Other experiments look at some of these beside their own.
    claimed = {
        run.name
        for name in ("online-salad", "online-tomato-salad", "offline-salad")
        for run in planned[name].runs
        if run.label not in few
    }
    for name, experiment in planned.items():
        for run in experiment.runs:
            if agents.is_policy(run.config.agents[0]) or run.config.prior.refine.rounds:
                wanted = 5
            else:
                wanted = 64 if run.name in claimed else 16
            assert run.config.num_seeds == wanted, name


def test_what_claims_are_about_is_evaluated_in_both_modes(planned):
    for name, experiment in planned.items():
        labels = {label for claim in experiment.claims for label in (claim.method, claim.baseline)}
        for run in experiment.runs:
            if run.label in labels:
                assert run.config.eval_modes == ("sample", "greedy"), name


def test_what_is_left_out_for_want_of_an_engine_is_named(inputs, monkeypatch):
    monkeypatch.setenv("PATH", "")
    without_games = inputs._replace(games=None)
    planned = plan.make(experiments.QUICK, without_games)
    assert not [name for name in planned if "textworld" in name or "alfworld" in name]
    left_out = "\n".join(plan.left_out(without_games))
    assert "TextWorld Commonsense" in left_out
    assert "Java" in left_out
    assert "`alfworld`" in left_out
