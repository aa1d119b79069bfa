"""Training a policy that is a language model: rollouts, whole runs, and what ends them early.

The problem is a corridor, the model a random one of one layer: it goes either way, and must learn
to go to the far end.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corridor_env import PLACES, Corridor
from lock_env import CHECKPOINTED, LENGTH, NUM_ACTIONS, RIGHT, Lock, lock_table
from small_lm import small_lm

from llmprior_jax import agents, models, training
from llmprior_jax.learning.policy_gradient import _keep, _rollout
from llmprior_jax.play.actors import PolicyActor, check_actions
from llmprior_jax.play.rollouts import complete, make_roller
from llmprior_jax.play.stepping import reset_envs
from llmprior_jax.priors import CachedModel, prompts
from llmprior_jax.priors import table as tables
from llmprior_jax.training import build, experiment, validation
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.types import TextState

# --- Rollouts, of a policy that is a table --------------------------------------------------------

NUM_ENVS, NUM_STEPS = 3, 12
CONFIDENT = jnp.log(jnp.full((LENGTH, NUM_ACTIONS), 0.04).at[jnp.arange(LENGTH), RIGHT].set(0.8))


def table_agent() -> agents.PolicyAgent:
    """Goes on with probability 0.8 in each state, and values state i with i."""

    def read(state, frozen, rows):
        return CONFIDENT[rows], rows.astype(jnp.float32)

    return agents.PolicyAgent(lambda key: (), read, lambda *arguments: (arguments[0], {}))


def roll(known: np.ndarray, one_episode: bool = False, max_steps: int = 2 * LENGTH):
    """A rollout in the lock, begun with only some states in the table."""
    env = Lock()
    params = env.default_params.replace(max_steps_in_episode=max_steps)
    actor = PolicyActor(table_agent(), None, env.text_state, prompts.plain)
    roller = make_roller(env, params, actor.in_rollouts, NUM_STEPS, _keep, one_episode=one_episode)
    table = lock_table(0.9, known)
    envs = reset_envs(env, params, jax.random.key(3), NUM_ENVS)
    progress = roller.start((), ((), table.observations), envs, (), table)
    advance = jax.jit(roller.advance)

    def advance_known(progress):
        # What the policy reads of a state is the wheel, row by row of the table.
        return advance(progress, (), ((), table.observations), table)

    def fill(missing) -> bool:
        nonlocal table
        met = np.unique(np.asarray(missing.observation)[np.asarray(missing.is_missing)])
        if met.size:
            table = tables.insert(table, met, lock_prior(met))
        return bool(met.size)

    progress = complete(progress, advance_known, fill)
    return progress, _rollout(progress, table), table


def lock_prior(wheels):
    table = lock_table(0.9, wheels)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(wheels)], tables.rows(table))


@pytest.fixture(scope="module")
def rolled():
    return roll(np.arange(LENGTH, dtype=np.int32))


def test_a_rollout_records_what_happened(rolled):
    progress, rollout, table = rolled
    wheel = np.asarray(table.observations)[np.asarray(rollout.row)]
    right = np.asarray(rollout.action) == RIGHT[wheel]
    np.testing.assert_array_equal(rollout.terminated, ~right | (wheel == LENGTH - 1))
    # After a right action comes the next wheel, after an end the first.
    expected = np.where(np.asarray(rollout.terminated), 0, wheel + 1)[:-1]
    np.testing.assert_array_equal(wheel[1:], expected)
    np.testing.assert_array_equal(rollout.value, wheel)
    np.testing.assert_allclose(rollout.log_prob, np.log(np.where(right, 0.8, 0.04)), rtol=1e-5)
    kl = 0.8 * np.log(0.8 / 0.9) + 0.2 * np.log(0.04 / 0.02)
    np.testing.assert_allclose(rollout.kl, kl, rtol=1e-4)
    last = np.asarray(progress.envs.observation)
    np.testing.assert_array_equal(rollout.last_value, last)


def test_a_rollout_does_not_depend_on_when_its_states_became_known(rolled):
    _, rollout, table = rolled
    _, later, later_table = roll(np.array([0], np.int32))
    for name in ("action", "log_prob", "value", "reward", "terminated", "last_value"):
        np.testing.assert_array_equal(getattr(later, name), getattr(rollout, name), err_msg=name)
    np.testing.assert_array_equal(
        np.asarray(later_table.observations)[np.asarray(later.row)],
        np.asarray(table.observations)[np.asarray(rollout.row)],
    )


def test_a_time_limit_records_the_value_of_the_state_reached():
    _, rollout, _ = roll(np.arange(LENGTH, dtype=np.int32), max_steps=2)
    assert rollout.truncated.any()
    # A time limit of two steps is met at wheel 1, by a right action: wheel 2 is reached.
    np.testing.assert_array_equal(rollout.reached_value, np.where(rollout.truncated, 2.0, 0.0))
    assert not (rollout.truncated & rollout.terminated).any()


def test_one_episode_ends_at_its_first_end(rolled):
    progress, rollout, _ = roll(np.arange(LENGTH, dtype=np.int32), one_episode=True)
    whole = rolled[1]
    terminated = np.asarray(whole.terminated)
    first_end = terminated.argmax(axis=0)
    assert terminated.any(axis=0).all()
    np.testing.assert_array_equal(progress.time, first_end + 1)
    np.testing.assert_array_equal(
        np.asarray(rollout.reward).sum(axis=0),
        np.asarray(whole.reward)[first_end, np.arange(NUM_ENVS)],
    )


# --- Whole runs -----------------------------------------------------------------------------------


def corridor_config(**changes) -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "agents": ("prior", "gflan_prior"),
            "num_seeds": 2,
            "num_steps": 640,
            "eval_every": 128,
            "eval_episodes": 32,
            "eval_modes": ("sample", "greedy"),
            "checkpoint.every": 1,
            "loop.num_envs": 8,
            "prior.num_features": 4,
            "policy.num_envs": 8,
            "policy.rollout_steps": 8,
            "policy.learning_rate": 0.01,
            "policy.minibatch_states": 4,
            "policy.hidden_sizes": (),
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def corridor():
    """The corridor as the environment of all runs, and the small model as all models."""
    env = Corridor()
    asked = [prompts.plain(env.text_state(place)) for place in range(PLACES)]
    lm = small_lm([text for prompt in asked for text in (prompt.text, *prompt.actions)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.envs, "make", lambda name, **kwargs: (env, env.default_params))
        patch.setattr(models, "load", lambda name, dtype=None, **how: lm)
        patch.setattr(models, "fingerprint", lambda name, **kwargs: lm.fingerprint)
        yield env


@pytest.fixture(scope="module")
def finished(corridor, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("corridor") / "finished"
    training.run(corridor_config(), workdir)
    return workdir


def final_state(workdir):
    return training.restore(workdir, "gflan_prior", eval_episodes=8).state


def assert_same_bits(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_a_language_model_learns_by_reward_what_it_did_not_know(finished):
    records = {name: read_metrics(finished / name) for name in ("prior", "gflan_prior")}
    assert np.max(records["prior"][0]["success_rate"]) < 0.8
    np.testing.assert_allclose(
        records["gflan_prior"][0]["success_rate"], records["prior"][0]["success_rate"], atol=0.3
    )
    last = records["gflan_prior"][-1]
    assert last["step"] == 640
    assert np.min(last["success_rate"]) > 0.9
    assert np.min(last["greedy_success_rate"]) == 1, "one side is always likelier"
    assert np.min(last["kl"]) > 0.1, "the divergence from the prior was not told"


@pytest.mark.long
def test_a_policy_is_warned_of_the_prior_that_it_begins_as_which_nothing_is_mixed_into(
    finished, tmp_path
):
    changes = {"agents": ("gflan_prior",), "num_steps": 128, "prior.uniform_share": 1.0}
    training.run(corridor_config(**changes), tmp_path)
    of_mixed, as_it_is = (
        json.loads((workdir / "summary.json").read_text())["before_training"]
        for workdir in (tmp_path, finished)
    )
    assert of_mixed == as_it_is
    assert of_mixed["asked"] == "plain, by sum"


@pytest.mark.long
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(finished, tmp_path):
    def three_segments_are_over() -> bool:
        return len(read_metrics(tmp_path / "gflan_prior")) > 3

    with pytest.raises(experiment.InterruptedRunError):
        training.run(corridor_config(), tmp_path, should_stop=three_segments_are_over)
    assert read_metrics(tmp_path / "gflan_prior")[-1]["step"] < 640
    training.run(corridor_config(), tmp_path)
    assert_same_bits(final_state(tmp_path), final_state(finished))
    assert read_metrics(tmp_path / "gflan_prior") == read_metrics(finished / "gflan_prior")


def test_the_policy_reads_history_that_only_the_prior_has_no_room_for(
    corridor, tmp_path, monkeypatch
):
    builders = []

    class Spy(PolicyActor):
        def __init__(self, agent, model, text_state, build_prompt):
            builders.append(build_prompt)
            super().__init__(agent, model, text_state, build_prompt)

    monkeypatch.setattr(build, "PolicyActor", Spy)
    monkeypatch.setattr(CachedModel, "fits", lambda self, prompt: False)
    settings = training.to_settings(corridor_config())
    priors = build.make_priors(settings, corridor, corridor.default_params, tmp_path)
    build.make_run("gflan", settings, corridor, corridor.default_params, priors)
    state = TextState("Leave.", "a hall", (("a cellar", "go up"),), ("go out", "wait"))
    assert "a cellar" not in priors.scored.build_prompt(state).text
    assert "a cellar" in builders[0](state).text


def test_with_low_rank_adaptation_a_checkpoint_has_the_factors_alone(corridor, tmp_path):
    config = corridor_config(**{"policy.lora_rank": 2})
    env_params = corridor.default_params
    settings = training.to_settings(config)
    priors = build.make_priors(settings, corridor, env_params, tmp_path)
    run = build.make_run("gflan", settings, corridor, env_params, priors)
    factors = run.state.agent.params.policy
    assert len(factors) == 7, "the linear layers of one block"
    for leaf in jax.tree.leaves(run.state.agent):
        # The smallest matrix of the model is 16 x 8.
        assert leaf[0].size < 128, f"a leaf of shape {leaf.shape[1:]} is no factor of rank 2"


@pytest.mark.long
def test_a_checkpoint_has_what_those_of_all_runs_have_and_counts_go_on(corridor, tmp_path):
    config = corridor_config(**{"agents": ("gflan",), "num_seeds": 1, "eval_every": 64})
    settings = training.to_settings(config)

    def make_run():
        priors = build.make_priors(settings, corridor, corridor.default_params, tmp_path)
        return build.make_run("gflan", settings, corridor, corridor.default_params, priors)

    run, resumed = make_run(), make_run()
    run.train()
    run.scored.counts["prompts_cut"] = 7
    meta = run.meta()
    assert set(meta) == CHECKPOINTED
    resumed.restore(run.state, meta)
    assert resumed.meta() == meta
    assert resumed.scored.metrics()["prompts_cut"] == 7


@pytest.mark.long
def test_unseen_games_are_judged_apart(corridor, tmp_path, monkeypatch):
    config = corridor_config(**{"agents": ("gflan",), "num_seeds": 1, "eval_episodes": 4})
    params = corridor.default_params
    settings = training.to_settings(config)
    unseen = params.replace(max_steps_in_episode=1)
    monkeypatch.setattr(build, "unseen_params", lambda environment, env_params: unseen)
    priors = build.make_priors(settings, corridor, params, tmp_path)
    run = build.make_run("gflan", settings, corridor, params, priors)
    results = run.evaluate()
    assert results["unseen_episode_length"] == 1 < results["episode_length"]
    assert results["unseen_success_rate"] == 0


def test_an_episode_is_played_by_the_policy(finished):
    run = training.restore(finished, "gflan_prior", eval_episodes=8)
    decisions = list(run.play(0, jax.random.key(0)))
    assert 1 <= len(decisions) <= 6
    for decision in decisions:
        assert decision.posterior.sum() == pytest.approx(1, abs=1e-5)
        assert decision.text.actions[decision.action] in ("turn left", "go right")
    assert decisions[0].posterior[1] > 0.8 > decisions[0].prior[1]
    assert decisions[-1].success


# --- Bad input ------------------------------------------------------------------------------------


def test_a_policy_and_a_prior_with_different_actions_are_refused():
    states = [Corridor().text_state(place) for place in range(2)]
    three = np.log(np.full((2, 3), 1 / 3))
    three[0, 2] = -np.inf
    check_actions(states[:1], three[:1])
    wrong = r"2 actions \(turn left, go right\) .* the prior gives a probability to 3"
    with pytest.raises(ValueError, match=wrong):
        check_actions(states, three)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_every": 100}, "use a multiple of 64"),
        ({"policy.num_envs": 0}, "config.policy.num_envs is 0"),
        ({"policy.lora_rank": -1}, "config.policy.lora_rank is -1"),
        ({"offline.dataset": "data.parquet"}, "gflan learns online only"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    config = corridor_config(**{"agents": ("gflan",), "loop.num_envs": 4, **changes})
    with pytest.raises(ValueError, match=message):
        validation.validate(training.to_settings(config))
