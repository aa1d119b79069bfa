"""Overcooked: one cook in one kitchen, who sees what is near and acts in macro-actions.

The dynamics are those of the partially observed kitchen of TWOSOME (Tan et al., "True Knowledge
Comes from Practice", ICLR 2024, arXiv 2401.14151), which is after Xiao et al., "Asynchronous
Actor-Critic for Multi-Agent Reinforcement Learning" (NeurIPS 2022): a 7x7 room, a view of two tiles
in each direction, and actions such as "get the tomato" that take as many primitive steps as the
way is long. There a search finds each step of the way. Here a macro-action has a closed form, which
is what makes the environment fast, and rests on three facts about the room:

- Nothing stands in the way, and each thing is reached from one tile only. So how long a walk takes
  and where it ends are tables over (tile of the cook, place of the thing).
- One cook moves everything, and what was served wrongly goes back to where it started. So the
  cook's memory of where things are is always right, and need not be kept beside the state.
- Food is chopped in one go. So between macro-actions it is whole or chopped, nothing between.

A macro-action is then: look up the walk, apply at most one interaction, count the steps.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from llmprior_jax.envs import examples
from llmprior_jax.envs.base import Scene, TextEnvironment, Thing
from llmprior_jax.envs.overcooked import text
from llmprior_jax.examples import Example
from llmprior_jax.types import TextState

# The kitchen: # counter, . floor, @ where the cook starts, t tomato, l lettuce, o onion, b bowl,
# 1 and 2 cutting boards, S the counter where dishes are served. What a recipe does not use is a
# counter in its kitchen.
_ROOM = (
    "#####t#",
    "1...@.l",
    "2.....o",
    "S.....#",
    "#.....#",
    "#.....#",
    "#####b#",
)
_VIEW_RADIUS = 2
_CHOPS = 3  # chops until food is chopped
# The dishes of the original kitchen; the observation says which of them is wanted, one-hot.
_DISHES = (
    {"tomato"},
    {"lettuce"},
    {"onion"},
    {"lettuce", "tomato"},
    {"onion", "tomato"},
    {"lettuce", "onion"},
    {"lettuce", "onion", "tomato"},
)


class Recipe(NamedTuple):
    """What is to be served, and from what kitchen.

    Attributes:
      name: the name of the recipe.
      ingredients: the foods that belong in the dish, in the order they are named.
      foods: every food there is in the kitchen, in the order of tomato, lettuce, onion.
      num_boards: how many cutting boards there are, 1 or 2.
    """

    name: str
    ingredients: tuple[str, ...]
    foods: tuple[str, ...]
    num_boards: int


TOMATO_SALAD = Recipe("TomatoSalad", ("tomato",), ("tomato",), num_boards=1)
TOMATO_LETTUCE_SALAD = Recipe(
    "TomatoLettuceSalad", ("tomato", "lettuce"), ("tomato", "lettuce", "onion"), num_boards=2
)


@struct.dataclass
class EnvState(environment.EnvState):
    """The kitchen between two macro-actions.

    The things are the foods of the recipe and, last, the bowl: I of them. Spots are where things
    can stand: the I spots they start from, then the cutting boards, then the serving counter: S.

    Attributes:
      time: i32[], primitive steps since the episode began.
      tile: i32[], the floor tile of the cook.
      place: i32[I], the spot of each thing, or S in the cook's hands, or S + 1 in the bowl.
      chopped: bool[I - 1], whether each food is chopped.
    """

    # gymnax says int, which holds only before the first step.
    time: jax.Array  # pyright: ignore[reportIncompatibleVariableOverride]
    tile: jax.Array
    place: jax.Array
    chopped: jax.Array


@struct.dataclass
class EnvParams(environment.EnvParams):
    """Time limit and rewards, by default those of TWOSOME.

    Attributes:
      max_steps_in_episode: the time limit in primitive steps. A macro-action is always finished.
      step_reward: for each primitive step.
      chop_reward: for chopping a food that belongs in the dish.
      serve_reward: for serving the dish.
      wrong_serve_reward: for serving anything else.
      step_discount: discount per primitive step within a macro-action.
    """

    max_steps_in_episode: int = 200
    step_reward: float = -0.001
    chop_reward: float = 0.2
    serve_reward: float = 1.0
    wrong_serve_reward: float = -0.1
    step_discount: float = 0.99


class Overcooked(TextEnvironment[EnvState, EnvParams]):
    """A kitchen with one cook who has a dish to serve.

    Actions, A = I + boards + 2 of them: get thing i (0 .. I-1, the bowl last), go to a cutting
    board, serve, chop. Holding something, "get" and "go to" bring it there: chopped food and the
    bowl are put together, an empty board takes what is held.

    Observations are i32[3 * foods + 2 * (1 + boards + 2) + 7], as in TWOSOME: row and column of
    each food and how often it was chopped, row and column of the bowl, the boards, the serving
    counter and the cook, all zero for what is out of view; then which dish is wanted, one-hot.

    The episode terminates when the dish is served and is truncated at the time limit, in primitive
    steps. `info["macro_action_steps"]`, i32[], is how many of them the action took.

    Args:
      recipe: what is to be served, and from what kitchen.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._things = (*recipe.foods, "bowl")
        self._num_foods = len(recipe.foods)
        self._num_things = self._num_foods + 1
        self._num_spots = self._num_things + recipe.num_boards + 1
        self._serving_spot = self._num_spots - 1
        self._in_hands = self._num_spots
        self._in_bowl = self._num_spots + 1
        self._wanted = np.array([food in recipe.ingredients for food in recipe.foods])

        marks = [*(thing[0] for thing in self._things), *"12"[: recipe.num_boards], "S"]
        self._spots = [_find(mark) for mark in marks]
        self._tiles = [
            (row, column)
            for row, marks in enumerate(_ROOM)
            for column, mark in enumerate(marks)
            if mark in ".@"
        ]
        self._tile_index = {tile: index for index, tile in enumerate(self._tiles)}
        self._start_tile = self._tile_index[_find("@")]
        self._tabulate_walks()
        self._tabulate_views()

    @property
    def default_params(self) -> EnvParams:
        """The time limit and rewards of TWOSOME."""
        return EnvParams()

    @property
    def name(self) -> str:
        """The name `envs.make` knows this environment by."""
        return f"Overcooked-{self.recipe.name}"

    @property
    def num_actions(self) -> int:
        """Number of actions: get each thing, go to each board, serve, chop."""
        return self._num_spots + 1

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Puts everything back to where it starts."""
        state = EnvState(
            time=jnp.int32(0),
            tile=jnp.int32(self._start_tile),
            place=jnp.arange(self._num_things, dtype=jnp.int32),
            chopped=jnp.zeros(self._num_foods, dtype=bool),
        )
        return self.observe(key, state, None, params), state

    def step_env(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array,
        params: EnvParams,
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Runs one macro-action to its end; see the class for the actions."""
        action = jnp.asarray(action, jnp.int32)
        tile, place, chopped = state.tile, state.place, state.chopped
        bowl = self._num_foods
        thing = jnp.arange(self._num_things)
        gets = action < self._num_things
        serves = action == self._serving_spot
        chops = action == self._num_spots
        goes_to_board = ~(gets | serves | chops)

        # "Get" aims at where the thing is. The actions after that are numbered like the spots they
        # aim at, and "chop" like the cook's hands: it happens right here.
        in_bowl = place == self._in_bowl
        spot = self._resolve(place)
        target = jnp.where(gets, spot[jnp.minimum(action, bowl)], action)
        target_is_board = (target >= self._num_things) & (target < self._serving_spot)

        held = place == self._in_hands
        holds = held.any()
        holds_bowl = held[bowl]
        holds_chopped = (held[:bowl] & chopped).any()
        # What the cook turns to: the thing to get, or whatever lies on the board (in the bowl
        # does not count). At most one thing.
        facing = jnp.where(gets, thing == action, place == target)
        faces_bowl = facing[bowl]
        faces_chopped = (facing[:bowl] & chopped).any()
        faces_whole = (facing[:bowl] & ~chopped).any()
        board_here = place[:bowl] == jnp.asarray(self._board_beside)[tile]
        chopping = board_here & ~chopped & chops  # bool[foods]

        # The walk. Food in the bowl is given up on as soon as the bowl is in view. With nothing to
        # do at the target, the walk ends on the tile beside it, without the step that deals with
        # it. With chopped food in hand, the bowl takes two: one to fill it, one to pick it up.
        spotted_in_bowl = (facing & in_bowl).any()
        only_arrives = ((goes_to_board | serves) & ~holds) | (gets & target_is_board & faces_whole)
        walk = jnp.asarray(self._walk_steps)[tile, target]
        steps = jnp.where(only_arrives, jnp.maximum(walk - 1, 1), walk)
        steps = steps + (gets & faces_bowl & holds_chopped)
        steps = jnp.where(spotted_in_bowl, jnp.asarray(self._look_steps)[tile, target], steps)
        steps = jnp.where(chops, jnp.where(chopping.any(), _CHOPS, 1), steps)
        end = jnp.where(
            spotted_in_bowl,
            jnp.asarray(self._look_tile)[tile, target],
            jnp.asarray(self._walk_tile)[tile, target],
        )

        # The interaction.
        picks_up = gets & ~holds & ~spotted_in_bowl & ~only_arrives
        fills = (holds_bowl & faces_chopped & ~spotted_in_bowl) | (holds_chopped & faces_bowl)
        puts_down = goes_to_board & holds & ~facing.any()
        chopped_now = chopping & ~holds
        served = serves & (held | (in_bowl & holds_bowl))
        success = serves & holds_bowl & (in_bowl[:bowl] == self._wanted).all()
        wrong = serves & holds & ~success

        new_place = jnp.where(facing & picks_up, self._in_hands, place)
        together = jnp.where(thing == bowl, self._in_hands, self._in_bowl)
        new_place = jnp.where((held | facing) & fills, together, new_place)
        new_place = jnp.where(held & puts_down, target, new_place)
        new_place = jnp.where(held & success, self._serving_spot, new_place)
        new_place = jnp.where(served & wrong, thing, new_place)
        state = EnvState(
            time=state.time + steps,
            tile=end,
            place=new_place,
            chopped=(chopped | chopped_now) & ~(served[:bowl] & wrong),
        )

        # All rewards but those of the steps come with the last step.
        discounts = params.step_discount ** jnp.arange(self._max_steps)
        event = (
            params.chop_reward * (chopped_now & self._wanted).any()
            + params.serve_reward * success
            + params.wrong_serve_reward * wrong
        )
        reward = (
            params.step_reward * jnp.cumsum(discounts)[steps - 1] + event * discounts[steps - 1]
        )
        info = {"success": success, "macro_action_steps": steps}
        return self.observe(key, state, action, params), state, reward, success, info

    def observe(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array | None,
        params: EnvParams,
    ) -> jax.Array:
        """Returns what the cook sees of `state`."""
        del key, action, params
        view = jnp.asarray(self._view)[state.tile, self._resolve(state.place)]
        foods, bowl = view[: self._num_foods], view[self._num_foods]
        foods = foods.at[:, 2].multiply(_CHOPS * state.chopped)
        return jnp.concatenate([foods.ravel(), bowl[:2], jnp.asarray(self._fixtures)[state.tile]])

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Rows, columns and chops within the room's size, then the one-hot dish."""
        del params
        size = 3 * self._num_foods + 2 * (self._num_spots - self._num_foods + 1) + len(_DISHES)
        return spaces.Box(0, len(_ROOM) - 1, (size,), jnp.int32)

    def state_space(self, params: EnvParams | None = None) -> spaces.Dict:
        """The fields of `EnvState`; a macro-action may go on past the time limit."""
        limit = (params or self.default_params).max_steps_in_episode
        return spaces.Dict(
            {
                "time": spaces.Discrete(limit + self._max_steps),
                "tile": spaces.Discrete(len(self._tiles)),
                "place": spaces.Box(0, self._in_bowl, (self._num_things,), jnp.int32),
                "chopped": spaces.Box(False, True, (self._num_foods,), jnp.bool_),
            }
        )

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts an observation into words; see `TextEnvironment.text_state`."""
        view = self._read(observation)
        return TextState(
            task=text.task(self.recipe.ingredients),
            observation=text.observation(view),
            actions=text.actions(view),
        )

    def examples(self) -> tuple[Example, ...]:
        """An episode in which another salad is served, of more ingredients or of fewer."""
        return examples.for_kitchen(len(self.recipe.ingredients))

    def scene(self, state: EnvState) -> Scene:
        """The whole kitchen, the cook, and every thing where it is."""
        spots = {**dict(enumerate(self._spots)), self._in_hands: self._tiles[int(state.tile)]}
        place = self._resolve(state.place).tolist()
        names = [
            f"chopped {food}" if chopped else food
            for food, chopped in zip(self.recipe.foods, np.asarray(state.chopped), strict=True)
        ]
        things = [Thing("cook", *spots[self._in_hands])]
        for name, spot in [("bowl", place[-1]), *zip(names, place[:-1], strict=True)]:
            things.append(Thing(name, *spots[spot]))
        boards = self._spots[self._num_things : self._serving_spot]
        kinds = dict.fromkeys(boards, "board") | {self._spots[self._serving_spot]: "hatch"}
        kinds |= dict.fromkeys(self._tiles, "floor")
        side = range(len(_ROOM))
        return Scene(
            tiles=tuple(tuple(kinds.get((row, col), "counter") for col in side) for row in side),
            things=tuple(things),
        )

    def list_observations(self) -> np.ndarray:
        """Lists every observation that can occur; see `TextEnvironment.list_observations`."""
        return self._observations

    def _tabulate_walks(self) -> None:
        """Tables over (tile, spot): how many steps a macro-action there takes and where it ends.

        The cook walks along the column first and then along the row, to the tile beside the spot,
        and deals with the spot in one more step. `walk` goes all the way; `look` stops as soon as
        the spot is in view. The last column stands for the cook's hands: one step, on the spot.
        """
        shape = len(self._tiles), self._num_spots + 1
        here = np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None], shape)
        self._walk_steps, self._walk_tile = np.ones(shape, np.int32), here.copy()
        self._look_steps, self._look_tile = np.ones(shape, np.int32), here.copy()
        self._board_beside = np.full(shape[0], -1, np.int32)

        for index, spot in enumerate(self._spots):
            row, column = (min(max(coordinate, 1), len(_ROOM) - 2) for coordinate in spot)
            if self._num_things <= index < self._serving_spot:
                self._board_beside[self._tile_index[row, column]] = index
            for start, tile in enumerate(self._tiles):
                path = _straight(tile, (row, column))
                first = [_is_in_view(tile, spot) for tile in path].index(True)
                self._walk_steps[start, index] = len(path)
                self._walk_tile[start, index] = self._tile_index[path[-1]]
                self._look_steps[start, index] = first + 1
                self._look_tile[start, index] = self._tile_index[path[first]]
        self._max_steps = int(self._walk_steps.max()) + 1

    def _tabulate_views(self) -> None:
        """Tables of what the cook sees from each tile.

        `view` [tiles, S + 1, 3] has row, column and 1 for what is at a spot or in hand, or zeros;
        `fixtures` [tiles, 2 * (boards + 2) + 7] the part of the observation that only the tile
        decides.
        """
        dish = [float(dish == set(self.recipe.ingredients)) for dish in _DISHES]
        view, fixtures = [], []
        for tile in self._tiles:
            spots = [
                (*spot, 1) if _is_in_view(tile, spot) else (0, 0, 0)
                for spot in (*self._spots, tile)
            ]
            view.append(spots)
            fixtures.append([*np.array(spots)[self._num_things :, :2].ravel(), *dish])
        self._view = np.array(view, np.int32)
        self._fixtures = np.array(fixtures, np.int32)

    def _resolve(self, place: jax.Array) -> jax.Array:
        """The spot of each thing, or S in hand: what is in the bowl is where the bowl is."""
        return jnp.where(place == self._in_bowl, place[self._num_foods], place)

    @functools.cached_property
    def _observations(self) -> np.ndarray:
        """Breadth-first over the states that can be reached, every action from each."""
        params = self.default_params
        radix = (
            len(self._tiles),
            *[self._num_spots + 2] * self._num_things,
            *[2] * self._num_foods,
        )
        actions = jnp.arange(self.num_actions)

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None))
        @functools.partial(jax.vmap, in_axes=(None, 0))
        def successors(digits: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
            state = EnvState(
                time=jnp.int32(0),
                tile=digits[0],
                place=digits[1 : 1 + self._num_things],
                chopped=digits[1 + self._num_things :].astype(bool),
            )
            observation, state, _, ended, _ = self.step_env(
                jax.random.key(0), state, action, params
            )
            digits = jnp.concatenate([state.tile[None], state.place, state.chopped])
            return observation, digits, ended

        observation, state = jax.device_get(self.reset(jax.random.key(0), params))
        found = [observation[None]]
        frontier = np.concatenate([state.tile[None], state.place, state.chopped])[None]
        seen = np.zeros(np.prod(radix), bool)
        batch = 512  # states per call: one shape, so one compilation
        while True:
            codes, first = np.unique(np.ravel_multi_index(frontier.T, radix), return_index=True)
            frontier = frontier[first[~seen[codes]]]
            if not len(frontier):
                break
            seen[codes] = True
            following = []
            for start in range(0, len(frontier), batch):
                chunk = frontier[start : start + batch]
                padded = np.pad(chunk, ((0, batch - len(chunk)), (0, 0)), mode="edge")
                after = jax.device_get(successors(padded, actions))
                observations, digits, ended = (leaf[: len(chunk)] for leaf in after)
                found.append(_unique_rows(observations.reshape(-1, observations.shape[-1])))
                following.append(digits[~ended])
            frontier = np.concatenate(following)
        observations = _unique_rows(np.concatenate(found))
        observations.setflags(write=False)
        return observations

    def _read(self, observation: np.ndarray | jax.Array) -> text.View:
        """Takes an observation apart, checking that it is one of this kitchen."""
        array = np.asarray(observation)
        (size,) = self.observation_space().shape
        dish = self._fixtures[0, -len(_DISHES) :].tolist()
        if array.shape != (size,) or array[-len(_DISHES) :].tolist() != dish:
            raise ValueError(
                f"An observation of {self.name} is {size} integers that end in {dish}; got "
                f"{np.array2string(array, threshold=32)} of shape {array.shape}."
            )
        foods = array[: 3 * self._num_foods].reshape(-1, 3)
        pairs = array[3 * self._num_foods : -len(_DISHES)].reshape(-1, 2)
        positions = [(row, column) for row, column in [*foods[:, :2].tolist(), pairs[0].tolist()]]
        row, column = pairs[-1].tolist()
        if (row, column) not in self._tile_index:
            raise ValueError(
                f"In {self.name} the cook stands on the floor, rows and columns 1 to "
                f"{len(_ROOM) - 2}; got an observation with the cook in row {row}, column "
                f"{column}: {array.tolist()}."
            )

        def group(spot: tuple[int, int]) -> text.Group:
            there = [i for i, position in enumerate(positions) if position == spot]
            return text.Group(
                foods=tuple(self.recipe.foods[i] for i in there if i < self._num_foods),
                chopped=any(foods[i, 2] for i in there if i < self._num_foods),
                bowl=self._num_foods in there,
            )

        things = zip(self._things, positions, self._spots, strict=False)
        board = int(self._board_beside[self._tile_index[row, column]]) - self._num_things
        return text.View(
            foods=self.recipe.foods,
            untouched=tuple(thing for thing, position, start in things if position == start),
            boards=tuple(group(spot) for spot in self._spots[self._num_things : -1]),
            hands=group((row, column)),
            board_beside=board if board >= 0 else None,
        )


def _find(mark: str) -> tuple[int, int]:
    """Row and column of a mark in the room."""
    return next((row, marks.index(mark)) for row, marks in enumerate(_ROOM) if mark in marks)


def _is_in_view(tile: tuple[int, int], spot: tuple[int, int]) -> bool:
    return max(abs(tile[0] - spot[0]), abs(tile[1] - spot[1])) <= _VIEW_RADIUS


def _straight(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The tiles from `start` to `end`, both included, along the column first."""
    (row, column), (last_row, last_column) = start, end
    rows = range(row, last_row, 1 if last_row > row else -1)
    columns = range(column, last_column, 1 if last_column > column else -1)
    return [*((row, column) for row in rows), *((last_row, column) for column in columns), end]


def _unique_rows(rows: np.ndarray) -> np.ndarray:
    """The distinct rows, in order of first appearance."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
