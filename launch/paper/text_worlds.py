"""The experiments in worlds that others publish on: BabyAI's rooms, and TextWorld Commonsense."""

import importlib.util
import shutil
from typing import Any

from launch.configs import babyai_go_to_local, textworld_commonsense
from launch.paper.experiments import (
    BOTH_MODES,
    Claim,
    Experiment,
    Inputs,
    Maker,
    Run,
    Scale,
)
from llmprior_jax import training

_VALUES = ("random", "prior", "dqn", "dqn_prior")
_LEVELS = {"GoToRedBallNoDists": "babyai-go-to-red-ball", "GoToLocal": "babyai-go-to-local"}
_PUBLISHED = (
    "Published figures do not compare. GLAM (arXiv 2302.02662) trains FLAN-T5 of 780 million "
    "parameters on its mix of levels in one or two rooms, and is at a success rate of 0.8 after "
    "250,000 steps. BALROG (arXiv 2411.13543) asks GPT-4o, which solves 78% of five levels without "
    "training. The prior here has 1 million parameters and never read of a grid; the levels are "
    "single ones, their texts are in other words, and a run has 6,400 steps."
)


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """The experiments by name; TextWorld Commonsense only where its engine and Java are."""
    return {
        **{name: _babyai(scale, inputs, level) for level, name in _LEVELS.items()},
        **(_commonsense(scale, inputs) if has_engine() else {}),
    }


def has_engine() -> bool:
    """Whether TextWorldExpress and a Java are there."""
    return bool(importlib.util.find_spec("textworld_express") and shutil.which("java"))


def _babyai(scale: Scale, inputs: Inputs, level: str) -> Experiment:
    """A level of BabyAI, whose rooms are drawn anew in every episode."""

    def default() -> training.Config:
        config = babyai_go_to_local.get_config()
        config.env = f"BabyAI-{level}"
        return _sized(config, scale)

    return Experiment(
        f"Online: BabyAI-{level}",
        "What do a prior that knows nothing of grids, and learning without it, come to in rooms "
        f"that are drawn anew? {_PUBLISHED}",
        _runs(Maker(inputs, default), scale),
        claims=(Claim("DQN-Prior", "DQN", at_most=1.0),),
    )


def _commonsense(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """TextWorld Commonsense, in the games to train on and in those of its test seeds."""

    def default() -> training.Config:
        return _sized(textworld_commonsense.get_config(), scale)

    experiment = Experiment(
        "Online: TextWorld Commonsense",
        "Things are to be put where they belong, one in one room. The embedded model knows "
        "kitchens, and not these texts. The games are the easiest of their kind: one thing, one "
        "room, no doors. So random play does well here; published figures are of harder "
        "games.",
        _runs(Maker(inputs, default), scale),
        claims=(Claim("DQN-Prior", "DQN", at_most=1.0),),
    )
    return {
        "textworld-commonsense": experiment,
        "generalization-textworld-commonsense": experiment._replace(
            title="Generalization: TextWorld Commonsense, unseen games",
            question="The same agents, in games that have other things in them.",
            success="unseen_success_rate",
        ),
    }


def _sized(config: training.Config, scale: Scale) -> training.Config:
    config.num_seeds = scale.num_varied_seeds
    config.num_steps = min(scale.world_steps, config.num_steps)
    config.eval_every = config.num_steps // 4
    config.eval_episodes = 4 if scale.is_quick else 16
    config.update(BOTH_MODES)
    return config


def _runs(maker: Maker, scale: Scale) -> tuple[Run, ...]:
    # The prior knows nothing here: agents are to find that out.
    trust: dict[str, Any] = {"agent__trust": "learned", "policy__trust": "learned"}
    # Few rollouts fit into so few steps, and each state is read anew.
    policy: dict[str, Any] = {
        **trust,
        "num_seeds": scale.num_policy_seeds,
        "policy__num_envs": maker.default().loop.num_envs,
        "policy__rollout_steps": 25,
    }
    return (
        *(maker.run(agent, **trust) for agent in _VALUES),
        # GFlan is left out: it begins as GFlan-Prior does, and costs as much again.
        *(maker.run(agent, **policy) for agent in scale.pick(("gflan_prior",), ())),
    )
