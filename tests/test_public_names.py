"""The public names: whoever adds, renames or removes one says so here."""

import importlib
import os
import subprocess
import sys

import pytest

import llmprior_jax

ROOMS = [
    *("agents", "datasets", "distributed", "envs", "learning", "models", "play", "priors"),
    *("refine", "settings", "training"),
]

NAMES = {
    "llmprior_jax": """
        ActionPrior LanguagePolicy TextState candidate_log_probs clipped_surrogate_loss
        cql_prior_loss cql_prior_penalty dqn_prior_loss elbo_policy_loss
        empirical_log_probs evidence_lower_bound kl_to_prior posterior_bellman_target
        posterior_log_probs sample_candidates sample_posterior soft_value
    """,
    "llmprior_jax.agents": """
        Agent AgentState Candidates Exploration GFlanState Policy PolicyAgent QLearnerState Rollout
        Search States Transitions bc_prior best_of_candidates cql_prior dqn_prior gflan_prior greedy
        is_policy make make_policy mem_q names policy_names prior_alone prior_transforms q_learner
        register register_policy search_prior searches sees_prior temperature trust uniform
        weighs_prior with_prior with_search with_uniform_prior
    """,
    "llmprior_jax.envs": """
        HistoryWrapper NAMES Scene TextEnvironment Thing engines make register with_history
    """,
    "llmprior_jax.envs.engines": """
        Answer Bridge Engine GameError HostStep check_game find_games list_games register
    """,
    "llmprior_jax.models": """
        CheckpointError Decoder DecoderConfig Encoder EncoderConfig EncoderDecoder
        EncoderDecoderConfig KVCache LanguageModel ModelConfig RotaryConfig TextEncoder adapters
        fingerprint load load_encoder load_tokenizer lora partition
    """,
    "llmprior_jax.distributed": """
        make_mesh over_seeds seed_keys
    """,
    "llmprior_jax.learning": """
        Loop LoopState Run make_loop
    """,
    "llmprior_jax.play": """
        Decision Episodes metrics register_metric
    """,
    "llmprior_jax.priors": """
        CachedModel Completion Demonstrated Inspection ModelUsage PriorBatch PriorSource
        PriorStore Prompt Proposals Proposed Queries Sampling Scored SourceContext StoreError
        StoredScores TextScores Token check_options encode_actions estimate generate inspect
        make_source measures normalize project prompt_keys prompts propose register_source score
        score_actions score_texts
    """,
    "llmprior_jax.priors.prompts": """
        Builder Example FEW_SHOT Prompt THINK_FIRST chat few_shot fit fitting make names options
        plain read_examples register room_for story think_first words write_examples
    """,
    "llmprior_jax.training": """
        Checkpoints Config ConfigMismatchError DivergedError InterruptedRunError OutOfMemoryError
        RestoreError
        SUMMARY_FILE default_config make_agent name_priors read_config restore run settled
        to_settings
    """,
    "llmprior_jax.refine": """
        Returns add_returns distillation_loss mixed_log_probs no_returns responsibilities trust
    """,
}


@pytest.mark.parametrize("package", NAMES)
def test_the_public_names_are_these_and_exist(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == NAMES[package].split()
    for name in module.__all__:
        assert hasattr(module, name)


@pytest.mark.parametrize("package", ROOMS)
def test_a_package_needs_no_import_of_its_own(package):
    assert llmprior_jax.__getattr__(package) is importlib.import_module(f"llmprior_jax.{package}")


def test_the_packages_are_listed_before_they_are_used():
    script = f"""
import llmprior_jax
assert set({ROOMS}) <= set(dir(llmprior_jax))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'llmprior_jax' has no attribute 'agent'"):
        llmprior_jax.__getattr__("agent")


@pytest.mark.parametrize("name", ["posterior", "bellman", "elbo"])
def test_the_modules_of_the_equations_are_shadowed_by_no_name(name):
    assert getattr(llmprior_jax, name) is importlib.import_module(f"llmprior_jax.{name}")


def test_the_equations_come_without_the_other_libraries_and_start_no_backend():
    script = """
import sys
import jax
import llmprior_jax
heavy = {"transformers", "gymnax", "flax", "orbax", "torch"} & set(sys.modules)
assert not heavy, heavy
assert not jax._src.xla_bridge._backends, "a backend was started"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_the_other_libraries_a_package_says_what_it_lacks_and_the_equations_work():
    script = """
import sys
missing = ("transformers", "gymnax", "flax", "orbax", "torch", "optax", "rlax")
sys.modules.update(dict.fromkeys(missing))
import jax.numpy as jnp
import llmprior_jax
assert llmprior_jax.soft_value(jnp.zeros(2), jnp.ones(2), 1.0) == 1
try:
    llmprior_jax.envs
except ImportError as error:
    assert str(error) == (
        "llmprior_jax.envs needs gymnax, which is not installed: pip install llmprior-jax"
    ), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_flax_that_is_too_old_for_jax_is_named(tmp_path):
    (tmp_path / "flax").mkdir()
    broken = "import jax\njax.experimental.no_such_thing\n"
    (tmp_path / "flax" / "__init__.py").write_text(broken)
    code = "from llmprior_jax import models"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "cannot be imported with JAX" in result.stderr.splitlines()[-1]
