"""The words for what an Overcooked cook sees, and for what the cook can do about it.

Which states share a text is that of TWOSOME (Tan et al., ICLR 2024, arXiv 2401.14151): what stands
where it started, what lies on the boards, what is held, and whether the cook is at a board. The
texts of the actions change with it: what is held is placed or added, an empty-handed cook goes or
gets. The wording is our own, in plain words that a small language model knows.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Group(NamedTuple):
    """Things in one place: nothing, one food, or the bowl and the chopped foods in it.

    Attributes:
      foods: the foods, in the order of the kitchen's foods.
      chopped: whether they are chopped.
      bowl: whether the bowl is there; the foods are then in it.
    """

    foods: tuple[str, ...]
    chopped: bool
    bowl: bool


class View(NamedTuple):
    """What the cook sees.

    Attributes:
      foods: every food there is in the kitchen, seen or not.
      untouched: the things seen where they started.
      boards: what is seen on each cutting board.
      hands: what is held.
      board_beside: the board the cook stands at, or None.
    """

    foods: tuple[str, ...]
    untouched: tuple[str, ...]
    boards: tuple[Group, ...]
    hands: Group
    board_beside: int | None


def task(ingredients: Sequence[str]) -> str:
    """Says what is to be served."""
    return f"Serve a salad of chopped {_join(ingredients)}, and nothing else."


def observation(view: View) -> str:
    """Says what is seen."""
    sentences = []
    if view.untouched:
        sentences.append(f"You see {_join([_a(thing) for thing in view.untouched])}.")
    for board, group in enumerate(view.boards):
        if group.foods or group.bowl:
            sentences.append(f"There is {_name_group(group)} on {_name_board(view, board)}.")
    if view.board_beside is not None:
        sentences.append(f"You are at {_name_board(view, view.board_beside)}.")
    if view.hands.foods or view.hands.bowl:
        sentences.append(f"You hold {_name_group(view.hands)}.")
    else:
        sentences.append("Your hands are empty.")
    return " ".join(sentences)


def actions(view: View) -> tuple[str, ...]:
    """Says each action: get each food and the bowl, go to each board, serve, chop."""
    hands = view.hands
    texts = [
        f"add the {food} to the bowl" if hands.bowl else f"get the {food}" for food in view.foods
    ]

    # Where there is more than one food, it matters whether any is seen in the bowl.
    in_bowl = any(group.bowl and group.foods for group in (*view.boards, hands))
    texts.append("get the bowl" if in_bowl or len(view.foods) == 1 else "get the empty bowl")

    # A board is for the bowl and for food that is not chopped yet. Chopped food goes into the bowl.
    placed = "bowl" if hands.bowl else None if hands.chopped else next(iter(hands.foods), None)
    for board in range(len(view.boards)):
        name = _name_board(view, board)
        texts.append(f"place the {placed} on {name}" if placed else f"go to {name}")

    texts.append("serve the food" if hands.foods or hands.bowl else "serve without food")

    board = Group((), False, False) if view.board_beside is None else view.boards[view.board_beside]
    if board.foods and not board.bowl:
        texts.append(f"chop the {board.foods[0]}")
    else:
        texts.append("chop without food")
    return tuple(texts)


def _name_board(view: View, board: int) -> str:
    if len(view.boards) == 1:
        return "the cutting board"
    return f"the {('first', 'second')[board]} cutting board"


def _name_group(group: Group) -> str:
    if group.bowl:
        return f"a bowl of chopped {_join(group.foods)}" if group.foods else "an empty bowl"
    return f"a {'chopped' if group.chopped else 'whole'} {group.foods[0]}"


def _join(names: Sequence[str]) -> str:
    """Joins names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
