"""Learning offline: values make up for bad data, and a run is what its subset and seed say."""

import functools

import jax
import numpy as np
import pytest
from lock_env import CHECKPOINTED, Lock, LockSource, scored_lock

from llmprior_jax import datasets, training
from llmprior_jax.learning.offline import OfflineRun, in_used_slots
from llmprior_jax.play import collecting
from llmprior_jax.play.collecting import Part
from llmprior_jax.training import build, known_states
from llmprior_jax.types import ActionPrior

LOCK = Lock()
SEEDS = 4


@pytest.fixture(scope="module")
def expert():
    return collecting.expert_behavior(LOCK, LOCK.default_params)


@functools.cache
def collected(expert, epsilon: float) -> datasets.Dataset:
    mixture = [Part(expert, 1.0, epsilon)]
    return collecting.collect(LOCK, LOCK.default_params, mixture, num_transitions=2_000)


def make_run(name: str, dataset, confidence: float = 0.9, **changes) -> OfflineRun:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "num_seeds": SEEDS,
            "num_steps": 2_000,
            "eval_every": 1_000,
            "agent.learning_rate": 3e-3,
            "agent.alpha": 0.1,
            "agent.beta": 0.03,
        }
        | changes
    )
    scored = scored_lock("nowhere", LockSource(confidence), read_only=True)
    known = build.Priors(model=None, build_prompt=None, scored=scored)
    settings = training.to_settings(config)
    return build.make_run(name, settings, LOCK, LOCK.default_params, known, dataset)


def success(run: OfflineRun) -> np.ndarray:
    while run.steps < run.num_steps:
        run.train()
    return run.evaluate()["success_rate"]


@pytest.mark.long
def test_a_run_stops_where_it_says(expert):
    run = make_run("bc", collected(expert, 0.5), num_steps=50, eval_every=40)
    taken = []
    while run.steps < run.num_steps:
        run.train()
        taken.append(run.steps)
    assert taken == [40, 50]


def test_from_bad_data_cql_opens_the_lock_and_cloning_does_not(expert):
    # Of the actions at each wheel 58% are right, so cloning opens it in 1% of episodes.
    dataset = collected(expert, 0.5)
    assert (success(make_run("cql", dataset)) > 0.8).all()
    assert (success(make_run("bc", dataset)) < 0.1).all()


def test_seeds_learn_from_subsets_of_their_own_which_are_nested(expert):
    dataset = collected(expert, 0.5)
    small, large = (make_run("bc", dataset, **{"offline.size": size}).state for size in (50, 100))
    assert small.count.tolist() == [50] * SEEDS
    np.testing.assert_array_equal(small.order, large.order)
    assert len({tuple(order[:50]) for order in np.asarray(small.order).tolist()}) == SEEDS


def test_nothing_beyond_the_subset_is_learned_from(expert):
    dataset = collected(expert, 0.5)
    run = make_run("cql_prior", dataset, **{"offline.size": 10, "num_seeds": 1})
    outside = np.asarray(run.state.order[0])[10:]
    spoiled = dataset._replace(
        reward=np.where(np.isin(np.arange(dataset.num_transitions), outside), 99.0, dataset.reward)
    )
    other = make_run("cql_prior", spoiled, **{"offline.size": 10, "num_seeds": 1})
    run.train(), other.train()
    for left, right in zip(
        jax.tree.leaves(run.state.agent), jax.tree.leaves(other.state.agent), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.long
def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(expert):
    dataset = collected(expert, 0.5)
    straight, first, second = (make_run("cql_prior", dataset) for _ in range(3))
    straight.train(), straight.train()
    first.train()
    second.restore(first.state, first.meta())
    second.train()
    assert second.steps == straight.steps == 2_000
    for left, right in zip(
        jax.tree.leaves(second.state), jax.tree.leaves(straight.state), strict=True
    ):
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(left, right)


@pytest.mark.long
@pytest.mark.parametrize("name", ["cql_prior", "dqn_prior"])
def test_a_checkpoint_has_what_those_of_all_runs_have_and_counts_go_on(expert, name):
    dataset = collected(expert, 0.5) if name == "cql_prior" else None
    run, resumed = (make_run(name, dataset) for _ in range(2))
    run.train()
    run.scored.counts["prompts_cut"] = 7
    meta = run.meta()
    assert set(meta) == CHECKPOINTED
    resumed.restore(run.state, meta)
    assert resumed.meta() == meta
    assert resumed.scored.metrics() == {"prompts_cut": 7}


def test_a_dataset_that_changed_between_stop_and_resume_is_refused(expert):
    dataset = collected(expert, 0.5)
    first = make_run("bc", dataset)
    reward = dataset.reward.copy()
    reward[-1] += 1.0
    second = make_run("bc", dataset._replace(reward=reward))
    with pytest.raises(ValueError, match="transitions have changed since"):
        second.restore(first.state, first.meta())


def reworded(dataset, num_states):
    """The dataset with another observation in so many states in which nothing ended."""
    states = [*dataset.states]
    for row in np.unique(dataset.row)[:num_states].tolist():
        states[row] = states[row]._replace(observation=f"Room {row}.")
    return dataset._replace(states=tuple(states))


@pytest.mark.parametrize(("last_action", "slots"), [(1, 3), (4, 5)])
def test_slots_that_no_state_uses_are_not_computed(last_action, slots):
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[0.5, 0.5, 0, 0, 0, 0], [0.5, 0.25, 0.25, 0, 0, 0]]))
    features = np.arange(12.0).reshape(2, 6, 1)
    prior = ActionPrior(log_probs, features, others=log_probs[:, None])
    used = in_used_slots(prior, np.array([0, last_action]))
    np.testing.assert_array_equal(used.log_probs, log_probs[:, :slots])
    np.testing.assert_array_equal(used.features, features[:, :slots])
    np.testing.assert_array_equal(used.others, log_probs[:, None, :slots])


def test_a_slot_that_only_another_prior_uses_is_kept():
    with np.errstate(divide="ignore"):
        log_probs, other = np.log([[1.0, 0.0, 0.0, 0.0]]), np.log([[[0.25, 0.5, 0.25, 0.0]]])
    prior = ActionPrior(log_probs, np.ones((1, 4, 1)), others=other)
    used = in_used_slots(prior, np.array([0]))
    np.testing.assert_array_equal(used.others, other[..., :3])


def test_states_that_the_environment_lacks_are_warned_of(expert, caplog):
    dataset = collected(expert, 0.5)
    known_states.check(dataset, LOCK, "lock.jsonl")
    assert not caplog.records
    known_states.check(reworded(dataset, 1), LOCK, "lock.jsonl")
    (record,) = caplog.records
    assert "lock.jsonl" in record.message
    assert "Room 0." in record.message


def test_a_dataset_of_another_environment_is_refused(expert):
    dataset = collected(expert, 0.5)
    foreign = reworded(dataset, len(dataset.states))
    used = len(np.union1d(dataset.row, dataset.next_row[~dataset.terminated]))
    with pytest.raises(ValueError, match=rf"lock.jsonl: 0 of its {used} states \(0%\)"):
        known_states.check(foreign, LOCK, "lock.jsonl")


def test_a_run_refuses_a_dataset_of_another_environment(expert, tmp_path):
    path = tmp_path / "lock.jsonl"
    datasets.write(path, collected(expert, 0.5))
    config = training.default_config()
    config.env, config.agents, config.offline.dataset = "FrozenLake-4x4", ("cql",), str(path)
    config.offline.size = 10
    with pytest.raises(ValueError, match="worded as the environment words them"):
        training.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
