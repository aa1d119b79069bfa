"""A symbolic kitchen with a cook, and the many ways to put it into words.

The kitchen has foods on tables, two boards, a bowl and a place to serve. A plan-following cook, who
now and then does something else, goes through it; each step becomes an observation, from which
things out of sight are missing, and an action. The kitchen shares no code and no layout with the
environments that the checkpoint is evaluated on, and `EVALUATION_RECIPES` are never cooked in it.
"""

import dataclasses
import itertools
import random
from collections.abc import Sequence

from launch.pretraining import phrases
from launch.pretraining.phrases import Document, Piece, an, listed, pick, sentence

FOODS = (
    "tomato", "lettuce", "onion", "carrot", "cucumber", "pepper", "potato", "mushroom", "apple",
    "radish", "cabbage", "leek", "pear", "beet", "turnip", "celery",
)  # fmt: skip

# What the evaluation environments cook. Never a recipe here, whatever the kind of dish.
EVALUATION_RECIPES = (frozenset({"tomato"}), frozenset({"tomato", "lettuce"}))

_COMMON = ("tomato", "lettuce", "onion")

# How often the written action is a mistake, and how often the simulated cook strays from the plan,
# which is how the text comes to cover situations that a perfect cook never sees.
MISTAKES = 0.2
STRAYING = 0.25

Action = tuple[str, str | int | None]  # (verb, object), e.g. ("get", "leek"), ("board", 1)


@dataclasses.dataclass
class Kitchen:
    """The state of one kitchen.

    `sites` gives every thing's home and `place` the site at which the cook stands; a board is
    named by its number. `hands` holds "", a food or "bowl".
    """

    recipe: tuple[str, ...]
    sites: dict[str | int, tuple[int, int]]
    sight: int
    place: str | int
    hands: str = ""
    where: dict[str, str | int] = dataclasses.field(default_factory=dict)
    chopped: set[str] = dataclasses.field(default_factory=set)
    bowl: list[str] = dataclasses.field(default_factory=list)

    def on_board(self, board: int) -> str:
        """What lies on the board: a food, "bowl", or ""."""
        return next((thing for thing, where in self.where.items() if where == board), "")

    def sees(self, site: str | int) -> bool:
        """Whether a site is near enough to be seen."""
        (x, y), (u, v) = self.sites[self.place], self.sites[site]
        return max(abs(x - u), abs(y - v)) <= self.sight

    def seen_at(self, thing: str) -> str | int:
        """The site at which a thing is to be seen; what is carried is where the cook is."""
        where = self.where[thing]
        return where if where in self.sites else self.place

    @property
    def stock(self) -> list[str]:
        """All foods of this kitchen."""
        return [thing for thing in self.where if thing != "bowl"]

    @property
    def boards(self) -> list[int]:
        """The numbers of the boards: 1, or 1 and 2."""
        return [site for site in self.sites if isinstance(site, int)]

    def actions(self) -> list[Action]:
        """All that the cook could try."""
        gets: list[Action] = [("get", thing) for thing in (*self.stock, "bowl")]
        walks: list[Action] = [("board", board) for board in self.boards]
        return [*gets, *walks, ("chop", None), ("serve", None)]

    def plan(self, rng: random.Random) -> Action:
        """What a cook does who follows the recipe."""
        missing = [food for food in self.recipe if food not in self.bowl]
        free = [board for board in self.boards if not self.on_board(board)]
        raw = [food for food in missing if food not in self.chopped]
        ready = [food for food in missing if food in self.chopped and food != self.hands]
        if self.hands == "bowl":
            if self.spoilt:
                return ("back", None)
            if not missing:
                return ("serve", None)
            if ready:
                return ("get", rng.choice(ready))
            return ("board", free[-1]) if len(free) > 1 else ("back", None)
        if self.hands in missing:
            if self.hands in self.chopped:
                return ("get", "bowl")
            return ("board", self._choose(rng, free)) if free else ("back", None)
        if self.hands:
            aside = len(free) > 1 and rng.random() < 0.5
            return ("board", self._choose(rng, free)) if aside else ("back", None)
        if self.spoilt:
            return ("get", "bowl")
        return self._plan_with_free_hands(rng, free, raw, ready)

    def _plan_with_free_hands(
        self, rng: random.Random, free: list[int], raw: list[str], ready: list[str]
    ) -> Action:
        boards = sorted(self.boards, key=lambda board: board != self.place)
        for board in boards:
            if self.on_board(board) in raw:
                return self._chop_on(board)
        if not raw:
            return ("get", "bowl")
        if free:
            near = [food for food in raw if self.sees(self.where[food])]
            return ("get", rng.choice(near or raw))
        if ready:
            return ("get", rng.choice(ready))
        # Something that is not wanted blocks the boards.
        there = self.on_board(boards[0])
        loose = there == "bowl" or there in self.chopped
        return ("get", there) if loose else self._chop_on(boards[0])

    def _chop_on(self, board: int) -> Action:
        return ("chop", None) if self.place == board else ("board", board)

    def _choose(self, rng: random.Random, free: list[int]) -> int:
        return free[0] if rng.random() < 0.8 else free[-1]

    def do(self, action: Action) -> bool:
        """Carries an action out; returns whether the right dish was served."""
        verb, thing = action
        if verb == "get" and isinstance(thing, str):
            self._get(thing)
        elif verb == "board" and isinstance(thing, int):
            self._use_board(thing)
        elif verb == "chop" and isinstance(self.place, int):
            food = self.on_board(self.place)
            if food and food != "bowl" and not self.hands:
                self.chopped.add(food)
        elif verb == "back" and self.hands:
            self._put_back()
        elif verb == "serve":
            self.place = "hatch"
            return self.hands == "bowl" and set(self.bowl) == set(self.recipe)
        return False

    def _get(self, thing: str) -> None:
        if thing in self.bowl or thing == self.hands:
            return
        self.place = self.where[thing]
        loose = isinstance(self.place, str) or thing in self.chopped or thing == "bowl"
        if not self.hands and loose:
            self.hands, self.where[thing] = thing, "hands"
        elif self.hands == "bowl" and thing in self.chopped:
            self.bowl.append(thing)
            self.where[thing] = "bowl"
        elif thing == "bowl" and self.hands in self.chopped:
            self.bowl.append(self.hands)
            self.where[self.hands] = "bowl"
            self.hands, self.where["bowl"] = "bowl", "hands"

    @property
    def spoilt(self) -> bool:
        """Whether the bowl has something that does not belong in it."""
        return any(food not in self.recipe for food in self.bowl)

    def _put_back(self) -> None:
        # A bowl goes back as it is, unless all that can be done is to begin again.
        thrown = list(self.bowl) if self.hands == "bowl" and self.spoilt else []
        for thing in (self.hands, *thrown):
            self.where[thing] = f"{thing} home"
            self.chopped.discard(thing)
        self.bowl = [food for food in self.bowl if food not in thrown]
        self.place, self.hands = f"{self.hands} home", ""

    def _use_board(self, board: int) -> None:
        self.place = board
        there = self.on_board(board)
        if self.hands and not there:
            self.where[self.hands], self.hands = board, ""
        elif self.hands == "bowl" and there in self.chopped:
            self.bowl.append(there)
            self.where[there] = "bowl"


def sample_recipe(rng: random.Random) -> tuple[str, ...]:
    """Draws a set of ingredients, never one of `EVALUATION_RECIPES`."""
    while True:
        size = pick(rng, ((1, 0.3), (2, 0.5), (3, 0.2)))
        pool = rng.sample(FOODS, size)
        if rng.random() < 0.4:
            pool[rng.randrange(size)] = rng.choice(_COMMON)
        if len(set(pool)) == size and frozenset(pool) not in EVALUATION_RECIPES:
            return tuple(pool)


def sample_kitchen(rng: random.Random) -> Kitchen:
    """Draws a recipe and a kitchen to cook it in."""
    recipe = sample_recipe(rng)
    others = [food for food in FOODS if food not in recipe]
    stock = [*recipe, *rng.sample(others, pick(rng, ((0, 0.15), (1, 0.4), (2, 0.3), (3, 0.15))))]
    rng.shuffle(stock)

    def spot() -> tuple[int, int]:
        return rng.randrange(7), rng.randrange(7)

    x, y = spot()
    sites: dict[str | int, tuple[int, int]] = {1: (x, y)}
    # With a single board, all but the simplest dishes are a puzzle.
    if len(recipe) > 1 or rng.random() < 0.6:
        sites[2] = (x + 1, y)
    where: dict[str, str | int] = {}
    # Foods that are kept together are seen together.
    larder = spot()
    for thing in [*stock, "bowl"]:
        home = f"{thing} home"
        where[thing] = home
        sites[home] = larder if thing != "bowl" and rng.random() < 0.6 else spot()
    sites["hatch"], sites["door"] = spot(), larder if rng.random() < 0.5 else spot()
    sight = pick(rng, ((2, 0.7), (9, 0.3)))
    return Kitchen(recipe, sites, sight, "door", where=where)


# A writer's words, with how often. Boards come as a noun and as the names of the first and second.
_BOWLS = (("bowl", 0.6), ("plate", 0.2), ("dish", 0.1), ("pot", 0.1))
_BOARDS = (("cutting board", 0.6), ("chopping board", 0.2), ("board", 0.15), ("block", 0.05))
_BOARD_NAMES = (
    (("first {}", "second {}"), 0.65),
    (("left {}", "right {}"), 0.12),
    (("{} one", "{} two"), 0.08),
    (("small {}", "large {}"), 0.08),
    (("near {}", "far {}"), 0.07),
)
_CUT = (("chopped", 0.6), ("cut", 0.14), ("sliced", 0.13), ("diced", 0.13))
_WHOLE = (("unchopped", 0.3), ("whole", 0.25), ("uncut", 0.2), ("fresh", 0.1), ("raw", 0.15))
_DISHES = ("salad", "salad", "salad", "soup", "stew", "sandwich", "stir-fry", "platter", "wrap")
_TABLES = (
    (("table", "tables"), 0.5),
    (("counter", "counters"), 0.2),
    (("shelf", "shelves"), 0.15),
    (("worktop", "worktops"), 0.15),
)
_VERBS = {
    "get": ("pick up", "pick up", "get", "take", "grab", "fetch", "collect"),
    "go": ("go to", "walk to", "move to", "step to", "head for", "return to"),
    "put": ("put {} on", "put {} on", "place {} on", "set {} down on", "lay {} on"),
    "add": ("put {} in", "put {} in", "put {} into", "add {} to", "drop {} into"),
    "chop": ("chop", "chop", "chop", "cut up", "slice", "dice"),
    "serve": ("serve", "serve", "deliver", "hand over", "bring out"),
}
_NAMES = (
    "{foods} {dish}", "{dashed} {dish}", "{dish} of {foods}", "{dish} with {foods}",
    "{dish} made from {foods}",
)  # fmt: skip
_TASKS = (
    "make {name}.", "prepare {name}.", "cook {name} for the guests.", "{name} is on the menu.",
    "somebody ordered {name}.", "get {name} ready and serve it.", "a guest waits for {name}.",
    "serve {name}.", "bring out {name}.", "put {cut} {foods} in a {bowl} and hand it over.",
    "fill a {bowl} with {cut} {foods}, nothing else, and serve it.", "{dish}: {foods}.",
)  # fmt: skip
# What is noticed: of scenery and boards, and of oneself, {x} in hand, at the board {b} or not.
_TWO_BOARDS = (
    "this kitchen has two {n}s.", "there are two {n}s here.",
    "the room holds two {n}s and a hatch.", "two {n}s stand by the wall.",
)  # fmt: skip
_FOODS_SEEN = (
    "{S} {see} {x} close by.", "{S} {see} {x} over there.", "{S} {see} {x} on the {t}.",
    "{S} {spot} {x} on the {t}.", "on the {t}: {x}.", "{x} can be seen.", "{x} within reach.",
    "nearby, {S} {find} {x}.",
)  # fmt: skip
_NO_FOOD = ("nothing lies on the {t} here.", "no food near.")
_ON_BOARD = (
    "on the {b} lies {x}.", "on the {b} there is {x}.", "the {b} holds {x}.",
    "{x} lies on the {b}.", "{x} waits on the {b}.", "the {b} has {x} on it.",
)  # fmt: skip
_EMPTY_BOARD = ("the {b} is empty.", "nothing on the {b}.", "the {b} is free.")
_AT_WITH = (
    "{S} {stand} at the {b} with {x}.", "{S} {are} at the {b}, {x} in hand.",
    "{S} {are} by the {b} and {carry} {x}.",
)  # fmt: skip
_AT_WITH_NOTHING = (
    "{S} {stand} at the {b} with empty hands.", "{S} {are} at the {b}, nothing in hand.",
    "{S} {are} by the {b} and {carry} nothing.",
)  # fmt: skip
_AT = ("{S} {stand} at the {b}.", "{S} {are} in front of the {b}.", "{S} {are} by the {b}.")
_AWAY = ("{S} {stand} away from the {n}s.", "no {n} near.")
_WITH = (
    "{S} {carry} {x}.", "{S} {hold} {x} now.", "{S} {have} {x} in hand.", "{S} {are} holding {x}.",
    "in {your} hands: {x}.", "{x} is in {your} hands.",
)  # fmt: skip
_WITH_NOTHING = (
    "{S} {hold} nothing.", "{S} {carry} nothing.", "{S} {have} nothing in hand.",
    "{your} hands are empty.", "{your} hands are free.", "nothing in {your} hands.",
)  # fmt: skip
# Of a list: what is there, what is wanted, what follows.
_LISTS = (("We have", "We need", "Buy"), ("Here:", "Wanted:", "Missing:"), ("Got", "List", "Get"))


class Words:
    """One writer's choice of words for kitchens, kept through a document."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.voice = dict(pick(rng, phrases.VOICES))
        self.bowl = pick(rng, _BOWLS)
        self.board_noun = pick(rng, _BOARDS)
        names = enumerate(pick(rng, _BOARD_NAMES), start=1)
        self.boards = {board: name.format(self.board_noun) for board, name in names}
        self.cut = pick(rng, _CUT)
        self.whole = pick(rng, _WHOLE)
        self.dish = rng.choice(_DISHES)
        self.table, self.tables = pick(rng, _TABLES)
        self.verbs = {name: rng.choice(options) for name, options in _VERBS.items()}
        # Some writers take a bowl with the same word as a food, some do not.
        self.take = rng.choice((self.verbs["get"], "get", "take", "pick up", "grab"))

    # -- things ------------------------------------------------------------------------------

    def say(self, templates: Sequence[str], **words: str) -> str:
        """A sentence from one of the templates, in this writer's voice."""
        return sentence(self.rng.choice(templates).format(**self.voice, **words))

    def thing(self, kitchen: Kitchen, name: str) -> str:
        """A food with its state, or the bowl with what is in it."""
        if name != "bowl":
            return an(f"{self.cut if name in kitchen.chopped else self.whole} {name}")
        if not kitchen.bowl:
            return an(f"empty {self.bowl}" if self.rng.random() < 0.5 else self.bowl)
        foods = listed([f"{self.cut} {food}" for food in kitchen.bowl])
        if self.rng.random() < 0.5:
            foods = f"{self.cut} {listed(kitchen.bowl)}"
        link = self.rng.choice(("with", "with", "holding", "full of", "of", "that has"))
        return an(f"{self.bowl} {link} {foods}")

    # -- tasks -------------------------------------------------------------------------------

    def task(self, recipe: tuple[str, ...]) -> str:
        """The order, in words that name exactly the recipe's foods."""
        words = {"foods": listed(recipe), "dish": self.dish, "bowl": self.bowl, "cut": self.cut}
        name = an(self.rng.choice(_NAMES).format(dashed="-".join(recipe), **words))
        return self.rng.choice(_TASKS).format(name=name, **words)

    # -- observations ------------------------------------------------------------------------

    def observation(self, kitchen: Kitchen) -> str:
        """What the cook notices, in a few sentences."""
        groups = [
            self._scenery(kitchen),
            [text for board in kitchen.boards for text in self._on_board(kitchen, board)],
            self._body(kitchen),
        ]
        if self.rng.random() >= 0.7:
            self.rng.shuffle(groups)
        return " ".join(itertools.chain.from_iterable(groups))

    def _scenery(self, kitchen: Kitchen) -> list[str]:
        parts: list[str] = []
        if len(kitchen.boards) > 1 and self.rng.random() < 0.4:
            parts.append(self.say(_TWO_BOARDS, n=self.board_noun))
        seen = [t for t, w in kitchen.where.items() if isinstance(w, str) and w.endswith("home")]
        seen = [thing for thing in seen if kitchen.sees(kitchen.where[thing])]
        things = [an(self.bowl) if thing == "bowl" else an(thing) for thing in seen]
        if things:
            table = self.table if len(things) == 1 else self.tables
            parts.append(self.say(_FOODS_SEEN, x=listed(things), t=table))
        elif self.rng.random() < 0.25:
            parts.append(self.say(_NO_FOOD, t=self.tables))
        return parts

    def _on_board(self, kitchen: Kitchen, board: int) -> list[str]:
        if not kitchen.sees(board):
            return []
        there, name = kitchen.on_board(board), self.boards[board]
        if there:
            return [self.say(_ON_BOARD, b=name, x=self.thing(kitchen, there))]
        return [self.say(_EMPTY_BOARD, b=name)] if self.rng.random() < 0.4 else []

    def _body(self, kitchen: Kitchen) -> list[str]:
        rng = self.rng
        at = self.boards.get(kitchen.place, "") if isinstance(kitchen.place, int) else ""
        x = self.thing(kitchen, kitchen.hands) if kitchen.hands else ""
        if at and rng.random() < 0.5:
            return [self.say(_AT_WITH if x else _AT_WITH_NOTHING, b=at, x=x)]
        parts: list[str] = []
        if at:
            parts.append(self.say(_AT, b=at))
        elif rng.random() < 0.15:
            parts.append(self.say(_AWAY, n=self.board_noun))
        parts.append(self.say(_WITH if x else _WITH_NOTHING, x=x))
        if len(parts) == 2 and rng.random() < 0.3:
            parts.reverse()
        return parts

    # -- actions -----------------------------------------------------------------------------

    def action(self, kitchen: Kitchen, action: Action) -> str:
        """The action as an order, in the words that fit the situation."""
        verb, thing = action
        verbs, rng = self.verbs, self.rng
        if verb == "back" and kitchen.hands == "bowl":
            return f"empty the {self.bowl}" if kitchen.spoilt else f"put the {self.bowl} back"
        if verb == "back":
            return f"put the {kitchen.hands} back"
        if verb == "get" and thing == "bowl":
            if kitchen.hands and kitchen.hands in kitchen.chopped:
                return f"{verbs['add'].format('the ' + kitchen.hands)} the {self.bowl}"
            empty = "empty " if not kitchen.bowl and rng.random() < 0.3 else ""
            return f"{self.take} the {empty}{self.bowl}"
        if verb == "get":
            if kitchen.hands == "bowl":
                return f"{verbs['add'].format(f'the {thing}')} the {self.bowl}"
            return f"{verbs['get']} the {thing}"
        if verb == "board" and isinstance(thing, int):
            board = f"the {self.boards[thing]}"
            if not kitchen.hands:
                return f"{verbs['go']} {board}"
            held = self.bowl if kitchen.hands == "bowl" else kitchen.hands
            return f"{verbs['put'].format('the ' + held)} {board}"
        if verb == "chop":
            food = kitchen.on_board(kitchen.place) if isinstance(kitchen.place, int) else ""
            if not food or food == "bowl":
                nothing = rng.choice(("nothing", "nothing", "the air", "without a reason"))
                return f"{verbs['chop']} {nothing}"
            return f"{verbs['chop']} the {food}"
        if kitchen.hands:
            dish = rng.choice((self.dish, self.bowl, "dish", "meal", "food"))
            return f"{verbs['serve']} the {dish}"
        return f"{verbs['serve']} {rng.choice(('nothing', 'nothing', 'without a dish'))}"


def _kitchen_in_words(rng: random.Random) -> tuple[Kitchen, Words]:
    kitchen, words = sample_kitchen(rng), Words(rng)
    if len(kitchen.boards) == 1:
        words.boards = {1: words.board_noun}
    return kitchen, words


def cooking(rng: random.Random) -> Document:
    """A few steps of a cook's work, each with what was seen and what was done."""
    kitchen, words = _kitchen_in_words(rng)
    task = words.task(kitchen.recipe)
    length = pick(rng, ((1, 0.75), (2, 0.15), (4, 0.1)))
    _skip(rng, kitchen)
    steps: list[tuple[str, str]] = []
    for _ in range(length):
        action = kitchen.plan(rng)
        if rng.random() < MISTAKES:
            action = rng.choice(kitchen.actions())
        steps.append((words.observation(kitchen), words.action(kitchen, action)))
        if kitchen.do(action):
            break
    return phrases.decisions(rng, task, steps, "kitchen")


def _skip(rng: random.Random, kitchen: Kitchen) -> None:
    """Goes on to somewhere in the work, at most to just before the dish is served."""
    for _ in range(rng.randrange(0, 6 + 5 * len(kitchen.recipe))):
        action = kitchen.plan(rng)
        if rng.random() < STRAYING:
            action = rng.choice(kitchen.actions())
        if action == ("serve", None):
            # The moment of serving is worth a text, but not one text in three.
            if rng.random() < 0.8:
                return
            continue
        kitchen.do(action)


def questions(rng: random.Random) -> Document:
    """A situation, and what can be read off it."""
    kitchen, words = _kitchen_in_words(rng)
    _skip(rng, kitchen)
    boards = [board for board in kitchen.boards if kitchen.sees(board)]
    in_view = [food for food in kitchen.stock if kitchen.sees(kitchen.seen_at(food))]
    pool = [
        ("What is in hand?", words.thing(kitchen, kitchen.hands) if kitchen.hands else "nothing"),
        ("What is it made of?", listed(kitchen.recipe)),
    ]
    for board in boards:
        there = kitchen.on_board(board)
        answer = words.thing(kitchen, there) if there else "nothing"
        pool.append((f"What is on the {words.boards[board]}?", answer))
    for food in rng.sample(kitchen.stock, min(2, len(kitchen.stock))):
        pool.append((f"Is the {food} needed?", "yes" if food in kitchen.recipe else "no"))
    wanted = [food for food in in_view if food in kitchen.recipe]
    pool.append(("What here is needed?", listed(wanted) or "nothing"))
    missing = [food for food in kitchen.recipe if food not in kitchen.bowl]
    if kitchen.hands == "bowl":
        pool.append((f"What does the {words.bowl} lack?", listed(missing) or "nothing"))
    task = words.task(kitchen.recipe)
    ask, reply = rng.choice((("", ""), ("Q: ", "A:"), ("Ann: ", "Ben:"), ("- ", "-")))
    pieces = [Piece(f"{sentence(task)}\n{words.observation(kitchen)}")]
    for question, answer in rng.sample(pool, min(len(pool), rng.randint(2, 4))):
        pieces.append(Piece(f"\n{ask}{question}{chr(10) if reply else ''}{reply}"))
        pieces.append(Piece(f" {answer}", decision=True))
    return Document("kitchen", task, tuple(pieces))


def shopping(rng: random.Random) -> Document:
    """Lists: what is wanted, what is there, and what follows."""
    pieces: list[Piece] = []
    for line in range(rng.randint(2, 5)):
        wanted = list(sample_recipe(rng) if rng.random() < 0.5 else rng.sample(FOODS, 4))
        known = rng.sample(wanted, rng.randint(0, min(2, len(wanted))))
        there = list(dict.fromkeys([*known, *rng.sample(FOODS, rng.randint(1, 3))]))
        rng.shuffle(there)
        missing = [food for food in wanted if food not in there]
        common = [food for food in there if food in wanted]
        have, need, of = rng.choice(_LISTS)
        ask, answer = (of, missing) if rng.random() < 0.5 else ("Use", common)
        newline = "\n" if line else ""
        pieces.append(Piece(f"{newline}{need} {listed(wanted)}. {have} {listed(there)}. {ask}"))
        pieces.append(Piece(f" {listed(answer) or 'nothing'}.", decision=True))
    return Document("kitchen", "", tuple(pieces))


def recipe_text(rng: random.Random) -> Document:
    """A recipe with numbered steps, or in a paragraph."""
    recipe, words = sample_recipe(rng), Words(rng)
    kitchen = Kitchen(recipe, {"door": (0, 0)}, 9, "door")
    task = words.task(recipe)
    steps = []
    for number, food in enumerate(recipe):
        board = words.boards[1 + number % 2]
        steps += [
            f"{words.verbs['get']} the {food}",
            f"{words.verbs['put'].format(f'the {food}')} the {board}",
            f"{words.verbs['chop']} the {food}",
        ]
    steps.append(f"{words.take} the {words.bowl}")
    steps += [f"{words.verbs['add'].format(f'the {food}')} the {words.bowl}" for food in recipe]
    steps.append(words.action(dataclasses.replace(kitchen, hands="bowl"), ("serve", None)))
    pieces = [Piece(f"{sentence(task)}\n")]
    if rng.random() < 0.5:
        pieces += [Piece(f"{i}. {sentence(step)}.\n") for i, step in enumerate(steps, 1)]
    else:
        links = ("First", "Then", "Next", "After that", "Now", "Then")
        sentences = [
            f"{links[0] if i == 0 else rng.choice(links[1:])} {s}." for i, s in enumerate(steps)
        ]
        pieces.append(Piece(" ".join(sentences)))
    return Document("kitchen", task, tuple(pieces))


def advice(rng: random.Random) -> Document:
    """General sentences about how kitchen work is done."""
    words = Words(rng)
    bowl, board, cut = words.bowl, words.board_noun, words.cut
    food = rng.choice(FOODS)
    pool = [
        f"Before serving a {words.dish}, {words.verbs['chop']} everything that goes into it.",
        f"An empty {bowl} is not worth serving.",
        f"A {food} must lie on a {board} before anybody can {words.verbs['chop']} it.",
        f"Put only what is {cut} in the {bowl}.",
        f"With a {words.whole} {food} in {words.voice['your']} hands, go to a free {board}.",
        f"If a {words.whole} {food} lies on the {board}, {words.verbs['chop']} it.",
        f"Leave the {food} alone if the {words.dish} does not need it.",
        f"When all is {cut}, {words.take} the {bowl} and collect the pieces.",
        f"When the {bowl} has all that was asked for, {words.verbs['serve']} it.",
        f"Use the {words.boards[2]} when the {words.boards[1]} is taken.",
        f"To {words.verbs['chop']} nothing is a waste of time.",
        f"Whoever carries nothing can {words.verbs['get']} something.",
        f"Nobody can {words.verbs['get']} {an(food)} with full hands.",
        f"A {cut} {food} goes into the {bowl}, {an(words.whole + ' ' + food)} onto a {board}.",
    ]
    return Document("kitchen", "", (Piece(" ".join(rng.sample(pool, rng.randint(3, 6)))),))
