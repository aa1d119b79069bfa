"""The search for settings: its grids, its rule, and what a report takes from it."""

import json
import pathlib

import numpy as np
import pytest

from launch.common import run_pool
from launch.paper import experiments
from launch.paper import plan as paper
from launch.search_settings import __main__ as command
from launch.search_settings import plan, report
from launch.search_settings.chosen import PAIRS, chosen
from llmprior_jax import training
from llmprior_jax.training import validation
from llmprior_jax.training.config import flat

SEARCHES = plan.searches(plan.FULL, "data.parquet")
DQN, CQL = SEARCHES["dqn"], SEARCHES["cql"]


def curve(*success: float) -> dict:
    """A curve of four seeds that agree, with an evaluation each 1,000 steps."""
    return {
        "steps": [1_000 * number for number in range(len(success))],
        "success_rate": [[value] * 4 for value in success],
    }


FAST, SLOW = curve(0.0, 0.9, 0.9, 0.9), curve(0.0, 0.5, 1.0, 1.0)
NEVER, WORSE = curve(0.0, 0.1, 0.5, 0.8), curve(0.0, 0.1, 0.5, 0.7)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_baseline_has_the_same_search_as_its_method(pair):
    baseline, method = (SEARCHES[agent] for agent in pair)
    assert baseline._replace(agent=method.agent) == method


@pytest.mark.parametrize("agent", SEARCHES)
def test_every_setting_is_valid_and_has_a_run_of_its_own(agent):
    search = SEARCHES[agent]
    tried = plan.one_at_a_time(search)
    for fields in tried:
        config = plan.config(search, fields, "priors.sqlite")
        validation.validate(training.to_settings(config))
        values = flat(training.to_settings(config))
        assert {name: values[name] for name in fields} == fields
    assert len({plan.name(search, fields) for fields in tried}) == len(tried)
    assert len(tried) == 1 + sum(len(values) - 1 for values in search.factors.values())


def test_the_seeds_are_none_of_the_report():
    made = paper.make(experiments.FULL, experiments.find_inputs(pathlib.Path("runs")))
    of_report = {run.config.seed for experiment in made.values() for run in experiment.runs}
    assert {search.fields["seed"] for search in SEARCHES.values()}.isdisjoint(of_report)


def test_online_fewer_steps_are_better_and_then_success_at_the_end():
    scores = [plan.score(DQN, each) for each in (WORSE, SLOW, NEVER, FAST)]
    assert np.argsort([scores.index(score) for score in sorted(scores)]).tolist() == [3, 1, 2, 0]


def test_from_a_dataset_success_at_the_end_alone_counts():
    assert plan.score(CQL, SLOW) < plan.score(CQL, FAST)


def test_the_best_value_of_each_factor_is_combined():
    best = {"agent.alpha": 0.1, "loop.updates_per_step": 4}
    scores = {
        plan.name(DQN, fields): plan.score(
            DQN, FAST if fields and fields.items() <= best.items() else SLOW
        )
        for fields in plan.one_at_a_time(DQN)
    }
    assert plan.combined(DQN, scores) == best


def test_the_report_chooses_the_best_and_has_all_that_was_tried(tmp_path):
    best = {"agent.alpha": 0.1}
    settings = (({}, SLOW), (best, FAST), ({"agent.alpha": 0.01}, NEVER))
    tried = {plan.name(DQN, fields): (fields, of_it) for fields, of_it in settings}
    report.write({"dqn": DQN}, {"dqn": tried}, "a command", tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "| agent.alpha 0.1 | 1,000 | 0.900 | [0.90, 0.90] | chosen |" in page
    assert "| default | 1,741 | 1.000 | [1.00, 1.00] |  |" in page
    assert "| agent.alpha 0.01 | never | 0.650 |" in page
    with pytest.raises(ValueError, match="has settings for dqn, and none for the other"):
        chosen("dqn", tmp_path / "results.json")
    method = SEARCHES["dqn_prior"]
    default = {plan.name(method, {}): ({}, SLOW)}
    report.write({"dqn_prior": method}, {"dqn_prior": default}, "another", tmp_path)
    assert chosen("dqn", tmp_path / "results.json") == best
    assert chosen("dqn_prior", tmp_path / "results.json") == {}
    assert chosen("bc", tmp_path / "results.json") == {}
    both = (tmp_path / "report.md").read_text()
    assert "Made by `a command`" in both
    assert "Made by `another`" in both
    kept = json.loads((tmp_path / "results.json").read_text())["searches"]["dqn"]["tried"]
    assert [entry["success_rate"] for entry in kept] == [
        of_it["success_rate"] for _, of_it in settings
    ]


@pytest.mark.long
def test_the_command_trains_what_is_planned_once_and_goes_on(tmp_path, monkeypatch):
    lake = {
        "env": "FrozenLake-4x4",
        "num_seeds": 2,
        "eval_episodes": 4,
        "num_steps": 8,
        "eval_every": 8,
    }
    search = plan.Search(
        "random", lake, {"agent.alpha": (0.03, 0.1), "agent.discount": (0.9, 0.95)}
    )
    monkeypatch.setattr(plan, "searches", lambda scale, dataset: {"random": search})
    monkeypatch.setattr(command, "_AGENTS", ["random"])
    trained = []

    def train(workdir, configs, jobs):
        trained.append([name for name in configs if not run_pool.is_finished(workdir, name)])
        run_pool.train_here(workdir, configs)
        return []

    monkeypatch.setattr(run_pool, "train_in_processes", train)
    # All are as good, so that the default is best, and the combination of the best, too.
    monkeypatch.setattr(plan, "score", lambda search, curve: plan.Score(0.0, 0.5))
    flags = [f"--workdir={tmp_path}/runs", f"--out={tmp_path}/report", "--agents=random"]
    command.FLAGS(["search", *flags])
    command.main([])
    first = ["random,default", "random,agent.alpha=0.1", "random,agent.discount=0.9"]
    assert trained == [first, []]
    assert (tmp_path / "report" / "report.md").exists()
    command.main([])
    assert trained[2:] == [[], []]
    names = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert names == sorted(first)


def test_quick_results_are_kept_apart_and_choose_nothing(tmp_path):
    tried = {plan.name(DQN, {}): ({}, SLOW)}
    report.write({"dqn": DQN}, {"dqn": tried}, "a command", tmp_path, is_quick=True)
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(ValueError, match="has results made with --quick; use another --out"):
        report.write({"cql": CQL}, {"cql": tried}, "a command", tmp_path)
    assert (tmp_path / "results.json").read_text() == before
    with pytest.raises(ValueError, match="the search for dqn was made with --quick"):
        chosen("dqn", tmp_path / "results.json")


@pytest.mark.parametrize(
    "content", ["{}", '{"searches": []}', '{"level": 0.9, "searches": {"dqn": {}}}', "[]", "{"]
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results\.json: .*the file is damaged"):
        chosen("dqn", path)


def test_the_search_needs_nothing_of_the_report_that_uses_it():
    for path in pathlib.Path(plan.__file__).parent.glob("*.py"):
        assert "launch.paper" not in path.read_text().split('"""', 2)[2], path


def test_without_a_search_settings_are_the_default(tmp_path):
    assert chosen("dqn", tmp_path / "results.json") == {}


def test_the_experiments_in_kitchens_have_the_chosen_settings(monkeypatch):
    found = {"dqn": {"agent.alpha": 0.123}, "cql": {"agent.beta": 0.456}}
    monkeypatch.setattr(experiments, "chosen", lambda agent: found.get(agent, {}))
    made = paper.make(experiments.FULL, experiments.find_inputs(pathlib.Path("runs")))
    for name, agent, field in (
        ("online-salad", "dqn", "alpha"),
        ("online-tomato-salad", "dqn", "alpha"),
        ("ablation-bad-prior", "dqn", "alpha"),
        ("offline-salad", "cql", "beta"),
    ):
        for run in made[name].runs:
            is_chosen = run.config.agent[field] in (0.123, 0.456)
            assert is_chosen == (run.config.agents == (agent,)), name
