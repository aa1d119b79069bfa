"""Things by name: what the library has, what a user registers, and what an import path names.

Environments, agents, prompts, sources of priors, engines and metrics are chosen by name
in settings. Each kind has one `Registry`, so that a new one takes a call of `register` in the
user's own file, or no call at all: `my_module:thing` names whatever can be imported.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name.

    Examples:
      >>> from llmprior_jax.registry import Registry
      >>> units = Registry("unit", {"second": 1.0, "minute": 60.0})
      >>> units.register("hour", 3600.0)
      >>> units["hour"]
      3600.0
      >>> units["minuet"]
      Traceback (most recent call last):
      ValueError: there is no unit 'minuet'; did you mean 'minute'? ...
      >>> Registry("function", {})["math:sqrt"](4.0)
      2.0
    """

    def __init__(self, kind: str, entries: Mapping[str, T]):
        """Begins with the library's own entries.

        Args:
          kind: what the entries are, for error messages: "agent".
          entries: by name.
        """
        self.kind = kind
        self._entries = dict(entries)

    def register(self, name: str, entry: T) -> None:
        """Gives an entry a name. An equal entry may be registered again.

        Raises:
          ValueError: another entry has that name, or the name looks like an import path.
        """
        if ":" in name:
            raise ValueError(
                f"{self.kind} {name!r} cannot be registered: names with a colon are import paths; "
                "leave it out"
            )
        if self._entries.get(name, entry) != entry:
            raise ValueError(f"the {self.kind} {name!r} is there already; choose another name")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """The entry of a name, or what an import path `module:name` names.

        Raises:
          ValueError: there is no such entry (the message has the nearest name), or what the path
            names cannot be imported or called.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return _imported(self.kind, name)
        raise ValueError(unknown_entry(self.kind, name, self._entries))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, whatever its case."""
    lowered = {each.lower(): each for each in known}
    return lowered[difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.0)[0]]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that nothing has."""
    known = list(known)
    return (
        f"there is no {what} {name!r}; did you mean {nearest(name, known)!r}? "
        f"There are {', '.join(known)}"
    )


def unknown_entry(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that no entry of a kind has.

    What was registered is known where that was done, and not where a run is evaluated later.
    """
    return (
        f"{unknown(kind, name, known)}. One of your own is named by its import path, my_module:name"
    )


def _imported(kind: str, path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{kind} {path!r} cannot be imported: there is no module {error.name!r}; see that it "
            "is on Python's path (PYTHONPATH), or name one of the library's own"
        ) from error
    except AttributeError as error:
        raise ValueError(f"{kind} {path!r}: the module {module} has no {attribute!r}") from error
    if not callable(entry):
        raise ValueError(
            f"{kind} {path!r} is {entry!r:.60}, which cannot be called; name a function or a class"
        )
    return entry
