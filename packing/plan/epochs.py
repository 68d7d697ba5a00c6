"""Keyed epoch order of a source: its pieces as rows in partitions, sorted by a hash per epoch.

The hash depends on (seed, epoch, source name, key of the piece) alone, so that the order is the same however a store is
sharded and on whatever machine it is computed. Pieces are dealt to partitions by that hash: only one partition at a
time is sorted, and partitions go to files where memory is too small. `supply.py` fills it, `order.py` draws from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from packing.mixture import Mixture
from packing.plan.pieces import mix_bits
from stores.spill import Partitions, Scratch

LEAST_PARTITION_BYTES, MOST_PARTITION_BYTES = 1 << 10, 2 << 20
"""Bounds on the size that a partition is planned for; larger ones are slower to sort."""
MOST_PARTITIONS = 1 << 14
"""Partitions of one source at most; beyond that they grow larger than `MOST_PARTITION_BYTES`."""
MEMORY_PARTS = 8
"""Two partitions of every source are kept sorted; together they take one such part of the memory."""
NO_MEDIA = np.zeros(0, np.uint64)

SortKey = tuple[int, int, int]
"""(hash, ordinal, start) of a piece: its position in the order of an epoch."""
END: SortKey = (1 << 64, 0, 0)
"""Sort key after all pieces."""


def order_hashes(seed: int, epoch: int, source: str, keys: np.ndarray) -> np.ndarray:
    """Hashes that order the pieces of a source in one epoch: (N,) uint64 from (N,) uint64 keys, without collisions."""
    salt = hashlib.blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=8).digest()
    return mix_bits(keys ^ np.uint64(int.from_bytes(salt, "little")))


@dataclass
class Drawn:
    """Progress of drawing from one source, for each epoch and class of pieces."""

    reached: list[list[SortKey]] = field(default_factory=list)
    """[epoch][class]: all pieces before this sort key were drawn."""

    @classmethod
    def nothing(cls, epochs: int, classes: int) -> Drawn:
        """Progress before the first piece."""
        return cls([[(0, 0, 0)] * classes for _ in range(epochs)])

    def advance(self, classes: range, epoch: int, key: SortKey) -> None:
        """Note that `classes` were drawn up to `key` in `epoch`, and completely in the epochs before."""
        for number, keys in enumerate(self.reached[: epoch + 1]):
            for class_ in classes:
                keys[class_] = max(keys[class_], key if number == epoch else END)


def sort_order(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,) indexes that sort pieces by hash, then by ordinal and start."""
    order = np.argsort(hashes)
    sorted_ = hashes[order]
    # Equal hashes: two pieces of 10^9 share a key once in 37 plans, and a sample may be stored twice.
    if (sorted_[1:] == sorted_[:-1]).any():
        order = np.lexsort((rows["start"], rows["ordinal"], hashes))
    return order


def sort_key(row: np.void, hash_: np.uint64) -> SortKey:
    """Sort key of one piece."""
    return int(hash_), int(row["ordinal"]), int(row["start"])


class Epochs:
    """Pieces of one source, partitioned by hash, epoch by epoch.

    Rows of the first epoch come in through `deal`. A later epoch is dealt from the first when it is read for the first
    time, unless rows were dealt to it before, as where the exposures of media are capped.
    """

    def __init__(self, mixture: Mixture, number: int, scratch: Scratch, kind: np.dtype[Any], pieces: int) -> None:
        """
        Args:
            number: index of the source in the mixture.
            kind: dtype of a row.
            pieces: estimated number of pieces, for the number of partitions.
        """
        self._source, self._number, self._seed = mixture.sources[number], number, mixture.seed
        self._scratch, self._kind, self._exposed = scratch, kind, mixture.max_media_exposures is not None
        part_bytes = scratch.memory_bytes // (MEMORY_PARTS * 2 * len(mixture.sources))
        part_bytes = min(max(part_bytes, LEAST_PARTITION_BYTES), MOST_PARTITION_BYTES)
        self._count = min(MOST_PARTITIONS, 1 + pieces * kind.itemsize // part_bytes)
        self._dealt = {0: self._partitions(0)}
        self._kept_from: dict[int, int] = {}
        """By epoch, the first partition that was not released."""

    def __len__(self) -> int:
        """Partitions of an epoch."""
        return self._count

    def deal(self, epoch: int, rows: np.ndarray, media: np.ndarray) -> None:
        """Add rows to an epoch, with the keys of their media, one row's after the other's."""
        if epoch not in self._dealt:
            self._dealt[epoch] = self._partitions(epoch)
        parts, media_parts = self._dealt[epoch]
        numbers = parts.of(self._hashes(epoch, rows))
        parts.add(rows, numbers)
        if media_parts is not None:
            media_parts.add(media, np.repeat(numbers, rows["media"]))

    def parts(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, keys of their media) of each partition of an epoch, unsorted."""
        for number in range(self._count):
            yield self.part(epoch, number)

    def part(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, keys of their media) of one partition, unsorted."""
        rows, media = self._epoch(epoch)
        return rows.read(number), NO_MEDIA if media is None else media.read(number)

    def order(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """(N,) indexes that sort rows of one partition into the order of an epoch."""
        return sort_order(self._hashes(epoch, rows), rows)

    def sorted_part(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, hashes) of one partition in the order of an epoch."""
        rows = self._epoch(epoch)[0].read(number)
        hashes = self._hashes(epoch, rows)
        order = sort_order(hashes, rows)
        return rows[order], hashes[order]

    def replace(self, epoch: int, number: int, rows: np.ndarray, media: np.ndarray) -> None:
        """Replace the content of a partition. Only where the mixture caps exposures of media."""
        parts, media_parts = self._dealt[epoch]
        assert media_parts is not None
        parts.replace(number, rows)
        media_parts.replace(number, media)

    def number_at(self, epoch: int, key: SortKey) -> int:
        """Number of the partition that contains `key`."""
        return int(self._epoch(epoch)[0].of(np.array([key[0]], np.uint64))[0])

    def release(self, epoch: int, key: SortKey) -> None:
        """Drop partitions that lie before `key` in this epoch, and those of all epochs before; none is read again."""
        for number, (parts, media) in self._dealt.items():
            if number > epoch or number == 0 and self._source.max_epochs > 1:
                continue  # later epochs are dealt from the first
            stop = self._count if number < epoch or key == END else self.number_at(number, key)
            first, self._kept_from[number] = self._kept_from.get(number, 0), stop
            for part in range(first, stop):
                parts.drop(part)
                if media is not None:
                    media.drop(part)

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
        return order_hashes(self._seed, epoch, self._source.name, rows["key"])
