"""Household errands in words: find a thing, clean, heat or cool it, look at it, put it somewhere.

A symbolic room has numbered furniture, some of it shut, and numbered things in and on it. An errand
is run by somebody who looks for the thing, does with it what was asked, and takes it where it
belongs, with a mistake now and then. Each step tells only what is new, as text games do, so what
was seen and done before is written down with it.

Rooms, furniture and things go by the names of the AI2-THOR simulator, whose rooms ALFWorld's games
are played in. Of some pairs of a thing and a place, `game_maker.is_held_out` says that only
games that test for unseen tasks ask for them; no errand here is about such a pair.
"""

import dataclasses
import random
from collections.abc import Sequence

from launch.pretraining import phrases
from launch.pretraining.phrases import Document, Piece, an, listed, pick, sentence
from llmprior_jax.envs.alfworld.tasks import is_held_out

# For each kind of room: furniture that is open, furniture with doors, and things.
_ROOMS = {
    "kitchen": (
        ("countertop", "diningtable", "sidetable", "stoveburner", "coffeemachine", "shelf",
         "sinkbasin", "garbagecan", "cart"),
        ("cabinet", "drawer", "fridge", "microwave"),
        ("apple", "book", "bowl", "bread", "butterknife", "creditcard", "cup", "dishsponge", "egg",
         "fork", "glassbottle", "kettle", "knife", "ladle", "lettuce", "mug", "pan", "pencil",
         "peppershaker", "plate", "pot", "potato", "saltshaker", "soapbottle", "spatula", "spoon",
         "statue", "tomato", "vase", "winebottle", "cellphone", "papertowelroll", "houseplant"),
    ),
    "living room": (
        ("armchair", "coffeetable", "desk", "diningtable", "dresser", "garbagecan", "ottoman",
         "shelf", "sidetable", "sofa", "tvstand"),
        ("cabinet", "drawer", "safe"),
        ("book", "bowl", "box", "candle", "creditcard", "cellphone", "keychain", "laptop",
         "newspaper", "pen", "pencil", "pillow", "plate", "remotecontrol", "statue", "tissuebox",
         "vase", "watch", "wateringcan", "houseplant", "television", "desklamp", "floorlamp"),
    ),
    "bedroom": (
        ("armchair", "bed", "desk", "dresser", "garbagecan", "shelf", "sidetable", "sofa",
         "laundryhamper"),
        ("cabinet", "drawer", "safe"),
        ("alarmclock", "baseballbat", "basketball", "book", "bowl", "box", "cd", "cellphone",
         "cloth", "creditcard", "cup", "keychain", "laptop", "mug", "pen", "pencil", "pillow",
         "remotecontrol", "statue", "teddybear", "tennisracket", "tissuebox", "vase", "watch",
         "desklamp", "floorlamp"),
    ),
    "bathroom": (
        ("bathtubbasin", "countertop", "garbagecan", "handtowelholder", "shelf", "sidetable",
         "sinkbasin", "toilet", "toiletpaperhanger", "cart"),
        ("cabinet", "drawer"),
        ("candle", "cloth", "dishsponge", "handtowel", "soapbar", "soapbottle", "spraybottle",
         "tissuebox", "toiletpaper"),
    ),
}  # fmt: skip
_LAMPS = ("desklamp", "floorlamp")
_FIXED = (*_LAMPS, "television", "houseplant", "teddybear", "papertowelroll")
_INSIDE = ("cabinet", "drawer", "fridge", "microwave", "safe", "sinkbasin", "garbagecan",
           "bathtubbasin", "laundryhamper", "cart")  # fmt: skip
_MANY = ("cabinet", "drawer", "shelf", "stoveburner", "countertop", "sidetable")
_SURFACES = ("countertop", "diningtable", "desk", "coffeetable", "dresser", "sidetable", "bed")
# What an errand does to a thing: where, what it is called afterwards, and to which things.
_STATIONS = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_RESULTS = {"clean": ("clean",), "heat": ("hot", "warm"), "cool": ("cool", "cold")}
_TREATED = {
    "clean": ("apple", "bowl", "butterknife", "cup", "fork", "kettle", "knife", "ladle", "lettuce",
              "mug", "pan", "plate", "pot", "potato", "spatula", "spoon", "tomato", "cloth",
              "dishsponge", "soapbar"),
    "heat": ("apple", "bread", "cup", "egg", "mug", "plate", "potato", "tomato"),
    "cool": ("apple", "bowl", "bread", "cup", "egg", "lettuce", "mug", "pan", "plate", "pot",
             "potato", "tomato", "winebottle"),
}  # fmt: skip
_ERRANDS = (
    ("move", 0.3), ("look", 0.3), ("clean", 0.1), ("heat", 0.1), ("cool", 0.1), ("two", 0.1),
)  # fmt: skip
_MISTAKES = 0.1

Action = tuple[str, str]  # (verb, numbered thing or place), e.g. ("take", "mug 2")


def kind(name: str) -> str:
    """The name without its number."""
    return name.partition(" ")[0]


@dataclasses.dataclass
class Home:
    """The state of one room and of the errand being run in it.

    Things and places are numbered; `thing`, `target` and `station` are kinds.
    """

    errand: str  # "move", "look", "clean", "heat", "cool" or "two"
    thing: str
    target: str  # where to bring it; the kind of lamp, if it is to be looked at
    contents: dict[str, list[str]]
    closed: set[str]
    place: str = ""
    hands: str = ""
    treated: bool = False
    seen: set[str] = dataclasses.field(default_factory=set)
    done: int = 0

    @property
    def station(self) -> str:
        """The kind of furniture that the thing is cleaned, heated or cooled with, or ""."""
        return _STATIONS.get(self.errand, "")

    @property
    def wanted(self) -> int:
        """How many things must be brought."""
        return 2 if self.errand == "two" else 1

    def here(self) -> list[str]:
        """What is to be seen at the place."""
        return [] if self.place in self.closed else self.contents.get(self.place, [])

    def first(self, wanted: str, among: Sequence[str]) -> str:
        """The first of a kind, or ""."""
        return next((name for name in among if kind(name) == wanted), "")

    def may_bring(self, thing: str, place: str) -> bool:
        """Whether a thing can be carried, and is not kept from this place."""
        return kind(thing) not in _FIXED and not is_held_out(kind(thing), kind(place))

    def plan(self, rng: random.Random) -> Action:
        """What to do next."""
        if self.hands and kind(self.hands) != self.thing:
            if not self.may_bring(self.hands, self.place):
                places = [p for p in self.contents if self.may_bring(self.hands, p)]
                return ("go", rng.choice(places))
            return ("put", self.hands) if self.place not in self.closed else ("open", self.place)
        if self.hands and self.errand == "look":
            lamp = self.first(self.target, self.here())
            return ("use", lamp) if lamp else self.search(rng, self.target)
        if self.hands:
            goal = self.station if self.station and not self.treated else self.target
            if kind(self.place) != goal:
                return ("go", rng.choice([p for p in self.contents if kind(p) == goal]))
            if goal == self.station:
                return (self.errand, self.hands)
            return ("open", self.place) if self.place in self.closed else ("put", self.hands)
        found = self.first(self.thing, self.here())
        if found and kind(self.place) != self.target:
            return ("take", found)
        return self.search(rng, self.thing)

    def search(self, rng: random.Random, wanted: str) -> Action:
        """Goes where the kind of thing was seen, else where nobody has looked yet."""
        if self.place in self.closed:
            return ("open", self.place)
        places = [place for place in self.contents if kind(place) != self.target]
        known = [p for p in places if p in self.seen and self.first(wanted, self.contents[p])]
        if known:
            return ("go", known[0])
        new = [place for place in places if place not in self.seen and place != self.place]
        if not new:
            self.seen = set()
            new = [place for place in places if place != self.place]
        return ("go", pick(rng, [(p, 1 + 3 * (kind(p) in _SURFACES)) for p in new]))

    def do(self, action: Action) -> bool:
        """Carries an action out; returns whether the errand is done."""
        verb, name = action
        if verb == "go":
            self.place = name
        elif verb == "open":
            self.closed.discard(self.place)
        elif verb == "close":
            self.closed.add(self.place)
        elif verb == "take":
            self.contents[self.place].remove(name)
            self.hands = name
        elif verb == "put":
            self.contents[self.place].append(name)
            self.hands = ""
            is_it = kind(name) == self.thing and kind(self.place) == self.target
            self.done += is_it and (not self.station or self.treated)
        elif verb in _STATIONS:
            self.treated = True
        if self.place and self.place not in self.closed:
            self.seen.add(self.place)
        lit = verb == "use" and kind(name) == self.target and kind(self.hands) == self.thing
        return self.done >= self.wanted or (self.errand == "look" and lit)

    def actions(self) -> list[Action]:
        """What could be tried here, without what would bring a thing where no errand may."""
        tries = [("go", place) for place in self.contents if place != self.place]
        if self.place in self.closed:
            return [*tries, ("open", self.place)]
        if self.hands and self.place and self.may_bring(self.hands, self.place):
            tries += 3 * [("put", self.hands)]
        if not self.hands:
            tries += [("take", thing) for thing in self.here() if self.may_bring(thing, self.place)]
            tries += [("use", thing) for thing in self.here() if kind(thing) in _LAMPS]
        if kind(self.place) in _ROOMS["kitchen"][1]:
            tries.append(("close", self.place))
        return tries


def _draw_errand(rng: random.Random) -> tuple[str, str, str, str]:
    """An errand, the kind of room, the thing and the target."""
    while True:
        errand = pick(rng, _ERRANDS)
        room = rng.choice(list(_ROOMS))
        opens, doors, things = _ROOMS[room]
        if errand in ("heat", "cool") and room != "kitchen":
            continue
        if errand == "clean" and room not in ("kitchen", "bathroom"):
            continue
        if errand == "look" and "desklamp" not in things:
            continue
        pool = [thing for thing in things if thing not in _FIXED]
        pool = [thing for thing in pool if thing in _TREATED.get(errand, pool)]
        targets = _LAMPS if errand == "look" else (*opens, *doors)
        thing, target = rng.choice(pool), rng.choice(targets)
        if target != _STATIONS.get(errand) and not is_held_out(thing, target):
            return errand, room, thing, target


def sample_home(rng: random.Random) -> Home:
    """Draws an errand and a room to run it in."""
    errand, room, thing, target = _draw_errand(rng)
    opens, doors, things = _ROOMS[room]
    kinds = {*rng.sample(opens, rng.randint(2, 6)), *rng.sample(doors, rng.randint(1, len(doors)))}
    kinds |= {_STATIONS.get(errand, "")} - {""}
    if errand != "look":
        kinds.add(target)
    places = [
        f"{one} {number}"
        for one in sorted(kinds)
        for number in range(rng.choice((1, 2, 3, 6)) if one in _MANY else 1, 0, -1)
    ]
    contents: dict[str, list[str]] = {place: [] for place in places}
    others = [place for place in places if kind(place) != target]
    if not others:
        others = ["sidetable 1"]
        contents[others[0]] = []

    def scatter(name: str, among: Sequence[str]) -> None:
        contents[pick(rng, [(p, 1 + 3 * (kind(p) in _SURFACES)) for p in among])].append(name)

    wanted = rng.sample(range(1, 5), rng.choice((1, 2)) + (errand == "two"))
    for number in wanted:
        scatter(f"{thing} {number}", others)
    if errand == "look":
        scatter(f"{target} 1", [place for place in contents if not _has_door(place)])
    for other in rng.sample(things, min(len(things), rng.randint(4, 24))):
        if other not in (thing, target):
            scatter(f"{other} {rng.randint(1, 3)}", list(contents))
    for held in contents.values():
        held.sort()
    return Home(errand, thing, target, contents, {place for place in contents if _has_door(place)})


def _has_door(place: str) -> bool:
    return any(kind(place) in doors for _, doors, _ in _ROOMS.values())


_TASKS = {
    "look": (
        "look closely at {one} by the light of {there}.",
        "check {one} under {there}, with the light on.",
        "study {one} with {there}.", "hold {one} under {there} and look at it.",
        "examine {one} in the light of {there}.", "see what {one} looks like under {there}.",
    ),
    "two": (
        "bring two {thing} to {there}.", "two {thing}s belong {at}.",
        "look for two {thing} and leave them {at}.", "set two {thing} {at}.",
    ),
    "move": (
        "the {thing} belongs {at}.", "leave {one} {at}.", "bring {one} to {there}.",
        "find {one} and set it {at}.", "tidy up: {thing} to {there}.", "{one} should be {at}.",
        "carry {one} over to {there}.", "see that {one} is put {at}.",
    ),
    "treat": (
        "{do} {one} and leave it {at}.", "we need a {state} {thing} {at}.",
        "bring some {state} {thing} to {there}.", "first {do} {one}, then set it {at}.",
        "{thing} to {there}, but {state}.",
    ),
}  # fmt: skip


def _task(rng: random.Random, home: Home) -> str:
    thing, place = home.thing, home.target
    inside = "in" if place in _INSIDE else "on"
    one = rng.choice((an(thing), f"a {thing}", f"some {thing}", f"the {thing}", thing))
    there = rng.choice((f"the {place}", f"the {place}", place))
    at = rng.choice((f"{inside} {there}", f"in {there}", f"on {there}"))
    is_treated = home.errand in _RESULTS
    state = rng.choice(_RESULTS[home.errand]) if is_treated else ""
    task = rng.choice(_TASKS["treat" if is_treated else home.errand])
    return task.format(do=home.errand, thing=thing, one=one, there=there, at=at, state=state)


def _items(rng: random.Random, names: Sequence[str]) -> str:
    """Things in a row: "a mug 2, an egg 1 and a pan 3", and other ways to say it."""
    article = rng.choice((an, lambda name: f"a {name}", lambda name: f"a {name}", lambda n: n))
    last = rng.choice((" and ", ", and ", ", "))
    return listed([article(name) for name in names], last) if names else "nothing"


# What is told at the start and after an action: {} is what was acted on, or what is to be seen.
_NEWS = {
    "start": (
        "around you are {}.", "the room has {}.", "there is {} in this room.",
        "you look around and see {}.", "you are in a room. Looking about, you find {}.",
        "in the middle of the room you see {}.",
    ),
    "go": (
        "you reach the {}.", "you are at {}.", "you come to {}.", "{}.", "you stand at the {}.",
        "you now face the {}.",
    ),
    "close": ("it is shut.", "{} is shut.", "its door is shut.", "{}: closed."),
    "open": ("the {} opens.", "you pull {} open.", "now {} stands open."),
    "contents": (
        "{on} it you find {}.", "there is {} {on} it.", "you see {} here.",
        "{on} the {place} there is {}.", "it has {}.", "{on} {place} you spot {}.",
    ),
    "take": (
        "you have the {} now.", "you hold {}.", "the {} is in your hand.", "you picked {} up.",
        "you lift the {} off the {place}.", "you took {} from {place}.",
    ),
    "put": (
        "the {} is {on} the {place} now.", "you let go of {}.", "{} lies {on} {place}.",
        "you moved {} to the {place}.",
    ),
    "treat": ("the {} is {state} now.", "you made {} {state}.", "{}: {state}."),
    "use": ("the {} is on.", "light falls from the {}.", "{} is lit."),
}  # fmt: skip


class _Teller:
    """Says what is new after each step, in one way throughout."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._news = {name: rng.choice(options) for name, options in _NEWS.items()}
        self._shown = rng.choice((0.0, 0.0, 0.3))  # how often hands are mentioned without a reason

    def start(self, home: Home) -> str:
        """What there is to see before the first step."""
        return sentence(self._tell("start", home, _items(self._rng, list(home.contents))))

    def after(self, home: Home, action: Action) -> str:
        """What is new after an action."""
        verb, name = action
        told = f"the {name}" if verb == "close" else name
        parts = [self._tell(verb, home, told)]
        if verb == "go" and name in home.closed:
            parts.append(self._tell("close", home, name))
        elif verb in ("go", "open"):
            parts.append(self._tell("contents", home, _items(self._rng, home.here())))
        if verb not in ("take", "put") and self._rng.random() < self._shown:
            parts.append(f"you hold {home.hands or 'nothing'}.")
        return " ".join(sentence(part) for part in parts)

    def _tell(self, what: str, home: Home, name: str) -> str:
        news = self._news["treat" if what in _RESULTS else what]
        on = "in" if kind(home.place) in _INSIDE else "on"
        state = _RESULTS.get(what, ("",))[0]
        return news.format(name, on=on, place=home.place, state=state)


class _Verbs:
    """How somebody words actions, throughout a document."""

    def __init__(self, rng: random.Random):
        plain = rng.random() < 0.7
        self._go = "go to" if plain else rng.choice(("walk to", "head for", "go over to"))
        self._take = "take" if plain else rng.choice(("pick up", "grab", "get"))
        self._put = "move" if plain else rng.choice(("put", "place", "set"))
        self._use = "use" if plain else rng.choice(("turn on", "switch on"))
        self._the = "" if plain else rng.choice(("", "the "))
        self._to = "to" if plain else ""

    def action(self, home: Home, action: Action) -> str:
        """The words of an action that is about to be done."""
        verb, name = action
        the, place = self._the, home.place
        to = self._to or ("in" if kind(place) in _INSIDE else "on")
        return {
            "go": f"{self._go} {the}{name}",
            "open": f"open {the}{name}",
            "close": f"close {the}{name}",
            "take": f"{self._take} {the}{name} from {the}{place}",
            "put": f"{self._put} {the}{name} {to} {the}{place}",
            "use": f"{self._use} {the}{name}",
        }.get(verb, f"{verb} {the}{name} with {the}{place}")


def errand(rng: random.Random) -> Document:
    """A few steps of an errand, with what was seen and done before."""
    home, verbs, teller = sample_home(rng), _Verbs(rng), _Teller(rng)
    task = _task(rng, home)
    steps: list[tuple[str, str]] = []
    observation = teller.start(home)
    if rng.random() < 0.3:
        observation += f"\n\nTo do: {task}"
    over = False
    while not over and len(steps) < 40:
        action = home.plan(rng)
        if rng.random() < _MISTAKES:
            action = rng.choice(home.actions())
        steps.append((observation, verbs.action(home, action)))
        over = home.do(action)
        observation = teller.after(home, action)
    # The end is where errands differ; on the way there is much walking about.
    last = len(steps) - min(len(steps) - 1, int(rng.expovariate(1 / 4)))
    shown = steps[max(0, last - rng.randint(2, 6)) : last]
    layout = phrases.remembered if rng.random() < 0.8 else phrases.decisions
    return layout(rng, task, shown, "household")


def habits(rng: random.Random) -> Document:
    """General sentences about how things are done at home."""
    room = rng.choice(list(_ROOMS))
    opens, doors, things = _ROOMS[room]
    pairs = [(thing, place) for thing in things for place in opens if not is_held_out(thing, place)]
    small, shelf = rng.choice(pairs)
    closed, food = rng.choice(doors), rng.choice(_TREATED["heat"])
    wash, lamp = rng.choice(_TREATED["clean"]), rng.choice(_LAMPS)
    pool = [
        f"A shut {closed} must be opened before anything can be taken out of it.",
        f"Dirty things such as {an(wash)} are cleaned with the sinkbasin.",
        f"A cold {food} is heated with the microwave.",
        f"To cool {an(food)}, take it to the fridge.",
        f"To look at something closely, carry it to the {lamp} and use the {lamp}.",
        f"What is not on the {shelf} may be in the {closed}.",
        "One pair of hands carries one thing at a time.",
        f"Those who look for {an(small)} start with the {shelf}.",
        "Bring the first of two, then go back for the second.",
        f"Things one finds in a {room} are the {small}, the {rng.choice(things)} and the like.",
    ]
    return Document("household", "", (Piece(" ".join(rng.sample(pool, rng.randint(3, 5)))),))
