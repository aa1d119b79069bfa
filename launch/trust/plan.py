"""Which runs show what learned trust is worth, with which settings, as data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from launch.real_models.plan import SALAD, SMALL_SALAD
from llmprior_jax import training

DQN, DQN_PRIOR, CQL, CQL_PRIOR = "dqn", "dqn_prior", "cql", "cql_prior"
GFLAN, GFLAN_PRIOR = "gflan", "gflan_prior"
SMOLLM2, GEMMA = "smollm2", "gemma3-270m"
LEARNED, FIXED = "learned", "fixed"
# The seeds that the best fixed setting is looked for with are not those that are reported.
_SEARCH_SEED, _SEARCH_SEEDS = 1_000, 16
# Shares of the uniform prior, and temperatures.
FIXED_SETTINGS = ((0.1, 1.0), (0.2, 1.0), (0.5, 1.0), (0.8, 1.0), (0.2, 3.0), (0.5, 3.0))
OFFLINE_SIZES = (250, 1_000, 4_000, 32_000)
# The file of transitions, in the work directory, and what makes it.
DATASET = "salad.parquet"
COLLECT = (
    "launch.collect",
    f"--env={SALAD}",
    "--behavior=expert@0.7",
    "--success_share=0.75",
    "--transitions=32000",
)


class Prior(NamedTuple):
    """A prior, and how a configuration names it.

    Attributes:
      label: for people.
      fields: of the configuration, where `SMOLLM2` and `GEMMA` stand for their files.
      features: what Q sees: priors of the same have a DQN in common.
      kind: of a first place, "shown" if it is to stand beside the same prior taken as it is,
        "searched" if beside the best fixed setting, too; "once" if it is in no other place.
    """

    label: str
    fields: Mapping[str, Any]
    features: str
    kind: str = ""


_PLAIN = {"prior.model": SMOLLM2, "prior.prompt": "plain", "prior.normalization": "sum"}
PRIORS = (
    Prior("embedded", {}, "embedded", "shown"),
    Prior("uniform", {"prior.uniform_share": 1.0}, "embedded"),
    Prior("embedded, reversed", {"prior.reversed": True}, "embedded", "shown"),
    Prior("SmolLM2, plain, by sum", _PLAIN, "SmolLM2 plain", "shown"),
    Prior("SmolLM2", {"prior.model": SMOLLM2}, "SmolLM2", "searched"),
    Prior("Gemma 3", {"prior.model": GEMMA}, "Gemma 3", "once"),
    Prior("embedded and SmolLM2", {"prior.others": (SMOLLM2,)}, "embedded"),
)


class Place(NamedTuple):
    """Where agents learn online.

    Attributes:
      name: for people.
      level: of success, to which steps are counted.
      fields: of the configuration.
      num_seeds: of each run.
      is_first: whether all priors are tried there, those of some kinds in other ways, too.
    """

    name: str
    level: float
    fields: Mapping[str, Any]
    num_seeds: int
    is_first: bool = False


# Most steps on the lake slip, so that the goal is far and values differ little: agents look far,
# and the temperature is low. Nobody succeeds in nine of ten episodes there.
_LAKE = {"env": "FrozenLake-4x4", "agent.alpha": 0.003, "agent.discount": 0.99}
PLACES = (
    Place("TomatoLettuceSalad", 0.9, {"env": SALAD, "num_steps": 36_000}, 64, is_first=True),
    Place("TomatoSalad", 0.9, {"env": SMALL_SALAD, "num_steps": 24_000}, 32),
    Place("slippery lake", 0.5, {**_LAKE, "num_steps": 48_000, "eval_every": 2_000}, 32),
)


class Run(NamedTuple):
    """One agent with one prior.

    Attributes:
      name: of its directory.
      agent: the agent.
      config: its configuration.
    """

    name: str
    agent: str
    config: training.Config


def online(place: Place, models: Mapping[str, str]) -> dict[str, Run]:
    """The runs of a place by what they show: "dqn FEATURES", "learned LABEL", "fixed LABEL".

    Args:
      place: the place.
      models: where the models are, by `SMOLLM2` and `GEMMA`; priors of others are left out.
    """
    common = {**place.fields, "num_seeds": place.num_seeds, "eval_episodes": 32}
    runs: dict[str, Run] = {}
    for prior in _those_of(models):
        if prior.kind == "once" and not place.is_first:
            continue
        fields = {**common, **_with_files(prior.fields, models)}
        runs.setdefault(
            f"{DQN} {prior.features}", _run(f"{place.name} {DQN} {prior.features}", DQN, fields)
        )
        is_shown = place.is_first and prior.kind in ("shown", "searched")
        for trust in (LEARNED, FIXED) if is_shown else (LEARNED,):
            name = f"{trust} {prior.label}"
            of_trust = {**fields, "agent.trust": trust}
            runs[name] = _run(f"{place.name} {name}", DQN_PRIOR, of_trust)
    return runs


def search(place: Place, models: Mapping[str, str]) -> dict[str, dict[tuple[float, float], Run]]:
    """Runs to find the best fixed setting by, each prior's by share and temperature."""
    return {
        prior.label: {
            setting: _fixed(place, prior, models, *setting, _SEARCH_SEEDS, _SEARCH_SEED)
            for setting in FIXED_SETTINGS
        }
        for prior in _those_of(models)
        if place.is_first and prior.kind == "searched"
    }


def best_fixed(
    place: Place,
    label: str,
    models: Mapping[str, str],
    setting: tuple[float, float],
) -> Run:
    """The run that shows what the setting found is worth, with the seeds that are reported."""
    (prior,) = (prior for prior in PRIORS if prior.label == label)
    return _fixed(place, prior, models, *setting, place.num_seeds)


def offline(dataset: str, num_seeds: int) -> dict[tuple[int, str], Run]:
    """Runs that learn from a dataset, by how much of it and what: "cql", "learned", "fixed"."""
    runs = {}
    for size in OFFLINE_SIZES:
        fields = {
            "offline.dataset": dataset,
            "offline.size": size,
            "num_seeds": num_seeds,
            "num_steps": 6_000,
            "eval_every": 2_000,
            "eval_episodes": 128,
        }
        runs[size, CQL] = _run(f"offline {size} {CQL}", CQL, fields)
        for trust in (LEARNED, FIXED):
            of_trust = {**fields, "agent.trust": trust}
            runs[size, trust] = _run(f"offline {size} {trust}", CQL_PRIOR, of_trust)
    return runs


def policies(num_seeds: int) -> dict[str, Run]:
    """Runs whose policy is the embedded model: "gflan", "learned", "fixed"."""
    fields = {"env": SALAD, "num_seeds": num_seeds, "num_steps": 5_000, "eval_every": 1_000}
    of_prior = {
        trust: _run(f"policy {trust}", GFLAN_PRIOR, {**fields, "policy.trust": trust})
        for trust in (LEARNED, FIXED)
    }
    return {GFLAN: _run(f"policy {GFLAN}", GFLAN, fields), **of_prior}


def _fixed(
    place: Place,
    prior: Prior,
    models: Mapping[str, str],
    share: float,
    temperature: float,
    num_seeds: int,
    seed: int = 0,
) -> Run:
    how = {
        "prior.uniform_share": share,
        "prior.temperature": temperature,
        "agent.trust": FIXED,
        "seed": seed,
        "num_seeds": num_seeds,
        "eval_episodes": 32,
    }
    name = f"{place.name} {FIXED} {prior.label} {share:g} uniform, temperature {temperature:g}"
    fields = {**place.fields, **_with_files(prior.fields, models), **how}
    return _run(f"{name}, seed {seed}", DQN_PRIOR, fields)


def _run(name: str, agent: str, fields: Mapping[str, Any]) -> Run:
    config = training.default_config()
    config.update_from_flattened_dict({**fields, "agents": (agent,)})
    directory = name.replace(",", "").replace(" ", "-")
    return Run(directory, agent, config)


def _those_of(models: Mapping[str, str]) -> Iterator[Prior]:
    """The priors of models that are there."""
    for prior in PRIORS:
        if all(name in models for name in _models_of(prior.fields)):
            yield prior


def _models_of(fields: Mapping[str, Any]) -> Sequence[str]:
    first = fields.get("prior.model")
    return (*([first] if first else []), *fields.get("prior.others", ()))


def _with_files(fields: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """The fields with the files of models in place of their names."""
    files = {
        "prior.model": lambda name: models[name],
        "prior.others": lambda names: tuple(models[name] for name in names),
    }
    return {name: files[name](of) if name in files else of for name, of in fields.items()}
