"""The suite's own random numbers: SplitMix64 seeded by SHA-256, integers only.

Python promises the same sequence from `random.Random.random` for ever, but not from `choice`, `shuffle` or `sample`.
The suite promises the same bytes on every machine, so it draws from these few lines instead (Steele, Lea & Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014; constants of its reference implementation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
MASK = (1 << 64) - 1


def digest(text: str) -> int:
    """64 bits of the SHA-256 of a text: the same on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf8")).digest()[:8], "big")


class Dice:
    """A stream of random integers that depends on its key alone.

    >>> Dice("a", 7).below(100) == Dice("a", 7).below(100)
    True
    """

    __slots__ = ("state",)

    def __init__(self, *key: str | int) -> None:
        self.state = digest("/".join(str(part) for part in key))

    def bits(self) -> int:
        """The next 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    def below(self, limit: int) -> int:
        """An integer in [0, limit)."""
        return (self.bits() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 cases."""
        return self.below(100) < percent

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a new order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        order = list(items)
        for place in range(count):
            other = place + self.below(len(order) - place)
            order[place], order[other] = order[other], order[place]
        return order[:count]
