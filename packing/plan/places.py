"""In which order do the pieces of a source come in an epoch, and up to where did they? By a hash of each.

It depends on (seed, epoch, source, key) only, so it is the same however a store is sharded and whoever computes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from packing.plan.pieces import mixed

Place = tuple[int, int, int]
"""In the order of an epoch: (hash, ordinal, start) of a piece."""
END: Place = (1 << 64, 0, 0)


def salted(seed: int, epoch: int, source: str, keys: np.ndarray) -> np.ndarray:
    """(N,) uint64: by which the pieces of a source with (N,) uint64 keys are ordered in one epoch; no two alike."""
    salt = hashlib.blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=8).digest()
    return mixed(keys ^ np.uint64(int.from_bytes(salt, "little")))


@dataclass
class Drawn:
    """Up to where each class was drawn, epoch by epoch."""

    places: list[list[Place]] = field(default_factory=list)
    """[epoch][class]: before it all were."""

    @classmethod
    def nothing(cls, epochs: int, classes: int) -> Drawn:
        return cls([[(0, 0, 0)] * classes for _ in range(epochs)])

    def until(self, classes: range, epoch: int, place: Place) -> None:
        """These classes were drawn in all epochs before, and in this one up to `place`."""
        for number, places in enumerate(self.places[: epoch + 1]):
            for one in classes:
                places[one] = max(places[one], place if number == epoch else END)


def in_order(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,): by hash, then by place in the store."""
    order = np.argsort(hashes)
    sorted_ = hashes[order]
    if (sorted_[1:] == sorted_[:-1]).any():  # two pieces of 10^9, once in 37 plans, or a sample that is there twice
        order = np.lexsort((rows["start"], rows["ordinal"], hashes))
    return order


def place_of(row: np.void, hash_: np.uint64) -> Place:
    return int(hash_), int(row["ordinal"]), int(row["start"])
