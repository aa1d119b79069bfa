"""Surveys: what is measured, what is recommended, and what a user is shown."""

import io
import itertools
import json
import math

import numpy as np
import pytest
import rich.console
from absl.testing import flagsaver
from lock_env import LENGTH, Lock, prior_of, wheel_of

from launch import survey as command
from launch.surveying import measuring, recommending, showing
from launch.surveying.measuring import Finding, Grid, Likelihood, Survey
from llmprior_jax import datasets, priors, training
from llmprior_jax.priors import Prompt, TextScores
from llmprior_jax.priors.prompts import Example, write_examples
from llmprior_jax.priors.sources import cached
from llmprior_jax.training import build, examples
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
        prompt=name, method="score", normalization="sum", temperature=1.5,
        uniform_share=0.2, played=of_play, states=5, entropy=1.0,
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


def test_what_was_tried_is_not_advised():
    def why(*names):
        findings = [finding(name, played(0.5)) for name in names]
        return recommending.recommend(Survey(played(0.5), findings, most_states=9)).why

    assert "--prompts=options,story" in why("plain")
    assert "--prompts=few_shot" in why("plain")
    tried = why("options+few_shot", "story")
    assert "--prompts" not in tried
    assert "larger model" in tried


def test_a_recommendation_by_success_has_the_temperature_that_was_played_with():
    found = Survey(played(0.2), [finding("a", played(0.9), gain=0.5)], most_states=9)
    assert recommending.recommend(found).fields == {
        "prompt": "a", "method": "score", "normalization": "sum", "temperature": 1.5,
        "uniform_share": 0.2,
    }  # fmt: skip


def test_a_recommendation_by_likelihood_has_the_temperature_that_makes_it_highest():
    found = Survey(None, [finding("a", None, gain=0.5)], most_states=9)
    assert recommending.recommend(found).fields["temperature"] == 2.0


def test_a_prior_that_is_not_scored_is_recommended_without_a_normalization():
    proposes = finding("a", played(0.9))._replace(method="propose", normalization="")
    fields = recommending.recommend(Survey(played(0.2), [proposes], most_states=9)).fields
    assert fields["method"] == "propose"
    assert "normalization" not in fields


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

    def score_in_passes(lm, prompts, actions, **how):
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


def test_a_prompt_that_shows_episodes_needs_some(lock, tmp_path):
    grid = lock_grid(prompts=("right+few_shot",))
    with pytest.raises(ValueError, match=r"'right\+few_shot' shows episodes.*--examples"):
        measuring.survey(settings_of_lock(), grid, None, True, tmp_path)


@pytest.mark.parametrize("num_examples", [0, 1])
def test_where_nobody_names_prompts_the_built_in_ones_are_compared(num_examples):
    shown = num_examples * (Example("open it", (("It is locked.", "turn"),)),)
    compared = measuring._with_prompts(lock_grid(prompts=())._replace(examples=shown)).prompts
    assert compared == ("plain", "options", "story", "few_shot")[: 3 + num_examples]


def shown_of_lock():
    """What opens the lock, done twice in each state."""
    states = tuple(Lock().text_state(wheel) for wheel in range(LENGTH))
    row = np.repeat(np.arange(LENGTH), 2)
    done = prior_of(np.arange(LENGTH), 0.95).log_probs.argmax(axis=1)
    last = np.arange(2 * LENGTH) == 2 * LENGTH - 1
    return datasets.from_columns(
        states, row=row, action=np.repeat(done, 2), reward=last, terminated=last,
        truncated=~last & False, next_row=row, episode=np.zeros(2 * LENGTH),
    )  # fmt: skip


def test_demonstrations_are_judged_without_an_environment(lock, tmp_path):
    found = measuring.survey(settings_of_lock(), lock_grid(), shown_of_lock(), False, tmp_path)
    assert found.uniform is None
    likelihoods = {each.name: each.likelihood for each in found.findings}
    assert likelihoods["right, sum"] is not None
    assert likelihoods["right, sum"].mean == pytest.approx(math.log(0.95))
    assert likelihoods["right, sum"].uniform == pytest.approx(-math.log(6))
    assert likelihoods["right, sum"].actions == 2 * LENGTH
    assert likelihoods["wrong, sum"] is not None
    assert likelihoods["wrong, sum"].temperature == math.inf
    assert recommending.recommend(found).finding == found.findings[2]


def test_what_is_mixed_in_for_play_is_not_measured(lock, tmp_path):
    settings = settings_of_lock(**{"prior.uniform_share": 0.5})
    grid = lock_grid(prompts=("right",))
    (first, _) = measuring.survey(settings, grid, shown_of_lock(), False, tmp_path).findings
    others = 0.05 / 5
    assert first.uniform_share == 0.5
    assert first.entropy == pytest.approx(-0.95 * math.log(0.95) - 5 * others * math.log(others))
    assert first.least_likely == pytest.approx(others)
    assert first.likelihood is not None
    assert first.likelihood.mean == pytest.approx(math.log(0.95))


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
    assert told["recommended"] == {
        "prompt": "a", "method": "score", "normalization": "sum", "temperature": 1.5,
        "uniform_share": 0.2,
    }  # fmt: skip
    assert told["findings"][1]["likelihood"]["temperature"] is None
    assert (tmp_path / "out" / "survey.png").read_bytes().startswith(b"\x89PNG")
    for table in showing.tables(found, chosen.finding):
        assert list(table.columns[0].cells) == ["uniform", "a, sum", "b$, sum"]


def test_tables_say_what_a_prior_was_mixed_with_when_it_played():
    of_play, of_prior = showing.tables(Survey(played(0.2), [finding("a", played(0.9))], 9), None)
    assert "0.2 of the uniform prior" in str(of_play.title)
    assert "not mixed" in str(of_prior.title)


def test_tables_are_whole_in_eighty_columns():
    each = finding("options+few_shot", played(0.955, returns=-10.123), gain=0.5)
    each = each._replace(
        least_likely=1.2e-10, least_likely_low=3e-5, length_slope=-1.25, states_per_second=1234.5
    )
    console = rich.console.Console(width=80, file=io.StringIO(), record=True)
    for table in showing.tables(Survey(played(0.25), [each], 9), None):
        console.print(table)
    text = console.export_text()
    assert "\u2026" not in text
    # A table that is too wide loses its right edge.
    assert all(f"{last} \u2503" in text for last in ("states", "states/s"))


def test_a_picture_names_a_file_and_not_the_way_to_it(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(showing, "draw", lambda survey, finding, title, path: titles.append(title))
    found = Survey(played(0.2), [finding("a", played(0.9))], most_states=9)
    model = tmp_path / "model.gguf"
    model.touch()
    for prior in (str(model), "owner/model"):
        about = {"prior": prior, "place": "a lock"}
        showing.write(found, recommending.recommend(found), about, tmp_path)
    mixed = ", played with 0.2 of the uniform prior"
    assert titles == [f"model.gguf in a lock{mixed}", f"owner/model in a lock{mixed}"]


def test_the_ticks_of_a_picture_do_not_collide(tmp_path, monkeypatch):
    figures = []
    save = showing.Figure.savefig

    def keep(figure, *arguments, **more):
        figures.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(showing.Figure, "savefig", keep)
    findings = [
        finding(name, played(0.5))._replace(least_likely_low=low)
        for name, low in (("a", 0.041), ("b", 0.062))
    ]
    showing.draw(Survey(played(0.2), findings, 9), None, "", tmp_path / "picture.png")
    (axes,) = (each for each in figures[0].axes if each.get_xlabel().startswith("least"))
    figures[0].canvas.draw()
    boxes = [
        label.get_window_extent()
        for which in ("major", "minor")
        for label in axes.xaxis.get_ticklabels(which=which)
        if label.get_text()
    ]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


class MeasuredError(Exception):
    """Stands for a measurement; has what was to be measured."""


def run_command(*flags):
    with flagsaver.flagsaver():
        command.FLAGS.unparse_flags()
        command.FLAGS(["survey", *flags])
        command.main([])


@pytest.fixture
def measured(monkeypatch):
    """Runs the command up to its measurement; returns what is to be measured."""

    def measure(settings, grid, dataset, *_):
        raise MeasuredError(settings, grid, dataset)

    monkeypatch.setattr(measuring, "survey", measure)

    def run(*flags):
        with pytest.raises(MeasuredError) as found:
            run_command(*flags)
        return found.value.args

    return run


def write_config(path, **fields):
    lines = [f"    config.{name} = {of!r}" for name, of in fields.items()]
    path.write_text(
        "from llmprior_jax import training\n\n\ndef get_config():\n"
        "    config = training.default_config()\n" + "\n".join(lines) + "\n    return config\n"
    )
    return f"--config={path}"


def test_a_configuration_says_what_is_shown(measured, tmp_path):
    shown = [Example("tidy up", (("A cup.", "take the cup"),))]
    write_examples(tmp_path / "of_config.jsonl", shown)
    write_examples(tmp_path / "of_flag.jsonl", 2 * shown)
    of_config = write_config(
        tmp_path / "config.py", **{"prior.examples.file": str(tmp_path / "of_config.jsonl")}
    )
    for flags, number in (((), 1), ((f"--examples={tmp_path / 'of_flag.jsonl'}",), 2)):
        _, grid, _ = measured(of_config, *flags)
        assert grid.examples == number * shown


def test_a_run_that_a_configuration_names_says_what_is_shown(measured, monkeypatch, tmp_path):
    shown = [Example("tidy up", (("A cup.", "take the cup"),))]
    monkeypatch.setattr(command.training, "restore", lambda workdir, agent, **_: (workdir, agent))
    asked = []
    monkeypatch.setattr(examples, "collect", lambda *which: asked.append(which[:2]) or shown)
    named = {"workdir": "runs/a", "agent": "dqn", "count": 2}
    fields = {f"prior.examples.{name}": of for name, of in named.items()}
    _, grid, _ = measured(write_config(tmp_path / "config.py", **fields))
    assert grid.examples == shown
    assert asked == [(("runs/a", "dqn"), 2)]


def test_a_configuration_that_names_two_places_of_examples_is_refused(tmp_path):
    both = {"prior.examples.file": "a.jsonl", "prior.examples.workdir": "a"}
    with pytest.raises(ValueError, match="not both"):
        run_command(write_config(tmp_path / "config.py", **both))


def test_demonstrations_have_the_history_that_the_model_is_told(measured, monkeypatch, tmp_path):
    lengths = []
    monkeypatch.setattr(command.datasets, "read", lambda path, history: lengths.append(history))
    measured(write_config(tmp_path / "config.py", **{"prior.history": 3}), "--dataset=x.parquet")
    assert lengths == [3]


@pytest.mark.parametrize("prompts", ["plain,plain", "few_shot,plain+few_shot"])
def test_no_prompt_is_compared_with_itself(prompts):
    with pytest.raises(ValueError, match="each once"):
        run_command("--env=FrozenLake-4x4", f"--prompts={prompts}")
