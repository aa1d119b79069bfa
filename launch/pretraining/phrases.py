"""Small tools for writing generated text: documents, pieces, lists of things, voices.

A document is a sequence of pieces. Each piece says whether it is a decision ("put the leek in the
pot") or what a decision follows from; the trainer may then weigh the two differently, because the
words of a decision are few among the many that describe a kitchen.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Piece(NamedTuple):
    """A stretch of text; `decision` marks the text of an action that somebody chose."""

    text: str
    decision: bool = False


@dataclasses.dataclass(frozen=True)
class Document:
    """One generated text.

    Attributes:
      kind: what it is about: "kitchen", "household" or "walk".
      task: the task it pursues, as written in it; empty for general text.
      pieces: the text, in order.
    """

    kind: str
    task: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)


def pick(rng: random.Random, weighted: Sequence[tuple[T, float]]) -> T:
    """Draws an option from (option, weight) pairs."""
    options, weights = zip(*weighted, strict=True)
    return rng.choices(options, weights)[0]


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def an(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def listed(things: Sequence[str], last: str = " and ") -> str:
    """ "x", "x and y", "x, y and z"."""
    if len(things) < 2:
        return "".join(things)
    return ", ".join(things[:-1]) + last + things[-1]


_YOU = {
    "S": "you", "are": "are", "have": "have", "hold": "hold", "carry": "carry", "stand": "stand",
    "see": "see", "find": "find", "spot": "spot", "your": "your",
}  # fmt: skip
_COOK = {
    "S": "the cook", "are": "is", "have": "has", "hold": "holds", "carry": "carries",
    "stand": "stands", "see": "sees", "find": "finds", "spot": "spots", "your": "the",
}  # fmt: skip
# Who acts, as the words that templates need, with how often.
VOICES = ((_YOU, 0.75), (_YOU | {"S": "I", "are": "am", "your": "my"}, 0.15), (_COOK, 0.1))


_LAYOUTS = (("task", 0.5), ("goal", 0.12), ("prose", 0.14), ("talk", 0.12), ("question", 0.12))


def decisions(
    rng: random.Random, task: str, steps: Sequence[tuple[str, str]], kind: str
) -> Document:
    """Lays out a task with (observation, action) steps in one of several ways."""
    layout = pick(rng, _LAYOUTS)
    if layout == "task":
        heads, nows, nexts = ("Task: ",), ("Now: ",), ("Next:",)
    elif layout == "goal":
        heads = ("Goal: ", "Order: ", "Job: ", "Plan: ")
        nows = ("You: ", "Scene: ", "State: ", "What is seen: ")
        nexts = ("Do:", "Action:", "Then:", "Step:")
    elif layout == "prose":
        heads = ("", "Today's job: ", "What we are after: ")
        nows = ("",)
        nexts = ("So the next thing is to", "The thing to do is to", "It is time to", "Now")
    elif layout == "talk":
        heads = ("Chef: ", "Ann: ", "Teacher: ")
        nows = ("Helper: ", "Ben: ", "Pupil: ")
        nexts = ("Chef: Then", "Ann: Right,", "Teacher: Good, now")
    else:
        heads = ("Wanted: ", "Q: ", "")
        nows = ("Situation: ", "Given: ", "")
        nexts = ("What next? Answer:", "A:", "Best move:")
    head, now, then = rng.choice(heads), rng.choice(nows), rng.choice(nexts)
    end = "." if layout in ("prose", "talk") else ""
    pieces = [Piece(f"{head}{sentence(task)}\n")]
    if layout == "task" and rng.random() < 0.5:
        pieces += _over(steps[:-1])
        steps = steps[-1:]
    for number, (observation, action) in enumerate(steps):
        newline = "\n" if number else ""
        pieces.append(Piece(f"{newline}{now}{observation}\n{then}"))
        pieces.append(Piece(f" {action}{end}", decision=True))
    return Document(kind, task, tuple(pieces))


def remembered(
    rng: random.Random, task: str, steps: Sequence[tuple[str, str]], kind: str
) -> Document:
    """Lays out a task with (observation, action) steps, all but the last of which are over."""
    pieces = [Piece(f"Task: {rng.choice((task, sentence(task)))}\n"), *_over(steps[:-1])]
    observation, action = steps[-1]
    pieces += [Piece(f"Now: {observation}\nNext:"), Piece(f" {action}", decision=True)]
    return Document(kind, task, tuple(pieces))


def _over(steps: Sequence[tuple[str, str]]) -> list[Piece]:
    """Steps that are in the past."""
    pieces: list[Piece] = []
    for observation, action in steps:
        pieces += [Piece(f"Seen: {observation}\nDone:"), Piece(f" {action}\n", decision=True)]
    return pieces
