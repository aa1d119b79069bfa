"""Progress bars are seen where somebody watches, and leave no trace in a log."""

import io

from llmprior_jax import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, monkeypatch) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    with progress.bar(total=2, desc="scoring", unit="state") as bar:
        bar.update(2)
    return stream.getvalue()


def test_a_bar_is_seen_in_a_terminal(monkeypatch):
    assert "scoring: 100%" in told(Terminal(), monkeypatch)


def test_a_file_gets_none(monkeypatch):
    assert told(io.StringIO(), monkeypatch) == ""
