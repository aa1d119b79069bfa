"""What is measured, and with which settings: the experiments of `launch.reproduce` as data.

An experiment is a set of runs and a way to look at them. Its runs differ in one thing, such as the
agent, the amount of data, or the temperature; all else is the default of `training.default_config`
or said here. `Scale` has the sizes, for the full report and for a quick look.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from llmprior_jax import training

SALAD = "Overcooked-TomatoLettuceSalad"


class Scale(NamedTuple):
    """Sizes of all experiments.

    Attributes:
      num_seeds: seeds of agents that are trained as one batch.
      num_policy_seeds: seeds of agents whose policy is a language model.
      online_steps: environment steps of a seed.
      policy_steps: environment steps of a seed whose policy is a language model.
      offline_updates: updates of a seed that learns from a dataset.
      dataset_sizes: transitions to learn from.
      games: training and unseen games of ALFWorld.
      alfworld_steps: environment steps of a seed in ALFWorld.
    """

    num_seeds: int
    num_policy_seeds: int
    online_steps: int
    policy_steps: int
    offline_updates: int
    dataset_sizes: tuple[int, ...]
    games: tuple[int, int]
    alfworld_steps: int


FULL = Scale(
    num_seeds=16,
    num_policy_seeds=5,
    online_steps=36_000,
    policy_steps=8_000,
    offline_updates=20_000,
    dataset_sizes=(250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000),
    games=(28, 26),
    alfworld_steps=40_000,
)
QUICK = Scale(
    num_seeds=4,
    num_policy_seeds=2,
    online_steps=8_000,
    policy_steps=2_000,
    offline_updates=4_000,
    dataset_sizes=(250, 2_000, 16_000),
    games=(4, 4),
    alfworld_steps=2_000,
)


class Run(NamedTuple):
    """One run of an experiment.

    Attributes:
      label: what sets it apart from the experiment's other runs.
      config: of the run; its agents are compared within it.
      amount: how much of what is scarce it was given, where the experiment varies that.
    """

    label: str
    config: training.Config
    amount: int | None = None


class Claim(NamedTuple):
    """Says that `method` needs at least 90% less than `baseline` to get as far as that gets."""

    method: str
    baseline: str


class Experiment(NamedTuple):
    """Runs, and what they are to show.

    Attributes:
      title: for the report.
      question: what the reader learns from it, in a sentence.
      runs: the runs.
      scarce: what the method is to save, for axes and sentences.
      claims: what is to be checked.
    """

    title: str
    question: str
    runs: tuple[Run, ...]
    scarce: str = "environment steps"
    claims: tuple[Claim, ...] = ()


class Inputs(NamedTuple):
    """Files that experiments need, made once.

    Attributes:
      dataset: of salads, to learn from offline.
      games: directory of ALFWorld games, or None where the engine is not installed.
    """

    dataset: str
    games: str | None


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """All experiments by name, in the order in which they are run."""
    experiments = dict(_online(scale, inputs))
    experiments["offline-salad"] = _offline(scale, inputs)
    experiments |= _ablations(scale)
    return experiments


def _config(scale: Scale, **fields) -> training.Config:
    config = training.default_config()
    config.num_seeds = scale.num_seeds
    config.num_steps = scale.online_steps
    config.eval_every = max(1_000, scale.online_steps // 36)
    config.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return config


def _online(scale: Scale, inputs: Inputs) -> Iterator[tuple[str, Experiment]]:
    agents = ("random", "prior", "dqn", "dqn_prior")
    claims = (Claim("dqn_prior", "dqn"),)
    for name, env in (
        ("online-frozen-lake", "FrozenLake-4x4"),
        ("online-tomato-salad", "Overcooked-TomatoSalad"),
        ("online-salad", SALAD),
    ):
        runs = [Run("value", _config(scale, env=env, agents=agents))]
        policies = _config(
            scale,
            env=env,
            agents=("gflan", "gflan_prior"),
            num_seeds=scale.num_policy_seeds,
            num_steps=scale.policy_steps,
            eval_every=1_000,
        )
        runs.append(Run("policy", policies))
        question = "How many environment steps does a prior save an agent that learns online?"
        yield name, Experiment(f"Online: {env}", question, tuple(runs), claims=claims)
    if inputs.games is not None:
        config = _config(
            scale,
            env="ALFWorld",
            agents=agents,
            history=3,
            num_seeds=min(scale.num_seeds, 5),
            num_steps=scale.alfworld_steps,
            eval_every=max(800, scale.alfworld_steps // 10),
            games__train=(f"{inputs.games}/json_2.1.1/train",),
            games__unseen=(f"{inputs.games}/json_2.1.1/valid_unseen",),
        )
        yield (
            "online-alfworld-pick",
            Experiment(
                "Online and generalisation: ALFWorld Pick",
                "Does the prior help where each game is another, and in tasks never trained on?",
                (Run("value", config),),
                claims=claims,
            ),
        )


def _offline(scale: Scale, inputs: Inputs) -> Experiment:
    def run(size: int) -> Run:
        config = _config(
            scale,
            agents=("bc", "cql", "cql_prior"),
            offline__dataset=inputs.dataset,
            offline__size=size,
            agent__beta=0.03,
            num_steps=scale.offline_updates,
            eval_every=scale.offline_updates,
            eval_episodes=128,
        )
        return Run(f"{size}", config, size)

    return Experiment(
        f"Offline: {SALAD}",
        "How many transitions does a prior save an agent that learns from a dataset?",
        tuple(run(size) for size in scale.dataset_sizes),
        scarce="transitions",
        claims=(Claim("cql_prior", "cql"),),
    )


def _ablations(scale: Scale) -> dict[str, Experiment]:
    def vary(title: str, question: str, field: str, values, label: Callable = str) -> Experiment:
        configs = (_config(scale, agents=("dqn_prior",), **{field: value}) for value in values)
        runs = tuple(Run(label(v), config) for v, config in zip(values, configs, strict=True))
        return Experiment(f"{title}: {SALAD}, DQN-Prior", question, runs)

    return {
        "ablation-candidates": vary(
            "Candidates",
            "The paper draws k candidates from the prior. How good is that beside all actions?",
            "agent__num_candidates",
            (0, 1, 5, 10, 15),
            lambda k: f"k = {k}" if k else "exact",
        ),
        "ablation-alpha": vary(
            "Temperature",
            "How much does the temperature of the posterior matter?",
            "agent__alpha",
            (0.003, 0.01, 0.03, 0.1, 0.3),
        ),
        "ablation-backup": vary(
            "Backup",
            "Which value of the next state is best backed up?",
            "agent__backup",
            ("posterior", "soft", "max"),
        ),
        "ablation-bad-prior": _bad_prior(scale),
        "ablation-normalization": vary(
            "Normalisation",
            "How should the log-probabilities of an action's tokens become its score?",
            "prior__normalization",
            ("sum", "token", "word"),
        ),
    }


def _bad_prior(scale: Scale) -> Experiment:
    """An adversarial prior, and what mixing it with the uniform one is worth."""

    def run(label: str, agent: str, **fields) -> Run:
        return Run(label, _config(scale, agents=(agent,), **fields))

    return Experiment(
        f"A bad prior: {SALAD}",
        "The prior's probabilities are reversed. Mixed with the uniform prior, can it be overcome?",
        (
            run("DQN", "dqn"),
            run("DQN-Prior", "dqn_prior"),
            run("DQN-Prior, half uniform", "dqn_prior", prior__uniform_share=0.5),
            run("reversed", "dqn_prior", prior__reversed=True),
            run(
                "reversed, half uniform",
                "dqn_prior",
                prior__reversed=True,
                prior__uniform_share=0.5,
            ),
        ),
    )
