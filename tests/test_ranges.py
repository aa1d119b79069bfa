"""Numbers of settings: each has a range, and what is out of it is refused by its name."""

import dataclasses
import math
import reprlib
import typing

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from llmprior_jax import agents, distributed, models, ranges, training
from llmprior_jax.play import collecting
from llmprior_jax.priors.language_policy import language_policy
from llmprior_jax.settings import Settings
from llmprior_jax.training.config import flat
from llmprior_jax.training.validation import RANGES, validate

AT_TOP = ("environment", "run")
FLOAT32 = np.finfo(np.float32)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**400, 1e-300, 1e-40, 1e39, -0.0, 0.5]),
    st.integers(min_value=-3, max_value=40),
)


def numeric_fields(part: type = Settings, prefix: str = "") -> typing.Iterator[str]:
    """The dotted names of all fields that are numbers, or tuples of numbers."""
    types = typing.get_type_hints(part)
    for field in dataclasses.fields(part):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            inner = prefix if field.name in AT_TOP else f"{prefix}{field.name}."
            yield from numeric_fields(kind, inner)
        elif {int, float} & {kind, *typing.get_args(kind)}:
            yield prefix + field.name


def with_number(settings: Settings, name: str, value) -> Settings:
    """The settings with another value of one field."""
    part_name, _, rest = name.rpartition(".")
    if not part_name:
        part_name = next(
            part
            for part in AT_TOP
            if name in {field.name for field in dataclasses.fields(getattr(settings, part))}
        )
    elif part_name.split(".")[0] in ("engine", "freeform"):
        part_name = f"environment.{part_name}"
    return _replaced(settings, [*part_name.split("."), rest], value)


def _replaced(part, path: list[str], value):
    first, *others = path
    inner = _replaced(getattr(part, first), others, value) if others else value
    return dataclasses.replace(part, **{first: inner})


def refusal(name: str, value) -> str | None:
    """What is said of a field's value; None if it is taken."""
    try:
        validate(with_number(Settings(), name, value))
    except ValueError as error:
        return str(error)
    return None


def test_every_number_of_the_settings_has_a_range():
    assert set(numeric_fields()) == set(RANGES)


def test_the_defaults_are_in_their_ranges():
    for name, value in flat(Settings()).items():
        for number in value if isinstance(value, list) else [value]:
            assert name not in RANGES or number is None or number in RANGES[name], name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("agent.max_grad_norm", value) for value in (math.nan, -1.0, 0.0)),
        *(("agent.learning_rate", value) for value in (math.inf, 1e39)),
        ("agent.target_kl", math.inf),
        ("agent.alpha", 1e-300),
        ("policy.value_learning_rate", math.inf),
        ("policy.max_grad_norm", math.nan),
        ("policy.epochs", 2**31),
        ("seed", 2**63),
        ("seed", -1),
        ("eval_episodes", 2**31),
        ("loop.warmup_steps", 2**31),
        ("agent.num_candidates", 2**31),
        ("prior.num_features", 2**31),
        ("history", 2**31),
        ("engine.timeout", math.inf),
        ("num_seeds", True),
        ("prior.propose.temperature", 1e-300),
        ("prior.temperature", "hot"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_field(name, value):
    said = refusal(name, value)
    assert said is not None
    assert said.startswith(f"config.{name} is {value!r}; use ")
    assert str(RANGES[name]) in said


@pytest.mark.parametrize("name", ["agent.hidden_sizes", "policy.hidden_sizes"])
@pytest.mark.parametrize("size", [0.5, 0, 2**31])
def test_a_size_that_is_none_is_refused_by_its_field(name, size):
    said = refusal(name, (64, size))
    assert said is not None
    assert said.startswith(f"an entry of config.{name} is {size}; use a whole number")


def test_of_a_field_that_may_be_unset_the_refusal_says_so():
    assert refusal("agent.num_candidates", -1) == (
        "config.agent.num_candidates is -1; use a whole number from 1 to 10,000, or 0 for none"
    )


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(name=st.sampled_from(sorted(RANGES)), value=NUMBERS)
def test_any_number_is_finite_in_float32_or_refused_by_its_field(name, value):
    given_value = (value,) if name.endswith("hidden_sizes") else value
    said = refusal(name, given_value)
    if value in RANGES[name]:  # It may still disagree with another field.
        in_float32 = np.float32(value)
        assert np.isfinite(in_float32)
        # Nothing that divides by it, or takes its logarithm, finds a 0 that was not written.
        assert (abs(in_float32) >= FLOAT32.tiny) or value == 0 or RANGES[name] == ranges.SHARE
    else:
        assert said is not None
        assert f"config.{name} is {reprlib.repr(value)}" in said


@pytest.mark.parametrize("allowed", [ranges.COUNT, ranges.WIDTH])
def test_a_fraction_is_no_whole_number(allowed):
    with pytest.raises(ValueError, match=r"size is 2\.5; use a whole number from 1 to"):
        allowed.check("size", 2.5)


def test_numbers_of_numpy_are_numbers():
    ranges.COUNT.check("size", np.int32(3))
    ranges.POSITIVE.check("rate", np.float32(0.1))


@pytest.mark.parametrize("field", ["num_steps", "seed", "history"])
def test_a_run_with_such_a_number_leaves_no_directory(field, tmp_path):
    config = training.default_config()
    config.update_from_flattened_dict({"env": "FrozenLake-4x4", field: 2**63})
    with pytest.raises(ValueError, match=rf"config\.{field} is "):
        training.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_seed_that_would_be_cut_to_32_bits_is_refused():
    with pytest.raises(ValueError, match=r"seed is 4294967296; use .* to 4,294,967,295"):
        distributed.seed_keys(2**32, num_seeds=1)


def test_collecting_takes_no_seed_that_is_none():
    with pytest.raises(ValueError, match="seed is -1; use a whole number from 0"):
        collecting.collect(None, None, [], num_episodes=1, seed=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", math.inf),
        ("learning_rate", math.nan),
        ("value_learning_rate", 1e39),
        ("clip_epsilon", math.inf),
        ("max_grad_norm", math.inf),
        ("epochs", 1.5),
        ("minibatch_states", math.nan),
        ("hidden_sizes", (0.5,)),
    ],
)
def test_gflan_prior_refuses_what_is_no_number_in_float32(name, value):
    model = language_policy(models.load("tiny"), num_actions=2)
    with pytest.raises(ValueError, match=rf"{name} is "):
        agents.gflan_prior(model, **{name: value})
