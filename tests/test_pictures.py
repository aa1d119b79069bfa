"""Pictures of episodes: what a scene shows, and that no decision is missing from them."""

import html.parser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from launch.common import pictures
from llmprior_jax import envs
from llmprior_jax.play import Decision
from llmprior_jax.types import TextState


def decision(prior, q_values, posterior, scene=None, actions=("look", "<leave>")) -> Decision:
    return Decision(
        text=TextState("find $5 & go", "a <dark> room", (("a hall", "wait"),), actions),
        prior=np.array(prior),
        q_values=np.array(q_values),
        posterior=np.array(posterior),
        action=1,
        reward=0.25,
        success=True,
        truncated=False,
        scene=scene,
    )


AGREED = decision([0.9, 0.1], [0.0, 0.0], [0.9, 0.1])
OVERRULED = decision([0.9, 0.1], [0.0, 1.0], [0.2, 0.8])


class Reader(html.parser.HTMLParser):
    """Collects what a page shows and what it would load."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.loads, self.sections = "", [], 0
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.sections += tag == "section"
        self.loads += [
            value
            for name, value in attrs
            if name in ("src", "href") and not value.startswith(("data:", "#"))
        ]

    def handle_data(self, data):
        self.text += data


def play(name: str, *actions: int):
    """The scene after some actions."""
    env, params = envs.make(name)
    _, state = env.reset(jax.random.key(0), params)
    for action in actions:
        _, state, *_ = env.step(jax.random.key(0), state, jnp.int32(action), params)
    return env.scene(state)


def test_a_kitchen_shows_chopped_food_in_the_bowl_in_the_hands_of_the_cook():
    # Get the tomato, put it on the board, chop it three times in one go, get it, get the bowl.
    scene = play("Overcooked-TomatoSalad", 0, 2, 4, 0, 1, 1)
    places = {thing.name: (thing.row, thing.column) for thing in scene.things}
    assert places.keys() == {"cook", "bowl", "chopped tomato"}
    assert places["chopped tomato"] == places["bowl"] == places["cook"]
    assert scene.tiles[places["cook"][0]][places["cook"][1]] == "floor"


def test_a_lake_shows_who_stands_where():
    scene = play("FrozenLake-4x4")
    assert scene.things == (envs.Thing("agent", 0, 0),)
    assert scene.tiles[1] == ("ice", "hole", "ice", "hole")
    assert (scene.tiles[0][0], scene.tiles[3][3]) == ("start", "goal")


def test_a_game_of_text_alone_has_no_scene():
    class Text(envs.TextEnvironment):
        pass

    assert Text().scene(None) is None


def test_learning_overrules_where_the_two_prefer_different_actions():
    assert pictures.overruled(OVERRULED)
    assert not pictures.overruled(AGREED)
    assert not pictures.overruled(decision([0.5, 0.5], [0.0, 1.0], [0.2, 0.8])), "uniform"


def test_a_page_holds_every_decision_and_loads_nothing():
    scene = play("FrozenLake-4x4")
    page = Reader(pictures.episode_page("t", [AGREED, OVERRULED._replace(scene=scene)]))
    assert page.sections == 2
    assert page.loads == []
    for words in ("<leave>", "a <dark> room", "find $5 & go", "0.250", "overruled the model in 1"):
        assert words in page.text
    assert "return 0.500" in page.text
    assert "In the pictures: A agent." in page.text


def test_a_page_is_titled_by_agent_and_task_and_shows_markup_as_text():
    evil = "</title><script>alert(1)</script>\nin the <b>hall</b>"
    texts = TextState(evil, evil, ((evil, evil), (evil, evil)), (evil, "wait"))
    page = pictures.episode_page("dqn, episode 0", [AGREED._replace(text=texts)])
    assert "<title>dqn, episode 0: &lt;/title&gt;" in page
    assert page.count("<script>") == 1, "the player alone"
    assert "<b>hall" not in page
    assert "history (2)" in Reader(page).text


def test_a_value_that_rounds_to_zero_has_no_sign():
    page = Reader(pictures.episode_page("t", [decision([0.9, 0.1], [-1e-5, 0.2], [0.2, 0.8])]))
    assert "0.000" in page.text
    assert "-0.000" not in page.text


ROOM = envs.Scene(
    tiles=(("wall", "floor", "floor", "floor", "floor", "floor", "floor"),),
    things=(
        envs.Thing("locked red door", 0, 1),
        envs.Thing("open green door", 0, 2),
        envs.Thing("blue ball", 0, 3),
        envs.Thing("grey box", 0, 4),
        envs.Thing("yellow key", 0, 5),
        envs.Thing("left agent", 0, 6),
    ),
)


def test_things_that_come_in_colors_are_told_by_their_shapes():
    image = np.asarray(pictures.draw_scene(ROOM))
    tile = image.shape[1] // 7

    def color(column, right, down):
        """Somewhere on a tile, from its center in fractions of it."""
        x = int((column + 0.5 + right) * tile)
        return "#" + bytes(image[int((0.5 + down) * tile), x]).hex()

    floor, colors = color(6, 0.4, 0.4), pictures._COLORS
    assert color(1, 0.3, 0.3) == colors["red"]
    assert color(1, 0.0, 0.0) == "#222222"  # the keyhole
    assert (color(2, 0.42, 0.0), color(2, 0.0, 0.0)) == (colors["green"], floor)
    assert (color(3, 0.0, 0.08), color(3, 0.23, 0.31)) == (colors["blue"], floor)
    assert (color(4, 0.0, 0.08), color(4, 0.22, 0.29)) == (colors["grey"], colors["grey"])
    assert (color(5, 0.0, 0.25), color(5, 0.15, 0.25)) == (colors["yellow"], floor)
    # It looks to the left, where it is pointed.
    assert (color(6, -0.15, 0.08), color(6, 0.24, 0.08)) == (pictures._THINGS["agent"], floor)


def test_a_page_says_which_shape_is_which():
    page = Reader(pictures.episode_page("t", [AGREED._replace(scene=ROOM)]))
    signs = (
        "\u25b6 agent, \u25cf ball, \u25a0 box, \u25ae door, \u25c6 key; with a keyhole: locked."
    )
    assert f"In the pictures: {signs}" in page.text


def test_a_page_has_no_column_for_a_q_that_the_agent_does_not_have():
    assert "action prior Q post." in columns([AGREED, OVERRULED])
    assert "action prior post." in columns([AGREED])


def columns(decisions) -> str:
    page = pictures.episode_page("t", decisions)
    return Reader(page.replace("<th>", " <th>")).text


def test_a_page_folds_the_less_likely_of_many_actions():
    chances = np.arange(30, 0, -1) / 465
    many = decision(chances, np.zeros(30), chances, actions=tuple(f"go to {i}" for i in range(30)))
    page = Reader(pictures.episode_page("t", [many]))
    assert "18 less likely actions" in page.text
    assert all(f"go to {i}" in page.text for i in range(30))


@pytest.mark.parametrize("scene", [None, play("FrozenLake-4x4")], ids=["text", "lake"])
def test_an_animation_has_a_frame_for_each_decision(tmp_path, scene):
    steps = [AGREED._replace(scene=scene), OVERRULED._replace(scene=scene)]
    pictures.write_gif(steps, tmp_path / "episode.gif", seconds=0.5)
    with Image.open(tmp_path / "episode.gif") as animation:
        assert animation.n_frames == 2
        assert animation.info["duration"] == 500


def test_a_page_says_how_much_the_prior_counted_where_an_agent_weighs_it():
    page = pictures.episode_page("an episode", [AGREED._replace(trust=0.37)])
    assert "the prior counts 37% here" in Reader(page).text
    assert "the prior counts" not in Reader(pictures.episode_page("an episode", [AGREED])).text
