"""Lets the pages link to files of the repository: in the built documentation they are on GitHub."""

import re
from typing import Any

# A link or a picture.
_LINK = r"(!?)(\[[^\]]*\])\(%s([^)]+)\)"


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Replaces the links of a page that lead out of the documentation."""
    outside = re.escape("../" * (1 + page.file.src_uri.count("/")))

    def on_github(match: re.Match[str]) -> str:
        picture, text, path = match.groups()
        return f"{picture}{text}({config.repo_url}/{'raw' if picture else 'blob'}/main/{path})"

    return re.sub(_LINK % outside, on_github, markdown)
