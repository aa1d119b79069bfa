"""Several priors at once: how they are named, scored into one table, looked at, and weighed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import Lock, LockSource, prior_of
from test_experiment import SMALL

from llmprior_jax import agents, training
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import Asked, ScoredStates
from llmprior_jax.priors import PriorBatch, prompts
from llmprior_jax.training import config as configs
from llmprior_jax.training import prior_alone, validation
from llmprior_jax.training.build_agent import seen_by
from llmprior_jax.training.config import claim_workdir, priors_of, split_prompt
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.types import ActionPrior, TextState


def named(text: str) -> training.Config:
    config = training.default_config()
    training.name_priors(config, text)
    return config


def test_each_model_is_asked_as_suits_it():
    prior = training.to_settings(named("tiny,some/model")).prior
    (other,) = prior.others
    assert (prior.model, prior.prompt, prior.normalization) == ("tiny", "plain", "sum")
    assert (other.model, other.prompt, other.normalization) == ("some/model", "few_shot", "token")
    assert (prior.uniform_share, other.uniform_share) == (0.0, 0.2)


def test_a_prompt_may_be_named_with_its_model():
    prior = training.to_settings(named("some/model@story+chat,tiny@options")).prior
    assert (prior.model, prior.prompt) == ("some/model", "story+chat")
    assert (prior.others[0].model, prior.others[0].prompt) == ("tiny", "options")


def test_a_file_may_have_such_signs_in_its_name(tmp_path):
    path = tmp_path / "a@b,c.gguf"
    path.touch()
    assert split_prompt(str(path)) == (str(path), "")
    assert named(str(path)).prior.model == str(path)


def test_each_prior_alone_is_one_with_its_own_settings():
    prior = training.to_settings(named("tiny,some/model@story")).prior
    prior = dataclasses.replace(prior, reversed=True, temperature=2.0)
    first, second = priors_of(prior)
    assert first == dataclasses.replace(prior, others=())
    assert (second.model, second.prompt, second.normalization) == ("some/model", "story", "token")
    assert (second.temperature, second.reversed, second.others) == (2.0, False, ())


def test_a_directory_records_how_each_was_asked_and_goes_on_so(tmp_path, monkeypatch):
    config = named("tiny,some/model")
    claim_workdir(tmp_path, config)
    recorded = training.read_config(tmp_path)
    assert training.to_settings(recorded) == training.to_settings(config)
    monkeypatch.setitem(configs._ANY_OTHER, "normalization", "word")
    claim_workdir(tmp_path, config)
    (other,) = training.to_settings(training.settled(config, recorded)).prior.others
    assert other.normalization == "token"
    with pytest.raises(training.ConfigMismatchError, match=r"prior\.others"):
        claim_workdir(tmp_path, named("tiny,some/model@plain"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (({"model": "tiny", "promt": "plain"},), "promt"),
        (({"prompt": "plain"},), "names no model"),
        ((3,), "MODEL@PROMPT"),
    ],
)
def test_what_names_no_prior_is_refused(others, message):
    config = training.default_config()
    config.prior.others = others
    with pytest.raises(ValueError, match=message):
        training.to_settings(config)


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="empty"):
        named("tiny,,tiny@options")


@pytest.mark.parametrize("text", ["tiny@", "@plain"])
def test_half_a_name_is_refused(text):
    with pytest.raises(ValueError, match="MODEL@PROMPT"):
        training.to_settings(named(f"tiny,{text}"))


def test_spaces_between_names_are_none_of_them():
    assert training.to_settings(named("tiny, tiny@options")).prior.others[0].model == "tiny"


def test_a_prior_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="a second time"):
        training.to_settings(named("tiny@plain,tiny"))


def test_one_model_on_the_command_line_leaves_the_others_of_the_configuration():
    config = named("tiny,tiny@options")
    training.name_priors(config, "some/model")
    assert (config.prior.model, config.prior.others) == ("some/model", ("tiny@options",))
    with pytest.raises(ValueError, match="in one of the two"):
        training.name_priors(config, "tiny,some/model")


def test_a_share_of_nothing_is_not_what_a_directory_recorded(tmp_path):
    config = named("tiny,some/model")
    claim_workdir(tmp_path, config)
    config.prior.others = ({"model": "some/model", "uniform_share": 0.0},)
    with pytest.raises(training.ConfigMismatchError, match=r"prior\.others"):
        claim_workdir(tmp_path, config)


def test_nothing_is_mixed_into_any_prior_of_a_policy():
    prior = training.to_settings(named("some/model,some/model@story")).prior
    seen = seen_by("gflan_prior", prior)
    assert [seen.uniform_share, *(each.uniform_share for each in seen.others)] == [0.0, 0.0]
    assert seen_by("dqn_prior", prior) == prior


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent.trust": "fixed"}, "a single prior"),
        ({"agent.trust": "some"}, "'learned' or 'fixed'"),
        ({"prior.others": ({"model": "tiny", "uniform_share": 2.0},)}, "from 0 to 1"),
        ({"prior.others": ({"model": "tiny", "normalization": "letter"},)}, "letter"),
        ({"prior.others": ("tiny@opinions",)}, "opinions"),
        ({"prior.others": ("tiny@plain+think_first",)}, "propose"),
        ({"agents": ("prior", "dqn")}, "no agent weighs priors"),
    ],
)
def test_settings_of_several_priors_are_checked(changes, message):
    config = named("tiny,tiny@options")
    config.update_from_flattened_dict({"env": "FrozenLake-4x4"} | changes)
    with pytest.raises(ValueError, match=message):
        validation.validate(training.to_settings(config))


def locks(directory, *sources: LockSource) -> ScoredStates:
    first, *others = sources
    return ScoredStates(
        Lock(),
        lambda: np.arange(2, dtype=np.int32),
        first,
        prompts.plain,
        num_features=32,
        files=RowFiles(directory),
        others=[Asked(source, prompts.plain) for source in others],
    )


def test_a_row_has_the_priors_of_all_sources_and_is_read_back(tmp_path):
    scored = locks(tmp_path, LockSource(0.67), LockSource(0.2), LockSource(0.9))
    scored.load()
    scored.extend(np.array([3, 5], np.int32))
    wheels = np.array([0, 1, 3, 5])
    first, second, third = (np.asarray(prior_of(wheels, of).log_probs) for of in (0.67, 0.2, 0.9))
    again = locks(tmp_path, LockSource(0.67), LockSource(0.2), LockSource(0.9))
    again.load()
    for table in (scored.table, again.table):
        np.testing.assert_array_equal(table.log_probs[:4], first)
        np.testing.assert_array_equal(table.others[:4], np.stack([second, third], axis=1))


def test_rows_of_other_further_priors_are_refused(tmp_path):
    locks(tmp_path, LockSource(0.67), LockSource(0.2)).load()
    for sources in ([LockSource(0.67)], [LockSource(0.67), LockSource(0.2, "another's")]):
        with pytest.raises(ValueError, match="another source"):
            locks(tmp_path, *sources).load()


def test_further_priors_grow_with_the_table(tmp_path):
    class Far(LockSource):
        def score(self, asked):
            log_probs = np.log(np.full((len(asked), 2), [0.25, 0.75], np.float32))
            return PriorBatch(log_probs, np.zeros((len(asked), 2, 1), np.float32))

    class Line(Lock):
        num_actions = 3

        def text_state(self, observation):
            return TextState("Go.", f"You are at {int(observation)}.", (), ("left", "right"))

    scored = ScoredStates(
        Line(),
        lambda: np.arange(60, dtype=np.int32),
        Far(),
        prompts.plain,
        num_features=1,
        files=RowFiles(tmp_path),
        others=[Asked(Far(), prompts.plain)],
    )
    scored.load()
    scored.extend(np.arange(60, 200, dtype=np.int32))
    others = np.exp(np.asarray(scored.table.others))[:200, 0]
    np.testing.assert_allclose(others, np.tile([0.25, 0.75, 0.0], (200, 1)), rtol=1e-6)


def test_states_of_elsewhere_have_all_priors_too(tmp_path):
    scored = locks(tmp_path, LockSource(0.67), LockSource(0.2))
    scored.load()
    state = Lock().text_state(np.int32(4))
    prior = scored.score_states([state, state._replace(actions=())])
    np.testing.assert_array_equal(prior.others[0, 0], prior_of(np.array([4]), 0.2).log_probs[0])
    assert not np.isfinite(prior.others[1]).any()


def test_each_is_mixed_with_its_own_share_of_the_uniform_prior():
    sure, even = [0.0, -30.0, -jnp.inf], [jnp.log(0.5), jnp.log(0.5), -jnp.inf]
    others = jnp.array([sure, even])
    prior = ActionPrior(jnp.log(jnp.array([0.9, 0.1, 0.0])), jnp.zeros((3, 1)), others)
    mixed = agents.prior_transforms.others_mixed_with_uniform(prior, (0.5, 0.0))
    expected = [[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]]
    np.testing.assert_allclose(np.exp(mixed.others), expected, rtol=1e-5)
    np.testing.assert_array_equal(mixed.log_probs, prior.log_probs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, a_full_look):
    """The work directory of a run with two priors, the same model asked in two ways."""
    workdir = tmp_path_factory.mktemp("several") / "run"
    config = named("tiny,tiny@options")
    config.update_from_flattened_dict(SMALL | {"agents": ("dqn", "dqn_prior"), "num_steps": 320})
    training.run(config, workdir)
    return workdir


@pytest.mark.long
def test_the_weight_of_each_is_in_metrics_and_summary(finished):
    last = read_metrics(finished / "dqn_prior")[-1]
    np.testing.assert_allclose(np.add(last["trust_1"], last["trust_2"]), last["trust"], rtol=1e-5)
    summary = json.loads((finished / "summary.json").read_text())
    assert {"trust", "trust_1", "trust_2"} <= summary["dqn_prior"].keys()
    assert "trust" not in summary["dqn"]


@pytest.mark.long
def test_each_alone_is_looked_at_before_training(finished):
    before = json.loads((finished / "summary.json").read_text())["before_training"]
    assert before["asked"] == "plain, by sum"
    (other,) = before["others"]
    assert (other["model"], other["asked"]) == ("tiny", "options, by sum")
    assert other["prior alone"] != before["prior alone"]
    assert other["uniform"] == before["uniform"]


@pytest.mark.long
def test_an_agent_of_several_is_restored_and_weighs_them_in_each_state(finished):
    run = training.restore(finished, "dqn_prior", eval_episodes=4)
    decisions = list(run.play(0, jax.random.key(0)))
    assert decisions
    assert all(0 <= decision.trust <= 1 for decision in decisions)


def test_a_bad_one_among_several_is_warned_of_by_name(caplog):
    def policy(mean):
        by = {"mean": mean, "ci95": [mean - 0.01, mean + 0.01]}
        return {"success_rate": by, "return": by, "episodes": 9}

    good = {"prior alone": policy(0.9), "uniform": policy(0.5), "worse_by": None}
    worse = {"prior alone": policy(0.1), "uniform": policy(0.5), "worse_by": "success_rate"}
    settings = training.to_settings(named("tiny,some/model"))
    with caplog.at_level("WARNING"):
        prior_alone.warn({**good, "others": [worse]}, settings, "dqn_prior")
    assert "the prior of some/model alone is worse" in caplog.text
    assert "--prior=some/model" in caplog.text
    assert "the prior of tiny" not in caplog.text
