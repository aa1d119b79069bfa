"""The report: what it says of runs whose numbers are known, and what it keeps of earlier calls."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from test_launch import launch

from launch.paper import experiments, plan, report
from llmprior_jax import training

CALL = {
    "written": "2026-01-02",
    "command": "python -m launch.reproduce",
    "minutes": 3,
    "commits": ["c0ffee"],
    "devices": ["cpu: cpu"],
    "python": "3.11.7",
    "versions": {"jax": "0.7.1"},
    "sizes": "small",
}


def run(label: str, amount: int | None = None) -> experiments.Run:
    config = training.default_config()
    config.agents, config.num_seeds, config.eval_modes = ("dqn",), 4, ("sample", "greedy")
    return experiments.Run(label, f"{label}-{amount}", config, amount)


@pytest.fixture
def planned():
    claim = experiments.Claim("new", "old", at_most=0.5)
    runs = (run("old", 100), run("old", 400), run("new", 100), run("new", 400))
    experiment = experiments.Experiment(
        "A title", "A question?", runs, scarce="transitions", claims=(claim,)
    )
    return {"an-experiment": experiment}


def records(success: float) -> report.Records:
    def record(step: int, sample: float, greedy: float) -> dict:
        return {
            "step": step,
            "success_rate": [sample] * 4,
            "return": [2 * sample] * 4,
            "greedy_success_rate": [greedy] * 4,
            "greedy_return": [2 * greedy] * 4,
        }

    return [record(0, 0.0, 0.0), record(9, success, success / 2)]


@pytest.fixture
def known():
    return report.Evidence({}, []).add(
        {"old-100": records(0.2), "old-400": records(0.6), "new-100": records(0.6)}, CALL
    )


def test_the_report_has_the_numbers_of_the_runs_and_the_verdict(planned, known, tmp_path):
    assert report.write(tmp_path, planned, known) == 1
    page = (tmp_path / "report.md").read_text()
    assert "3 of 4 runs are finished" in page
    both = "0.60 [0.60, 0.60] | 0.30 [0.30, 0.30] | 0 of 4"
    assert "**Not finished yet:** new." in page
    assert f"| old | 400 | 4 | {both} | 1.20 [1.20, 1.20] |" in page
    assert "**Claim: new needs at most 0.5 times the transitions of old.**" in page
    # The old one ends at 0.6, for which it needs 400 transitions and the new one 100.
    row = "where old ends | 400 | 100 | 0.25 [0.25, 0.25] | borne out |"
    assert f"| sample | 0.60, {row}" in page
    assert f"| greedy | 0.30, {row}" in page
    assert "| sample | 0.90 | never | never | no bound [0.00, ∞] | not decided |" in page
    assert (tmp_path / "an-experiment.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_is_read_as_it_was_written(planned, known, tmp_path):
    known = known.add({"old-100": records(1 / 3)}, CALL)  # a number without end
    report.write(tmp_path, planned, known)
    assert report.read(tmp_path) == known


def test_a_run_that_has_nothing_beside_it_is_not_told(planned, known, tmp_path):
    lone = known.add({"alone": records(1.0)}, {**CALL, "minutes": 5})
    report.write(tmp_path, planned, lone)
    assert report.read(tmp_path) == known
    assert "3 of 4 runs are finished" in (tmp_path / "report.md").read_text()


def test_where_there_is_no_report_nothing_is_known(tmp_path):
    assert report.read(tmp_path) == report.Evidence({}, [])


def test_a_run_is_from_the_last_call_that_trained_it(known):
    later = known.add({"old-400": records(0.9)}, {**CALL, "minutes": 5})
    assert later.records["old-400"] == records(0.9)
    assert [call["runs"] for call in later.calls] == [["old-100", "new-100"], ["old-400"]]


def test_a_call_that_no_run_is_from_any_more_is_not_told(known):
    later = known.add(dict(known.records), {**CALL, "minutes": 5})
    assert [call["minutes"] for call in later.calls] == [5]


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("results.jsonl", b'{"name": "old-100"}', "there is no field evaluations"),
        ("results.jsonl", b'{"name": "old-1', "Unterminated string"),
        ("results.jsonl", b"[]", "no JSON object"),
        ("results.jsonl", b"\xff", "can't decode"),
        (
            "results.jsonl",
            b'{"name": "a", "evaluations": [{"step": 1, "success_rate": [1], "return": [1, 2]}]}',
            "its evaluations are not all of the same seeds",
        ),
        (
            "results.jsonl",
            b'{"name": "a", "evaluations": [{"success_rate": [1]}]}',
            "an evaluation has no step",
        ),
        ("calls.jsonl", b"{}", "there is no field written"),
    ],
)
def test_a_damaged_line_is_named(planned, known, tmp_path, file, line, why):
    report.write(tmp_path, planned, known)
    lines = (tmp_path / file).read_bytes().splitlines()
    number = len(lines) // 2
    lines[number] = line
    (tmp_path / file).write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=rf"{file}, line {number + 1} is damaged: .*{why}"):
        report.read(tmp_path)


def test_a_call_is_described_by_the_runs_that_it_finished(tmp_path):
    for name, commit in (("a", "c0ffee"), ("b", "beef"), ("c", "c0ffee")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.jsonl").write_text(json.dumps({"commit": commit}) + "\n")
    lines = [json.dumps({"name": name, "seconds": 60.0}) + "\n" for name in "aabc"]
    (tmp_path / "seconds.jsonl").write_text("".join(lines))
    call = report.describe_call(experiments.QUICK, tmp_path, ["a", "c"])
    assert call["minutes"] == 3
    assert call["commits"] == ["c0ffee"]
    assert call.keys() == CALL.keys()


@pytest.mark.long
def test_a_report_of_other_runs_is_not_overwritten(planned, known, tmp_path):
    report.write(tmp_path / "report", planned, known)
    before = (tmp_path / "report" / "report.md").read_text()
    result = launch(
        "launch.reproduce",
        f"--workdir={tmp_path / 'runs'}",
        f"--out={tmp_path / 'report'}",
        "--notrain",
    )
    assert result.returncode != 0
    assert "tells of 3 runs that are none of these" in result.stderr
    assert (tmp_path / "report" / "report.md").read_text() == before


# The command, with experiments that take a moment.
_SMALL = """
from launch import reproduce
from launch.common import app
from launch.paper import experiments, plan
from llmprior_jax import training

def lake(seed):
    config = training.default_config()
    config.env, config.agents, config.seed = "FrozenLake-4x4", ("random",), seed
    config.num_seeds, config.eval_episodes, config.prior.store = 2, 4, ""
    return experiments.Run(f"seed {seed}", f"random-{seed}", config)

made = {
    "one": experiments.Experiment("One", "?", (lake(0), lake(1))),
    "two": experiments.Experiment("Two", "?", (lake(1), lake(2))),
    "three": experiments.Experiment("Three", "?", (lake(1), lake(3)), needs=("games",)),
}
plan.make = lambda scale, inputs: made
app.run(reproduce.main, reproduce.FLAGS)
"""


def reproduce(tmp_path: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    script = tmp_path / "small.py"
    script.write_text(_SMALL)
    root = pathlib.Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, str(script), f"--out={tmp_path / 'report'}", *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_calls_for_some_experiments_make_one_report(tmp_path):
    report = tmp_path / "report" / "report.md"
    first = reproduce(tmp_path, f"--workdir={tmp_path / 'runs'}", "--only=one")
    assert first.returncode == 0, first.stderr
    assert "2 of 4 runs are finished" in report.read_text()
    lines = (tmp_path / "report" / "results.jsonl").read_text().splitlines()
    second = reproduce(tmp_path, f"--workdir={tmp_path / 'elsewhere'}", "--only=two")
    assert second.returncode == 0, second.stderr
    told = report.read_text()
    assert "3 of 4 runs are finished" in told
    assert "## One" in told
    assert "## Two" in told
    later = (tmp_path / "report" / "results.jsonl").read_text().splitlines()
    assert later[:1] == lines[:1]
    for before, after in zip(map(json.loads, lines), map(json.loads, later), strict=False):
        assert before["evaluations"] == after["evaluations"]


def test_an_input_that_another_command_made_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pick.complete").write_text("launch.make_games --tasks=pick --train=3\n")
    result = reproduce(tmp_path, f"--workdir={tmp_path / 'runs'}", "--only=three")
    assert result.returncode != 0
    assert "was made by `launch.make_games --tasks=pick --train=3`" in result.stderr


ROOT = pathlib.Path(__file__).parent.parent


def every_experiment(scale: experiments.Scale) -> dict[str, experiments.Experiment]:
    """As where all packages are installed."""
    made = {
        name: pathlib.Path(f"/made/{name}") for name in ("games", "pick", "pick_large", "encoder")
    }
    return plan.make(scale, experiments.find_inputs(pathlib.Path("runs"))._replace(**made))


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr("launch.paper.claims._RESAMPLES", 20)
    monkeypatch.setattr("llmprior_jax.training.summary._RESAMPLES", 20)


@pytest.mark.parametrize("scale", [experiments.FULL, experiments.QUICK], ids=["full", "quick"])
def test_the_report_of_every_planned_experiment_is_written(
    scale, tmp_path, few_resamples, monkeypatch
):
    found = {"dqn": {"agent.alpha": 0.123}}
    monkeypatch.setattr(report, "chosen", lambda agent: found.get(agent, {}))
    planned = every_experiment(scale)

    def faked(run: experiments.Run) -> report.Records:
        modes = run.config.eval_modes
        assert modes[0] == "sample"
        metrics = [prefix + name for prefix in ("", *(f"{mode}_" for mode in modes[1:]))
                   for name in ("success_rate", "return", "unseen_success_rate")]  # fmt: skip
        return [
            {"step": step, **{name: [step / 8] * run.config.num_seeds for name in metrics}}
            for step in (0, 4)
        ]

    runs = experiments.distinct_runs(planned)
    known = report.Evidence({}, []).add({name: faked(run) for name, run in runs.items()}, CALL)
    assert report.write(tmp_path, planned, known) == len(planned)
    assert report.read(tmp_path) == known
    sections = (tmp_path / "report.md").read_text().split("\n## ")
    head, *of_experiments = sections
    for section, experiment in zip(of_experiments, planned.values(), strict=True):
        table = next(line for line in section.splitlines() if line.startswith("| run |"))
        shown = {mode for run in experiment.runs for mode in run.config.eval_modes[1:]}
        assert {name for name in ("greedy", "candidates") if f"| {name} |" in table} == shown
    assert "- The paper's own settings: Overcooked-TomatoLettuceSalad: DQN-Prior, DQN\n" in head
    assert "Chosen, where not the default:\n\n- dqn: agent.alpha 0.123\n" in head


def test_a_baseline_that_ends_at_0_decides_nothing(planned, tmp_path):
    lost = [records(0.5)[1] | {"step": 0}, records(0.0)[1]]
    found = {"old-100": lost, "old-400": records(0.0), "new-100": records(1.0)}
    report.write(tmp_path, planned, report.Evidence({}, []).add(found, CALL))
    page = (tmp_path / "report.md").read_text()
    assert "| sample | where old ends: 0 |  |  |  | not decided |" in page
    # A success fixed before is reached all the same, by the method with the least it was given.
    assert "| sample | 0.90 | never | 100 | at most 0.25 [0.00, 0.25] | borne out |" in page


@pytest.mark.long
def test_the_recorded_report_is_of_runs_that_are_planned_and_is_told_again(tmp_path, few_resamples):
    out = ROOT / "launch" / "results" / "report"
    inputs = experiments.find_inputs(tmp_path)
    planned = plan.make(experiments.FULL, inputs)
    if plan.left_out(inputs) or inputs.encoder is None:
        pytest.skip("the report has experiments that need what is not installed here")
    known = report.read(out)
    assert known.records.keys() <= experiments.distinct_runs(planned).keys()
    report.write(tmp_path / "report", planned, known)
    for file in ("results.jsonl", "calls.jsonl"):
        assert (tmp_path / "report" / file).read_bytes() == (out / file).read_bytes(), file
