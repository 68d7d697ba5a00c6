"""Compiled loops of sequence packing: spread heavy pieces (`spread`), then fill packs one after the other (`fill`).

`fill.py` describes the method and calls both; `packing/reference.py` is the slow version that `test_fill.py` compares
with. Pieces without a pack are kept by size. The sizes present form a bit set, stored once in order and once mirrored,
so that one operation looks at 64 sizes for a pair that fills the room exactly.
"""

from __future__ import annotations

import numpy as np
from numba import types

from manifests.jit import compiled

INT = types.int64
INTS = types.Array(types.int64, 1, "C")
INTS_2D = types.Array(types.int64, 2, "C")
BITS = types.Array(types.uint64, 1, "C")
ALL = np.uint64(2**64 - 1)
ONE = np.uint64(1)


@compiled(types.uint64, returns=INT)
def _lowest(bits):
    """Index of the lowest bit that is set."""
    place = 0
    for width in (32, 16, 8, 4, 2, 1):
        if not bits & ((ONE << np.uint64(width)) - ONE):
            bits >>= np.uint64(width)
            place += width
    return place


@compiled(types.uint64, returns=INT)
def _highest(bits):
    """Index of the highest bit that is set."""
    place = 0
    for width in (32, 16, 8, 4, 2, 1):
        if bits >> np.uint64(width):
            bits >>= np.uint64(width)
            place += width
    return place


@compiled(INTS_2D, INT, INT, INTS, INTS, returns=types.boolean)
def _fit(costs, piece, other, used, limits):
    """Whether `piece` fits into a pack that holds `used`, together with `other` unless that is -1."""
    for limit in range(len(limits)):
        both = costs[piece, limit] + (costs[other, limit] if other >= 0 else 0)
        if used[limit] + both > limits[limit]:
            return False
    return True


@compiled(INTS_2D, INT, INT, INTS_2D, INTS)
def _place(costs, piece, pack, used, pack_of):
    """Put `piece` into `pack`."""
    pack_of[piece] = pack
    for limit in range(costs.shape[1]):
        used[pack, limit] += costs[piece, limit]


@compiled(INTS_2D, INTS, INTS, INTS, INT, INTS_2D, INTS)
def spread(costs, limits, pieces, heaviest, packs, used, pack_of):
    """Put each of `pieces` into the pack with least use of the limit that it is heaviest in, among those that it fits.

    Args:
        costs: (N, D) of all pieces; limits: (D,).
        pieces: (H,) in this order; heaviest: (H,) the limit of each.
        packs: number of open packs; one more is opened for a piece that fits none of them.
        used: (N, D) of each pack; pack_of: (N,). Both are filled in.
    """
    for number in range(len(pieces)):
        piece, limit = pieces[number], heaviest[number]
        best = -1
        for pack in range(packs):
            if (best < 0 or used[pack, limit] < used[best, limit]) and _fit(costs, piece, -1, used[pack], limits):
                best = pack
        if best < 0:
            best = packs
            packs += 1
        _place(costs, piece, best, used, pack_of)


@compiled(BITS, INT, returns=INT)
def _at_most(present, size):
    """Largest size present up to `size`, 0 if there is none."""
    word = size >> 6
    bits = present[word] & (ALL >> np.uint64(63 - (size & 63)))
    while not bits and word:
        word -= 1
        bits = present[word]
    return word * 64 + _highest(bits) if bits else 0


@compiled(BITS, BITS, INT, INT, INT, returns=INT)
def _longer_of_pair(present, mirrored, capacity, room, least):
    """Smallest size from `least` on that is present together with the size that it leaves of `room`; 0 if none is."""
    word = least >> 6
    wanted = ALL << np.uint64(least & 63)
    while word * 64 < room:
        bits = present[word] & wanted
        if bits:
            low = word * 64 + capacity - room  # bit capacity - s is size s: s leaves bit s + capacity - room
            others = mirrored[low >> 6] >> np.uint64(low & 63)
            if low & 63:
                others |= mirrored[(low >> 6) + 1] << np.uint64(64 - (low & 63))
            bits &= others
            if bits:
                return word * 64 + _lowest(bits)
        wanted = ALL
        word += 1
    return 0


@compiled(INTS_2D, INTS, INTS, INTS, BITS, INT, INT, INTS, returns=INT)
def _longest(costs, limits, order, after, present, room, looks, used):
    """Largest size up to `room` of which a piece keeps the limits, 0 if none of `looks` sizes does."""
    size = _at_most(present, room)
    while size and looks:
        if _fit(costs, order[after[size] - 1], -1, used, limits):
            return size
        looks -= 1
        size = _at_most(present, size - 1)
    return 0


@compiled(INTS_2D, INTS, INTS, INTS, INTS, BITS, BITS, INT, INT, INT, INTS, returns=INT)
def _pair(costs, limits, order, first, after, present, mirrored, capacity, room, looks, used):
    """Longer one of the two most equal sizes that fill `room` and whose pieces keep the limits; 0 if there is no
    pair."""
    longer = _longer_of_pair(present, mirrored, capacity, room, (room + 1) // 2)
    while longer and looks:
        shorter = room - longer
        if longer != shorter or after[longer] - first[longer] > 1:
            other = order[after[shorter] - (1 if longer != shorter else 2)]
            if _fit(costs, order[after[longer] - 1], other, used, limits):
                return longer
            looks -= 1
        longer = _longer_of_pair(present, mirrored, capacity, room, longer + 1)
    return 0


@compiled(INTS_2D, INTS, INTS, INTS, INTS, INT, INT, INTS_2D, INTS, INTS)
def fill(costs, limits, sizes, order, rooms, capacity, looks, used, pack_of, turn):
    """Fill packs one after the other, until every piece of `order` has one.

    Args:
        costs: (N, D) of all pieces; limits: (D,).
        sizes: (N,) cost of each piece in the binding limit, in steps of `capacity`; at least 1 for those of `order`.
        order: (M,) pieces ascending by size, of equal size the first given last.
        rooms: (N,) steps left in each possible pack.
        capacity: steps of an empty pack.
        looks: sizes, and pairs of sizes, tested per placement.
        used: (N, D) of each pack; pack_of: (N,); turn: (N,), number of pieces of `order` placed before. All are filled
            in.
    """
    first = np.zeros(capacity + 2, np.int64)  # by size, index of its first piece in `order`
    for piece in order:
        first[sizes[piece] + 1] += 1
    first = np.cumsum(first)
    after = first[1:].copy()  # by size, index after its last piece that is left
    present, mirrored = np.zeros(capacity // 64 + 2, np.uint64), np.zeros(capacity // 64 + 2, np.uint64)
    for size in sizes[order]:
        present[size >> 6] |= ONE << np.uint64(size & 63)
        mirrored[(capacity - size) >> 6] |= ONE << np.uint64((capacity - size) & 63)
    placed = 0
    for pack in range(len(rooms)):
        room = rooms[pack]
        while room > 0 and placed < len(order):
            longer, shorter = _longest(costs, limits, order, after, present, room, looks, used[pack]), 0
            if not longer:
                break
            if longer < room:
                half = _pair(costs, limits, order, first, after, present, mirrored, capacity, room, looks, used[pack])
                if half:
                    longer, shorter = half, room - half
            for size in (longer, shorter):
                if size:
                    after[size] -= 1
                    piece = order[after[size]]
                    if after[size] == first[size]:
                        present[size >> 6] ^= ONE << np.uint64(size & 63)
                        mirrored[(capacity - size) >> 6] ^= ONE << np.uint64((capacity - size) & 63)
                    _place(costs, piece, pack, used, pack_of)
                    turn[piece] = placed
                    placed += 1
                    room -= size
