"""Seeded random choices for one scene, which keep the splits `train` and `held_out` disjoint by construction.

Every scene is a function of one `SceneRng`, and a `SceneRng` of (seed, split, category, ordinal). Two rules keep the
splits apart, whatever the seeds:

    pools      A `Pool` lists values of one kind (type families, names, color and shape pairs, wordings), and a reserved
               part. Only held-out scenes can draw a reserved value.
    layouts    `in_split` assigns a content (a maze, a time on a clock, the cells in which objects lie) to a split by
               its digest: one in five to `held_out`, the rest to `train`. A category draws again until its content
               belongs to the split asked for.

Every category uses this module. Nothing here draws.
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
"""Probability that a held-out scene draws from the reserved part of a pool that is not strict. It is small, so that a
held-out scene consists mostly of values that training has shown, and reports can separate the scenes with new ones."""


@dataclass(frozen=True)
class Pool(Generic[T]):
    """Values to draw from. From a `strict` pool held-out scenes draw reserved values only."""

    name: str
    train: tuple[T, ...]
    reserved: tuple[T, ...]
    strict: bool = False


class SceneRng:
    """Random number generator of one scene; results depend on the order of the calls.

    It uses `random.Random.random` only: Python promises equal numbers in every version for this method alone, and numpy
    promises them for no generator of its new interface.
    """

    def __init__(self, seed: int, split: Split, category: str, ordinal: int) -> None:
        self.split: Split = split
        self.reserved_pools: set[str] = set()
        """Names of the pools that gave a reserved value."""
        key = digest("scene", str(seed), split, category, str(ordinal))
        self._random = random.Random(int(key[:32], 16)).random

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def choice(self, values: Sequence[T]) -> T:
        return values[int(self._random() * len(values))]

    def weighted_choice(self, weights: dict[T, float]) -> T:
        """One key of `weights`, with a probability in proportion to its value."""
        left = self._random() * sum(weights.values())
        for value, weight in weights.items():
            left -= weight
            if left < 0:
                return value
        return value

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """`count` values from different positions of `values`, in random order."""
        rest = list(values)
        return [rest.pop(int(self._random() * len(rest))) for _ in range(count)]

    def pick(self, pool: Pool[T]) -> T:
        """One value of the pool that this split may show."""
        return self.pick_many(pool, 1)[0]

    def pick_many(self, pool: Pool[T], count: int) -> list[T]:
        """`count` different values that this split may show, all from one part of the pool."""
        if self.draws_reserved(pool):
            self.reserved_pools.add(pool.name)
            return self.sample(pool.reserved, count)
        return self.sample(pool.train, count)

    def draws_reserved(self, pool: Pool[T]) -> bool:
        """Decide whether the next value comes from the reserved part of the pool."""
        return self.split == "held_out" and (pool.strict or self.chance(RESERVED_SHARE))

    def draw_in_split(self, propose: Callable[[], T], content: Callable[[T], Json]) -> T:
        """Call `propose` until the content of its result belongs to this split; return that result."""
        while True:
            proposal = propose()
            if in_split(self.split, content(proposal)):
                return proposal


def in_split(split: Split, content: Json) -> bool:
    """Return whether this content may occur in this split.

    It depends on the content alone: training scenes of one seed share no content with held-out scenes of another.
    """
    return (int(digest("split", canonical_json(content))[:8], 16) % 5 == 0) == (split == "held_out")
