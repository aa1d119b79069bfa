"""The prior alone beside a uniform policy: statistics, verdicts, the warning, and what stays."""

import dataclasses
import importlib
import json
import logging
import math
import pathlib
import shlex
import sys

import numpy as np
import pytest
import scipy.stats
from lock_env import LockSource
from small_lm import TINY
from test_experiment import UnlistedLock, assert_same_bits, small_config

from launch import survey
from launch.common import app
from llmprior_jax import agents, priors, training
from llmprior_jax.training import build, prior_alone, summary
from llmprior_jax.training.prior_alone import Outcome, Verdict

WARNING = "alone is worse than a uniform policy"
FIXED = {"agent.trust": "fixed"}
pytestmark = pytest.mark.usefixtures("a_full_look")


def test_the_interval_of_success_is_wilsons():
    success = np.arange(20) < 3
    stated = Outcome(success, np.zeros(20)).statistics()["success_rate"]
    z, n, p = scipy.stats.norm.ppf(0.975), 20, 3 / 20
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert stated["mean"] == p
    assert stated["ci95"] == pytest.approx([middle - half, middle + half])


def test_the_interval_of_the_return_is_students():
    values = np.array([1.0, 2.0, 4.0])
    half = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)  # t of 2 degrees of freedom; variance 7/3
    assert prior_alone.mean_interval(values) == pytest.approx((7 / 3 - half, 7 / 3 + half))


def test_of_one_episode_the_return_says_nothing():
    assert prior_alone.mean_interval(np.ones(1)) == (-math.inf, math.inf)


def test_what_one_episode_tells_is_written_as_json_and_read_again():
    one, two = (Outcome(np.ones(n, bool), np.full(n, 0.5)).statistics() for n in (1, 2))
    found = {"prior alone": json.loads(json.dumps(one, allow_nan=False)), "uniform": two}
    assert prior_alone.verdict(found["prior alone"], found["uniform"]) == Verdict(0, "")
    assert prior_alone.verdict(found["uniform"], found["prior alone"]) == Verdict(0, "")
    assert prior_alone.with_interval(found["prior alone"]["return"]) == "0.50 [-inf, inf]"
    shown = summary.table({"before_training": {**found, "worse_by": None}}, 1)
    assert "0.50 \\[-inf, inf]" in list(shown.columns[2].cells)


def statistics(success: tuple[float, float], returns: tuple[float, float]) -> dict:
    return {"success_rate": {"ci95": success}, "return": {"ci95": returns}, "episodes": 64}


@pytest.mark.parametrize(
    ("success", "returns", "expected"),
    [
        ((0.0, 0.1), (5.0, 6.0), Verdict(-1, "success_rate")),
        ((0.5, 0.6), (-6.0, -5.0), Verdict(1, "success_rate")),
        ((0.1, 0.3), (-6.0, -5.0), Verdict(-1, "return")),
        ((0.1, 0.3), (5.0, 6.0), Verdict(1, "return")),
        ((0.1, 0.3), (-1.0, 6.0), Verdict(0, "")),
    ],
)
def test_success_decides_and_the_return_where_success_does_not_tell(success, returns, expected):
    uniform = statistics((0.2, 0.4), (0.0, 1.0))
    assert prior_alone.verdict(statistics(success, returns), uniform) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dqn_prior", True),
        ("dqn", False),
        ("random", False),
        ("gflan_prior", True),
        ("gflan", False),
    ],
)
def test_it_is_known_which_agents_see_the_prior(name, expected):
    assert agents.sees_prior(name) == expected


def test_an_agent_of_ones_own_sees_the_prior_unless_it_is_a_baseline(monkeypatch):
    monkeypatch.setattr(agents.registry._AGENTS, "_entries", dict(agents.registry._AGENTS._entries))
    agents.register("mine_prior", agents.dqn_prior)
    agents.register("mine", agents.dqn_prior, uniform_prior=True)
    assert (agents.sees_prior("mine_prior"), agents.sees_prior("mine")) == (True, False)


def kitchen_config(**changes) -> training.Config:
    """A kitchen of 22 states, which the embedded model knows; two updates."""
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "Overcooked-TomatoSalad",
            "agents": ("dqn_prior",),
            "num_seeds": 1,
            "num_steps": 16,
            "eval_every": 16,
            "eval_episodes": 32,
            "loop.warmup_steps": 1,
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> tuple[pathlib.Path, str]:
    """The work directory of a run whose prior is the worst there is, and what it warned of."""
    workdir = tmp_path_factory.mktemp("bad") / "run"
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("absl").addHandler(handler)
    training.run(kitchen_config(**{"prior.reversed": True} | FIXED), workdir)
    logging.getLogger("absl").removeHandler(handler)
    return workdir, "\n".join(said)


def test_a_bad_prior_is_warned_of_with_what_to_do(bad):
    _, said = bad
    assert WARNING in said
    assert "launch.survey --prior=tiny --env=Overcooked-TomatoSalad" in said
    assert "uniform_share" in said


def warned(caplog, name="dqn_prior", **changes) -> str:
    """What is said of a prior that is worse, asked as a configuration has it."""
    by = {"mean": 0.5, "ci95": [0.4, 0.6]}
    policy = {"success_rate": by, "return": by, "episodes": 9}
    found = {"prior alone": policy, "uniform": policy, "worse_by": "success_rate"}
    caplog.clear()
    with caplog.at_level("WARNING"):
        prior_alone.warn(found, training.to_settings(kitchen_config(**FIXED | changes)), name)
    return caplog.text


def test_what_is_done_already_is_not_advised(caplog):
    token, share = "prior.normalization=token", "prior.uniform_share=0.9"
    as_it_is = warned(caplog)
    assert token in as_it_is
    assert share in as_it_is
    done = warned(caplog, **{"prior.normalization": "token", "prior.uniform_share": 0.95})
    assert "or try" not in done
    assert "or limit" not in done
    assert token not in warned(caplog, **{"prior.method": "propose"}), "nothing is scored"
    assert "or limit" not in warned(caplog, "gflan_prior"), "nothing is mixed into a policy"


def test_an_agent_that_learns_whom_to_trust_is_said_to_do_without_a_bad_prior(caplog):
    said = warned(caplog, **{"agent.trust": "learned"})
    assert "Agents learn to do without it" in said
    assert "or limit" not in said
    assert "leads agents astray" in warned(caplog, "gflan_prior", **{"agent.trust": "learned"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prior.model": TINY, "prior.normalization": "word"},
        {
            "env": "engine",
            "games.train": ("a game/one.z8", "two.z8"),
            "games.unseen": ("it's.z8",),
            "engine.max_steps": 7,
            "engine.describe": True,
            "history": 1,
            "prior.history": 2,
            "prior.uniform_share": 0.3,
            "prior.store": "",
        },
        {"prior.prompt": "few_shot", "prior.examples.file": "my shown.jsonl"},
    ],
    ids=["kitchen", "another model", "engine", "examples"],
)
def test_the_survey_that_is_advised_is_of_the_same_setting(changes, caplog, monkeypatch):
    (line,) = [line for line in warned(caplog, **changes).splitlines() if "launch.survey" in line]
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "launch.survey"]
    wanted = training.to_settings(kitchen_config(**changes))
    importlib.reload(survey)  # Flags of a configuration's fields stay what they once were.
    command = app._with_config_files(["survey", *words[3:]])
    monkeypatch.setattr(sys, "argv", command)  # There fields of configurations are looked for.
    survey.FLAGS(command)
    given = training.to_settings(survey._config())
    shown, asked = survey._EXAMPLES.value, survey._PROMPTS.value
    importlib.reload(survey)
    assert given.environment == wanted.environment
    assert shown == wanted.prior.examples.file
    assert asked[0] == wanted.prior.prompt

    def rest(prior):
        # A survey compares these.
        return dataclasses.replace(
            prior, prompt="", normalization="", examples=type(prior.examples)()
        )

    assert rest(given.prior) == rest(wanted.prior)


@pytest.mark.long
def test_a_model_that_is_not_the_embedded_one_plays_as_it_is_asked(tmp_path, capsys):
    config = kitchen_config(**{"prior.model": TINY, "env": "FrozenLake-4x4"})
    training.run(config, tmp_path)
    asked = "few_shot, by token, 0.2 uniform"
    assert f"prior: {TINY}, asked: {asked}\n" in capsys.readouterr().out
    assert told_of(tmp_path)["before_training"]["asked"] == asked


def told_of(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def test_a_bad_prior_stands_in_the_summary_and_in_the_table(bad):
    workdir, _ = bad
    told = told_of(workdir)
    before = told["before_training"]
    assert before["worse_by"] == "success_rate"
    assert before["prior alone"]["success_rate"]["ci95"][1] < 0.1
    assert before["uniform"]["success_rate"]["ci95"][0] > 0.3
    table = summary.table(told, 1)
    assert list(table.columns[0].cells) == ["dqn_prior", "prior alone", "uniform"]
    assert "worse than uniform" in str(table.caption)


def test_a_resumed_run_says_so_again_and_does_not_look_again(bad, monkeypatch, caplog):
    workdir, _ = bad
    monkeypatch.setattr(prior_alone, "look", lambda *_: pytest.fail("it looked again"))
    with caplog.at_level("WARNING"):
        training.run(kitchen_config(**{"prior.reversed": True} | FIXED), workdir)
    assert WARNING in caplog.text


@pytest.mark.long
def test_a_good_prior_is_not_warned_of_and_looking_changes_no_bit(tmp_path, monkeypatch, caplog):
    with caplog.at_level("WARNING"):
        results = training.run(kitchen_config(), tmp_path / "looked")
    assert WARNING not in caplog.text
    assert results.keys() == {"dqn_prior"}
    canned = told_of(tmp_path / "looked")["before_training"]
    assert canned["worse_by"] is None
    monkeypatch.setattr(prior_alone, "look", lambda *_: canned)
    training.run(kitchen_config(), tmp_path / "not")
    looked, not_looked = (
        training.restore(tmp_path / name, "dqn_prior", eval_episodes=1).state
        for name in ("looked", "not")
    )
    assert_same_bits(looked, not_looked)


@pytest.mark.long
@pytest.mark.parametrize("name", ["dqn", "prior"])
def test_agents_that_do_not_learn_from_the_prior_need_no_look(name, tmp_path, monkeypatch):
    monkeypatch.setattr(prior_alone, "look", lambda *_: pytest.fail("it looked"))
    training.run(kitchen_config(agents=(name,)), tmp_path)
    assert told_of(tmp_path).keys() == {name}


@pytest.mark.long
def test_starting_again_forgets_what_was_seen(bad, tmp_path):
    training.run(kitchen_config(agents=("dqn",)), tmp_path)
    (tmp_path / "prior_alone.json").write_text("{}")
    training.run(kitchen_config(agents=("dqn",)), tmp_path, resume=False)
    assert not (tmp_path / "prior_alone.json").exists()


def test_where_states_cannot_be_listed_the_table_of_the_run_stays_as_it_is(tmp_path, monkeypatch):
    env = UnlistedLock()
    monkeypatch.setattr(build.envs, "make", lambda name, **kwargs: (env, env.default_params))
    sources = priors.sources.registry._SOURCES
    monkeypatch.setattr(sources, "_entries", dict(sources._entries))
    source = LockSource(confidence=0.95)
    priors.register_source("lock", lambda context: source)
    settings = training.to_settings(
        kitchen_config(**{"prior.method": "lock", "prior.num_features": 8, "num_seeds": 2})
    )
    directory = tmp_path / "rows"
    known = build.make_priors(settings, env, env.default_params, directory)
    known.scored.load()
    size, files = int(known.scored.table.size), sorted(directory.iterdir())
    found = prior_alone.look(settings, env, env.default_params, known, directory)
    assert found["prior alone"]["success_rate"]["mean"] > 0.4
    assert found["uniform"]["success_rate"]["mean"] == 0
    assert found["worse_by"] is None
    assert int(known.scored.table.size) == size < len(set(source.asked))
    assert sorted(directory.iterdir()) == files


def test_a_table_of_uniform_priors_has_the_shapes_of_one_of_scored_ones(tmp_path):
    settings = training.to_settings(small_config())
    env, params = build.make_environment(settings)
    known = build.make_priors(settings, env, params, tmp_path)
    known.scored.load()
    table = known.scored.table
    first = np.asarray(table.observations)[: int(table.size)]
    (tmp_path / "empty").mkdir()
    num_features = table.features.shape[-1]
    blind = prior_alone.uniform_states(env, first, num_features, tmp_path / "empty")
    for name, leaf in table._asdict().items():
        other = getattr(blind.table, name)
        assert (other is None) == (leaf is None), name
        assert leaf is None or other.shape == leaf.shape, name
