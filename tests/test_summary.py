"""Statistics, metrics files and work directories, against numbers worked by hand."""

import json

import numpy as np
import pytest

from llmprior_jax import training
from llmprior_jax.files import write_atomically
from llmprior_jax.training import summary
from llmprior_jax.training.config import claim_workdir
from llmprior_jax.training.metrics import MetricsWriter, read_metrics


def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side():
    assert summary.interquartile_mean(np.array([0, 1, 2, 3, 4, 5, 6, 1000.0])) == 3.5


def test_the_interval_of_equal_seeds_is_a_point():
    assert summary.interval(np.full(8, 0.25)) == (0.25, 0.25)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.0 <= high
        for low, high in (summary.interval(rng.normal(size=16)) for _ in range(200))
    ]
    assert 0.85 <= np.mean(covered) <= 0.99


def test_steps_to_a_level_is_the_first_evaluation_there():
    success = np.array([[0.1, 0.95, 0.0], [0.9, 0.2, 0.5], [1.0, 1.0, 0.89]])
    steps = summary.steps_to(0.9, [10, 20, 30], success)
    assert steps.tolist() == [20, 10, np.inf]


def test_records_without_an_evaluation_have_no_summary():
    with pytest.raises(ValueError, match="no evaluation is left"):
        summary.summarize([{"segment": 0, "step": 0}], "environment steps")


def test_a_summary_has_the_last_evaluation_and_says_never_where_it_was_never():
    records = [
        {"step": 0, "success_rate": [0.0, 0.0, 0.0, 0.0], "return": [0, 0, 0, 0]},
        {"step": 10, "success_rate": [1.0, 0.95, 0.5, 0.0], "return": [1.0, 1.0, 0.5, 0.0]},
    ]
    result = summary.summarize(records, "environment steps")
    assert result["success_rate"]["per_seed"] == [1.0, 0.95, 0.5, 0.0]
    assert result["success_rate"]["iqm"] == pytest.approx((0.95 + 0.5) / 2)
    assert result["steps_to_90"] == {
        "median": None,
        "quartiles": [10.0, None],
        "per_seed": [10.0, 10.0, None, None],
        "reached": 0.5,
    }
    json.dumps(result, allow_nan=False)


def test_unseen_games_are_told_of_where_they_were_played():
    records = [
        {"step": 0, "success_rate": [1.0], "return": [1.0], "unseen_success_rate": [0.25]},
    ]
    played = summary.summarize(records, "environment steps")
    assert played["unseen_success_rate"]["iqm"] == 0.25
    headings = [column.header for column in summary.table({"a": played}, 1).columns]
    assert "success rate, unseen" in headings
    del records[0]["unseen_success_rate"]
    not_played = summary.summarize(records, "environment steps")
    assert "unseen_success_rate" not in not_played
    headings = [column.header for column in summary.table({"a": not_played}, 1).columns]
    assert "success rate, unseen" not in headings


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1_024, "over 1,024 episodes each"),
        (16, "over 1,024 episodes of prior alone, 16 episodes of uniform"),
    ],
)
def test_what_played_before_training_is_told_with_its_episodes(number, said):
    records = [{"step": 0, "success_rate": [1.0], "return": [1.0]}]

    def played(episodes: int) -> dict:
        rate = {"mean": 0.5, "ci95": [0.25, 0.75]}
        return {"success_rate": rate, "return": rate, "episodes": episodes}

    before = {"prior alone": played(1_024), "uniform": played(number), "worse_by": None}
    table = summary.table(
        {"dqn": summary.summarize(records, "environment steps"), summary.BEFORE_TRAINING: before}, 1
    )
    assert table.caption.startswith("prior alone, uniform: before training, means ")
    assert table.caption.endswith(said)
    assert list(table.columns[0].cells) == ["dqn", "prior alone", "uniform"]


def test_metrics_are_read_back_and_nan_is_null(tmp_path):
    with MetricsWriter(tmp_path, resume_segment=-1, resume_step=-1) as metrics:
        metrics.write(1, 5, loss=float("inf"), success_rate=np.array([0.5, np.nan]))
    assert read_metrics(tmp_path) == [
        {"segment": 1, "step": 5, "loss": None, "success_rate": [0.5, None]}
    ]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_metrics_beyond_the_checkpoint_are_dropped_and_a_cut_line_is_no_harm(tmp_path):
    with MetricsWriter(tmp_path, resume_segment=-1, resume_step=-1) as metrics:
        for segment in (0, 1, 2):
            metrics.write(segment, 10 * segment, value=10 * segment)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"segment": 3, "val')
    with MetricsWriter(tmp_path, resume_segment=1, resume_step=10) as metrics:
        metrics.write(2, 20, value=21)
    assert [record["value"] for record in read_metrics(tmp_path)] == [0, 10, 21]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_work_directory_of_another_configuration_is_refused_by_field(tmp_path):
    config = training.default_config()
    claim_workdir(tmp_path, config)
    claim_workdir(tmp_path, training.default_config())
    config.agent.alpha = 0.7
    with pytest.raises(
        training.ConfigMismatchError, match=r"agent\.alpha: 0\.03 in the directory, 0\.7 now"
    ):
        claim_workdir(tmp_path, config)


def test_an_argument_of_an_agent_of_ones_own_that_came_or_went_is_noticed(tmp_path):
    plain, extra = training.default_config(), training.default_config()
    extra.agent.extra.regret = 0.5
    for name, first, second in (("came", plain, extra), ("went", extra, plain)):
        claim_workdir(tmp_path / name, first)
        with pytest.raises(training.ConfigMismatchError, match=r"agent\.extra\.regret"):
            claim_workdir(tmp_path / name, second)


def test_a_configuration_is_read_back_as_it_was(tmp_path):
    config = training.default_config()
    claim_workdir(tmp_path, config)
    assert training.read_config(tmp_path).to_json() == training.settled(config).to_json()


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        training.read_config(tmp_path)


def test_a_field_that_does_not_exist_is_refused_with_the_nearest_name():
    config = training.default_config()
    with pytest.raises(AttributeError, match="learning_rate"):
        config.agent.learning_rat = 0.1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_seeds", 0, r"config\.num_seeds is 0"),
        ("eval_every", 1001, r"config\.eval_every is 1001"),
        ("agents", ("dqn", "dqn"), "each once"),
        ("agents", ("dqm",), "did you mean 'dqn'"),
        ("env", "Overcooked-TomatoSalat", "Overcooked-TomatoSalad"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_written(
    tmp_path, field, value, message
):
    config = training.default_config()
    config[field] = value
    with pytest.raises(ValueError, match=message):
        training.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trust_of_before_an_agent_learns_is_no_number():
    record = {"step": 16, "success_rate": [0.5, 0.5], "return": [0.0, 0.0], "trust": [None, None]}
    assert "trust" not in summary.summarize([record], "environment steps")
