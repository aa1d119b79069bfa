"""Builds agents from settings."""

import dataclasses
import functools
from typing import Any

from llmprior_jax import agents, models
from llmprior_jax.agents import prior_transforms
from llmprior_jax.priors.language_policy import language_policy
from llmprior_jax.ranges import SHARE
from llmprior_jax.settings import AgentSettings, PolicySettings, PriorSettings
from llmprior_jax.training.config import Config, to_settings
from llmprior_jax.types import LanguagePolicy


def make_agent(name: str, config: Config) -> agents.Agent:
    """The agent `name` with the parameters of `config.agent`, and the prior of `config.prior`.

    Examples:
      >>> agent = training.make_agent("dqn_prior", training.default_config())
      >>> agent.update is not None
      True
    """
    settings = to_settings(config)
    online = settings.offline.dataset is None
    return build_agent(name, settings.agent, settings.prior, online)


def seen_by(name: str, prior: PriorSettings) -> PriorSettings:
    """How an agent sees the prior.

    One whose policy is a language model begins as its model is, whatever is done to the prior for
    agents that learn Q.
    """
    if agents.is_policy(name):
        others = tuple(dataclasses.replace(each, uniform_share=0.0) for each in prior.others)
        return dataclasses.replace(prior, uniform_share=0.0, reversed=False, others=others)
    return prior


def build_agent(
    name: str, agent: AgentSettings, prior: PriorSettings, online: bool = True
) -> agents.Agent:
    """The agent `name`, which sees the prior as `prior` says, and plays while it learns or not.

    Raises:
      ValueError: there is no such agent, or a parameter is out of its range.
    """
    parameters = _parameters(agent, "alpha", "alpha_from", "alpha_updates", "target_kl", "trust")
    alpha = agents.temperature.choose(
        agent.alpha, agent.alpha_from, agent.alpha_updates, agent.target_kl
    )
    trust = agents.trust.choose(agent.trust, online, 1 + len(prior.others))
    made = agents.make(name, alpha=alpha, trust=trust, **parameters)
    shares = (prior.uniform_share, *(other.uniform_share for other in prior.others))
    for share in shares:
        SHARE.check("prior.uniform_share", share)
    # What is put around an agent last is done to the prior first: reversed, then mixed.
    if shares[0]:
        mix = functools.partial(prior_transforms.mixed_with_uniform, share=shares[0])
        made = agents.with_prior(made, mix)
    if any(shares[1:]):
        mix = functools.partial(prior_transforms.others_mixed_with_uniform, shares=shares[1:])
        made = agents.with_prior(made, mix)
    if prior.reversed:
        made = agents.with_prior(made, prior_transforms.reversed_order)
    return made


def build_policy(
    name: str,
    lm: models.LanguageModel,
    num_actions: int,
    policy: PolicySettings,
    prior: PriorSettings,
) -> tuple[agents.PolicyAgent, LanguagePolicy]:
    """The policy agent `name`, and the `LanguagePolicy` that it trains.

    How the policy is made of its model is as the prior's is (`prior.normalization`,
    `prior.temperature`).

    Raises:
      ValueError: there is no such agent, or a parameter is out of its range.
    """
    model = language_policy(
        lm, num_actions, prior.normalization, prior.temperature, policy.lora_rank or 0
    )
    parameters = _parameters(policy, "model", "lora_rank", "num_envs", "rollout_steps", "trust")
    # Its policy is not the posterior, and no member of a mixture can be played alone.
    trust = agents.trust.choose(policy.trust, online=False, num_priors=1 + len(prior.others))
    return agents.make_policy(name, model, trust=trust, **parameters), model


def _parameters(part: AgentSettings | PolicySettings, *others: str) -> dict[str, Any]:
    """The arguments of an agent's factory: its settings but for some, and those of its own."""
    fields = {name: value for name, value in vars(part).items() if name not in (*others, "extra")}
    return fields | dict(part.extra)
