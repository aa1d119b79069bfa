"""Experiments beyond the paper: Q that is remembered, and search in the environment itself."""

from collections.abc import Callable

from launch.common.yardstick import SALAD
from launch.paper.plan import Claim, Experiment, Run, Scale

_MakeRun = Callable[..., Run]
_SEARCHERS = {"random": "uniform", "prior": "prior alone", "dqn_prior": "DQN-Prior"}


def make(scale: Scale, in_kitchen: _MakeRun, in_pick: _MakeRun | None) -> dict[str, Experiment]:
    """The experiments by name.

    Args:
      scale: their sizes.
      in_kitchen: makes runs in the kitchen; takes an agent, a label, and fields.
      in_pick: makes runs in ALFWorld's Pick, or None where the engine is not installed.
    """
    experiments = {
        "memory-salad": _memory(scale, in_kitchen, SALAD),
        "memory-tomato-salad": _memory(scale, in_kitchen, "Overcooked-TomatoSalad"),
        "search-salad": _search(scale, in_kitchen),
    }
    if in_pick is not None:
        experiments["memory-alfworld-pick"] = Experiment(
            "Memory: ALFWorld Pick",
            "Does an agent that remembers pairs need fewer steps than one that learns a network?",
            (
                in_pick("dqn_prior", eval_every=scale.alfworld_steps // 4),
                in_pick(
                    "mem_q", "Mem-Q", eval_every=scale.alfworld_steps // 4, loop__warmup_steps=1
                ),
            ),
            claims=(Claim("Mem-Q", "DQN-Prior", at_most=0.5),),
            needs=("games",),
        )
    return experiments


def _memory(scale: Scale, run: _MakeRun, env: str) -> Experiment:
    steps = scale.online_steps
    return Experiment(
        f"Memory: {env}",
        "Q of a pair is what similar remembered pairs were worth. Is that learned faster than a "
        "network?",
        (
            run("dqn_prior", env=env, num_steps=steps, **scale.closely),
            run("mem_q", "Mem-Q", env=env, num_steps=steps, loop__warmup_steps=1, **scale.closely),
        ),
        claims=(Claim("Mem-Q", "DQN-Prior", at_most=0.5),),
    )


def _search(scale: Scale, run: _MakeRun) -> Experiment:
    """Agents as they are and with search; those that learn search in evaluations alone."""
    runs = [
        run(
            agent,
            f"{label}, {simulations} simulations",
            search__simulations=simulations,
            eval_every=scale.online_steps,
        )
        for agent, label in _SEARCHERS.items()
        for simulations in scale.pick((0, 8, 32, 128), (0, 8))
    ]
    return Experiment(
        f"Search: {SALAD}",
        "Before each action the kitchen itself is simulated, from its true state: more than any "
        "agent knows that does not search. What do simulations add to a prior, and to a trained "
        "agent?",
        tuple(runs),
    )
