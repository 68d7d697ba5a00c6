"""The slow, obvious versions of what this room does cleverly. For tests and benchmarks only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np

from manifests.geometry import PATCH_PX
from packing.sequence import HEAVY, LOOKS


def fill_limited(costs: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """`sequence.fill_limited` by looking at all pieces and all pairs of them; limits of at most `sequence.STEPS`."""
    if not costs:
        return []
    totals = [sum(cost[limit] for cost in costs) for limit in range(len(limits))]
    bound = max(-(-total // most) for total, most in zip(totals, limits, strict=True))
    attempts = [_attempt(costs, limits, heavy, bound) for heavy in (HEAVY if len(limits) > 1 else HEAVY[:1])]
    return next((packs for packs in attempts if len(packs) == bound), min(attempts, key=len))


def _attempt(costs: Sequence[Sequence[int]], limits: Sequence[int], heavy: float, bound: int) -> list[list[int]]:
    everything = range(len(costs))
    part = [[cost / most for cost, most in zip(costs[i], limits, strict=True)] for i in everything]
    needed = [sum(costs[i][limit] for i in everything) / most for limit, most in enumerate(limits)]
    binding = needed.index(max(needed))
    size = [max(1, cost[binding]) for cost in costs]

    def fits(pack: Sequence[int], *pieces: int) -> bool:
        return all(sum(costs[i][k] for i in [*pack, *pieces]) <= most for k, most in enumerate(limits))

    packs: list[list[int]] = [[] for _ in range(bound)]
    spread = [i for i in everything if max(part[i]) > heavy * part[i][binding] or part[i][binding] > 0.5]
    for piece in sorted(spread if len(limits) > 1 else [], key=lambda i: (-max(part[i]), i)):
        limit = part[piece].index(max(part[piece]))
        fitting = [pack for pack in packs if fits(pack, piece)]
        if not fitting:
            packs.append([])
            fitting = packs[-1:]
        min(fitting, key=lambda pack: sum(costs[i][limit] for i in pack)).append(piece)
    packs = [sorted(pack) for pack in packs]
    left = sorted(set(everything) - {i for pack in packs for i in pack}, key=lambda i: (-size[i], i))
    number = 0
    while left:
        if number == len(packs):
            packs.append([])
        pack = packs[number]
        number += 1
        room = limits[binding] - sum(size[i] for i in pack)
        while room > 0 and left:
            firsts = [left[i] for i in range(len(left)) if not i or size[left[i]] < size[left[i - 1]]]
            looked = [i for i in firsts if size[i] <= room][:LOOKS]
            chosen = [i for i in looked if fits(pack, i)][:1]
            if not chosen:
                break
            if size[chosen[0]] < room:
                pairs = [(i, j) for i in firsts for j in firsts if size[i] > size[j] and size[i] + size[j] == room]
                halves = [i for i in left if 2 * size[i] == room]
                pairs += [(halves[0], halves[1])] if len(halves) > 1 else []
                pairs.sort(key=lambda pair: size[pair[0]] - size[pair[1]])
                chosen = next((list(pair) for pair in pairs[:LOOKS] if fits(pack, *pair)), chosen)
            for piece in chosen:
                left.remove(piece)
            pack += chosen
            room -= sum(size[i] for i in chosen)
    return [pack for pack in packs if pack]


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """What `sequence.fill_packs` is measured against: each piece, longest first, into the fullest pack with room."""
    packs: list[list[int]] = []
    room: list[int] = []
    for piece in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [(left, pack) for pack, left in enumerate(room) if left >= lengths[piece]]
        if fits:
            _, pack = min(fits)
        else:
            pack = len(packs)
            packs.append([])
            room.append(capacity)
        packs[pack].append(piece)
        room[pack] -= lengths[piece]
    return packs


def cut_patches(frames: Sequence[np.ndarray], rows: int, cols: int) -> list[np.ndarray]:
    """`navit.cut_patches` one patch at a time: each (3, 14, 14) uint8."""
    patches = []
    for frame in frames:
        height, width, _ = frame.shape
        for row in range(rows):
            for col in range(cols):
                patch = np.zeros((3, PATCH_PX, PATCH_PX), np.uint8)
                for y in range(PATCH_PX):
                    for x in range(PATCH_PX):
                        if row * PATCH_PX + y < height and col * PATCH_PX + x < width:
                            patch[:, y, x] = frame[row * PATCH_PX + y, col * PATCH_PX + x]
                patches.append(patch)
    return patches


def smallest_number_of_packs(lengths: Sequence[int], capacity: int) -> int:
    """The best any packing can do, by trying all; for a handful of pieces."""
    best = len(lengths)

    def place(piece: int, room: list[int]) -> None:
        nonlocal best
        if len(room) >= best:
            return
        if piece == len(lengths):
            best = len(room)
            return
        for pack in range(len(room)):
            if room[pack] >= lengths[piece]:
                room[pack] -= lengths[piece]
                place(piece + 1, room)
                room[pack] += lengths[piece]
        place(piece + 1, [*room, capacity - lengths[piece]])

    place(0, [])
    return best


def busiest_of_the_best_deal(costs: Sequence[int], ranks: int, most: int) -> int:
    """The load of the busiest rank in the best of all deals with at most `most` pieces a rank; for a handful."""
    best = sum(costs)
    for owners in product(range(ranks), repeat=len(costs)):
        if max(Counter(owners).values(), default=0) <= most:
            loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == r) for r in range(ranks)]
            best = min(best, max(loads))
    return best
