"""The configuration of a run, and the work directory that belongs to it."""

import json
import os
import pathlib
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from llmprior_jax.files import write_atomically

CONFIG_FILE = "config.json"
# Fields that change where and how a run computes, and not what.
_SAME_RESULTS = ("mesh", "prior.store", "wandb_project")

Config: TypeAlias = Any
"""A `ml_collections.ConfigDict`, whose fields a type checker cannot know."""


class ConfigMismatchError(ValueError):
    """A work directory was made by another configuration."""


def default_config() -> Config:
    """All fields of a run with their defaults; config files start from it.

    A field that is not here does not exist: setting one is an error.

    Examples:
      >>> config = training.default_config()
      >>> config.agent.alpha = 0.1
      >>> config.agent.alhpa = 0.1
      Traceback (most recent call last):
      AttributeError: ...
    """
    config = ConfigDict(
        {
            # Environment, by the name that `envs.make` takes; or "engine", which plays games on the
            # engines of the host (`envs.bridge`), each in a process of its own.
            "env": "Overcooked-TomatoLettuceSalad",
            # The games of an environment that takes them from files: those it is trained on, and
            # those it is only evaluated on. Each entry is a game or a directory of games
            # (`games.list_games`).
            "games": {"train": (), "unseen": ()},
            # What is played on engines: the action slots of a state (more admissible commands are
            # an error), the time limit in steps, the seconds after which a process that does not
            # answer is given up, and whether TextWorld is to describe the state (the room and what
            # is carried) instead of answering the last command. There are
            # `num_seeds * loop.num_envs` processes.
            "engine": {"num_actions": 64, "max_steps": 50, "timeout": 300.0, "describe": False},
            # Free-form actions on engines: k texts for a state at a time, proposed by the prior's
            # language model or, as a baseline, put together from `verbs` and words of the
            # observation; 0: the engine lists the actions. Then how the model's answers are drawn
            # (`priors.Sampling`).
            "freeform": {
                "k": 0,
                "source": "language_model",
                "verbs": ("look", "go", "open", "close", "take", "drop", "put", "eat"),
                "max_new_tokens": 16,
                "temperature": 1.0,
                "top_p": 1.0,
                "stop": ("\n",),
            },
            # Earlier (observation, action) pairs that an observation, and so the prompt, holds.
            "history": 0,
            # Agents to compare, by the names that `agents.make` takes; trained one after another.
            "agents": ("dqn_prior",),
            # The prior: the language model ("tiny", a directory or a hub id), and how the
            # log-probabilities of an action's tokens become its score (`priors.score`); and how
            # many whitened features Q sees (`priors.whitening`): those of the model's hidden states
            # ("hidden") or of a text encoder (a BERT's or MiniLM's directory or hub id). What the
            # model says is kept in `store` (`priors.store`), for all runs; "" keeps nothing.
            # `prompt` is what it is asked (`priors.prompts`). `method` is "score", the probability
            # of each action's text, or "propose", the share of `k` sampled answers that mean the
            # action (`priors.estimate`); each of these is a query, of k answers. A pseudo-count of
            # 0 makes actions that were not proposed impossible. Or it is "imitate", and the prior
            # is what `demonstrations` show, a dataset (`priors.Imitator`).
            "prior": {
                "model": "tiny",
                "normalization": "sum",
                "temperature": 1.0,
                # For agents that learn Q: mixed so much with the uniform prior, as a limit to how
                # sure it may be; and reversed, as the worst there is (`agents.prior_transforms`).
                "uniform_share": 0.0,
                "reversed": False,
                # "int8" keeps the weight matrices of a decoder's blocks in 8 bits, for a model that
                # does not fit otherwise (`models.quantization` says what that does to a prior).
                "quantize": "",
                "features": "hidden",
                "num_features": 64,
                "store": _default_store(),
                "prompt": "plain",
                # What the prompt "few_shot" shows: so many successful episodes of an agent of
                # another run, by its work directory. They are copied into this run's.
                "examples": {"workdir": "", "agent": "dqn_prior", "count": 1},
                "method": "score",
                "demonstrations": "",
                "propose": {
                    "k": 16,
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "max_new_tokens": 24,
                    "no_match": "drop",
                    "pseudo_count": 0.1,
                },
            },
            # The agent (`agents.dqn_prior`, `agents.cql_prior`); each takes what it knows of these.
            "agent": {
                # The temperature: fixed; or from `alpha_from` in a line to `alpha` over the first
                # `alpha_updates` updates; or from `alpha` on adapted until the posterior is
                # `target_kl` nats away from the prior (`agents.temperature`). 0 is none of these.
                "alpha": 0.03,
                "alpha_from": 0.0,
                "alpha_updates": 0,
                "target_kl": 0.0,
                # Weight and temperature of the CQL agents' penalty; 0 is the temperature alpha.
                "beta": 0.03,
                "penalty_temperature": 0.0,
                "backup": "posterior",
                "num_candidates": 0,
                # Longer-sighted agents learn to spoil the dish and chop again: each chop is paid.
                "discount": 0.95,
                "learning_rate": 1e-3,
                "target_rate": 0.01,
                "max_grad_norm": 10.0,
                "hidden_sizes": (64, 64),
            },
            # Agents whose policy is a language model ("gflan_prior", "gflan"): the model, which may
            # be another than the prior's; how it is trained (`agents.gflan_prior`), where lora_rank
            # 0 is full fine-tuning; and the steps of each of N environments between two updates.
            "policy": {
                "model": "tiny",
                "lora_rank": 0,
                "alpha": 0.01,
                "kl_in": "reward",
                "clip_epsilon": 0.2,
                "discount": 0.95,
                "gae_lambda": 0.95,
                "learning_rate": 1e-4,
                "value_learning_rate": 1e-3,
                "value_coefficient": 0.5,
                "max_grad_norm": 1.0,
                "epochs": 4,
                "minibatch_states": 32,
                "hidden_sizes": (64,),
                "num_envs": 20,
                "rollout_steps": 50,
            },
            # Sizes of the training loop (`training.LoopConfig`), per seed.
            "loop": {
                "num_envs": 8,
                "replay_capacity": 20_000,
                "warmup_steps": 16,
                "batch_size": 32,
                "updates_per_step": 1,
            },
            # Devices, such as "data:4,model:2" (`training.mesh`): seeds are shared out over data,
            # the language model's weights over model. Empty: as many as divide the seeds, on data.
            "mesh": "",
            # Learning offline: the dataset (`training.datasets`; none is learning online), and how
            # much of it each seed learns from, in transitions or episodes; 0 is all. Then a step is
            # an update, of `loop.batch_size` transitions, and of `loop` only that is used.
            "offline": {"dataset": "", "size": 0, "unit": "transition"},
            "seed": 0,
            "num_seeds": 8,
            # Environment steps of each seed (offline: updates), and how many lie between two
            # evaluations.
            "num_steps": 36_000,
            "eval_every": 1_000,
            # Environment steps of one jitted segment, after which the host scores the states that
            # were missing; 0: all until the next evaluation. Where almost every step leads to a new
            # state, as with a history, a short segment wastes less on waiting.
            "segment_steps": 0,
            "eval_episodes": 64,
            # Evaluations between two checkpoints, and how many checkpoints stay.
            "checkpoint": {"every": 6, "keep": 2},
            # The project of Weights & Biases that gets what TensorBoard gets; "" is none.
            "wandb_project": "",
        }
    )
    return config.lock()


def _default_store() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{cache}/llmprior_jax/priors.sqlite"


def check_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Checks that a work directory, if there is one, belongs to `config`.

    Raises:
      ConfigMismatchError: the directory was made by a different configuration; the message lists
        the fields that differ.
      ValueError: its configuration cannot be read.
    """
    if not (workdir / CONFIG_FILE).exists():
        return
    theirs, ours = _flatten(read_config(workdir)), _flatten(config)
    differences = [
        f"  {name}: {theirs[name]!r} in the directory, {ours.get(name, 'not there')!r} now"
        for name in sorted(theirs)
        if theirs[name] != ours.get(name) and name not in _SAME_RESULTS
    ]
    if differences:
        raise ConfigMismatchError(
            f"{workdir} belongs to a run with another configuration:\n"
            + "\n".join(differences)
            + "\nUse another --workdir or the same configuration, or --noresume to remove that run."
        )


def claim_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Makes a work directory for `config`, or checks that it belongs to that very one.

    Raises:
      ConfigMismatchError, ValueError: see `check_workdir`.
    """
    check_workdir(workdir, config)
    path = workdir / CONFIG_FILE
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(json.loads(config.to_json()), indent=2) + "\n")


def read_config(workdir: pathlib.Path) -> Config:
    """The configuration that a work directory was made by.

    What the directory does not say, being older than a field, is the field's default.

    Examples:
      >>> training.read_config(pathlib.Path("runs/lake")).env
      'FrozenLake-4x4'

    Raises:
      FileNotFoundError: the directory holds no run.
      ValueError: the file is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run: there is no {CONFIG_FILE} in it")
    try:
        said = ConfigDict(json.loads(path.read_text()))
        # Made anew, because JSON has lists for tuples, and a `ConfigDict` keeps the types it has.
        config = ConfigDict(json.loads(default_config().to_json()))
        config.update(said)
        return config
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; use another --workdir") from error


def changes(config: Config) -> dict[str, Any]:
    """The fields in which a configuration differs from the default one, by dotted name.

    Without those that change where and how a run computes, and not what.
    """
    default = _flatten(default_config())
    return {
        name: value
        for name, value in _flatten(config).items()
        if value != default[name] and name not in _SAME_RESULTS
    }


def _flatten(config: Config) -> dict[str, Any]:
    return _leaves(json.loads(config.to_json()))


def _leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
