"""The experiments in ALFWorld's Pick: online, in unseen tasks, from a dataset, and beyond."""

from typing import Any

from launch.configs import alfworld_pick, alfworld_pick_refine
from launch.paper.experiments import (
    BOTH_MODES,
    POLICY_AGENTS,
    Claim,
    Experiment,
    Inputs,
    Maker,
    Scale,
)
from llmprior_jax import training


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """Pick, another game in each episode: online, in unseen tasks, and from a dataset."""
    maker = _maker(scale, inputs)
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
        **({} if scale.is_quick else {"refined-alfworld-pick": _refined(scale, maker)}),
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
        "memory-alfworld-pick": _memory(scale, maker),
    }


def _refined(scale: Scale, maker: Maker) -> Experiment:
    """The prior as it is, and after a round in which it learns."""
    refined: dict[str, Any] = {"num_seeds": scale.num_policy_seeds} | {
        f"prior__refine__{name}": value
        for name, value in alfworld_pick_refine.get_config().prior.refine.items()
    }
    return Experiment(
        "A refined prior: ALFWorld Pick, unseen tasks",
        "The posterior of the training games is distilled into the language model. What is that "
        "worth in games that it never saw, alone and as the prior of DQN-Prior? All seeds of a "
        "run share one refined prior, so intervals do not tell how much another would differ; "
        "`launch.paper.refinement` refines several.",
        (
            *map(maker.run, ("prior", "dqn_prior")),
            maker.run("prior", "refined prior alone", **refined),
            maker.run("dqn_prior", "DQN-Prior, refined prior", **refined),
        ),
        success="unseen_success_rate",
        needs=("games",),
    )


def _memory(scale: Scale, maker: Maker) -> Experiment:
    # An evaluation meets as many new states as a few hundred steps, in unseen games as many again.
    often: dict[str, Any] = {"eval_every": scale.alfworld_steps // 4, "games__unseen": ()}
    return Experiment(
        "Memory: ALFWorld Pick",
        "Does an agent that remembers pairs need fewer steps than one that learns a network?",
        (
            maker.run("dqn_prior", **often),
            maker.run("mem_q", loop__warmup_steps=1, **often),
        ),
        claims=(Claim("Mem-Q", "DQN-Prior", at_most=0.5),),
        needs=("games",),
    )


def _maker(scale: Scale, inputs: Inputs) -> Maker:
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

    return Maker(inputs, default)
