"""Whole runs with the embedded model: what they leave, and that no kill changes their end."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import LENGTH, Lock, prior_of

from llmprior_jax import files, learning, models, training
from llmprior_jax.priors import TextScores
from llmprior_jax.priors.sources import cached
from llmprior_jax.training import build, summary
from llmprior_jax.training.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
# A run of some seconds: ten segments, a checkpoint after each.
SMALL = {
    "env": "FrozenLake-4x4",
    "agents": ("prior", "dqn_prior"),
    "num_seeds": 2,
    "num_steps": 1600,
    "eval_every": 160,
    "eval_episodes": 16,
    "checkpoint.every": 1,
}


def small_config(**changes) -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """The work directory of a small run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("run") / "finished"
    training.run(small_config(), workdir)
    return workdir


def final_state(workdir: pathlib.Path):
    return training.restore(workdir, "dqn_prior", eval_episodes=16).state


def assert_same_bits(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """Starts a command of ours."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_leaves_its_results(finished):
    told = json.loads((finished / "summary.json").read_text())
    before = told.pop("before_training")
    assert set(before) == {"prior alone", "uniform", "worse_by", "model", "asked"}
    assert set(told) == {"prior", "dqn_prior"}
    for row in told.values():
        assert row["mode"] == "sample"
        assert {"iqm", "ci95", "per_seed"} <= row["success_rate"].keys()
        assert {"iqm", "ci95", "per_seed"} <= row["return"].keys()
        assert {"median", "quartiles", "per_seed", "reached"} <= row["steps_to_90"].keys()
    assert (finished / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "dqn_prior" / "tensorboard").glob("events.*"))
    steps = [record["step"] for record in read_metrics(finished / "dqn_prior")]
    assert steps == list(range(0, 1601, 160))


MODES = ("sample", "greedy", "candidates")


@pytest.fixture(scope="module")
def in_all_modes(tmp_path_factory) -> pathlib.Path:
    """The work directory of the beginning of `finished`, evaluated in every mode."""
    workdir = tmp_path_factory.mktemp("modes")
    config = small_config(agents=("dqn_prior",), num_steps=320, eval_modes=MODES)
    training.run(config, workdir)
    return workdir


@pytest.mark.long
def test_further_modes_of_evaluation_change_nothing_of_the_first(finished, in_all_modes):
    records, alone = (read_metrics(each / "dqn_prior") for each in (in_all_modes, finished))
    assert len(records) == 3
    for record, of_alone in zip(records, alone, strict=False):
        assert {name: record[name] for name in of_alone} == of_alone
        others = record.keys() - of_alone.keys()
        assert others == {
            f"{mode}_{name}"
            for mode in MODES[1:]
            for name in ("success_rate", "return", "episode_length")
        }


@pytest.mark.long
def test_each_mode_is_evaluated_as_it_would_be_alone(in_all_modes):
    last = read_metrics(in_all_modes / "dqn_prior")[-1]
    for mode in MODES[1:]:
        run = training.restore(in_all_modes, "dqn_prior", eval_episodes=16, eval_mode=mode)
        np.testing.assert_array_equal(run.evaluate()["return"], np.float32(last[f"{mode}_return"]))


def test_a_summary_has_every_mode_of_evaluation(in_all_modes):
    told = json.loads((in_all_modes / "summary.json").read_text())
    row = told["dqn_prior"]
    last = read_metrics(in_all_modes / "dqn_prior")[-1]
    assert row["mode"] == "sample"
    assert row["return"]["per_seed"] == last["return"]
    for mode in MODES[1:]:
        assert row["other_modes"][mode]["return"]["per_seed"] == last[f"{mode}_return"]
        assert row["other_modes"][mode]["mode"] == mode
    (names, *_) = summary.table(told, 2).columns
    assert list(names.cells)[:3] == [f"dqn_prior, {mode}" for mode in MODES]


def test_a_finished_run_started_again_changes_nothing(finished):
    before = final_state(finished)
    metrics = (finished / "dqn_prior" / "metrics.jsonl").read_text()
    training.run(small_config(), finished)
    assert (finished / "dqn_prior" / "metrics.jsonl").read_text() == metrics
    assert_same_bits(final_state(finished), before)


_read_only: set[str] = set()


def refuse_to_write(event: str, arguments: tuple) -> None:
    """Has directories be read-only, to root as well."""
    writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
    if event == "open":
        writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes and any(str(arguments[0]).startswith(path) for path in _read_only):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


@pytest.fixture
def read_only(finished):
    """The work directory of `finished`, in which nothing can be written."""
    if not getattr(refuse_to_write, "is_added", False):
        sys.addaudithook(refuse_to_write)  # For good, so it is added once.
        refuse_to_write.is_added = True
    _read_only.add(str(finished))
    yield finished
    _read_only.clear()


def test_a_finished_run_is_shown_from_a_read_only_directory(read_only):
    summary = json.loads((read_only / "summary.json").read_text())
    assert training.run(small_config(), read_only)["dqn_prior"] == summary["dqn_prior"]
    run = training.restore(read_only, "dqn_prior", eval_episodes=4)
    assert run.steps == 1600
    assert len(run.evaluate()["success_rate"]) == 2
    with pytest.raises(OSError, match=r"Read-only file system: '.*/finished/"):
        training.run(small_config(), read_only, resume=False)


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    finished, tmp_path, is_longest
):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "launch.train", "--config=launch/configs/quickstart.py"]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in SMALL.items()]
    output = ""
    # The moments: while the prior is written, in the first segments, in the middle of a save; and
    # any moment after those.
    saving = "dqn_prior/checkpoints/*orbax-checkpoint-tmp"
    rng = np.random.default_rng(0)
    for number in range(20 if is_longest else 4):
        moment = ("prior_table/rows-*", 1, 4, saving)[number % 4]
        process = start(command)
        while process.poll() is None and not reached(workdir, moment):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2) if number % 2 else 0)
        process.send_signal(signal.SIGKILL)
        output += process.communicate()[0]
    last = start(command)
    output += last.communicate()[0]
    assert last.returncode == 0, output
    assert "resumes after" in output
    assert_same_bits(final_state(workdir), final_state(finished))
    assert read_metrics(workdir / "dqn_prior") == read_metrics(finished / "dqn_prior")


@pytest.mark.long
def test_a_run_ends_with_the_same_bits_with_and_without_a_store(finished, tmp_path):
    queries = {}
    # The store that `finished` has filled, and none.
    for name, changes in (("with", {}), ("without", {"prior.store": ""})):
        training.run(small_config(**changes), tmp_path / name)
        assert_same_bits(final_state(tmp_path / name), final_state(finished))
        queries[name] = json.loads((tmp_path / name / "prior_queries.jsonl").read_text())
    assert (queries["with"]["made"], queries["with"]["saved"]) == (0, 13)
    assert (queries["without"]["made"], queries["without"]["saved"]) == (13, 0)


def reached(workdir: pathlib.Path, moment: str | int) -> bool:
    """Whether a pattern of files exists, or as many metrics records as the number says."""
    if isinstance(moment, str):
        return any(workdir.glob(moment))
    return len(read_metrics(workdir / "dqn_prior")) > moment


def trained(workdir: pathlib.Path, segments: int) -> bool:
    """Whether so many segments are over."""
    return (workdir / "dqn_prior").exists() and reached(workdir, segments)


def test_a_run_asked_to_stop_goes_on_later_to_the_same_bits(finished, tmp_path):
    with pytest.raises(
        training.InterruptedRunError, match="stopped after 320 of 1,600 environment steps"
    ):
        training.run(small_config(), tmp_path, should_stop=lambda: trained(tmp_path, 2))
    assert [record["segment"] for record in read_metrics(tmp_path / "dqn_prior")] == [0, 1, 2]
    training.run(small_config(), tmp_path)
    assert_same_bits(final_state(tmp_path), final_state(finished))


def test_a_work_directory_says_where_it_comes_from(finished):
    started = json.loads((finished / "provenance.jsonl").read_text().splitlines()[0])
    assert started["versions"]["jax"] == jax.__version__
    assert started["devices"] == ["cpu: cpu"] * jax.device_count()
    assert "python" in started["command"]


@pytest.mark.long
@pytest.mark.parametrize(("num_steps", "steps"), [(80, [0, 80]), (240, [0, 160, 240])])
def test_a_run_stops_where_it_says(num_steps, steps, tmp_path):
    training.run(small_config(agents=("dqn_prior",), num_steps=num_steps), tmp_path)
    assert [record["step"] for record in read_metrics(tmp_path / "dqn_prior")] == steps


def test_a_run_that_diverges_stops_and_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    online, trained = learning.online.OnlineRun.train, []

    def train(run):
        metrics = online(run)
        trained.append(run.steps)
        if run.steps == 480:  # In one of two seeds.
            params = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), run.state.agent.params)
            run.state = run.state._replace(agent=run.state.agent._replace(params=params))
        return metrics

    monkeypatch.setattr(learning.online.OnlineRun, "train", train)
    since = r"dqn_prior has diverged: .* after step 320 and before step 481 .*, in seeds 1; lower"
    with pytest.raises(training.DivergedError, match=since):
        training.run(small_config(agents=("dqn_prior",)), tmp_path)
    assert trained == [160, 320, 480]
    assert training.restore(tmp_path, "dqn_prior", eval_episodes=1).steps == 320
    assert [record["segment"] for record in read_metrics(tmp_path / "dqn_prior")] == [0, 1, 2]


@pytest.mark.long
def test_a_loss_is_nan_before_an_agent_learns_and_no_reason_to_stop(tmp_path):
    late = {"agents": ("dqn_prior",), "num_steps": 320, "loop.warmup_steps": 30}
    training.run(small_config(**late), tmp_path)
    first, second = read_metrics(tmp_path / "dqn_prior")[1:]
    assert first["loss"] == [None, None]
    assert np.isfinite(second["loss"]).all()


@pytest.mark.long
def test_a_damaged_checkpoint_is_trained_again_from_the_one_before(finished, tmp_path, caplog):
    workdir = tmp_path / "damaged"
    training.run(small_config(), workdir)
    newest = max(
        (path for path in (workdir / "dqn_prior" / "checkpoints").iterdir() if path.is_dir()),
        key=lambda path: int(path.name),
    )
    for path in (newest / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with caplog.at_level("WARNING"):
        training.run(small_config(), workdir)
    assert f"checkpoint {newest.name}" in caplog.text
    assert_same_bits(final_state(workdir), final_state(finished))


def test_a_checkpoint_of_a_version_that_kept_less_is_refused(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    of_now = learning.Run.meta
    monkeypatch.setattr(learning.Run, "meta", lambda run: of_now(run) | {"new": 1})
    for again in (
        lambda: training.run(small_config(), tmp_path / "run"),
        lambda: training.restore(tmp_path / "run", "dqn_prior", eval_episodes=1),
    ):
        with pytest.raises(training.RestoreError, match=r"another version .* did not keep new; "):
            again()


def test_another_configuration_in_the_same_directory_is_refused(finished):
    before = sorted(path.name for path in finished.iterdir())
    with pytest.raises(training.ConfigMismatchError, match=r"agent\.alpha: 0\.03"):
        training.run(small_config(**{"agent.alpha": 0.3}), finished)
    assert sorted(path.name for path in finished.iterdir()) == before


def test_starting_again_removes_the_run_and_no_other_file(tmp_path):
    config = small_config(agents=("prior",))
    training.run(config, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    training.run(small_config(agents=("random",)), tmp_path, resume=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "prior").exists()
    assert set(json.loads((tmp_path / "summary.json").read_text())) == {"random"}


def with_agents(workdir: pathlib.Path, *agents: object) -> pathlib.Path:
    """A work directory whose configuration names agents, and beside it something to lose."""
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"agents": agents}))
    (workdir.parent / "victim").mkdir()
    (workdir.parent / "victim" / "metrics.jsonl").write_text("mine")
    return workdir


def clear(workdir: pathlib.Path) -> None:
    training.run(small_config(agents=("random",), num_steps=160), workdir, resume=False)


@pytest.mark.parametrize("name", ["../victim", "{}/victim", ".", "", "a/b", "a\\b", "\0", 1, None])
def test_an_agent_named_out_of_the_directory_is_refused_and_nothing_removed(name, tmp_path):
    name = name.format(tmp_path) if isinstance(name, str) else name
    workdir = with_agents(tmp_path / "run", name)
    with pytest.raises(ValueError, match=r"config\.json is damaged: agents has .*no directory"):
        clear(workdir)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("config.json", "metrics.jsonl", "run", "victim")
    ]


def test_of_a_directory_named_as_an_agent_what_no_run_made_stays(tmp_path):
    workdir = with_agents(tmp_path / "run", "data", "notes.txt")
    (workdir / "data" / "tensorboard").mkdir(parents=True)
    (workdir / "data" / "mine.txt").write_text("mine")
    (workdir / "notes.txt").write_text("mine")
    clear(workdir)
    assert [path.name for path in (workdir / "data").iterdir()] == ["mine.txt"]
    assert (workdir / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("link", ["dqn", "prior_table", "dqn/metrics.jsonl"])
def test_a_link_is_named_and_neither_followed_nor_removed(link, tmp_path):
    workdir = with_agents(tmp_path / "run", "dqn")
    (workdir / link).parent.mkdir(exist_ok=True)
    (workdir / link).symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match=f"{link} is a symbolic link"):
        clear(workdir)
    assert (workdir / link).is_symlink()
    assert (tmp_path / "victim" / "metrics.jsonl").read_text() == "mine"


def test_an_agent_that_the_run_does_not_have_is_refused(finished):
    with pytest.raises(ValueError, match=r"no agent 'dqn'; it has prior, dqn_prior"):
        training.restore(finished, "dqn", eval_episodes=1)


def test_an_evaluation_makes_no_store_where_the_run_s_is_gone(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = files.read_json(tmp_path / "run" / "config.json")
    config["prior"]["store"] = str(tmp_path / "gone" / "priors.sqlite")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    training.restore(tmp_path / "run", "prior", eval_episodes=1).evaluate()
    assert not (tmp_path / "gone").exists()


def test_an_episode_is_played_with_what_the_agent_saw(finished):
    run = training.restore(finished, "dqn_prior", eval_episodes=1)
    decisions = list(run.play(0, jax.random.key(0)))
    assert 1 <= len(decisions) <= 100
    for decision in decisions:
        assert decision.prior.sum() == pytest.approx(1, abs=1e-5)
        assert decision.posterior.sum() == pytest.approx(1, abs=1e-5)
        weights = decision.prior * np.exp(decision.q_values / 0.03)
        np.testing.assert_allclose(decision.posterior, weights / weights.sum(), atol=1e-4)
    assert not any(decision.success or decision.truncated for decision in decisions[:-1])


@pytest.mark.long
def test_of_a_mixed_prior_an_episode_shows_the_mixture(tmp_path):
    mixed = {"agents": ("dqn_prior",), "num_steps": 160, "prior.uniform_share": 0.5}
    training.run(small_config(**mixed), tmp_path)
    run = training.restore(tmp_path, "dqn_prior", eval_episodes=1)
    for decision in run.play(0, jax.random.key(0)):
        assert decision.prior.min() >= 0.5 / len(decision.prior)
        weights = decision.prior * np.exp(decision.q_values / 0.03)
        np.testing.assert_allclose(decision.posterior, weights / weights.sum(), atol=1e-4)


class UnlistedLock(Lock):
    """The lock, as an environment whose states cannot be listed."""

    def list_observations(self):
        return None


@pytest.mark.long
def test_states_that_cannot_be_listed_are_scored_as_they_are_met(tmp_path, monkeypatch):
    env = UnlistedLock()
    asked = []

    def score_in_passes(lm, prompts, actions, **how):
        asked.extend(prompts)
        prior = prior_of(np.array([int(text.split("wheel ")[1][0]) for text in prompts]), 0.67)
        num_tokens = np.ones(prior.log_probs.shape, np.int32)
        scores = TextScores(np.asarray(prior.log_probs), num_tokens, np.asarray(prior.features))
        yield np.arange(len(prompts)), scores

    class Model:
        config = None
        tokenizer = models.load_tokenizer("tiny")
        fingerprint = "a lock's"

    monkeypatch.setattr(build.envs, "make", lambda name, **kwargs: (env, env.default_params))
    monkeypatch.setattr(cached, "score_in_passes", score_in_passes)
    monkeypatch.setattr(cached.models, "load", lambda name, **how: Model)
    config = small_config(agents=("dqn_prior",), num_steps=8000, eval_every=800)
    config.update_from_flattened_dict(
        {
            "prior.num_features": 32,
            "prior.store": str(tmp_path / "priors.sqlite"),
            "agent.learning_rate": 3e-3,
        }
    )
    summary = training.run(config, tmp_path / "run")
    assert summary["dqn_prior"]["success_rate"]["iqm"] > 0.9
    assert len(asked) == len(set(asked)) == LENGTH, "a text was scored twice, or never"


def test_evaluate_prints_intervals_and_an_episode(finished):
    result = subprocess.run(
        [sys.executable, "-m", "launch.evaluate", f"--workdir={finished}", "--show_episode"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "success_rate:" in result.stdout
    assert "prior: tiny, asked: plain, by sum\n" in result.stdout
    assert "posterior" in result.stdout
    assert "go left" in result.stdout
    assert "return" in result.stdout.splitlines()[-1]


def test_a_greedy_evaluation_takes_the_likeliest_actions(finished):
    run = training.restore(finished, "prior", eval_episodes=4, eval_mode="greedy")
    for decision in run.play(0, jax.random.key(0)):
        assert decision.action == decision.posterior.argmax()


def test_an_evaluation_in_no_known_mode_is_refused(finished):
    message = "eval_modes has 'best'; use one of sample, greedy, candidates"
    with pytest.raises(ValueError, match=message):
        training.restore(finished, "prior", eval_episodes=4, eval_mode="best")
