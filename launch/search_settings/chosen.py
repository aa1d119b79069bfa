"""The settings that the search chose, from its results: nobody copies numbers."""

import pathlib
from typing import Any

from llmprior_jax.files import read_json

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "settings" / "results.json"


def chosen(agent: str, path: pathlib.Path = RESULTS) -> dict[str, Any]:
    """The fields that an agent does best with, where they are not the default, by dotted name.

    Args:
      agent: the agent; of one that was not searched they are the defaults.
      path: the results of `launch.search_settings`; of all agents the defaults if there are none.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.exists():
        return {}
    found = read_json(path, dict[str, Any])
    search = found["searches"].get(agent)
    return {} if search is None else dict(search["chosen"])
