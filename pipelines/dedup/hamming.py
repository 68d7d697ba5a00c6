"""Hashes that differ in few bits, and clusters of them: multi-index hashing (Norouzi, Punjani and Fleet 2012).

A hash of 64 bits is cut into 4 pieces of 16. If two hashes differ in at most r bits, one of their pieces differs in at
most r // 4 bits. Therefore a look-up of every piece, with up to r // 4 of its bits flipped, finds every near hash. Each
candidate is then compared whole, hash and `detail` (`dedup/image_hash.py`). Used by `dedup_images` (`clusters`) and
`decontaminate` (`nearest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numba import types

from manifests.jit import compiled
from pipelines.dedup.image_hash import WORDS
from pipelines.dedup.unions import flatten, unite
from stores.spill import Partitions, Scratch

PIECES, PIECE_BITS = 4, 16

MOST_BITS = 15
"""Largest radius in bits; at this radius a piece is looked up with 697 patterns."""

_HASHES = types.Array(types.uint64, 2, "C")
_DETAILS = types.Array(types.uint64, 3, "C")
_PATTERNS = types.Array(types.uint64, 1, "C")
_PLACES = types.Array(types.int64, 1, "C")


def patterns(radius: int) -> np.ndarray:
    """Return (n,) uint64, the XOR patterns for one piece: every set of at most radius // 4 bits, the empty set
    first."""
    bits = [1 << bit for bit in range(PIECE_BITS)]
    sets = (chosen for size in range(radius // PIECES + 1) for chosen in combinations(bits, size))
    return np.array([sum(chosen) for chosen in sets], np.uint64)


def table(hashes: np.ndarray, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the look-up table of one piece.

    Returns:
        (n,) int64 indexes of hashes in the order of their piece, without hashes that are 0; (65537,) int64 starts of
        each value of the piece in that order.
    """
    values = (hashes >> np.uint64(piece * PIECE_BITS)) & np.uint64(0xFFFF)
    order = np.argsort(values, kind="stable")
    order = order[hashes[order] != 0]
    starts = np.searchsorted(values[order], np.arange(2**PIECE_BITS + 1, dtype=np.uint64))
    return np.ascontiguousarray(order, np.int64), starts.astype(np.int64)


ReadHashes = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Yields blocks of documents in order: (n,) int64 places, (n, k) uint64 hashes and (n, k, 4) uint64 details, of one
picture (k = 1) or the k key frames of a video. A hash that is 0 is near to none."""


def clusters(
    read: ReadHashes, total: int, frames: int, radius: int, detail_radius: int, need: int, memory_bytes: int
) -> np.ndarray:
    """Return (total,) int64: the smallest place in each document's cluster. Clusters are transitive.

    Args:
        read: called once if all hashes fit into memory, else once for each piece of each frame.
        total: number of documents.
        frames: hashes per document, k.
        radius: most bits of 64 in which near hashes differ.
        detail_radius: most bits of 256 in which their details differ.
        need: number of frames that must be near, each to the frame at the same position.
        memory_bytes: bounds the hashes that are compared together; the rest is spilled to scratch files. 8 bytes per
            document come on top.
    """
    parents = np.arange(total, dtype=np.int64)
    kind = np.dtype([("place", np.int64), ("words", np.uint64, (frames, 1 + WORDS))])
    joiner = _Joiner(parents, radius, detail_radius, need)
    bits = min(MOST_PARTITION_BITS, max(0, (COPIES * total * kind.itemsize // max(1, memory_bytes)).bit_length()))
    passes = [(frame, piece) for frame in range(frames) for piece in range(PIECES)]
    if not bits:
        rows = joiner.distinct(np.concatenate([np.zeros(0, kind), *_rows(read, kind, need)]))
        for frame, piece in passes:
            joiner.join(rows, rows, frame, piece)
    else:
        with Scratch(memory_bytes // 2) as scratch:
            for frame, piece in passes:
                _join_in_parts(joiner, read, scratch, kind, frame, piece, bits)
    flatten(parents)
    return parents


COPIES = 16
"""Copies of all rows that are in memory while two partitions are compared and others are buffered."""
MOST_PARTITION_BITS = 12
"""Upper bound of the bits that number the partitions."""


def _rows(read: ReadHashes, kind: np.dtype[Any], need: int) -> Iterator[np.ndarray]:
    """Yield rows of dtype `kind` for the documents with at least `need` hashes."""
    for places, hashes, details in read():
        enough = (hashes != 0).sum(axis=1) >= need
        rows = np.empty(int(enough.sum()), kind)
        rows["place"] = places[enough]
        rows["words"][..., 0], rows["words"][..., 1:] = hashes[enough], details[enough]
        yield rows


def _join_in_parts(
    joiner: _Joiner, read: ReadHashes, scratch: Scratch, kind: np.dtype[Any], frame: int, piece: int, bits: int
) -> None:
    """Join all near rows with `1 << bits` partitions on disk, numbered by the first bits of the piece.

    Near rows are in partitions whose numbers differ in few bits, so two partitions at a time are enough.
    """
    partitions = Partitions(scratch, f"{frame}-{piece}", 1 << bits, kind)
    for rows in _rows(read, kind, joiner.need):
        rows = rows[rows["words"][:, frame, 0] != 0]
        first = rows["words"][:, frame, 0] >> np.uint64(piece * PIECE_BITS + PIECE_BITS - bits)
        partitions.add(rows, (first & np.uint64((1 << bits) - 1)).astype(np.int64))
    for number in range(1 << bits):
        rows = joiner.distinct(partitions.read(number))
        joiner.join(rows, rows, frame, piece)
        for flipped in _flips(bits, joiner.radius // PIECES):
            if (other := number ^ flipped) > number:
                joiner.join(rows, joiner.distinct(partitions.read(other)), frame, piece)
    partitions.close()


def _flips(bits: int, most: int) -> list[int]:
    """Return the numbers of `bits` bits with 1 to `most` bits set."""
    return [number for number in range(1, 1 << bits) if number.bit_count() <= most]


@dataclass(frozen=True)
class _Joiner:
    """Joins clusters of near rows in place."""

    parents: np.ndarray
    """(documents,) int64, the forest of `dedup/unions.py`."""
    radius: int
    detail_radius: int
    need: int

    def distinct(self, rows: np.ndarray) -> np.ndarray:
        """Join rows with equal hashes and details, and return one row of each group."""
        if not len(rows):
            return rows
        words = np.ascontiguousarray(rows["words"])
        keys = words.reshape(len(rows), -1).view(f"V{words[0].nbytes}").ravel()
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        _unite_all(self.parents, np.ascontiguousarray(rows["place"]), rows["place"][first][group])
        return rows[first]

    def join(self, rows: np.ndarray, others: np.ndarray, frame: int, piece: int) -> None:
        """Join each of `rows` with each of `others` that is near and differs from it in few bits of that piece."""
        if not (len(rows) and len(others)):
            return
        same = rows is others
        places, hashes, details = _columns(rows)
        other_places, other_hashes, other_details = (places, hashes, details) if same else _columns(others)
        order, starts = table(other_hashes[:, frame], piece)
        queries = order if same else table(hashes[:, frame], piece)[0]
        _join(
            self.parents, queries, places, hashes, details, other_places, other_hashes, other_details, same, frame,
            piece, order, starts, patterns(self.radius), self.radius, self.detail_radius, self.need,
        )  # fmt: skip


def _columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places, hashes and details of rows as contiguous arrays."""
    words = rows["words"]
    return tuple(map(np.ascontiguousarray, (rows["place"], words[..., 0], words[..., 1:])))  # type: ignore[return-value]


def nearest(
    hashes: np.ndarray,
    details: np.ndarray,
    other_hashes: np.ndarray,
    other_details: np.ndarray,
    radius: int,
    detail_radius: int,
) -> np.ndarray:
    """Return (n,) int64: index in `other_hashes` of the hash that is nearest by detail, -1 if none is near.

    Of equally near ones the first is taken.

    Args:
        hashes, details: (n,) and (n, 4) uint64.
        other_hashes, other_details: (m,) and (m, 4) uint64.
        radius: most bits of 64 in which near hashes differ.
        detail_radius: most bits of 256 in which their details differ.
    """
    best = np.full(len(hashes), -1, np.int64)
    best_bits = np.full(len(hashes), 257, np.int64)
    flips = patterns(radius)
    one_frame = (hashes.reshape(-1, 1), details.reshape(-1, 1, 4))
    other_frame = (other_hashes.reshape(-1, 1), other_details.reshape(-1, 1, 4))
    for piece in range(PIECES):
        order, starts = table(other_hashes, piece)
        _look_up(best, best_bits, *one_frame, *other_frame, piece, order, starts, flips, radius, detail_radius)
    return best


@compiled(types.uint64, returns=types.int64)
def _count(bits):
    """Count the bits that are set (Warren 2002, "Hacker's Delight", section 5-1)."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(_HASHES, _DETAILS, types.int64, _HASHES, _DETAILS, types.int64, types.int64, types.int64, returns=types.int64)
def _distance(hashes, details, row, other_hashes, other_details, other, frame, radius):
    """Bits in which two details differ at one frame; -1 if a hash is 0 or the hashes differ in more than `radius`."""
    a, b = hashes[row, frame], other_hashes[other, frame]
    if a == 0 or b == 0 or _count(a ^ b) > radius:
        return -1
    bits = 0
    for word in range(4):
        bits += _count(details[row, frame, word] ^ other_details[other, frame, word])
    return bits


@compiled(_PLACES, _PLACES, _PLACES)
def _unite_all(parents, places, other_places):
    for k in range(len(places)):
        unite(parents, places[k], other_places[k])


@compiled(
    _PLACES,
    _PLACES,
    _PLACES,
    _HASHES,
    _DETAILS,
    _PLACES,
    _HASHES,
    _DETAILS,
    types.boolean,
    types.int64,
    types.int64,
    _PLACES,
    _PLACES,
    _PATTERNS,
    types.int64,
    types.int64,
    types.int64,
)
def _join(
    parents, queries, places, hashes, details, other_places, other_hashes, other_details, same, frame, piece, order,
    starts, flips, radius, detail_radius, need
):  # fmt: skip
    """Join the rows of `queries` with the near rows of `order`. Both are in the order of the piece, so that rows that
    are compared one after the other are close in memory."""
    shift = np.uint64(16 * piece)
    for row in queries:
        value = (hashes[row, frame] >> shift) & np.uint64(0xFFFF)
        for pattern in flips:
            near = np.int64(value ^ pattern)
            for at in range(starts[near], starts[near + 1]):
                other = order[at]
                if same and other <= row:
                    continue
                bits = _distance(hashes, details, row, other_hashes, other_details, other, frame, radius)
                if bits < 0 or bits > detail_radius:
                    continue
                common = 0
                for k in range(hashes.shape[1]):
                    bits = _distance(hashes, details, row, other_hashes, other_details, other, k, radius)
                    if bits >= 0 and bits <= detail_radius:
                        common += 1
                if common >= need:
                    unite(parents, places[row], other_places[other])


@compiled(
    _PLACES,
    _PLACES,
    _HASHES,
    _DETAILS,
    _HASHES,
    _DETAILS,
    types.int64,
    _PLACES,
    _PLACES,
    _PATTERNS,
    types.int64,
    types.int64,
)
def _look_up(
    best, best_bits, hashes, details, other_hashes, other_details, piece, order, starts, flips, radius, detail_radius
):
    """Replace `best` and `best_bits` of each row by the nearest other hash that one piece finds, if it is nearer."""
    shift = np.uint64(16 * piece)
    for row in range(len(hashes)):
        if hashes[row, 0] == 0:
            continue
        value = (hashes[row, 0] >> shift) & np.uint64(0xFFFF)
        for pattern in flips:
            near = np.int64(value ^ pattern)
            for at in range(starts[near], starts[near + 1]):
                other = order[at]
                bits = _distance(hashes, details, row, other_hashes, other_details, other, 0, radius)
                if bits < 0 or bits > detail_radius:
                    continue
                if bits < best_bits[row] or bits == best_bits[row] and other < best[row]:
                    best_bits[row], best[row] = bits, other
