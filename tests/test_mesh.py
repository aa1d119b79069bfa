"""A run over a mesh of devices gives what it gives on one, and bad meshes say what would do."""

import pathlib
import subprocess
import sys
import textwrap

import jax
import pytest

from llmprior_jax import training
from llmprior_jax.training.mesh import explain_out_of_memory

ROOT = pathlib.Path(__file__).parent.parent

_ON_EIGHT_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", "{cache}")
import numpy as np
from llmprior_jax import models, priors, training
from llmprior_jax.models import partition

def f(key, shared):
    return jax.random.normal(key, (3,)) @ shared

keys = jax.random.split(jax.random.key(0), 4)
shared = np.arange(6, dtype=np.float32).reshape(3, 2)
results = {{
    mesh: training.over_seeds(f, (0, None), 4, mesh=mesh)(keys, shared)
    for mesh in ("data:1", "", "data:2,model:4")
}}
assert len(results[""].sharding.device_set) == 4
for result in results.values():
    np.testing.assert_array_equal(result, results["data:1"])

lm = models.load("tiny")
mesh = training.make_mesh("data:2,model:4", 4)
cut = partition(lm, mesh)
kernel = jax.tree_util.tree_leaves(cut.params["blocks"][0]["mlp"]["gate_proj"]["kernel"])[0]
assert kernel.addressable_shards[0].data.shape[1] * 4 == kernel.shape[1]
prompts = ["Task: make a tomato salad\\nNext:", "Task: wash up\\nNext:"]
actions = [[" pick up the tomato", " go to the sink"], [" go to the sink"]]
whole, shared_out = (priors.score(model, prompts, actions) for model in (lm, cut))
np.testing.assert_allclose(shared_out.log_probs, whole.log_probs, atol=1e-5)
np.testing.assert_allclose(shared_out.features, whole.features, atol=1e-4)
print("all equal")
"""


def test_eight_devices_give_what_one_gives():
    script = textwrap.dedent(_ON_EIGHT_DEVICES).format(cache=ROOT / ".jax_cache")
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert "all equal" in result.stdout, result.stderr


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
        training.make_mesh(spec, num_seeds=3)


def test_too_little_memory_says_what_to_lower():
    config = training.default_config()
    with (
        pytest.raises(
            training.OutOfMemoryError, match=r"config\.loop\.batch_size.*last checkpoint"
        ),
        explain_out_of_memory(config, "runs/x"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explain_out_of_memory(config, "runs/x"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
