"""ALFWorld in JAX: household tasks in text, many different games in one batch.

ALFWorld (Shridhar et al., "ALFWorld: Aligning Text and Embodied Environments for Interactive
Learning", ICLR 2021, arXiv 2010.03768) has an agent walk through a house, open and close things,
carry objects about, and clean, heat, cool, slice or switch them on. Its engine is TextWorld with a
PDDL planner and makes some tens of steps a second. The state behind the text is small, though:
which objects are in which receptacle, which receptacles are open, where the agent is, what it
holds, and what was done to each object. Here that state is a few bit sets, 32 things to a word, and
a step is arithmetic on them. What a player is told follows the engine to the letter; see
`pddl` and `grammar`.

The commands that a state admits are bit sets, too, a word for each verb and 32 things. Counting
bits numbers the commands, so an action is found without ever listing the hundreds of commands of a
game.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from llmprior_jax.envs import examples
from llmprior_jax.envs.alfworld.arrays import (
    Tables,
    Verb,
    View,
    command_layout,
    command_words,
    count_commands,
    has_bit,
    measure,
    read_command,
    tabulate,
)
from llmprior_jax.envs.alfworld.game_files import read_game
from llmprior_jax.envs.alfworld.pddl import MARKS
from llmprior_jax.envs.alfworld.text import Storyteller
from llmprior_jax.envs.base import TextEnvironment
from llmprior_jax.examples import Example
from llmprior_jax.types import TextState

# What each verb leaves on its object, and what it takes away, in the bits of `MARKS`.
_LEAVES = np.zeros(len(Verb), np.uint32)
_LEAVES[[Verb.CLEAN, Verb.HEAT, Verb.COOL, Verb.USE, Verb.SLICE]] = 1 << np.arange(len(MARKS))
_REMOVES = np.zeros(len(Verb), np.uint32)
_REMOVES[[Verb.HEAT, Verb.COOL]] = _LEAVES[[Verb.COOL, Verb.HEAT]]


@struct.dataclass
class EnvState(environment.EnvState):
    """A game in play. Sets are bit sets; see `arrays.Tables` for the sizes.

    Attributes:
      time: i32[], commands since the episode began.
      game: i32[], which game it is.
      place: i32[], where the agent is.
      held: i32[], the object it holds, or O for none.
      contents: u32[R, W], what is in each receptacle.
      opened: u32[V], the receptacles that are open.
      marks: u32[5, W], the objects that are clean, hot, cool, were switched on, and are sliced.
      lying: u32[P, W], the objects that PDDL says are at each place.
      removed: u32[R, W], the objects that were taken out of each receptacle and not put back; no
        rows where no two receptacles share a place, as nothing depends on it there.
      verb: i32[], the `Verb` of the last command.
      object: i32[], its object, or O for none.
      receptacle: i32[], its receptacle, or R for none.
    """

    # gymnax says int, which holds only before the first step.
    time: jax.Array  # pyright: ignore[reportIncompatibleVariableOverride]
    game: jax.Array
    place: jax.Array
    held: jax.Array
    contents: jax.Array
    opened: jax.Array
    marks: jax.Array
    lying: jax.Array
    removed: jax.Array
    verb: jax.Array
    object: jax.Array
    receptacle: jax.Array


@struct.dataclass
class EnvParams(environment.EnvParams):
    """Which games are played, and for how long.

    Attributes:
      max_steps_in_episode: the time limit in commands.
      games: i32[N], the indices of the games from which every reset draws one, uniformly.
      tables: all games.
    """

    max_steps_in_episode: int = 50
    games: jax.Array | None = None
    tables: Tables | None = None


class ALFWorld(TextEnvironment[EnvState, EnvParams]):
    """Household tasks of ALFWorld, each episode in one of the given games.

    Observations and actions have the size that the largest game needs. To train on some games and
    be judged on others, make one environment of all of them and choose with `EnvParams.games`.

    Action `i` is the i-th of the admissible commands: look, inventory, help and examining what is
    held, then going, examining, opening, closing, taking, using, slicing, moving, cleaning, heating
    and cooling, each in the order in which the engine lists things. Higher actions do not exist;
    they do what the last one does.

    Observations are i32[n]: the fields of an `arrays.View` in their order, first of all
    the index of the game. They hold only what can be seen from where the agent is: what is in a
    closed cupboard cannot be learned from them.

    The reward is 1 for the step that wins, otherwise 0. Winning terminates the episode, the time
    limit truncates it.

    Args:
      games: paths of `game.tw-pddl` files, official or generated.

    Attributes:
      games: the paths in the order of the games' indices.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if there are no games, or a file is damaged or has a game that cannot be
        represented. The message names the file and the reason.
    """

    def __init__(self, games: Sequence[str | os.PathLike[str]] = ()):
        if isinstance(games, str | os.PathLike) or not games:
            raise ValueError(
                "ALFWorld needs games: a list with at least one path of a game.tw-pddl file. "
                "`python -m launch.make_games` generates games."
            )
        read = [read_game(path) for path in games]
        self.games = tuple(game.path for game in read)
        self._sizes = sizes = measure(read)
        self._tables = tabulate(read, sizes)
        self._layout = command_layout(sizes)
        self._num_actions = max(count_commands(game) for game in read)
        # Only where receptacles share a place can an object lie beside one.
        self._removed_rows = sizes.receptacles if sizes.slots > 1 else 0
        self._displaced_rows = sizes.slots if sizes.slots > 1 else 0
        self._tellers = [Storyteller(game, self._tables, self._layout) for game in read]

    @property
    def default_params(self) -> EnvParams:
        """A time limit of 50 commands, as in ALFWorld, and all games."""
        return EnvParams(
            games=jnp.arange(len(self.games), dtype=jnp.int32),
            tables=jax.tree.map(jnp.asarray, self._tables),
        )

    @property
    def num_actions(self) -> int:
        """The most commands that any state of any of the games admits, or a few more."""
        return self._num_actions

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Begins a game."""
        tables, games = _games(params)
        game = games[jax.random.randint(key, (), 0, games.shape[0])]
        none = jnp.int32(self._sizes.objects)
        state = EnvState(
            time=jnp.int32(0),
            game=game,
            place=jnp.int32(0),
            held=none,
            contents=tables.contents[game],
            opened=tables.opened[game],
            marks=tables.marks[game],
            lying=tables.lying[game],
            removed=jnp.zeros((self._removed_rows, self._sizes.object_words), jnp.uint32),
            verb=jnp.int32(Verb.START),
            object=none,
            receptacle=jnp.int32(self._sizes.receptacles),
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array,
        params: EnvParams,
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Carries out a command."""
        tables, _ = _games(params)
        verb, thing, receptacle = self._find(state, jnp.asarray(action, jnp.int32), tables)

        one = jnp.uint32(1)
        thing_bits = jnp.arange(self._sizes.object_words) == thing >> 5
        thing_bits = thing_bits * (one << (thing & 31).astype(jnp.uint32))  # u32[W]
        receptacle_bits = jnp.arange(self._sizes.receptacle_words) == receptacle >> 5
        receptacle_bits = receptacle_bits * (one << (receptacle & 31).astype(jnp.uint32))  # u32[V]
        taken = jnp.where(verb == Verb.TAKE, thing_bits, 0)
        moved = jnp.where(verb == Verb.MOVE, thing_bits, 0)
        at_receptacle = (jnp.arange(self._sizes.receptacles) == receptacle)[:, None]
        at_place = (jnp.arange(self._sizes.places) == state.place)[:, None]
        leaves = (jnp.asarray(_LEAVES)[verb] >> jnp.arange(len(MARKS), dtype=jnp.uint32)) & 1
        removes = (jnp.asarray(_REMOVES)[verb] >> jnp.arange(len(MARKS), dtype=jnp.uint32)) & 1

        held = jnp.where(verb == Verb.TAKE, thing, state.held)
        goes_to = tables.place_of[state.game, receptacle]
        state = dataclasses.replace(
            state,
            time=state.time + 1,
            place=jnp.where(verb == Verb.GO, goes_to, state.place),
            held=jnp.where(verb == Verb.MOVE, self._sizes.objects, held),
            contents=_change(state.contents, at_receptacle * taken, at_receptacle * moved),
            opened=_change(
                state.opened,
                jnp.where(verb == Verb.CLOSE, receptacle_bits, 0),
                jnp.where(verb == Verb.OPEN, receptacle_bits, 0),
            ),
            marks=_change(state.marks, removes[:, None] * thing_bits, leaves[:, None] * thing_bits),
            lying=_change(state.lying, at_place * taken, at_place * moved),
            removed=_change(
                state.removed,
                (at_receptacle * moved)[: self._removed_rows],
                (at_receptacle * taken)[: self._removed_rows],
            ),
            verb=verb,
            object=thing,
            receptacle=receptacle,
        )
        won = _is_won(state, tables)
        observation = self.observe(key, state, action, params)
        return observation, state, won.astype(jnp.float32), won, {"success": won}

    def observe(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array | None,
        params: EnvParams,
    ) -> jax.Array:
        """Returns what is seen after the last command."""
        del key, action
        view = self._view(state, _games(params)[0])
        return jnp.concatenate(
            [jax.lax.bitcast_convert_type(field, jnp.int32).ravel() for field in view]
        )

    def action_mask(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Returns which actions are admissible; see `TextEnvironment.action_mask`."""
        tables, _ = _games(params)
        words = command_words(jnp, tables, self._view(state, tables))
        return jnp.arange(self.num_actions) < jax.lax.population_count(words).sum()

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """The fields of a view, of which some are 32 bits each."""
        del params
        limits = jnp.iinfo(jnp.int32)
        return spaces.Box(limits.min, limits.max, (sum(self._view_sizes()),), jnp.int32)

    def state_space(self, params: EnvParams | None = None) -> spaces.Dict:
        """The fields of `EnvState`, with bit sets of what the largest game has."""
        sizes, limit = self._sizes, (params or self.default_params).max_steps_in_episode
        W, V = sizes.object_words, sizes.receptacle_words
        return spaces.Dict(
            {
                "time": spaces.Discrete(limit + 1),
                "game": spaces.Discrete(len(self.games)),
                "place": spaces.Discrete(sizes.places),
                "held": spaces.Discrete(sizes.objects + 1),
                "contents": _bit_sets(sizes.objects, (sizes.receptacles, W)),
                "opened": _bit_sets(sizes.receptacles, (V,)),
                "marks": _bit_sets(sizes.objects, (len(MARKS), W)),
                "lying": _bit_sets(sizes.objects, (sizes.places, W)),
                "removed": _bit_sets(sizes.objects, (self._removed_rows, W)),
                "verb": spaces.Discrete(len(Verb)),
                "object": spaces.Discrete(sizes.objects + 1),
                "receptacle": spaces.Discrete(sizes.receptacles + 1),
            }
        )

    def examples(self) -> tuple[Example, ...]:
        """An episode of a kind of task that is none of the games', if there is one."""
        return examples.for_alfworld(self.games)

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts an observation into words; see `TextEnvironment.text_state`."""
        view = self._read(observation)
        game = int(view.game)
        try:
            return self._tellers[game].tell(view)
        except IndexError as error:
            raise ValueError(
                f"This is no observation of {self.games[game]}: it tells of things that are not "
                "there."
            ) from error
        except ValueError as error:
            raise ValueError(f"Cannot put {self.games[game]} into words: {error}.") from error

    def _find(
        self, state: EnvState, action: jax.Array, tables: Tables
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Verb, object and receptacle of an action: the commands are the set bits, in order."""
        view = self._view(state, tables)
        words = command_words(jnp, tables, view)
        counts = jax.lax.population_count(words).astype(jnp.int32)
        ends = jnp.cumsum(counts)
        action = jnp.clip(action, 0, ends[-1] - 1)
        word = (ends <= action).sum()
        bit = _nth_bit(words[word], action - ends[word] + counts[word])
        return read_command(jnp, tables, self._layout, view, word, bit)

    def _view(self, state: EnvState, tables: Tables) -> View:
        game, place = state.game, state.place
        here, slots = tables.here[game, place], tables.slots[game, place]
        contents = state.contents.at[slots].get(mode="fill", fill_value=0)  # u32[L, W]
        lying = state.lying[place]
        accessible = has_bit(~tables.openable[game] | state.opened, slots) != 0
        holds_knife = has_bit(tables.knives[game], state.held) != 0
        has_object = has_bit(state.marks, state.object) << jnp.arange(len(MARKS), dtype=jnp.uint32)
        removed = state.removed.at[slots[: self._displaced_rows]].get(mode="fill", fill_value=0)
        return View(
            game=game,
            verb=state.verb,
            object=state.object,
            receptacle=state.receptacle,
            place=place,
            held=state.held,
            marked=has_object.sum().astype(jnp.int32),
            opened=state.opened & here,
            shown=jnp.where(accessible[:, None], contents, contents & tables.toggleable[game]),
            cuttable=jnp.where(holds_knife, lying & tables.sliceable[game], 0),
            displaced=removed & lying,
        )

    def _view_sizes(self) -> list[int]:
        W, V, L = self._sizes.object_words, self._sizes.receptacle_words, self._sizes.slots
        return [*[1] * 7, V, L * W, W, self._displaced_rows * W]

    def _read(self, observation: np.ndarray | jax.Array) -> View:
        """The view that an observation is made of, as NumPy arrays."""
        array = np.asarray(observation)
        sizes = self._view_sizes()
        if array.shape != (sum(sizes),) or array.dtype != np.int32:
            raise ValueError(
                f"ALFWorld observes i32[{sum(sizes)}] in these games; got {array.dtype}"
                f"{list(array.shape)}."
            )
        fields = np.split(array, np.cumsum(sizes)[:-1])
        view = View(*(field[0] for field in fields[:7]), *(f.view(np.uint32) for f in fields[7:]))
        objects, receptacles, places, _ = self._sizes
        limits = (len(self.games), len(Verb), objects + 1, receptacles + 1, places, objects + 1)
        limits += (1 << len(MARKS),)
        for name, field, limit in zip(View._fields, view, limits, strict=False):
            if not 0 <= field < limit:
                raise ValueError(
                    f"This is no observation of these games: its {name} is {field}, which is not "
                    f"in 0..{limit - 1}."
                )
        shape = -1, self._sizes.object_words
        return view._replace(
            shown=view.shown.reshape(shape), displaced=view.displaced.reshape(shape)
        )


def _games(params: EnvParams) -> tuple[Tables, jax.Array]:
    if params.tables is None or params.games is None:
        raise ValueError("ALFWorld's parameters have no games; take them from `envs.make`.")
    return params.tables, params.games


def _bit_sets(size: int, shape: tuple[int, ...]) -> spaces.Box:
    """The bit sets of so many things, u32[*shape]; the last axis is that of the words."""
    # A word of n ones is the largest number that n bits make.
    words = np.packbits(np.arange(32 * shape[-1]) < size, bitorder="little").view(np.uint32)
    full = jnp.broadcast_to(jnp.asarray(words), shape)
    return spaces.Box(jnp.zeros_like(full), full, shape, jnp.uint32)


def _change(bits: jax.Array, cleared: jax.Array, added: jax.Array) -> jax.Array:
    return (bits & ~cleared) | added


def _nth_bit(word: jax.Array, n: jax.Array) -> jax.Array:
    """The index of the n-th of the set bits of a word, counted from 0."""
    index = jnp.int32(0)
    for width in (16, 8, 4, 2, 1):
        low = word & jnp.uint32((1 << width) - 1)
        count = jax.lax.population_count(low).astype(jnp.int32)
        is_above = n >= count
        index = index + jnp.where(is_above, width, 0)
        n = jnp.where(is_above, n - count, n)
        word = jnp.where(is_above, word >> width, low)
    return index


def _is_won(state: EnvState, tables: Tables) -> jax.Array:
    game = state.game
    bears = state.marks | tables.goal_forgoes[game]
    counted = state.contents & tables.goal_objects[game]
    for mark in range(len(MARKS)):
        counted = counted & bears[mark]
    counts = jax.lax.population_count(counted).astype(jnp.int32).sum(axis=-1)
    count = tables.goal_count[game]
    placed = ((counts >= count) & tables.goal_receptacles[game]).any()
    slots = tables.slots[game, state.place]
    here = state.contents.at[slots].get(mode="fill", fill_value=0)
    toggled = state.marks[MARKS.index("istoggled")]
    lit = ((here & toggled & tables.goal_lit[game]) != 0).any()
    held = has_bit(tables.goal_held[game], state.held) != 0
    return (
        (placed | (count == 0))
        & (held | ~tables.goal_holds[game])
        & (lit | ~tables.goal_lights[game])
    )
