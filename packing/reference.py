"""Reference implementations: slow, obvious versions of this room's algorithms, for tests and benchmarks only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import numpy as np

from manifests.geometry import PATCH_PX
from manifests.schedule import MILLION
from packing.mixture import Mixture
from packing.plan.fill import LOOKS, SPREAD
from packing.plan.legs import legs_of
from packing.plan.order import WEIGHT_PARTS, permutation
from packing.plan.pieces import SourcePieces


def fill_limited(costs: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """`plan.fill.fill_limited` by trying all pieces and all pairs; for limits of at most `plan.fill.STEPS`."""
    if not costs:
        return []
    totals = [sum(cost[limit] for cost in costs) for limit in range(len(limits))]
    bound = max(-(-total // most) for total, most in zip(totals, limits, strict=True))
    ways = SPREAD if len(limits) > 1 else SPREAD[:1]
    attempts = [_attempt(costs, limits, heavy, half, bound) for heavy, half in ways]
    return next((packs for packs in attempts if len(packs) == bound), min(attempts, key=len))


def _attempt(
    costs: Sequence[Sequence[int]], limits: Sequence[int], heavy: float, half: float, bound: int
) -> list[list[int]]:
    everything = range(len(costs))
    part = [[cost / most for cost, most in zip(costs[i], limits, strict=True)] for i in everything]
    needed = [sum(costs[i][limit] for i in everything) / most for limit, most in enumerate(limits)]
    binding = needed.index(max(needed))
    size = [max(1, cost[binding]) for cost in costs]

    def fits(pack: Sequence[int], *pieces: int) -> bool:
        return all(sum(costs[i][k] for i in [*pack, *pieces]) <= most for k, most in enumerate(limits))

    packs: list[list[int]] = [[] for _ in range(bound)]
    spread = [i for i in everything if max(part[i]) > heavy * part[i][binding] or part[i][binding] > half]
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
    """Best-fit decreasing: each piece, longest first, into the fullest pack with room. Baseline of `plan.fill`."""
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
    """Cut patches as `navit.cut_patches` does, pixel by pixel; returns patches of (3, 14, 14) uint8."""
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
    """Fewest packs of any packing, by trying all; for a handful of pieces."""
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


def best_busiest_load(costs: Sequence[int], ranks: int, most: int) -> int:
    """Return the load of the busiest rank in the best deal with at most `most` pieces per rank.

    It tries every deal, so it is for a handful of pieces.
    """
    best = sum(costs)
    for owners in product(range(ranks), repeat=len(costs)):
        if max(Counter(owners).values(), default=0) <= most:
            loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == r) for r in range(ranks)]
            best = min(best, max(loads))
    return best


def order(mixture: Mixture, sources: Sequence[SourcePieces], goal: int) -> tuple[list[tuple[int, ...]], bool | None]:
    """`plan.order.Order` piece by piece, in fractions; returns (rows of `COLUMNS`, the side that ran out or None)."""
    curve = mixture.curve
    legs = legs_of(curve, mixture.max_pack_tokens)
    bound = curve.highest * mixture.max_pack_tokens
    uses = [[0] * len(pieces.length) for pieces in sources]
    drawn: list[tuple[int, ...]] = []
    tokens = slots = 0
    for leg, after in zip(legs, [*legs[1:], None], strict=True):
        sides = {rich: _Side(mixture, sources, uses, leg.threshold, rich) for rich in (False, True)}
        while after is None or tokens < after.start:
            if tokens >= goal:
                return drawn, None
            before = slots - curve.slots_until(tokens)
            wanted = before < 0 and leg.vision
            may_end = after is not None and tokens >= leg.early_from
            chosen = None
            for rich in (wanted, not wanted):
                if rich and not leg.vision or (head := sides[rich].head) is None:
                    continue
                index, piece, epoch = head
                length, held = int(sources[index].length[piece]), int(sources[index].slots[piece])
                error = slots + held - curve.slots_until(tokens + length)
                fits = abs(error) <= bound
                if rich == wanted and not fits:  # compared as the compiled loop does, in whole half-millionths
                    fits = _down(error) >= _down(before) if before < 0 else -_down(-error) <= -_down(-before)
                if fits:
                    chosen = (index, piece, epoch, rich, length, held)
                if fits or rich == wanted and may_end:
                    break
            if chosen is None:
                if may_end:
                    break
                return drawn, wanted
            index, piece, epoch, rich, length, held = chosen
            place = (int(sources[index].ordinal[piece]), int(sources[index].start[piece]))
            drawn.append((index, *place, length, held, epoch))
            tokens, slots = tokens + length, slots + held
            uses[index][piece] += 1
            sides[rich].take(length)
    raise AssertionError("the last leg has no end")


def _down(error: Fraction) -> int:
    """Round an error down to half-millionths of a slot."""
    return math.floor(error * 2 * MILLION)


class _Side:
    """All rich or all poor pieces left at the start of a leg, with the credits of sources and groups."""

    def __init__(
        self, mixture: Mixture, sources: Sequence[SourcePieces], uses: list[list[int]], threshold: int, rich: bool
    ) -> None:
        self._group = mixture.groups_of_sources
        self._waiting: list[list[tuple[int, int]]] = []
        exact = []
        for index, (source, pieces) in enumerate(zip(mixture.sources, sources, strict=True)):
            sizes = list(zip(pieces.length.tolist(), pieces.slots.tolist(), strict=True))
            mine = {p for p, (length, slots) in enumerate(sizes) if (slots * MILLION > length * threshold) == rich}
            tokens = sum(sizes[piece][0] for piece in mine)
            exact.append(mixture.weights[index] * Fraction(tokens, sum(length for length, _ in sizes)))
            self._waiting.append(
                [
                    (epoch, piece)
                    for epoch in range(source.max_epochs)
                    for piece in permutation(mixture.seed, epoch, source.name, pieces.keys).tolist()
                    if piece in mine and uses[index][piece] <= epoch
                ]
            )
        self._weights = [max(1, round(weight / sum(exact) * WEIGHT_PARTS)) if weight else 0 for weight in exact]
        self._of_group = Counter[str]()
        for group, weight in zip(self._group, self._weights, strict=True):
            self._of_group[group] += weight
        self._credit, self._group_credit = [0] * len(sources), Counter[str]()
        self._index = 0

    @property
    def _open(self) -> list[int]:
        return [index for index, waiting in enumerate(self._waiting) if waiting]

    @property
    def head(self) -> tuple[int, int, int] | None:
        """(source, piece, epoch) of the next piece; None if none is left."""
        if not self._open:
            return None
        groups = dict.fromkeys(group for i, group in enumerate(self._group) if i in self._open)
        in_order = [group for group in dict.fromkeys(self._group) if group in groups]
        group = max(in_order, key=lambda name: self._group_credit[name])
        self._index = max((i for i in self._open if self._group[i] == group), key=lambda i: self._credit[i])
        epoch, piece = self._waiting[self._index][0]
        return self._index, piece, epoch

    def take(self, length: int) -> None:
        """Draw the piece that `head` returned, of this length."""
        mine = self._group[self._index]
        open_groups = {self._group[i] for i in self._open}
        for group in open_groups:
            self._group_credit[group] += length * self._of_group[group]
        self._group_credit[mine] -= length * sum(self._of_group[group] for group in open_groups)
        same_group = [i for i in self._open if self._group[i] == mine]
        for i in same_group:
            self._credit[i] += length * self._weights[i]
        self._credit[self._index] -= length * sum(self._weights[i] for i in same_group)
        self._waiting[self._index].pop(0)
        if not self._waiting[self._index]:
            for i in same_group:
                self._credit[i] = 0
            if mine not in {self._group[i] for i in self._open}:
                self._group_credit.clear()
