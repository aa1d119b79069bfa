"""A run over a mesh of devices gives what it gives on one, and bad meshes say what would do."""

import pathlib
import subprocess
import sys
import textwrap

import jax
import pytest

from llmprior_jax import distributed, training
from llmprior_jax.settings import Settings
from llmprior_jax.training.experiment import explain_out_of_memory
from llmprior_jax.training.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent

_ON_EIGHT_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from llmprior_jax import distributed, models, priors
from llmprior_jax.models import partition

def f(key, shared):
    return jax.random.normal(key, (3,)) @ shared

keys = jax.random.split(jax.random.key(0), 4)
shared = np.arange(6, dtype=np.float32).reshape(3, 2)
results = {
    mesh: distributed.over_seeds(f, (0, None), 4, mesh=mesh)(keys, shared)
    for mesh in ("data:1", None, "data:2,model:4")
}
assert len(results[None].sharding.device_set) == 4
for result in results.values():
    np.testing.assert_array_equal(result, results["data:1"])

lm = models.load("tiny")
mesh = distributed.make_mesh("data:2,model:4", 4)
cut = partition(lm, mesh)
kernel = jax.tree_util.tree_leaves(cut.params["blocks"][0]["mlp"]["gate_proj"]["kernel"])[0]
assert kernel.addressable_shards[0].data.shape[1] * 4 == kernel.shape[1]
# Of many lengths, so that passes have different shapes and some devices are idle.
prompts = [f"Task: make a tomato salad\\n{{n * 'Wait. '}}Next:" for n in range(40)]
actions = [[" pick up the tomato", " go to the sink"], [" go to the sink"]] * 20
whole = priors.score(lm, prompts, actions)
spread = partition(lm, distributed.make_mesh("data:4", 4))
for model in (cut, spread):
    shared_out = priors.score(model, prompts, actions)
    # Some of them are below -30, where float32 has no more than six decimals.
    np.testing.assert_allclose(shared_out.log_probs, whole.log_probs, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(shared_out.features, whole.features, atol=1e-4)
assert len(spread.mesh.devices.ravel()) == 4

asked, sampling = [priors.Prompt(text, ()) for text in prompts], priors.Sampling(max_new_tokens=6)
told = priors.propose(lm, asked, jax.random.key(0), 4, sampling)
for model in (cut, spread):
    assert priors.propose(model, asked, jax.random.key(0), 4, sampling) == told
print("all equal")
"""

_RUNS_ON_EIGHT_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import pathlib, shutil
import numpy as np
from llmprior_jax import distributed, training
from llmprior_jax.training.metrics import read_metrics

root = pathlib.Path("{directory}")

def run(name, mesh, num_seeds, stop=False):
    config = training.default_config()
    config.update_from_flattened_dict({{
        "env": "FrozenLake-4x4", "agents": ("dqn_prior",), "mesh": mesh, "num_seeds": num_seeds,
        "num_steps": 320, "eval_every": 160, "eval_episodes": 16, "checkpoint.every": 1,
    }})
    def a_segment_is_over():
        return stop and len(read_metrics(root / name / "dqn_prior")) > 1

    try:
        training.run(config, root / name, should_stop=a_segment_is_over)
    except training.InterruptedRunError:
        assert stop

def final(name):
    state = training.restore(root / name, "dqn_prior", eval_episodes=16).state
    return state, read_metrics(root / name / "dqn_prior")

def assert_equal(name, other):
    (state, metrics), (state_too, metrics_too) = final(name), final(other)
    assert [record["success_rate"] for record in metrics] == [
        record["success_rate"] for record in metrics_too
    ]
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(state_too), strict=True):
        if not jax.numpy.issubdtype(ours.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    return state

{script}
print("all equal")
"""

_ON_ANOTHER_MESH = """
run("whole", "data:4", 4)
run("begun", "data:4", 4, stop=True)
for mesh in ("data:2", "data:1"):
    shutil.copytree(root / "begun", root / mesh)
    run(mesh, mesh, 4)
    state = assert_equal(mesh, "whole")
"""

_ENVIRONMENTS_OF_ONE_SEED = """
run("one", "data:1", 1)
run("four", "data:4,model:2", 1)
state = assert_equal("four", "one")
on = {shard.device for shard in state.envs.observation.addressable_shards}
shapes = {shard.data.shape[:2] for shard in state.envs.observation.addressable_shards}
assert shapes == {(1, 2)}, shapes  # Of 8 environments.
assert len(on) == 8
"""


def run_script(script: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert "all equal" in result.stdout, result.stderr


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    run_script(textwrap.dedent(_ON_EIGHT_DEVICES))


@pytest.mark.long
def test_a_run_goes_on_with_another_mesh(tmp_path):
    script = _RUNS_ON_EIGHT_DEVICES.format(directory=tmp_path, script=_ON_ANOTHER_MESH)
    run_script(script)


@pytest.fixture(scope="module")
def of_one_seed(tmp_path_factory) -> pathlib.Path:
    """Where runs of one seed lie that were checked when they were made on eight devices."""
    directory = tmp_path_factory.mktemp("one_seed")
    script = _RUNS_ON_EIGHT_DEVICES.format(directory=directory, script=_ENVIRONMENTS_OF_ONE_SEED)
    run_script(script)
    return directory


@pytest.mark.long
def test_the_environments_of_one_seed_are_shared_out(of_one_seed):
    assert (of_one_seed / "four" / "summary.json").exists()


@pytest.mark.long
def test_a_run_of_eight_devices_is_evaluated_and_played_on_fewer(of_one_seed):
    assert training.read_config(of_one_seed / "four").mesh == "data:4,model:2"
    run = training.restore(of_one_seed / "four", "dqn_prior", eval_episodes=16)
    told = read_metrics(of_one_seed / "four" / "dqn_prior")[-1]
    assert run.evaluate()["success_rate"].tolist() == told["success_rate"]
    assert list(run.play(0, jax.random.key(0)))


@pytest.mark.long
def test_a_mesh_that_is_asked_for_is_made_or_refused(of_one_seed):
    run = training.restore(of_one_seed / "four", "dqn_prior", eval_episodes=16, mesh="data:2")
    assert len(run.state.envs.observation.sharding.device_set) == 2
    with pytest.raises(ValueError, match="needs 8 devices, and there are 2"):
        training.restore(of_one_seed / "four", "dqn_prior", 16, mesh="data:4,model:2")


def test_a_mesh_that_divides_neither_seeds_nor_environments_says_what_would():
    with pytest.raises(ValueError, match=r"nor the 5 environments .* data:1, or a multiple of 2"):
        distributed.make_mesh("data:2", num_seeds=3, num_envs=5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data:3", "needs 3 devices, and there are 2"),
        ("data:2", "data:1, or a multiple of 2 seeds"),
        ("date:2", "write it like data:4,model:2"),
        ("data:2,data:1", "write it like"),
        ("data:0", "write it like"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(spec, message):
    with pytest.raises(ValueError, match=message):
        distributed.make_mesh(spec, num_seeds=3)


def test_too_little_memory_for_a_policy_says_what_to_lower_of_it():
    with (
        pytest.raises(training.OutOfMemoryError) as raised,
        explain_out_of_memory("gflan_prior", Settings(), "runs/x"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    said = str(raised.value)
    for field in ("minibatch_states", "num_envs", "rollout_steps", "lora_rank"):
        assert f"config.policy.{field}" in said
    assert "config.loop" not in said
    assert "of 20 environments" in said


def test_too_little_memory_says_what_to_lower():
    with (
        pytest.raises(
            training.OutOfMemoryError, match=r"config\.loop\.batch_size.*last checkpoint"
        ),
        explain_out_of_memory("dqn_prior", Settings(), "runs/x"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explain_out_of_memory("dqn_prior", Settings(), "runs/x"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
