"""The words of ALFWorld: reads the grammar that a game file carries, and writes text with it.

ALFWorld (Shridhar et al., "ALFWorld: Aligning Text and Embodied Environments for Interactive
Learning", ICLR 2021) is played by TextWorld (Côté et al., 2018), and each of its games brings its
own words: a template for the command of each action, and a grammar for what is said after it. Such
a grammar rewrites symbols by the first of their rules whose condition holds. Conditions are
conjunctive queries over facts, like `openable(r:receptacle) & opened(r:receptacle)`; a list has one
item for each answer to its query. `Grammar` rewrites as TextWorld 1.7 does, to the letter, with two
differences: what TextWorld hands to Python's `eval` is limited here to names, texts, `+` and
`or`/`and`, and the facts come from a function, so the grammar knows nothing of the game.
"""

import ast
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Placeholder = tuple[str, str]
"""A variable of a query: its name and its type."""

Bindings = Mapping[Placeholder, str | None]
"""What the placeholders stand for: the id of an entity, or None for one that cannot be known."""

Facts = Callable[[str, tuple[str | None, ...]], Iterable[tuple[str, ...]]]
"""`facts(predicate, arguments)`: all facts that match the arguments, where None matches all, in the
order in which TextWorld sorts them."""


class Entity(NamedTuple):
    """What a grammar can say of a thing; the attributes are TextWorld's.

    Attributes:
      id: its name in the PDDL problem.
      type: its type there.
      name: what it is called in the text.
      definite: the definite article.
      indefinite: the indefinite article.
    """

    id: str
    type: str
    name: str
    definite: str = "the"
    indefinite: str = "a"

    def __str__(self) -> str:
        return self.name


class Atom(NamedTuple):
    """One predicate of a query.

    Attributes:
      predicate: its name.
      arguments: its placeholders.
    """

    predicate: str
    arguments: tuple[Placeholder, ...]


Query = tuple[Atom, ...]


class _Text(NamedTuple):
    text: str


class _Symbol(NamedTuple):
    name: str


class _Expression(NamedTuple):
    tree: ast.expr
    source: str


class _ForEach(NamedTuple):
    item: "_Symbol | _Expression"
    query: Query


class _List(NamedTuple):
    items: _ForEach


Phrase = tuple[_Text | _Symbol | _Expression | _ForEach | _List, ...]
"""A piece of grammar that can be rendered."""


class _Rule(NamedTuple):
    condition: Query
    phrase: Phrase


class Action(NamedTuple):
    """The words of one action.

    Attributes:
      command: the phrase of its command.
      feedback: the phrase of what is said after it.
    """

    command: Phrase
    feedback: Phrase


class Grammar:
    """A grammar in TextWorld's `.twl2` format.

    Args:
      source: the text of the grammar.

    Raises:
      ValueError: if `source` is not such a grammar, or uses expressions other than names, texts,
        `+`, `or` and `and`.

    Attributes:
      actions: the words of each action by its name in lower case.
      queries: every query of the grammar.
    """

    def __init__(self, source: str):
        rules: dict[str, list[dict[str, Any]]] = {}
        words: dict[str, tuple[str, str]] = {}
        for name, template, feedback, block in _read_document(source):
            if name is not None:
                words[name.lower()] = template, feedback
                block = "\n".join(
                    line for line in block.split("\n") if not line.lstrip().startswith("#")
                )
            rules.update(_read_rules(block))
        self._rules: dict[str, list[_Rule]] = {}
        self.queries: set[Query] = set()
        for name, alternatives in rules.items():
            self._rules[name] = [
                _Rule(self._query(rule.get("condition", "")), self.phrase(rule["rhs"]))
                for rule in alternatives
            ]
        self.actions = {
            name: Action(self.phrase(template), self.phrase(feedback))
            for name, (template, feedback) in words.items()
        }

    def phrase(self, source: str) -> Phrase:
        """Reads a piece of grammar such as `"open {r}"` or `"#intro#"`."""
        return tuple(_PhraseReader(source, self._query).read())

    def render(
        self, phrase: Phrase, bindings: Bindings, facts: Facts, entities: Mapping[str, Entity]
    ) -> str:
        """Writes a phrase.

        Args:
          phrase: what to write.
          bindings: what the parameters of the action stand for.
          facts: what is true.
          entities: every entity there is, by id.

        Returns:
          The text.

        Raises:
          ValueError: if the grammar asks for what is not there or cannot be known.
        """
        try:
            return "".join(_Writer(self._rules, facts, entities).write(phrase, dict(bindings)))
        except RecursionError as error:
            raise ValueError("the grammar rewrites a symbol without end") from error

    def _query(self, source: str) -> Query:
        query = _read_query(source) if source else ()
        if query:
            self.queries.add(query)
        return query


class _Writer:
    def __init__(
        self, rules: Mapping[str, list[_Rule]], facts: Facts, entities: Mapping[str, Entity]
    ):
        self._rules = rules
        self._facts = facts
        self._entities = entities

    def write(self, phrase: Phrase, bindings: dict[Any, Any]) -> Iterator[str]:
        for part in phrase:
            match part:
                case _Text(text):
                    yield text
                case _Symbol(name):
                    yield from self.write(self._rewrite(name, bindings), bindings)
                case _Expression(tree, source):
                    yield str(self._evaluate(tree, source, bindings))
                case _ForEach():
                    yield from self._items(part, bindings)
                case _List(items):
                    yield from self._join(list(self._items(items, bindings)), bindings)

    def _rewrite(self, name: str, bindings: dict[Any, Any]) -> Phrase:
        for rule in self._rules.get(name, ()):
            if not rule.condition or any(True for _ in self._answers(rule.condition, bindings)):
                return rule.phrase
        raise ValueError(f"the grammar has no rule that applies to {name!r}")

    def _items(self, each: _ForEach, bindings: dict[Any, Any]) -> Iterator[str]:
        answers = self._answers(each.query, bindings) if each.query else (bindings,)
        for answer in answers:
            yield "".join(self.write((each.item,), answer))

    def _join(self, items: list[str], bindings: dict[Any, Any]) -> Iterator[str]:
        if not items:
            yield from self.write((_Symbol("list_empty"),), bindings)
        for index, item in enumerate(items):
            if index:
                last = index == len(items) - 1
                separator = "list_last_separator" if last else "list_separator"
                yield from self.write((_Symbol(separator),), bindings)
            yield item

    def _answers(self, query: Query, bindings: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        """Every way to bind the placeholders, no two of them to the same entity."""
        if not query:
            yield bindings
            return
        (predicate, placeholders), *rest = query
        arguments = tuple(bindings.get(placeholder) for placeholder in placeholders)
        for placeholder, argument in zip(placeholders, arguments, strict=True):
            known_to_be_unknown = [p for p, value in bindings.items() if value is None]
            if argument is None and any(p[1] == placeholder[1] for p in known_to_be_unknown):
                raise ValueError(
                    f"the grammar asks {predicate}({', '.join(p[0] for p in placeholders)}), which "
                    f"depends on {known_to_be_unknown[0][0]!r}"
                )
        for fact in self._facts(predicate, arguments):
            answer = dict(bindings)
            used = set(bindings.values())
            for placeholder, entity in zip(placeholders, fact, strict=True):
                bound = answer.get(placeholder)
                if bound is None and entity not in used and self._is_a(entity, placeholder[1]):
                    answer[placeholder] = entity
                    used.add(entity)
                elif bound != entity:
                    break
            else:
                yield from self._answers(tuple(rest), answer)

    def _is_a(self, entity: str, type_: str) -> bool:
        return type_ in ("object", self._entities[entity].type)  # all types are below "object"

    def _evaluate(self, tree: ast.expr, source: str, bindings: dict[Any, Any]) -> "str | Entity":
        match tree:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                # A placeholder of that name; of several, the one bound last.
                bound = [value for placeholder, value in bindings.items() if placeholder[0] == name]
                if not bound or bound[-1] is None:
                    raise ValueError(f"the grammar asks for {name!r} in {source!r}")
                return self._entities[bound[-1]]
            case ast.Attribute(value=value, attr=attribute):
                return getattr(self._evaluate(value, source, bindings), attribute)
            case ast.BinOp(left=left, right=right):
                return str(self._evaluate(left, source, bindings)) + str(
                    self._evaluate(right, source, bindings)
                )
            case ast.BoolOp(op=operator, values=values):
                stops, result = isinstance(operator, ast.Or), ""
                for value in values:
                    result = self._evaluate(value, source, bindings)
                    if bool(str(result)) == stops:
                        break
                return result
            case _:
                raise AssertionError(f"{source!r} was let through")


class _PhraseReader:
    """Reads a phrase the way TextWorld's parser does, with its treatment of white space.

    Before most of what it looks for, that parser skips tabs, and at the start of a line all white
    space and `//` comments. It stops without complaint at what it cannot read.
    """

    _LINE_START = re.compile(r"^(//.*|\s*)\n?", re.MULTILINE)
    _TABS = re.compile(r"\t+")
    _LITERAL = re.compile(r'[^;|"<>\[\]#{}]*')
    _TAG = re.compile(r"[\w()/!<>\-\s,.]+")
    _STATEMENT = re.compile(r"[^|\[\]{}\n<>]+")
    _BAR = re.compile(r"\s*\|\s*")
    _GIVEN = re.compile(r"[^;|{}\n\[\]#]+")

    def __init__(self, source: str, read_query: Callable[[str], Query]):
        self._source = source
        self._read_query = read_query
        self._at = 0

    def read(self) -> Iterator[_Text | _Symbol | _Expression | _ForEach | _List]:
        while self._at < len(self._source):
            start = self._at
            for reader in (self._list, self._for_each, self._symbol, self._text):
                self._at = start
                part = reader()
                if part is not None:
                    break
            if part is None or self._at == start:
                return
            yield part

    def _list(self) -> _List | None:
        if self._token("[") and (items := self._for_each()) and self._token("]"):
            return _List(items)
        return None

    def _for_each(self) -> _ForEach | None:
        if not self._token("{"):
            return None
        start = self._at
        item = self._symbol()
        if item is None:
            self._at = start
            item = self._expression()
        if item is None:
            return None
        start, query = self._at, ()
        if self._match(self._BAR) is not None:
            self._skip()
            given = self._match(self._GIVEN)
            if given is None:
                self._at = start
            else:
                query = self._read_query(given)
        return _ForEach(item, query) if self._token("}") else None

    def _symbol(self) -> _Symbol | None:
        if not self._token("#"):
            return None
        self._skip()
        name = self._match(self._TAG)
        return _Symbol(name) if name and self._token("#") else None

    def _expression(self) -> _Expression | None:
        self._skip()
        source = self._match(self._STATEMENT)
        return _Expression(_read_expression(source), source) if source else None

    def _text(self) -> _Text | None:
        self._skip()
        start = self._at
        if self._token('"'):
            text = self._match(self._LITERAL)
            if self._token('"'):
                return _Text(text or "")
        self._at = start
        return _Text(self._match(self._LITERAL) or "")

    def _token(self, token: str) -> bool:
        self._skip()
        found = self._source.startswith(token, self._at)
        self._at += len(token) * found
        return found

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._source, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group()

    def _skip(self) -> None:
        before = None
        while before != self._at:
            before = self._at
            while self._match(self._LINE_START):
                pass
            self._match(self._TABS)


def _read_expression(source: str) -> ast.expr:
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the grammar has the expression {source!r}, which is not one") from error
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str()) | ast.Name() | ast.Load() | ast.Add():
                pass
            case ast.Or() | ast.And() | ast.BoolOp() | ast.BinOp(op=ast.Add()):
                pass
            case ast.Attribute(value=ast.Name(), attr=attribute) if attribute in Entity._fields:
                pass
            case _:
                raise ValueError(
                    f"the grammar has the expression {source!r}; only names with their "
                    f"{', '.join(Entity._fields)}, texts, '+', 'or' and 'and' are understood"
                )
    return tree


_ATOM = re.compile(r"\s*([\w/]+)\s*\(([^()]*)\)\s*")
_PLACEHOLDER = re.compile(r"\s*([\w']+)\s*(?::\s*([\w/-]+)\s*)?")


def _read_query(source: str) -> Query:
    query = []
    for part in source.split("&"):
        atom = _ATOM.fullmatch(part)
        arguments = atom and [_PLACEHOLDER.fullmatch(name) for name in atom[2].split(",")]
        if not atom or not arguments or not all(arguments):
            raise ValueError(f"the grammar has the query {source!r}, which is not one")
        query.append(Atom(atom[1], tuple((a[1], a[2] or a[1]) for a in arguments if a)))
    return tuple(query)


_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#.*?$)|(?P<block>\"""(?:.|\n)*?\""")|(?P<text>"[^"]*")"""
    r"""|(?P<mark>::|[;{}])|(?P<name>[\w/-]+)""",
    re.MULTILINE,
)


def _read_document(source: str) -> Iterator[tuple[str | None, str, str, str]]:
    """Yields name, template, feedback and rules of each action, and (None, "", "", rules)."""
    tokens = _Tokens(source)
    while (word := tokens.take("name", optional=True)) is not None:
        if word == "grammar":
            yield None, "", "", tokens.field("block")
        elif word == "action":
            name = tokens.take("name")
            tokens.take("mark", "{")
            fields = {"template": "", "feedback": "", "grammar": '"""{}"""'}
            while (field := tokens.take("name", optional=True)) is not None:
                if field in ("template", "feedback"):
                    fields[field] = tokens.field("text")
                elif field in ("grammar", "pddl"):
                    fields[field] = tokens.field("block")
                else:
                    raise ValueError(f"the grammar gives {name} an unknown field {field!r}")
            tokens.take("mark", "}")
            missing = [field for field in ("template", "feedback") if not fields[field]]
            if missing:
                raise ValueError(f"the grammar gives {name} no {missing[0]}")
            yield name, fields["template"][1:-1], fields["feedback"][1:-1], fields["grammar"]
        else:
            raise ValueError(f"the grammar has {word!r} where an action or a grammar is expected")
    tokens.end()


class _Tokens:
    def __init__(self, source: str):
        self._source = source
        self._at = 0
        self._next = self._scan()

    def take(self, kind: str, value: str | None = None, optional: bool = False) -> str | None:
        found, text = self._next
        if found != kind or value not in (None, text):
            if optional:
                return None
            raise ValueError(f"the grammar has {text[:40]!r} where {value or kind} is expected")
        self._next = self._scan()
        return text

    def field(self, kind: str) -> str:
        self.take("mark", "::")
        text = self.take(kind)
        self.take("mark", ";")
        return text or ""

    def end(self) -> None:
        self.take("end")

    def _scan(self) -> tuple[str | None, str]:
        while self._at < len(self._source):
            match = _TOKEN.match(self._source, self._at)
            if match is None:
                return None, self._source[self._at :]
            self._at = match.end()
            if match.lastgroup != "skip":
                return match.lastgroup, match.group()
        return "end", "the end"


def _read_rules(block: str) -> dict[str, list[dict[str, Any]]]:
    try:
        rules = json.loads(textwrap.dedent(block[3:-3]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the grammar has rules that are not JSON: {error}") from error
    if not isinstance(rules, dict):
        raise ValueError("the grammar has rules that are not a JSON object")
    for name, alternatives in rules.items():
        if not isinstance(alternatives, list) or not all(
            isinstance(rule, dict)
            and isinstance(rule.get("rhs"), str)
            and isinstance(rule.get("condition", ""), str)
            for rule in alternatives
        ):
            raise ValueError(f"the grammar has rules for {name!r} that are not rules")
    return rules
