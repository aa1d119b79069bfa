"""What a configuration may be: every value is checked before anything is loaded or written."""

import functools

import jax

from llmprior_jax import agents
from llmprior_jax.distributed.mesh import make_mesh, shared_environments
from llmprior_jax.learning import policy_gradient
from llmprior_jax.play import datasets
from llmprior_jax.play.candidates import PROPOSERS
from llmprior_jax.priors import Sampling, check_options, prompts
from llmprior_jax.priors.sampling.generation import check_sampling
from llmprior_jax.priors.sampling.proposals import check_estimate
from llmprior_jax.training.build import METHODS, freeform_sampling, make_agent
from llmprior_jax.training.config import Config
from llmprior_jax.training.metrics import import_wandb
from llmprior_jax.types import TextState


def check_config(config: Config) -> None:
    """Raises a ValueError that names the field if a value is out of its range.

    Raises:
      ValueError: see above.
      ImportError: Weights & Biases is to be used, and is not installed.
    """
    if config.wandb_project:
        import_wandb()
    positive = {
        name: config[name] for name in ("num_seeds", "num_steps", "eval_every", "eval_episodes")
    }
    positive |= {f"loop.{name}": value for name, value in config.loop.items()}
    positive |= {f"checkpoint.{name}": value for name, value in config.checkpoint.items()}
    positive |= {
        f"engine.{name}": config.engine[name] for name in ("num_actions", "max_steps", "timeout")
    }
    positive |= {"prior.num_features": config.prior.num_features}
    positive |= {"agent.hidden_sizes": min(config.agent.hidden_sizes, default=1)}
    for name, value in positive.items():
        if value < (0 if name == "loop.warmup_steps" else 1):
            raise ValueError(f"config.{name} is {value}; use a larger number")
    if config.history < 0:
        raise ValueError(f"config.history is {config.history}; use a number of pairs >= 0")
    if config.agent.num_candidates < 0:
        raise ValueError(
            f"config.agent.num_candidates is {config.agent.num_candidates}; use a number >= 1, "
            "or 0 for the exact posterior"
        )
    datasets.check_unit(config.offline.unit)
    if config.loop.replay_capacity < max(config.loop.num_envs, config.loop.batch_size):
        raise ValueError(
            f"config.loop.replay_capacity is {config.loop.replay_capacity}; it must hold at least "
            "config.loop.num_envs and config.loop.batch_size transitions"
        )
    if config.prior.quantize not in ("", "int8"):
        raise ValueError(
            f"config.prior.quantize is {config.prior.quantize!r}; use 'int8', or '' for weights as "
            "they are"
        )
    check_options(config.prior.normalization, config.prior.temperature)
    _check_asking(config.prior)
    make_mesh(config.mesh, config.num_seeds, shared_environments(config))
    if config.freeform.source not in PROPOSERS:
        raise ValueError(
            f"config.freeform.source is {config.freeform.source!r}; use one of "
            f"{', '.join(PROPOSERS)}"
        )
    if config.freeform.k:
        check_sampling(config.freeform.k, freeform_sampling(config))
        if config.env != "engine":
            raise ValueError(
                f"config.freeform.k is {config.freeform.k}, but the actions of {config.env} are "
                "listed; proposals are for config.env = 'engine'"
            )
    if config.segment_steps < 0:
        raise ValueError(
            f"config.segment_steps is {config.segment_steps}; use a number >= 1, or 0 for all "
            "steps between two evaluations"
        )
    for name in ("eval_every", "segment_steps"):
        if not config.offline.dataset and config[name] % config.loop.num_envs:
            raise ValueError(
                f"config.{name} is {config[name]}, which {config.loop.num_envs} environments "
                "(config.loop.num_envs) cannot divide among them; use a multiple"
            )
    policies = [name for name in config.agents if name in agents.POLICY_AGENTS]
    if config.env == "engine" and (policies or config.offline.dataset):
        what = "a dataset is" if config.offline.dataset else f"{policies[0]} is"
        raise ValueError(
            f"{config.env} is played by engines on the host, where agents learn Q online; {what} "
            "for environments in JAX"
        )
    if config.env == "engine" and jax.process_count() > 1:
        raise ValueError(
            f"engines are played by one process, and there are {jax.process_count()}; start one"
        )
    if policies and config.offline.dataset:
        raise ValueError(f"{policies[0]} learns online only; leave config.offline.dataset out")
    # The learner's parameters are checked even where only agents without any run.
    for name in ("dqn_prior", "cql_prior", *config.agents):
        if name in agents.POLICY_AGENTS:
            policy_gradient.check_config(config)
        else:
            make_agent(name, config)
    if len(set(config.agents)) != len(config.agents) or not config.agents:
        raise ValueError(f"config.agents is {config.agents}; name one or more agents, each once")


def _check_asking(prior: Config) -> None:
    if prior.method not in METHODS:
        raise ValueError(f"config.prior.method is {prior.method!r}; there are {', '.join(METHODS)}")
    if prior.method == "imitate" and (not prior.demonstrations or prior.prompt != "plain"):
        raise ValueError(
            "config.prior.method is 'imitate', which reads what others did in a state: name a "
            "dataset (config.prior.demonstrations), and leave config.prior.prompt 'plain'"
        )
    if prior.prompt == prompts.FEW_SHOT:
        if not prior.examples.workdir or prior.examples.count < 1:
            raise ValueError(
                "config.prior.prompt is 'few_shot', which shows successful episodes; name a run to "
                "take them from (config.prior.examples.workdir) and how many (count)"
            )
        builder = functools.partial(prompts.few_shot, examples=())
    else:
        builder = prompts.make(prior.prompt)
    thinks = builder(TextState("", "")).after_thought is not None
    if thinks and prior.method != "propose":
        raise ValueError(
            f"config.prior.prompt is {prior.prompt!r}, which samples a thought before the action; "
            "set config.prior.method to 'propose'"
        )
    propose = prior.propose
    check_sampling(propose.k, Sampling(propose.max_new_tokens, propose.temperature, propose.top_p))
    check_estimate(propose.no_match, propose.pseudo_count)
