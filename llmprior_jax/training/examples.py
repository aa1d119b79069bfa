"""Episodes to show a language model: successes of an agent of ours, or what somebody wrote down.

The examples of a run are collected or read once, before anything is scored, and kept in its work
directory: another example makes another prompt, and another prompt another prior.
"""

import json
import pathlib
from typing import TYPE_CHECKING, Any, TypedDict

import jax

from llmprior_jax.distributed.processes import from_first
from llmprior_jax.examples import Example, parse, read_bytes
from llmprior_jax.files import parse_json, sealed, typed, write_atomically

if TYPE_CHECKING:
    from llmprior_jax.learning import Run

FILE = "examples.json"

_ATTEMPTS_PER_EXAMPLE = 20
_TEXTS = tuple[tuple[str, ...], ...]


class _Kept(TypedDict):
    """What the file holds beside its hash."""

    examples: list[list[Any]]


def collect(run: "Run", count: int, key: jax.Array) -> list[Example]:
    """Plays episodes, with the agents of all seeds in turn, until enough of them succeed.

    Args:
      run: a trained agent.
      count: examples wanted; no two are the same.
      key: randomness of environment and agent.

    Raises:
      ValueError: the agent succeeds too rarely, or always in the same way.
    """
    num_seeds = len(jax.tree.leaves(run.state)[0])
    examples: dict[Example, None] = {}
    attempts = _ATTEMPTS_PER_EXAMPLE * count
    for attempt in range(attempts):
        decisions = list(run.play(attempt % num_seeds, jax.random.fold_in(key, attempt)))
        if decisions[-1].success:
            steps = tuple((d.text.observation, d.text.actions[d.action]) for d in decisions)
            options = tuple(d.text.actions for d in decisions)
            examples[Example(decisions[0].text.task, steps, options)] = None
        if len(examples) == count:
            return list(examples)
    raise ValueError(
        f"of {attempts} episodes of the agent, {len(examples)} are different successes, and "
        f"config.prior.examples.count is {count}; ask for fewer, or of a better agent"
    )


def read_file(path: str) -> list[Example]:
    """The examples that somebody wrote down, the same in all processes.

    Raises:
      FileNotFoundError, ValueError: see `priors.prompts.read_examples`.
    """
    return parse(from_first(lambda: read_bytes(path)), path)


def read(workdir: pathlib.Path) -> list[Example] | None:
    """The examples that a work directory keeps, None if it has none.

    Raises:
      ValueError: the file is damaged.
    """
    path = workdir / FILE
    # An empty file is there, and damaged.
    content = from_first(lambda: path.read_bytes() or b"\n" if path.exists() else b"")
    if not content:
        return None
    try:
        kept = parse_json(content, "its content")
        # Earlier versions kept a list alone, and version 0.1 no options in it.
        listed = typed(_Kept, kept)["examples"] if isinstance(kept, dict) else kept
        return [
            Example(
                typed(str, task, "a task"),
                tuple((observation, action) for observation, action in typed(_TEXTS, steps)),
                typed(_TEXTS, rest[0]) if rest else (),
            )
            for task, steps, *rest in typed(list[list[Any]], listed)
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); start the run again with --noresume"
        ) from error


def write(workdir: pathlib.Path, examples: list[Example]) -> None:
    """Keeps examples in a work directory."""
    write_atomically(workdir / FILE, json.dumps(sealed({"examples": examples}), indent=1) + "\n")
