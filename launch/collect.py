"""Collects a dataset of episodes to learn from offline.

    python -m launch.collect --env=Overcooked-TomatoLettuceSalad \\
        --behavior=expert@0.2:0.75,random:0.25 --transitions=32000 --success_share=0.75 \\
        --out=data/salad.parquet

A mixture lists behaviors, each with its share of the episodes; NAME@E takes a random action with
probability E. Behaviors are

- `expert`, the most reliable and fastest way to success (for environments with few states);
- `random`, uniform over the admissible actions;
- `prior`, the language model of --prior on its own, asked as in a run;
- `WORKDIR/AGENT`, a trained agent of a run, such as `runs/quickstart/dqn_prior`.

With --success_share, episodes are kept so that this share of them is successful. The format of the
file is described in `llmprior_jax/datasets.py`.
"""

import functools
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from launch.common import app
from llmprior_jax import datasets, ranges, training
from llmprior_jax.files import check_writable
from llmprior_jax.settings import EnvironmentSettings

if TYPE_CHECKING:
    from llmprior_jax.play import collecting

FLAGS = app.Flags()
_ENV = FLAGS.string("env", None, "Environment to collect from.", required=True)
_GAMES = FLAGS.list("games", [], "Games of an environment that takes them from files.")
_HISTORY = FLAGS.integer("history", 0, "Pairs that an observation holds.")
_BEHAVIOR = FLAGS.string("behavior", "expert", "Mixture, NAME[@EPSILON]:SHARE,...")
flags.DEFINE_alias("behaviour", "behavior", flag_values=FLAGS)  # As version 0.1 spelled it.
_EPISODES = FLAGS.integer("episodes", None, "Episodes to collect.")
_TRANSITIONS = FLAGS.integer("transitions", None, "Transitions to collect, at least.")
_SUCCESS_SHARE = FLAGS.float("success_share", None, "Share of episodes that succeed.")
_PRIOR = FLAGS.string("prior", "tiny", "Language model of the behavior `prior`.")
_AGENT_SEED = FLAGS.integer("agent_seed", 0, "Which seed's agent of a run.")
_SEED = FLAGS.integer(
    "seed", 0, "Seed; the same one gives the same dataset.", 0, ranges.LARGEST_SEED
)
_OUT = FLAGS.string("out", None, "File to write, .parquet or .jsonl.", required=True)


def main(argv: Sequence[str]) -> None:
    from llmprior_jax import envs
    from llmprior_jax.play import collecting
    from llmprior_jax.training import build, experiment, work_directory
    from llmprior_jax.training.build_agent import build_agent

    del argv
    datasets.check_path(_OUT.value)
    check_writable(_OUT.value)
    config = training.default_config()
    config.env, config.history = _ENV.value, _HISTORY.value
    config.games.train, config.prior.model = tuple(_GAMES.value), _PRIOR.value
    config, env, env_params = experiment.prepare(config, None)
    settings = training.to_settings(config)
    if not isinstance(env, envs.TextEnvironment):
        raise ValueError(f"{config.env} is no environment in JAX, which collecting needs")
    with tempfile.TemporaryDirectory() as scratch:

        def behavior(name: str) -> collecting.Behavior:
            if name == "random":
                return collecting.random_behavior()
            if name == "expert":
                return collecting.expert_behavior(env, env_params)
            if name == "prior":
                shown = work_directory.make_examples(settings, env, None)
                folder = pathlib.Path(scratch)
                known = build.make_priors(
                    settings, env, env_params, folder, examples=shown, should_stop=app.never
                )
                known.scored.load()
                agent = build_agent("prior", settings.agent, settings.prior)
                return collecting.agent_behavior(functools.partial(agent.act, ()), known.scored)
            workdir, slash, agent = name.rpartition("/")
            if not slash:
                raise ValueError(
                    f"there is no behavior {name!r}; use expert, random, prior, or WORKDIR/AGENT"
                )
            return _trained(workdir, agent, settings.environment)

        mixture = [
            collecting.Part(behavior(name), share, epsilon)
            for name, epsilon, share in collecting.parse_mixture(_BEHAVIOR.value)
        ]
        wanted = _EPISODES.value, _TRANSITIONS.value, _SUCCESS_SHARE.value
        dataset = collecting.collect(env, env_params, mixture, *wanted, _SEED.value)
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    datasets.write(_OUT.value, dataset)
    returns = np.bincount(dataset.episode, dataset.reward)
    print(
        f"{_OUT.value}: {dataset.num_transitions:,} transitions between {len(dataset.states):,} "
        f"distinct states, {dataset.num_episodes:,} episodes, {dataset.terminated.sum():,} of them "
        f"terminated, mean return {returns.mean():.3f}"
    )


def _trained(workdir: str, agent: str, wanted: EnvironmentSettings) -> "collecting.Behavior":
    from llmprior_jax.envs.engines import list_games
    from llmprior_jax.play import collecting
    from llmprior_jax.training import build

    settings = training.to_settings(training.read_config(pathlib.Path(workdir)))
    known, num_seeds = settings.environment, settings.run.num_seeds
    history = build.history(settings)
    if known.env != wanted.env:
        raise ValueError(f"the agents of {workdir} act in {known.env}, not in {wanted.env}")
    # Both say what an observation stands for; unseen games come after those of training.
    if history != wanted.history:
        raise ValueError(
            f"the agents of {workdir} see a history of {history}, and --history is "
            f"{wanted.history}; use the same"
        )
    if list_games(known.games.train) != list_games(wanted.games.train):
        raise ValueError(
            f"the agents of {workdir} were trained in other games than those of --games; use "
            f"--games={','.join(known.games.train)}"
        )
    if _AGENT_SEED.value >= num_seeds:
        raise ValueError(f"--agent_seed is {_AGENT_SEED.value}; {workdir} has {num_seeds}")
    run = training.restore(
        workdir, agent, eval_episodes=1, should_stop=app.never, eval_mode="sample"
    )
    act = run.player.by_prior(run.state.agent, _AGENT_SEED.value)
    return collecting.agent_behavior(act, run.scored)


if __name__ == "__main__":
    app.run(main, FLAGS)
