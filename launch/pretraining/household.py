"""Household errands in words: find a thing, clean, heat or cool it, look at it, put it somewhere.

A symbolic home has numbered places, some with doors; an errand is run by somebody who looks for the
thing, does with it what was asked, and takes it where it belongs, with a mistake now and then.
"""

import dataclasses
import random

from launch.pretraining.phrases import Document, Piece, an, decisions, listed, pick, sentence

_SMALL = (
    "mug", "cup", "bowl", "plate", "fork", "knife", "spoon", "spatula", "ladle", "pan", "pot",
    "kettle", "book", "newspaper", "pen", "pencil", "towel", "cloth", "candle", "vase", "statue",
    "key", "watch", "phone", "laptop", "remote", "credit card", "alarm clock", "pillow", "soap",
    "bottle", "salt shaker", "tissue box", "apple", "tomato", "potato", "egg", "bread", "lettuce",
)  # fmt: skip
_FOODS = ("apple", "tomato", "potato", "egg", "bread", "lettuce", "mug", "cup")
_WASHABLE = (
    "mug", "cup", "bowl", "plate", "fork", "knife", "spoon", "spatula", "ladle", "pan", "pot",
    "kettle", "cloth", "apple", "tomato", "lettuce",
)  # fmt: skip
_OPEN = (
    "table", "side table", "shelf", "desk", "sofa", "armchair", "bed", "bench", "countertop",
    "dresser", "garbage can", "coffee machine",
)  # fmt: skip
_CLOSED = ("cabinet", "drawer", "box", "wardrobe", "cupboard", "safe")
_STATIONS = {
    "clean": ("sink", "basin"),
    "heat": ("stove", "microwave", "oven"),
    "cool": ("fridge",),
    "look": ("lamp", "desk lamp"),
}
_RESULT = {"clean": "clean", "heat": "hot", "cool": "cold"}


def _kind(place: str) -> str:
    """The place without its number."""
    return place.rstrip("0123456789 ")


def _inside(place: str) -> str:
    return "in" if _kind(place) in _CLOSED else "on"


@dataclasses.dataclass
class Home:
    """The state of one home and of the errand being run in it."""

    errand: str  # "move", "clean", "heat", "cool", "look" or "two"
    thing: str
    target: str
    contents: dict[str, list[str]]
    closed: set[str]
    station: str = ""
    place: str = ""
    hands: str = ""
    treated: bool = False
    visited: set[str] = dataclasses.field(default_factory=set)
    done: int = 0

    @property
    def wanted(self) -> int:
        """How many things must be brought."""
        return 2 if self.errand == "two" else 1

    def plan(self, rng: random.Random) -> tuple[str, str]:
        """What to do next, as (verb, object)."""
        if self.hands:
            if self.station and not self.treated:
                at_station = self.place == self.station
                return (self.errand, self.thing) if at_station else ("go", self.station)
            if self.place != self.target:
                return ("go", self.target)
            if self.target in self.closed:
                return ("open", self.target)
            return ("put", self.thing)
        if self.place in self.closed:
            return ("open", self.place)
        here = self.contents.get(self.place, [])
        if self.thing in here and self.place != self.target:
            return ("take", self.thing)
        rest = [p for p in self.contents if p not in self.visited and p != self.target]
        return ("go", rng.choice(rest)) if rest else ("go", self.holder())

    def holder(self) -> str:
        """A place that still has the thing."""
        return next(
            (p for p, held in self.contents.items() if self.thing in held and p != self.target),
            self.target,
        )

    def do(self, action: tuple[str, str]) -> bool:
        """Carries an action out; returns whether the errand is done."""
        verb, name = action
        if verb == "go":
            self.place = name
            self.visited.add(name)
        elif verb == "open":
            self.closed.discard(name)
        elif verb == "take" and not self.hands and name in self.contents.get(self.place, []):
            self.contents[self.place].remove(name)
            self.hands = name
            # The second of two is looked for afresh.
            self.visited = set()
        elif verb == "put" and self.hands:
            self.contents.setdefault(self.place, []).append(name)
            self.hands = ""
            self.done += self.place == self.target
            return self.done >= self.wanted
        elif verb in _STATIONS:
            self.treated = True
            return verb == "look"
        return False

    def actions(self, rng: random.Random) -> list[tuple[str, str]]:
        """Some of what could be tried here."""
        tries = [("go", place) for place in (*self.contents, *map(rng.choice, _STATIONS.values()))]
        if self.hands:
            tries.append(("put", self.hands))
        tries += [("take", thing) for thing in self.contents.get(self.place, [])]
        return tries


def sample_home(rng: random.Random) -> Home:
    """Draws an errand and a home to run it in."""
    errand = rng.choice(("move", "clean", "heat", "cool", "look", "two"))
    pool = {"clean": _WASHABLE, "heat": _FOODS, "cool": _FOODS}.get(errand, _SMALL)
    thing = rng.choice(pool)
    places = [f"{noun} {rng.randint(1, 3)}" for noun in rng.sample(_OPEN, rng.randint(2, 3))]
    doors = [f"{noun} {rng.randint(1, 3)}" for noun in rng.sample(_CLOSED, rng.randint(1, 2))]
    contents: dict[str, list[str]] = {place: [] for place in (*places, *doors)}
    target = rng.choice(list(contents))
    others = [place for place in contents if place != target]
    for _ in range(2 if errand == "two" else 1):
        contents[rng.choice(others)].append(thing)
    for other in rng.sample([small for small in _SMALL if small != thing], rng.randint(1, 4)):
        contents[rng.choice(list(contents))].append(other)
    station = rng.choice(_STATIONS.get(errand, ("",)))
    return Home(errand, thing, target, contents, set(doors), station)


def _task(rng: random.Random, home: Home) -> str:
    thing, place, inside = home.thing, _kind(home.target), _inside(home.target)
    if home.errand == "look":
        return rng.choice(
            (f"look at {an(thing)} under the {home.station}.", f"check {an(thing)} by lamplight.")
        )
    if home.errand == "two":
        return rng.choice(
            (f"bring two {thing}s to the {place}.", f"two {thing}s belong {inside} the {place}.")
        )
    if home.errand == "move":
        return rng.choice(
            (
                f"the {thing} belongs {inside} the {place}.",
                f"leave {an(thing)} {inside} the {place}.",
                f"tidy up: {thing} to the {place}.",
            )
        )
    state = _RESULT[home.errand]
    return rng.choice(
        (
            f"{home.errand} {an(thing)} and leave it {inside} the {place}.",
            f"we need {an(state + ' ' + thing)} {inside} the {place}.",
            f"bring {an(state + ' ' + thing)} to the {place}.",
        )
    )


def _observation(rng: random.Random, home: Home) -> str:
    parts = []
    if not home.place:
        names = list(home.contents)
        rng.shuffle(names)
        parts.append(
            rng.choice(
                (
                    f"around you are the {listed(names)}.",
                    f"the room has {listed(names)}.",
                    f"before you are the {listed(names)}.",
                )
            )
        )
    elif home.place in home.closed:
        parts.append(
            rng.choice(
                (f"the {home.place} is closed.", f"you stand at the {home.place}. It is shut.")
            )
        )
    else:
        here = [an(thing) for thing in home.contents.get(home.place, [])]
        inside = _inside(home.place)
        held = listed(here) if here else "nothing"
        parts.append(
            rng.choice(
                (
                    f"{inside} the {home.place} you find {held}.",
                    f"you are at the {home.place}, with {held} {inside} it.",
                    f"the {home.place} has {held}.",
                )
            )
        )
    if home.hands:
        state = _RESULT.get(home.errand, "") if home.treated else ""
        held = an(f"{state} {home.hands}".strip())
        parts.append(rng.choice((f"you hold {held}.", f"{held} is in your hand.")))
    elif rng.random() < 0.6:
        parts.append(rng.choice(("you hold nothing.", "your hands are empty.")))
    return " ".join(sentence(part) for part in parts)


class _Verbs:
    def __init__(self, rng: random.Random):
        self.go = rng.choice(("go to", "walk to", "move to", "head for"))
        self.take = rng.choice(("take", "pick up", "grab", "get"))
        self.put = rng.choice(("put", "place", "leave", "set"))

    def action(self, home: Home, action: tuple[str, str]) -> str:
        verb, name = action
        station, inside = home.station, _inside(home.place)
        return {
            "go": f"{self.go} the {name}",
            "open": f"open the {name}",
            "take": f"{self.take} the {name} from the {home.place}",
            "put": f"{self.put} the {name} {inside} the {home.place or 'floor'}",
            "clean": f"clean the {name} in the {station}",
            "heat": f"heat the {name} on the {station}",
            "cool": f"cool the {name} in the {station}",
            "look": f"look at the {name} under the {station}",
        }[verb]


def errand(rng: random.Random) -> Document:
    """A few steps of an errand."""
    home, verbs = sample_home(rng), _Verbs(rng)
    task = _task(rng, home)
    for _ in range(rng.randrange(0, 8)):
        action = home.plan(rng)
        if home.done + 1 >= home.wanted and action[0] in ("put", "look"):
            break
        home.do(action)
    steps = []
    for _ in range(pick(rng, ((1, 0.6), (2, 0.2), (5, 0.2)))):
        action = home.plan(rng)
        if rng.random() < 0.1:
            action = rng.choice(home.actions(rng))
        steps.append((_observation(rng, home), verbs.action(home, action)))
        if home.do(action):
            break
    return decisions(rng, task, steps, "household")


def habits(rng: random.Random) -> Document:
    """General sentences about how things are done at home."""
    small, food, wash = rng.choice(_SMALL), rng.choice(_FOODS), rng.choice(_WASHABLE)
    closed, shelf = rng.choice(_CLOSED), rng.choice(_OPEN)
    pool = [
        f"A closed {closed} must be opened before anything can be taken out of it.",
        f"Dirty things such as {an(wash)} are cleaned in the sink.",
        f"A cold {food} is heated on the stove.",
        f"To cool {an(food)}, take it to the fridge.",
        f"To look at {an(small)} closely, carry it to the lamp and switch the lamp on.",
        f"If the {small} is not on the {shelf}, look in the {closed}.",
        f"One pair of hands carries one {small} at a time.",
        f"After washing the {wash}, dry it and put it on the {shelf}.",
        f"Those who look for {an(small)} start with the {shelf}.",
        f"Bring the first {small}, then go back for the second.",
    ]
    return Document("household", "", (Piece(" ".join(rng.sample(pool, rng.randint(3, 5)))),))
