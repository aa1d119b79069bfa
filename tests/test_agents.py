"""DQN-Prior and its baselines on one state at a time: what they do before and after learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax import agents
from llmprior_jax.agents import Transitions
from llmprior_jax.types import ActionPrior

A, D = 4, 6
LOG_PROBS = jnp.log(jnp.array([0.6, 0.3, 0.1, 0.0]))
FEATURES = jax.random.normal(jax.random.key(0), (A, D)) * jnp.array([1, 1, 1, 0])[:, None]
STATE = ActionPrior(LOG_PROBS, FEATURES)


def bandit(rewards: jnp.ndarray, action: jnp.ndarray, weight: jnp.ndarray | None = None):
    """Transitions of a one-step problem."""
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(action), *leaf.shape)), STATE)
    return Transitions(
        prior=batch,
        action=action,
        reward=rewards[action],
        terminated=jnp.ones(len(action), bool),
        next_prior=batch,
        weight=jnp.ones(len(action)) if weight is None else weight,
    )


def learned(agent: agents.Agent, transitions: Transitions, updates: int = 300):
    state = agent.init(jax.random.key(0), STATE)

    @jax.jit
    def update_all(state):
        def step(state, key):
            return agent.update(state, key, transitions)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), updates))[0]

    return update_all(state)


def test_before_learning_dqn_prior_acts_by_the_prior():
    agent = agents.dqn_prior()
    view = agent.policy(agent.init(jax.random.key(0), STATE), STATE)
    np.testing.assert_allclose(view.log_probs, LOG_PROBS, atol=1e-6)
    np.testing.assert_array_equal(view.q_values, 0.0)


def test_before_learning_dqn_acts_uniformly_over_the_admissible_actions():
    agent = agents.make("dqn")
    view = agent.policy(agent.init(jax.random.key(0), STATE), STATE)
    np.testing.assert_allclose(np.exp(view.log_probs), [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


def test_without_its_penalty_cql_prior_learns_what_dqn_prior_learns():
    batch = bandit(jnp.array([0.1, 0.9, -0.5, 0.0]), jnp.array([0, 1, 2]))
    with_penalty, without, dqn = (
        agent.policy(learned(agent, batch, updates=50), STATE).q_values
        for agent in (agents.cql_prior(beta=1.0), agents.cql_prior(beta=0.0), agents.dqn_prior())
    )
    np.testing.assert_allclose(without[:3], dqn[:3], atol=1e-5)
    assert np.abs(with_penalty - without).max() > 0.1


def test_the_penalty_alone_makes_the_policy_that_of_the_data():
    # Rewards are 0 and beta is large: p(a) exp(Q(a)/alpha) becomes the frequencies 1/4, 1/4, 1/2.
    batch = bandit(jnp.zeros(A), jnp.array([0, 1, 2, 2]))
    agent = agents.cql_prior(beta=1000.0, alpha=0.3, learning_rate=1e-2)
    view = agent.policy(learned(agent, batch, updates=1000), STATE)
    np.testing.assert_allclose(np.exp(view.log_probs), [0.25, 0.25, 0.5, 0.0], atol=0.03)


def test_in_states_without_data_cql_prior_knows_what_to_do_and_cql_does_not():
    # One state has data. In 64 others, whose features say nothing, the prior is right at 0.9.
    keys = jax.random.split(jax.random.key(2))
    right = jax.random.randint(keys[0], (64,), 0, 3)
    log_probs = jnp.where(jnp.arange(A) == right[:, None], jnp.log(0.9), jnp.log(0.05))
    unseen = ActionPrior(log_probs.at[:, 3].set(-jnp.inf), jax.random.normal(keys[1], (64, A, D)))
    batch = bandit(jnp.array([0.1, 0.9, -0.5, 0.0]), jnp.array([0, 1, 2]))

    def probability_of_right(name):
        agent = agents.make(name, alpha=0.3, beta=0.1, learning_rate=3e-3)
        state = learned(agent, batch)
        assert np.argmax(agent.policy(state, STATE).log_probs) == 1, "nothing was learned"
        policies = jax.vmap(agent.policy, in_axes=(None, 0))(state, unseen).log_probs
        return float(jnp.exp(jnp.take_along_axis(policies, right[:, None], axis=1)).mean())

    assert probability_of_right("cql_prior") > 0.6
    assert probability_of_right("cql") < 0.45


@pytest.mark.parametrize("name", ["bc", "bc_prior"])
def test_cloning_gives_the_frequencies_of_the_data_whatever_the_rewards(name):
    batch = bandit(jnp.array([5.0, 0.0, -5.0, 0.0]), jnp.array([0, 1, 2, 2]))
    agent = agents.make(name, learning_rate=1e-2)
    view = agent.policy(learned(agent, batch), STATE)
    np.testing.assert_allclose(np.exp(view.log_probs), [0.25, 0.25, 0.5, 0.0], atol=0.01)


@pytest.mark.parametrize(("name", "expected"), [("bc", [1 / 3] * 3), ("bc_prior", [0.6, 0.3, 0.1])])
def test_before_cloning_the_policy_is_the_prior(name, expected):
    agent = agents.make(name)
    view = agent.policy(agent.init(jax.random.key(0), STATE), STATE)
    np.testing.assert_allclose(np.exp(view.log_probs), [*expected, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["dqn_prior", "dqn"])
def test_q_of_a_one_step_problem_is_the_reward(name):
    rewards = jnp.array([0.1, 0.9, -0.5, 0.0])
    agent = agents.make(name, learning_rate=1e-2)
    state = learned(agent, bandit(rewards, jnp.array([0, 1, 2])))
    values = agent.policy(state, STATE).q_values
    np.testing.assert_allclose(values[:3], rewards[:3], atol=0.02)


def test_the_learned_policy_is_the_posterior_of_prior_and_q():
    rewards = jnp.array([0.0, 0.1, 0.2, 0.0])
    agent = agents.dqn_prior(alpha=0.1, learning_rate=1e-2)
    view = agent.policy(learned(agent, bandit(rewards, jnp.array([0, 1, 2]))), STATE)
    weights = np.exp(np.asarray(LOG_PROBS)) * np.exp(np.asarray(view.q_values) / 0.1)
    weights[3] = 0.0
    np.testing.assert_allclose(np.exp(view.log_probs), weights / weights.sum(), rtol=1e-4)


def test_entries_of_weight_zero_teach_nothing():
    rewards = jnp.array([0.1, 0.9, -0.5, 0.0])
    agent = agents.dqn_prior(learning_rate=1e-2)
    wrong = bandit(rewards + 5.0, jnp.array([0, 1, 2]))
    right = bandit(rewards, jnp.array([0, 1, 2]))
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), right, wrong)
    both = both._replace(weight=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    values = agent.policy(learned(agent, both), STATE).q_values
    np.testing.assert_allclose(values[:3], rewards[:3], atol=0.02)


def test_the_value_of_the_next_state_is_bootstrapped_unless_it_is_terminal():
    agent = agents.dqn_prior(learning_rate=1e-2, discount=0.5, target_rate=0.1)
    batch = bandit(jnp.ones(A), jnp.array([0, 1, 2]))._replace(terminated=jnp.zeros(3, bool))
    values = agent.policy(learned(agent, batch, updates=1500), STATE).q_values
    # All actions are worth the same: Q = 1 + 0.5 Q.
    np.testing.assert_allclose(values[:3], 2.0, atol=0.05)


@pytest.mark.parametrize("name", ["dqn_prior", "dqn", "cql_prior", "bc", "prior", "random"])
@pytest.mark.parametrize("num_candidates", [None, 2])
def test_no_agent_takes_an_action_that_is_not_there(name, num_candidates):
    agent = agents.make(name, num_candidates=num_candidates)
    state = agent.init(jax.random.key(0), STATE)
    keys = jax.random.split(jax.random.key(1), 500)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))(state, keys, STATE)
    assert set(np.asarray(taken).tolist()) == {0, 1, 2}


def test_the_actions_of_the_prior_alone_have_its_frequencies():
    agent = agents.prior_alone()
    keys = jax.random.split(jax.random.key(1), 4000)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))((), keys, STATE)
    frequencies = np.bincount(np.asarray(taken), minlength=A) / 4000
    np.testing.assert_allclose(frequencies, np.exp(LOG_PROBS), atol=0.04)  # five standard errors


def test_candidates_are_drawn_from_the_prior_and_then_weighed_by_q():
    rewards = jnp.array([0.0, 0.0, 1.0, 0.0])
    agent = agents.dqn_prior(num_candidates=2, alpha=0.01, learning_rate=1e-2)
    state = learned(agent, bandit(rewards, jnp.array([0, 1, 2])))
    keys = jax.random.split(jax.random.key(1), 4000)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))(state, keys, STATE)
    # The best action is taken whenever one of the two draws is it: 1 - 0.9^2.
    assert abs(float((taken == 2).mean()) - 0.19) < 0.035


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("alpha", 0.0, r"alpha is 0\.0; use a number from 1e-30 to 1e\+30"),
        ("alpha", float("nan"), "alpha is nan"),
        ("backup", "mean", "backup is 'mean'; use one of posterior, soft, max"),
        ("discount", 1.5, "discount is 1.5; use a number from 0 to 1"),
        ("num_candidates", -1, "num_candidates is -1"),
        ("num_candidates", 1.5, "num_candidates is 1.5; use a whole number"),
        ("alpha", 1e-300, "alpha is 1e-300"),
        ("learning_rate", float("inf"), "learning_rate is inf"),
        ("learning_rate", 1e39, r"learning_rate is 1e\+39"),
        ("max_grad_norm", 0, "max_grad_norm is 0"),
        ("max_grad_norm", float("nan"), "max_grad_norm is nan"),
        ("target_rate", float("nan"), "target_rate is nan"),
        ("hidden_sizes", (64, 0.5), "an entry of hidden_sizes is 0.5"),
    ],
)
def test_parameters_out_of_range_are_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        agents.dqn_prior(**{argument: value})


def test_cql_prior_refuses_a_negative_penalty():
    with pytest.raises(ValueError, match="beta is -1; use 0, or a number from"):
        agents.cql_prior(beta=-1)


def test_an_argument_that_no_agent_has_is_refused_and_others_are_ignored():
    with pytest.raises(TypeError, match="no agent has an argument 'bta'; did you mean 'beta'"):
        agents.make("prior", bta=1.0)
    agents.make("dqn_prior", beta=1.0)


def kl_after(alpha: float) -> float:
    """KL(pi || p) of the softmax p(a) exp(q(a)/alpha), written out."""
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.0, 0.5, 1.0])
    policy = p * np.exp(q / alpha)
    policy /= policy.sum()
    return float(np.sum(policy * np.log(policy / p)))


def test_an_adapted_temperature_finds_the_target_divergence():
    adapted = agents.temperature.adapted(0.5, initial=5.0, learning_rate=0.02)
    log_probs, q_values = LOG_PROBS[None], jnp.array([[0.0, 0.5, 1.0, 9.0]])

    def step(state, _):
        return adapted.update(state, log_probs, q_values, jnp.ones(1))[0], None

    state, _ = jax.lax.scan(step, adapted.init(), length=2000)
    assert abs(kl_after(float(adapted.value(state))) - 0.5) < 0.01


def test_an_adapted_temperature_stops_at_its_minimum_where_q_is_flat():
    adapted = agents.temperature.adapted(0.5, initial=0.1, minimum=0.05, learning_rate=0.1)
    state = adapted.init()
    for _ in range(20):
        state, _ = adapted.update(state, LOG_PROBS[None], jnp.zeros((1, A)), jnp.ones(1))
    assert abs(float(adapted.value(state)) - 0.05) < 1e-6


def test_a_scheduled_temperature_counts_updates():
    schedule = agents.temperature.scheduled(lambda count: 1.0 / (1 + count))
    agent = agents.dqn_prior(alpha=schedule)
    state = learned(agent, bandit(jnp.zeros(A), jnp.array([0, 1, 2])), updates=9)
    assert abs(float(schedule.value(state.temperature)) - 0.1) < 1e-6


def test_a_temperature_is_chosen_by_what_is_given():
    fixed = agents.temperature.choose(0.1)
    assert float(fixed.value(fixed.init())) == pytest.approx(0.1)
    schedule = agents.temperature.choose(0.1, initial=0.5, num_updates=4)
    assert float(schedule.value(jnp.int32(1))) == pytest.approx(0.4)
    assert float(schedule.value(jnp.int32(9))) == pytest.approx(0.1)
    adapted = agents.temperature.choose(0.1, target_kl=0.5)
    assert float(adapted.value(adapted.init())) == pytest.approx(0.1)
    _, metrics = adapted.update(adapted.init(), LOG_PROBS[None], jnp.zeros((1, A)), jnp.ones(1))
    assert float(metrics["alpha"]) < 0.1  # Q is flat, so only a smaller alpha leads away.


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"initial": 1.0}, "has no number of updates; give both, or neither"),
        ({"num_updates": 5}, "has no initial alpha; give both, or neither"),
        ({"initial": 0.0, "num_updates": 5}, "initial is 0.0; use a number from"),
        ({"initial": 1.0, "num_updates": 0}, "num_updates is 0; use a whole number from 1"),
        ({"initial": 1.0, "num_updates": 5, "target_kl": 0.1}, "both a schedule and a target_kl"),
        ({"target_kl": 0.0}, "target_kl is 0.0; use a number from"),
        ({"target_kl": float("inf")}, "target_kl is inf; use a number from"),
        ({"target_kl": -0.1}, "target_kl is -0.1; use a number from"),
    ],
)
def test_temperatures_that_contradict_themselves_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        agents.temperature.choose(0.1, **numbers)


def test_an_unknown_agent_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'dqn_prior'"):
        agents.make("dqn_pior")


def of_probabilities(*probabilities: float) -> ActionPrior:
    log_probs = jnp.log(jnp.array(probabilities))
    return ActionPrior(log_probs, jnp.zeros((len(probabilities), 1)))


def test_a_prior_mixed_with_uniform_by_hand():
    mixed = agents.prior_transforms.mixed_with_uniform(of_probabilities(0.9, 0.1, 0.0), 0.5)
    # Two actions exist: half of (0.9, 0.1) and half of (0.5, 0.5).
    np.testing.assert_allclose(np.exp(mixed.log_probs), [0.7, 0.3, 0.0], rtol=1e-6)


def test_a_reversed_prior_by_hand():
    reversed_prior = agents.prior_transforms.reversed_order(of_probabilities(0.6, 0.0, 0.3, 0.1))
    np.testing.assert_allclose(np.exp(reversed_prior.log_probs), [0.1, 0.0, 0.3, 0.6], rtol=1e-6)


def test_reversing_twice_and_mixing_nothing_change_nothing_and_uniform_stays_uniform():
    prior = of_probabilities(0.6, 0.0, 0.3, 0.1)
    twice = agents.prior_transforms.reversed_order(agents.prior_transforms.reversed_order(prior))
    np.testing.assert_array_equal(twice.log_probs, prior.log_probs)
    alike = agents.prior_transforms.mixed_with_uniform(prior, 0.0)
    np.testing.assert_allclose(alike.log_probs, prior.log_probs, rtol=1e-6)
    flat = agents.uniform(prior)
    mixed = agents.prior_transforms.mixed_with_uniform(flat, 0.3)
    np.testing.assert_allclose(mixed.log_probs, flat.log_probs, rtol=1e-6)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"share of the uniform distribution is 1\.5"):
        agents.prior_transforms.mixed_with_uniform(of_probabilities(1.0), 1.5)


def test_an_agent_acts_by_the_prior_it_was_given():
    agent = agents.with_prior(agents.prior_alone(), agents.prior_transforms.reversed_order)
    policy = agent.policy((), of_probabilities(0.8, 0.2))
    np.testing.assert_allclose(np.exp(policy.log_probs), [0.2, 0.8], rtol=1e-6)


def test_a_policy_has_the_prior_that_the_agent_acts_by():
    prior = ActionPrior(jnp.log(jnp.array([0.75, 0.25])), jnp.zeros((2, 1)))
    alone = agents.prior_alone()
    assert alone.policy((), prior).prior is None, "it is the one that was given"
    mixed = agents.with_prior(
        alone, lambda prior: agents.prior_transforms.mixed_with_uniform(prior, 0.4)
    )
    # What is put around an agent last is done first.
    reversed_first = agents.with_prior(mixed, agents.prior_transforms.reversed_order)
    for agent, expected in ((mixed, [0.65, 0.35]), (reversed_first, [0.35, 0.65])):
        np.testing.assert_allclose(np.exp(agent.policy((), prior).prior), expected, rtol=1e-5)


def test_a_greedy_agent_takes_the_likeliest_action_whatever_the_key():
    agent = agents.greedy(agents.prior_alone())
    prior = of_probabilities(0.3, 0.4, 0.3)
    keys = jax.random.split(jax.random.key(0), 64)
    assert (jax.vmap(agent.act, in_axes=(None, 0, None))((), keys, prior) == 1).all()


def test_a_greedy_agent_draws_among_equals():
    agent = agents.greedy(agents.prior_alone())
    keys = jax.random.split(jax.random.key(0), 4_000)
    prior = of_probabilities(0.4, 0.4, 0.2)
    actions = jax.vmap(agent.act, in_axes=(None, 0, None))((), keys, prior)
    # Five standard errors of a share of 4,000 are 0.04.
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 4_000, [0.5, 0.5, 0], atol=0.04)


def test_candidates_that_are_kept_are_all_that_is_acted_on():
    agent = agents.dqn_prior(num_candidates=2, keep_candidates=True)
    state = agent.init(jax.random.key(0), STATE)
    kept = STATE._replace(candidates=jnp.array([2, 2]))
    keys = jax.random.split(jax.random.key(1), 32)
    assert set(jax.vmap(agent.act, in_axes=(None, 0, None))(state, keys, kept).tolist()) == {2}
    drawn = jax.vmap(agent.candidates.draw, in_axes=(None, 0, None))(state, keys, STATE)
    assert drawn.shape == (32, 2)
    assert 3 not in np.asarray(drawn), "an action was drawn that the prior rules out"


def test_candidates_of_the_next_state_are_all_that_is_backed_up():
    """Q of the states reached is [0.1, 0.9, ...]; only its first action was a candidate."""
    fields = {"backup": "max", "learning_rate": 3e-3, "discount": 0.5, "num_candidates": 2}
    agent = agents.dqn_prior(keep_candidates=True, target_rate=1.0, **fields)
    batch = bandit(jnp.array([0.1, 0.9, -0.5, 0.0]), jnp.array([0, 1, 2]))
    begun = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), batch)
    other = begun.prior.features.at[3].set(begun.prior.features[3] + 2.0 * FEATURES[2])
    # The fourth transition leads, without a reward, from another state to the one that all act in.
    begun = begun._replace(
        prior=begun.prior._replace(features=other, candidates=jnp.zeros((4, 2), jnp.int32)),
        next_prior=begun.next_prior._replace(candidates=jnp.zeros((4, 2), jnp.int32)),
        reward=begun.reward.at[3].set(0.0),
        terminated=begun.terminated.at[3].set(False),
        action=begun.action.at[3].set(0),
    )
    state = learned(agent, begun, updates=2_000)
    values = agent.policy(state, STATE._replace(features=other[3])).q_values
    assert float(values[0]) == pytest.approx(0.5 * 0.1, abs=0.02)


def test_an_agent_that_explores_takes_the_best_action_but_for_epsilon():
    agent = agents.dqn_prior(epsilon=0.4, learning_rate=3e-3)
    state = learned(agent, bandit(jnp.array([0.1, 0.9, -0.5, 0.0]), jnp.array([0, 1, 2])))
    keys = jax.random.split(jax.random.key(1), 4_000)
    way = agent.explore.begin(state, keys[0])
    tried = jax.vmap(agent.explore.act, in_axes=(None, 0, None, None))(state, keys, STATE, way)
    shares = np.bincount(tried, minlength=A) / len(keys)
    # 0.4 is shared by the three actions that there are; four standard errors are 0.03.
    np.testing.assert_allclose(shares, [0.4 / 3, 0.6 + 0.4 / 3, 0.4 / 3, 0], atol=0.03)


def test_without_double_q_the_target_network_chooses():
    """The target network prefers the action that Q does not; the value is read off by a step."""
    batch = bandit(jnp.zeros(A), jnp.array([0]))
    batch = batch._replace(terminated=jnp.array([False]))
    targets = {}
    for double in (True, False):
        agent = agents.dqn_prior(
            backup="max", double_q=double, hidden_sizes=(), learning_rate=1e-3, discount=1.0
        )
        state = agent.init(jax.random.key(0), STATE)
        up, down = (jax.tree.map(jnp.copy, state.params) for _ in range(2))
        up, down = (
            jax.tree.map(lambda leaf, sign=sign: leaf + sign, params)
            for params, sign in ((up, 1.0), (down, -1.0))
        )
        state = state._replace(params=up, target_params=down)
        _, metrics = jax.jit(agent.update)(state, jax.random.key(1), batch)
        q = agent.policy(state, STATE).q_values[:3]
        of_target = agent.policy(state._replace(params=down), STATE).q_values[:3]
        chosen = of_target[jnp.argmax(q if double else of_target)]
        assert int(jnp.argmax(q)) != int(jnp.argmax(of_target))
        targets[double] = (float(metrics["loss"]), float(chosen - q[0]))
    for loss, error in targets.values():
        huber = error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
        assert loss == pytest.approx(huber, rel=1e-4)


def test_weights_decay_by_the_learning_rate_times_the_decay():
    batch = bandit(jnp.zeros(A), jnp.array([0]), jnp.zeros(1))  # Nothing to learn from.
    fields = {"learning_rate": 0.1, "hidden_sizes": ()}
    agent = agents.dqn_prior(weight_decay=0.5, **fields)
    state = agent.init(jax.random.key(0), STATE)
    state = state._replace(params=jax.tree.map(jnp.ones_like, state.params))
    after, _ = agent.update(state, jax.random.key(1), batch)
    for leaf in jax.tree.leaves(after.params):
        np.testing.assert_allclose(leaf, 1 - 0.1 * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"keep_candidates": True}, "keep_candidates needs a num_candidates"),
        (
            {
                "keep_candidates": True,
                "num_candidates": 2,
                "trust": agents.trust.by_episodes(),
            },
            "keep_candidates needs a fixed trust",
        ),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        agents.dqn_prior(**fields)


def test_where_all_episodes_have_ended_an_adapted_alpha_stays_what_it_is():
    agent = agents.dqn_prior(alpha=agents.temperature.adapted(target_kl=0.5, learning_rate=0.1))
    going_on = bandit(jnp.zeros(A), jnp.array([0]))._replace(terminated=jnp.array([False]))
    first = agent.init(jax.random.key(0), STATE)
    moved, _ = agent.update(first, jax.random.key(1), going_on)
    assert moved.temperature[0] != first.temperature[0], "it moves where episodes go on"
    ended = going_on._replace(terminated=jnp.array([True]))
    stayed, _ = agent.update(moved, jax.random.key(1), ended)
    for now, before in zip(
        jax.tree.leaves(stayed.temperature), jax.tree.leaves(moved.temperature), strict=True
    ):
        assert now == before


def test_the_best_of_candidates_is_the_one_of_largest_q_that_the_prior_draws():
    # Q is the one feature: the last action is best, and the prior never draws it.
    prior = ActionPrior(
        jnp.log(jnp.array([0.6, 0.3, 0.1, 0.0])), jnp.array([[0.0], [1.0], [2.0], [3.0]])
    )
    agent = agents.best_of_candidates(agents.dqn_prior(hidden_sizes=()), num_candidates=2)
    state = agent.init(jax.random.key(0), prior)
    state = state._replace(params=jax.tree.map(jnp.ones_like, state.params))
    keys = jax.random.split(jax.random.key(1), 4_000)
    actions = jax.vmap(agent.act, in_axes=(None, 0, None))(state, keys, prior)
    # The better of two draws; five standard errors of a share of 4,000 are 0.04.
    expected = [0.6**2, 0.9**2 - 0.6**2, 1 - 0.9**2, 0]
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 4_000, expected, atol=0.04)


def test_without_q_the_best_of_candidates_is_a_draw_from_the_prior():
    agent = agents.best_of_candidates(agents.prior_alone(), num_candidates=5)
    keys = jax.random.split(jax.random.key(0), 4_000)
    actions = jax.vmap(agent.act, in_axes=(None, 0, None))((), keys, of_probabilities(0.7, 0.3))
    np.testing.assert_allclose(np.bincount(actions) / 4_000, [0.7, 0.3], atol=0.04)
