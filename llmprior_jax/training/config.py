"""The configuration of a run: the fields of `settings` as a `ConfigDict`, and in a work directory.

A configuration is what command lines and config files set; nothing below it knows that it exists.
This module alone makes one of settings (`default_config`) and settings of one (`to_settings`). It
imports nothing that uses a device, so that a run of several processes can read its configuration
before they join.
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict, config_dict

from llmprior_jax.files import parse_json, sealed, typed, write_atomically
from llmprior_jax.models import adapters
from llmprior_jax.settings import OtherPriorSettings, PriorSettings, Settings

CONFIG_FILE = "config.json"
# Parts whose fields stand at the top of a configuration: `config.env`, `config.num_seeds`.
_AT_TOP = ("environment", "run")
# Fields that only a part of one's own has.
_EXTRA = "extra"
# How a language model is best asked, where a configuration leaves that to the model. The embedded
# model was made for its prompt; any other is too sure of itself, likes short texts too much, and
# does not know in what words actions are said before it has seen some. Chosen with two models on
# kitchens with other recipes than those that are measured.
_EMBEDDED_MODEL = "tiny"
_EMBEDDED = {"normalization": "sum", "uniform_share": 0.0, "prompt": "plain"}
_ANY_OTHER = {"normalization": "token", "uniform_share": 0.2, "prompt": "few_shot"}
_WITHOUT_EXAMPLES = {**_ANY_OTHER, "prompt": "story"}
# The field of further priors, which are settings of their own.
_OTHERS = "others"
# Parts of agents that learn how far to trust a prior.
_WITH_TRUST = ("agent", "policy")
# What would lead out of a directory, or cannot be in the name of a file.
_NOT_IN_NAMES = ("/", "\\", "\0")
# Fields of earlier versions, which changed how a run computed, and not what.
_FORMER = ("segment_steps",)
# Fields that change where and how a run computes, and not what.
_SAME_RESULTS = ("mesh", "prior.store", "wandb_project")

Config: TypeAlias = Any
"""A `ml_collections.ConfigDict`, whose fields a type checker cannot know."""

_Part = TypeVar("_Part")


class ConfigMismatchError(ValueError):
    """A work directory was made with another configuration."""


def default_config() -> Config:
    """All fields of a run with their defaults; config files start from it.

    `llmprior_jax.settings` says what each field means. Setting a field that does not exist is an
    error. Fields that may be left unset are None; on a command line, where None cannot be written,
    use 0 or the empty text.

    Some fields are None because their default depends on the prior's language model: how it is
    asked (`prior.normalization`, `prior.uniform_share`, `prior.prompt`), and the policy's model,
    which is the same one (`policy.model`). `settled` fills them in, and work directories record
    the result.

    Examples:
      >>> config = training.default_config()
      >>> config.agent.alpha = 0.1
      >>> config.agent.alhpa = 0.1
      Traceback (most recent call last):
      AttributeError: ...
    """
    config: Config = ConfigDict(_fields(Settings()))
    config.lock()
    for part in (config.prior, config.agent, config.policy):
        part[_EXTRA].unlock()
    with config.ignore_type():
        for name in _EMBEDDED:
            kind = type(_EMBEDDED[name])
            config.prior[name] = config_dict.placeholder(kind)
        config.policy.model = config_dict.placeholder(str)
    return config


def settled(config: Config, recorded: Config | None = None, has_examples: bool = True) -> Config:
    """A copy in which the defaults that depend on the language model are filled in.

    Examples:
      >>> config = training.default_config()
      >>> training.settled(config).prior.normalization
      'sum'
      >>> config.prior.model = "Qwen/Qwen2.5-0.5B"
      >>> training.settled(config).prior.normalization, training.settled(config).policy.model
      ('token', 'Qwen/Qwen2.5-0.5B')

    Args:
      config: the configuration.
      recorded: that of a work directory, whose values stand before those that are the default
        today: so a run goes on as it began.
      has_examples: whether there are examples to show, the environment's own if no others.
    """
    fields = config.to_dict()
    _settle(fields, None if recorded is None else recorded.to_dict(), has_examples)
    copy: Config = config.copy_and_resolve_references()
    for part, names in (("prior", (*_EMBEDDED, _OTHERS)), ("policy", ("model",))):
        for name in names:
            copy[part][name] = fields[part][name]
    return copy


def _settle(
    fields: dict[str, Any], recorded: dict[str, Any] | None = None, has_examples: bool = True
) -> None:
    """Fills in what depends on the language model (in place)."""
    for part in ("prior", "policy"):
        typed(Mapping, fields.get(part), f"config.{part}")
    prior, policy = fields["prior"], fields["policy"]
    others = typed(tuple, prior[_OTHERS], f"config.prior.{_OTHERS}")
    prior[_OTHERS] = tuple(map(_parse_other, others))
    if recorded is not None:
        for part, names in ((prior, tuple(_EMBEDDED)), (policy, ("model",))):
            theirs = recorded["prior" if part is prior else "policy"]
            for name in names:
                part[name] = theirs[name] if part[name] in (None, "") else part[name]
        for other, known in zip(prior[_OTHERS], recorded["prior"][_OTHERS], strict=False):
            if other["model"] == known["model"]:
                said = {name: of for name, of in other.items() if of not in (None, "")}
                other |= {**known, **said}
    # Demonstrations are counted, whatever the model.
    _suit(prior, has_examples, counted=prior["method"] == "imitate")
    for other in prior[_OTHERS]:
        _suit(other, has_examples)
    _check_different(prior)
    policy["model"] = policy["model"] or prior["model"]


def _suit(prior: dict[str, Any], has_examples: bool, counted: bool = False) -> None:
    """Fills in how a language model is asked, as suits it (in place)."""
    model = prior["model"]
    # What is no text is refused where types are checked.
    if isinstance(model, str) and adapters.is_adapter(model):
        model = adapters.open_adapter(model).base
    own = counted or model == _EMBEDDED_MODEL
    any_other = _ANY_OTHER if has_examples else _WITHOUT_EXAMPLES
    for name, value in (_EMBEDDED if own else any_other).items():
        prior[name] = value if prior.get(name) in (None, "") else prior[name]


def _check_different(prior: Mapping[str, Any]) -> None:
    """Raises a ValueError if a prior comes twice, which would give it twice the weight."""
    # Another method makes another prior of the same model.
    scored = [*([prior] if prior["method"] == "score" else []), *prior[_OTHERS]]
    kinds = [tuple(each[name] for name in ("model", *_EMBEDDED)) for each in scored]
    for number, each in enumerate(scored):
        if kinds[number] in kinds[:number]:
            raise ValueError(
                f"config.prior.others has {each['model']!r}, asked with {each['prompt']!r}, a "
                "second time; name each prior once"
            )


def _parse_other(other: Any) -> dict[str, Any]:
    """The fields of a further prior: as they are, or of a model, or of `MODEL@PROMPT`.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(other, str):
        model, prompt = split_prompt(other)
        return {"model": model, **({"prompt": prompt} if prompt else {})}
    if not isinstance(other, Mapping):
        raise ValueError(f"config.prior.others has {other!r}; use MODEL or MODEL@PROMPT")
    fields: dict[str, Any] = dict(typing.cast(Mapping[str, Any], other))
    unknown = sorted(fields.keys() - {each.name for each in dataclasses.fields(OtherPriorSettings)})
    if unknown or "model" not in fields:
        what = f"has {', '.join(unknown)}" if unknown else "names no model"
        raise ValueError(
            f"config.prior.others has {fields!r}, which {what}; a further prior is MODEL, "
            "MODEL@PROMPT, or the fields of settings.OtherPriorSettings"
        )
    return fields


def name_priors(config: Config, text: str) -> None:
    """Sets the language models of a configuration from a list, such as `tiny,SmolLM2.gguf`.

    Examples:
      >>> config = training.default_config()
      >>> training.name_priors(config, "tiny,SmolLM2.gguf@options+few_shot")
      >>> config.prior.model, config.prior.others
      ('tiny', ('SmolLM2.gguf@options+few_shot',))

    Args:
      config: the configuration, which is changed.
      text: models with commas between them, each of which may have a prompt, `MODEL@PROMPT`.

    Raises:
      ValueError: a name is empty, or the configuration names other further priors.
    """
    names = [text] if pathlib.Path(text).exists() else [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"--prior is {text!r}, in which a name is empty; use MODEL,MODEL,...")
    config.prior.model, prompt = split_prompt(names[0])
    if prompt:
        config.prior.prompt = prompt
    if names[1:] and config.prior.others:
        raise ValueError(
            f"--prior names {len(names)} priors, and config.prior.others has others: "
            f"{config.prior.others!r}; name them in one of the two"
        )
    config.prior.others = tuple(names[1:]) or config.prior.others


def split_prompt(text: str) -> tuple[str, str]:
    """A language model and its prompt, of `MODEL@PROMPT`; the prompt may be left out, and is ''.

    Examples:
      >>> split_prompt("SmolLM2.gguf@options+few_shot"), split_prompt("tiny")
      (('SmolLM2.gguf', 'options+few_shot'), ('tiny', ''))

    Raises:
      ValueError: nothing stands before such a sign, or after it.
    """
    # A path may have such a sign, too.
    if pathlib.Path(text).exists():
        return text, ""
    model, sign, prompt = text.rpartition("@")
    if sign and not (model and prompt):
        raise ValueError(f"{text!r} is no prior; write MODEL, or MODEL@PROMPT")
    return (model, prompt) if sign else (text, "")


def to_settings(config: Config) -> Settings:
    """The settings that a configuration describes.

    Examples:
      >>> config = training.default_config()
      >>> config.offline.size = 0  # as a command line says None
      >>> training.to_settings(config).offline.size is None
      True
    """
    fields = config.to_dict()
    _settle(fields)
    return _read(Settings, fields, "config")


def _fields(part: Any) -> dict[str, Any]:
    """The fields of settings by name, as a `ConfigDict` is made of them."""
    fields: dict[str, Any] = {}
    types = typing.get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in _AT_TOP:
            fields |= _fields(value)
        elif dataclasses.is_dataclass(value):
            fields[field.name] = _fields(value)
        elif value is None:
            fields[field.name] = config_dict.placeholder(typing.get_args(types[field.name])[0])
        else:
            fields[field.name] = dict(value) if isinstance(value, Mapping) else value
    return fields


def _read(part: type[_Part], fields: Mapping[str, Any], name: str) -> _Part:
    """One part of the settings from the fields of a configuration, whose name is for errors."""
    values = {}
    types = typing.get_type_hints(part)
    for field in dataclasses.fields(typing.cast(Any, part)):
        kind = types[field.name]
        of_field = f"{name}.{field.name}"
        if field.name in _AT_TOP:
            values[field.name] = _read(kind, fields, name)
        elif field.name not in fields:
            raise ValueError(f"{of_field} is not there; start from training.default_config()")
        else:
            values[field.name] = _value(kind, fields[field.name], of_field)
    return part(**values)


def _value(kind: Any, value: Any, name: str) -> Any:
    """A field's value as its type has it: JSON has lists for tuples, command lines no None.

    Raises:
      ValueError: it is of another type.
    """
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type[Any], kind), typed(Mapping, value, name), name)
    if type(None) in typing.get_args(kind) and not isinstance(value, bool) and value in ("", 0):
        return None
    of_each = typing.get_args(kind)[:1]
    if typing.get_origin(kind) is tuple and dataclasses.is_dataclass(of_each[0]):
        parts = typed(tuple, value, name)
        return tuple(_value(of_each[0], part, f"{name}[{i}]") for i, part in enumerate(parts))
    return typed(kind, value, name)


def check_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Checks that a work directory, if there is one, belongs to `config`.

    Raises:
      ConfigMismatchError: the directory was made by a different configuration; the message lists
        the fields that differ.
      ValueError: its configuration cannot be read.
    """
    if not (workdir / CONFIG_FILE).exists():
        return
    recorded = read_config(workdir)
    theirs, ours = flat(to_settings(recorded)), flat(to_settings(settled(config, recorded)))
    differences = [
        f"  {name}: {theirs.get(name, 'not there')!r} in the directory, "
        f"{ours.get(name, 'not there')!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name) and name not in _SAME_RESULTS
    ]
    if differences:
        raise ConfigMismatchError(
            f"{workdir} belongs to a run with another configuration:\n"
            + "\n".join(differences)
            + "\nUse another --workdir or the same configuration, or --noresume to remove that run."
        )


def claim_workdir(workdir: pathlib.Path, config: Config) -> None:
    """Makes a work directory for `config`, or checks that it belongs to that very one.

    Raises:
      ConfigMismatchError, ValueError: see `check_workdir`.
    """
    check_workdir(workdir, config)
    path = workdir / CONFIG_FILE
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        content = sealed(json.loads(settled(config).to_json()))
        write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_config(workdir: pathlib.Path) -> Config:
    """The configuration that a work directory was made by.

    If the directory is older than a field, the field has the default of `settings`.

    Examples:
      >>> training.read_config(pathlib.Path("runs/lake")).env
      'FrozenLake-4x4'

    Raises:
      FileNotFoundError: the directory holds no run.
      ValueError: the file is damaged, or an agent in it has a name that leads out of the directory.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run: there is no {CONFIG_FILE} in it")
    return parse_config(path.read_bytes(), path)


def parse_config(content: bytes, path: pathlib.Path) -> Config:
    """The configuration that a work directory's file holds; see `read_config`.

    Args:
      content: of the file.
      path: of the file, to name it.
    """
    try:
        fields = parse_json(content, "its content", dict)
        if "eval_mode" in fields:  # There was one mode only.
            fields.setdefault("eval_modes", [fields.pop("eval_mode")])
        said = ConfigDict({name: value for name, value in fields.items() if name not in _FORMER})
        # Not of `default_config`, which leaves to the model what a run without the field had fixed.
        began = ConfigDict(_fields(Settings()))
        # Made anew, because JSON has lists for tuples, and a `ConfigDict` keeps the types it has.
        config: Config = ConfigDict(json.loads(began.to_json()))
        # Before trust could be learned, every prior was taken as it is.
        for part in _WITH_TRUST:
            config[part].trust = "fixed"
        config.update(said)
        check_agents(config.agents)
        to_settings(config)
        return config
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; use another --workdir") from error


def check_agents(names: Any) -> None:
    """Checks that each agent's name can be that of its directory in a work directory.

    Examples:
      >>> check_agents(("dqn_prior", "my_module:my_agent"))
      >>> check_agents(["../other"])
      Traceback (most recent call last):
      ValueError: agents has '../other', which names no directory ...

    Raises:
      ValueError: they are no list of texts, or one of them is empty, leads out of the directory
        or to a place deeper in it, or cannot be the name of a file.
    """
    if not isinstance(names, list | tuple):
        raise ValueError(f"agents is {names!r}; name agents in a list")
    for name in typing.cast(Sequence[Any], names):
        is_name = isinstance(name, str) and name not in ("", ".", "..")
        if not is_name or any(character in name for character in _NOT_IN_NAMES):
            raise ValueError(
                f"agents has {name!r}, which names no directory in a work directory; use a name "
                "without slashes"
            )


def priors_of(prior: PriorSettings) -> tuple[PriorSettings, ...]:
    """The first prior and the others, each as if it were the only one."""
    own = ("model", *_EMBEDDED)
    others = (
        dataclasses.replace(
            prior,
            **{name: getattr(other, name) for name in own},
            method="score",
            reversed=False,
            others=(),
        )
        for other in prior.others
    )
    return (dataclasses.replace(prior, others=()), *others)


def asked(prior: PriorSettings) -> str:
    """How a language model is asked, for people: "few_shot, by token, 0.2 uniform"."""
    how = {
        "score": f"by {prior.normalization}",
        "propose": f"{prior.propose.k} answers",
        "imitate": "demonstrations counted",
    }
    parts = [prior.prompt, how.get(prior.method, prior.method)]
    if prior.temperature != 1 and prior.method not in ("propose", "imitate"):
        parts.append(f"temperature {prior.temperature:g}")
    if prior.reversed:
        parts.append("reversed")
    if prior.uniform_share:
        parts.append(f"{prior.uniform_share:g} uniform")
    return ", ".join(parts)


def step_unit(config: Config) -> str:
    """What the steps of a configuration's runs are: "environment steps" or "updates"."""
    return "environment steps" if to_settings(config).offline.dataset is None else "updates"


def changes(config: Config) -> dict[str, Any]:
    """The fields in which a configuration differs from the default one, by dotted name.

    Without those that change where and how a run computes, and not what.
    """
    default = flat(Settings())
    return {
        name: value
        for name, value in flat(to_settings(config)).items()
        if name not in default or (value != default[name] and name not in _SAME_RESULTS)
    }


def flat(settings: Settings) -> dict[str, Any]:
    """The fields of settings by dotted name, as JSON has them."""
    nested = dataclasses.asdict(settings)
    for part in _AT_TOP:
        nested |= nested.pop(part)
    return _leaves(json.loads(json.dumps(nested)))


def _leaves(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
