"""Rounds in which the prior learns: what they learn from, what they leave, and how they go on.

The problem is a corridor, the model a random one of one layer that is read from a checkpoint.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from corridor_env import PLACES, Corridor
from small_lm import small_lm

from llmprior_jax import training
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.learning.refining import Visited, make_refining
from llmprior_jax.models import adapters, checkpoint
from llmprior_jax.play.evaluation import Episodes
from llmprior_jax.priors import prompts
from llmprior_jax.training import build, refinement
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.types import LanguagePolicy

# --- The M-step, of a table of logits -------------------------------------------------------------


def table_policy() -> LanguagePolicy:
    """A table of logits as a language model, one row per state."""
    return LanguagePolicy(
        read=lambda prompts, actions: None,
        init=lambda key: jnp.zeros((3, 2)),
        apply=lambda params, frozen, rows: (jax.nn.log_softmax(params[rows]), jnp.zeros((1, 1))),
        frozen=(),
        num_features=1,
    )


def test_a_table_of_logits_becomes_the_posterior_as_far_as_the_leash_lets_it():
    posterior = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    old = np.array([[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]])
    visited = Visited(
        jnp.arange(3), jnp.log(posterior), jnp.log(old), weight=jnp.array([1.0, 1.0, 0.0])
    )
    table = table_policy()
    refining = make_refining(table, leash=0.5, learning_rate=0.05, updates=400, batch_states=8)
    state = refining.init(jax.random.key(0), table.init(jax.random.key(0)))
    state, _ = refining.segment(state, (), visited, jnp.int32(400))
    found = jax.nn.softmax(state.params)
    expected = (posterior + 0.5 * old) / 1.5
    np.testing.assert_allclose(found[:2], expected[:2], atol=0.02)
    np.testing.assert_array_equal(found[2], 0.5, "a state without weight was learned from")


def test_parts_of_the_updates_are_the_same_as_all_at_once():
    posterior, old = (jnp.log(jnp.tile(jnp.array(p), (3, 1))) for p in ([0.7, 0.3], [0.5, 0.5]))
    visited = Visited(jnp.arange(3), posterior, old, jnp.ones(3))
    refining = make_refining(
        table_policy(), leash=0.1, learning_rate=0.1, updates=7, batch_states=2
    )
    first = refining.init(jax.random.key(0), jnp.zeros((3, 2)))
    at_once, _ = refining.segment(first, (), visited, jnp.int32(7))
    part, _ = refining.segment(first, (), visited, jnp.int32(3))
    part, _ = refining.segment(part, (), visited, jnp.int32(4))
    np.testing.assert_array_equal(part.params, at_once.params)


def test_states_count_once_for_each_time_that_a_successful_episode_was_there():
    rows = np.array([[[4, 1, 4], [2, 1, -1], [7, -1, -1]]])
    played = Episodes(success=np.array([[True, True, False]]), returns=None, length=None, rows=rows)
    row, weight = refinement.visited(played)
    assert dict(zip(row.tolist(), weight.tolist(), strict=True)) == {1: 2, 2: 1, 4: 2}


def test_without_any_success_there_is_nothing_to_learn_from():
    played = Episodes(
        success=np.zeros((2, 1), bool), returns=None, length=None, rows=np.zeros((2, 1, 3), int)
    )
    with pytest.raises(ValueError, match=r"none of 2 episodes succeeded.*config.num_steps"):
        refinement.visited(played)


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corridor(tmp_path_factory):
    """The corridor as the environment of all runs, and the directory of a model."""
    env = Corridor()
    asked = [prompts.plain(env.text_state(place)) for place in range(PLACES)]
    lm = small_lm([text for prompt in asked for text in (prompt.text, *prompt.actions)])
    directory = tmp_path_factory.mktemp("model")
    tensors = checkpoint.to_hf(lm.config, lm.params)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    lm.tokenizer.save_pretrained(directory)
    fields = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": lm.config.rms_norm_eps}
    for name in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
        "tie_word_embeddings",
    ):
        fields[name] = getattr(lm.config, name)
    (directory / "config.json").write_text(json.dumps(fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.envs, "make", lambda name, **kwargs: (env, env.default_params))
        yield directory


def refining_config(model, **changes) -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "agents": ("prior", "dqn_prior"),
            "num_seeds": 2,
            "num_steps": 320,
            "eval_every": 160,
            "eval_episodes": 32,
            "checkpoint.every": 1,
            "agent.trust": "fixed",
            "agent.learning_rate": 0.01,
            "agent.hidden_sizes": (),
            "loop.num_envs": 8,
            "prior.model": str(model),
            "prior.normalization": "sum",
            "prior.uniform_share": 0.2,
            "prior.prompt": "plain",
            "prior.num_features": 4,
            "prior.refine.rounds": 2,
            "prior.refine.episodes": 16,
            "prior.refine.updates": 30,
            "prior.refine.batch_states": 4,
            "prior.refine.rank": 2,
            "prior.refine.learning_rate": 0.02,
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def finished(corridor, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("refined") / "finished"
    training.run(refining_config(corridor), workdir)
    return workdir


def adapter_of(workdir, number):
    return refinement.directory(workdir, number) / refinement.ADAPTER


def content(workdir, number) -> bytes:
    return (adapter_of(workdir, number) / adapters.WEIGHTS).read_bytes()


@pytest.mark.long
def test_the_prior_alone_becomes_better_with_each_round(finished):
    of_rounds = [
        json.loads((refinement.directory(finished, number) / "prior_alone.json").read_text())
        for number in (1, 2)
    ]
    first, second = (of["prior alone"]["success_rate"]["mean"] for of in of_rounds)
    last = np.mean(read_metrics(finished / "prior")[0]["success_rate"])
    assert second > first + 0.1
    assert last > 0.9


@pytest.mark.long
def test_a_round_records_what_its_language_model_learned(finished):
    records = read_metrics(refinement.directory(finished, 1) / refinement.DISTILLATION)
    assert [record["step"] for record in records] == list(range(3, 31, 3))
    assert records[-1]["kl_to_posterior"] < records[0]["kl_to_posterior"]


@pytest.mark.long
def test_each_round_asks_another_model(finished):
    rounds = [refinement.directory(finished, number) for number in (1, 2)]
    identities = {
        safetensors.safe_open(of / "prior_table" / "whitening.safetensors", "np").metadata()[
            "fingerprint"
        ]
        for of in (*rounds, finished)
    }
    assert len(identities) == 3


@pytest.mark.long
def test_a_refined_run_is_restored_wherever_it_lies(finished, tmp_path):
    moved = shutil.copytree(finished, tmp_path / "moved")
    for workdir in (moved, refinement.directory(moved, 2)):
        here = training.restore(workdir, "dqn_prior", eval_episodes=16).evaluate()
        there_dir = finished if workdir == moved else refinement.directory(finished, 2)
        there = training.restore(there_dir, "dqn_prior", eval_episodes=16).evaluate()
        np.testing.assert_array_equal(here["return"], there["return"])


@pytest.mark.long
def test_the_adapter_is_a_prior_of_its_own(finished, corridor, tmp_path):
    changes = {"agents": ("prior",), "prior.refine.rounds": 0}
    config = refining_config(corridor, **changes)
    training.name_priors(config, str(adapter_of(finished, 2)))
    training.run(config, tmp_path)
    ours, theirs = (read_metrics(of / "prior")[0]["success_rate"] for of in (tmp_path, finished))
    assert ours == theirs


@pytest.mark.long
def test_a_finished_run_started_again_changes_nothing(finished, corridor):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("adapter_model.safetensors")}
    summary = (finished / "summary.json").read_text()
    training.run(refining_config(corridor), finished)
    assert (finished / "summary.json").read_text() == summary
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.long
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("1/dqn_prior", marks=pytest.mark.longest),
        "1/distillation",
        pytest.param("2/dqn_prior", marks=pytest.mark.longest),
    ],
)
def test_an_interrupted_run_ends_as_if_nothing_had_happened(finished, corridor, tmp_path, where):
    records = tmp_path / refinement.ROUNDS / where / "metrics.jsonl"

    def is_there() -> bool:
        return records.exists() and bool(records.read_text())

    with pytest.raises(InterruptedRunError, match="same command goes on"):
        training.run(refining_config(corridor), tmp_path, should_stop=is_there)
    assert is_there()
    with pytest.raises(FileNotFoundError, match=r"not refined yet.*goes on where it stopped"):
        training.restore(tmp_path, "dqn_prior", eval_episodes=16)
    training.run(refining_config(corridor), tmp_path)
    for number in (1, 2):
        assert content(tmp_path, number) == content(finished, number)
    ours, theirs = (read_metrics(of / "dqn_prior")[-1]["return"] for of in (tmp_path, finished))
    assert ours == theirs


@pytest.mark.long
def test_rounds_go_on_from_an_adapter_of_their_rank(finished, corridor, tmp_path):
    adapter = adapter_of(finished, 1)
    config = refining_config(adapter, **{"agents": ("prior",), "prior.refine.rounds": 1})
    training.run(config, tmp_path / "more")
    assert content(tmp_path / "more", 1) == content(finished, 2)
    config.prior.refine.rank = 3
    with pytest.raises(ValueError, match=r"rank 2, .*use --config.prior.refine.rank=2"):
        training.run(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_starting_again_removes_what_the_rounds_made_and_nothing_else(finished, corridor, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "again")
    notes = refinement.directory(workdir, 2) / "notes.txt"
    notes.write_text("mine")
    config = refining_config(corridor, **{"prior.refine.rounds": 0, "agents": ("prior",)})
    training.run(config, workdir, resume=False)
    rounds = workdir / refinement.ROUNDS
    assert [path for path in rounds.rglob("*") if path.is_file() and path.name != ".lock"] == [
        notes
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior.method": "propose"}, "method is 'propose'.*use the method 'score'"),
        ({"env": "engine"}, "config.env is 'engine'.*--prior"),
        ({"offline.dataset": "data.parquet"}, "config.offline.dataset is.*refine online"),
        (
            {"prior.others": ("tiny",), "agent.trust": "learned"},
            "1 further priors; name a single one",
        ),
        ({"prior.reversed": True}, "config.prior.reversed is True"),
        ({"prior.refine.agent": "dqn"}, "config.prior.refine.agent is 'dqn'.*use 'dqn_prior'"),
        ({"prior.refine.agent": "prior"}, "config.prior.refine.agent is 'prior'"),
        ({"prior.refine.agent": "gflan_prior"}, "config.prior.refine.agent is 'gflan_prior'"),
        ({"prior.refine.rank": 0}, "config.prior.refine.rank is 0"),
        ({"prior.refine.leash": -1.0}, "config.prior.refine.leash is -1"),
    ],
)
def test_what_cannot_be_refined_is_refused_before_anything_is_written(
    corridor, tmp_path, changes, message
):
    config = refining_config(corridor, **changes)
    with pytest.raises(ValueError, match=message):
        training.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
