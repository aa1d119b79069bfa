"""What is searched: for each agent the same grid as for its baseline, on seeds of the search.

From the default, one factor is varied at a time. Then the best value of each factor makes one more
setting, their combination. Of all that were tried the best is chosen, by one rule:

- online, the fewest steps until the interquartile mean of success over seeds is 0.9, interpolated
  between evaluations; of equal ones, and where none gets there, the most success at the end, the
  mean of the last five evaluations;
- from a dataset, where steps are updates and not scarce, the most success at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from launch.common import yardstick
from launch.common.yardstick import DATASET_BEHAVIOR, SALAD, Curve
from llmprior_jax import training
from llmprior_jax.training import summary
from llmprior_jax.training.config import flat

LEVEL = summary.SOLVED
# Neither the report's seeds, nor its data.
SEED = 2_000
DATASET = "search.parquet"
DATASET_SIZE = 1_000  # transitions that each seed learns from
COLLECT = (
    "launch.collect",
    f"--env={SALAD}",
    f"--behavior={DATASET_BEHAVIOR}",
    "--success_share=0.75",
    "--transitions=16000",
    f"--seed={SEED}",
)

Fields = Mapping[str, Any]
"""Fields of a configuration, by dotted name, and their values."""

_VALUES: Mapping[str, Sequence[Any]] = {
    "agent.alpha": (0.01, 0.03, 0.1),
    "agent.learning_rate": (3e-4, 1e-3, 3e-3),
    "agent.target_rate": (0.003, 0.01, 0.03),
    "agent.backup": ("posterior", "soft", "max"),
}
_ONLINE = {**_VALUES, "agent.epsilon": (None, 0.1, 0.2), "loop.updates_per_step": (1, 4)}
_OFFLINE = {**_VALUES, "agent.beta": (0.01, 0.03, 0.1), "agent.penalty_temperature": (None, 1.0)}
_POLICIES: Mapping[str, Sequence[Any]] = {
    "policy.alpha": (0.003, 0.01, 0.03),
    "policy.learning_rate": (3e-5, 1e-4, 3e-4),
}


class Scale(NamedTuple):
    """Sizes of all searches; those of steps are how many, and of how many evaluation comes.

    Attributes:
      num_seeds: of each run.
      num_policy_seeds: where the policy is a language model.
      online: environment steps.
      policies: likewise, where the policy is a language model.
      offline: updates.
      eval_episodes: of an evaluation, per seed.
    """

    num_seeds: int
    num_policy_seeds: int
    online: tuple[int, int]
    policies: tuple[int, int]
    offline: tuple[int, int]
    eval_episodes: int


FULL = Scale(16, 3, (36_000, 1_000), (5_000, 1_000), (6_000, 500), eval_episodes=16)
QUICK = Scale(2, 1, (320, 160), (1_000, 1_000), (40, 20), eval_episodes=2)


class Search(NamedTuple):
    """A search for the settings of one agent.

    Attributes:
      agent: the agent.
      fields: what is the same in all its runs.
      factors: the values of each field that is varied; the default is one of them.
      counts_steps: whether fewer steps are better.
    """

    agent: str
    fields: Fields
    factors: Mapping[str, Sequence[Any]]
    counts_steps: bool = True


class Score(NamedTuple):
    """How good a setting is; the smallest is best.

    Attributes:
      steps: to a success of `LEVEL`, infinite if it is never reached, 0 where they do not count.
      failure: 1 less the success at the end.
    """

    steps: float
    failure: float


def searches(scale: Scale, dataset: str) -> dict[str, Search]:
    """All searches by their agents.

    Args:
      scale: their sizes.
      dataset: the file that CQL and CQL-Prior learn from.
    """
    common = {"env": SALAD, "seed": SEED, "agent.trust": "fixed", "policy.trust": "fixed"}

    def lasting(steps: tuple[int, int], num_seeds: int) -> dict[str, Any]:
        return common | {
            "num_steps": steps[0],
            "eval_every": steps[1],
            "eval_episodes": scale.eval_episodes,
            "num_seeds": num_seeds,
        }

    online = lasting(scale.online, scale.num_seeds)
    data = {"offline.dataset": dataset, "offline.size": DATASET_SIZE}
    offline = lasting(scale.offline, scale.num_seeds) | data
    policies = lasting(scale.policies, scale.num_policy_seeds)
    return {
        search.agent: search
        for search in (
            Search("dqn", online, _ONLINE),
            Search("dqn_prior", online, _ONLINE),
            Search("cql", offline, _OFFLINE, counts_steps=False),
            Search("cql_prior", offline, _OFFLINE, counts_steps=False),
            Search("gflan", policies, _POLICIES),
            Search("gflan_prior", policies, _POLICIES),
        )
    }


def one_at_a_time(search: Search) -> list[Fields]:
    """The default, which changes nothing, and every setting with one factor changed."""
    defaults = flat(training.to_settings(training.default_config()))
    return [
        {},
        *(
            {field: value}
            for field, values in search.factors.items()
            for value in values
            if value != defaults[field]
        ),
    ]


def combined(search: Search, scores: Mapping[str, Score]) -> Fields:
    """The best value of each factor, where that is not the default.

    Args:
      search: the search.
      scores: of `one_at_a_time`, by `name`.
    """
    best: dict[str, Any] = {}
    for field in search.factors:
        tried = [fields for fields in one_at_a_time(search) if not fields or field in fields]
        best |= min(tried, key=lambda fields: scores[name(search, fields)])
    return best


def score(search: Search, curve: Mapping[str, Any]) -> Score:
    """How good a setting is.

    Args:
      search: the search that it is of.
      curve: `steps` [E] and `success_rate` [E][S].
    """
    of_seeds = Curve(np.array(curve["steps"], float), np.array(curve["success_rate"], float))
    means = np.array([summary.interquartile_mean(row) for row in of_seeds.success])
    steps = yardstick.needed(of_seeds.amounts, means, LEVEL) if search.counts_steps else 0.0
    return Score(steps, 1 - yardstick.end(means))


def name(search: Search, fields: Fields) -> str:
    """Of a setting's run, and of its directory."""
    said = [f"{field}={value}" for field, value in fields.items()] or ["default"]
    return ",".join((search.agent, *said))


def config(search: Search, fields: Fields, store: str) -> training.Config:
    """The configuration of a setting's run.

    Args:
      search: the search.
      fields: the setting.
      store: file of what the language model said, for all runs.
    """
    made = training.default_config()
    own = {"agents": (search.agent,), "prior.store": store}
    made.update_from_flattened_dict({**search.fields, **own, **fields})
    return made
