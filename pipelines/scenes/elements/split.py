"""Seeded choices that know which split they draw for: how "train" and "held_out" stay disjoint by construction.

Every scene is a function of one `Dice`, and a `Dice` of (seed, split, category, ordinal). Two rules keep the splits
apart, whatever the seeds:

    pools      a `Pool` lists values of one kind (type families, names, colour and shape pairs, wordings) and, apart
               from them, reserved ones. Only held-out scenes can draw a reserved value.
    layouts    `belongs` deals contents (a maze, a time on a clock, where which objects lie) by their digest: one in
               five to held_out, the rest to train. Makers redraw until theirs belongs to the split asked for.

Used by every maker beside this file; nothing here knows about pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from manifests.records import Json, canonical_json, digest

T = TypeVar("T")

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

RESERVED_SHARE = 0.15
"""How often a held-out scene draws from the reserved part of a pool that is not strict: most of each held-out scene
stays made of things that training has shown one by one, and the rest can be told apart in reports."""


@dataclass(frozen=True)
class Pool(Generic[T]):
    """Values to draw from. `strict` pools give held-out scenes nothing but reserved values."""

    name: str
    train: tuple[T, ...]
    reserved: tuple[T, ...]
    strict: bool = False


class Dice:
    """Random choices for one scene, in the order in which its maker asks.

    Only `random.Random.random` is used: of Python's generators it alone is promised to give the same numbers in
    every version. numpy's are not promised at all.
    """

    def __init__(self, seed: int, split: Split, category: str, ordinal: int) -> None:
        self.split: Split = split
        self.reserved: set[str] = set()
        """Names of the pools that gave a reserved value."""
        key = digest("scene", str(seed), split, category, str(ordinal))
        self._draw = random.Random(int(key[:32], 16)).random

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._draw()

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._draw() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._draw() < probability

    def choice(self, values: Sequence[T]) -> T:
        return values[int(self._draw() * len(values))]

    def weighted(self, weights: dict[T, float]) -> T:
        left = self._draw() * sum(weights.values())
        for value, weight in weights.items():
            left -= weight
            if left < 0:
                return value
        return value

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """`count` different places of `values`, in random order."""
        rest = list(values)
        return [rest.pop(int(self._draw() * len(rest))) for _ in range(count)]

    def pick(self, pool: Pool[T]) -> T:
        """One value that this split may have."""
        return self.pick_some(pool, 1)[0]

    def pick_some(self, pool: Pool[T], count: int) -> list[T]:
        """`count` different values that this split may have, all from one part of the pool."""
        if self.takes_reserved(pool):
            self.reserved.add(pool.name)
            return self.sample(pool.reserved, count)
        return self.sample(pool.train, count)

    def takes_reserved(self, pool: Pool[T]) -> bool:
        """Decide from which part of a pool to draw."""
        return self.split == "held_out" and (pool.strict or self.chance(RESERVED_SHARE))

    def until_ours(self, propose: Callable[[], T], content: Callable[[T], Json]) -> T:
        """Propose again and again until the content belongs to this split."""
        while True:
            proposal = propose()
            if belongs(self.split, content(proposal)):
                return proposal


def belongs(split: Split, content: Json) -> bool:
    """Whether this content may occur in this split. No seed takes part: train of one seed never meets held-out of
    another."""
    return (int(digest("split", canonical_json(content))[:8], 16) % 5 == 0) == (split == "held_out")
