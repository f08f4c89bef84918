"""Randomness that is the same everywhere: drawn by `getrandbits` alone, whose sequence Python promises to keep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_FINE = 20  # bits of a chance: a millionth


class Rng:
    """One stream of choices. Parts of a simulation have streams of their own, so that a change in one part does not
    reshuffle all the others."""

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        self._draw = self.generator.getrandbits

    def fork(self) -> Rng:
        """An independent stream, so that one part of the simulation does not change the draws of another."""
        return Rng(self._draw(64))

    def bits(self, count: int) -> int:
        """A number of `count` random bits."""
        return self._draw(count)

    def below(self, bound: int) -> int:
        """In [0, bound)."""
        bits = bound.bit_length()
        while (number := self._draw(bits)) >= bound:
            pass
        return number

    def between(self, low: int, high: int) -> int:
        """Both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._draw(_FINE) < probability * (1 << _FINE)

    def seconds(self, low: float, high: float) -> float:
        """A time between `low` and `high`."""
        return low + (high - low) * (self._draw(_FINE) / (1 << _FINE))

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[T, int]]) -> T:
        """Each with its weight."""
        number = self.below(sum(weight for _, weight in items))
        for item, weight in items:
            number -= weight
            if number < 0:
                return item
        raise AssertionError("the weights do not add up")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a random order, as a new list."""
        rest, out = list(items), []
        while rest:
            out.append(rest.pop(self.below(len(rest))))
        return out
