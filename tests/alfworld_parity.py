"""Plays games in JAX and in ALFWorld's engine side by side, and compares all there is to see.

    python tests/alfworld_parity.py --steps=50000 game.tw-pddl ...

Prints one JSON object: how many steps, episodes, wins and time limits were compared, and the first
differences. An episode is random, or follows the solution in the game's file, or is random for a
while and then follows what it can of the solution.

The engine is TextWorld's as ALFWorld wraps it. Much that it computes at every step depends on
nothing that changes; here that is computed once, with which it does 100,000 steps in minutes.
"""

import argparse
import copy
import functools
import itertools
import json
import random
import time

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import envs

_LIMIT = 120  # commands in an episode
_MOST_DIFFERENCES = 5


def quicken() -> None:
    """Makes the engine compute once what depends on nothing that changes."""
    import fast_downward
    from textworld import logic
    from textworld.envs.pddl import logic as pddl_logic
    from textworld.envs.pddl import textgen
    from textworld.generator.game import EntityInfo

    fast_downward.pddl2sas = functools.cache(fast_downward.pddl2sas)
    logic.Rule.parse_conjunctive_query = functools.cache(logic.Rule.parse_conjunctive_query)

    parse = functools.cache(textgen._parse_and_convert)
    textgen._parse_and_convert = lambda *args, **kwargs: copy.deepcopy(parse(*args, **kwargs))
    # Names are never written to, so copies can share them.
    for name in (EntityInfo, logic.Variable, logic.Placeholder):
        name.__deepcopy__ = lambda self, memo: self
    pddl_logic.Variable = functools.cache(logic.Variable)
    pddl_logic.Placeholder = functools.cache(logic.Placeholder)
    textgen.copy_context = lambda context: {
        **context,
        "variables": dict(context["variables"]),
        "mapping": dict(context["mapping"]),
    }

    # The text of a command asks for nothing but names and where receptacles stand.
    derive, commands = textgen.ContextSensitiveGrammar.derive, {}

    def derive_once(self, start, context):
        if start.startswith("#"):
            return derive(self, start, context)
        key = self, start, *context["mapping"].values()
        if key not in commands:
            commands[key] = derive(self, start, context)
        return commands[key]

    textgen.ContextSensitiveGrammar.derive = derive_once

    # TextWorld compares names and then arguments, and sorts facts of one name only.
    logic.sorted = functools.partial(sorted, key=lambda fact: [v.name for v in fact.arguments])

    def facts(self):
        if "_listed" not in self.__dict__:
            self._listed = list(itertools.chain.from_iterable(self._facts.values()))
        return self._listed

    def forgetting(change):
        def changed(self, fact):
            self.__dict__.pop("_listed", None)
            change(self, fact)

        return changed

    logic.State.facts = property(facts)
    logic.State.add_fact = forgetting(logic.State.add_fact)
    logic.State.remove_fact = forgetting(logic.State.remove_fact)


def make_engine(game: str, limit: int):
    """Returns ALFWorld's environment of one game, with its game loaded."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv
    from textworld.envs.wrappers import Limit

    requested = textworld.EnvInfos(won=True, admissible_commands=True)
    engine = AlfredDemangler(Limit(PddlEnv(requested), max_episode_steps=limit), shuffle=False)
    engine.load(game)
    return engine


class Player:
    """Chooses the commands of one game."""

    def __init__(self, game: str, seed: int):
        self._random = random.Random(f"{seed} {game}")
        with open(game) as file:
            self._solution = json.load(file)["walkthrough"] or []
        self._episode = 0
        self.begin()

    def begin(self) -> None:
        """Decides what kind of episode comes next."""
        self._plan, self._wait = [], 0
        if self._episode % 4 in (0, 2):
            self._plan = list(self._solution)
        if self._episode % 4 == 2:
            self._wait = self._random.randrange(_LIMIT // 2)
        self._episode += 1

    def choose(self, commands: tuple[str, ...]) -> int:
        """Returns the index of the next command."""
        self._wait -= 1
        while self._plan and self._wait < 0:
            command = self._plan.pop(0)
            if command in commands:
                return commands.index(command)
        # Half of the time no walking about, which most commands are.
        others = [index for index, text in enumerate(commands) if not text.startswith("go to")]
        return self._random.choice(self._random.choice((range(len(commands)), others)))


def compare(games: list[str], steps: int, seed: int) -> dict:
    """Plays all games in one batch and each in the engine, `steps` steps altogether."""
    seconds = {"engine": 0.0, "jax": 0.0, "text": 0.0}

    def timed(what, function, *args):
        start = time.perf_counter()
        result = function(*args)
        seconds[what] += time.perf_counter() - start
        return result

    env, params = envs.make("ALFWorld", games=games)
    params = params.replace(max_steps_in_episode=_LIMIT, games=jnp.arange(len(games))[:, None])
    axes = type(params)(max_steps_in_episode=None, games=0, tables=None)
    keys = jax.random.split(jax.random.key(seed), len(games))
    step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, axes)))
    count = jax.jit(
        jax.vmap(lambda state, params: env.action_mask(state, params).sum(), in_axes=(0, axes))
    )
    observations, states = jax.vmap(env.reset, in_axes=(0, axes))(keys, params)
    engines = [timed("engine", make_engine, game, _LIMIT) for game in games]
    players = [Player(game, seed) for game in games]
    total = {"steps": 0, "episodes": 0, "wins": 0, "time limits": 0}
    differences: list[str] = []

    def check(what: str, index: int, ours, theirs) -> None:
        if ours != theirs:
            differences.append(f"{games[index]}: {what}: {ours!r} is not {theirs!r}")

    def tell(index: int, observation, engine_state, what: str) -> tuple[str, ...]:
        text = timed("text", env.text_state, observation)
        check(f"text {what}", index, text.observation, engine_state.feedback)
        commands = engine_state.admissible_commands
        check(f"commands {what}", index, sorted(text.actions), commands)
        task = engine_state.feedback.rpartition("\n\n")[2]
        if what == "at the start":
            check("task", index, text.task, task)
        return text.actions

    starts = [timed("engine", engine.reset) for engine in engines]
    commands = [
        tell(index, observation, start, "at the start")
        for index, (observation, start) in enumerate(
            zip(np.asarray(observations), starts, strict=True)
        )
    ]
    while total["steps"] < steps and len(differences) < _MOST_DIFFERENCES:
        actions = [player.choose(each) for player, each in zip(players, commands, strict=True)]
        stepped = timed(
            "jax", jax.device_get, step(keys, states, jnp.asarray(actions, jnp.int32), params)
        )
        observations, _, rewards, terminated, truncated, info = stepped
        states = stepped[1]
        counts = np.asarray(count(states, params))
        for index, engine in enumerate(engines):
            command = commands[index][actions[index]]
            seen, reward, done = timed("engine", engine.step, command)
            what = f"after {command!r}"
            last = tell(index, info["final_observation"][index], seen, what)
            check(f"won {what}", index, bool(terminated[index]), seen["won"])
            check(f"success {what}", index, bool(info["success"][index]), seen["won"])
            check(f"reward {what}", index, float(rewards[index]), float(reward))
            over = bool(terminated[index] or truncated[index])
            check(f"end {what}", index, over, done)
            total["steps"] += 1
            total["wins"] += bool(terminated[index])
            total["time limits"] += bool(truncated[index])
            if over:
                total["episodes"] += 1
                players[index].begin()
                start = timed("engine", engine.reset)
                last = tell(index, observations[index], start, "at the start")
            check(f"number of commands {what}", index, int(counts[index]), len(last))
            commands[index] = last
    total["seconds"] = {what: round(spent, 1) for what, spent in seconds.items()}
    return {**total, "games": len(games), "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("games", nargs="+")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quicken()
    print(json.dumps(compare(arguments.games, arguments.steps, arguments.seed)))


if __name__ == "__main__":
    main()
