"""The settings that the search chose, from its results: nobody copies numbers."""

import pathlib
from typing import Any, TypedDict

from llmprior_jax.files import read_json

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "settings" / "results.json"
# Baselines and the methods beside them: one of a pair alone would be compared with an untuned one.
PAIRS = (("dqn", "dqn_prior"), ("cql", "cql_prior"), ("gflan", "gflan_prior"))
SEARCHED = tuple(agent for pair in PAIRS for agent in pair)


class Found(TypedDict):
    """What is known of the search for one agent's settings; its report has more fields."""

    command: str
    is_quick: bool
    chosen: dict[str, Any]
    fields: dict[str, Any]
    tried: list[dict[str, Any]]


class Results(TypedDict):
    """What `launch.search_settings` has found, by agent."""

    level: float
    searches: dict[str, Found]


def read(path: pathlib.Path) -> dict[str, Found]:
    """The results of all searches by their agents; none if there is no file.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        results: Results = read_json(path, Results)
    except ValueError as error:
        raise ValueError(f"{error}; the file is damaged: remove it, and search anew") from error
    return results["searches"]


def chosen(agent: str, path: pathlib.Path = RESULTS) -> dict[str, Any]:
    """The fields that an agent does best with, where they are not the default, by dotted name.

    Args:
      agent: the agent; of one that was not searched they are the defaults.
      path: the results of `launch.search_settings`; of all agents the defaults if there are none.

    Raises:
      ValueError: the file is damaged, or its results are quick, or it has one agent of a pair
        without the other.
    """
    searches = read(path)
    if quick := [each for each, found in searches.items() if found["is_quick"]]:
        raise ValueError(
            f"{path}: the search for {', '.join(quick)} was made with --quick, which chooses "
            "nothing; make it again without, or remove the file"
        )
    for pair in PAIRS:
        if len(lone := [each for each in pair if each in searches]) == 1:
            raise ValueError(
                f"{path} has settings for {lone[0]}, and none for the other of {' and '.join(pair)}"
                f"; search for both: launch.search_settings --agents={','.join(pair)}"
            )
    return dict(searches[agent]["chosen"]) if agent in searches else {}
