"""Whatever is jitted lowers for TPU and CUDA too, so nothing is tied to the CPU.

`jax.export` lowers for platforms that are not there; it does not run on them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lock_env import Lock, lock_table
from small_lm import small_lm

from llmprior_jax import agents
from llmprior_jax.agents import Rollout, States
from llmprior_jax.learning import make_loop
from llmprior_jax.models import Encoder, EncoderConfig, EncoderDecoder, EncoderDecoderConfig
from llmprior_jax.models.text_encoder import encode_tokens
from llmprior_jax.play.actors import ValueActor
from llmprior_jax.play.rollouts import make_roller
from llmprior_jax.play.stepping import reset_envs
from llmprior_jax.priors import prompts
from llmprior_jax.priors.language_policy import language_policy
from llmprior_jax.priors.sampling.generation import sample_tokens
from llmprior_jax.priors.scoring import packing
from llmprior_jax.priors.scoring.score import score_packed
from llmprior_jax.settings import LoopSettings

PLATFORMS = ("cpu", "cuda", "tpu")
ENV = Lock()
STATES = [prompts.plain(ENV.text_state(observation)) for observation in ENV.list_observations()]


@pytest.fixture(scope="module")
def lm():
    return small_lm([state.text + "".join(state.actions) for state in STATES])


def packed(prompt: np.ndarray | None) -> packing.Packed:
    tails = packing.lay_out([[2, 3], [2, 4, 5]])
    ((packed, _),) = packing.passes([packing.Sequences(np.array([1], np.int32), tails, prompt)])
    return packed


def check(function, *arguments, **static) -> None:
    exported = jax.export.export(function, platforms=PLATFORMS)(*arguments, **static)
    assert exported.platforms == PLATFORMS


def test_scoring_with_a_decoder(lm):
    check(score_packed, lm.graphdef, lm.params, packed(None))


def test_scoring_with_an_encoder_decoder():
    config = EncoderDecoderConfig(16, 8, 12, 1, 1, 2, 4)
    graphdef, params = nnx.split(EncoderDecoder(config, rngs=nnx.Rngs(0)))
    check(score_packed, graphdef, params, packed(np.array([3, 1], np.int32)))


def test_encoding():
    graphdef, params = nnx.split(Encoder(EncoderConfig(16, 8, 12, 1, 2, 32), rngs=nnx.Rngs(0)))
    tokens = jnp.zeros((2, 16), jnp.int32)
    check(encode_tokens, graphdef, params, tokens, tokens, tokens, "mean", True)


def test_sampling(lm):
    tokens, lengths = jnp.zeros((2, 16), jnp.int32), jnp.array([3, 5])
    keys, ends = jax.random.split(jax.random.key(0), 2), jnp.zeros(lm.config.vocab_size, bool)
    sizes = {"num_samples": 2, "max_new_tokens": 4}
    check(sample_tokens, lm.graphdef, lm.params, tokens, lengths, keys, ends, 1.0, 0.9, **sizes)


def test_training_and_evaluation_in_environments():
    sizes = LoopSettings(
        num_envs=4, replay_capacity=64, warmup_steps=1, batch_size=8, updates_per_step=1
    )
    agent, params = agents.make("dqn_prior"), ENV.default_params
    loop = make_loop(ENV, params, agent, sizes)
    table, key = lock_table(0.9), jax.random.key(0)
    state = loop.init(key, table)
    check(jax.jit(loop.segment), state, table, jnp.int32(0))
    actor = ValueActor(agent)
    roller = make_roller(ENV, params, actor.in_rollouts, 4, lambda step, about: step.reward)
    reset_key, draws = actor.begin(key, 4, 4)
    envs = reset_envs(ENV, params, reset_key, 4)
    progress = roller.start(state.agent, (), envs, draws, table)
    check(jax.jit(roller.advance), progress, state.agent, (), table)


@pytest.mark.long
def test_updates_of_a_policy(lm):
    model = language_policy(lm, ENV.num_actions, lora_rank=2)
    agent = agents.make_policy("gflan_prior", model, epochs=1, minibatch_states=4)
    texts = [prompt.text for prompt in STATES]
    rows = model.read(texts, [prompt.actions for prompt in STATES])
    states = States(rows, jnp.full((len(STATES), ENV.num_actions), -np.log(ENV.num_actions)))
    T, N = 3, 2
    kinds = {"row": int, "action": int, "terminated": bool, "truncated": bool}
    fields = {
        name: jnp.zeros((N,) if name == "last_value" else (T, N), kinds.get(name, float))
        for name in Rollout._fields
    }
    key = jax.random.key(0)
    check(jax.jit(agent.update), agent.init(key), model.frozen, key, states, Rollout(**fields))
