"""Configurations and the settings that they describe: one set of fields, None where nothing is."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from llmprior_jax import files, training
from llmprior_jax.settings import Settings
from llmprior_jax.training import config as configs
from llmprior_jax.training.config import CONFIG_FILE, changes, claim_workdir
from llmprior_jax.training.validation import validate

OPTIONAL = [
    *("mesh", "wandb_project", "freeform.k", "offline.dataset", "offline.size"),
    *("prior.store", "prior.quantize", "prior.demonstrations", "prior.examples.workdir"),
    *("agent.alpha_from", "agent.alpha_updates", "agent.target_kl", "agent.num_candidates"),
    *("agent.penalty_temperature", "agent.epsilon", "policy.lora_rank"),
    *("prior.refine.rounds", "prior.refine.num_steps"),
]


def at(settings: Settings, name: str):
    """The setting of a field of the configuration."""
    parts = {"mesh": "run", "freeform": "environment"}
    here = settings
    for part in [*filter(None, [parts.get(name.split(".")[0])]), *name.split(".")]:
        here = getattr(here, part)
    return here


def test_the_default_configuration_describes_the_default_settings():
    assert training.to_settings(training.default_config()) == Settings()


@pytest.mark.parametrize("name", OPTIONAL)
def test_zero_and_the_empty_text_say_none_as_a_command_line_must(name):
    config = training.default_config()
    is_number = isinstance(at(Settings(), name), int | float) or name in (
        *("freeform.k", "offline.size", "agent.alpha_from", "policy.lora_rank"),
        *("agent.alpha_updates", "agent.target_kl", "agent.num_candidates"),
        *("agent.penalty_temperature", "agent.epsilon"),
        *("prior.refine.rounds", "prior.refine.num_steps"),
    )
    config.update_from_flattened_dict({name: 0 if is_number else ""})
    assert at(training.to_settings(config), name) is None


def test_a_share_of_zero_is_a_number():
    assert training.to_settings(training.default_config()).prior.uniform_share == 0.0


@pytest.mark.parametrize("part", ["agent", "policy", "prior"])
def test_a_part_of_one_s_own_has_fields_of_its_own(part, tmp_path):
    config = training.default_config()
    config[part].extra.regret = 0.5
    with pytest.raises(AttributeError):
        config[part].regret = 0.5
    assert getattr(training.to_settings(config), part).extra == {"regret": 0.5}
    assert changes(config) == {f"{part}.extra.regret": 0.5}
    claim_workdir(tmp_path, config)
    assert training.to_settings(training.read_config(tmp_path)) == training.to_settings(config)
    config[part].extra.regret = 0.6
    with pytest.raises(training.ConfigMismatchError, match=rf"{part}\.extra\.regret: 0\.5"):
        claim_workdir(tmp_path, config)


def test_a_directory_of_before_a_field_has_its_default(tmp_path):
    config = training.default_config()
    config.agent.alpha = 0.1
    written = json.loads(config.to_json())
    del written["agent"]["extra"], written["offline"]
    written["agent"]["num_candidates"] = 0  # As version 0.1 wrote it.
    (tmp_path / CONFIG_FILE).write_text(json.dumps(written))
    assert training.to_settings(training.read_config(tmp_path)) == training.to_settings(config)
    claim_workdir(tmp_path, config)


@pytest.mark.parametrize(
    ("field", "ran_at"),
    [
        ("prior.prompt", "plain"),
        ("prior.normalization", "sum"),
        ("prior.uniform_share", 0.0),
        ("policy.model", "tiny"),
    ],
)
def test_a_directory_of_before_a_field_ran_at_what_no_model_decided(field, ran_at, tmp_path):
    config = training.default_config()
    config.prior.model = "some/model"
    claim_workdir(tmp_path, config)
    written = files.read_json(tmp_path / CONFIG_FILE)
    part, name = field.split(".")
    del written[part][name]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(written))
    assert at(training.to_settings(training.read_config(tmp_path)), field) == ran_at
    claim_workdir(tmp_path, config)  # It goes on so.


def test_another_model_than_the_embedded_one_is_asked_in_another_way():
    config = training.default_config()
    config.prior.model = "some/model"
    prior = training.to_settings(config).prior
    assert (prior.normalization, prior.uniform_share, prior.prompt) == ("token", 0.2, "few_shot")
    config.prior.normalization, config.prior.uniform_share = "sum", 0.0
    config.prior.prompt = "options"
    prior = training.to_settings(config).prior
    assert (prior.normalization, prior.uniform_share, prior.prompt) == ("sum", 0.0, "options")


def test_the_policy_is_the_model_of_the_prior_unless_it_is_another():
    config = training.default_config()
    config.prior.model = "some/model"
    assert training.to_settings(config).policy.model == "some/model"
    config.policy.model = "tiny"
    assert training.to_settings(config).policy.model == "tiny"


def test_a_directory_goes_on_by_the_defaults_it_began_with(tmp_path, monkeypatch):
    config = training.default_config()
    config.prior.model = "some/model"
    claim_workdir(tmp_path, config)
    began = training.read_config(tmp_path)
    assert (began.prior.normalization, began.policy.model) == ("token", "some/model")
    monkeypatch.setitem(configs._ANY_OTHER, "normalization", "word")
    claim_workdir(tmp_path, config)
    assert training.settled(config, began).prior.normalization == "token"
    config.prior.normalization = "word"
    with pytest.raises(training.ConfigMismatchError, match=r"prior\.normalization: 'token'"):
        claim_workdir(tmp_path, config)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().run.seed = 1


def test_reading_a_configuration_uses_no_device():
    root = pathlib.Path(__file__).parent.parent
    script = """
import jax
from launch.configs import quickstart
from llmprior_jax import files, training
from llmprior_jax.training import config as configs
training.to_settings(quickstart.get_config())
assert not jax._src.xla_bridge._backends, "a backend was started"
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


@pytest.mark.parametrize(
    ("agent", "modes", "message"),
    [
        ("dqn", (), r"eval_modes is \(\); name one or more modes, each once"),
        ("dqn", ("greedy", "greedy"), "each once"),
        ("dqn", ("best",), "eval_modes has 'best'; use one of sample, greedy, candidates"),
        ("gflan", ("sample", "candidates"), "largest Q is taken, and gflan has no Q"),
    ],
)
def test_modes_of_evaluation_that_there_are_not_are_refused(agent, modes, message):
    config = training.default_config()
    config.agents, config.eval_modes = (agent,), modes
    with pytest.raises(ValueError, match=message):
        validate(training.to_settings(config))


def test_a_name_that_would_lead_out_of_a_directory_is_refused_before_a_run():
    config = training.default_config()
    config.agents = ("../other",)
    with pytest.raises(ValueError, match=r"agents has '\.\./other', which names no directory"):
        validate(training.to_settings(config))


def test_a_configuration_whose_fields_have_other_types_is_damaged(tmp_path):
    (tmp_path / CONFIG_FILE).write_text('{"agents": "dqn"}')
    with pytest.raises(ValueError, match=r"config\.json is damaged.*agents"):
        training.read_config(tmp_path)


def test_a_configuration_with_the_one_mode_of_before_is_evaluated_in_it():
    old = {"agents": ["dqn"], "eval_mode": "greedy", "segment_steps": 32}
    config = configs.parse_config(json.dumps(old).encode(), pathlib.Path("config.json"))
    assert training.to_settings(config).run.eval_modes == ("greedy",)
