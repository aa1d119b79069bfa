"""Validates settings before anything is loaded or written."""

from collections.abc import Sequence

import jax

from llmprior_jax import agents, datasets, models
from llmprior_jax.agents.search_prior import check_tree_policy
from llmprior_jax.distributed.mesh import make_mesh
from llmprior_jax.play.candidates import PROPOSERS
from llmprior_jax.priors import Sampling, check_options, prompts
from llmprior_jax.priors.sampling.generation import check_sampling
from llmprior_jax.priors.sampling.proposals import check_estimate
from llmprior_jax.priors.sources.registry import check_method
from llmprior_jax.ranges import (
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SHARE_NOT_ZERO,
    SIZE,
    STEPS,
    WIDTH,
    WIDTH_OR_ZERO,
    Range,
)
from llmprior_jax.settings import PriorSettings, Settings
from llmprior_jax.training import refinement
from llmprior_jax.training.build import (
    ENGINE,
    check_eval_modes,
    check_search,
    freeform_sampling,
    shared_environments,
)
from llmprior_jax.training.build_agent import build_agent, build_policy
from llmprior_jax.training.config import check_agents, flat, priors_of
from llmprior_jax.training.metrics import import_wandb

# What each number of the settings may be, by its name in a configuration. Of a field that may be
# unset it is a number if it is set, and of one with several numbers each of them.
RANGES: dict[str, Range] = {
    "history": WIDTH_OR_ZERO,
    "engine.num_actions": WIDTH,
    "engine.max_steps": COUNT,
    "engine.timeout": Range(1, 1_000_000),
    "freeform.k": WIDTH,
    "freeform.max_new_tokens": WIDTH,
    "freeform.temperature": NOT_NEGATIVE,
    "freeform.top_p": SHARE_NOT_ZERO,
    "prior.temperature": POSITIVE,
    "prior.uniform_share": SHARE,
    "prior.num_features": WIDTH,
    "prior.examples.count": WIDTH,
    "prior.history": WIDTH_OR_ZERO,
    "prior.propose.k": WIDTH,
    "prior.propose.temperature": NOT_NEGATIVE,
    "prior.propose.top_p": SHARE_NOT_ZERO,
    "prior.propose.max_new_tokens": WIDTH,
    "prior.propose.pseudo_count": NOT_NEGATIVE,
    "prior.refine.rounds": WIDTH,
    "prior.refine.num_steps": COUNT,
    "prior.refine.episodes": SIZE,
    "prior.refine.updates": COUNT,
    "prior.refine.batch_states": SIZE,
    "prior.refine.rank": WIDTH,
    "prior.refine.learning_rate": POSITIVE,
    "prior.refine.leash": NOT_NEGATIVE,
    "agent.alpha": POSITIVE,
    "agent.alpha_from": POSITIVE,
    "agent.alpha_updates": COUNT,
    "agent.target_kl": POSITIVE,
    "agent.beta": NOT_NEGATIVE,
    "agent.penalty_temperature": POSITIVE,
    "agent.num_candidates": WIDTH,
    "agent.epsilon": SHARE_NOT_ZERO,
    "agent.weight_decay": NOT_NEGATIVE,
    "agent.discount": SHARE,
    "agent.learning_rate": POSITIVE,
    "agent.target_rate": SHARE,
    "agent.max_grad_norm": POSITIVE,
    "agent.hidden_sizes": WIDTH,
    "policy.lora_rank": WIDTH,
    "policy.alpha": NOT_NEGATIVE,
    "policy.clip_epsilon": POSITIVE,
    "policy.discount": SHARE,
    "policy.gae_lambda": SHARE,
    "policy.learning_rate": POSITIVE,
    "policy.value_learning_rate": POSITIVE,
    "policy.value_coefficient": POSITIVE,
    "policy.max_grad_norm": POSITIVE,
    "policy.epochs": WIDTH,
    "policy.minibatch_states": SIZE,
    "policy.hidden_sizes": WIDTH,
    "policy.num_envs": SIZE,
    "policy.rollout_steps": SIZE,
    "search.simulations": WIDTH,
    "search.rollout_steps": WIDTH,
    "loop.num_envs": SIZE,
    "loop.replay_capacity": STEPS,
    "loop.warmup_steps": COUNT_OR_ZERO,
    "loop.batch_size": SIZE,
    "loop.updates_per_step": SIZE,
    "offline.size": COUNT,
    "seed": SEED,
    "num_seeds": SIZE,
    "num_steps": COUNT,
    "eval_every": STEPS,
    "eval_episodes": SIZE,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
}
_DEFAULTS = flat(Settings())
# Fields that may be left unset, which a command line says by 0.
_UNSET = {name for name in RANGES if _DEFAULTS[name] is None}


def validate(settings: Settings) -> None:
    """Raises a ValueError that names the field of the configuration if a value is out of its range.

    Raises:
      ValueError: see above.
      ImportError: Weights & Biases is to be used, and is not installed.
    """
    if settings.wandb_project is not None:
        import_wandb()
    check_agents(settings.agents)
    _check_numbers(settings)
    _check_sizes(settings)
    _check_prior(settings.prior)
    _check_environment(settings)
    run = settings.run
    make_mesh(run.mesh, run.num_seeds, shared_environments(settings))
    datasets.check_unit(settings.offline.unit)
    check_eval_modes(run.eval_modes, settings.agents)
    check_tree_policy(settings.search.tree_policy)
    counts = {name: getattr(run, name) for name in ("num_steps", "eval_every")}
    counts["prior.refine.num_steps"] = settings.prior.refine.num_steps
    for name, steps in counts.items():
        if steps is not None and not settings.offline.dataset and steps % settings.loop.num_envs:
            raise ValueError(
                f"config.{name} is {steps}, which {settings.loop.num_envs} environments "
                "(config.loop.num_envs) cannot divide among them; use a multiple"
            )
    _check_agents(settings)
    if settings.prior.refine.rounds is not None:
        _check_refinement(settings)


def _check_numbers(settings: Settings) -> None:
    """Checks each number by itself."""
    fields = flat(settings)
    for name, allowed in RANGES.items():
        value = fields[name]
        if isinstance(value, list):
            for each in value:
                allowed.check(f"an entry of config.{name}", each)
        elif value is not None:
            also = ", or 0 for none" if name in _UNSET and 0 not in allowed else ""
            allowed.check(f"config.{name}", value, also)
    for other in settings.prior.others:
        name = f"the uniform_share of {other.model} in config.prior.others"
        RANGES["prior.uniform_share"].check(name, other.uniform_share)


def _check_sizes(settings: Settings) -> None:
    """Checks numbers that depend on one another."""
    loop = settings.loop
    history, told = settings.environment.history, settings.prior.history
    if told is not None and told < history:
        raise ValueError(
            f"config.prior.history is {told}, and config.history is {history}: the language model "
            "is told all that Q sees; use a number that is not smaller, or 0 for the same"
        )
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


def _check_refinement(settings: Settings) -> None:
    """Raises a ValueError if the prior cannot be refined."""
    prior, offline = settings.prior, settings.offline.dataset
    name = prior.refine.agent
    with_adapter = "and name the adapter that comes of it with --prior"
    if prior.method != "score":
        why = (
            f"config.prior.method is {prior.method!r}, whose answers no update of a language model "
            "follows; use the method 'score'"
        )
    elif settings.environment.env == ENGINE:
        why = (
            f"config.env is {ENGINE!r}, whose states are not kept as texts; refine in an "
            f"environment in JAX, {with_adapter}"
        )
    elif offline is not None:
        why = (
            f"config.offline.dataset is {offline!r}, and which states the posterior visits is "
            f"found by acting; refine online, {with_adapter}"
        )
    elif prior.others:
        why = f"config.prior.others has {len(prior.others)} further priors; name a single one"
    elif prior.reversed:
        why = "config.prior.reversed is True, which is for tests of agents; leave it False"
    elif not _learns_posterior(name, settings):
        why = (
            f"config.prior.refine.agent is {name!r}, which does not learn a posterior of the prior "
            "online; use 'dqn_prior', or an agent of your own that does"
        )
    elif jax.process_count() > 1:
        why = f"there are {jax.process_count()} processes; refine with one, {with_adapter}"
    else:
        refinement.check(settings)
        return
    raise ValueError(f"config.prior.refine.rounds is {prior.refine.rounds}, and {why}")


def _learns_posterior(name: str, settings: Settings) -> bool:
    if agents.is_policy(name) or not agents.sees_prior(name):
        return False
    return build_agent(name, settings.agent, settings.prior).update is not None


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
    if env == ENGINE and offline:
        raise ValueError(
            f"{env} is played by engines on the host, where agents learn online; a dataset is for "
            "environments in JAX"
        )
    if env == ENGINE and policies:
        _check_policy_on_engines(policies[0], settings)
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


def _check_policy_on_engines(name: str, settings: Settings) -> None:
    """Raises a ValueError unless a policy that is a language model can play on engines."""
    num_envs, policy_num_envs = settings.loop.num_envs, settings.policy.num_envs
    if settings.environment.freeform.k is not None:
        raise ValueError(
            f"{name} chooses from the commands that an engine lists, and config.freeform.k asks "
            "for proposals; leave it out, or name agents that learn Q, such as dqn_prior"
        )
    if num_envs != policy_num_envs:
        raise ValueError(
            f"on engines all agents play in as many environments, and config.loop.num_envs is "
            f"{num_envs} where config.policy.num_envs, of {name}, is {policy_num_envs}; make them "
            "equal"
        )


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
    if settings.agent.keep_candidates and settings.environment.env == ENGINE:
        raise ValueError(
            "config.agent.keep_candidates is for environments in JAX; on engines candidates are "
            "drawn whenever they are needed"
        )
    # The learner's parameters are checked even where only agents without any run.
    for name in ("dqn_prior", "cql_prior", *settings.agents):
        if name in settings.agents:
            check_search(name, settings)
        if agents.is_policy(name):
            _check_policy(name, settings)
        else:
            online = settings.offline.dataset is None
            build_agent(name, settings.agent, settings.prior, online)


def _check_policy(name: str, settings: Settings) -> None:
    policy = settings.policy
    steps = policy.num_envs * policy.rollout_steps
    for field in ("num_steps", "eval_every"):
        if (wanted := getattr(settings.run, field)) % steps:
            raise ValueError(
                f"config.{field} is {wanted}, and a rollout is {policy.num_envs} environments x "
                f"{policy.rollout_steps} steps (config.policy.num_envs, "
                f"config.policy.rollout_steps); use a multiple of {steps}"
            )
    # The embedded model stands in for a large one: arguments are checked, and nothing is loaded.
    build_policy(name, models.load("tiny"), 1, policy, settings.prior)
