"""Validates settings before anything is loaded or written."""

from collections.abc import Sequence

import jax

from llmprior_jax import agents, datasets, models
from llmprior_jax.distributed.mesh import make_mesh
from llmprior_jax.play.candidates import PROPOSERS
from llmprior_jax.priors import Sampling, check_options, prompts
from llmprior_jax.priors.sampling.generation import check_sampling
from llmprior_jax.priors.sampling.proposals import check_estimate
from llmprior_jax.priors.sources.registry import check_method
from llmprior_jax.settings import PolicySettings, PriorSettings, Settings
from llmprior_jax.training.build import (
    ENGINE,
    check_eval_mode,
    freeform_sampling,
    shared_environments,
)
from llmprior_jax.training.build_agent import build_agent, build_policy
from llmprior_jax.training.config import check_agents, priors_of
from llmprior_jax.training.metrics import import_wandb


def validate(settings: Settings) -> None:
    """Raises a ValueError that names the field of the configuration if a value is out of its range.

    Raises:
      ValueError: see above.
      ImportError: Weights & Biases is to be used, and is not installed.
    """
    if settings.wandb_project is not None:
        import_wandb()
    check_agents(settings.agents)
    _check_sizes(settings)
    _check_prior(settings.prior)
    _check_environment(settings)
    run = settings.run
    make_mesh(run.mesh, run.num_seeds, shared_environments(settings))
    datasets.check_unit(settings.offline.unit)
    check_eval_mode(run.eval_mode)
    for name, steps in (("eval_every", run.eval_every), ("segment_steps", run.segment_steps)):
        if steps is not None and not settings.offline.dataset and steps % settings.loop.num_envs:
            raise ValueError(
                f"config.{name} is {steps}, which {settings.loop.num_envs} environments "
                "(config.loop.num_envs) cannot divide among them; use a multiple"
            )
    _check_agents(settings)


def _check_sizes(settings: Settings) -> None:
    run, loop = settings.run, settings.loop
    positive: dict[str, float] = {
        "num_seeds": run.num_seeds,
        "num_steps": run.num_steps,
        "eval_every": run.eval_every,
        "eval_episodes": run.eval_episodes,
        **{f"loop.{name}": value for name, value in vars(loop).items()},
        **{f"checkpoint.{name}": value for name, value in vars(settings.checkpoint).items()},
        "engine.num_actions": settings.environment.engine.num_actions,
        "engine.max_steps": settings.environment.engine.max_steps,
        "engine.timeout": settings.environment.engine.timeout,
        "prior.num_features": settings.prior.num_features,
        "agent.hidden_sizes": min(settings.agent.hidden_sizes, default=1),
    }
    for name, value in positive.items():
        if value < (0 if name == "loop.warmup_steps" else 1):
            raise ValueError(f"config.{name} is {value}; use a larger number")
    history, told = settings.environment.history, settings.prior.history
    if history < 0:
        raise ValueError(f"config.history is {history}; use a number of pairs >= 0")
    if told is not None and told < history:
        raise ValueError(
            f"config.prior.history is {told}, and config.history is {history}: the language model "
            "is told all that Q sees; use a number that is not smaller, or 0 for the same"
        )
    for name, value in (
        ("segment_steps", run.segment_steps),
        ("agent.num_candidates", settings.agent.num_candidates),
        ("offline.size", settings.offline.size),
        ("freeform.k", settings.environment.freeform.k),
        ("policy.lora_rank", settings.policy.lora_rank),
    ):
        if value is not None and value < 1:
            raise ValueError(f"config.{name} is {value}; use a number >= 1, or 0 for none")
    if loop.replay_capacity < max(loop.num_envs, loop.batch_size):
        raise ValueError(
            f"config.loop.replay_capacity is {loop.replay_capacity}; it must hold at least "
            "config.loop.num_envs and config.loop.batch_size transitions"
        )


def _check_prior(prior: PriorSettings) -> None:
    if prior.quantize not in (None, "int8"):
        raise ValueError(
            f"config.prior.quantize is {prior.quantize!r}; use 'int8', or '' for weights as they "
            "are"
        )
    check_method(prior.method)
    if prior.method == "imitate" and (not prior.demonstrations or prior.prompt != "plain"):
        raise ValueError(
            "config.prior.method is 'imitate', which reads what others did in a state: name a "
            "dataset (config.prior.demonstrations), and leave config.prior.prompt 'plain'"
        )
    _check_examples(prior)
    for each in priors_of(prior):
        check_options(each.normalization, each.temperature)
        _check_prompt(each)
    propose = prior.propose
    check_sampling(propose.k, Sampling(propose.max_new_tokens, propose.temperature, propose.top_p))
    check_estimate(propose.no_match, propose.pseudo_count)


def _check_examples(prior: PriorSettings) -> None:
    words, shown = prompts.words(prior.prompt), prior.examples
    shows = any(prompts.FEW_SHOT in prompts.words(each.prompt) for each in priors_of(prior))
    for field, named in (("file", shown.file), ("workdir", shown.workdir)):
        if named is not None and not shows:
            raise ValueError(
                f"config.prior.examples.{field} is {named!r}, and config.prior.prompt is "
                f"{prior.prompt!r}, which shows no examples: put few_shot into the prompt, such as "
                f"--config.prior.prompt={_with_examples(words)}, or name none"
            )
    if shows and shown.file is not None and shown.workdir is not None:
        raise ValueError(
            f"config.prior.prompt is {prior.prompt!r}, which shows successful episodes; name a run "
            "to take them from (config.prior.examples.workdir) or a file of them "
            "(config.prior.examples.file), not both"
        )
    if shows and shown.workdir is not None and shown.count < 1:
        raise ValueError(f"config.prior.examples.count is {shown.count}; use a number >= 1")


def _check_prompt(prior: PriorSettings) -> None:
    words = prompts.words(prior.prompt)
    shows = prompts.FEW_SHOT in words
    # Made to see whether it can be; nothing is loaded for that.
    examples = [prompts.Example("", ())] if shows else []
    prompts.make(prior.prompt, examples, lambda: models.load("tiny").tokenizer)
    if prompts.THINK_FIRST in words and prior.method in ("score", "imitate"):
        raise ValueError(
            f"config.prior.prompt is {prior.prompt!r}, which samples a thought before the action; "
            "set config.prior.method to 'propose'"
        )


def _with_examples(words: Sequence[str]) -> str:
    """The name of a prompt that shows examples, of the words of one that does not."""
    return "+".join((words[0], prompts.FEW_SHOT, *words[1:]))


def _check_environment(settings: Settings) -> None:
    env, freeform = settings.environment.env, settings.environment.freeform
    if freeform.source not in PROPOSERS:
        raise ValueError(
            f"config.freeform.source is {freeform.source!r}; use one of {', '.join(PROPOSERS)}"
        )
    if freeform.k is not None:
        check_sampling(freeform.k, freeform_sampling(freeform))
        if env != ENGINE:
            raise ValueError(
                f"config.freeform.k is {freeform.k}, but the actions of {env} are listed; "
                "proposals are for config.env = 'engine'"
            )
    policies = [name for name in settings.agents if agents.is_policy(name)]
    offline = settings.offline.dataset is not None
    if env == ENGINE and (policies or offline):
        what = "a dataset is" if offline else f"{policies[0]} is"
        raise ValueError(
            f"{env} is played by engines on the host, where agents learn Q online; {what} for "
            "environments in JAX"
        )
    if env == ENGINE and jax.process_count() > 1:
        raise ValueError(
            f"engines are played by one process, and there are {jax.process_count()}; start one"
        )
    if policies and settings.prior.history is not None:
        raise ValueError(
            f"config.prior.history is {settings.prior.history}, and what the policy of "
            f"{policies[0]} reads is what its prior reads: use config.history for both"
        )
    if policies and offline:
        raise ValueError(f"{policies[0]} learns online only; leave config.offline.dataset out")


def _check_agents(settings: Settings) -> None:
    if len(set(settings.agents)) != len(settings.agents) or not settings.agents:
        raise ValueError(f"config.agents is {settings.agents}; name one or more agents, each once")
    weigh = any(
        agents.weighs_prior(name) or (agents.is_policy(name) and agents.sees_prior(name))
        for name in settings.agents
    )
    if settings.prior.others and not weigh:
        raise ValueError(
            f"config.prior.others names {len(settings.prior.others)} further priors, and of "
            f"{', '.join(settings.agents)} no agent weighs priors; add one that does, such as "
            "dqn_prior, or name a single prior"
        )
    # The learner's parameters are checked even where only agents without any run.
    for name in ("dqn_prior", "cql_prior", *settings.agents):
        if agents.is_policy(name):
            _check_policy(name, settings)
        else:
            online = settings.offline.dataset is None
            build_agent(name, settings.agent, settings.prior, online)


def _check_policy(name: str, settings: Settings) -> None:
    policy: PolicySettings = settings.policy
    for field in ("num_envs", "rollout_steps"):
        if getattr(policy, field) < 1:
            value = getattr(policy, field)
            raise ValueError(f"config.policy.{field} is {value}; use a number >= 1")
    if min(policy.hidden_sizes, default=1) < 1:
        raise ValueError(f"config.policy.hidden_sizes is {policy.hidden_sizes}; use numbers >= 1")
    steps = policy.num_envs * policy.rollout_steps
    if settings.run.eval_every % steps:
        raise ValueError(
            f"config.eval_every is {settings.run.eval_every}, and a rollout is {policy.num_envs} "
            f"environments x {policy.rollout_steps} steps (config.policy.num_envs, "
            f"config.policy.rollout_steps); use a multiple of {steps}"
        )
    # The embedded model stands in for a large one: arguments are checked, and nothing is loaded.
    build_policy(name, models.load("tiny"), 1, policy, settings.prior)
