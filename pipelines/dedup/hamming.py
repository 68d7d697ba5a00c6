"""Which hashes differ in few bits, and clusters of those: multi-index hashing (Norouzi, Punjani and Fleet 2012).

A hash of 64 bits is cut into 4 pieces. Where two hashes differ in at most r bits, two of their pieces at the same place
differ in at most r // 4: so whoever looks up every piece, with up to r // 4 of its bits turned over, finds all that is
near. What is found is compared whole, hash and `detail` (`dedup/image_hash.py`).
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
"""Largest radius: a piece is looked up with 697 patterns."""

_HASHES = types.Array(types.uint64, 2, "C")
_DETAILS = types.Array(types.uint64, 3, "C")
_PATTERNS = types.Array(types.uint64, 1, "C")
_PLACES = types.Array(types.int64, 1, "C")


def patterns(radius: int) -> np.ndarray:
    """Bits of a piece to turn over: every set of at most radius // 4 of them, the empty one first."""
    bits = [1 << bit for bit in range(PIECE_BITS)]
    sets = (some for size in range(radius // PIECES + 1) for some in combinations(bits, size))
    return np.array([sum(some) for some in sets], np.uint64)


def table(hashes: np.ndarray, piece: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) places ordered by that piece of their hash, and (65537,) where the places of each value begin.

    Hashes that are 0 are in no list.
    """
    values = (hashes >> np.uint64(piece * PIECE_BITS)) & np.uint64(0xFFFF)
    order = np.argsort(values, kind="stable")
    order = order[hashes[order] != 0]
    starts = np.searchsorted(values[order], np.arange(2**PIECE_BITS + 1, dtype=np.uint64))
    return np.ascontiguousarray(order, np.int64), starts.astype(np.int64)


Read = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Gives, some documents at a time and in order, (n,) places, (n, k) hashes and (n, k, 4) details, uint64: of one
picture or the k key frames of a video. A hash that is 0 is near to nothing."""


def clusters(
    read: Read, total: int, frames: int, radius: int, detail_radius: int, need: int, memory_bytes: int
) -> np.ndarray:
    """(total,) int64: the smallest place of each one's cluster. Clusters are transitive.

    Args:
        read: is called once where all fits, else once for each piece of each frame.
        need: of the frames, how many must be near at the same place.
        memory_bytes: bounds what is compared together; the rest lies in scratch files. What can't be bounded is 8 bytes
            a document.
    """
    parents = np.arange(total, dtype=np.int64)
    kind = np.dtype([("place", np.int64), ("words", np.uint64, (frames, 1 + WORDS))])
    few = _Joined(parents, radius, detail_radius, need)
    bits = min(MOST_BITS_APART, max(0, (COPIES * total * kind.itemsize // max(1, memory_bytes)).bit_length()))
    looks = [(frame, piece) for frame in range(frames) for piece in range(PIECES)]
    if not bits:
        some = few.distinct(np.concatenate([np.zeros(0, kind), *_rows(read, kind, need)]))
        for frame, piece in looks:
            few.join(some, some, frame, piece)
    else:
        with Scratch(memory_bytes // 2) as scratch:
            for frame, piece in looks:
                _join_in_parts(few, read, scratch, kind, need, frame, piece, bits)
    flatten(parents)
    return parents


COPIES = 16
"""Of all rows, in what is held while two partitions are compared and others wait for their turn."""
MOST_BITS_APART = 12
"""That tell partitions apart."""


def _rows(read: Read, kind: np.dtype[Any], need: int) -> Iterator[np.ndarray]:
    """Those that could be near to another."""
    for places, hashes, details in read():
        seen = (hashes != 0).sum(axis=1) >= need
        rows = np.empty(int(seen.sum()), kind)
        rows["place"] = places[seen]
        rows["words"][..., 0], rows["words"][..., 1:] = hashes[seen], details[seen]
        yield rows


def _join_in_parts(
    few: _Joined, read: Read, scratch: Scratch, kind: np.dtype[Any], need: int, frame: int, piece: int, bits: int
) -> None:
    """Partitions are the first `bits` of a piece: only those that differ in few bits hold what is near."""
    dealt = Partitions(scratch, f"{frame}-{piece}", 1 << bits, kind)
    for rows in _rows(read, kind, need):
        rows = rows[rows["words"][:, frame, 0] != 0]
        first = rows["words"][:, frame, 0] >> np.uint64(piece * PIECE_BITS + PIECE_BITS - bits)
        dealt.add(rows, (first & np.uint64((1 << bits) - 1)).astype(np.int64))
    for one in range(1 << bits):
        some = few.distinct(dealt.read(one))
        few.join(some, some, frame, piece)
        for turned in _turned(bits, few.radius // PIECES):
            if (other := one ^ turned) > one:
                few.join(some, few.distinct(dealt.read(other)), frame, piece)
    dealt.close()


def _turned(bits: int, most: int) -> list[int]:
    return [number for number in range(1, 1 << bits) if number.bit_count() <= most]


@dataclass(frozen=True)
class _Joined:
    """The clusters so far, and what joins them."""

    parents: np.ndarray
    radius: int
    detail_radius: int
    need: int

    def distinct(self, rows: np.ndarray) -> np.ndarray:
        """One of each sort of equal rows, which are one cluster already."""
        if not len(rows):
            return rows
        words = np.ascontiguousarray(rows["words"])
        alike = words.reshape(len(rows), -1).view(f"V{words[0].nbytes}").ravel()
        _, first, group = np.unique(alike, return_index=True, return_inverse=True)
        _unite_all(self.parents, np.ascontiguousarray(rows["place"]), rows["place"][first][group])
        return rows[first]

    def join(self, some: np.ndarray, others: np.ndarray, frame: int, piece: int) -> None:
        """Those of `some` with those of `others` that are near and have that piece nearly in common."""
        if not (len(some) and len(others)):
            return
        places, hashes, details = _columns(some)
        among, other_hashes, other_details = (places, hashes, details) if some is others else _columns(others)
        order, starts = table(other_hashes[:, frame], piece)
        turns = patterns(self.radius)
        ones = order if some is others else table(hashes[:, frame], piece)[0]
        _join(
            self.parents, ones, places, hashes, details, among, other_hashes, other_details, some is others, frame,
            piece, order, starts, turns, self.radius, self.detail_radius, self.need,
        )  # fmt: skip


def _columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words = rows["words"]
    return tuple(map(np.ascontiguousarray, (rows["place"], words[..., 0], words[..., 1:])))  # type: ignore[return-value]


def nearest(
    hashes: np.ndarray, details: np.ndarray, among: np.ndarray, fine: np.ndarray, radius: int, detail_radius: int
) -> np.ndarray:
    """(n,) int64: place in `among` of what is nearest by detail, of equal ones the first; -1 for none.

    Args:
        hashes, details: (n,) and (n, 4) uint64.
        among, fine: (m,) and (m, 4) uint64.
    """
    found = np.full(len(hashes), -1, np.int64)
    best = np.full(len(hashes), 257, np.int64)
    turned = patterns(radius)
    one, other = hashes.reshape(-1, 1), among.reshape(-1, 1)
    one_fine, other_fine = details.reshape(-1, 1, 4), fine.reshape(-1, 1, 4)
    for piece in range(PIECES):
        order, starts = table(among, piece)
        _look_up(found, best, one, one_fine, other, other_fine, piece, order, starts, turned, radius, detail_radius)
    return found


@compiled(types.uint64, returns=types.int64)
def _count(bits):
    """Bits that are set, as Hacker's Delight has it (Warren 2002, section 5-1)."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(_HASHES, _DETAILS, types.int64, _HASHES, _DETAILS, types.int64, types.int64, types.int64, returns=types.int64)
def _apart(hashes, details, one, among, fine, other, frame, radius):
    """Bits in which the details differ at that frame; -1 where the hashes are further apart than `radius`."""
    a, b = hashes[one, frame], among[other, frame]
    if a == 0 or b == 0 or _count(a ^ b) > radius:
        return -1
    bits = 0
    for word in range(4):
        bits += _count(details[one, frame, word] ^ fine[other, frame, word])
    return bits


@compiled(_PLACES, _PLACES, _PLACES)
def _unite_all(parents, some, others):
    for k in range(len(some)):
        unite(parents, some[k], others[k])


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
    parents, ones, places, hashes, details, among, other_hashes, other_details, same, frame, piece, order, starts,
    turned, radius, detail_radius, need
):  # fmt: skip
    """Join the places of `ones` with those of `order` that are near, in the order of that piece: what is compared after
    each other lies side by side."""
    shift = np.uint64(16 * piece)
    for one in ones:
        value = (hashes[one, frame] >> shift) & np.uint64(0xFFFF)
        for pattern in turned:
            near = np.int64(value ^ pattern)
            for at in range(starts[near], starts[near + 1]):
                other = order[at]
                if same and other <= one:
                    continue
                apart = _apart(hashes, details, one, other_hashes, other_details, other, frame, radius)
                if apart < 0 or apart > detail_radius:
                    continue
                common = 0
                for k in range(hashes.shape[1]):
                    apart = _apart(hashes, details, one, other_hashes, other_details, other, k, radius)
                    if apart >= 0 and apart <= detail_radius:
                        common += 1
                if common >= need:
                    unite(parents, places[one], among[other])


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
def _look_up(found, best, hashes, details, among, fine, piece, order, starts, turned, radius, detail_radius):
    shift = np.uint64(16 * piece)
    for one in range(len(hashes)):
        if hashes[one, 0] == 0:
            continue
        value = (hashes[one, 0] >> shift) & np.uint64(0xFFFF)
        for pattern in turned:
            near = np.int64(value ^ pattern)
            for at in range(starts[near], starts[near + 1]):
                other = order[at]
                apart = _apart(hashes, details, one, among, fine, other, 0, radius)
                if apart < 0 or apart > detail_radius:
                    continue
                if apart < best[one] or apart == best[one] and other < found[one]:
                    best[one], found[one] = apart, other
