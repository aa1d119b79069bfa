"""Work is stopped within seconds, and what was done is kept."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from llmprior_jax import models, priors, stopping
from llmprior_jax.errors import InterruptedRunError, InterruptedScoringError
from llmprior_jax.priors import PriorStore, Prompt
from llmprior_jax.priors.sources import cached

PROMPTS = [Prompt(f"Now: {n}.\nNext:", (" go", " wait")) for n in range(70)]


@pytest.fixture(autouse=True)
def batches_of_32(monkeypatch):
    monkeypatch.setattr(cached, "_PROMPTS_PER_BATCH", 32)


def test_what_is_under_way_may_be_finished():
    taken = []
    asked = threading.Event()

    def work():
        yield 1
        time.sleep(0.3)
        asked.set()
        time.sleep(0.3)
        yield 2
        yield 3

    with pytest.raises(stopping.StoppedError):
        stopping.run(work, taken.append, asked.is_set)
    assert taken == [1, 2]


def test_what_takes_long_is_left(monkeypatch):
    monkeypatch.setattr(stopping, "_PATIENCE", 0.2)
    begun, let_go = time.monotonic(), threading.Event()

    def work():
        let_go.wait(60)
        yield 1

    with pytest.raises(stopping.StoppedError):
        stopping.run(work, print, lambda: True)
    let_go.set()
    assert time.monotonic() - begun < 5


def test_a_signal_whose_handler_is_slow_is_answered(monkeypatch):
    monkeypatch.setattr(stopping, "_PATIENCE", 0.2)
    handled, let_go = threading.Event(), threading.Event()

    def handle(number, frame):
        time.sleep(3 * stopping._BETWEEN_QUESTIONS)
        handled.set()

    def work():
        time.sleep(1.5 * stopping._BETWEEN_QUESTIONS)  # The main thread is amid its waiting.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        let_go.wait(20)
        yield 1

    before = signal.signal(signal.SIGUSR1, handle)
    began = time.monotonic()
    try:
        with pytest.raises(stopping.StoppedError):
            stopping.run(work, print, handled.is_set)
    finally:
        signal.signal(signal.SIGUSR1, before)
        let_go.set()
    assert time.monotonic() - began < 10


def test_an_error_of_the_work_is_raised():
    def work():
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stopping.run(work, lambda _: None, lambda: False)


def test_a_stopped_scoring_says_how_many_prompts_it_can_give_again(tmp_path):
    asked = []
    model = priors.CachedModel("tiny", should_stop=lambda: len(asked) > 0)
    model.load()
    whole = priors.CachedModel("tiny").score(PROMPTS)
    take = cached.score_in_passes

    def once(lm, texts, lists, **how):
        for part in take(lm, texts, lists, **how):
            asked.append(len(texts))
            yield part
            time.sleep(1)

    cached.score_in_passes = once
    try:
        with pytest.raises(InterruptedScoringError) as stopped:
            model.score(PROMPTS)
    finally:
        cached.score_in_passes = take
    done = stopped.value.done
    made = model.queries.made
    assert 0 <= done < len(PROMPTS)
    assert made >= 1
    again = model.score(PROMPTS[:done])
    assert model.queries.made == made, "the model was asked again"
    np.testing.assert_array_equal(again.log_probs, whole.log_probs[:done])


def test_answers_are_in_the_store_before_their_batch_ends(tmp_path, monkeypatch):
    take = cached.score_in_passes
    with PriorStore(tmp_path / "priors.sqlite") as store:
        kept = []

        def one_by_one(lm, texts, lists, **how):
            for done, scores in take(lm, texts, lists, **how):
                for row in range(len(done)):
                    yield done[row : row + 1], type(scores)(*(x[row : row + 1] for x in scores))
                    kept.append(sum(usage.prompts for usage in store.usage()))

        monkeypatch.setattr(cached, "score_in_passes", one_by_one)
        monkeypatch.setattr(cached, "_KEEP_EVERY", 0)
        priors.CachedModel("tiny", store).score(PROMPTS[:4])
        assert kept == [1, 2, 3, 4]


def stop_after_the_first_pass(monkeypatch, store=None) -> priors.CachedModel:
    """A model that is stopped once it has answered its first batch, and takes its time then."""
    begun = []
    take = cached.score_in_passes

    def once(lm, texts, lists, **how):
        yield from take(lm, texts, lists, **how)
        begun.append(len(texts))
        time.sleep(30)

    monkeypatch.setattr(cached, "score_in_passes", once)
    monkeypatch.setattr(stopping, "_PATIENCE", 0.3)
    return priors.CachedModel("tiny", store, should_stop=lambda: len(begun) > 0)


def test_a_stopped_scoring_counts_what_it_asked_and_found(tmp_path, monkeypatch):
    with PriorStore(tmp_path / "priors.sqlite") as store:
        priors.CachedModel("tiny", store).score(PROMPTS[:10])
        model = stop_after_the_first_pass(monkeypatch, store)
        with pytest.raises(InterruptedScoringError) as stopped:
            model.score(PROMPTS)
        queries, usage = model.queries, store.usage()[0]
        assert (queries.made, queries.saved) == (22, 10)
        assert queries.seconds >= 0.3
        assert (usage.prompts, usage.found, usage.not_found) == (32, 10, 10 + 22)
        said = "after scoring 32 of 70 states: 22 queries made, 22 of them kept in the store"
        assert said in str(stopped.value)
        assert stopped.value.done == 32
        model.score(PROMPTS[:32])
        assert model.queries.saved == 10, "what it made itself was saved by no store"


def test_a_stopped_scoring_without_a_store_says_that_nothing_is_kept(monkeypatch):
    model = stop_after_the_first_pass(monkeypatch)
    with pytest.raises(InterruptedScoringError, match="32 queries made, 0 of them kept"):
        model.score(PROMPTS)


def test_stopped_proposals_count_what_was_found(tmp_path, monkeypatch):
    asked = PROMPTS[:3]
    sampling = priors.Sampling(max_new_tokens=2)
    with PriorStore(tmp_path / "priors.sqlite") as store:
        priors.CachedModel("tiny", store).propose(asked[:2], 0, 2, sampling)
        begun = threading.Event()

        def propose(*arguments):
            begun.set()
            time.sleep(30)

        monkeypatch.setattr(cached, "propose", propose)
        monkeypatch.setattr(stopping, "_PATIENCE", 0.3)
        model = priors.CachedModel("tiny", store, should_stop=begun.is_set)
        with pytest.raises(InterruptedScoringError):
            model.propose(asked, 0, 2, sampling)
    assert (model.queries.made, model.queries.saved) == (0, 2)
    assert model.queries.seconds >= 0.3


@pytest.mark.parametrize(
    ("module", "function", "read"),
    [
        (models, "fingerprint", lambda model: model.fingerprint),
        (models, "load_tokenizer", lambda model: model.tokenizer),
        (models, "load_encoder", lambda model: model.text_encoder),
        (models, "load", lambda model: model.language_model),
        (cached.language_model, "reads_apart", lambda model: model.score([Prompt(" ", ("a",))])),
    ],
)
def test_whatever_is_read_of_a_model_can_be_stopped(monkeypatch, module, function, read):
    begun = threading.Event()

    def slow(*arguments, **more):
        begun.set()
        time.sleep(30)

    monkeypatch.setattr(module, function, slow)
    monkeypatch.setattr(stopping, "_PATIENCE", 0.3)
    model = priors.CachedModel("model", features="minilm", should_stop=begun.is_set)
    with pytest.raises(InterruptedRunError, match=r"while (model|minilm) was loaded"):
        read(model)


def test_features_of_a_text_encoder_can_be_stopped(monkeypatch):
    begun = threading.Event()

    def slow(*arguments):
        begun.set()
        time.sleep(30)

    monkeypatch.setattr(models, "load_encoder", lambda name: name)
    monkeypatch.setattr(cached, "encode_actions", slow)
    monkeypatch.setattr(stopping, "_PATIENCE", 0.3)
    model = priors.CachedModel("tiny", features="minilm", should_stop=begun.is_set)
    with pytest.raises(InterruptedScoringError, match="while features of 2 states were made"):
        model.score(PROMPTS[:2])


SCRIPT = """
import sys, time
import jax
import jax.numpy as jnp
from launch.common import app
from llmprior_jax import models
from llmprior_jax.priors.sources import cached

slow, moment = cached.score_in_passes, {moment!r}
step = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, y: jnp.tanh(y @ y), x))

def load(*arguments, **more):
    print("begun", flush=True)
    time.sleep(60)

def score_in_passes(lm, texts, lists, **how):
    yield from slow(lm, texts[:4], lists[:4], **how)
    step(jnp.eye(128)).block_until_ready()
    print("begun", flush=True)
    # In and out of a device, as a model is that is asked.
    while True:
        step(jnp.eye(128)).block_until_ready()

if moment == "loading":
    models.load = load
else:
    cached.score_in_passes = score_in_passes
{command}
"""
TRAIN = """
from launch import train
sys.argv = ["train", "--config=quickstart", "--workdir={workdir}", "--config.num_seeds=1",
    "--config.env=FrozenLake-4x4", "--config.prior.store={store}"]
app.run(train.main, train.FLAGS)
"""
FILL = """
from launch import prior
sys.argv = ["prior", "fill", "--config=quickstart", "--store={store}",
    "--config.env=FrozenLake-4x4"]
app.run(prior.main, prior.FLAGS, max_arguments=1)
"""


def interrupted(
    tmp_path: pathlib.Path, command: str, moment: str, *numbers: int
) -> tuple[int, str, float, int]:
    """Exit status and words of a command that gets signals, the seconds until then, the store."""
    store = tmp_path / "priors.sqlite"
    code = SCRIPT.format(
        moment=moment, command=command.format(workdir=tmp_path / "run", store=store)
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "begun\n":
                break
        sent = 0.0
        for number in numbers:
            time.sleep(0.5)
            sent = time.monotonic()
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        seconds = time.monotonic() - sent
    kept = 0
    if store.exists():
        with PriorStore(store) as opened:
            kept = sum(usage.prompts for usage in opened.usage())
    return process.returncode, errors, seconds, kept


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_training_is_stopped_while_it_scores_and_keeps_what_was_scored(tmp_path, number):
    status, errors, seconds, kept = interrupted(tmp_path, TRAIN, "scoring", number)
    assert status == 130, errors
    assert "the same command goes on from there" in errors
    assert seconds < 5
    assert kept == 4


@pytest.mark.long
def test_training_is_stopped_while_it_loads(tmp_path):
    status, errors, seconds, _ = interrupted(tmp_path, TRAIN, "loading", signal.SIGTERM)
    assert status == 130, errors
    assert "the same command begins again" in errors
    assert seconds < 5


@pytest.mark.long
def test_a_second_signal_stops_training_at_once_while_it_scores(tmp_path):
    status, errors, seconds, kept = interrupted(
        tmp_path, TRAIN, "scoring", signal.SIGTERM, signal.SIGTERM
    )
    assert status == 143, errors
    assert "stopping; once more to stop at once" in errors
    assert "stopped; the same command begins again" in errors
    assert seconds < stopping._PATIENCE - 1
    assert kept == 4


@pytest.mark.parametrize(
    ("number", "expected"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)],
)
def test_another_command_is_stopped_while_it_scores(tmp_path, number, expected):
    status, errors, seconds, kept = interrupted(tmp_path, FILL, "scoring", number)
    assert status == expected, errors
    assert errors.splitlines()[-1].startswith("stopped; the same command begins again")
    assert "FATAL" not in errors
    assert seconds < 5
    assert kept == 4
