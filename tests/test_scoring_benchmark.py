"""The scoring benchmark: its ways agree, and its counts are those of a workload done by hand."""

import contextlib
import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import pytest
import torch
import transformers
from absl.testing import flagsaver

from launch import benchmark, train
from launch.benchmarks import accelerator, scoring, scoring_here, scoring_host, scoring_torch
from llmprior_jax import models, priors
from llmprior_jax.models import DecoderConfig
from llmprior_jax.models.formats import places

FIELDS = scoring._COMMON | scoring.SHAPES["tiny"]


@pytest.fixture(scope="module")
def model():
    """The embedded model in transformers."""
    directory = places._EMBEDDED["tiny"]
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def test_all_ways_score_alike(model):
    states = scoring.workload(prompt_tokens=40, num_actions=3, shared_prefix=True)
    prior = priors.score_actions(
        models.load("tiny"), [s.prompt for s in states], [s.actions for s in states]
    )
    ways = (
        scoring_torch.score_pairs,
        scoring_torch.score_padded_batch,
        scoring_torch.score_shared_cache,
    )
    for way in ways:
        totals = [way(model, state.prompt_ids, state.action_ids) for state in states]
        expected = torch.log_softmax(torch.stack(totals).double(), -1)
        np.testing.assert_allclose(prior, expected, atol=5e-5, err_msg=way.__name__)


@torch.no_grad()
def test_both_sides_write_the_same_answers(model):
    lm = models.load("tiny")
    states = scoring.workload(prompt_tokens=20, num_actions=1, shared_prefix=False)
    texts = [state.prompt for state in states]
    greedy = priors.Sampling(max_new_tokens=6, temperature=0.0, stop=())
    ours = priors.generate(lm, texts, priors.prompt_keys(jax.random.key(0), texts), 1, greedy)
    theirs = scoring_torch.generate(model, [state.prompt_ids for state in states], 1, 6)
    for (answer,), ids in zip(ours, theirs.tolist(), strict=True):
        written = lm.tokenizer.decode(ids)
        # Theirs goes on after the end of a text, so as to be as long as asked.
        assert written.startswith(answer.text)
        assert answer.finished or written == answer.text


def test_what_the_host_does_is_measured_alone(capsys, monkeypatch):
    monkeypatch.setattr(scoring_host, "_STATES", 3)
    monkeypatch.setattr(scoring_host, "_STORED", 4)
    flags = ["--host_only", "--json", "--prompt_tokens=16", "--actions=2,3", "--repeats=1"]
    benchmark.main(benchmark.FLAGS(["benchmark", "scoring", *flags]))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    first, _ = told["rows"]
    assert (first["prompt"], first["actions"]) == (16, 2)
    assert told["host_states_per_second"] == first["states_per_s"] > 0
    assert told["host_ratio_vs_whole_text"] == first["ratio"] > 0
    assert told["store_states_per_second"] > 0
    # 8 actions of 784 numbers of 8 bits each, and texts and numbers beside them.
    assert 6272 < told["store_bytes_per_state"] < 28_672 / 4


def test_the_host_is_timed_with_texts_that_it_has_not_read():
    read, again = set(), []

    def here(function, *args):
        if args:
            prompts = {prompt for prompt, _ in args[0]}
            if function is scoring_here.host_seconds:
                again.append(prompts & read)
            read.update(prompts)
        return 1.0

    config = DecoderConfig.from_hf(FIELDS)
    scoring._measure_case(config, 64, 2, repeats=3, here=here, there=None)  # pyright: ignore
    assert again == [set()] * 4


@pytest.mark.parametrize("flag", ["actions", "prompt_tokens", "samples"])
def test_an_empty_list_of_numbers_is_refused(flag):
    name = "generation" if flag == "samples" else "scoring"
    before = flagsaver.save_flag_values(benchmark.FLAGS)
    try:
        with pytest.raises(ValueError, match=f"--{flag} is empty; give one or more whole numbers"):
            benchmark.main(benchmark.FLAGS(["benchmark", name, f"--{flag}="]))
    finally:
        flagsaver.restore_flag_values(before, benchmark.FLAGS)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes a command of its code, as a step has it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, code: str) -> tuple[str]:
        (tmp_path / f"{name}.py").write_text(code)
        return (name,)

    return make


def told(**figures) -> str:
    """Code of a command that says what a benchmark says."""
    return f"import json; print('a table'); print(json.dumps({figures!r}))"


def test_all_of_a_machine_is_measured_and_written_whatever_fails(tmp_path, command):
    rows = [{"environment": "Lake", "steps_per_s": 5}]
    rates = accelerator._with_rates("steps_per_s", "environment")
    out = tmp_path / "all.json"
    # What was measured before is written when a later step begins, whatever becomes of that.
    looks = f"assert 'good' in open({str(out)!r}).read(); print('{{}}')"
    last = accelerator._last_line
    wanted = [
        accelerator.Step("good", command("says", told(machine="CPU", rate=2.5)), last),
        accelerator.Step("later", command("looks", looks), last),
        accelerator.Step("bad", command("fails", "raise ValueError('no such thing')"), str),
        accelerator.Step("envs", command("lake", told(rows=rows)), rates),
    ]
    result = accelerator.run(wanted, minutes=10, out=str(out))
    found = {(row["step"], row["figure"]): row["value"] for row in result.rows}
    assert found["good", "rate"] == 2.5
    assert "ValueError: no such thing" in found["bad", "failed"]
    assert found["envs", "environment Lake, steps_per_s"] == 5
    assert ("later", "failed") not in found
    written = json.loads(out.read_text())
    assert written["machine"] == "CPU"
    assert written["results"]["envs"]["rows"] == rows


def test_a_step_takes_along_what_it_started(tmp_path, command):
    pid = tmp_path / "pid"
    begins = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
    )
    accelerator.run(
        [accelerator.Step("quick", command("begins", begins), lambda _: {})], 10, out=None
    )
    for _ in range(100):
        if not is_running(int(pid.read_text())):
            break
        time.sleep(0.05)
    assert not is_running(int(pid.read_text()))


def test_what_was_printed_in_vain_is_told_as_such(command):
    wanted = [accelerator.Step("silent", command("silent", ""), accelerator._last_line)]
    (row,) = [row for row in accelerator.run(wanted, 10, None).rows if row["figure"] == "failed"]
    assert "cannot be read" in row["value"]


@pytest.fixture
def allowed(monkeypatch):
    """The seconds that each step was allowed, none of which takes any time."""
    seconds = []
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(accelerator, "_run", lambda _, most: seconds.append(most) or {})
    return seconds


def test_a_step_may_take_half_of_what_is_left_and_the_last_one_all(allowed):
    wanted = [accelerator.Step(str(i), (), dict) for i in range(3)]
    accelerator.run(wanted, minutes=10, out=None)
    assert allowed == [300, 300, 600]


def test_a_step_with_less_than_half_a_minute_is_not_begun(allowed):
    wanted = [accelerator.Step(name, (), dict) for name in ("early", "last")]
    result = accelerator.run(wanted, minutes=59 / 60, out=None)
    assert allowed == [59]
    failed = {row["step"]: row["value"] for row in result.rows if row["figure"] == "failed"}
    assert failed == {"early": "not begun, the time was up"}


def test_a_step_that_takes_too_long_is_stopped(command):
    step = accelerator.Step("long", command("long", "import time; time.sleep(60)"), dict)
    before = time.monotonic()
    assert accelerator._run(step, 2) == {"failed": "stopped, its 2 seconds were up"}
    assert time.monotonic() - before < 50


def test_what_is_cheap_is_measured_first(tmp_path):
    names = [step.name for step in accelerator.steps(["small", "large"], tmp_path)]
    assert names == ["envs", "train", "quickstart", "scoring small", "scoring large"]


@pytest.mark.parametrize(
    ("platform", "has_accelerator", "is_compared"),
    [("cpu", False, True), ("gpu", True, True), ("gpu", False, False)],
)
def test_pytorch_is_left_out_where_it_lacks_the_accelerator(
    monkeypatch, capsys, platform, has_accelerator, is_compared
):
    loaded = []
    answers = {
        scoring_here.load: lambda *_: 1,
        scoring_here.platform: lambda: platform,
        scoring_torch.load: lambda *_: loaded.append(True),
        scoring_torch.has_accelerator: lambda: has_accelerator,
    }
    process = contextlib.nullcontext(lambda function, *args: answers[function](*args))
    monkeypatch.setattr(scoring, "_Process", lambda: process)
    with scoring.both_sides("tiny", "float32") as (_, there, _):
        assert (there is not None) == is_compared
    assert loaded == [True] * is_compared
    assert ("PyTorch cannot use the gpu here" in capsys.readouterr().out) == (not is_compared)


def test_steps_name_commands_that_there_are(tmp_path):
    for step in accelerator.steps(["tiny"], tmp_path):
        module, *arguments = step.command
        flags = {"launch.benchmark": benchmark.FLAGS, "launch.train": train.FLAGS}[module]
        flags([module, *arguments])


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_a_workload_is_as_long_as_asked(shared_prefix):
    states = scoring.workload(prompt_tokens=128, num_actions=50, shared_prefix=shared_prefix)
    for state in states:
        assert 120 <= len(state.prompt_ids) <= 145
        assert len(set(state.actions)) == 50
        assert 6 <= np.mean([len(ids) for ids in state.action_ids]) <= 9
    heads = {tuple(state.prompt_ids[:60]) for state in states}
    assert len(heads) == (1 if shared_prefix else len(states))


def test_needed_flops_by_hand():
    config = DecoderConfig.from_hf(FIELDS)
    config = dataclasses.replace(
        config,
        hidden_size=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=2,
        intermediate_size=8,
        num_hidden_layers=3,
        vocab_size=10,
    )
    # Inputs: 7, 7 8, 7 8 1, of 1, 2 and 3 tokens. Queries: after 7 8, and after 7 8 1.
    state = scoring.State("", [], [7, 8], [[1, 2], [1, 3], [4]])
    projections = 4 * (4 + 2 + 2 + 4) + 3 * 4 * 8
    attention = 2 * 4 * (1 + 2 + 3)
    expected = 2 * (3 * (3 * projections + attention) + 2 * 10 * 4)
    assert scoring.needed_flops(config, [state, state]) == expected
