"""Episodes to show a language model, and the file in which people write them.

The file is JSON Lines in UTF-8, an episode a line:

    {"task": "make tea", "observations": ["The kettle is empty."], "actions": ["fill the kettle"]}

`observations[i]` is what was seen when `actions[i]` was done. `options`, which may be left out, has
for each step the list of actions that were admissible, [] where they are not known.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

from llmprior_jax.files import parse_lines, typed, write_atomically
from llmprior_jax.registry import unknown

_WANTED = (
    'a line is an episode, such as {"task": "make tea", "observations": ["The kettle is empty."], '
    '"actions": ["fill the kettle"], "options": [["fill the kettle", "wait"]]}, the last of which '
    "may be left out"
)


class _Episode(TypedDict):
    """A line of the file."""

    task: str
    observations: list[str]
    actions: list[str]
    options: NotRequired[tuple[tuple[str, ...], ...]]


class Example(NamedTuple):
    """An episode that ended well, to show a model how.

    Examples:
      >>> example = priors.prompts.Example("make tea", (("The kettle is empty.", "fill it"),))
      >>> example.options
      ()

    Attributes:
      task: what was to be achieved.
      steps: (observation, action) pairs, oldest first.
      options: for each step the actions that were admissible, () where they are not known; () for
        an episode of which no step's are.
    """

    task: str
    steps: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, ...], ...] = ()


def read_examples(path: str | os.PathLike[str]) -> list[Example]:
    """Reads episodes that somebody wrote down, JSON Lines in UTF-8.

    Examples:
      >>> line = '{"task": "tidy up", "observations": ["A cup."], "actions": ["take the cup"]}'
      >>> _ = pathlib.Path("shown.jsonl").write_text(line)
      >>> priors.prompts.read_examples("shown.jsonl")
      [Example(task='tidy up', steps=(('A cup.', 'take the cup'),), options=())]

    Args:
      path: the file: in each line `task`, `observations`, `actions`, and if known the `options` of
        each step. Empty lines, and a byte order mark, are nothing.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not UTF-8, or a line is wrong; the message has its number.
    """
    return parse(read_bytes(path), path)


def write_examples(path: str | os.PathLike[str], examples: Iterable[Example]) -> None:
    """Writes episodes as `read_examples` reads them.

    Examples:
      >>> shown = [priors.prompts.Example("tidy up", (("A cup.", "take the cup"),))]
      >>> priors.prompts.write_examples("shown.jsonl", shown)
      >>> priors.prompts.read_examples("shown.jsonl") == shown
      True
    """
    lines: list[str] = []
    for task, steps, options in examples:
        episode: dict[str, Any] = {
            "task": task,
            "observations": [observation for observation, _ in steps],
            "actions": [action for _, action in steps],
        }
        if options:
            episode["options"] = options
        lines.append(json.dumps(episode, ensure_ascii=False))
    write_atomically(pathlib.Path(path), "".join(f"{line}\n" for line in lines))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """What a file of examples holds.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to take examples from; {_WANTED}")
    return path.read_bytes()


def parse(content: bytes, path: str | os.PathLike[str]) -> list[Example]:
    """The episodes of a file's content; `path` is for error messages.

    Raises:
      ValueError: see `read_examples`.
    """
    path = os.fspath(path)
    examples: list[Example] = []
    try:
        for number, fields in parse_lines(content, path, Mapping):
            try:
                examples.append(_episode(fields))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {_WANTED}") from error
    if not examples:
        raise ValueError(f"{path} holds no examples; {_WANTED}")
    return examples


def _episode(fields: Mapping[str, Any]) -> Example:
    """Raises a ValueError that says what is wrong with an episode."""
    known = _Episode.__annotations__
    for name in fields:
        if name not in known:
            raise ValueError(unknown("field", name, known))
    episode = typed(_Episode, fields)
    observations, actions = episode["observations"], episode["actions"]
    options = episode.get("options", ())
    if not actions:
        raise ValueError("there are no 'actions'")
    if not all(actions):
        raise ValueError(f"action {actions.index('') + 1} is empty")
    if len(observations) != len(actions):
        raise ValueError(
            f"there are {len(observations)} observations and {len(actions)} actions; each action "
            "needs what was seen before it"
        )
    if options and len(options) != len(actions):
        raise ValueError(f"there are options for {len(options)} steps and {len(actions)} actions")
    for step, (action, listed) in enumerate(zip(actions, options, strict=False), start=1):
        if listed and action not in listed:
            raise ValueError(f"action {step}, {action!r}, is none of its options")
    return Example(episode["task"], tuple(zip(observations, actions, strict=True)), options)
