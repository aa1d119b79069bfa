"""Ranges of numbers: what a parameter may be, and the error that says so.

What ends in float32 on a device is judged as float32: 1e-300 is 0 there, and 1e39 infinity.

Examples:
  >>> from llmprior_jax import ranges
  >>> ranges.POSITIVE.check("alpha", 0.1)
  >>> ranges.POSITIVE.check("alpha", 1e-300)
  Traceback (most recent call last):
  ValueError: alpha is 1e-300; use a number from 1e-30 to 1e+30
"""

import numbers
import reprlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers that are allowed.

    Attributes:
      low: the least of them.
      high: the largest.
      whole: whether fractions are excluded.
      or_zero: whether 0 is allowed, too, where it is below `low`.
    """

    low: float
    high: float
    whole: bool = False
    or_zero: bool = False

    def __contains__(self, value: Any) -> bool:
        # A truth value would pass for 0 or 1, and an array for a number.
        kind = numbers.Integral if self.whole else object
        if isinstance(value, bool) or not issubclass(type(value), kind):
            return False
        try:
            return bool(self.low <= value <= self.high or (self.or_zero and value == 0))
        except (TypeError, ValueError):
            return False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{'0, or ' if self.or_zero else ''}{kind} from {self.low:,} to {self.high:,}"

    def check(self, name: str, value: Any, also: str = "") -> None:
        """Raises a ValueError unless a value is in the range.

        Args:
          name: of the parameter, for the message.
          value: its value.
          also: what else the message says may be used, such as ", or 0 for none".
        """
        if value not in self:
            raise ValueError(f"{name} is {reprlib.repr(value)}; use {self}{also}")


# Far inside of float32 on both ends, so that quotients of them and of usual numbers are, too.
_SMALL, _LARGE = 1e-30, 1e30

POSITIVE = Range(_SMALL, _LARGE)
NOT_NEGATIVE = Range(_SMALL, _LARGE, or_zero=True)
SHARE = Range(0, 1)
SHARE_NOT_ZERO = Range(_SMALL, 1)
# What is counted in 32 bits, and takes no memory.
LARGEST_COUNT = 2**31 - 1
COUNT = Range(1, LARGEST_COUNT, whole=True)
COUNT_OR_ZERO = Range(0, LARGEST_COUNT, whole=True)
# What memory is needed for: an axis of small arrays, of a loop's records, and of large arrays.
STEPS = Range(1, 100_000_000, whole=True)
SIZE = Range(1, 1_000_000, whole=True)
WIDTH = Range(1, 10_000, whole=True)
WIDTH_OR_ZERO = Range(0, 10_000, whole=True)
# Larger seeds would be cut to 32 bits, and be the same as smaller ones.
LARGEST_SEED = 2**32 - 1
SEED = Range(0, LARGEST_SEED, whole=True)
