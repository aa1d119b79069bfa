"""Surveys: what is measured, what is recommended, and what a user is shown."""

import json
import math

import numpy as np
import pytest
from lock_env import LENGTH, Lock, prior_of, wheel_of

from launch.surveying import measuring, recommending, showing
from launch.surveying.measuring import Finding, Grid, Likelihood, Survey
from llmprior_jax import datasets, priors, training
from llmprior_jax.priors import Prompt, TextScores
from llmprior_jax.priors.sources import cached
from llmprior_jax.training import build
from llmprior_jax.types import TextState


def played(success: float, returns: float = 0.0, half: float = 0.05) -> dict:
    return {
        name: {"mean": mean, "ci95": [mean - half, mean + half]}
        for name, mean in (("success_rate", success), ("return", returns))
    } | {"episodes": 10}


def finding(name: str, of_play: dict | None, gain: float | None = None) -> Finding:
    likelihood = None
    if gain is not None:
        interval = (gain - 0.1, gain + 0.1)
        likelihood = Likelihood(-2.0, -1.5, -1.5 + gain, 2.0, interval, actions=9)
    return Finding(
        prompt=name, method="score", normalization="sum", played=of_play, states=5, entropy=1.0,
        uniform_entropy=1.5, least_likely=0.01, least_likely_low=0.02, length_slope=None,
        likelihood=likelihood, states_compared=7, states_per_second=None,
    )  # fmt: skip


def recommended(uniform: dict | None, *findings: Finding) -> str | None:
    chosen = recommending.recommend(Survey(uniform, list(findings), most_states=9)).finding
    return None if chosen is None else chosen.prompt


def test_a_survey_of_single_episodes_is_recommended_from_and_drawn(tmp_path):
    once = played(0.5)
    once["return"]["ci95"] = [None, None]
    survey = Survey(once, [finding("a", once), finding("b", played(0.9))], most_states=9)
    chosen = recommending.recommend(survey).finding
    assert chosen is not None
    assert chosen.prompt == "b"
    showing.draw(survey, chosen, "title", tmp_path / "survey.png")
    assert (tmp_path / "survey.png").stat().st_size > 0


def test_the_highest_success_is_recommended():
    a, b = finding("a", played(0.5)), finding("b", played(0.9))
    assert recommended(played(0.2), a, b) == "b"


def test_where_success_does_not_tell_the_return_decides():
    a, b = finding("a", played(0.85, returns=0.9)), finding("b", played(0.9, returns=0.1))
    assert recommended(played(0.2), a, b) == "a"


def test_where_neither_tells_the_likelihood_of_what_was_shown_decides():
    a, b = finding("a", played(0.9), gain=0.1), finding("b", played(0.88), gain=0.4)
    assert recommended(played(0.2), a, b) == "b"


def test_what_is_worse_than_uniform_is_never_recommended_however_likely_it_finds_what_was_shown():
    assert recommended(played(0.5), finding("a", played(0.2), gain=0.5)) is None


def test_what_is_as_good_as_uniform_as_far_as_one_can_tell_is_not_recommended():
    assert recommended(played(0.5), finding("a", played(0.52))) is None


def test_if_none_is_better_it_is_said_how_many_are_worse_and_what_to_do():
    findings = [finding("a", played(0.1)), finding("b", played(0.5))]
    why = recommending.recommend(Survey(played(0.5), findings, most_states=9)).why
    assert "1 of 2 are worse" in why
    assert "uniform_share" in why


def test_without_an_environment_the_likelihood_alone_decides():
    a, b = finding("a", None, gain=0.2), finding("b", None, gain=0.05)
    assert recommended(None, a, b) == "a"
    assert recommended(None, b) is None, "its interval reaches 0"


# Two ways to ask about the lock: one by which it is opened, and one by which it is not.
def right(state: TextState) -> Prompt:
    return Prompt(f"Right: {state.observation}", state.actions)


def wrong(state: TextState) -> Prompt:
    return Prompt(f"Wrong: {state.observation}", state.actions)


@pytest.fixture
def lock(monkeypatch) -> list[str]:
    """Makes every environment the lock, and a model that knows it if it is asked right."""
    asked: list[str] = []
    env = Lock()

    def score_in_passes(lm, prompts, actions):
        asked.extend(prompts)
        log_probs = np.asarray(prior_of(np.array(list(map(wheel_of, prompts))), 0.95).log_probs)
        is_wrong = [text.startswith("Wrong") for text in prompts]
        log_probs = np.where(np.array(is_wrong)[:, None], -log_probs, log_probs)
        ones = np.ones(log_probs.shape, np.int32)
        yield np.arange(len(prompts)), TextScores(log_probs, ones, log_probs[..., None])

    class Model:
        fingerprint = "a lock's"

        class config:  # noqa: N801
            max_position_embeddings = 10**6

    monkeypatch.setattr(build.envs, "make", lambda name, **kwargs: (env, env.default_params))
    monkeypatch.setattr(cached, "score_in_passes", score_in_passes)
    monkeypatch.setattr(cached.language_model, "reads_apart", lambda name: True)
    monkeypatch.setattr(cached.models, "load", lambda name, **how: Model)
    monkeypatch.setattr(cached, "room_for", lambda *_: True)
    monkeypatch.setattr(priors.prompts.naming._BODIES, "_entries", {"right": right, "wrong": wrong})
    return asked


def settings_of_lock(**changes):
    config = training.default_config()
    config.update_from_flattened_dict({"prior.store": "", "prior.prompt": "right"} | changes)
    return training.to_settings(config)


def lock_grid(prompts=("wrong", "right"), episodes=32, states=300) -> Grid:
    return Grid(prompts, ("sum", "token"), (), episodes, states)


def test_the_prompt_that_is_right_is_recommended_and_each_text_is_asked_about_once(lock, tmp_path):
    found = measuring.survey(settings_of_lock(), lock_grid(), None, True, tmp_path)
    names = [each.name for each in found.findings]
    assert names == ["wrong, sum", "wrong, token", "right, sum", "right, token"]
    chosen = recommending.recommend(found).finding
    assert chosen is not None
    assert chosen.prompt == "right"
    assert chosen.played is not None
    assert chosen.played["success_rate"]["mean"] > 0.4
    assert found.uniform is not None
    assert found.uniform["success_rate"]["mean"] == 0
    assert len(lock) == len(set(lock)) <= 2 * LENGTH
    assert 0 < chosen.entropy < chosen.uniform_entropy == pytest.approx(math.log(6))


def test_enough_states_end_the_episodes(lock, tmp_path):
    grid = lock_grid(prompts=("right",), episodes=64, states=1)
    found = measuring.survey(settings_of_lock(), grid, None, True, tmp_path)
    (first, _) = found.findings
    assert first.played is not None
    assert first.played["episodes"] == 8


def test_demonstrations_are_judged_without_an_environment(lock, tmp_path):
    states = tuple(Lock().text_state(wheel) for wheel in range(LENGTH))
    row = np.repeat(np.arange(LENGTH), 2)
    done = prior_of(np.arange(LENGTH), 0.95).log_probs.argmax(axis=1)
    last = np.arange(2 * LENGTH) == 2 * LENGTH - 1
    shown = datasets.from_columns(
        states, row=row, action=np.repeat(done, 2), reward=last, terminated=last,
        truncated=~last & False, next_row=row, episode=np.zeros(2 * LENGTH),
    )  # fmt: skip
    found = measuring.survey(settings_of_lock(), lock_grid(), shown, False, tmp_path)
    assert found.uniform is None
    likelihoods = {each.name: each.likelihood for each in found.findings}
    assert likelihoods["right, sum"] is not None
    assert likelihoods["right, sum"].mean == pytest.approx(math.log(0.95))
    assert likelihoods["right, sum"].uniform == pytest.approx(-math.log(6))
    assert likelihoods["right, sum"].actions == 2 * LENGTH
    assert likelihoods["wrong, sum"] is not None
    assert likelihoods["wrong, sum"].temperature == math.inf
    assert recommending.recommend(found).finding == found.findings[2]


def test_of_many_demonstrations_as_many_are_drawn_as_states_allow():
    states = tuple(TextState("", str(number), (), ("a", "b")) for number in range(50))
    row = np.arange(200) % 50
    shown = datasets.from_columns(
        states, row=row, action=row % 2, reward=row, terminated=row < 0, truncated=row < 0,
        next_row=row, episode=row * 0,
    )  # fmt: skip
    compared = measuring._demonstrated(shown, most_states=10, seed=0)
    assert len(compared.states) == 10
    assert set(compared.row) == set(range(10))
    numbers = [int(compared.states[place].observation) for place in compared.row]
    np.testing.assert_array_equal(np.array(numbers) % 2, compared.action)


def test_what_is_written_is_finite_json_and_a_picture(tmp_path):
    findings = [
        finding("a", played(0.9), gain=0.5),
        finding("b$", played(0.1), gain=-0.5)._replace(length_slope=-1.5, least_likely_low=0.0),
    ]
    findings[1] = findings[1]._replace(
        likelihood=Likelihood(-math.inf, -1.5, math.nan, math.inf, (math.nan, math.nan), actions=9)
    )
    found = Survey(played(0.2), findings, most_states=9)
    chosen = recommending.recommend(found)
    about = {"prior": "tiny", "place": "a lock"}
    showing.write(found, chosen, about, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "survey.json").read_text())
    assert told["recommended"] == {"prompt": "a", "method": "score", "normalization": "sum"}
    assert told["findings"][1]["likelihood"]["temperature"] is None
    assert (tmp_path / "out" / "survey.png").read_bytes().startswith(b"\x89PNG")
    for table in showing.tables(found, chosen.finding):
        assert list(table.columns[0].cells) == ["uniform", "a, sum", "b$, sum"]
