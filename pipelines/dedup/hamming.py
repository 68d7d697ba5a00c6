"""Which hashes differ in few bits, and clusters of those: multi-index hashing (Norouzi, Punjani and Fleet 2012).

A hash of 64 bits is cut into 4 pieces. Where two hashes differ in at most r bits, two of their pieces at the same place
differ in at most r // 4: so whoever looks up every piece, with up to r // 4 of its bits turned over, finds all that is
near. What is found is compared whole, hash and `detail` (`visual.py`).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numba import types

from manifests.compiled import compiled
from pipelines.dedup.unions import flatten, unite

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


def clusters(hashes: np.ndarray, details: np.ndarray, radius: int, detail_radius: int, need: int) -> np.ndarray:
    """(n,) int64: the smallest place of each one's cluster. Clusters are transitive.

    Args:
        hashes: (n, k) uint64, one picture or the k key frames of a video; 0 is near to nothing.
        details: (n, k, 4) uint64.
        need: of the k frames, how many must be near at the same place.
    """
    count = len(hashes)
    parents = np.arange(count, dtype=np.int64)
    if not count:
        return parents
    rows = np.concatenate([hashes, details.reshape(count, -1)], axis=1)
    alike = np.ascontiguousarray(rows).view(f"V{8 * rows.shape[1]}").ravel()
    _, first, group = np.unique(alike, return_index=True, return_inverse=True)
    few, fine = np.ascontiguousarray(hashes[first]), np.ascontiguousarray(details[first])
    joined = np.arange(len(first), dtype=np.int64)
    turned = patterns(radius)
    for frame in range(hashes.shape[1]):
        for piece in range(PIECES):
            order, starts = table(few[:, frame], piece)
            _join(joined, few, fine, frame, piece, order, starts, turned, radius, detail_radius, need)
    flatten(joined)
    cluster = joined[group]
    empty = (hashes != 0).sum(axis=1) < need
    smallest = np.full(len(first), count, np.int64)
    np.minimum.at(smallest, cluster, np.arange(count))
    return np.where(empty, parents, smallest[cluster])


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


@compiled(
    _PLACES,
    _HASHES,
    _DETAILS,
    types.int64,
    types.int64,
    _PLACES,
    _PLACES,
    _PATTERNS,
    types.int64,
    types.int64,
    types.int64,
)
def _join(parents, hashes, details, frame, piece, order, starts, turned, radius, detail_radius, need):
    """Join the places that are near, of those that have a piece nearly in common."""
    shift = np.uint64(16 * piece)
    for one in order:
        value = (hashes[one, frame] >> shift) & np.uint64(0xFFFF)
        for pattern in turned:
            near = np.int64(value ^ pattern)
            for at in range(starts[near], starts[near + 1]):
                other = order[at]
                if other <= one:
                    continue
                apart = _apart(hashes, details, one, hashes, details, other, frame, radius)
                if apart < 0 or apart > detail_radius:
                    continue
                common = 0
                for k in range(hashes.shape[1]):
                    apart = _apart(hashes, details, one, hashes, details, other, k, radius)
                    if apart >= 0 and apart <= detail_radius:
                        common += 1
                if common < need:
                    continue
                unite(parents, one, other)


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
