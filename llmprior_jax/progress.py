"""Progress of long tasks: a bar where somebody watches, and elsewhere a line every half minute.

Somebody watches in a terminal and in a notebook. Elsewhere standard error is mostly a log, which
lines suit better than a bar that is drawn again and again.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import tqdm

_SECONDS_BETWEEN = 30.0


def bar(*args: Any, **kwargs: Any) -> Any:
    """A bar of tqdm, with the arguments that tqdm takes; `Lines` where nobody watches.

    Examples:
      >>> from llmprior_jax import progress
      >>> with progress.bar(total=3, desc="scoring", unit="state") as bar:
      ...     for _ in range(3):
      ...         bar.update() and None
    """
    return tqdm.tqdm(*args, **kwargs) if _watched() else Lines(*args, **kwargs)


class _LastSaid:
    """When the last line of any bar was said, or else when the first bar began."""

    time: float | None = None


_last_said = _LastSaid()


class Lines:
    """A bar of lines, `scoring: 120/806 states, 1.3/s, 8 min left`, every half minute.

    What takes less than half a minute gets none, unless nothing was said for that long, as where
    long work has many short bars; nor does any but the first of several processes.

    Attributes:
      n: how much is done.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str = "",
        total: int | None = None,
        unit: str = "it",
        initial: int = 0,
        **_: Any,
    ):
        """Takes the arguments of tqdm that say what is done; the others are about how it looks."""
        if total is None and iterable is not None and hasattr(iterable, "__len__"):
            total = len(iterable)  # pyright: ignore[reportArgumentType]
        self.n = initial
        self._iterable = iterable
        self._total = total
        self._initial = initial
        self._desc = desc
        self._unit = f"{unit.strip().removesuffix('s')}s"
        self._postfix = ""
        self._begun = self._said = time.monotonic()
        if _last_said.time is None:
            _last_said.time = self._begun

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable or ():
            yield item
            self.update()

    def update(self, n: float = 1) -> None:
        """Counts `n` more, and says how far it is if that was long ago."""
        self.n += n
        now = time.monotonic()
        of_all = self._begun if _last_said.time is None else _last_said.time
        if now - min(self._said, of_all) >= _SECONDS_BETWEEN:
            self._said = _last_said.time = now
            if _speaks():
                print(self._line(now), file=sys.stderr, flush=True)

    def set_postfix(self, values: dict[str, Any] | None = None, **more: Any) -> None:
        """Numbers to say along with how far it is."""
        pairs = {**(values or {}), **more}
        self._postfix = "".join(f", {name} {value}" for name, value in pairs.items())

    def close(self) -> None:
        """Nothing: a line is over when it is said."""

    def _line(self, now: float) -> str:
        of_all = "" if self._total is None else f"/{self._total:,.0f}"
        rate = (self.n - self._initial) / (now - self._begun)
        left = ""
        if self._total is not None and rate > 0:
            left = f", {_duration((self._total - self.n) / rate)} left"
        done = f"{self.n:,.0f}{of_all} {self._unit}, {_rate(rate)}{left}"
        return f"{self._desc}: {done if self._total != 0 else _duration(now - self._begun)}" + (
            self._postfix
        )


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _speaks() -> bool:
    # Asked only of several processes: it would start JAX's devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _watched() -> bool:
    # A notebook shows its cells' standard error as it comes, and yet says that it is no terminal.
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")
