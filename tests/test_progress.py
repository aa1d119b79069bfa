"""Progress is a bar where somebody watches, and elsewhere a line every half minute."""

import io

import pytest

from llmprior_jax import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress._last_said, "time", None)
    return clock


def test_a_bar_is_seen_in_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.bar(total=2, desc="scoring", unit="state") as bar:
        bar.update(2)
    assert "scoring: 100%" in terminal.getvalue()


def test_a_line_every_half_minute_says_how_far_it_is(capsys, clock):
    with progress.bar(total=806, desc="prior", unit="state") as bar:
        for _ in range(9):
            clock.now += 10
            bar.update(13)
    assert capsys.readouterr().err.splitlines() == [
        "prior: 39/806 states, 1.3/s, 10 min left",
        "prior: 78/806 states, 1.3/s, 9 min left",
        "prior: 117/806 states, 1.3/s, 9 min left",
    ]


def test_what_takes_less_than_half_a_minute_is_not_told(capsys, clock):
    with progress.bar(total=2, desc="scoring", unit="state") as bar:
        clock.now += 29
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_of_many_short_bars_one_is_told_every_half_minute(capsys, clock):
    for _ in range(9):
        with progress.bar(total=8, desc="prior", unit="state") as bar:
            clock.now += 10
            bar.update(8)
    assert capsys.readouterr().err.splitlines() == ["prior: 8/8 states, 0.8/s, 0 s left"] * 3


def test_what_goes_on_later_counts_its_own_rate(capsys, clock):
    bar = progress.bar(total=4000, initial=1000, desc="dqn", unit=" steps", bar_format=None)
    bar.set_postfix({"success": "0.50"})
    clock.now += 60
    bar.update(3000 - bar.n)
    assert capsys.readouterr().err == "dqn: 3,000/4,000 steps, 33/s, 30 s left, success 0.50\n"


def test_what_takes_no_steps_tells_its_time(capsys, clock):
    bar = progress.bar(total=0, desc="prior", unit=" steps")
    bar.set_postfix(success="0.50")
    clock.now += 120
    bar.update(0)
    assert capsys.readouterr().err == "prior: 2 min, success 0.50\n"


def test_things_are_gone_through(capsys, clock):
    seen = []
    for item in progress.bar(["a", "b"], desc="runs", unit="run"):
        clock.now += 40
        seen.append(item)
    assert seen == ["a", "b"]
    assert capsys.readouterr().err.splitlines()[0] == "runs: 1/2 runs, 0.025/s, 40 s left"


def test_only_the_first_process_tells(capsys, clock, monkeypatch):
    monkeypatch.setattr(progress.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(progress.jax, "process_index", lambda: 1)
    with progress.bar(total=2, desc="scoring", unit="state") as bar:
        clock.now += 40
        bar.update()
    assert capsys.readouterr().err == ""
