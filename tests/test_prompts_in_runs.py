"""Prompts in runs and commands: one's own, examples from a file, history for the model alone."""

import html
import json
import pathlib
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lm import TINY
from test_proposer import small_config

from launch import collect, evaluate, inspect_prior, watch
from llmprior_jax import datasets, envs, models, training
from llmprior_jax.models import language_model
from llmprior_jax.play import collecting, scored_states
from llmprior_jax.priors import CachedModel, prompts
from llmprior_jax.priors import table as tables
from llmprior_jax.training import build
from llmprior_jax.types import ActionPrior

OWN = """
from llmprior_jax import priors


def terse(state, tokenizer):
    assert tokenizer.vocab_size > 0
    actions = tuple(f" {action}" for action in state.actions)
    return priors.Prompt(f"{state.observation} So I", actions)
"""
# The sum of an action's tokens, their number, and what ranks it.
SCORE = r"= (-?\d+\.\d\d) / (\d+) = (-?\d+\.\d\d)"
SHOWN = {"task": "cross", "observations": ["Ice.", "Snow."], "actions": ["go right", "go up"]}


def command(module, *flags):
    """Runs a command in this process."""
    try:
        module.main(module.FLAGS([module.__name__, *flags])[:1])
    finally:
        for name in module.FLAGS:
            module.FLAGS[name].unparse()


def lake(tmp_path, **changes):
    scored = {"prior.method": "score", "num_steps": 160}
    return small_config(tmp_path, **(scored | changes))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module that lies where a user's would, on Python's path, and is imported by nobody."""
    (tmp_path / "my_prompts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget():
        sys.modules.pop("my_prompts", None)

    yield forget
    forget()


@pytest.mark.long
def test_a_prompt_of_ones_own_works_in_all_commands(own_module, tmp_path):
    (tmp_path / "shown.jsonl").write_text(json.dumps(SHOWN))
    own = {
        "prior.prompt": "my_prompts:terse+few_shot",
        "prior.examples.file": str(tmp_path / "shown.jsonl"),
        "agents": ("prior",),
    }
    run = tmp_path / "run"
    training.run(lake(tmp_path, **own), run)
    (tmp_path / "shown.jsonl").unlink()  # The run has a copy.
    on_run = (f"--workdir={run}", "--agent=prior")
    own_module()
    command(evaluate, *on_run, "--episodes=16")
    own_module()
    command(watch, *on_run)
    own_module()
    command(inspect_prior, *on_run, "--states=1", f"--out={tmp_path / 'run.html'}")
    assert " So I" in _text(tmp_path / "run.html")
    assert "Ice. So I go right" in _text(tmp_path / "run.html")
    own_module()
    behavior, out = f"--behavior={run}/prior", f"--out={tmp_path / 'played.jsonl'}"
    command(collect, "--env=FrozenLake-4x4", behavior, "--episodes=2", out)
    assert (tmp_path / "played.jsonl").exists()
    # A run resumes without the file, and not with another prompt.
    own_module()
    training.run(lake(tmp_path, **own), run)


BROKEN = """
def raises(state):
    raise KeyError("place")


def returns_a_text(state):
    return state.observation


def loses_actions(state):
    from llmprior_jax import priors
    return priors.Prompt(state.observation, state.actions[1:])
"""


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("chat", "needs a language model with a chat template"),
        ("broken_prompts:raises", "place"),
        ("broken_prompts:returns_a_text", "a builder returns a `priors.Prompt`"),
        ("broken_prompts:loses_actions", "has 3 actions for the 4 of a state"),
    ],
)
def test_a_prompt_that_no_state_can_have_removes_no_run_and_begins_none(
    prompt, message, tmp_path, monkeypatch
):
    (tmp_path / "broken_prompts.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    kept = ("summary.json", "random/metrics.jsonl", "config.json")
    for name in kept:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
    config = lake(tmp_path, agents=("random",))
    (run / "config.json").write_text(training.settled(config).to_json())
    (run / "summary.json").write_text("{}")
    (run / "random" / "metrics.jsonl").write_text("{}")
    config.prior.prompt = prompt
    for workdir, resume in ((run, False), (fresh, True)):
        with pytest.raises((ValueError, TypeError, KeyError), match=message):
            training.run(config, workdir, resume)
    assert all((run / name).exists() for name in kept)
    assert not fresh.exists()
    sys.modules.pop("broken_prompts", None)


def test_a_policy_s_model_is_looked_for_before_other_agents_are_trained(tmp_path, monkeypatch):
    cut = pathlib.Path(shutil.copytree(TINY, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    for model, why in ((str(cut), "model.safetensors"), (str(tmp_path / "none"), "no directory")):
        steps = {"eval_every": 1000, "num_steps": 1000}
        policy = {"agents": ("random", "gflan"), "policy.model": model, **steps}
        with pytest.raises(models.CheckpointError, match=why):
            training.run(lake(tmp_path, **policy), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_no_store_is_made_for_a_model_that_is_not_there(tmp_path):
    store = tmp_path / "new" / "priors.sqlite"
    config = training.default_config()
    config.prior.model, config.prior.store = str(tmp_path / "none"), str(store)
    with pytest.raises(models.CheckpointError, match="no directory"):
        build.make_model(training.to_settings(config))
    assert not store.parent.exists()


def test_a_model_is_looked_for_without_reading_its_weights(monkeypatch):
    monkeypatch.setattr("jax.device_put", lambda *_: pytest.fail("weights were read"))
    language_model.check("tiny")


def test_a_policy_of_another_model_is_asked_before_anything_is_written(tmp_path, monkeypatch):
    """The prior's model has a chat template, and the policy's has none."""
    chatty = pathlib.Path(shutil.copytree(TINY, tmp_path / "chatty"))
    (chatty / "chat_template.jinja").write_text(
        "{% for each in messages %}{{ each.content }}{% endfor %}"
    )
    steps = {"eval_every": 1000, "num_steps": 1000}
    policy = {"agents": ("gflan",), "policy.model": "tiny", **steps}
    asked = {"prior.model": str(chatty), "prior.prompt": "chat"}
    with pytest.raises(ValueError, match="needs a language model with a chat template"):
        training.run(lake(tmp_path, **policy, **asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_collecting_by_the_prior_asks_and_mixes_as_a_run_does(tmp_path, monkeypatch):
    asked, acts = set(), []

    def score(self, prompts, score=CachedModel.score):
        asked.update(prompt.text for prompt in prompts)
        return score(self, prompts)

    def behavior(act, scored, behavior=collecting.agent_behavior):
        acts.append(act)
        return behavior(act, scored)

    monkeypatch.setattr(CachedModel, "score", score)
    monkeypatch.setattr(collecting, "agent_behavior", behavior)
    out = f"--out={tmp_path / 'played.jsonl'}"
    by_prior = ("--behavior=prior", f"--prior={TINY}", "--episodes=2", out)
    command(collect, "--env=FrozenLake-4x4", *by_prior)
    env, _ = envs.make("FrozenLake-4x4")
    (example,) = env.examples()
    assert asked
    assert all(text.startswith(f"Task: {example.task}\n") for text in asked)
    # Of a prior that is sure, a fifth is uniform over the four actions.
    sure = ActionPrior(jnp.log(jnp.array([1.0, 1e-9, 1e-9, 1e-9])), jnp.zeros((4, 1)))
    drawn = jax.vmap(lambda key: acts[0](key, sure))(jax.random.split(jax.random.key(0), 4000))
    assert np.mean(np.asarray(drawn) > 0) == pytest.approx(0.2 * 3 / 4, abs=0.02)


def test_without_a_run_a_model_is_shown_as_it_is_asked_and_ranked_by_what_is_shown(tmp_path):
    page = tmp_path / "shown.html"
    states = ("--env=FrozenLake-4x4", "--states=1", f"--out={page}")
    command(inspect_prior, *states, f"--prior={TINY}")
    text = _text(page)
    assert "asked: few_shot, by token, 0.2 uniform" in text
    sums, tokens, means = (
        np.array([float(row[place]) for row in re.findall(SCORE, text)]) for place in range(3)
    )
    assert len(means) == 4
    np.testing.assert_allclose(sums / tokens, means, atol=0.01)
    assert (np.diff(means) <= 0).all(), "the ranking is by another score"
    shown = [float(share) for share in re.findall(r"width:([\d.]+)%", page.read_text())]
    assert min(shown) >= 94 * 0.2 / 4
    command(inspect_prior, *states, f"--prior={TINY}", "--prompt=story", "--temperature=2")
    assert "asked: story, by token, temperature 2, 0.2 uniform" in _text(page)
    command(inspect_prior, *states)
    assert "asked: plain, by sum" in _text(page)
    assert not re.findall(SCORE, _text(page))


def test_a_page_names_a_model_that_is_a_file_without_its_directories(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"")
    assert inspect_prior._name(str(tmp_path / "model.gguf")) == "model.gguf"
    assert inspect_prior._name(str(tmp_path)) == str(tmp_path)
    assert inspect_prior._name("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


def test_any_prompt_is_shown_without_a_run(own_module, tmp_path):
    (tmp_path / "shown.jsonl").write_text(f"{json.dumps(SHOWN)}\n" * 30)
    lake, out = "--env=FrozenLake-4x4", f"--out={tmp_path / 'shown.html'}"
    command(
        inspect_prior,
        *(lake, out, "--states=1", "--prompt=my_prompts:terse+few_shot+think_first"),
        f"--examples={tmp_path / 'shown.jsonl'}",
    )
    page = (tmp_path / "shown.html").read_text()
    assert re.search(r"the first \d+ tokens</summary>", page), "a long prompt is folded"
    assert "So I\nThought:" in _text(tmp_path / "shown.html")
    assert "It said: " in page
    with pytest.raises(ValueError, match="--prompt is the run's where there is --workdir"):
        command(inspect_prior, "--workdir=elsewhere", "--prompt=plain")


def _text(path):
    """What a page says, without its marks."""
    return html.unescape(re.sub(r"<[^>]*>", "", path.read_text()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior.prompt": "plane+chat"}, "no prompt 'plane'; did you mean 'plain'"),
        ({"prior.prompt": "terse"}, "One of your own is named by its import path"),
        ({"prior.prompt": "math:pi"}, "prompt 'math:pi' is 3.14.*, which cannot be called"),
        (
            {
                "prior.prompt": "few_shot",
                "prior.examples.file": "a.jsonl",
                "prior.examples.workdir": "b",
            },
            "not both",
        ),
        ({"prior.prompt": "few_shot", "prior.examples.file": "a.jsonl"}, "no file a.jsonl"),
        (
            {"prior.prompt": "few_shot", "prior.examples.workdir": "b", "prior.examples.count": 0},
            "examples.count is 0",
        ),
        (
            {"prior.examples.file": "nowhere.jsonl"},
            "prior.examples.file is 'nowhere.jsonl', and .* 'plain', which shows no examples",
        ),
        (
            {"prior.prompt": "options+chat", "prior.examples.workdir": "b"},
            r"examples.workdir is 'b', .* --config.prior.prompt=options\+few_shot\+chat",
        ),
        ({"prior.prompt": "story+think_first"}, "prior.method to 'propose'"),
        ({"prior.history": 1, "history": 2}, "config.prior.history is 1, and config.history is 2"),
        ({"prior.history": 1, "agents": ("gflan",), "eval_every": 1000}, "the policy of gflan"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        training.run(lake(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_examples_to_show_it_is_said_which_field_names_some(tmp_path):
    settings = training.to_settings(lake(tmp_path, **{"prior.prompt": "options+few_shot"}))
    with pytest.raises(ValueError, match=r"no examples to show: .*config\.prior\.examples\.file"):
        build.make_builder(settings.prior, [], lambda: pytest.fail("read a tokenizer"))


@pytest.fixture
def few_states(monkeypatch):
    """Little random play to begin with, since most of what it meets with a history is new."""
    monkeypatch.setattr(scored_states, "_EXPLORED_EPISODES", 2)
    monkeypatch.setattr(scored_states, "_EXPLORED_STEPS", 12)
    return {"num_seeds": 1, "eval_episodes": 2, "prior.num_features": 8}


@pytest.mark.long
def test_the_model_is_told_a_history_that_q_does_not_see(few_states, tmp_path):
    settings = training.to_settings(lake(tmp_path, **few_states, **{"prior.history": 2}))
    env, env_params = build.make_environment(settings)
    known = build.make_priors(settings, env, env_params, tmp_path / "rows")
    table = known.scored.load()
    size = int(table.size)
    log_probs = np.asarray(table.log_probs)[:size]
    features = np.asarray(tables.rows(table).features)
    rows_of = {}
    for row, observation in enumerate(np.asarray(table.observations)[:size]):
        rows_of.setdefault(env.text_state(observation).observation, []).append(row)
    alike = [rows for rows in rows_of.values() if len(rows) > 1]
    assert alike
    for rows in alike:
        np.testing.assert_array_equal(features[rows], features[rows[:1]].repeat(len(rows), 0))
    assert max(np.ptp(log_probs[rows], axis=0).max() for rows in alike) > 1e-3
    # Each is the model's answer to what it is said to be of.
    state = env.text_state(np.asarray(table.observations)[alike[0][1]])
    assert state.history
    told = known.scored.source.score([prompts.plain(state)]).log_probs
    np.testing.assert_allclose(log_probs[alike[0][1]], told[0], atol=1e-4)


@pytest.mark.long
def test_learning_offline_tells_the_model_alone_of_history_too(few_states, tmp_path, monkeypatch):
    asked = set()

    def score(self, prompts, score=CachedModel.score):
        asked.update(prompt.text for prompt in prompts)
        return score(self, prompts)

    monkeypatch.setattr(CachedModel, "score", score)
    data = tmp_path / "lake.jsonl"
    command(collect, "--env=FrozenLake-4x4", "--behavior=random", "--episodes=4", f"--out={data}")
    offline = {"offline.dataset": str(data), "agents": ("cql_prior",), "prior.history": 1}
    training.run(lake(tmp_path, **few_states, **offline), tmp_path / "run")
    shown = datasets.read(data, history=1)
    told = {prompts.plain(state).text for state in shown.states if state.actions}
    bare = {prompts.plain(s._replace(history=())).text for s in shown.states if s.actions}
    assert told | bare <= asked
    assert {text.count("Seen:") for text in asked} == {0, 1}
