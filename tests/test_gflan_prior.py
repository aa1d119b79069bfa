"""GFlan-Prior on policies that are tables: its advantages, its updates, and what they converge to.

A table of logits, one row per state, is the simplest "language model": what it reads of a state is
the state's number. So the agent is tested apart from any model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import torch

from llmprior_jax import agents, posterior_log_probs, soft_value
from llmprior_jax.agents import Rollout, States, policy_agent
from llmprior_jax.types import LanguagePolicy

NUM_STATES, A = 4, 3


def table_policy(logits: jax.Array) -> LanguagePolicy:
    """Policy `log_softmax(params[state])`, hidden states one-hot."""
    return LanguagePolicy(
        read=lambda prompts, actions: None,
        init=lambda key: logits,
        apply=lambda params, frozen, rows: (
            jax.nn.log_softmax(params[rows]),
            jax.nn.one_hot(rows, len(logits)),
        ),
        frozen=(),
        num_features=len(logits),
    )


def rollout_of(**fields) -> Rollout:
    """A rollout [T, N] in which nothing happens beyond the given fields."""
    shape = next(np.shape(value) for name, value in fields.items() if name != "last_value")
    empty = {
        name: jnp.zeros(shape, kind)
        for name, kind in [
            *((name, jnp.int32) for name in ("row", "action")),
            *((name, jnp.float32) for name in ("log_prob", "kl", "value", "reward")),
            *((name, bool) for name in ("terminated", "truncated")),
            ("reached_value", jnp.float32),
        ]
    }
    fields = {name: jnp.asarray(value) for name, value in fields.items()}
    return Rollout(**({**empty, "last_value": jnp.zeros(shape[1])} | fields))


# --- Advantages -----------------------------------------------------------------------------------


def column(*values):
    return np.array(values)[:, None]


def test_advantages_by_hand():
    """g = 0.5, lambda = 0.5: errors are weighted by 1/4 per step."""
    rollout = rollout_of(
        reward=column(1.0, 0.0, 2.0), value=column(0.5, 1.0, 0.0), last_value=np.array([4.0])
    )
    # delta: 1 + 0.5 * 1 - 0.5 = 1;  0 + 0.5 * 0 - 1 = -1;  2 + 0.5 * 4 - 0 = 4
    advantages = policy_agent.advantage_estimates(rollout, 0.0, 0.5, 0.5)
    np.testing.assert_allclose(advantages, column(1 + (-1 + 4 / 4) / 4, -1 + 4 / 4, 4.0))


def test_advantages_of_whole_episodes_are_those_of_rlax():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 30, 4))
    terminated, last_value = rng.uniform(size=(30, 4)) < 0.2, rng.normal(size=4)
    rollout = rollout_of(reward=reward, value=value, terminated=terminated, last_value=last_value)
    of_env = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)
    values = np.concatenate([value, last_value[None]])
    expected = of_env(reward, 0.9 * (1 - terminated), 0.8, values)
    estimates = policy_agent.advantage_estimates(rollout, 0.0, 0.9, 0.8)
    np.testing.assert_allclose(estimates, expected, atol=1e-5)


def test_an_end_stops_what_flows_back_and_a_time_limit_is_worth_the_state_reached():
    fields = {"reward": column(1.0, 5.0), "value": column(0.5, 7.0), "last_value": np.array([9.0])}
    ended = rollout_of(terminated=column(True, False), **fields)
    cut = rollout_of(truncated=column(True, False), reached_value=column(3.0, 0.0), **fields)
    first = [
        float(policy_agent.advantage_estimates(rollout, 0.0, 0.5, 0.5)[0, 0])
        for rollout in (ended, cut)
    ]
    np.testing.assert_allclose(first, [1 - 0.5, 1 + 0.5 * 3 - 0.5])


def test_divergence_is_charged_to_the_reward():
    fields = {"value": column(0.5, 1.0), "last_value": np.array([4.0])}
    charged = rollout_of(reward=column(1.0, 2.0), kl=column(3.0, 0.5), **fields)
    by_hand = rollout_of(reward=column(1.0 - 0.2 * 3.0, 2.0 - 0.2 * 0.5), **fields)
    np.testing.assert_allclose(
        policy_agent.advantage_estimates(charged, 0.2, 0.9, 0.8),
        policy_agent.advantage_estimates(by_hand, 0.0, 0.9, 0.8),
        rtol=1e-6,
    )


# --- Updates --------------------------------------------------------------------------------------


def random_rollout(logits, num_steps=6, num_envs=5) -> Rollout:
    rng = np.random.default_rng(0)
    shape = (num_steps, num_envs)
    row, action = rng.integers(NUM_STATES, size=shape), rng.integers(A, size=shape)
    # As if an older policy had acted, so that some ratios are clipped.
    log_prob = np.asarray(jax.nn.log_softmax(logits))[row, action] + rng.normal(0, 0.3, shape)
    return rollout_of(
        row=row.astype(np.int32),
        action=action.astype(np.int32),
        log_prob=log_prob.astype(np.float32),
        kl=rng.uniform(0, 1, shape).astype(np.float32),
        value=rng.normal(size=shape).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        terminated=rng.uniform(size=shape) < 0.2,
        last_value=rng.normal(size=num_envs).astype(np.float32),
    )


LOGITS = jax.random.normal(jax.random.key(0), (NUM_STATES, A))
PRIOR = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (NUM_STATES, A)))
STATES = States(jnp.arange(NUM_STATES), PRIOR)


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_updates_are_those_of_ppo_in_torch(kl_in):
    """Three epochs on all data at once: the loss written out in torch, with torch's Adam."""
    alpha, epsilon, epochs = 0.3, 0.2, 3
    agent = agents.gflan_prior(
        table_policy(LOGITS),
        alpha=alpha,
        kl_in=kl_in,
        clip_epsilon=epsilon,
        learning_rate=0.05,
        value_learning_rate=0.02,
        value_coefficient=0.7,
        max_grad_norm=0.1,
        epochs=epochs,
        minibatch_states=NUM_STATES,
        hidden_sizes=(),
    )
    rollout = random_rollout(LOGITS)
    state, metrics = jax.jit(agent.update)(
        agent.init(jax.random.key(0)), (), jax.random.key(1), STATES, rollout
    )

    charged = alpha if kl_in == "reward" else 0.0
    advantages = policy_agent.advantage_estimates(rollout, charged, 0.95, 0.95)
    data = {
        name: torch.tensor(np.asarray(value).reshape(-1))
        for name, value in {**rollout._asdict(), "advantage": advantages}.items()
        if name != "last_value"
    }
    target = data["advantage"] + data["value"]
    logits = torch.tensor(np.asarray(LOGITS), requires_grad=True)
    prior = torch.tensor(np.asarray(PRIOR))
    values = torch.zeros(NUM_STATES, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    policy_adam = torch.optim.Adam([logits], lr=0.05, eps=1e-5)
    value_adam = torch.optim.Adam([values, bias], lr=0.02, eps=1e-5)
    row = data["row"].long()
    kls = 0.0
    for _ in range(epochs):
        log_probs = torch.log_softmax(logits, dim=-1)
        taken = log_probs[row, data["action"].long()]
        ratio = torch.exp(taken - data["log_prob"])
        surrogate = torch.minimum(
            ratio * data["advantage"],
            torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * data["advantage"],
        )
        kl = (log_probs.exp() * (log_probs - prior)).sum(-1)[row]
        value_loss = 0.5 * ((values + bias)[row] - target) ** 2
        loss = (-surrogate + alpha * kl + 0.7 * value_loss).mean()
        for optimizer in (policy_adam, value_adam):
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([logits], 0.1)
        for optimizer in (policy_adam, value_adam):
            optimizer.step()
        kls += kl.mean().item() / epochs
    np.testing.assert_allclose(state.params.policy, logits.detach(), atol=2e-4)
    _, learned_values = agent.policy(state, (), jnp.arange(NUM_STATES))
    np.testing.assert_allclose(learned_values, (values + bias).detach(), atol=2e-4)
    np.testing.assert_allclose(metrics["kl"], kls, rtol=1e-3)


@pytest.mark.long
def test_minibatches_of_states_hold_every_step_once():
    """With a vanishing learning rate the parts must add up to the whole."""
    metrics = {}
    for size in (3, NUM_STATES):
        agent = agents.gflan_prior(
            table_policy(LOGITS),
            learning_rate=1e-12,
            value_learning_rate=1e-12,
            minibatch_states=size,
        )
        _, metrics[size] = jax.jit(agent.update)(
            agent.init(jax.random.key(0)), (), jax.random.key(1), STATES, random_rollout(LOGITS)
        )
    for name, value in metrics[NUM_STATES].items():
        np.testing.assert_allclose(metrics[3][name], value, rtol=1e-4, err_msg=name)


def test_gflan_is_gflan_prior_without_a_price():
    model, rollout = table_policy(LOGITS), random_rollout(LOGITS)
    learned = []
    for name, alpha in (("gflan", 0.7), ("gflan_prior", 0.0)):
        agent = agents.make_policy(name, model, alpha=alpha)
        state = agent.init(jax.random.key(0))
        learn = jax.jit(agent.update)
        learned.append(learn(state, (), jax.random.key(1), STATES, rollout)[0].params)
    np.testing.assert_array_equal(learned[0].policy, learned[1].policy)


# --- What it converges to -------------------------------------------------------------------------

# A fork: state 0 leads to state 1 + a, where one more action is taken. In state 1 the best action
# is one that the prior hardly knows; in state 2 the prior is right, and a little less is to be had.
FORK_PRIOR = jnp.log(jnp.array([[0.5, 0.5, 1e-9], [0.98, 0.01, 0.01], [0.98, 0.01, 0.01]]))
FORK_REWARD = jnp.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.0, 0.0]])
FORK_ALPHA = 0.5


def train_on_the_fork(kl_in: str) -> jax.Array:
    """log pi of all states after training from the prior."""
    agent = agents.gflan_prior(
        table_policy(FORK_PRIOR),
        alpha=FORK_ALPHA,
        kl_in=kl_in,
        discount=1.0,
        gae_lambda=1.0,
        learning_rate=0.02,
        value_learning_rate=0.05,
        hidden_sizes=(),
        epochs=1,
    )
    states = States(jnp.arange(3), FORK_PRIOR)
    kl_of = jax.vmap(lambda p, q: jnp.sum(jnp.exp(p) * (p - q)))

    @jax.jit
    def train(state):
        def step(state, key):
            log_probs, values = agent.policy(state, (), jnp.arange(3))
            first_key, second_key, update_key = jax.random.split(key, 3)
            first = jax.random.categorical(first_key, log_probs[0], shape=(512,))
            row = jnp.stack([jnp.zeros_like(first), 1 + jnp.minimum(first, 1)])
            action = jnp.stack([first, jax.random.categorical(second_key, log_probs[row[1]])])
            rollout = rollout_of(
                row=row,
                action=action,
                log_prob=log_probs[row, action],
                kl=kl_of(log_probs, FORK_PRIOR)[row],
                value=values[row],
                reward=FORK_REWARD[row, action],
                terminated=jnp.stack([jnp.zeros(512, bool), jnp.ones(512, bool)]),
            )
            return agent.update(state, (), update_key, states, rollout)[0], None

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))[0]

    log_probs, _ = agent.policy(train(agent.init(jax.random.key(0))), (), jnp.arange(3))
    return log_probs


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_training_ends_at_the_optimum_in_closed_form(kl_in):
    """Charged to the reward, a state is worth its soft value, and the policy is the posterior;
    charged in the loss, a state is worth the reward that its own policy gets."""
    log_probs = train_on_the_fork(kl_in)
    ends = jax.vmap(posterior_log_probs, (0, 0, None))(FORK_PRIOR, FORK_REWARD, FORK_ALPHA)
    if kl_in == "reward":
        worth = jax.vmap(soft_value, (0, 0, None))(FORK_PRIOR, FORK_REWARD, FORK_ALPHA)
    else:
        worth = jnp.sum(jnp.exp(ends) * FORK_REWARD, axis=-1)
    q_values = jnp.array([worth[1], worth[2], worth[2]])
    start = posterior_log_probs(FORK_PRIOR[0], q_values, FORK_ALPHA)
    expected = jnp.exp(jnp.stack([start, ends[1], ends[2]]))
    np.testing.assert_allclose(jnp.exp(log_probs), expected, atol=0.04)


def test_what_the_rewards_do_not_tell_stays_with_the_prior_and_what_they_tell_is_learned():
    """Two one-step problems of three actions, few steps, and noise in the second's reward.

    In state 0 the prior is wrong and the reward says so. In state 1 the prior is right by so little
    that the noise hides it: without a price GFlan runs after the noise.
    """
    prior = jnp.log(jnp.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]]))
    mean = jnp.array([[0.0, 0.0, 1.0], [0.45, 0.5, 0.45]])
    states = States(jnp.arange(2), prior)

    def success(name: str) -> np.ndarray:
        """Share of seeds that would take the right action, in each state."""
        agent = agents.make_policy(
            name,
            table_policy(prior),
            alpha=0.2,
            learning_rate=0.2,
            value_learning_rate=0.05,
            hidden_sizes=(),
            epochs=2,
        )

        def train(key):
            def step(state, key):
                log_probs, values = agent.policy(state, (), jnp.arange(2))
                act_key, noise_key, update_key = jax.random.split(key, 3)
                row = jnp.tile(jnp.arange(2), 8)[None]
                action = jax.random.categorical(act_key, log_probs[row])
                noise = 2.0 * (row == 1) * jax.random.normal(noise_key, row.shape)
                rollout = rollout_of(
                    row=row,
                    action=action,
                    log_prob=log_probs[row, action],
                    value=values[row],
                    reward=mean[row, action] + noise,
                    terminated=jnp.ones(row.shape, bool),
                )
                return agent.update(state, (), update_key, states, rollout)[0], None

            keys = jax.random.split(key, 60)
            state = jax.lax.scan(step, agent.init(key), keys)[0]
            return jnp.exp(agent.policy(state, (), jnp.arange(2))[0])

        probabilities = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 32))
        return np.asarray(jnp.mean(probabilities[:, [0, 1], [2, 1]], axis=0))

    with_prior, without = success("gflan_prior"), success("gflan")
    assert with_prior[0] > 0.8, "the prior alone has 0.05 here"
    assert with_prior[1] > 0.8
    assert without[1] < 0.65


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"kl_in": "both"}, "kl_in is 'both'; use one of reward, loss"),
        ({"clip_epsilon": 0.0}, "clip_epsilon is 0"),
        ({"gae_lambda": 1.5}, "gae_lambda is 1.5"),
        ({"minibatch_states": 0}, "minibatch_states is 0"),
    ],
)
def test_parameters_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        agents.gflan_prior(table_policy(LOGITS), **kwargs)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'gflan_prior'"):
        agents.make_policy("gflan-prior", table_policy(LOGITS))
