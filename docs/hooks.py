"""Lets the pages link to files of the repository: in the built documentation they are on GitHub."""

import re
from typing import Any

# A link or a picture that leads out of docs/.
_OUTSIDE = re.compile(r"(!?)(\[[^\]]*\])\(\.\./((?!reference/)[^)]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Replaces the links of a page that lead out of the documentation."""

    def on_github(match: re.Match[str]) -> str:
        picture, text, path = match.groups()
        return f"{picture}{text}({config.repo_url}/{'raw' if picture else 'blob'}/main/{path})"

    return _OUTSIDE.sub(on_github, markdown)
