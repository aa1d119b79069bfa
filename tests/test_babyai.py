"""BabyAI is minigrid's, step for step and draw for draw, and says what is seen."""

import collections
import functools
import importlib
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from llmprior_jax import envs
from llmprior_jax.envs import examples
from llmprior_jax.envs.babyai import LEVELS, BabyAI, text
from llmprior_jax.envs.babyai.on_demand import on_demand

bots = pytest.importorskip("minigrid.utils.baby_ai_bot")
minigrid_levels = importlib.import_module("minigrid_levels")  # It needs minigrid.

BATCH = 32


@functools.cache
def functions(level):
    env, params = envs.make(f"BabyAI-{level}")
    reset = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))
    step = jax.jit(jax.vmap(env.step_env, in_axes=(0, 0, 0, None)))
    truncated = jax.jit(jax.vmap(env.is_truncated, in_axes=(0, None)))
    return env, params, reset, step, truncated


def begin(level, key, number=BATCH):
    """Episodes of ours, and the same in minigrid."""
    env, params, reset, *_ = functions(level)
    _, states = reset(jax.random.split(key, number), params)
    host = jax.device_get(states)
    width = env._rooms.width
    theirs = [
        minigrid_levels.Episode(
            host.cells[index].reshape(-1, width),
            (int(host.position[index]) % width, int(host.position[index]) // width),
            int(host.direction[index]),
            host.mission[index].tolist(),
        )
        for index in range(number)
    ]
    return states, theirs


class Expert:
    """BabyAI's bot, which now and then does something at random."""

    def __init__(self, episode, rng, chance):
        self._bot, self._rng, self._chance = bots.BabyAIBot(episode), rng, chance
        self._last = None

    def act(self):
        action = 6
        if self._chance < 1.0:
            try:
                action = int(self._bot.replan(self._last))
            except Exception:  # It gives up, in one way or another, where it cannot go on.
                self._chance = 1.0
        if action == 6 or self._rng.random() < self._chance:
            action = int(self._rng.integers(6))
        self._last = action
        return action


def compare(level, seed, most_steps, chance):
    """Plays some episodes in both engines and compares them after each step; returns the steps."""
    env, params, _, step, is_truncated = functions(level)
    rng = np.random.default_rng(seed)
    states, theirs = begin(level, jax.random.key(seed))
    for index, episode in enumerate(theirs):
        descriptions = episode.descriptions()
        mission = np.asarray(states.mission[index])
        several = [len(description.obj_set) > 1 for description in descriptions]
        assert mission[[4, 8][: len(several)]].tolist() == several
    actors = [Expert(episode, rng, chance) for episode in theirs]
    seen = [episode.gen_obs()["image"] for episode in theirs]
    observation = jax.vmap(env.observe, in_axes=(None, 0, None, None))(
        jax.random.key(0), states, None, params
    )
    for index, image in enumerate(seen):
        assert_same_view(np.asarray(observation[index]), image)
    playing, steps = set(range(len(theirs))), 0
    keys = jax.random.split(jax.random.key(0), len(theirs))
    for _ in range(most_steps):
        actions = [actors[i].act() if i in playing else 0 for i in range(len(theirs))]
        ours = step(keys, states, jnp.array(actions), params)
        states = ours[1]
        told = *ours, is_truncated(states, params)
        observations, host, rewards, terminated, info, truncated = jax.device_get(told)
        for index in sorted(playing):
            image, reward, ended, cut, _ = theirs[index].step(actions[index])
            assert_same_view(observations[index], image["image"])
            assert rewards[index] == pytest.approx(float(reward), abs=1e-6)
            assert (terminated[index], truncated[index]) == (ended, cut)
            assert info["success"][index] == ended
            assert_same_state(env, jax.tree.map(operator.itemgetter(index), host), theirs[index])
            steps += 1
            if ended or cut:
                playing.remove(index)
        if not playing:
            break
    return steps


def assert_same_view(observation, image):
    ours = minigrid_levels.ENCODED[observation[:49].reshape(7, 7)]
    np.testing.assert_array_equal(ours, image.transpose(1, 0, 2))


def assert_same_state(env, state, episode):
    width = env._rooms.width
    grid = minigrid_levels.ENCODED[state.cells.reshape(-1, width) & 63]
    np.testing.assert_array_equal(grid, episode.grid.encode().transpose(1, 0, 2))
    assert divmod(int(state.position), width)[::-1] == tuple(map(int, episode.agent_pos))
    assert state.direction == episode.agent_dir
    carried = minigrid_levels.ENCODED[state.carried & 63].tolist()
    assert carried == list(episode.carrying.encode() if episode.carrying else (1, 0, 0))


@pytest.mark.parametrize("level", ["PickupLoc", "MixedTrainLocal", "Open"])
@pytest.mark.parametrize("chance", [0.2, 1.0])
def test_steps_are_minigrids(level, chance):
    assert compare(level, 0, 24, chance) > 200


@pytest.mark.longest
@pytest.mark.parametrize("level", LEVELS)
def test_many_steps_are_minigrids(level):
    steps, seed = 0, 1
    while steps < 100_000 / len(LEVELS):
        steps += compare(level, seed, 576, (0.0, 0.1, 0.4, 1.0)[seed % 4])
        seed += 1


# --------------------------------------------------------------------------------- drawing


def own_beginnings(level, number, seed):
    env, params, reset, *_ = functions(level)
    _, states = jax.device_get(reset(jax.random.split(jax.random.key(seed), number), params))
    width = env._rooms.width
    for index in range(number):
        row, column = divmod(int(states.position[index]), width)
        yield minigrid_levels.Beginning(
            states.cells[index].reshape(-1, width) & 63,
            (row, column),
            int(states.direction[index]),
            tuple(states.mission[index].tolist()),
        )


def features(beginning):
    """What is counted of how an episode begins."""
    tiles, (row, column), direction, mission = beginning
    yield "position", (row, column)
    yield "direction", direction
    yield "verb", mission[0]
    yield "first description", mission[:5]
    yield "second description", (mission[0], *mission[5:])
    things = np.argwhere(tiles > 2).tolist()
    doors = [(y, x) for y, x in things if tiles[y, x] >= 21]
    yield "doors", len(doors)
    for y, x in things:
        yield ("place of a door" if (y, x) in doors else "place of a thing"), (y, x)
        yield "thing", int(tiles[y, x])
        yield "way to a thing", (abs(y - row), abs(x - column))
    loose = [(y, x) for y, x in things if (y, x) not in doors]
    yield "things next to things", sum((y + 1, x) in loose for y, x in loose)
    yield "looks", len({int(tiles[y, x]) for y, x in loose})


def assert_drawn_alike(level, number, seed):
    """Compares the counts of all features, by a test of each that errs once in 10,000 times."""
    env = functions(level)[0]
    counts = collections.defaultdict(lambda: collections.Counter())
    theirs = minigrid_levels.beginnings(level, number, 1000 * seed, env._rooms.width)
    for side, beginnings in enumerate((own_beginnings(level, number, seed), theirs)):
        for beginning in beginnings:
            for name, value in features(beginning):
                counts[name][str(value), side] += 1
    for name, counter in counts.items():
        values = sorted({value for value, _ in counter})
        table = np.array([[counter[value, side] for value in values] for side in (0, 1)])
        rare = table.sum(axis=0) < 20
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
        table = table[:, table.sum(axis=0) > 0]
        if table.shape[1] > 1:
            assert stats.chi2_contingency(table).pvalue > 1e-4, (name, table)


@pytest.mark.long
@pytest.mark.parametrize("level", ["PickupLoc", "Open"])
def test_levels_are_drawn_as_minigrid_draws_them(level):
    assert_drawn_alike(level, 200, seed=0)


@pytest.mark.longest
@pytest.mark.parametrize("level", LEVELS)
def test_many_levels_are_drawn_as_minigrid_draws_them(level):
    assert_drawn_alike(level, 2_000, seed=1)


# ----------------------------------------------------------------------------------- words


def look(*things, carried=1):
    """The tiles of a view: floor, and some things by steps ahead and to the right."""
    view = np.ones((7, 7), np.int32)
    for ahead, right, tile in things:
        view[6 - ahead, 3 + right] = tile
    view[6, 3] = carried
    return view.ravel()


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (look(), "You see nothing but the floor. Your hands are empty."),
        (
            look((2, 0, 9), (1, -1, 10), carried=19),
            "You see a green ball 1 step ahead and 1 step to the left and a red ball 2 steps "
            "ahead. You carry a yellow box.",
        ),
        # The nearest wall in each of three directions, unless something is before it.
        (
            look((0, -1, 2), (0, -2, 2), (3, 0, 2), (0, 2, 2), (0, 1, 5), (1, 1, 2)),
            "You see a wall 1 step to the left, a blue key 1 step to the right and a wall 3 steps "
            "ahead. Your hands are empty.",
        ),
        (
            look((1, 0, 21), (0, 3, 28), (5, 0, 38)),
            "You see an open red door 1 step ahead, a closed green door 3 steps to the right and a "
            "locked grey door 5 steps ahead. Your hands are empty.",
        ),
    ],
)
def test_what_is_seen_is_told_the_nearest_first(seen, told):
    assert text.observation(seen) == told


@pytest.mark.parametrize(
    ("mission", "told"),
    [
        ([0, 1, 0, 0, 0, 0, 0, 0, 0], "Go to the red ball."),
        ([1, 2, 6, 1, 1, 0, 0, 0, 0], "Pick up a box to your left."),
        ([1, 0, 4, 2, 0, 0, 0, 0, 0], "Pick up the yellow key to your right."),
        ([1, 0, 4, 3, 0, 0, 0, 0, 0], "Pick up the yellow key ahead of you."),
        ([1, 0, 4, 4, 0, 0, 0, 0, 0], "Pick up the yellow key behind you."),
        ([2, 3, 6, 0, 0, 0, 0, 0, 0], "Open the door."),
        ([3, 1, 5, 0, 1, 0, 3, 0, 0], "Put a grey ball next to the purple key."),
        ([4, 0, 2, 0, 0, 1, 1, 0, 0], "Pick up the blue key, and then go to the green ball."),
        ([5, 0, 2, 0, 0, 1, 1, 0, 0], "Go to the green ball, but pick up the blue key before."),
    ],
)
def test_missions_are_sentences(mission, told):
    assert text.task(np.array(mission, np.int32)) == told


def observation(**changes):
    array = np.concatenate([look(), [0, 1, 0, 0, 0, 0, 0, 0, 0]]).astype(np.int32)
    for index, value in changes.items():
        array[int(index.removeprefix("at"))] = value
    return array


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros(57, np.int32), r"observes 58 integers; got int32\[57\]"),
        (np.zeros(58, np.float32), r"got float32\[58\]"),
        (observation(at7=39), "tile 7 of the view is 39; tiles are 0 to 38"),
        (observation(at45=21), "what the agent carries, is 21"),
        (observation(at49=6), "the verb of the mission is 6; there are 0 to 5"),
        (observation(at51=7), "the first color of the mission is 7"),
        (observation(at52=-1), "the first side of the mission is -1"),
        (observation(at49=1, at50=3), "no mission says to pick up the red door: doors are opened"),
        (observation(at49=2), "no mission says to open the red ball"),
        (observation(at55=2), r"the second is \[0, 2, 0, 0\] and must be all zeros"),
    ],
)
def test_what_no_observation_says_is_refused(wrong, message):
    env, _ = envs.make("BabyAI-GoToLocal")
    with pytest.raises(ValueError, match=f"BabyAI-GoToLocal.*{message}"):
        env.text_state(wrong)


def test_a_level_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no level of BabyAI 'GoToLocl'; did you mean 'GoToLocal'"):
        BabyAI("GoToLocl")


def test_a_picture_shows_what_is_there():
    env, _, reset, *_ = functions("MixedTrainLocal")
    _, states = reset(jax.random.split(jax.random.key(5), BATCH), env.default_params)
    state = jax.tree.map(operator.itemgetter(0), states)
    state = state.replace(carried=np.uint16(4 | 1 << 6), direction=np.int32(3))
    scene = env.scene(state)
    row, column = divmod(int(state.position), 15)
    assert scene.things[-2:] == (
        envs.Thing("up agent", row, column),
        envs.Thing("green key", row, column),
    )
    tiles = np.asarray(state.cells).reshape(8, 15) & 63
    assert [[tile == "wall" for tile in tiles] for tiles in scene.tiles] == (tiles == 2).tolist()
    for thing in scene.things[:-2]:
        *_, color, kind = thing.name.split()
        tile = minigrid_levels.thing(int(tiles[thing.row, thing.column]))
        assert (tile.color, tile.type) == (color, kind)
    assert len(scene.things) == (tiles > 2).sum() + 2


# ------------------------------------------------------------------------------- on demand


def toss(key, number):
    """A number that says which attempt it is, and is valid once in three times."""
    value = jax.random.bits(jax.random.fold_in(key, number), (), jnp.uint32)
    return {"value": value, "attempt": number}, value % 3 == 0


def tossed(keys):
    """The first valid attempt of each key [B], and its number."""
    numbers = jnp.arange(100)
    attempts = jax.vmap(jax.vmap(toss, in_axes=(None, 0)), in_axes=(0, None))
    made, valid = jax.device_get(jax.jit(attempts)(keys, numbers))
    assert valid.any(axis=1).all()
    first = valid.argmax(axis=1)
    return made["value"][np.arange(len(first)), first], first


@pytest.mark.parametrize("shape", [(), (300,), (3, 5), (2, 1, 4)])
def test_each_is_given_what_its_own_key_makes(shape):
    keys = jax.random.split(jax.random.key(0), shape)
    wanted = jax.random.bernoulli(jax.random.key(1), 0.5, shape)
    otherwise = {
        "value": jnp.full(shape, 7, jnp.uint32),
        "attempt": jnp.full(shape, -1, jnp.int32),
    }
    make = on_demand(toss)
    for _ in shape:
        make = jax.vmap(make)
    made = jax.device_get(jax.jit(make)(keys, wanted, otherwise))
    value, attempt = tossed(keys.ravel())
    wanted = np.asarray(wanted).ravel()
    np.testing.assert_array_equal(made["value"].ravel(), np.where(wanted, value, 7))
    np.testing.assert_array_equal(made["attempt"].ravel(), np.where(wanted, attempt, -1))


def test_what_all_of_a_batch_have_in_common_need_not_be_repeated():
    key, wanted = jax.random.key(3), jnp.array([True, False, True])
    otherwise = {"value": jnp.uint32(7), "attempt": jnp.int32(-1)}
    made = jax.vmap(on_demand(toss), in_axes=(None, 0, None))(key, wanted, otherwise)
    (value,), (attempt,) = tossed(key[None])
    assert made["value"].tolist() == [value, 7, value]
    assert made["attempt"].tolist() == [attempt, -1, attempt]


# -------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("level", ["PickupLoc", "MixedTrainLocal", "Open"])
def test_no_mission_of_a_level_is_that_of_its_example(level):
    env, params, reset, *_ = functions(level)
    (shown,) = env.examples()
    for seed in range(20):
        _, states = reset(jax.random.split(jax.random.key(seed), BATCH), params)
        assert shown.task not in map(text.task, np.asarray(states.mission))


@pytest.mark.parametrize(("index", "level", "seed"), [(0, "GoToLocal", 243), (1, "Open", 546)])
def test_an_example_is_an_episode_that_ends_well(index, level, seed):
    env, params, reset, step, _ = functions(level)
    shown = examples.read("babyai")[index]
    keys = jax.vmap(jax.random.key)(jnp.full(BATCH, seed))
    observation, states = reset(keys, params)
    success = False
    for (observed, action), listed in zip(shown.steps, shown.options, strict=True):
        told = env.text_state(observation[0])
        assert (told.task, told.observation, told.actions) == (shown.task, observed, listed)
        actions = jnp.full(BATCH, listed.index(action))
        observation, states, _, success, info = step(keys, states, actions, params)
        assert (info["success"] == success).all()
    assert success.all()
