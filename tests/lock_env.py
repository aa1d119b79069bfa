"""A combination lock: the smallest problem that a good prior solves and blind search does not.

The lock has `LENGTH` wheels. At each, one of `NUM_ACTIONS` actions is right and moves on; any other
ends the episode. Blind search opens it once in `NUM_ACTIONS ** LENGTH` episodes.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors import PriorBatch, prompts
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior, TextState

LENGTH, NUM_ACTIONS = 8, 6
# What a checkpoint keeps beside arrays, whatever an agent learns from.
CHECKPOINTED = {"segments", "iteration", "taken", "counts", "table_size", "own"}
RIGHT = np.random.default_rng(0).integers(NUM_ACTIONS, size=LENGTH)


@chex.dataclass(frozen=True)
class LockState:
    time: jax.Array
    wheel: jax.Array


class Lock(TextEnvironment):
    """The observation is the wheel's number, i32[]."""

    num_actions = NUM_ACTIONS

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=2 * LENGTH)

    def reset_env(self, key, params):
        return jnp.int32(0), LockState(time=jnp.int32(0), wheel=jnp.int32(0))

    def step_env(self, key, state, action, params):
        right = action == jnp.asarray(RIGHT)[state.wheel]
        wheel = jnp.minimum(state.wheel + right, LENGTH - 1)
        opened = right & (state.wheel == LENGTH - 1)
        new_state = LockState(time=state.time + 1, wheel=wheel)
        return wheel, new_state, jnp.float32(opened), opened | ~right, {"success": opened}

    def action_space(self, params):
        return spaces.Discrete(NUM_ACTIONS)

    def list_observations(self):
        return np.arange(LENGTH, dtype=np.int32)

    def text_state(self, observation):
        actions = tuple(f"turn it to {number}" for number in range(NUM_ACTIONS))
        return TextState("Open the lock.", f"You face wheel {int(observation)}.", (), actions)


def prior_of(wheels: np.ndarray, confidence: float) -> ActionPrior:
    """A prior that gives the right action `confidence`; features tell (wheel, action) apart."""
    log_probs = np.full((len(wheels), NUM_ACTIONS), np.log((1 - confidence) / (NUM_ACTIONS - 1)))
    log_probs[np.arange(len(wheels)), RIGHT[wheels]] = np.log(confidence)
    pairs = wheels[:, None] * NUM_ACTIONS + np.arange(NUM_ACTIONS)
    features = np.random.default_rng(1).normal(size=(LENGTH * NUM_ACTIONS, 32))[pairs]
    return ActionPrior(jnp.asarray(log_probs, jnp.float32), jnp.asarray(features, jnp.float32))


def lock_table(confidence: float, wheels: np.ndarray | None = None) -> tables.PriorTable:
    """The table of all wheels, or of some of them only."""
    wheels = np.arange(LENGTH, dtype=np.int32) if wheels is None else wheels
    table = tables.empty(np.int32(0), NUM_ACTIONS, 32)
    return tables.insert(table, wheels, prior_of(wheels, confidence))


class LockSource:
    """A source of priors that knows the lock, without a language model."""

    def __init__(self, confidence: float = 0.67, identity: str = "a lock's"):
        self.confidence, self.identity = confidence, identity
        self.asked: list[str] = []

    def score(self, asked):
        self.asked += [prompt.text for prompt in asked]
        prior = prior_of(np.array([wheel_of(prompt.text) for prompt in asked]), self.confidence)
        return PriorBatch(np.asarray(prior.log_probs), np.asarray(prior.features))

    def metrics(self, outcomes):
        return {}


def wheel_of(text: str) -> int:
    return int(text.split("wheel ")[1][0])


def scored_lock(directory, source=None, first=range(LENGTH), read_only=False) -> ScoredStates:
    """The lock's states, which `source` scores; the table begins with the wheels `first`."""
    return ScoredStates(
        Lock(),
        lambda: np.array(list(first), np.int32),
        source or LockSource(),
        prompts.plain,
        num_features=32,
        files=RowFiles(directory, read_only),
    )
