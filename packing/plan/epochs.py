"""All pieces of a source in the order of any epoch, as rows in partitions.

A piece is drawn in an epoch in the order of a hash of its key, and pieces are dealt to partitions by that hash, so that
only one partition at a time is sorted and they need not lie in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from packing.mixture import Mixture
from packing.plan.pieces import mixed
from stores.spill import Partitions, Scratch

LEAST_PARTITION_BYTES, MOST_PARTITION_BYTES = 1 << 10, 2 << 20
"""Larger ones are slower to sort."""
MOST_PARTITIONS = 1 << 14
"""Of one source; if they are not enough they are larger."""
PARTITION_PART = 8
"""Two partitions of every source are at hand: together they take such a part of the memory."""
NO_MEDIA = np.zeros(0, np.uint64)

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


class Epochs:
    """Those of one source. The first is dealt as its pieces come in, each later one from the first when it is asked
    for, unless what may be seen in it was dealt before."""

    def __init__(self, mixture: Mixture, number: int, scratch: Scratch, kind: np.dtype[Any], pieces: int) -> None:
        """
        Args:
            number: of the source in the mixture.
            kind: of a row.
            pieces: about how many there are.
        """
        self._source, self._number, self._seed = mixture.sources[number], number, mixture.seed
        self._scratch, self._kind, self._exposed = scratch, kind, mixture.max_media_exposures is not None
        part_bytes = scratch.memory_bytes // (PARTITION_PART * 2 * len(mixture.sources))
        part_bytes = min(max(part_bytes, LEAST_PARTITION_BYTES), MOST_PARTITION_BYTES)
        self._count = min(MOST_PARTITIONS, 1 + pieces * kind.itemsize // part_bytes)
        self._dealt = {0: self._partitions(0)}
        self._kept_from: dict[int, int] = {}
        """By epoch, the first partition that was not dropped."""

    def __len__(self) -> int:
        """Partitions of an epoch."""
        return self._count

    def deal(self, epoch: int, rows: np.ndarray, media: np.ndarray) -> None:
        """More rows of an epoch, and the media that they show one after the other."""
        if epoch not in self._dealt:
            self._dealt[epoch] = self._partitions(epoch)
        parts, media_parts = self._dealt[epoch]
        numbers = parts.of(self._hashes(epoch, rows))
        parts.add(rows, numbers)
        if media_parts is not None:
            media_parts.add(media, np.repeat(numbers, rows["media"]))

    def parts(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of each partition of an epoch, and the media that they show one after the other."""
        for number in range(self._count):
            yield self.part(epoch, number)

    def part(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        rows, media = self._epoch(epoch)
        return rows.read(number), NO_MEDIA if media is None else media.read(number)

    def order(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Places of rows of one partition in that epoch's order."""
        return in_order(self._hashes(epoch, rows), rows)

    def in_order(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a partition as they come in that epoch, and their hashes."""
        rows = self._epoch(epoch)[0].read(number)
        hashes = self._hashes(epoch, rows)
        order = in_order(hashes, rows)
        return rows[order], hashes[order]

    def replace(self, epoch: int, number: int, rows: np.ndarray, media: np.ndarray) -> None:
        """Instead of what the partition held, of an epoch in which media are counted."""
        parts, media_parts = self._dealt[epoch]
        assert media_parts is not None
        parts.replace(number, rows)
        media_parts.replace(number, media)

    def number_at(self, epoch: int, place: Place) -> int:
        """Of the partition that holds this place in the order of the epoch."""
        return int(self._epoch(epoch)[0].of(np.array([place[0]], np.uint64))[0])

    def passed(self, epoch: int, place: Place) -> None:
        """Nothing before it in this epoch, and nothing of the epochs before, is asked for again."""
        for number, (parts, media) in self._dealt.items():
            if number > epoch or number == 0 and self._source.max_epochs > 1:
                continue  # later epochs are made from the first
            stop = self._count if number < epoch or place == END else self.number_at(number, place)
            first, self._kept_from[number] = self._kept_from.get(number, 0), stop
            for one in range(first, stop):
                parts.drop(one)
                if media is not None:
                    media.drop(one)

    def _epoch(self, epoch: int) -> tuple[Partitions, Partitions | None]:
        if epoch not in self._dealt:
            for rows, media in self.parts(0):
                self.deal(epoch, rows, media)
        return self._dealt[epoch]

    def _partitions(self, epoch: int) -> tuple[Partitions, Partitions | None]:
        name = f"{self._number}.{epoch}"
        rows = Partitions(self._scratch, name, self._count, self._kind)
        media = Partitions(self._scratch, f"{name}.media", self._count, np.dtype(np.uint64)) if self._exposed else None
        return rows, media

    def _hashes(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        return salted(self._seed, epoch, self._source.name, rows["key"])
